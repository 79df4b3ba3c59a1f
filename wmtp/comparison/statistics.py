"""Say how large a difference between two methods is, and how sure that is, from a few seeds and many problems.

[연구 맥락] 우리가 묻는 것은 "이 모델 둘"이 아니라 "이 방법 둘"이다: 다른 씨앗으로 학습하고 다른 문제를 물어도 그런가.
    표는 씨앗 S개 × 문제 P개의 짝지은 차이 d(s, p) = δ + u(s) + v(p) + e(s, p)이고, 씨앗도 문제도 뽑힌 것이다.
    문제는 많고 씨앗은 적다. 그래서 구간의 폭은 거의 언제나 씨앗이 정한다.
[동작] 여러 판독자가 여러 사례를 읽는 설계와 같다 (Obuchowski-Rockette). 판독자가 씨앗, 사례가 문제다.
    Var(mean) = V_seed + max(V_problem - V_error, 0)
    V_seed는 씨앗별 평균의 분산 / S (e도 들어 있다), V_problem은 문제별 평균의 분산 / P.
    둘에 겹쳐 든 e를 한 번 뺀다. t분포의 자유도는 S - 1이다.
    Hillis(2007)의 자유도 Var² / (V_seed² / (S - 1))는 더 크지만, 5 %여야 할 거짓 경보가 씨앗 2개에서 9 %였다.
    씨앗 5개와 문제 1000개에서 둘의 검정력은 거의 같다 (89 %와 90 %). 문제가 적고 씨앗이 조용하면 S - 1이 넓다.
    짝이 없으면 두 방법의 V_seed를 더하고 자유도는 Welch의 것이다.
    문제가 없는 값(CE, 속도)에서는 씨앗별 값의 t 구간이 된다.
    씨앗 1개: 씨앗의 흔들림을 알 수 없다. 구간은 문제만의 것이고, 방법에 대해서는 말하지 않는다 (`over = "problems"`).
    씨앗 2개: 표준오차의 12.7배라 거의 아무것도 말할 수 없다. 그것이 사실이다. 3개는 4.3배, 5개는 2.8배다.
    다섯보다 적은 씨앗은 우연히 서로 같기 쉽다. 그때 구간은 이 모델들만의 구간(문제의 분산)보다 좁지 않게 한다.
    두 단계 bootstrap(Owen 2007)은 씨앗의 분산을 (S - 1)/S배로 줄이고 t의 꼬리를 모르며, e는 두 번 센다.
    그래서 씨앗 5개의 95 % 구간이 씨앗이 크게 흔들리면 90 %만, 조용하면 99 %를 덮는다 (`scripts/bench/compare.py`).
    나란히 적기만 하고, 결정은 위의 구간으로 한다.
    순열검정은 씨앗마다 부호를 바꾼다. 가정이 가장 적지만 p가 2/2^S보다 작을 수 없다: 씨앗 5개에서는 0.0625이다.
[디버깅] 차이가 큰데 p가 크면 `df`와 씨앗 수를 본다. 문제를 더 푸는 것이 아니라 씨앗을 더 돌려야 한다.
"""

#   S seeds, P problems, R resamples; a leading … is any number of studies at once

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Fewer problems than this that differ: their own variance says too little (as in wmtp/maths/pass_at_k.py).
_FEW = 10
# The means of fewer seeds than this are often alike by chance, and the interval would be too narrow to believe.
_ENOUGH_SEEDS = 5
# All sign flips up to 2^14, all relabellings up to this many; more are drawn.
_MOST_RELABELLINGS = 2**14

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Hold a difference with its interval.

    Attributes:
        value: 평균.
        standard_error, df: 표준오차와 t분포의 자유도. 모르면 NaN.
        of_these_models: 학습한 이 모델들만의 표준오차. 구간은 그것의 정규 구간보다 좁지 않다.
        over: "seeds and problems", "seeds", 씨앗이 하나면 "problems", 아무것도 알 수 없으면 "nothing".
    """

    value: Any
    standard_error: Any
    df: Any
    over: str
    of_these_models: Any = 0.0

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Bound the value; (NaN, NaN) where nothing is known of its spread."""
        tail = (1 + level) / 2
        half = np.maximum(stats.t.ppf(tail, self.df) * self.standard_error, stats.norm.ppf(tail) * self.of_these_models)
        return self.value - half, self.value + half

    def p(self, than: float = 0.0) -> Any:
        """Say how surprising a value this far from `than` would be, on either side."""
        away = np.abs(self.value - than)
        by_seeds = stats.t.sf(_in_errors(away, self.standard_error), self.df)
        return 2 * np.maximum(by_seeds, stats.norm.sf(_in_errors(away, self.of_these_models)))


def _in_errors(away: Any, error: Any) -> Any:
    """Divide by a standard error, which may be 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(error, 0), np.where(away > 0, np.inf, 0.0), away / error)


def estimate(parts: Sequence[Array]) -> Estimate:
    """Estimate the sum of the means of tables of seeds by problems.

    Args:
        parts: [..., S, P]. 짝지은 차이면 표 하나, 짝이 없으면 둘 (뺄 쪽은 부호를 바꾼다). 문제는 모든 표에서 같다.

    Example:
        >>> found = estimate([np.array([[0.04], [0.05], [0.06]])])
        >>> [round(float(number), 3) for number in (found.value, found.df, *found.interval())]
        [0.05, 2.0, 0.025, 0.075]
    """
    parts = [np.asarray(part, dtype=np.float64) for part in parts]
    seeds, problems = [part.shape[-2] for part in parts], parts[0].shape[-1]
    by_problem = sum(part.mean(-2) for part in parts)
    value = by_problem.mean(-1)
    of_problems = _variance_over_problems(by_problem) if problems > 1 else np.zeros_like(value)
    if min(seeds) < 2:  # what a seed moves cannot be known
        known = problems > 1
        error = np.sqrt(of_problems) if known else np.full_like(value, np.nan)
        return Estimate(value, error, np.full_like(value, np.inf), "problems" if known else "nothing")
    of_seeds = [part.mean(-1).var(-1, ddof=1) / S for part, S in zip(parts, seeds, strict=True)]
    both = sum(_residual_variance(part) / (S * problems) for part, S in zip(parts, seeds, strict=True))
    variance = sum(of_seeds) + np.maximum(of_problems - both, 0)
    doubt = sum(one**2 / (S - 1) for one, S in zip(of_seeds, seeds, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(doubt > 0, sum(of_seeds) ** 2 / doubt, sum(seeds) - len(seeds))
    least = np.sqrt(of_problems) if min(seeds) < _ENOUGH_SEEDS else np.zeros_like(value)
    return Estimate(value, np.sqrt(variance), df, "seeds and problems" if problems > 1 else "seeds", least)


def _variance_over_problems(by_problem: Array) -> Array:
    """Estimate the variance of the mean; where few problems differ, with one more won and one more lost."""
    problems = by_problem.shape[-1]
    plain = by_problem.var(-1, ddof=1) / problems
    more = problems + 2  # Bonett and Price 2012
    shrunk = ((by_problem**2).sum(-1) + 2) / more - (by_problem.sum(-1) / more) ** 2
    return np.where(np.count_nonzero(by_problem, axis=-1) < _FEW, shrunk / more, plain)


def _residual_variance(part: Array) -> Array:
    """Estimate what is neither the seed's nor the problem's."""
    seeds, problems = part.shape[-2:]
    if problems < 2:
        return np.zeros(part.shape[:-2])
    # Sums of squares instead of the residuals: one pass over a table that may be large.
    total = part.var((-2, -1)) * seeds * problems
    left = total - part.mean(-1).var(-1) * seeds * problems - part.mean(-2).var(-1) * seeds * problems
    return np.maximum(left, 0) / ((seeds - 1) * (problems - 1))


def bootstrap_interval(
    parts: Sequence[Array], level: float = 0.95, resamples: int = 4000, seed: int = 42
) -> tuple[float, float]:
    """Bound the same sum by drawing seeds and problems again, both at once (percentiles).

    [동작] 뽑힌 횟수를 무게로 곱한다: 표 전체를 R번 복사하지 않는다. 씨앗이 적으면 너무 좁다 (모듈의 글).
    """
    drawn, problems = np.random.default_rng(seed), parts[0].shape[-1]
    share_RP = drawn.multinomial(problems, np.full(problems, 1 / problems), resamples) / problems
    means_R = np.zeros(resamples)
    for part in parts:
        seeds = part.shape[-2]
        share_RS = drawn.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
        means_R += ((share_RS @ part) * share_RP).sum(-1)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(parts: Sequence[Array], draws: int = _MOST_RELABELLINGS, seed: int = 42) -> tuple[float, float]:
    """Test by what else the seeds could have said: signs turned in pairs, arms exchanged where there are none.

    Returns:
        (p, 이만한 씨앗으로 나올 수 있는 가장 작은 p).

    Example:
        >>> permutation_p([np.array([[0.04], [0.05], [0.06], [0.05], [0.03]])])
        (0.0625, 0.0625)
    """
    means = [np.asarray(part).mean(-1) for part in parts]
    drawn = np.random.default_rng(seed)
    if len(means) == 1:
        (mean_S,) = means
        count = 2 ** len(mean_S)
        every = count <= draws
        signs = np.array(list(product((1, -1), repeat=len(mean_S)))) if every else None
        signs = signs if every else drawn.choice([1, -1], (draws, len(mean_S)))
        found, others = mean_S.mean(), (signs * mean_S).mean(-1)
    else:
        first, second = means[0], -means[1]  # the second came with its sign turned
        pooled, size = np.concatenate([first, second]), len(first)
        count = math.comb(len(pooled), size)
        every = count <= draws
        chosen = combinations(range(len(pooled)), size) if every else (
            drawn.permutation(len(pooled))[:size] for _ in range(draws)
        )  # fmt: skip
        sums = np.array([pooled[list(which)].sum() for which in chosen])
        found = first.mean() - second.mean()
        others = sums / size - (pooled.sum() - sums) / (len(pooled) - size)
    as_far = np.abs(others) >= np.abs(found) - 1e-12 * max(1.0, abs(found))
    mirrored = 2 if len(means) == 1 or 2 * size == len(pooled) else 1  # as far on the other side
    if every:
        return float(as_far.mean()), mirrored / count
    return float((1 + as_far.sum()) / (1 + draws)), 1 / (1 + draws)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979): the smallest times m, the next times m - 1, never falling.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        least = corrected[i] = max(least, min(1.0, (len(ps) - rank) * ps[i]))
    return corrected


def cohens_h(
    estimated: tuple[float, float, float], share_a: float, share_b: float
) -> tuple[float, float, float] | None:
    """Turn a difference of shares and the ends of its interval into Cohen's h, which counts alike near 0, 1/2 and 1.

    [동작] h = 2 asin √a - 2 asin √b. 구간은 같은 비율로 옮긴다 (델타 방법).

    Example:
        >>> [round(value, 3) for value in cohens_h((0.05, 0.01, 0.09), 0.40, 0.35)]
        [0.103, 0.021, 0.186]
    """
    value, low, high = estimated
    middle = (share_a + share_b) / 2
    if not 0 < middle < 1:
        return None
    h = 2 * math.asin(math.sqrt(share_a)) - 2 * math.asin(math.sqrt(share_b))
    scale = h / value if value else 1 / math.sqrt(middle * (1 - middle))
    return h, low * scale, high * scale
