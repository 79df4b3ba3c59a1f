"""Run one weighted MTP step, the same for every algorithm.

[연구 맥락] L = 1/(H·M) · Σ_k α_k Σ_t w[t+1+k] · CE(head_k(t), y[t+1+k])  (MATHS.md 2절)
    알고리즘마다 다른 것은 토큰 점수뿐이다. 그래서 갈고리(hook)는 하나, `token_scores`다.
        점수(token_scores) ──► 가중치(self.weighting) ──► 손실(weighted_mtp_loss)
[동작] `self.model`, `self.weighting`, `self.head_weights`를 가진 LightningModule의 첫 번째 부모로 쓴다.
    `__init__`이 없고, 상태는 `self.last_step`뿐이다. 점수를 내지 않는 알고리즘에는 `weighting`이 없어도 된다.
    배치를 조각내어 계산해도(data.split) 가중치의 범위는 온전한 배치다: 첫 조각에서 모든 조각의 점수를 기울기 없이 먼저
    구해 함께 가중치로 바꾸고, 나머지 조각은 그것을 꺼내 쓴다. 한 스텝 안에서는 파라미터가 바뀌지 않으므로 같은 값이다.
    NaN/Inf 점수로는 가중치를 만들지 않는다. 그런 배치의 손실은 NaN이 되고 `finite_scores`가 False다. 여기서 멈추지 않는
    까닭은, 랭크 하나만 멈추면 나머지가 영원히 기다리기 때문이다 (함께 멈추는 일은 callbacks/finite_guard.py).
[디버깅] 가중치가 이상하면 `self.last_step`의 score_BT, weight_BT를 보라. 콜백도 이것만 본다.
"""

#   B sequences, T positions, H heads, V vocabulary, D width

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wmtp.maths.alignment import target_mask
from wmtp.maths.loss import MTPLoss, weighted_mtp_loss
from wmtp.models.mtp import MTPOutput


class TokenWeights(NamedTuple):
    """Hold what the target tokens of a batch weigh, and why.

    Attributes:
        score_BT: 원점수. NaN/Inf가 있으면 있는 그대로.
        weight_BT: 가중치.
        finite: 목표 토큰의 점수가 모두 유한하면 True (0차원, 장치 위). 조각난 배치에서는 모든 조각이 함께다.
    """

    score_BT: Tensor
    weight_BT: Tensor
    finite: Tensor


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
        """Take the weighted loss of one micro-batch, or of one piece of it."""
        mask_BT = target_mask(batch["labels_BT"])
        number, count = batch.get("piece", (0, 1))
        seed = batch_idx // count  # of the whole micro-batch: a shuffled control is shuffled alike however it is cut
        pieces = None
        if count > 1 and getattr(self, "weighting", None) is not None:
            pieces = self._weigh_together(batch["pieces"], seed) if "pieces" in batch else self.last_step["pieces"]

        def loss(output: MTPOutput, unembedding_VD: Tensor) -> tuple[MTPLoss, TokenWeights | None]:
            with torch.no_grad():
                if pieces:
                    weights = pieces[number]
                else:
                    score_BT = self.token_scores(batch, output, unembedding_VD)
                    weights = None if score_BT is None else self._weigh(score_BT, mask_BT, seed)
            return self._loss(batch, output, unembedding_VD, weights.weight_BT if weights else None), weights

        loss, weights = self.model.mtp(batch["input_ids_BT"], then=loss)
        # Lightning divides by the number of micro-batches, DDP and FSDP by the number of ranks; M already holds both.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        if weights:
            scale = scale * torch.where(weights.finite, 1.0, torch.nan)
        count_H = loss.target_count_H.clamp(min=1)
        nll_H = loss.nll_sum_H / count_H
        self.last_step = {
            "loss": loss.loss * scale,
            "loss_display": loss.loss.detach() * batch["step_targets"] / count_H[0],
            "nll_H": nll_H,
            "weight_BT": weights.weight_BT if weights else None,
            "score_BT": weights.score_BT if weights else None,
            "finite_scores": weights.finite if weights else torch.ones_like(loss.loss, dtype=torch.bool),
            "mask_BT": mask_BT,
            "batch": batch,
            "pieces": pieces,
        }
        if batch["problem_ids"]:  # an empty micro-batch has no loss to show
            # Not with prog_bar: Lightning would read it after every micro-batch, and wait for the device.
            shown = {f"train/ce_head{k}": nll for k, nll in enumerate(nll_H)}
            self.log_dict({"train/loss": self.last_step["loss_display"], **shown}, batch_size=1)
        return self.last_step

    @torch.no_grad()
    def _weigh(self, score_BT: Tensor, mask_BT: Tensor, seed: int) -> TokenWeights:
        """Weigh finite scores; the weights of others mean nothing, and `finite` says so, without waiting for it."""
        bad_BT = mask_BT & ~score_BT.isfinite()
        weight_BT = self.weighting(score_BT.masked_fill(bad_BT, 0.0), mask_BT, seed=seed, known_finite=True)
        return TokenWeights(score_BT, weight_BT, ~bad_BT.any())

    @torch.no_grad()
    def _weigh_together(self, batches: list[dict[str, Any]], seed: int) -> list[TokenWeights | None]:
        """Weigh the pieces of a micro-batch as the one batch that they were cut from."""
        # Every piece is scored, an empty one too: sharded models need the same calls on every rank.
        scores = [
            self.model.mtp(
                batch["input_ids_BT"],
                then=lambda output, unembedding_VD, batch=batch: self.token_scores(batch, output, unembedding_VD),
            )
            for batch in batches
        ]
        if any(score_BT is None for score_BT in scores):
            return [None] * len(scores)
        # Row for row as they lay in the whole batch; a piece without samples holds a row that was not there.
        held = [len(batch["problem_ids"]) for batch in batches]
        shape = (max(sum(held), 1), max(score_BT.shape[1] for score_BT in scores))
        score_BT, mask_BT = scores[0].new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=scores[0].device)
        starts = [sum(held[:i]) for i in range(len(held))]
        for batch, piece_BT, start, rows in zip(batches, scores, starts, held, strict=True):
            score_BT[start : start + rows, : piece_BT.shape[1]] = piece_BT[:rows]
            mask_BT[start : start + rows, : piece_BT.shape[1]] = target_mask(batch["labels_BT"])[:rows]
        whole = self._weigh(score_BT, mask_BT, seed)
        weights = []
        for piece_BT, start, rows in zip(scores, starts, held, strict=True):
            weight_BT = torch.zeros_like(piece_BT, dtype=whole.weight_BT.dtype)
            weight_BT[:rows] = whole.weight_BT[start : start + rows, : piece_BT.shape[1]]
            weights.append(TokenWeights(piece_BT, weight_BT, whole.finite))
        return weights

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the unweighted CE of every head, averaged over target tokens."""
        loss = self.model.mtp(
            batch["input_ids_BT"],
            then=lambda output, unembedding_VD: self._loss(batch, output, unembedding_VD, None),
        )
        nll_H = loss.nll_sum_H / loss.target_count_H.clamp(min=1)
        for k, (nll, count) in enumerate(zip(nll_H, loss.target_count_H.tolist(), strict=True)):
            # An empty batch too, at no weight: ranks that had logged nothing would leave the others waiting for them.
            self.log(f"val/ce_head{k}", nll, batch_size=count, on_epoch=True, sync_dist=True)

    def _loss(
        self, batch: dict[str, Any], output: MTPOutput, unembedding_VD: Tensor, weight_BT: Tensor | None
    ) -> MTPLoss:
        return weighted_mtp_loss(
            output.hidden,
            unembedding_VD,
            batch["labels_BT"],
            weight_BT,
            batch["step_targets"],
            self.head_weights,
            batch["targets"],
        )
