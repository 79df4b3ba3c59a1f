"""Look at every step once before it is taken, and decide on all ranks together.

[연구 맥락] 스텝을 밟기 전에 물을 것이 셋이다: 유한한가 (FiniteGuard), 폭발했나 (LossExplosion), 멈추라는 신호가 왔나
    (GracefulStop). 저마다 묻는다면 스텝마다 세 번 장치를 기다리고 세 번 랭크를 모은다.
[동작] 저마다 숫자 몇 개를 장치 위에 내놓는다 (`ask`). 모두 이어 붙여 랭크끼리 한 번 더하고, 한 번 가져와, 나누어 준다
    (`answer`). 합은 모든 랭크에서 같으므로 모든 랭크가 같은 결정을 한다. 차례는 conf/callbacks/default.yaml과 같다.
    하나를 빼도 (~callbacks.loss_explosion) 나머지는 그대로다.
[디버깅] `answer`가 예외를 던지면 그 뒤의 것은 묻지 않는다. 모든 랭크에서 같은 것이 던진다.
"""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer


class StepCheck(Callback):
    """Ask one thing before every step; all that ask share one wait for the device."""

    def ask(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """Return the numbers of this rank, float32, one-dimensional, on the device, without waiting for it."""
        raise NotImplementedError

    def answer(self, trainer: Trainer, pl_module: LightningModule, sums: list[float]) -> None:
        """Hear those numbers, added up over the ranks; raise to keep the step from being taken."""
        raise NotImplementedError

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Let all checks ask and answer, in their order; the first of them does it for all."""
        checks = [callback for callback in trainer.callbacks if isinstance(callback, StepCheck)]
        if self is checks[0]:
            decide_together(checks, trainer, pl_module)


def decide_together(checks: list[Any], trainer: Trainer, pl_module: LightningModule) -> None:
    """Add up what the checks ask over the ranks, fetch it at once, and give each its part."""
    asked = [check.ask(trainer, pl_module) for check in checks]
    sums = trainer.strategy.reduce(torch.cat(asked), reduce_op="sum").tolist()  # the one wait for the device
    for check, own in zip(checks, asked, strict=True):
        mine, sums = sums[: len(own)], sums[len(own) :]
        check.answer(trainer, pl_module, mine)
