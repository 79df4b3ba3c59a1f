"""Say what is compared with what, what came of it, and whether the goals are met.

[연구 맥락] 창립자들이 적은 성공의 뜻 셋: (1) 가중 ≥ 기준 + 5점, (2) 중요한 토큰의 오류 −20 %,
    (3) 다중토큰예측과 가중을 함께 한 이득이 따로 한 이득의 합보다 크다.
    셋 다 선형 대비(contrast)라서 같은 추정이 답한다.
    (2) 비율 대신 0.8 · err(B) − err(W) > 0, (3) (W_H − B_H) − (W_1 − B_1) > 0.
[동작] 구간 전체가 목표 위면 met, 전체가 아래면 not met, 목표를 걸치면 cannot be told이다.
    씨앗 하나로는 언제나 cannot be told이다. 가중 조건이 m개이면 가장 좋은 것을 고르는 셈이므로 기준의 구간은
    1 − 0.05/m 수준이다. p는 값마다 Holm으로 고친다.
[디버깅] 조건마다 씨앗이 다르면 공통의 씨앗만 짝짓고, 둘도 안 되면 짝 없이 견준다. 어느 쪽인지 `paired`에 남는다.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmtp.comparison.arms import Arm, Run, arms_of
from wmtp.comparison.measures import IMPORTANT_ERRORS, numbers_of, scores_of
from wmtp.comparison.statistics import Array, Estimate, bootstrap_interval, cohens_h, estimate, holm, permutation_p
from wmtp.errors import ConfigError

GOALS = ("gain", "important", "sum")
GAIN, FALL = 0.05, 0.20  # what the first two ask for
NO_SUCH_BASELINE = "no baseline is set as this arm is, the algorithm aside"
NOT_MEASURED = "no run has measured it"


@dataclass
class Comparison:
    """Hold one difference between two arms. Shares are shares, not percents."""

    measure: str
    arm: str
    against: str
    value: float
    low: float
    high: float
    over: str
    paired: bool
    seeds: int  # of each arm where they are paired, else of the arm that has fewer
    problems: int  # 0 for what has no problems
    p: float
    p_holm: float = 1.0
    p_permutation: float | None = None  # of the seeds
    p_permutation_least: float | None = None  # what it could be at best
    bootstrap: tuple[float, float] | None = None
    relative: float | None = None
    cohens_h: tuple[float, float, float] | None = None


@dataclass
class Goal:
    """Hold one of the founders' goals for one arm, and whether it is met.

    Attributes:
        verdict: "met", "not met", "cannot be told".
        value, low, high: 목표에서 얼마나 위인가 (0 이상이면 이룬 것). 모르면 None.
        why: cannot be told인 까닭, 또는 빈 글.
    """

    goal: str
    arm: str
    verdict: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    why: str = ""


@dataclass
class Study:
    """Hold the runs of a comparison, what was measured, and what follows."""

    runs: list[Run]
    arms: list[Arm]
    scores: dict[str, dict[str, dict[int, dict[str, float]]]] = field(default_factory=dict)  # measure, arm, seed, task
    numbers: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)  # measure, arm, seed
    against: dict[str, str] = field(default_factory=dict)  # arm → what it is compared with
    comparisons: list[Comparison] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    @property
    def main_measure(self) -> str | None:
        """Name what the goals are measured by: pass@1 of the first benchmark."""
        return next((name for name in self.scores if name.endswith("/pass@1")), None)

    def table(self, measure: str, arm: str, seeds: Sequence[int], tasks: Sequence[str]) -> Array:
        """Lay an arm out as seeds by problems; a number without problems is one column."""
        if measure in self.numbers:
            return np.array([[self.numbers[measure][arm][seed]] for seed in seeds])
        return np.array([[self.scores[measure][arm][seed][task] for task in tasks] for seed in seeds])

    def seeds(self, measure: str, arm: str) -> list[int]:
        """List the seeds of an arm that measured this."""
        return sorted((self.scores.get(measure) or self.numbers.get(measure) or {}).get(arm, {}))

    def tasks(self, measure: str, wanted: Mapping[str, Sequence[int]]) -> list[str]:
        """List the problems that all of these runs have answered, by arm and seed."""
        if measure in self.numbers:
            return []
        sets = [set(self.scores[measure][arm][seed]) for arm, seeds in wanted.items() for seed in seeds]
        return sorted(set.intersection(*sets)) if sets else []

    def mean(self, measure: str, arm: str) -> Estimate | None:
        """Estimate what an arm reaches; None where it did not measure this."""
        seeds = self.seeds(measure, arm)
        tasks = self.tasks(measure, {arm: seeds})
        if not seeds or not (tasks or measure in self.numbers):
            return None
        return estimate([self.table(measure, arm, seeds, tasks)])

    def mean_of_seed(self, measure: str, arm: str, seed: int) -> float:
        """Average what one seed of an arm reached."""
        return float(self.table(measure, arm, [seed], self.tasks(measure, {arm: [seed]})).mean())


def study(runs: Sequence[Run], against: str | None = None) -> Study:
    """Compare runs.

    Args:
        against: 모두를 견줄 조건의 이름. None이면 baseline (설정의 나머지가 같은 것), 없으면 첫 조건.

    Raises:
        ConfigError: 조건이 하나뿐이거나, against가 모르는 이름일 때.
    """
    arms = arms_of(runs)
    if len(arms) < 2:
        raise ConfigError(
            f"RUN: all {len(runs)} runs are of one kind, they differ by their seed at most; give runs of two kinds, "
            "such as algo=baseline and algo=rho1."
        )
    if against is not None and against not in [arm.name for arm in arms]:
        raise ConfigError(f"against = {against} must be one of {', '.join(arm.name for arm in arms)}.")
    found = Study(list(runs), arms)
    for arm in arms:
        for seed, same in arm.runs.items():
            _add_means(found.scores, arm.name, seed, [scores_of(run) for run in same])
            for name, value in _means([numbers_of(run) for run in same]).items():
                found.numbers.setdefault(name, {}).setdefault(arm.name, {})[seed] = value
    found.against = _partners(arms, against)
    for measure in [*found.scores, *found.numbers]:
        of_measure = [one for arm, other in found.against.items() if (one := compare(found, measure, arm, other))]
        for one, p in zip(of_measure, holm([one.p for one in of_measure]), strict=True):
            one.p_holm = p
        found.comparisons += of_measure
    found.goals = goals(found)
    return found


def _means(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average runs of one arm and one seed, key by key."""
    keys = dict.fromkeys(key for one in several for key in one)
    return {key: float(np.mean([one[key] for one in several if key in one])) for key in keys}


def _add_means(scores: dict[str, Any], arm: str, seed: int, several: Sequence[Mapping[str, Any]]) -> None:
    for measure in dict.fromkeys(name for one in several for name in one):
        tasks = _means([one[measure] for one in several if measure in one])
        scores.setdefault(measure, {}).setdefault(arm, {})[seed] = tasks


def _partners(arms: Sequence[Arm], against: str | None) -> dict[str, str]:
    """Say with what each arm is compared."""
    if against is not None:
        return {arm.name: against for arm in arms if arm.name != against}
    first = arms[0].name  # a baseline, if there is one
    partners = {arm.name: (_baseline_of(arm, arms) or arms[0]).name for arm in arms if not arm.is_baseline}
    return {arm.name: partners.get(arm.name, first) for arm in arms if arm.name != first}


def _baseline_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """Find the baseline that is set as an arm is, its algorithm aside."""
    rest = lambda one: {key: value for key, value in one.settings.items() if not key.startswith("algo.")}  # noqa: E731
    return next((one for one in arms if one.is_baseline and rest(one) == rest(arm)), None)


def _contrast(found: Study, measure: str, signed: Mapping[str, float]) -> tuple[list[Array], bool] | None:
    """Lay out Σ sign · arm, a table an arm; say whether they are over the same seeds, so that they may be added up."""
    seeds = {arm: found.seeds(measure, arm) for arm in signed}
    if not all(seeds.values()):
        return None
    shared = sorted(set.intersection(*map(set, seeds.values())))
    paired = len(shared) > 1 or (len(shared) == 1 and min(map(len, seeds.values())) == 1)
    wanted = {arm: shared for arm in signed} if paired else seeds
    tasks = found.tasks(measure, wanted)
    if measure in found.scores and not tasks:
        return None
    return [sign * found.table(measure, arm, wanted[arm], tasks) for arm, sign in signed.items()], paired


def compare(found: Study, measure: str, arm: str, against: str) -> Comparison | None:
    """Compare one measure of two arms; None where one of them lacks it."""
    laid = _contrast(found, measure, {arm: 1.0, against: -1.0})
    if laid is None:
        return None
    tables, paired = laid
    parts = [np.sum(tables, axis=0)] if paired else tables
    estimated = estimate(parts)
    low, high = map(float, estimated.interval())
    seeds, problems = min(part.shape[-2] for part in parts), parts[0].shape[-1] if measure in found.scores else 0
    one = Comparison(
        measure, arm, against, float(estimated.value), low, high, estimated.over, paired, seeds, problems,
        p=float(np.nan_to_num(estimated.p(), nan=1.0)),
    )  # fmt: skip
    if seeds > 1:
        one.p_permutation, one.p_permutation_least = permutation_p(parts)
        one.bootstrap = bootstrap_interval(parts)
    a, b = float(tables[0].mean()), -float(tables[1].mean())
    if problems:
        one.low, one.high = max(-1.0, low), min(1.0, high)
        one.cohens_h = cohens_h((one.value, low, high), a, b)
    elif b:
        one.relative = one.value / abs(b)
    return one


def goals(found: Study) -> list[Goal]:
    """Judge the founders' three goals for every arm that weighs tokens."""
    baselines = [arm for arm in found.arms if arm.is_baseline]
    weighted = [arm for arm in found.arms if not arm.is_baseline and not arm.is_control]
    if weighted and not baselines:
        return [Goal(goal, "–", "cannot be told", why="there is no baseline among the runs") for goal in GOALS]
    level = 1 - 0.05 / max(len(weighted), 1)
    judged = []
    for arm in weighted:
        base = _baseline_of(arm, found.arms)
        if base is None:  # what another setting does would be taken for the weights' doing
            judged += [Goal(goal, arm.name, "cannot be told", level=level, why=NO_SUCH_BASELINE) for goal in GOALS]
            continue
        gain = {arm.name: 1.0, base.name: -1.0}
        judged.append(_judge(found, "gain", arm.name, found.main_measure, gain, -GAIN, level))
        fall = {arm.name: -1.0, base.name: 1 - FALL}
        judged.append(_judge(found, "important", arm.name, IMPORTANT_ERRORS, fall, 0.0, level))
        judged.append(_judge_sum(found, arm, base, level))
    return judged


def _judge(
    found: Study, goal: str, arm: str, measure: str | None, signed: Mapping[str, float], shift: float, level: float
) -> Goal:
    """Judge whether a contrast, shifted by what is asked of it, is above 0."""
    laid = _contrast(found, measure, signed) if measure in found.scores or measure in found.numbers else None
    if laid is None:
        return Goal(goal, arm, "cannot be told", level=level, why=NOT_MEASURED)
    tables, paired = laid
    estimated = estimate([np.sum(tables, axis=0)] if paired else tables)
    low, high = (float(end) + shift for end in estimated.interval(level))
    verdict = "met" if low >= 0 else "not met" if high < 0 else "cannot be told"
    why = "the interval holds both" if verdict == "cannot be told" else ""
    if estimated.over not in ("seeds and problems", "seeds"):
        verdict, why = "cannot be told", "one seed says nothing of another; train more seeds of each"
    known_low, known_high = (None if np.isnan(end) else end for end in (low, high))
    return Goal(goal, arm, verdict, float(estimated.value) + shift, known_low, known_high, level, why)


def _judge_sum(found: Study, arm: Arm, base: Arm, level: float) -> Goal:
    """Judge whether several heads and weights together gain more than each alone, summed."""
    one_head = lambda of: next((one for one in found.arms if one.settings == of.settings | {"model.heads": 1}), None)  # noqa: E731
    arm_alone, base_alone = one_head(arm), one_head(base)
    if arm.settings.get("model.heads", 1) == 1 or arm_alone is None or base_alone is None:
        why = "it needs both algorithms with model.heads=1 as well"
        return Goal("sum", arm.name, "cannot be told", level=level, why=why)
    signed = {arm.name: 1.0, base.name: -1.0, arm_alone.name: -1.0, base_alone.name: 1.0}
    return _judge(found, "sum", arm.name, found.main_measure, signed, 0.0, level)
