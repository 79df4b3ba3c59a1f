"""Show training as it goes: a bar on a terminal, a line now and then in a log file.

[동작] 손실을 읽으면 장치를 기다려야 하므로, 화면을 고칠 때만 (터미널 1초에 네 번, 파일 10초에 한 번) 읽는다.
    토큰/초는 Throughput이 기록한 값이다. 학습하는 동안 프로그램을 돌리는 콜백이 `…pass@1`을 기록하면 그것을,
    아니면 학습 전의 pass@1을 "before"와 함께 보여 준다: 지금 모델의 것으로 읽히면 배우지 않는 것처럼 보인다.
"""

import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar

from wmtp.private_names import step_goes_on
from wmtp.progress import SECONDS_BETWEEN_LINES, progress_bar

SECONDS_BETWEEN_FRAMES = 0.25


class TrainingProgress(ProgressBar):
    """Show steps, loss, pass@1 and tokens/s.

    Attributes:
        pass_at_1_before: 학습 전의 pass@1. 앞문이 안 뒤에 적는다.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pass_at_1_before: float | None = None
        self._enabled = True
        self._bar: Any = None  # a tqdm, while something runs

    def disable(self) -> None:
        """Show nothing: Lightning calls this on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step that training begins at."""
        total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        total = int(total) if total != float("inf") else None
        self._bar = progress_bar("training", total, trainer.global_step, self._enabled, "step")
        self._pause = SECONDS_BETWEEN_FRAMES if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        self._next = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show where training is, if it is time to."""
        if not self._enabled or step_goes_on(trainer):
            return
        self._bar.n = trainer.global_step
        if time.monotonic() >= self._next:
            self._bar.set_postfix_str(self.state(trainer, pl_module))
            self._next = time.monotonic() + self._pause

    def state(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Say loss, pass@1 where it is known, and tokens a second."""
        metrics, parts = trainer.callback_metrics, [f"loss {float(pl_module.last_step['loss_display']):.4f}"]
        known = [float(value) for key, value in metrics.items() if key.endswith("pass@1")]
        if known:
            parts.append(f"pass@1 {100 * known[-1]:.1f} %")
        elif self.pass_at_1_before is not None:
            parts.append(f"before: pass@1 {100 * self.pass_at_1_before:.1f} %")
        speed = metrics.get("speed/target_tokens_per_second")
        if speed is not None:
            parts.append(f"{float(speed):,.0f} tokens/s")
        return ", ".join(parts)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that this pause is validation."""
        self._describe("validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that training goes on."""
        self._describe("training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        if self._enabled:
            self._bar.set_postfix_str(self.state(trainer, pl_module), refresh=False)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back, so that the message is readable."""
        self._close()

    def _describe(self, what: str) -> None:
        if self._bar is not None:
            self._bar.set_description(what, refresh=sys.stderr.isatty())

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
