"""Stop when the loss leaves the range that it has been in: training that went wrong rarely comes back.

[연구 맥락] 발산은 대개 유한한 값으로 시작한다. NaN을 기다리면 그사이에 쓴 체크포인트까지 망가진 가중치다.
[동작] 스텝의 손실(모든 조각, 모든 랭크)이 최근 window 스텝의 중앙값의 factor배를 넘으면 그 스텝을 밟지 않고 멈춘다.
    중앙값의 창은 체크포인트에 들어가므로, 이어 한 학습도 같은 눈으로 본다.
[디버깅] 잘못 멈춘다면 factor를 올리거나 ~callbacks.loss_explosion으로 뺀다.
"""

from collections import deque
from statistics import median
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from wmtp import ranges
from wmtp.callbacks.step_check import StepCheck
from wmtp.errors import LossExplosionError


class LossExplosion(StepCheck):
    """Raise LossExplosionError on all ranks when a step's loss is far above the recent ones.

    Args:
        factor: 중앙값의 몇 배부터 폭발인지.
        window: 중앙값을 내는 스텝의 수. 그 반이 모이기 전에는 보지 않는다.
        floor: 중앙값이 이보다 작아도 이 값으로 센다 (nat). 거의 다 배운 모델의 작은 흔들림은 폭발이 아니다.
    """

    def __init__(self, factor: float = 10.0, window: int = 50, floor: float = 0.1) -> None:
        ranges.check(ranges.LossExplosion, factor=factor, window=window)
        self.factor, self.window, self.floor = factor, window, floor
        self.recent: deque[float] = deque(maxlen=window)
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted step left."""
        self._losses = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the loss of a micro-batch, on the device."""
        self._losses.append(pl_module.last_step["loss"].detach())

    def ask(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """Give this rank's share of the mean loss of the step."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).float().mean().reshape(1) / trainer.world_size

    def answer(self, trainer: Trainer, pl_module: LightningModule, sums: list[float]) -> None:
        """Compare this step with the ones before it.

        Raises:
            LossExplosionError: 손실이 폭발했을 때, 모든 랭크에서.
        """
        (loss,) = sums
        if len(self.recent) >= max(self.window // 2, 2):
            usual = max(median(self.recent), self.floor)
            if loss > self.factor * usual:
                raise LossExplosionError(
                    f"loss = {loss:.4g} at step {trainer.global_step} is more than {self.factor:g} times the usual "
                    f"{usual:.4g}; the step was not taken. Try a smaller optimizer.lr or a larger algo.warmup, or "
                    "allow it with callbacks.loss_explosion.factor."
                )
        if loss == loss:
            self.recent.append(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return the recent losses, for the checkpoint."""
        return {"recent": list(self.recent)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the recent losses of a checkpoint."""
        self.recent.extend(state_dict["recent"])
