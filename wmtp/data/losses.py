"""Compute what a model makes of samples: the next-token loss of every target token.

[동작] 참조모델의 손실(rho1)과 neg_ce 보상이 함께 쓴다. 기울기는 없고, 길이가 비슷한 표본끼리 배치로 묶는다.
"""

#   B sequences, T positions

import torch
from torch import Tensor

from wmtp.data.batching import collate, plan_epoch
from wmtp.data.tokenization import TokenizedSamples
from wmtp.models.mtp import MTPMixin


@torch.no_grad()
def score_samples(
    model: MTPMixin, samples: TokenizedSamples, first: int, end: int, token_budget: int, pad_token_id: int
) -> Tensor:
    """Compute the next-token loss of every target token of the samples first … end - 1, end to end, 0 elsewhere."""
    origin = samples.starts[first]
    losses = torch.zeros(samples.starts[end] - origin, dtype=torch.float32)
    lengths = samples.lengths[first:end]
    for step in plan_epoch(lengths, samples.targets[first:end], token_budget=token_budget):
        for rows in step.micro_batches:
            batch = collate([samples[first + i] for i in rows], step.targets, pad_token_id)
            batch |= {name: batch[name].to(model.device) for name in ("input_ids_BT", "labels_BT")}
            nll_BT = model.mtp(batch["input_ids_BT"]).next_token_nll(batch)
            for i, nll_T in zip(rows, nll_BT.float().cpu(), strict=True):
                start = samples.starts[first + i] - origin
                losses[start : start + lengths[i]] = nll_T[: lengths[i]]
    return losses
