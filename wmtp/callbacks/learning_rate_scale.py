"""Train at a share of the configured learning rate, also after a checkpoint brought its own rate back.

[동작] Lightning은 이어 할 때 체크포인트의 학습률과 스케줄러를 되살리므로, 설정의 lr을 고쳐도 아무 일이 없다.
    그래서 되살린 뒤에 모든 매개변수 묶음과 스케줄러에 (원하는 배율 / 체크포인트의 배율)을 곱한다.
"""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from wmtp.private_names import scale_last_rates


class LearningRateScale(Callback):
    """Multiply every learning rate by `scale`."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._restored = 1.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scale the rates of all groups, and those that the scheduler starts from."""
        ratio = self.scale / self._restored
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group |= {key: group[key] * ratio for key in ("lr", "initial_lr") if key in group}
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            scheduler.base_lrs = [rate * ratio for rate in scheduler.base_lrs]
            scale_last_rates(scheduler, ratio)
        self._restored = self.scale

    def state_dict(self) -> dict[str, Any]:
        """Return the scale that the checkpoint's rates already hold."""
        return {"scale": self._restored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what the checkpoint's rates already hold."""
        self._restored = state_dict["scale"]
