"""Run one weighted MTP step, the same for every algorithm.

[연구 맥락] L = 1/(H·M) · Σ_k α_k Σ_t w[t+1+k] · CE(head_k(t), y[t+1+k])  (MATHS.md 2절)
    알고리즘마다 다른 것은 토큰 점수뿐이다. 그래서 갈고리(hook)는 하나, `token_scores`다.
        점수(token_scores) ──► 가중치(self.weighting) ──► 손실(weighted_mtp_loss)
[동작] `self.model`, `self.weighting`, `self.head_weights`를 가진 LightningModule의 첫 번째 부모로 쓴다.
    상태도 `__init__`도 없다.
[디버깅] 가중치가 이상하면 `self.last_step`의 score_BT, weight_BT를 보라. 콜백도 이것만 본다.
"""

#   B sequences, T positions, H heads, V vocabulary, D width

from typing import Any

import torch
from torch import Tensor

from wmtp.maths.alignment import target_mask
from wmtp.maths.loss import MTPLoss, weighted_mtp_loss
from wmtp.models.mtp import MTPOutput


class WeightedMTPMixin:
    """Hold the training step that all algorithms share."""

    def token_scores(self, batch: dict[str, Any], output: MTPOutput, unembedding_VD: Tensor) -> Tensor | None:
        """Score every target token; None means that all weigh the same.

        Args:
            batch: `wmtp.data.batching.collate`의 배치.
            output: 헤드들의 은닉상태.
            unembedding_VD: 출력 행렬.

        Returns:
            score_BT, 목표 토큰 j의 자리에 그 점수. 클수록 무겁다.
        """
        return None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Take the weighted loss of one micro-batch."""
        mask_BT = target_mask(batch["labels_BT"])

        def loss(output: MTPOutput, unembedding_VD: Tensor) -> tuple[MTPLoss, Tensor | None, Tensor | None]:
            with torch.no_grad():
                score_BT = self.token_scores(batch, output, unembedding_VD)
                weight_BT = None if score_BT is None else self.weighting(score_BT, mask_BT, seed=batch_idx)
            return self._loss(batch, output, unembedding_VD, weight_BT), score_BT, weight_BT

        loss, score_BT, weight_BT = self.model.mtp(batch["input_ids_BT"], batch["attention_mask_BT"], then=loss)
        # Lightning divides by the number of micro-batches, DDP and FSDP by the number of ranks; M already holds both.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        count_H = loss.target_count_H.clamp(min=1)
        nll_H = loss.nll_sum_H / count_H
        self.last_step = {
            "loss": loss.loss * scale,
            "loss_display": loss.loss.detach() * batch["step_targets"] / count_H[0],
            "nll_H": nll_H,
            "weight_BT": weight_BT,
            "score_BT": score_BT,
            "mask_BT": mask_BT,
            "batch": batch,
        }
        self.log("train/loss", self.last_step["loss_display"], prog_bar=True, batch_size=1)
        self.log_dict({f"train/ce_head{k}": nll for k, nll in enumerate(nll_H)}, batch_size=1)
        return self.last_step

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the unweighted CE of every head, averaged over target tokens."""
        loss = self.model.mtp(
            batch["input_ids_BT"],
            batch["attention_mask_BT"],
            then=lambda output, unembedding_VD: self._loss(batch, output, unembedding_VD, None),
        )
        for k, (nll, count) in enumerate(zip(loss.nll_sum_H, loss.target_count_H, strict=True)):
            if count > 0:
                self.log(f"val/ce_head{k}", nll / count, batch_size=int(count), on_epoch=True, sync_dist=True)

    def _loss(
        self, batch: dict[str, Any], output: MTPOutput, unembedding_VD: Tensor, weight_BT: Tensor | None
    ) -> MTPLoss:
        return weighted_mtp_loss(
            output.hidden, unembedding_VD, batch["labels_BT"], weight_BT, batch["step_targets"], self.head_weights
        )
