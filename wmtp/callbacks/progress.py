"""Show training as it goes: a bar on a terminal, a line now and then in a log file.

[동작] 손실을 읽으면 장치를 기다려야 하므로, 화면을 고칠 때만 (터미널 1초에 네 번, 파일 10초에 한 번) 읽는다.
    pass@1은 알게 된 뒤부터 (`…pass@1` 지표, 또는 module.last_pass_at_1), 토큰/초는 Throughput이 기록한 값을 보여 준다.
"""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def describe_state(trainer: Trainer, pl_module: LightningModule) -> str:
    """Say loss, pass@1 where it is known, and tokens a second."""
    parts = []
    loss = getattr(pl_module, "last_step", {}).get("loss_display")
    if loss is not None:
        parts.append(f"loss {float(loss):.4f}")
    metrics = trainer.callback_metrics
    known = [value for key, value in metrics.items() if key.endswith("pass@1")]
    pass_at_1 = known[-1] if known else getattr(pl_module, "last_pass_at_1", None)
    if pass_at_1 is not None:
        parts.append(f"pass@1 {100 * float(pass_at_1):.1f} %")
    speed = metrics.get("speed/target_tokens_per_second")
    if speed is not None:
        parts.append(f"{float(speed):,.0f} tokens/s")
    return "  ".join(parts)


class TrainingProgress(ProgressBar):
    """Show steps, loss, pass@1 and tokens/s.

    Args:
        seconds_between_lines: 터미널이 아닐 때 줄과 줄 사이의 시간.
        console: 쓸 곳. 기본은 표준 출력.
    """

    def __init__(self, seconds_between_lines: float = 10.0, console: Console | None = None) -> None:
        super().__init__()
        self.seconds_between_lines = seconds_between_lines
        self.console = console or Console()
        self._enabled = True
        self._bar: Progress | None = None
        self._last_shown = 0.0

    def disable(self) -> None:
        """Show nothing: Lightning calls this on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step that training begins at."""
        self._total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        self._total = int(self._total) if self._total != float("inf") else None
        self._first, self._start = trainer.global_step, time.monotonic()
        self._last_shown = 0.0
        if self._enabled and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description:<10}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn(), TextColumn("[cyan]{task.fields[state]}"),
                console=self.console, refresh_per_second=4,
            )  # fmt: skip
            self._task = self._bar.add_task("training", total=self._total, completed=self._first, state="")
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show where training is, if it is time to."""
        if trainer.fit_loop._should_accumulate():
            return
        now, step = time.monotonic(), trainer.global_step
        pause = 0.25 if self._bar else self.seconds_between_lines
        if not self._enabled or (now - self._last_shown < pause and step != self._total):
            return
        self._last_shown = now
        state = describe_state(trainer, pl_module)
        if self._bar:
            self._bar.update(self._task, completed=step, state=state)
        else:
            left = (now - self._start) / max(step - self._first, 1) * ((self._total or step) - step)
            print(f"step {step}/{self._total or '?'}  {state}  {left:.0f} s left", flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that this pause is validation."""
        if self._bar:
            self._bar.update(self._task, description="validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that training goes on."""
        if self._bar:
            self._bar.update(self._task, description="training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back, so that the message is readable."""
        self._close()

    def _close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
