"""Let a gradient through only in part, exactly.

[연구 맥락] 새로 단 헤드의 기울기는 처음에 크고 뜻이 없어서, 그대로 흘리면 잘 배운 몸통을 망가뜨린다. 앞으로 가는 값은
    그대로 두고 뒤로 오는 기울기에만 수를 곱하면, 헤드는 그대로 배우고 몸통은 원하는 만큼만 듣는다.
"""

from typing import Any

import torch
from torch import Tensor


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return the same values, whose gradient reaches x times `factor`.

    Args:
        factor: 기울기의 배율. 1이면 x 그대로, 0이면 떼어 낸 것이라 뒤로 아무것도 계산하지 않는다.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> scale_gradient(x, 0.25).square().sum().backward()
        >>> x.grad      # of x², 2·3, a quarter of it
        tensor([1.5000])
    """
    if factor == 1 or not x.requires_grad:
        return x
    return x.detach() if factor == 0 else _Scaled.apply(x, factor)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
