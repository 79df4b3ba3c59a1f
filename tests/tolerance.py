"""Tell rounding from a fault: how far apart two ways of computing one number may come out.

[연구 맥락] 행렬곱의 커널은 CPU마다, 스레드 수마다, 행렬의 모양마다 더하는 순서가 다르다. 그래서 한 기계에서 읽은
    허용오차는 다른 기계에서 깨지거나, 잘못을 놓친다. 여기서는 크기와 정밀도에서 구한다.
[동작] 수 n개의 합은 순서가 어떻든 (n − 1)·u·Σ|xᵢ| 안에서 맞다, u = eps/2 (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1절과 4.2절). 반올림은 서로 지우므로, 서로 무관하면 8·√n·u·Σ|xᵢ|를 넘을 확률이 2n·e⁻³²보다
    작다 (Higham과 Mary 2019). 두 가지 방법의 차이는 그 두 배다. n은 한 수에 이르는 길에서 더해지는 수를 모두 센 것이고,
    Σ|xᵢ| 대신 함께 구한 수 가운데 가장 큰 것을 쓴다.
[디버깅] 약속이 대수적이면 (나누어 구해도 같다, 패딩은 상관없다) `in_float64`로 구한다. 한계가
    잘못보다 백만 배 작아진다.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ContextDecorator

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Tensors = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def relative_rounding(terms: int, dtype: torch.dtype) -> float:
    """Bound the relative difference between two ways of adding up so many terms."""
    return min(terms, 8 * math.sqrt(terms)) * torch.finfo(dtype).eps


def terms_of(model: nn.Module, positions: int) -> int:
    """Count the terms that are added up on the way to a logit and back to a gradient.

    [동작] 앞으로 가며 모든 행렬의 행을 한 번씩 (norm의 평균, 어휘의 softmax도), 층마다 주의집중의 위치를 한 번씩
        더한다. 뒤로 가며 행렬마다 두 번, 입력과 가중치의 기울기를 구한다.
    """
    rows = sum(max(parameter.shape) for parameter in model.parameters())
    layers = model.config.num_hidden_layers + len(getattr(model, "extra_heads", ()))
    return 3 * (rows + layers * positions)


def assert_same_up_to_rounding(ours: Tensors, theirs: Tensors, terms: int, dtype: torch.dtype | None = None) -> None:
    """Hold that tensors which were computed together are the same but for rounding.

    Args:
        ours: 텐서 하나, 또는 함께 구한 텐서들.
        theirs: 같은 모양과 정밀도.
        terms: 한 수에 이르는 길에서 더해지는 수의 개수.
        dtype: 길에서 가장 낮은 정밀도. 없으면 텐서의 것.
    """
    ours, theirs = _lists(ours, theirs)
    dtype = dtype or max((t.dtype for t in theirs), key=lambda dtype: torch.finfo(dtype).eps)
    largest = max((float(t.detach().abs().max()) for t in theirs if t.numel()), default=0.0)
    bound = relative_rounding(terms, dtype) * largest
    assert math.isfinite(bound), "nothing is near to infinity"
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=bound)


def distance(ours: Tensors, theirs: Tensors, start: Tensors | None = None) -> float:
    """Say how far two ends of training lie from each other, as a share of the way there; of their size without a start.

    [연구 맥락] AdamW는 0에 가까운 기울기의 반올림을 학습률의 몫으로 키운다. 가장 큰 차이는 그래서 아무 뜻이 없고,
        길이의 비율에는 뜻이 있다.
    """
    return _length(*_lists(ours, theirs)) / _length(*_lists(start, theirs))


def adaptive_rounding(terms: int, dtype: torch.dtype) -> float:
    """Bound the `distance` that rounding makes between two runs of AdamW.

    [동작] 기울기의 오차가 δ = `relative_rounding`이면, 크기가 r·δ인 원소의 걸음은 min(1, 1/r)만큼 달라진다. 원소가 0
        가까이에 고르게 있으므로 제곱의 합은 걸음의 제곱의 ∫ min(1, 1/r²) δ dr = 2δ. 길이는 √(2δ).
    """
    return math.sqrt(2 * relative_rounding(terms, dtype))


class in_float64(TorchFunctionMode, ContextDecorator):
    """Compute in float64 what is computed inside: transformers' norms and rotary angles ask for float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.float:
            func = Tensor.double
        wide = lambda value: torch.float64 if value is torch.float32 else value  # noqa: E731
        return func(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


def _lists(ours: Tensors | None, theirs: Tensors) -> tuple[list[Tensor], list[Tensor]]:
    """Bring both into the same order; nothing is zero everywhere."""
    if isinstance(theirs, Mapping):
        assert ours is None or ours.keys() == theirs.keys()
        ours, theirs = None if ours is None else [ours[name] for name in theirs], theirs.values()
    elif isinstance(theirs, Tensor):
        ours, theirs = ours if ours is None else [ours], [theirs]
    return [*map(torch.zeros_like, theirs)] if ours is None else [*ours], [*theirs]


def _length(starts: list[Tensor], ends: list[Tensor]) -> float:
    pairs = zip(starts, ends, strict=True)
    return math.sqrt(sum(float((end.double() - start.double()).square().sum()) for start, end in pairs))
