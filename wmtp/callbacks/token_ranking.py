"""Tell by name which tokens the weighting raises and which it lowers.

[연구 맥락] 히스토그램은 몇 개인지를, 히트맵은 표본 몇 개를 보여 준다. 어떤 글자들이 무거운지는 학습 전체의 평균이 말해
    준다: 배울 것이 있는 토큰(이름, 연산자)이 위에, 이미 아는 토큰(들여쓰기)이나 쓰레기가 아래에 있어야 한다.
[동작] 스텝마다 토큰 번호별로 가중치의 합과 개수를 장치에서 더하기만 한다. 에폭과 학습이 끝날 때
    `token_ranking.json`으로 쓴다. 드문 토큰의 평균은 믿을 수 없으므로 `least`번보다 적게 나온 것은 뺀다.
    체크포인트에 담겨 이어진다 (랭크가 여럿이면 0번 랭크의 것으로 어림한다).
"""

#   B sequences, T positions, V vocabulary

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp.storage.files import write_atomically


def add_by_token(total_2V: Tensor, input_ids_BT: Tensor, weight_BT: Tensor, mask_BT: Tensor) -> None:
    """Add a batch to the sum of the weights and the count of every token, in place; weights of NaN are left out.

    Args:
        total_2V: 첫 줄은 가중치의 합, 둘째 줄은 개수.

    Example:
        >>> total_2V = torch.zeros(2, 4)
        >>> ids, weight = torch.tensor([[1, 3, 3, 2]]), torch.tensor([[0.5, 1.0, 2.0, 7.0]])
        >>> add_by_token(total_2V, ids, weight, torch.tensor([[True, True, True, False]]))
        >>> total_2V
        tensor([[0.0000, 0.5000, 0.0000, 3.0000],
                [0.0000, 1.0000, 0.0000, 2.0000]])
    """
    ids_N, weight_N = input_ids_BT.flatten(), weight_BT.detach().flatten().to(total_2V.dtype)
    counted_N = mask_BT.flatten() & weight_N.isfinite()
    total_2V[0].scatter_add_(0, ids_N, torch.where(counted_N, weight_N, 0.0))
    total_2V[1].scatter_add_(0, ids_N, counted_N.to(total_2V.dtype))


def rank(total_2V: Tensor, least: int, top: int) -> tuple[list[tuple[int, float, int]], list[tuple[int, float, int]]]:
    """Find the tokens that weigh most and least on average: (token, mean weight, count), the extreme one first.

    Example:
        >>> rank(torch.tensor([[9., 1., 4., 6.], [1., 4., 2., 6.]]), least=2, top=1)
        ([(2, 2.0, 2)], [(1, 0.25, 4)])
    """
    seen = (total_2V[1] >= least).nonzero().squeeze(1)
    mean = total_2V[0, seen] / total_2V[1, seen]
    rows = [(int(seen[i]), float(mean[i]), int(total_2V[1, seen[i]])) for i in mean.argsort(stable=True).tolist()]
    half = min(top, (len(rows) + 1) // 2)  # no token is both
    return rows[::-1][:half], rows[: len(rows) - half][:top]


class TokenRanking(Callback):
    """Write `token_ranking.json` into the run directory; nothing for an algorithm without weights.

    Args:
        top: 위와 아래에서 몇 개씩 남길지.
        least: 이보다 적게 나온 토큰은 빼고 순위를 매긴다.
    """

    def __init__(self, run_dir: str | Path, top: int = 20, least: int = 20) -> None:
        self.path = Path(run_dir) / "token_ranking.json"
        self.top, self.least = top, least
        self._total_2V: Tensor | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add this micro-batch's tokens."""
        step = pl_module.last_step
        if step["weight_BT"] is None:
            return
        if self._total_2V is None:
            self._total_2V = torch.zeros(2, pl_module.model.config.vocab_size, dtype=torch.float64)
        self._total_2V = self._total_2V.to(step["weight_BT"].device)
        add_by_token(self._total_2V, step["batch"]["input_ids_BT"], step["weight_BT"], step["mask_BT"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what there is; the end of the training ends an epoch, wherever it comes."""
        if self._total_2V is None:  # the same on all ranks
            return
        total_2V = trainer.strategy.reduce(self._total_2V.clone(), reduce_op="sum").cpu()
        if not trainer.is_global_zero:
            return
        decode = trainer.datamodule.tokenizer.decode
        heaviest, lightest = (
            [{"text": decode([token]), "weight": round(mean, 4), "count": count} for token, mean, count in rows]
            for rows in rank(total_2V, self.least, self.top)
        )
        ranking = {"least": self.least, "heaviest": heaviest, "lightest": lightest}
        write_atomically(self.path, json.dumps(ranking, ensure_ascii=False).encode())

    def state_dict(self) -> dict[str, Any]:
        """Keep the sums in the checkpoint."""
        return {"total": None if self._total_2V is None else self._total_2V.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on adding where the checkpoint was written."""
        self._total_2V = state_dict["total"]
