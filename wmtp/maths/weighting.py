"""Turn raw token scores into token weights of mean 1.

[연구 맥락] 알고리즘(rho1, critic)은 토큰마다 점수만 낸다. 점수를 가중치로 바꾸는 길은 모두 같아야 비교가 된다.
    z = (s - mean) / (std + 1e-6)  →  u = max(z - q, 0)  →  w = N·softmax(u / T)
    →  clip(c·w, ε, W_max), c는 평균이 1이 되는 값  →  1 + λ·(w - 1)                       (maths.md 3절)
평균이 1이므로 손실의 크기와 학습률의 뜻이 baseline과 같고, 상하한이 있어 토큰 하나가 스텝을 차지하지 못한다.
[동작] 아래 다섯 함수는 행 하나를 한 범위(scope)로 보고 행마다 따로 계산한다. scope=batch는 배치를 한 행으로 편 것이다.
[디버깅] 가중치가 모두 1에 가까우면 λ와 T를, 모두 상하한에 붙어 있으면 T와 W_max를 본다. 점수 한 개가 아주 크면
std가 커져 나머지가 0 근처로 모인다. NaN 점수가 있는 범위의 가중치는 NaN이다: 점수를 지어내지 않는다.
"""

#   B sequences, T positions; S scopes (rows weighted on their own), L positions of a scope; n valid tokens of a scope,
#   those that are learnt: mask is True there

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from wmtp import ranges
from wmtp.errors import NonFiniteScoreError
from wmtp.maths.curve import Curve, value_at


def standardize(score_SL: Tensor, mask_SL: Tensor) -> Tensor:
    """Standardize token scores over the valid tokens of every row.

    [연구 맥락] 점수의 크기는 알고리즘마다 다르다 (rho1은 nat, critic은 보상 단위).
    z-score로 맞추어야 같은 온도 T가 같은 뜻을 가진다. (maths.md 3절 1단계)

    Args:
        score_SL: 토큰별 원점수, 유한한 실수. 단위는 무관.
        mask_SL: 학습 대상 토큰이면 True.

    Returns:
        z_SL, float32. mask 밖은 0.

    Example:
        >>> standardize(torch.tensor([[1., 2., 3.]]), torch.ones(1, 3, dtype=torch.bool))
        tensor([[-1.2247,  0.0000,  1.2247]])
    """
    # float64 sums equal numbers exactly (equal scores give exactly 0) and squares the largest float32.
    score_SL = torch.where(mask_SL, score_SL.double(), 0.0)
    count_S1 = mask_SL.sum(dim=1, keepdim=True).clamp(min=1)
    centred_SL = torch.where(mask_SL, score_SL - score_SL.sum(dim=1, keepdim=True) / count_S1, 0.0)
    std_S1 = (centred_SL.square().sum(dim=1, keepdim=True) / count_S1).sqrt()
    return (centred_SL / (std_S1 + 1e-6)).float()


def emphasize_top(z_SL: Tensor, mask_SL: Tensor, percentile: float) -> Tensor:
    """Give all tokens below the top fraction one shared floor.

    [연구 맥락] 위쪽 p만 점수 순서를 살리고 나머지는 같은 값으로 둔다. 버리는 토큰은 없다. (maths.md 3절 2단계)
    p = 1이면 최솟값을 뺄 뿐이어서 softmax가 무시한다.

    Args:
        percentile: 강조할 비율 p, (0, 1].

    Returns:
        u_SL = max(z - q, 0). q는 (1 - p) 분위수 (선형 보간). mask 밖은 0.

    Example:
        >>> emphasize_top(torch.tensor([[0., 1., 2., 3., 4.]]), torch.ones(1, 5, dtype=torch.bool), percentile=0.5)
        tensor([[0., 0., 0., 1., 2.]])
    """
    ascending_SL = torch.where(mask_SL, z_SL, torch.inf).sort(dim=1).values
    last_S1 = (mask_SL.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    place_S1 = last_S1.double() * (1.0 - percentile)
    below_S1 = ascending_SL.gather(1, place_S1.floor().long())
    above_S1 = ascending_SL.gather(1, place_S1.ceil().long())
    quantile_S1 = torch.lerp(below_S1, above_S1, place_S1.frac().to(z_SL.dtype))
    return torch.where(mask_SL, (z_SL - quantile_S1).clamp(min=0), 0.0)


def softmax_log_weights(u_SL: Tensor, mask_SL: Tensor, temperature: float) -> Tensor:
    """Compute the logarithm of n·softmax(u / T) over the valid tokens of every row.

    [연구 맥락] 백만 토큰 중 하나가 튀면 z = 1000이고 나머지의 exp는 0이 되어 순서를 잃는다.
    그래서 다음 단계까지 로그로 넘긴다. (maths.md 3절 3단계)

    Args:
        temperature: T > 0. 작을수록 뾰족하다.

    Returns:
        log_weight_SL, float64. exp의 평균이 1. mask 밖은 -inf.

    Example:
        >>> softmax_log_weights(torch.tensor([[0., 1.]]), torch.ones(1, 2, dtype=torch.bool), temperature=1.0).exp()
        tensor([[0.5379, 1.4621]], dtype=torch.float64)
    """
    log_weight_SL = torch.where(mask_SL, u_SL.double() / temperature, -torch.inf)
    log_mean_S1 = log_weight_SL.logsumexp(dim=1, keepdim=True) - mask_SL.sum(dim=1, keepdim=True).double().log()
    return torch.where(mask_SL, log_weight_SL - log_mean_S1, -torch.inf)


def clip_keeping_mean(log_weight_SL: Tensor, mask_SL: Tensor, epsilon: float, w_max: float) -> Tensor:
    """Clip c·w into [epsilon, w_max] with the one c that makes the mean 1.

    [연구 맥락] 자르고 나누면 상하한이, 자르기만 하면 평균이 깨진다. 둘 다 지키는 c는 하나뿐이다. (maths.md 3절 4단계)
    mean(clip(c·w))는 log c에 대해 증가하고, 토큰마다 꺾이는 점이 둘이다. 꺾이는 점 사이에서는 잘리지 않은
    토큰의 합만 c에 비례하므로, 정렬과 누적합으로 알맞은 구간을 찾으면 c가 정확히 나온다.

    Args:
        log_weight_SL: 가중치의 로그. 더해진 상수는 상관없다.
        epsilon: 하한, 0 < ε < 1.
        w_max: 상한, W_max > 1.

    Returns:
        weight_SL, float32. 유효한 토큰의 평균은 1, mask 밖은 0.

    Example:
        >>> clip_keeping_mean(torch.tensor([[0.1, 0.1, 0.1, 3.7]]).log(), torch.ones(1, 4, dtype=torch.bool), 0.05, 2.0)
        tensor([[0.6667, 0.6667, 0.6667, 2.0000]])
    """
    low, high = math.log(epsilon), math.log(w_max)
    count_S1 = mask_SL.sum(dim=1, keepdim=True)
    # Ascending, the valid ones first; log_sum[:, m] is the logarithm of the sum of the m smallest. Sums of small ones
    # are never differences of large ones: that keeps them exact next to one huge outlier.
    x_SL = torch.where(mask_SL, log_weight_SL.double(), torch.inf).sort(dim=1).values
    log_sum_SL = torch.cat([torch.full_like(x_SL[:, :1], -torch.inf), x_SL.logcumsumexp(dim=1)], dim=1)

    def regime(log_c: Tensor) -> tuple[Tensor, Tensor]:
        """Count, of the ascending weights times c, those at ε and those below W_max."""
        at_floor = torch.searchsorted(x_SL, low - log_c, right=True).minimum(count_S1)
        return at_floor, torch.searchsorted(x_SL, high - log_c).minimum(count_S1)

    def room(at_floor: Tensor, below_top: Tensor) -> Tensor:
        """Say what sum is left to the tokens between the bounds, if the mean is to be 1."""
        # An integer tensor times a Python float would be float32.
        return count_S1 - epsilon * at_floor.double() - w_max * (count_S1 - below_top).double()

    # Each token bends the curve where it leaves ε and where it reaches W_max; padding's bends are at -inf.
    bend_SL = torch.cat([low - x_SL, high - x_SL], dim=1)
    at_floor_SL, below_top_SL = regime(bend_SL)
    between_SL = (log_sum_SL.gather(1, below_top_SL) + bend_SL).exp()
    between_SL -= (log_sum_SL.gather(1, at_floor_SL) + bend_SL).exp()
    enough_SL = between_SL >= room(at_floor_SL, below_top_SL)
    left_S1 = torch.where(enough_SL, -torch.inf, bend_SL).amax(dim=1, keepdim=True)
    right_S1 = torch.where(enough_SL, bend_SL, torch.inf).amin(dim=1, keepdim=True)

    # Between two neighbouring bends it is settled who is at ε and who is at W_max; solve for c.
    middle_S1 = (left_S1 + right_S1) / 2
    at_floor_S1, below_top_S1 = regime(middle_S1)
    top_S1, floor_S1 = log_sum_SL.gather(1, below_top_S1), log_sum_SL.gather(1, at_floor_S1)
    log_between_S1 = top_S1 + torch.log1p(-(floor_S1 - top_S1).exp())
    log_c_S1 = room(at_floor_S1, below_top_S1).log() - log_between_S1
    # With nobody between the bounds every c of the interval gives the same weights.
    log_c_S1 = torch.where(at_floor_S1 < below_top_S1, log_c_S1.clamp(left_S1, right_S1), middle_S1)
    weight_SL = (log_weight_SL + log_c_S1).exp().float().clamp(epsilon, w_max)
    return torch.where(mask_SL, weight_SL, 0.0)


def blend(weight_SL: Tensor, mask_SL: Tensor, lam: float) -> Tensor:
    """Blend the weights with 1.

    [연구 맥락] λ = 0은 baseline, λ = 1은 온전한 가중치. 평균과 상하한은 그대로다. (maths.md 3절 5단계)

    Args:
        weight_SL: 평균 1인 가중치.
        lam: λ, [0, 1].

    Example:
        >>> blend(torch.tensor([[0.5, 1.5]]), torch.ones(1, 2, dtype=torch.bool), lam=0.2)
        tensor([[0.9000, 1.1000]])
    """
    return torch.where(mask_SL, 1.0 + lam * (weight_SL - 1.0), 0.0)


def shuffle_weights(weight_SL: Tensor, mask_SL: Tensor, key_SL: Tensor) -> Tensor:
    """Permute the weights over the valid tokens of every row, in the order of random keys.

    [연구 맥락] 값의 분포는 같고 자리만 틀린 가중치. 이것보다 나아야 점수에 뜻이 있다. (maths.md 6절)

    Args:
        key_SL: 자리마다 하나인 난수.

    Returns:
        유효한 토큰끼리 자리를 바꾼 가중치. mask 밖은 그대로.

    Example:
        >>> mask = torch.tensor([[True, False, True]])
        >>> shuffle_weights(torch.tensor([[2., 0., 1.]]), mask, torch.tensor([[.9, .5, .1]]))
        tensor([[1., 0., 2.]])
    """
    from_SL = (~mask_SL).to(torch.int8).argsort(dim=1, stable=True)
    to_SL = torch.where(mask_SL, key_SL, torch.inf).argsort(dim=1, stable=True)
    return torch.empty_like(weight_SL).scatter_(1, to_SL, weight_SL.gather(1, from_SL))


def smooth_scores(score_BT: Tensor, mask_BT: Tensor, reach: int) -> Tensor:
    """Average the score of every valid token with those of its valid neighbours in the same sequence.

    [연구 맥락] 망가진 구간에서도 토큰마다의 점수는 흩어진다. 이웃과 함께 보면 구간이 함께 오르내린다. (maths.md 3절)

    Args:
        reach: 양쪽으로 몇 자리까지가 이웃인지. 0이면 그대로.

    Returns:
        평균, float64 (reach가 0이면 준 그대로). mask 밖은 0.

    Example:
        >>> mask = torch.tensor([[True, True, False, True]])
        >>> smooth_scores(torch.tensor([[1., 3., 9., 5.]]), mask, reach=1)
        tensor([[2., 2., 0., 5.]], dtype=torch.float64)
    """
    if not reach:
        return score_BT
    mask_BT = mask_BT.double()
    wide_BT = torch.nn.functional.pad(torch.where(mask_BT > 0, score_BT.double(), 0.0), (reach, reach))
    count_BT = torch.nn.functional.pad(mask_BT, (reach, reach)).unfold(1, 2 * reach + 1, 1).sum(dim=2)
    return mask_BT * wide_BT.unfold(1, 2 * reach + 1, 1).sum(dim=2) / count_BT.clamp(min=1)


def draw_scores(score_SL: Tensor, mask_SL: Tensor, key_SL: Tensor) -> Tensor:
    """Give every valid token the score of a valid token of its row, drawn with replacement by random keys.

    [연구 맥락] shuffle은 배치의 가중치를 하나도 빠짐없이 다시 나누어 준다: 자리만 틀렸다. 여기서는 따로 뽑는다.
    분포는 점수의 것 그대로이고, 토큰의 무게는 그 토큰이나 다른 토큰에 대해 말하는 것이 없다. (maths.md 6절)

    Args:
        key_SL: 자리마다 하나인 난수, [0, 1).

    Returns:
        유효한 토큰의 점수를 바꾼 것. mask 밖은 0.

    Example:
        >>> mask = torch.tensor([[True, False, True]])
        >>> draw_scores(torch.tensor([[2., 0., 1.]]), mask, torch.tensor([[.9, .5, .6]]))
        tensor([[1., 0., 1.]])
    """
    valid_first_SL = (~mask_SL).to(torch.int8).argsort(dim=1, stable=True)
    place_SL = (key_SL * mask_SL.sum(dim=1, keepdim=True)).long()
    return torch.where(mask_SL, score_SL.gather(1, valid_first_SL.gather(1, place_SL)), 0.0)


@dataclass(frozen=True, kw_only=True)
class _Weighting:
    """Weigh the target tokens of a batch, scope by scope; a subclass says how the tokens of one scope are weighed.

    Args:
        scope: "batch" 또는 "sequence". 표준화와 평균 1의 범위.
        control: "none", 또는 대조군 "shuffle" (`shuffle_weights`)이나 "random" (`draw_scores`).
        seed: 대조군이 뽑는 난수의 씨앗. 실행의 것을 준다.
        smooth: 점수를 양쪽 몇 자리의 이웃과 평균할지 (`smooth_scores`). 0이면 하지 않는다.

    Raises:
        ConfigError: 값의 종류나 범위가 틀릴 때.
    """

    scope: str = "batch"
    control: str = "none"
    seed: int = 42
    smooth: int = 0

    def __post_init__(self):
        ranges.check(ranges.Weighting, scope=self.scope, control=self.control, smooth=self.smooth)

    def _weigh_rows(self, score_SL: Tensor, mask_SL: Tensor, done: float) -> Tensor:
        """Weigh the tokens of each row, which is one scope."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, score_BT: Tensor, mask_BT: Tensor, draw: int = 0, done: float = 0.0) -> Tensor:
        """Weight the target tokens of a batch, without waiting for the device.

        Args:
            score_BT: 목표 토큰의 원점수.
            mask_BT: 목표 토큰이면 True (`target_mask`).
            draw: 대조군에서만 쓴다. 몇 번째로 뽑는지, 배치마다 다른 수.
            done: 학습이 지난 비율. λ가 곡선일 때 쓴다.

        Returns:
            weight_BT, float32, 기울기 없음. mask 밖은 0. 점수 하나라도 NaN/Inf인 범위는 모두 NaN.
        """
        rows = (1, -1) if self.scope == "batch" else mask_BT.shape
        score_SL, mask_SL = score_BT.reshape(rows), mask_BT.reshape(rows)
        bad_SL = mask_SL & ~score_SL.isfinite()
        known_SL = smooth_scores(score_SL.masked_fill(bad_SL, 0.0).view_as(mask_BT), mask_BT, self.smooth).reshape(rows)
        if self.control == "random":
            known_SL = draw_scores(known_SL, mask_SL, self._keys(draw, score_BT).reshape(rows))
        weight_SL = self._weigh_rows(known_SL, mask_SL, done)
        if self.control == "shuffle":
            weight_SL = shuffle_weights(weight_SL, mask_SL, self._keys(draw, score_BT).reshape(rows))
        # What some tokens of a scope weigh depends on all of them: of a bad score no weight is made anywhere in it.
        weight_SL = weight_SL.masked_fill(mask_SL & bad_SL.any(dim=1, keepdim=True), torch.nan)
        return weight_SL.reshape(mask_BT.shape)

    def _keys(self, draw: int, score_BT: Tensor) -> Tensor:
        """Draw a number in [0, 1) for every position of a batch, the same for the same seed and draw."""
        # Drawn position by position, so that padding on the right changes no token's key.
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{draw}").getrandbits(63))
        key_BT = torch.rand(score_BT.shape[::-1], generator=generator, dtype=torch.float64).T
        # Out of memory that is not pinned the host would wait until the GPU gets to it.
        key_BT = key_BT.pin_memory() if score_BT.is_cuda else key_BT
        return key_BT.to(score_BT.device, non_blocking=True)


@dataclass(frozen=True)
class SoftWeighting(_Weighting):
    """Weight every token by the softmax of its score, with mean 1 and bounds.

    [연구 맥락] maths.md 3절의 다섯 단계. 어느 토큰도 버리지 않는다.

    Args:
        lam: λ, [0, 1]. 0이면 baseline. 학습을 따라 변하는 곡선일 수 있다 (`wmtp.maths.curve`).
        temperature: T > 0.
        percentile: 강조할 위쪽 비율 p, (0, 1]. 1이면 모두.
        epsilon: 가중치의 하한 ε, (0, 1).
        w_max: 가중치의 상한, > 1.
        scope, control, seed, smooth: `_Weighting`.

    Example:
        >>> SoftWeighting(lam=1.0)(torch.tensor([[0., 1., 2.]]), torch.tensor([[False, True, True]]))
        tensor([[0.0000, 0.1086, 1.8914]])
    """

    lam: Curve = 1.0
    temperature: float = 0.7
    percentile: float = 1.0
    epsilon: float = 0.05
    w_max: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        own = ("lam", "temperature", "percentile", "epsilon", "w_max")
        ranges.check(ranges.SoftWeighting, **{name: getattr(self, name) for name in own})

    def _weigh_rows(self, score_SL: Tensor, mask_SL: Tensor, done: float) -> Tensor:
        z_SL = standardize(score_SL, mask_SL)
        u_SL = emphasize_top(z_SL, mask_SL, self.percentile)
        log_weight_SL = softmax_log_weights(u_SL, mask_SL, self.temperature)
        weight_SL = clip_keeping_mean(log_weight_SL, mask_SL, self.epsilon, self.w_max)
        return blend(weight_SL, mask_SL, value_at(self.lam, done))


@dataclass(frozen=True)
class HardSelection(_Weighting):
    """Keep the top fraction of the tokens, drop the rest: Rho-1 as published.

    [연구 맥락] 상위 p는 1/p, 나머지는 0 (arXiv 2404.07965는 p = 0.6). p·n이 정수가 아니거나 문턱에 동점이 있으면
    문턱 이상을 모두 남기고 n/(남은 수)를 주어, 평균 1과 "같은 점수는 같은 가중치"를 지킨다.

    Args:
        percentile: 남길 비율 p, (0, 1].
        scope, control, seed, smooth: `_Weighting`.

    Example:
        >>> HardSelection(percentile=0.5)(torch.tensor([[4., 1., 3., 2.]]), torch.ones(1, 4, dtype=torch.bool))
        tensor([[2., 0., 2., 0.]])
    """

    percentile: float = 0.6

    def __post_init__(self):
        super().__post_init__()
        ranges.check(ranges.HardSelection, percentile=self.percentile)

    def _weigh_rows(self, score_SL: Tensor, mask_SL: Tensor, done: float) -> Tensor:
        count_S1 = mask_SL.sum(dim=1, keepdim=True)
        keep_S1 = (count_S1.double() * self.percentile).round().long().clamp(min=1)
        descending_SL = torch.where(mask_SL, score_SL, -torch.inf).sort(dim=1, descending=True).values
        kept_SL = mask_SL & (score_SL >= descending_SL.gather(1, keep_S1 - 1))
        return torch.where(kept_SL, (count_S1 / kept_SL.sum(dim=1, keepdim=True)).float(), 0.0)


def check_finite(score_BT: Tensor, mask_BT: Tensor) -> None:
    """Refuse scores that are NaN or Inf on target tokens; the host waits for the device to say so.

    Raises:
        NonFiniteScoreError: 개수와 첫 위치를 알려 준다.
    """
    bad_BT = mask_BT & ~score_BT.isfinite()
    if not bad_BT.any():
        return
    row, column = bad_BT.nonzero()[0].tolist()
    raise NonFiniteScoreError(
        f"{int(bad_BT.sum())} of {int(mask_BT.sum())} token scores are not finite, the first one at sequence {row}, "
        f"position {column} ({score_BT[row, column].item()}). A score is never guessed: look at the loss and the "
        "learning rate of the steps before."
    )
