"""Warn when head 0 becomes worse than it was before training: the other heads, or the rate, are wrecking the trunk.

[연구 맥락] 사람들이 쓰는 것은 head 0이다. 새 헤드의 기울기가 크면 head 0의 검증 CE가 시작보다 나빠지는데, 헤드를
    모두 더한 학습 손실은 그동안에도 내려가므로 손실 곡선에는 보이지 않는다 (docs/new_heads.md).
[동작] 처음 잰 검증 CE(학습 전)와 견주어, 처음으로 나빠졌을 때 한 번 말한다. 멈추지는 않는다.
"""

import sys
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

NOTICEABLE = 0.01  # nats


class HeadZeroWatch(Callback):
    """Compare the validation CE of head 0 with that of the model as it came."""

    def __init__(self) -> None:
        self.start: float | None = None
        self.warned = False

    def state_dict(self) -> dict[str, Any]:
        """Keep the first CE in the checkpoint."""
        return {"start": self.start, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the CE before training, however far the run is."""
        self.start, self.warned = state_dict["start"], state_dict["warned"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the first CE, and warn once when a later one is above it."""
        if trainer.sanity_checking or "val/ce_head0" not in trainer.callback_metrics:
            return
        ce = float(trainer.callback_metrics["val/ce_head0"])
        if self.start is None:
            self.start = ce
        elif ce > self.start + NOTICEABLE and not self.warned:
            self.warned = True
            if trainer.is_global_zero:
                keys = "optimizer.lr" if pl_module.model.heads == 1 else "algo.trunk_gradient or optimizer.lr"
                print(
                    f"head 0: WARNING: its validation CE rose from {self.start:.3f} before training to {ce:.3f} at "
                    f"step {trainer.global_step}: the model is worse at the next token than it was. Lower {keys}.",
                    file=sys.stderr,
                )
