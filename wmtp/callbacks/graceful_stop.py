"""Save at the next step boundary when someone asks to stop: Ctrl-C, a scheduler, or a terminal that is gone.

[동작] 첫 번째 신호: 지금 스텝을 끝내고 last.ckpt를 쓴 뒤 멈춘다. 두 번째: 곧바로 멈춘다 (마지막 저장까지는 남아 있다).
    스텝의 경계에서만 저장하므로, 이어 하면 멈추지 않은 것과 같은 숫자가 나온다.
    랭크가 여럿이면 신호가 한 랭크에만 와도 함께 멈춘다 (step_check.py). 체크포인트를 쓰는 콜백이므로 Lightning이 다른
    콜백 뒤에 부른다: 그 스텝을 센 히스토그램까지 저장된다.
[디버깅] Lightning의 SIGTERM 처리는 신호 처리기 안에서 다른 랭크에 방송하다가 멈춰 설 수 있어 쓰지 않는다.
"""

import os
import signal
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from wmtp import ranges
from wmtp.callbacks.step_check import StepCheck, decide_together
from wmtp.private_names import leave_signals_alone


class Stopped(KeyboardInterrupt):
    """Say that someone asked to stop, and that all is saved."""


class GracefulStop(StepCheck, Checkpoint):
    """Turn signals into a saved checkpoint.

    Args:
        preemption: 스케줄러가 보내는 신호의 이름들.

    Attributes:
        stopped: 사용자나 스케줄러가 멈추었으면 True.
        preempted: 스케줄러였으면 True.
    """

    def __init__(self, run_dir: str, preemption: Sequence[str] = ("SIGTERM", "SIGUSR1", "SIGHUP")) -> None:
        ranges.check(ranges.GracefulStop, preemption=preemption)
        self.checkpoint = Path(run_dir) / "checkpoints" / "last.ckpt"
        self.preemption = [signal.Signals[name] for name in preemption]
        self.stopped = self.preempted = False
        self._asked = {"stopped": False, "preempted": False}  # of this rank
        self._previous: dict[signal.Signals, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep Lightning from listening for signals itself."""
        leave_signals_alone(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen while training."""
        for number in (signal.SIGINT, *_heard(self.preemption)):
            self._previous[number] = signal.signal(number, self._stop)

    def _stop(self, signum: int, frame: Any) -> None:
        number = signal.Signals(signum)
        self._asked |= {"stopped": True, "preempted": self._asked["preempted"] or number in self.preemption}
        # The second one stops at once: Ctrl-C as it would have without us, the others by ending the process.
        signal.signal(number, self._previous[number] if number == signal.SIGINT else signal.SIG_DFL)
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        _say(number, f"\n{name}: finishing this step and saving; a second one stops at once.")

    def ask(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """Say what this rank was asked."""
        return torch.cat([torch.full((1,), float(asked), device=pl_module.device) for asked in self._asked.values()])

    def answer(self, trainer: Trainer, pl_module: LightningModule, sums: list[float]) -> None:
        """Stop if any rank was asked to."""
        self.stopped, self.preempted = (count > 0 for count in sums)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save and stop, now that the step is taken."""
        if self.stopped:
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True
            if self.preempted:
                trainer.limit_val_batches = 0  # a node that is being taken away has no time for it

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hear what came after the last step was decided on."""
        if not self.stopped:
            decide_together([self], trainer, pl_module)
            if self.stopped:
                trainer.save_checkpoint(self.checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals their usual meaning back."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give it back after a failure too, where Lightning tears nothing down: the next attempt listens anew."""
        self.teardown(trainer, pl_module, "fit")


@contextmanager
def exit_when_preempted(code: int, preemption: Sequence[str]) -> Iterator[None]:
    """End with a code that says "start me again" when a scheduler asks, wherever there is no step to finish first."""

    def leave(signum: int, frame: Any) -> None:
        number = signal.Signals(signum)
        _say(number, f"\n{number.name}: ending; start the same command again with ckpt=auto.")
        raise SystemExit(code)

    ranges.check(ranges.GracefulStop, preemption=preemption)
    asked = [signal.Signals[name] for name in preemption]
    previous = {number: signal.signal(number, leave) for number in _heard(asked)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Ctrl-C as what it is: Lightning ends with code 1 instead, and leaves the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from left


def _heard(signals: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Leave out a hang-up that is ignored: that is what nohup is for."""
    return [n for n in signals if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]


def _say(number: signal.Signals, sentence: str) -> None:
    """Print on the terminal, if it is still there; after a hang-up it is not, and every later print would fail."""
    with suppress(OSError):
        print(f"{sentence}\n", end="", file=sys.stderr, flush=True)  # at once: after it nothing may be written
    if number == signal.SIGHUP:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
        os.close(nowhere)
