"""Build the optimizers: AdamW, and Muon with AdamW for what is not a block matrix.

[연구 맥락] Muon은 은닉층의 2차원 행렬만 직교화해 갱신한다 (Jordan et al. 2024). 임베딩, norm, 출력층은 AdamW가 맡는다.
    작은 모델에서 같은 스텝 수로 pass@1이 크게 다르다 (docs/benchmarks.md).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

from wmtp import ranges
from wmtp.models.mtp import MTPMixin
from wmtp.private_names import let_lightning_unscale

# Of heads that no checkpoint held: what docs/new_heads.md measured, beside 2e-5 for the rest.
NEW_HEADS_LR = 5e-4


def adamw(
    model: MTPMixin,
    lr: float = 3e-4,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    heads_lr: float | None = None,
) -> Optimizer:
    """Build AdamW; matrices decay, vectors (norms, biases) do not.

    Args:
        heads_lr: 헤드 1, 2, …의 학습률. None이면 lr. 새 헤드(`model.new_heads`)는 배울 것이 몸통보다 많으므로
            적어도 `NEW_HEADS_LR`.
    """
    ranges.check(ranges.adamw, lr=lr, heads_lr=heads_lr)
    if heads_lr is None and model.new_heads is not None:
        heads_lr = max(lr, NEW_HEADS_LR)
    parameters = [p for p in model.parameters() if p.requires_grad]
    parts = [(parameters, lr)]
    if heads_lr is not None:
        heads = {id(p) for p in model.extra_heads.parameters()}
        parts = [([p for p in parameters if (id(p) in heads) == own], rate) for own, rate in ((0, lr), (1, heads_lr))]
    groups = [
        {"params": [p for p in part if (p.ndim >= 2) == matrices], "weight_decay": decay, "lr": rate}
        for part, rate in parts
        for matrices, decay in ((True, weight_decay), (False, 0.0))
    ]
    optimizer = AdamW([group for group in groups if group["params"]], lr=lr, betas=(betas[0], betas[1]), fused=True)
    let_lightning_unscale(optimizer)
    return optimizer


def muon(
    model: MTPMixin,
    lr: float = 0.02,
    adamw_lr: float = 2e-3,
    weight_decay: float = 0.01,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.95),
) -> Optimizer:
    """Build Muon for the matrices of decoder layers and AdamW for all else.

    Args:
        lr: Muon의 학습률.
        adamw_lr: 임베딩, norm, 출력층의 학습률.
        weight_decay: Muon이 맡는 행렬의 가중치 감쇠. 나머지는 감쇠하지 않는다.
        momentum: Muon의 모멘텀.
        betas: AdamW의 두 평균의 계수.
    """
    ranges.check(ranges.muon, lr=lr, adamw_lr=adamw_lr)
    layers = [*model.decoder_layers, *model.extra_heads]
    matrices = [p for layer in layers for p in layer.parameters() if p.requires_grad and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    return CombinedOptimizer(
        Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay),
        AdamW(rest, lr=adamw_lr, betas=(betas[0], betas[1]), weight_decay=0.0, fused=True),
    )


class CombinedOptimizer(Optimizer):
    """Step several optimizers as one, so that Lightning, the scheduler and checkpoints see a single one.

    The parameter groups and the state are the parts' own: a scheduler that sets `lr` sets it there.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of every part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of all parts, and keep sharing it."""
        super().load_state_dict(state)
        self._share()
