"""Log how many tokens a second training works through.

[동작] 목표 토큰 수 M은 배치가 알고 있고(step_targets), 진짜 토큰 수는 장치에서 더한다. 호스트로 가져오는 것은
    log_every_n_steps마다 한 번뿐이다. 검증에 쓴 시간은 빼고 잰다.
"""

#   B sequences, T positions

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Log `speed/…`: target tokens, all tokens and steps a second, and the share of positions that are not padding."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def _restart(self) -> None:
        self._start, self._paused = time.monotonic(), 0.0
        self._steps, self._targets, self._positions, self._tokens = 0, 0, 0, 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause_start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        if hasattr(self, "_paused"):
            self._paused += time.monotonic() - self._pause_start

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count, and log at logging steps."""
        batch = pl_module.last_step["batch"]
        self._tokens = self._tokens + batch["attention_mask_BT"].sum()
        self._positions += batch["attention_mask_BT"].numel()
        if trainer.fit_loop._should_accumulate():
            return
        self._steps += 1
        self._targets += batch["step_targets"]  # of all micro-batches and ranks
        if not trainer._logger_connector.should_update_logs:
            return
        tokens = float(trainer.strategy.reduce(self._tokens, reduce_op="sum"))  # waits for the device: the time is true
        seconds = time.monotonic() - self._start - self._paused
        pl_module.log_dict(
            {
                "speed/target_tokens_per_second": self._targets / seconds,
                "speed/tokens_per_second": tokens / seconds,
                "speed/steps_per_second": self._steps / seconds,
                "speed/real_token_share": tokens / (self._positions * trainer.world_size),
            },
            batch_size=1,
        )
        self._restart()
