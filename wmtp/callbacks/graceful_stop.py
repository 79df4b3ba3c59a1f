"""Save at the next step boundary when the user presses Ctrl-C, and stop.

[동작] 첫 Ctrl-C: 지금 스텝을 끝내고 last.ckpt를 쓴 뒤 멈춘다. 두 번째: 곧바로 멈춘다 (마지막 저장까지는 남아 있다).
    스텝의 경계에서만 저장하므로, 이어 하면 멈추지 않은 것과 같은 숫자가 나온다.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class GracefulStop(Callback):
    """Turn SIGINT into a saved checkpoint.

    Attributes:
        stopped: 사용자가 멈추었으면 True.
    """

    def __init__(self, run_dir: str) -> None:
        self.checkpoint = Path(run_dir) / "checkpoints" / "last.ckpt"
        self.stopped = False
        self._previous: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for Ctrl-C while training."""
        self._previous = signal.signal(signal.SIGINT, self._stop)

    def _stop(self, signum: int, frame: Any) -> None:
        self.stopped = True
        signal.signal(signal.SIGINT, self._previous)
        print("\nCtrl-C: finishing this step and saving; press it again to stop at once.", file=sys.stderr)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save and stop, once all micro-batches of the step are done."""
        if self.stopped and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C its usual meaning back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
