"""Keep the token weights of a few fixed training samples, at the start and at the end, for the heat map.

[연구 맥락] 숫자보다 그림이 먼저다: 어떤 토큰이 무거워지고 어떤 토큰이 가벼워지는지 코드 위에 칠해 보면 바로 안다.
[동작] 학습 표본 앞쪽에서 늘 같은 배치를 만들어 점수와 가중치만 계산한다 (학습은 하지 않는다). 망가진 토큰이 있는 표본을
    먼저 고른다. 결과는 `token_weights.json`. 가중치가 없는 알고리즘(baseline)이면 쓰지 않는다.
"""

#   B sequences, T positions

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp.data.batching import collate
from wmtp.maths.alignment import target_mask
from wmtp.maths.weighting import check_finite
from wmtp.storage.files import write_atomically


def text_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Give each token the text that it adds; a token inside a character adds none, the last one adds it whole.

    Example:
        >>> class Bytes:
        ...     def decode(self, ids, **_): return bytes(ids).decode(errors="replace")
        >>> text_pieces(Bytes(), [104, *"한".encode()])
        ['h', '', '', '한']
    """
    pieces, pending = [], []
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):
            pieces.append("")
        else:
            pieces.append(text)
            pending = []
    return pieces


class TokenWeights(Callback):
    """Write `token_weights.json` into the run directory."""

    def __init__(self, run_dir: str | Path, samples: int = 6) -> None:
        self.path = Path(run_dir) / "token_weights.json"
        self.samples = samples

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights that training starts with; a resumed run has them already."""
        if not self.path.exists():
            self._capture(trainer, pl_module, "start")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights that training ends with."""
        self._capture(trainer, pl_module, "end")

    @torch.no_grad()
    def _capture(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if pl_module.weighting is None:
            return
        data = trainer.datamodule
        samples, width = [], 0
        for sample in data.training_samples:
            width = max(width, len(sample.input_ids))
            if samples and (len(samples) + 1) * width > data.token_budget:
                break
            samples.append(sample)
        batch = collate(samples, step_targets=1, pad_token_id=data.tokenizer.pad_token_id)
        batch = trainer.strategy.batch_to_device(batch, pl_module.device)
        mask_BT = target_mask(batch["labels_BT"])
        pl_module.eval()
        with trainer.precision_plugin.forward_context():
            score_BT = pl_module.token_scores(batch, pl_module.model.mtp(batch["input_ids_BT"]))
            check_finite(score_BT, mask_BT)
            weight_BT = pl_module.weighting(score_BT, mask_BT, done=pl_module.share_done())
        pl_module.train()
        if not trainer.is_global_zero:
            return
        kept = json.loads(self.path.read_text())["samples"] if self.path.exists() else []
        earlier = {sample["problem_id"]: sample for sample in kept}
        shown = sorted(range(len(samples)), key=lambda row: not any(samples[row].noise))[: self.samples]
        rows = []
        for row in shown:
            sample, n = samples[row], len(samples[row].input_ids)
            target = mask_BT[row, :n]
            weights = {"weight": _rounded(weight_BT[row, :n], target), "score": _rounded(score_BT[row, :n], target)}
            pieces = text_pieces(data.tokenizer, sample.input_ids.tolist())
            fixed = {"problem_id": sample.task_id, "prompt_length": sample.prompt_length}
            fixed |= {"pieces": pieces, "noise": list(map(bool, sample.noise))}
            rows.append({**earlier.get(sample.task_id, {}), **fixed, stage: weights})
        write_atomically(self.path, json.dumps({"samples": rows}, ensure_ascii=False).encode())


def _rounded(value_T: Tensor, target_T: Tensor) -> list[float | None]:
    pairs = zip(value_T.tolist(), target_T.tolist(), strict=True)
    return [round(value, 4) if target else None for value, target in pairs]
