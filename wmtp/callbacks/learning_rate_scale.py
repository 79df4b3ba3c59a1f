"""Train with the optimizer's settings of the config, at a share of its rates, whatever a checkpoint brought back.

[동작] Lightning은 이어 할 때 체크포인트의 학습률, 감쇠, 스케줄러를 되살린다. 그대로 두면 설정에서 고친 optimizer.*는
    아무 일도 하지 않고, 끝난 실행을 더 이어 하면 첫 스텝의 학습률이 0이다 (코사인의 끝). 그래서 되살리기 전에 설정의
    값을 적어 두었다가, 되살린 뒤에 그 값과 지금 스텝의 일정으로 다시 정한다. 설정이 같으면 비트까지 같다.
"""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from wmtp.private_names import set_last_rates


class LearningRateScale(Callback):
    """Multiply every learning rate of the config by `scale`."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._configured: list[list[dict[str, Any]]] = []  # of each optimizer, of each group

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the config says, before a checkpoint is restored."""
        self._configured = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it again, and set the rates of this step."""
        for optimizer, configured in zip(trainer.optimizers, self._configured, strict=True):
            for group, settings in zip(optimizer.param_groups, configured, strict=True):
                group |= settings | {"initial_lr": settings["initial_lr"] * self.scale}
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            groups = scheduler.optimizer.param_groups
            scheduler.base_lrs = [group["initial_lr"] for group in groups]
            for group, share in zip(groups, scheduler.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * share(scheduler.last_epoch)
            set_last_rates(scheduler, [group["lr"] for group in groups])
