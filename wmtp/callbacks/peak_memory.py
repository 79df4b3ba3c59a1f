"""Log the most memory that training has taken so far.

[동작] GPU에서는 학습을 시작한 뒤로 할당기가 센 최대값, 랭크 0의 장치의 것이다. CPU에서는 프로세스가 운영체제에서
    받은 것의 최대값이다: 파이썬과 라이브러리, 데이터도 들어 있다. 단계마다의 몫은 `profile_memory=true`가 잰다.
"""

import resource
import sys
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from wmtp.private_names import logs_this_step, step_goes_on

GB = 2**30


def peak_memory(device: torch.device) -> float:
    """Return the most memory taken, in GB: of a GPU by its tensors, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / GB  # macOS counts bytes, Linux kilobytes


class PeakMemory(Callback):
    """Log `memory/peak_gb` at every logging step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what came before training, where that can be forgotten."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log what has been taken so far."""
        if logs_this_step(trainer) and not step_goes_on(trainer):
            pl_module.log("memory/peak_gb", peak_memory(pl_module.device), batch_size=1)
