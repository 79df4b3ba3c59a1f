"""Follow a number that changes along the training: a constant, or straight lines between given points.

[연구 맥락] 새 헤드의 기울기를 몸통에 조금씩 열어 주는 것도(0 → 1), DeepSeek-V3처럼 MTP 손실의 몫을 나중에 줄이는 것도
    (0.3 → 0.1, arXiv 2412.19437) 같은 모양이다: 학습의 어느 자리에서 얼마.
"""

from collections.abc import Mapping
from itertools import pairwise

Curve = float | Mapping[float, float]


def value_at(curve: Curve, share: float) -> float:
    """Return the value of a curve when that share of the training is done.

    Args:
        curve: 수 하나, 또는 {학습이 지난 비율: 값}. 점 사이는 곧은 선이고, 처음 점의 앞과 마지막 점의 뒤는 평평하다.
        share: 학습이 지난 비율, 0에서 1.

    Example:
        >>> value_at(0.3, 0.5), value_at({0: 0.0, 0.2: 1.0}, 0.05), value_at({0: 0.0, 0.2: 1.0}, 0.9)
        (0.3, 0.25, 1.0)
    """
    if not isinstance(curve, Mapping):
        return float(curve)
    points = sorted((float(place), float(value)) for place, value in curve.items())
    for (left, low), (right, high) in pairwise(points):
        if left <= share < right:
            return low + (high - low) * (share - left) / (right - left)
    return points[0][1] if share < points[0][0] else points[-1][1]
