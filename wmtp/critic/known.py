"""Say what a critic knows: in critic.json, in the logs, and in a warning where it knows next to nothing.

[연구 맥락] V가 맞고 틀림을 모르면 그 가중치에는 뜻이 없다. 모르는 채로 학습이 끝나는 일이 없게, 재고 말한다.
[동작] 곡선(curve)은 잰 것들의 목록이다: 스텝, 손실, auc, localisation의 숫자들 (`wmtp.critic.fitting.measure`).
[디버깅] 실행 폴더의 critic.json이 곡선과 가장 좋았던 점이다. 보고서가 그것을 그린다.
"""

import json
import sys
from pathlib import Path
from typing import Any

from wmtp.storage.files import write_atomically

Curve = list[dict[str, float]]

LEAST_AUC = 0.6  # below this a critic knows next to nothing


def auc_of(point: dict[str, float]) -> float:
    """Return the AUC; one that could not be measured counts as chance."""
    return point["auc"] if is_measured(point) else 0.5


def is_measured(point: dict[str, float]) -> bool:
    """Say whether there were right and wrong programs to measure on."""
    return point["auc"] == point["auc"]


def is_stale(curve: Curve, patience: int) -> bool:
    """Say whether the last `patience` checks were no better than the best before them."""
    if len(curve) <= patience or not is_measured(curve[-1]):
        return False
    return max(map(auc_of, curve[-patience:])) <= max(map(auc_of, curve[:-patience])) + 1e-3


def tell(run: Path, curve: Curve, trainer: Any, *, rewards: str, value: str, programs: dict[str, int]) -> None:
    """Write critic.json, log the numbers, and warn of a critic that knows next to nothing.

    Args:
        run: 실행 폴더.
        curve: 잰 것들.
        trainer: 숫자를 남길 logger들이 있는 곳.
        rewards, value: 보상과 가치의 이름.
        programs: 배운 프로그램(train)과 잰 프로그램(heldout)의 수.
    """
    best = max(reversed(curve), key=auc_of)
    near_chance = auc_of(best) < LEAST_AUC if is_measured(best) else None
    found: dict[str, Any] = {"rewards": rewards, "value": value, "programs": programs, "near_chance": near_chance}
    found |= {"best": _plain(best), "curve": [_plain(point) for point in curve]}
    write_atomically(run / "critic.json", (json.dumps(found, indent=1) + "\n").encode())
    numbers = {f"critic/{key}": number for key, number in best.items() if number == number and key != "step"}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
    if near_chance is None:
        _warn(
            f"what it knows could not be measured: the validation split has {programs['heldout']} programs, not both "
            "right and wrong ones, so its weights may mean anything. Give the data a validation split, or raise "
            "algo.pretraining.heldout_problems."
        )
        return
    place = f", lowest value change inside the wrong span {best['in_span']:.0%}" if "critic/in_span" in numbers else ""
    print(f"critic: sequence AUC {best['auc']:.3f} on {programs['heldout']} held-out programs{place}")
    if near_chance:
        _warn(
            f"an AUC of {best['auc']:.3f} is near chance (0.5), so its weights say little about the tokens. Give it "
            "more algo.pretraining.problems, a better algo.value.path, or use algo=rho1."
        )


def _plain(point: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {key: number if number == number else None for key, number in point.items()}


def _warn(sentence: str) -> None:
    print(f"critic: WARNING: {sentence}", file=sys.stderr)
