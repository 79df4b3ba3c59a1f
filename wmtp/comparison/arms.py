"""Find runs, and put those together that differ by their seed alone.

[연구 맥락] 사람이 적은 이름은 믿지 않는다. 무엇이 달랐는지는 실행 폴더의 config.yaml이 말한다.
[동작] 설정을 평평하게 펴고, 이름과 자리처럼 결과와 무관한 키를 뺀다. 남은 키 가운데 값이 다른 것이 조건(arm)을 가른다.
    여럿이 늘 함께 달라지면 하나만 있으면 된다: 차례로 보면서 더 잘게 나누는 키만 이름에 쓴다 (`separating_keys`).
    씨앗을 따라가는 키(`*.seed`, 씨앗마다 다른 바탕 모델)는 조건이 아니라 씨앗의 일부다.
[디버깅] 한 조건이어야 할 것이 둘로 나뉘면 compare.json의 `arms[].settings`를 본다.
"""

import glob
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmtp.errors import ConfigError
from wmtp.reporting.reading import RunResults, flatten, read_run

# What names a run, says where it lies, or was found out: no cause of its results.
_NO_CAUSE = (
    "name", "run_dir", "runs", "ckpt", "lang", "mlflow_experiment", "mlflow_run_name", "logger", "used", "made_of",
    "content", "command", "recovery", "eval", "dry_run", "profile_memory", "storage", "sandbox", "seed", "experiment",
)  # fmt: skip
# Whatever else differs along with these is not part of a name.
_TELLING = (
    "algo._target_", "algo.score", "algo.weighting.control", "algo.weighting._target_", "model.heads",
    "algo.weighting.lam", "algo.weighting.temperature", "algo.weighting.percentile", "data.noise", "model.path",
)  # fmt: skip
ABSENT = None  # a key that an arm has not, and one that it has set to null, are the same here


@dataclass
class Run:
    """Hold one run: what it was set to, and what it left."""

    folder: Path
    results: RunResults
    settings: dict[str, str]  # flat; values as JSON, so that they compare and hash

    @property
    def seed(self) -> int:
        """Return the run's seed; 0 where its config has none."""
        seed = self.results.config.get("seed")
        return seed if isinstance(seed, int) else 0


@dataclass
class Arm:
    """Hold the runs that differ by their seed alone.

    Attributes:
        settings: 조건을 가르는 키와 이 조건의 값.
        runs: 씨앗 → 그 씨앗의 실행들 (보통 하나).
    """

    name: str
    settings: dict[str, Any]
    runs: dict[int, list[Run]] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Say whether every token weighs 1."""
        return self._of("algo._target_", "").endswith(".Baseline") or self._of("algo.weighting.lam", 1) == 0

    @property
    def is_control(self) -> bool:
        """Say whether its weights are there to show that it is not weights of any kind that help."""
        return self._of("algo.weighting.control", "none") not in ("none", ABSENT)

    def _of(self, key: str, otherwise: Any) -> Any:
        flat = flatten(next(iter(self.runs.values()))[0].results.config)
        return flat.get(key, otherwise)


def find_runs(places: Iterable[str]) -> list[Run]:
    """Read the runs at and below the places that a user names: folders, or patterns that the shell left alone.

    Raises:
        ConfigError: 그런 곳이 없거나, 거기 실행이 없을 때.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = sorted(map(Path, glob.glob(str(Path(place).expanduser())))) or [Path(place).expanduser()]
        below = {folder: None for one in found for folder in _run_directories(one)}
        if not below:
            raise ConfigError(
                f"RUN = {place}: no run is there (no config.yaml at or below it); give run directories, such as "
                "runs/rho1-42 runs/baseline-42, or the folder that they lie in."
            )
        folders |= {folder.resolve(): None for folder in below}
    return [_read(folder) for folder in folders]


def _run_directories(place: Path) -> Iterator[Path]:
    """List the run directories at and below a folder: neither what MLflow keeps of them, nor what lies within one."""
    for name, inner, files in os.walk(place):
        folder = Path(name)
        copied = folder.name == "artifacts" and re.fullmatch("[0-9a-f]{32}", folder.parent.name) and folder != place
        is_run = "config.yaml" in files and not copied
        if is_run:
            yield folder
        inner[:] = [] if is_run or copied else sorted(inner)


def _read(folder: Path) -> Run:
    results = read_run(folder)
    if not results.config:
        raise ConfigError(f"RUN = {folder}: its config.yaml cannot be read; leave this run out.")
    own = str(results.config.get("run_dir") or folder)
    flat = {
        key: value
        for key, value in flatten(results.config).items()
        if value is not ABSENT and key.split(".")[0] not in _NO_CAUSE
    }
    return Run(folder, results, {key: json.dumps(value, sort_keys=True, default=str).replace(own, "…")
                                 for key, value in flat.items()})  # fmt: skip


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """Group runs into arms, baselines first, and name each by what tells it from the others."""
    keys = separating_keys([run.settings for run in runs], [run.seed for run in runs])
    groups: dict[tuple[str | None, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[tuple(run.settings.get(key) for key in keys)].append(run)
    arms = []
    for group in groups.values():
        flat = flatten(group[0].results.config)
        settings = {key: flat.get(key, ABSENT) for key in keys}
        by_seed: dict[int, list[Run]] = defaultdict(list)
        for run in group:
            by_seed[run.seed].append(run)
        arms.append(Arm("", settings, dict(sorted(by_seed.items()))))
    usual = _usual([arm.settings for arm in arms])
    names = [name_of({k: v for k, v in arm.settings.items() if (k, v) not in usual}) for arm in arms]
    names = [
        name if names.count(name) == 1 else name_of(arm.settings, whole=True)
        for arm, name in zip(arms, names, strict=True)
    ]
    for place, (arm, name) in enumerate(zip(arms, names, strict=True)):
        # Results are kept by the name: 1 and "1" are two arms as well.
        arm.name = name if name not in names[:place] else f"{name} ({names[:place].count(name) + 1})"
    return sorted(arms, key=lambda arm: (not arm.is_baseline, arm.is_control, _natural(arm)))


def _usual(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """List what most of the arms that have a key set it to: a name need not say it. The algorithm is always said."""
    usual = []
    for key in settings[0] if settings else ():
        values = [one[key] for one in settings if one[key] is not ABSENT]
        common = max(values, key=values.count, default=ABSENT)
        if key != "algo._target_" and 3 * values.count(common) > 2 * len(values) > 6:
            usual.append((key, common))
    return usual


def _natural(arm: Arm) -> list[tuple[bool, Any]]:
    """Order values as numbers where they are, before words, lists and curves; what is not set comes first."""
    found: list[tuple[bool, Any]] = []
    for value in arm.settings.values():
        if value is ABSENT:
            found.append((False, -math.inf))
        else:
            found.append((False, value) if isinstance(value, int | float) else (True, str(value)))
    return found


def differing_keys(settings: Sequence[Mapping[str, str]], seeds: Sequence[int]) -> list[str]:
    """List the keys that are not the same in all runs and do not go with the seed, telling ones first.

    Example:
        >>> runs = [{"algo": "1", "x.seed": "1"}, {"algo": "2", "x.seed": "1"}, {"algo": "1", "x.seed": "2"}]
        >>> differing_keys(runs, [1, 1, 2])
        ['algo']
        >>> runs = [{"model": "a"}, {"model": "a", "of.model": "a"}, {"model": "b"}, {"model": "b", "of.model": "b"}]
        >>> differing_keys(runs, [1, 1, 2, 2])
        []
    """
    keys = {key for one in settings for key in one}
    differing = [key for key in keys if len({one.get(key) for one in settings}) > 1]
    rank = {key: place for place, key in enumerate(_TELLING)}
    with_seed = [key for key in differing if _goes_with_seed(key, settings, seeds)]
    # An algorithm that must know the seed's model repeats its key; others do not have it.
    echoes = lambda key, of: all(one.get(key) in (None, one.get(of)) for one in settings)  # noqa: E731
    differing = [key for key in differing if not any(key == of or echoes(key, of) for of in with_seed)]
    return sorted(differing, key=lambda key: (rank.get(key, len(rank)), key.count("."), key))


def _goes_with_seed(key: str, settings: Sequence[Mapping[str, str]], seeds: Sequence[int]) -> bool:
    values = [one.get(key) for one in settings]
    if key.endswith("seed"):
        return all(value in (None, str(seed)) for value, seed in zip(values, seeds, strict=True))
    # Known only where at least two seeds have several runs: else whatever is compared would seem to go with the seed.
    several = sum(count > 1 for count in Counter(seeds).values()) > 1
    return several and len(set(zip(seeds, values, strict=True))) == len(set(seeds))


def separating_keys(settings: Sequence[Mapping[str, str]], seeds: Sequence[int]) -> list[str]:
    """Choose the few keys that tell the arms apart.

    Example:
        >>> runs = [{"algo._target_": "a", "lr": "1", "lr2": "1"}, {"algo._target_": "b", "lr": "2", "lr2": "2"}]
        >>> separating_keys(runs, [1, 1])
        ['algo._target_']
    """
    chosen: list[str] = []
    count = lambda keys: len({tuple(one.get(key) for key in keys) for one in settings})  # noqa: E731
    for key in differing_keys(settings, seeds):
        if count([*chosen, key]) > count(chosen):
            chosen.append(key)
    return chosen


def name_of(settings: Mapping[str, Any], whole: bool = False) -> str:
    """Name an arm by its settings; what it has not is left out.

    Example:
        >>> name_of({"algo._target_": "wmtp.algos.rho1.Rho1", "model.heads": 4, "algo.weighting.control": "none"})
        'rho1 heads=4'
        >>> name_of({"model.adapter._target_": "wmtp.models.adapter.Lora"}), name_of({"model.adapter._target_": None})
        ('adapter=Lora', 'adapter=none')
    """
    labels = [key if key == "algo._target_" else key.removesuffix("._target_") for key in settings]
    last = [label.rsplit(".", 1)[-1] for label in labels]
    words = []
    for label, short, (key, value) in zip(labels, last, settings.items(), strict=True):
        short = label if whole or last.count(short) > 1 else short
        if key == "algo._target_":
            words.append(str(value).rsplit(".", 1)[-1].lower())
        elif whole or value not in (ABSENT, "none"):
            shown = str(value).rsplit(".", 1)[-1] if key.endswith("._target_") else value
            shown = shown if whole or not isinstance(shown, str) else shown.rsplit("/", 1)[-1]  # of a path its end
            words.append(f"{short}={shown}")
    return " ".join(words) or " ".join(f"{short}=none" for short in last) or "all"
