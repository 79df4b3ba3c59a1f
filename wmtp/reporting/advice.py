"""Say what the numbers of a run mean for what to do next, with the command that does it.

[연구 맥락] 실패하지 않은 실행도 실패일 수 있다: 나아진 것이 우연의 폭 안이거나, 가중치가 모두 한계에 붙었거나, V가 우연
    수준이면 그 결과에서 배울 것이 없다. 숫자를 읽을 줄 아는 사람이 하는 말을 보고서가 한다.
[동작] 규칙마다 함수 하나: 실행을 보고, 할 말이 있으면 말과 다음에 해 볼 명령을 준다. 명령은 이 실행의 명령에서
    몇 가지만 바꾼 것이라 그대로 돌아간다. 잴 것이 없으면 아무 말도 하지 않는다.
[디버깅] 문턱은 여기에만 있다.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from wmtp.reporting.reading import RunResults, flatten, paired_gain

AT_BOUNDS = 0.5  # of the weights: beyond this the bounds decide, not the scores
WORSE = -0.01  # nats: where model and reference both know a token its excess is as good as 0
RISE = 0.01  # of the validation CE above its lowest: less is noise between two measurements


@dataclass(frozen=True)
class Advice:
    """Hold one thing that the numbers say.

    Attributes:
        said: 문장 (texts.py의 글)과 그 안의 값들.
        command: 다음에 해 볼 명령.
    """

    said: str
    command: str
    values: Mapping[str, Any] = field(default_factory=dict)


def advice(run: RunResults) -> list[Advice]:
    """Look at the numbers of a run that came to its end; those of a failed one have a section of their own."""
    if run.failure:
        return []
    rules = (_gain, _rising_ce, _weights_at_bounds, _unknowing_critic, _worse_reference, _learnt_corruption)
    return [one for rule in rules for one in rule(run)]


def _gain(run: RunResults) -> Iterator[Advice]:
    found = paired_gain(run)
    if found is None:
        return
    gain, low, high, problems = found
    values = {"gain": 100 * gain, "low": 100 * low, "high": 100 * high, "problems": problems}
    if high < 0:
        said = "Training made the programs worse ({gain:+.1f} points, 95 %: {low:+.1f} to {high:+.1f}): learn slower."
        yield Advice(said, _again(run, **{"optimizer.lr": _scaled(run, "optimizer.lr", 1 / 3)}), values)
    elif low <= 0 and _of(run, "eval.limit"):
        said = (
            "pass@1 moved by {gain:+.1f} points, and {problems} problems cannot tell that from chance "
            "(95 %: {low:+.1f} to {high:+.1f}): judge all problems."
        )
        yield Advice(said, _again(run, **{"eval.limit": "null"}), values)
    elif low <= 0:
        said = (
            "pass@1 moved by {gain:+.1f} points, and {problems} problems cannot tell that from chance "
            "(95 %: {low:+.1f} to {high:+.1f}): train other seeds, which are compared at the end."
        )
        yield Advice(said, _again(run, "-m", seed="43,44,45,46"), values)


def _rising_ce(run: RunResults) -> Iterator[Advice]:
    points = run.series.get("val/ce_head0") or []
    if len(points) < 2:
        return
    (_, first), (step, lowest), (_, last) = points[0], min(points, key=lambda point: point[1]), points[-1]
    if last <= (1 + RISE) * lowest:
        return
    values = {"first": first, "lowest": lowest, "step": step, "last": last}
    if lowest == first:
        said = "Validation CE of head 0 never fell below its start ({first:.3f}, {last:.3f} at the end): learn slower."
        yield Advice(said, _again(run, **{"optimizer.lr": _scaled(run, "optimizer.lr", 1 / 3)}), values)
    else:
        said = (
            "Validation CE of head 0 rises again since step {step} ({lowest:.3f}, {last:.3f} at the end): stop there."
        )
        yield Advice(said, _again(run, **{"trainer.max_steps": max(step, 1)}), values)


def _weights_at_bounds(run: RunResults) -> Iterator[Advice]:
    floor, ceiling = (_late(run, f"weight/{name}") for name in ("at_floor", "at_ceiling"))
    if floor is None or ceiling is None or floor + ceiling <= AT_BOUNDS or not _of(run, "algo.weighting.temperature"):
        return
    said = (
        "{share:.0%} of the weights lie at their bounds (algo.weighting.epsilon, algo.weighting.w_max), so the bounds "
        "decide and not the scores: use a higher temperature."
    )
    warmer = _scaled(run, "algo.weighting.temperature", 2)
    yield Advice(said, _again(run, **{"algo.weighting.temperature": warmer}), {"share": floor + ceiling})


def _unknowing_critic(run: RunResults) -> Iterator[Advice]:
    if not run.critic or run.critic.get("near_chance") is False:
        return
    problems = _of(run, "algo.pretraining.problems")
    said = "The critic knows next to nothing of right and wrong, so its weights say little: judge more problems."
    if problems:
        yield Advice(said, _again(run, **{"algo.pretraining.problems": 3 * int(problems)}))
    elif _of(run, "model.reference"):
        said = (
            "The critic knows next to nothing of right and wrong, so its weights say little: use a reference instead."
        )
        yield Advice(said, _again(run, algo="rho1"))


def _worse_reference(run: RunResults) -> Iterator[Advice]:
    # The median: a few corrupted tokens, which a good reference rejects, pull the mean far below 0.
    median = _late(run, "weight/rho1_excess_median")
    if median is not None and median < WORSE:
        said = (
            "The reference is worse than the model on most tokens (median excess {median:+.3f} nats), so its weights "
            "hold the model back: see what it does without, or give it a better model.reference."
        )
        yield Advice(said, _again(run, algo="baseline"), {"median": median})


def _learnt_corruption(run: RunResults) -> Iterator[Advice]:
    before, after = (run.token_errors.get(stage, {}).get("corrupted") for stage in ("start", "end"))
    weighs = "weight/mean" in run.series
    if before and after and after["error"] < before["error"] and not weighs and _of(run, "model.reference"):
        said = (
            "It learns the corrupted tokens too (errors on them {before:.1%}, then {after:.1%}): weigh the tokens by a "
            "reference."
        )
        yield Advice(said, _again(run, algo="rho1"), {"before": before["error"], "after": after["error"]})


def _of(run: RunResults, key: str) -> Any:
    return flatten(run.config).get(key)


def _late(run: RunResults, key: str) -> float | None:
    """Average the last quarter of a series: single steps are noisy."""
    points = run.series.get(key) or []
    return fmean(value for _, value in points[-max(len(points) // 4, 1) :]) if points else None


def _scaled(run: RunResults, key: str, factor: float) -> str:
    value = _of(run, key)
    return f"{float(value) * factor:.2g}" if isinstance(value, int | float) else "0.0003"


def _again(run: RunResults, *options: str, **changes: Any) -> str:
    """Write the run's own command with other values; it begins a run of its own.

    Example:
        >>> run = RunResults("", config={"command": "python -m wmtp.train algo=rho1 seed=1 ckpt=last"})
        >>> _again(run, "-m", seed="2,3", **{"eval.limit": "null"})
        'python -m wmtp.train -m algo=rho1 seed=2,3 eval.limit=null'
    """
    words = shlex.split(str(run.config.get("command") or "python -m wmtp.train"))
    kept = [word for word in words[3:] if word.partition("=")[0].lstrip("+") not in {"ckpt", *changes}]
    if "algo" in changes:  # its own keys mean nothing to another
        kept = [word for word in kept if not word.lstrip("+~").startswith(("algo.", "algo/"))]
    return shlex.join([*words[:3], *options, *kept, *(f"{key}={value}" for key, value in changes.items())])
