"""Count the weights of all training tokens in fixed bins, clean and corrupted ones apart.

[연구 맥락] 평균과 분위수는 모양을 숨긴다. 상하한에 몰렸는지, 봉우리가 둘인지는 히스토그램이 보여 준다.
[동작] 스텝마다 장치에서 더하기만 하고, 에폭이 끝날 때와 학습이 끝날 때 `weight_histogram.json`으로 쓴다. 전체의 합
    (`clean`, `corrupted`)과 에폭마다 하나(`epochs`)가 있다. 체크포인트에 담겨 이어진다
    (랭크가 여럿이면 0번 랭크의 것으로 어림한다).
"""

#   B sequences, T positions, K bins, E epochs

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp.storage.files import write_atomically


def count_in_bins(count_2K: Tensor, weight_BT: Tensor, mask_BT: Tensor, noise_BT: Tensor | None, upper: float) -> None:
    """Add a batch to the counts, in place; weights of `upper` and above fall into the last bin.

    Args:
        count_2K: 첫 줄은 깨끗한 토큰, 둘째 줄은 망가진 토큰의 수.
        noise_BT: 망가진 토큰이면 True. 모르면 None.

    Example:
        >>> count_2K = torch.zeros(2, 4)
        >>> weight, mask = torch.tensor([[0.1, 0.6, 1.2, 9.9]]), torch.tensor([[True, True, False, True]])
        >>> count_in_bins(count_2K, weight, mask, torch.tensor([[False, True, False, False]]), upper=2.0)
        >>> count_2K
        tensor([[1., 0., 0., 1.],
                [0., 1., 0., 0.]])
    """
    bins = count_2K.shape[1]
    place_BT = (weight_BT.detach() * (bins / upper)).long().clamp(0, bins - 1)
    if noise_BT is not None:
        place_BT = place_BT + bins * noise_BT
    count_2K.view(-1).scatter_add_(0, place_BT.flatten(), mask_BT.flatten().to(count_2K.dtype))


class WeightHistogram(Callback):
    """Write `weight_histogram.json` into the run directory, at the end of every epoch and of the training.

    Args:
        upper: 히스토그램의 오른쪽 끝. 더 큰 가중치는 마지막 칸에 들어간다.
    """

    def __init__(self, run_dir: str | Path, upper: float = 4.0, bins: int = 200) -> None:
        self.run_dir = Path(run_dir)
        self.upper, self.bins = upper, bins
        self._counts: dict[int, Tensor] = {}  # by epoch, clean and corrupted ones

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add this micro-batch's tokens."""
        step = pl_module.last_step
        if step["weight_BT"] is None:
            return
        # The loader's own epoch: Lightning counts another one when a run goes on with a new plan.
        epoch = getattr(trainer.train_dataloader, "epoch", trainer.current_epoch)
        if epoch not in self._counts:
            self._counts[epoch] = torch.zeros(2, self.bins, dtype=torch.float64)
        count_2K = self._counts[epoch] = self._counts[epoch].to(step["weight_BT"].device)
        count_in_bins(count_2K, step["weight_BT"], step["mask_BT"], step["batch"].get("noise_BT"), self.upper)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up the ranks and write the file; the end of the training ends an epoch, wherever it comes."""
        if not self._counts:  # an algorithm without weights, the same on all ranks
            return
        count_E2K = torch.stack([count_2K.to(pl_module.device) for count_2K in self._counts.values()])
        count_E2K = trainer.strategy.reduce(count_E2K, reduce_op="sum").long().cpu()
        if not trainer.is_global_zero:
            return

        def shown(count_2K: Tensor) -> dict[str, Any]:
            clean_K, corrupted_K = count_2K.tolist()
            return {"clean": clean_K, "corrupted": corrupted_K if any(corrupted_K) else None}

        epochs = [{"epoch": epoch} | shown(count) for epoch, count in zip(self._counts, count_E2K, strict=True)]
        histogram = {"upper": self.upper} | shown(count_E2K.sum(0)) | {"epochs": epochs}
        write_atomically(self.run_dir / "weight_histogram.json", json.dumps(histogram).encode())

    def state_dict(self) -> dict[str, Any]:
        """Keep the counts in the checkpoint, as plain numbers."""
        return {"epochs": {epoch: count_2K.tolist() for epoch, count_2K in self._counts.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was written."""
        epochs = state_dict.get("epochs", {})
        self._counts = {epoch: torch.tensor(count, dtype=torch.float64) for epoch, count in epochs.items()}
