"""Keep the models that are in use in MLflow's registry: what may become one, why it did, and the way back.

[연구 맥락] "지금 쓰는 모델"이 무엇이고 왜 그것인지는 기록이어야 한다. 나빠진 모델, 평가하지 않은 모델, 라이선스를
    모르는 모델은 올라가지 않는다. 억지로 올리면 그 까닭이 남는다.
[동작] 판(version) 하나가 실행 하나다. 별칭(alias) staging과 production이 판을 가리킨다. 별칭을 옮길 때마다 그 판의
    꼬리표에 앞의 판을 적으므로, 되돌리기는 꼬리표를 따라가는 일이다.
[디버깅] 올린 판의 설명(description)에 발표문과 모델 카드가 있다: MLflow의 Models 화면.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmtp.comparison.arms import Run, find_runs
from wmtp.comparison.measures import numbers_of, scores_of
from wmtp.errors import CheckpointError, ConfigError
from wmtp.maths.pass_at_k import paired_difference
from wmtp.run.directory import is_finished
from wmtp.run.mlflow_store import kept_run, open_store
from wmtp.secrets import mask_secrets

NAMED = "registry:"  # then NAME, or NAME@production, wherever a model may be named


@dataclass
class Judged:
    """Hold what a model was judged by on its way into use.

    Attributes:
        reasons: 올라가면 안 되는 까닭들, 문장. 없으면 빈 목록.
        differences: 벤치마크/pass@k → 지금의 production과의 차이 (값, 아래, 위, 문제 수).
    """

    reasons: list[str] = field(default_factory=list)
    differences: dict[str, tuple[float, float, float, int]] = field(default_factory=dict)


def judge(candidate: Run, production: Run | None) -> Judged:
    """Say why a run must not come into use: not exported, not evaluated, of unknown licence, or worse than what is."""
    found, where = Judged(), candidate.folder
    if not is_finished(where):
        found.reasons.append(f"it has no exported model ({where / 'model'}): it did not come to its end")
    unknown = [name for name, facts in (candidate.results.config.get("used") or {}).items()
               if not (facts or {}).get("licence")]  # fmt: skip
    if unknown:
        found.reasons.append(f"the licence of {', '.join(map(str, unknown))} is not known")
    ours = {measure: values for measure, values in scores_of(candidate).items() if measure.endswith("/pass@1")}
    if not ours:
        found.reasons.append(f"it has no evaluation: python -m wmtp.eval ckpt={where}")
    if production is None or not ours:
        return found
    theirs = scores_of(production)
    for measure in ours.keys() & theirs.keys():
        tasks = sorted(ours[measure].keys() & theirs[measure].keys())
        if tasks:
            pairs = ([scores[measure][task] for task in tasks] for scores in (ours, theirs))
            found.differences[measure] = (*paired_difference(*pairs), len(tasks))
    if not found.differences:
        found.reasons.append(
            f"no benchmark judged both it and today's production model ({production.folder.name}), so nobody can say "
            "that it is not worse"
        )
    for measure, (gap, low, high, count) in sorted(found.differences.items()):
        if high < 0:
            found.reasons.append(
                f"its {measure} is {-100 * gap:.1f} points below that of today's production model "
                f"({production.folder.name}; 95 %: {100 * low:+.1f} to {100 * high:+.1f} on {count} problems)"
            )
    return found


class Registry:
    """Read and write the registry of one MLflow store.

    Args:
        tracking_uri: MLflow의 저장소.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.uri = mask_secrets(tracking_uri)
        self.client = open_store(tracking_uri)

    def version(self, name: str, alias: str) -> Any | None:
        """Find the version that an alias stands for."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def run_in_use(self, name: str, alias: str) -> Run | None:
        """Read the run of the version that is in use, if its directory is on this machine.

        Raises:
            ConfigError: 쓰고 있는 판의 실행 폴더가 없을 때. 견줄 수 없다.
        """
        version = self.version(name, alias)
        if version is None:
            return None
        folder = Path(version.tags.get("run_dir", ""))
        if not (folder / "config.yaml").is_file():
            raise ConfigError(
                f"to = {alias}: today's {name}@{alias} is version {version.version}, and its run directory {folder} is "
                "not on this machine, so nothing can be compared with it; copy it here, or force=true reason=…"
            )
        (run,) = find_runs([str(folder)])
        return run

    def promote(self, name: str, alias: str, run: Run, notes: str, tags: dict[str, str]) -> str:
        """Make a version of a run, unless there is one, and let an alias stand for it; return its number."""
        from mlflow.exceptions import MlflowException

        before, state = self.version(name, alias), kept_run(run.folder)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = self.client.search_model_versions(f"name='{name}'")
        same = [one.version for one in known if one.tags.get("run_dir") == str(run.folder)]
        if same:
            number = same[0]
            self.client.update_model_version(name, number, notes)
        else:
            source, run_id = str(run.folder / "model"), state["run_id"] if state else None
            made = self.client.create_model_version(
                name, source, run_id, tags={"run_dir": str(run.folder)}, description=notes
            )
            number = made.version
        if before is not None and str(before.version) != str(number):
            tags |= {f"before.{alias}": str(before.version)}
        for key, value in tags.items():
            self.client.set_model_version_tag(name, number, key, value)
        self.client.set_registered_model_alias(name, alias, number)
        return str(number)

    def roll_back(self, name: str, alias: str) -> tuple[str, str]:
        """Let an alias stand again for what it stood for before; return both numbers.

        Raises:
            ConfigError: 그런 별칭이 없거나, 그 앞의 판이 없을 때.
        """
        now = self.version(name, alias)
        if now is None:
            raise ConfigError(f"rollback = {name}: {self.uri} knows no {name}@{alias}; see MLflow's Models page.")
        before = now.tags.get(f"before.{alias}")
        if before is None:
            raise ConfigError(f"rollback = {name}: version {now.version} is the first that was {alias}.")
        self.client.set_registered_model_alias(name, alias, before)
        self.client.set_model_version_tag(name, now.version, f"rolled_back.{alias}", before)
        return str(now.version), before


def find_registered(named: str, tracking_uri: str) -> Path:
    """Find the folder of a registered model.

    Args:
        named: `registry:NAME` 또는 `registry:NAME@별칭`. 별칭이 없으면 production.

    Raises:
        CheckpointError: 그런 모델이 없거나, 폴더가 이 컴퓨터에 없을 때.
    """
    name, _, alias = named.removeprefix(NAMED).partition("@")
    registry, alias = Registry(tracking_uri), alias or "production"
    version = registry.version(name, alias)
    if version is None:
        raise CheckpointError(
            f"ckpt = {named}: {registry.uri} knows no {name}@{alias}; make one: python -m wmtp.promote run=… to={alias}"
        )
    folder = Path(version.source)
    if not folder.is_dir():
        raise CheckpointError(
            f"ckpt = {named}: version {version.version} lies in {folder}, which is not on this machine; copy it here "
            "and give ckpt=DIR."
        )
    return folder


def release_notes(run: Run, name: str, alias: str, production: Run | None, judged: Judged, reason: str | None) -> str:
    """Write what changes for those who use the model, and its card below."""
    lines = [f"# {name} → {alias}: {run.folder.name}", ""]
    if reason:
        lines += [f"**Forced, against the gate:** {reason}", *(f"- {why}" for why in judged.reasons), ""]
    lines += [f"Compared with {production.folder.name}:" if production else "The first of its name.", ""]
    lines += [
        f"- {measure}: {100 * gap:+.1f} points (95 %: {100 * low:+.1f} to {100 * high:+.1f}, {count} problems)"
        for measure, (gap, low, high, count) in sorted(judged.differences.items())
    ]
    if production:
        changed = [key for key in sorted(run.settings.keys() | production.settings.keys())
                   if run.settings.get(key) != production.settings.get(key)]  # fmt: skip
        lines += [f"- {key}: {production.settings.get(key)} → {run.settings.get(key)}" for key in changed]
    lines += [f"- {key}: {value:.4g}" for key, value in numbers_of(run).items() if key.startswith("val/ce_head")]
    card = run.folder / "model" / "README.md"
    text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text("utf-8"), flags=re.S) if card.is_file() else ""
    return mask_secrets("\n".join([*lines, "", text.strip()]).strip() + "\n")
