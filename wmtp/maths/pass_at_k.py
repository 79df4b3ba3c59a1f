"""Estimate pass@k without bias, and how sure the estimate is.

[연구 맥락] 문제마다 n개를 뽑아 c개가 맞았을 때, k개를 뽑으면 하나라도 맞을 확률 (Chen et al. 2021, maths.md 7절).
    pass@k = 1 - C(n-c, k) / C(n, k) = 1 - Π_{i<k} (n-c-i)/(n-i)
[동작] 문제별 값을 먼저 구하고 평균한다. 신뢰구간은 문제를 다시 뽑는 bootstrap, 두 실행은 같은 문제끼리 짝지어 비교한다.
    맞은 것이나 틀린 것이 몇 개뿐이면 다시 뽑아도 같은 값만 나와 구간이 너무 좁다 (다섯 중 다섯이면 폭이 0).
    그때는 닫힌 식을 쓴다: 평균은 Wilson의 점수 구간, 짝지은 차이는 Bonett-Price의 구간.
[디버깅] 구간이 넓으면 표본이 아니라 문제가 모자란 것이다: 문제 200개의 pass@1은 표준오차가 3.4 %p이다.
"""

#   P problems, R resamples drawn at a time

from collections.abc import Sequence
from math import comb
from statistics import NormalDist

import torch

from wmtp.errors import ConfigError

# 8 million indices at a time: 64 MB, whatever the number of problems.
_INDICES_AT_A_TIME = 2**23

# Fewer passes, failures or differing problems than this: resampling sees too little of what could have happened.
_FEW = 10


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate the probability that at least one of k samples passes, from c of n that did.

    Raises:
        ConfigError: k > n일 때. 조용히 빼지 않는다.

    Example:
        >>> pass_at_k(n=4, c=1, k=2)
        0.5
    """
    if not 1 <= k <= n:
        raise ConfigError(
            f"pass@{k} cannot be estimated from n = {n} samples a problem: k must be in [1, n]. "
            f"Draw at least {max(k, 1)} samples a problem, or ask for a smaller k."
        )
    if not 0 <= c <= n:
        raise ValueError(f"c = {c} of n = {n} samples cannot have passed.")
    all_fail = 1.0
    for i in range(k):
        all_fail *= max(n - c - i, 0) / (n - i)
    return 1.0 - all_fail


def mean_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 42
) -> tuple[float, float]:
    """Bound the mean over problems, for the problems that could have been asked instead.

    [동작] 문제를 다시 뽑는 백분위 구간. 맞은 것이나 틀린 것이 열 개가 안 되거나 모든 문제의 값이 같으면 Wilson의 구간:
    맞고 틀림뿐인 값에서는 그대로이고, 그 사이의 값(n > 1)에서는 분산이 m(1 - m)보다 작으므로 조금 넓다.

    Example:
        >>> mean_interval([0.0, 1.0] * 50)
        (0.4, 0.6)
        >>> [round(end, 3) for end in mean_interval([1.0] * 5)]
        [0.566, 1.0]
    """
    _require_problems(len(values))
    passes = sum(values)
    if min(passes, len(values) - passes) < _FEW or min(values) == max(values):
        return wilson_interval(passes, len(values), level)
    return _bootstrap_interval(values, level, resamples, seed)


def wilson_interval(passes: float, problems: int, level: float = 0.95) -> tuple[float, float]:
    """Bound a share by the shares that would not find what was found surprising (Wilson 1927).

    Example:
        >>> [round(end, 4) for end in wilson_interval(81, 263)]
        [0.2553, 0.3662]
    """
    _require_problems(problems)
    z = NormalDist().inv_cdf((1 + level) / 2)
    mean, shrink = passes / problems, 1 / (1 + z * z / problems)
    middle = shrink * (mean + z * z / (2 * problems))
    half = shrink * z * (mean * (1 - mean) / problems + (z / (2 * problems)) ** 2) ** 0.5
    # At the ends the formula gives 0 and 1, up to rounding.
    return (0.0 if passes == 0 else middle - half), (1.0 if passes == problems else middle + half)


def paired_difference(values_a: Sequence[float], values_b: Sequence[float]) -> tuple[float, float, float]:
    """Compare two runs on the same problems: the mean of a - b and its 95 % interval.

    [연구 맥락] 문제의 난이도 차이는 두 실행에 똑같이 들어 있다. 짝을 지으면 그만큼 구간이 좁아진다.
    [동작] 값이 다른 문제가 열 개가 안 되거나 모두 같은 만큼 다르면, 한쪽만 맞은 문제를 하나씩 더해 놓고 정규 구간을
    구한다 (Bonett과 Price 2012). 다섯 문제가 모두 같다고 해서 차이가 0이라고 확신할 수는 없다.

    Returns:
        (mean(a - b), low, high). 구간에 0이 없으면 차이가 있다고 말할 수 있다.

    Example:
        >>> [round(value, 3) for value in paired_difference([1.0] * 12, [1.0] * 12)]
        [0.0, -0.198, 0.198]
    """
    if len(values_a) != len(values_b):
        raise ConfigError(
            f"a paired comparison needs the same problems in both runs, but they hold {len(values_a)} and "
            f"{len(values_b)}. Evaluate both on the same benchmark and split."
        )
    differences = [a - b for a, b in zip(values_a, values_b, strict=True)]
    _require_problems(len(differences))
    mean = sum(differences) / len(differences)
    if sum(map(bool, differences)) < _FEW or min(differences) == max(differences):
        return mean, *_bonett_price_interval(differences)
    return mean, *_bootstrap_interval(differences)


def sign_test(better: int, worse: int) -> float:
    """Return how likely chance alone makes so many of the changed problems go one way (exact, two-sided).

    [연구 맥락] 표본이 하나씩이면 McNemar의 정확한 검정이다: 달라진 문제마다 앞뒤 어느 쪽이든 반반이라고 본다.

    Example:
        >>> sign_test(better=8, worse=1), sign_test(3, 3), sign_test(0, 0)
        (0.0390625, 1.0, 1.0)
    """
    changed = better + worse
    return min(1.0, 2 * sum(comb(changed, i) for i in range(min(better, worse) + 1)) / 2**changed)


def _bonett_price_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Bound a mean difference by the normal interval over the problems and two more, one won and one lost."""
    more = [*differences, 1.0, -1.0]
    mean = sum(more) / len(more)
    variance = sum((difference - mean) ** 2 for difference in more) / len(more)
    half = NormalDist().inv_cdf(0.975) * (variance / len(more)) ** 0.5
    return max(-1.0, mean - half), min(1.0, mean + half)


def _require_problems(problems: int) -> None:
    if problems == 0:
        raise ValueError("there is no interval over no problems.")


def _bootstrap_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 42
) -> tuple[float, float]:
    values_P, generator = torch.tensor(values, dtype=torch.float64), torch.Generator().manual_seed(seed)
    rows, P = max(_INDICES_AT_A_TIME // len(values), 1), len(values)
    blocks = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    means_R = torch.cat([values_P[torch.randint(P, (R, P), generator=generator)].mean(1) for R in blocks])
    tail = (1.0 - level) / 2.0
    return tuple(means_R.quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64)).tolist())
