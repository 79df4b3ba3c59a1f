"""Log what the token weights look like while training.

[연구 맥락] 가중치가 모두 1이거나 모두 상하한에 붙어 있으면 알고리즘은 아무 일도 하지 않은 것이다.
    분위수, 유효 표본 비율 (Σw)²/(N·Σw²), 상하한에 닿은 비율로 알아본다. 망가진 토큰을 아는 데이터(data.noise)에서는
    그 토큰들의 평균 가중치와 AUC(깨끗한 토큰이 더 높은 점수를 받을 확률)가 곧 성적표다: 0.5면 우연, 1이면 완벽.
[동작] log_every_n_steps마다 스텝의 모든 조각을 모아 장치에서 정렬 한 번, 호스트로 복사 한 번. 나머지 스텝에는 아무 일도
    하지 않는다. 랭크가 여럿이면 0번 랭크의 토큰만 본다. 값마다의 뜻과 할 일은 docs/operations.md의 표에 있다.
[디버깅] weight/ess가 1이면 λ나 점수를, weight/at_ceiling이 크면 T와 W_max를 보라.
"""

#   B sequences, T positions, N target tokens

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp.maths.credit import twice_below
from wmtp.maths.curve import value_at
from wmtp.private_names import logs_this_step, step_goes_on

EXTREME = 5.0
ROUNDING = 1e-4  # the mean is 1 up to this; so near to a bound or to 1, a weight is at it

# A score is worth a curve where it means something by itself.
SCORES = {"delta": "critic_delta", "excess": "rho1_excess"}


def weight_statistics(
    weight_BT: Tensor, mask_BT: Tensor, bounds: tuple[float, float] | None = None
) -> dict[str, Tensor]:
    """Describe the weights of the target tokens by a few numbers, without leaving the device.

    Args:
        bounds: 가중치가 닿을 수 있는 하한과 상한. 모르면 None.

    Returns:
        유한한 가중치의 mean, min, p25, p75, p95, max, ess, extreme_weights (5보다 큰 것의 비율),
        rho1_usage_ratio (1보다 큰 것의 비율: 규칙이 강조하는 토큰), (bounds가 있으면) at_floor, at_ceiling.
        그리고 nan_weights, 유한하지 않은 것의 개수. 목표 토큰이 없으면 개수는 0, 나머지는 NaN.

    Example:
        >>> s = weight_statistics(torch.tensor([[0., 1., 6., 9.]]), torch.tensor([[True, True, True, False]]))
        >>> {key: round(value.item(), 3) for key, value in s.items()}  # doctest: +NORMALIZE_WHITESPACE
        {'mean': 2.333, 'min': 0.0, 'p25': 0.5, 'p75': 3.5, 'p95': 5.5, 'max': 6.0, 'ess': 0.441,
         'nan_weights': 0.0, 'extreme_weights': 0.333, 'rho1_usage_ratio': 0.333}
    """
    target_N = mask_BT.flatten()
    weight_N = weight_BT.detach().flatten().double()
    mask_N = target_N & weight_N.isfinite()
    count = mask_N.sum().double()
    sum_ = torch.where(mask_N, weight_N, 0.0).sum()
    square = torch.where(mask_N, weight_N.square(), 0.0).sum()
    # The masked ones sort to the end, so that no boolean indexing makes the host wait for the device.
    ascending_N = torch.where(mask_N, weight_N, torch.inf).sort().values

    places = {"min": 0.0, "p25": 0.25, "p75": 0.75, "p95": 0.95, "max": 1.0}
    statistics = {
        "mean": sum_ / count,
        **{name: quantile(ascending_N, count, q) for name, q in places.items()},
        "ess": sum_.square() / (count * square),
        "nan_weights": (target_N & ~mask_N).sum().double(),
        "extreme_weights": (mask_N & (weight_N > EXTREME)).sum() / count,
        "rho1_usage_ratio": (mask_N & (weight_N > 1 + ROUNDING)).sum() / count,
    }
    if bounds is not None:
        statistics["at_floor"] = (mask_N & (weight_N <= bounds[0] + ROUNDING)).sum() / count
        statistics["at_ceiling"] = (mask_N & (weight_N >= bounds[1] - ROUNDING)).sum() / count
    return statistics


def quantile(ascending_N: Tensor, count: Tensor, q: float) -> Tensor:
    """Read a quantile off the first `count` of ascending numbers, without leaving the device; NaN where there is none.

    Example:
        >>> quantile(torch.tensor([1.0, 2.0, 6.0, torch.inf]), torch.tensor(3.0), 0.25).item()
        1.5
    """
    place = q * (count - 1).clamp(min=0)
    below, above = (ascending_N.take(near.long()) for near in (place.floor(), place.ceil()))  # [near] would wait
    return torch.where(count > 0, torch.lerp(below, above, place.frac()), torch.nan)


def corruption_statistics(weight_BT: Tensor, score_BT: Tensor, mask_BT: Tensor, noise_BT: Tensor) -> dict[str, Tensor]:
    """Tell whether tokens known to be corrupted get less weight than clean ones.

    Returns:
        corrupted_mean, clean_mean, auc = P(깨끗한 토큰의 점수 > 망가진 토큰의 점수), 동점은 1/2. 한쪽이 없으면 NaN.

    Example:
        >>> mask, noise = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[True, False, False, False]])
        >>> s = corruption_statistics(torch.tensor([[.4, 1., 1., 1.6]]), torch.tensor([[1., 0., 1., 2.]]), mask, noise)
        >>> {key: round(value.item(), 3) for key, value in s.items()}
        {'corrupted_mean': 0.4, 'clean_mean': 1.2, 'auc': 0.5}
    """
    score_N, weight_N = score_BT.detach().flatten().double(), weight_BT.detach().flatten().double()
    corrupted_N, clean_N = (mask_BT & noise_BT).flatten(), (mask_BT & ~noise_BT).flatten()
    clean_count = clean_N.sum()
    # The AUC of maths/credit.py, but the masked ones are put at the end: to pick them out, the host would wait.
    above_N = 1.0 - twice_below(score_N, torch.where(clean_N, score_N, torch.inf)) / (2 * clean_count)
    pick = lambda value_N, chosen_N: torch.where(chosen_N, value_N, 0.0).sum() / chosen_N.sum()  # noqa: E731
    return {
        "corrupted_mean": pick(weight_N, corrupted_N),
        "clean_mean": pick(weight_N, clean_N),
        "auc": torch.where(clean_count > 0, pick(above_N, corrupted_N), torch.nan),
    }


def clip_bounds(weighting: Any, done: float = 0.0) -> tuple[float, float] | None:
    """Give the lowest and highest weight that a soft weighting can hand out, after the blend by λ.

    Args:
        done: 학습이 지난 비율.
    """
    try:
        lam = value_at(weighting.lam, done)
        return tuple(1 + lam * (bound - 1) for bound in (weighting.epsilon, weighting.w_max))
    except AttributeError:
        return None


class WeightStatistics(Callback):
    """Log `weight/…` at every logging step; nothing for an algorithm without weights.

    [동작] 알고리즘의 `score_name`이 SCORES에 있으면 점수의 평균과 중앙값도 남긴다. critic의 점수(delta)는 0을 중심으로,
        rho1의 점수(excess)는 학습할수록 0 쪽으로 움직이는 것이 정상이다.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Keep what this micro-batch weighed; at the end of the step reduce on the device, and fetch all at once."""
        step = pl_module.last_step
        if not logs_this_step(trainer) or step["weight_BT"] is None:
            self._parts = []
            return
        noise_BT = step["batch"].get("noise_BT")
        noise_BT = torch.zeros_like(step["mask_BT"]) if noise_BT is None else noise_BT
        kept = (step["weight_BT"], step["score_BT"], step["mask_BT"], noise_BT)
        self._parts.append(tuple(value_BT.detach().flatten() for value_BT in kept))
        if step_goes_on(trainer):
            return
        weight_N, score_N, mask_N, noise_N = (torch.cat(pieces) for pieces in zip(*self._parts, strict=True))
        self._parts = []
        statistics = weight_statistics(weight_N, mask_N, clip_bounds(pl_module.weighting, pl_module.share_done()))
        statistics |= corruption_statistics(weight_N, score_N, mask_N, noise_N)
        if name := SCORES.get(pl_module.score_name):
            statistics[f"{name}_mean"] = torch.where(mask_N, score_N.double(), 0.0).sum() / mask_N.sum()
            ascending_N = torch.where(mask_N, score_N.double(), torch.inf).sort().values
            statistics[f"{name}_median"] = quantile(ascending_N, mask_N.sum().double(), 0.5)
        values = torch.stack(list(statistics.values())).tolist()
        pl_module.log_dict(
            {f"weight/{key}": value for key, value in zip(statistics, values, strict=True) if value == value},
            batch_size=1,
        )
