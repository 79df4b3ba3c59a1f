"""Log how many tokens a second training works through, and how much of the device that uses.

[동작] 토큰의 수는 배치가 알고 있다(step_targets, lengths). 장치를 기다리는 것은 log_every_n_steps마다 한 번뿐이다.
    검증에 쓴 시간은 빼고 잰다. FLOPs의 식은 wmtp/models/flops.py에 있다.
"""

#   B sequences, T positions, H heads

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from wmtp.models.flops import peak_flops, step_flops
from wmtp.private_names import logs_this_step, step_goes_on


def name_of(device: torch.device) -> str:
    """Return the name that the maker gave a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Throughput(Callback):
    """Log `speed/…`: tokens and steps a second, the share of positions that are not padding, and model FLOP/s.

    [동작] 장치의 최고 속도를 알면 `speed/mfu`도 남긴다: 모든 랭크의 FLOP/s를 모든 장치의 bf16 최고 속도로 나눈 것.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._flops = step_flops(pl_module.model)
        self._peak = peak_flops(name_of(pl_module.device))
        self._restart()

    def _restart(self) -> None:
        self._start, self._paused = time.monotonic(), 0.0
        self._steps, self._targets, self._positions = 0, 0, 0
        self._tokens, self._pairs, self._predictions = 0, 0, 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause_start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        if hasattr(self, "_paused"):
            self._paused += time.monotonic() - self._pause_start

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count, and log at logging steps."""
        batch, mask_BT = pl_module.last_step["batch"], pl_module.last_step["mask_BT"]
        # Target token j is predicted by the heads that have j positions before them: min(j, H) of them.
        heads_T = torch.arange(mask_BT.shape[1], device=mask_BT.device).clamp(max=pl_module.model.heads)
        self._predictions = self._predictions + (mask_BT * heads_T).sum()
        self._tokens += sum(batch["lengths"])
        self._pairs += sum(length**2 for length in batch["lengths"])
        self._positions += mask_BT.numel()
        if step_goes_on(trainer):
            return
        self._steps += 1
        self._targets += batch["step_targets"]  # of all micro-batches and ranks
        if not logs_this_step(trainer):
            return
        # Waits for the device: the time is true.
        work_4 = torch.tensor([self._tokens, self._pairs, self._predictions, self._positions], dtype=torch.float64)
        *work_3, positions = trainer.strategy.reduce(work_4.to(mask_BT.device), reduce_op="sum").tolist()
        seconds = time.monotonic() - self._start - self._paused
        flops = sum(each * count for each, count in zip(self._flops, work_3, strict=True)) / seconds
        speed = {
            "target_tokens_per_second": self._targets / seconds,
            "tokens_per_second": work_3[0] / seconds,
            "steps_per_second": self._steps / seconds,
            "real_token_share": work_3[0] / positions,
            "model_flops_per_second": flops,
        }
        if self._peak:
            speed["mfu"] = flops / (self._peak * trainer.world_size)
        pl_module.log_dict({f"speed/{key}": value for key, value in speed.items()}, batch_size=1)
        self._restart()
