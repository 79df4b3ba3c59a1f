"""Say what should have been equal between the runs of a comparison, and was not.

[연구 맥락] 데이터나 스텝이나 코드가 달랐다면 차이가 방법에서 왔다고 말할 수 없다. 그래서 숫자보다 먼저, 크게 말한다.
[동작] 조건의 이름이 이미 말하는 설정은 빼고, 실행 폴더가 아는 나머지를 모두 견준다. 글 하나와 거기 들어갈 값을 낸다.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wmtp.comparison.arms import Run, differing_keys
from wmtp.comparison.findings import Study

Said = tuple[str, dict[str, Any]]  # a text as wmtp.reporting.texts has it, and its values


def unequal(found: Study) -> list[Said]:
    """List what was not equal, the gravest first."""
    return [*_made_of(found), *_settings(found), *_runs(found), *_problems(found)]


def _made_of(found: Study) -> Iterator[Said]:
    """Compare what the runs were made of, by hash: data and weights seed by seed, the rest over all runs."""
    for part, text in (
        ("data", "training problems differ between runs of one seed: {kinds}"),
        ("model", "weights at the start differ between runs of one seed: {kinds}"),
    ):
        by_seed = [_sorted_out(found, lambda run, part=part: _made(run).get(part), seed) for seed in _seeds(found)]
        if differing := [kinds for kinds in by_seed if len(kinds) > 1]:
            yield text, {"kinds": _shown(differing[0])}
    code = lambda run: _code(run).get("commit", _code(run).get("version"))  # noqa: E731
    last = lambda run: max((points[-1][0] for points in run.results.series.values() if points), default=None)  # noqa: E731
    for of, text in (
        (lambda run: _made(run).get("benchmarks"), "test problems differ: {kinds}"),
        (code, "code versions differ: {kinds}"),
        (last, "last steps differ: {kinds}"),
    ):
        kinds = _sorted_out(found, of)
        if len(kinds) > 1:
            yield text, {"kinds": _shown(kinds)}
    if dirty := [run for run in found.runs if _code(run).get("dirty")]:
        yield "code had changes that no commit holds: {kinds}", {"kinds": _names(dirty)}


def _settings(found: Study) -> Iterator[Said]:
    """Name the settings that differ along with what tells the arms apart; an algorithm or an adapter brings its own."""
    telling = {key for arm in found.arms for key in arm.settings}
    for key in differing_keys([run.settings for run in found.runs], [run.seed for run in found.runs]):
        if key not in telling and not key.startswith(("algo.", "callbacks.")) and not _brought(found, key, telling):
            kinds = _sorted_out(found, lambda run, key=key: run.settings.get(key))
            yield "{key} differs too: {kinds}", {"key": key, "kinds": _shown(kinds)}


def _brought(found: Study, key: str, telling: set[str]) -> bool:
    """Say whether a key belongs to a part that tells the arms apart, and has one value wherever that part is."""
    target = f"{key.rpartition('.')[0]}._target_"
    pairs = {(run.settings.get(target), run.settings.get(key)) for run in found.runs}
    return target in telling and len(pairs) == len({part for part, _ in pairs})


def _runs(found: Study) -> Iterator[Said]:
    """Name seeds that not every arm has, runs that stand twice, failed, or were changed while they ran."""
    seeds = {arm.name: ", ".join(map(str, arm.runs)) for arm in found.arms}
    if len(set(seeds.values())) > 1:
        shown = "; ".join(f"{name}: {its}" for name, its in seeds.items())
        yield "seeds differ, only shared ones are paired: {kinds}", {"kinds": shown}
    for arm in found.arms:
        for seed, runs in arm.runs.items():
            if len(runs) > 1:
                text = "{arm}: {count} runs of seed {seed} are averaged: {names}"
                yield text, {"arm": arm.name, "count": len(runs), "seed": seed, "names": _names(runs)}
    if failed := [run for run in found.runs if run.results.failure]:
        yield "runs that failed: {kinds}", {"kinds": _names(failed)}
    if recovered := [run for run in found.runs if run.results.attempts]:
        text = "runs that recovered, with other settings than asked for: {kinds}"
        yield text, {"kinds": _names(recovered)}


def _problems(found: Study) -> Iterator[Said]:
    """Say where runs answered different problems, or none."""
    for measure, arms in found.scores.items():
        sets = [set(tasks) for by_seed in arms.values() for tasks in by_seed.values()]
        every, shared = set.union(*sets), set.intersection(*sets)
        if every != shared:
            text = "{measure}: {shared} of {every} problems are in every run, others are left out"
            yield text, {"measure": measure, "shared": len(shared), "every": len(every)}
        without = [
            f"{arm.name} {seed}" for arm in found.arms for seed in arm.runs if seed not in arms.get(arm.name, {})
        ]
        if without:
            yield "{measure}: not measured in {names}", {"measure": measure, "names": ", ".join(without)}


def _made(run: Run) -> Mapping[str, Any]:
    found = run.results.config.get("made_of")
    return found if isinstance(found, dict) else {}


def _code(run: Run) -> Mapping[str, Any]:
    found = _made(run).get("code")
    return found if isinstance(found, dict) else {}


def _seeds(found: Study) -> list[int]:
    return sorted({run.seed for run in found.runs})


def _sorted_out(found: Study, of: Any, seed: int | None = None) -> dict[str, list[Run]]:
    """Sort runs by a value."""
    kinds: dict[str, list[Run]] = {}
    for run in found.runs:
        if seed is None or run.seed == seed:
            kinds.setdefault(str(of(run)), []).append(run)
    return kinds


def _shown(kinds: Mapping[str, Iterable[Run]]) -> str:
    return "; ".join(f"{value} ({_names(runs)})" for value, runs in kinds.items())


def _names(runs: Iterable[Run], most: int = 4) -> str:
    names = [run.folder.name for run in runs]
    return ", ".join(names[:most]) + (f" +{len(names) - most}" if len(names) > most else "")
