"""Take a weighted MTP step: what all algorithms share, from the batch to the loss.

[연구 맥락] L = 1/(H·M) · Σ_k α_k Σ_t w[t+1+k] · CE(head_k(t), y[t+1+k])  (maths.md 2절)
    알고리즘마다 다른 것은 토큰 점수뿐이다. 그래서 알고리즘이 채울 것도 하나, `token_scores`다.
        은닉상태(model.mtp) ──► 점수(token_scores) ──► 가중치(self.weighting) ──► 손실(weighted_mtp_loss)
[동작] 스텝과 학습률 일정과 시작 전의 검사가 여기 있고, 알고리즘 파일에는 점수만 있다.
    점수에 NaN/Inf가 있으면 그 범위의 가중치는 NaN이고 손실도 NaN이다. 여기서 멈추지 않는 까닭은, 랭크 하나만 멈추면
    나머지가 영원히 기다리기 때문이다 (함께 멈추는 일은 callbacks/finite_guard.py).
[디버깅] 가중치가 이상하면 `self.last_step`의 score_BT, weight_BT를 보라. 콜백도 이것만 본다.
"""

#   B sequences, T positions, H heads

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from transformers import get_cosine_schedule_with_warmup

from wmtp import ranges
from wmtp.errors import ConfigError
from wmtp.maths.alignment import target_mask
from wmtp.maths.curve import Curve, value_at
from wmtp.maths.loss import MTPLoss, weighted_mtp_loss
from wmtp.models.encoding import check_embedded
from wmtp.models.mtp import MTPMixin, MTPOutput

# Of heads that no checkpoint held: what docs/new_heads.md measured.
NEW_HEAD_WEIGHT = 0.3
NEW_TRUNK_GRADIENT = 0.1


class TokenWeights(NamedTuple):
    """Hold what the target tokens of a batch weigh, and why; None where all weigh the same."""

    score_BT: Tensor | None = None
    weight_BT: Tensor | None = None


# One class and not a mixin beside it: the loss needs the model, the weighting and the trainer's counts, and what a
# mixin must find in its host is found by reading two files.
class WeightedMTP(LightningModule):
    """Fine-tune an MTP model with weighted tokens; a subclass says how tokens are scored.

    Attributes:
        name: 실행 폴더와 MLflow 실험의 이름에 들어간다.
        score_name: 점수의 이름. 이것으로 `WeightStatistics`가 남길 평균을 고른다.
        run_dir: 실행 폴더. 모델 밖에서 배운 것(critic의 V)을 남긴다. 없으면 (profile_memory) 배우지도 않는다.

    Args:
        model: H개의 헤드를 가진 모델 (`wmtp.models.mtp`).
        optimizer: 모델을 받아 옵티마이저를 돌려주는 함수 (conf/optimizer/*.yaml).
        warmup: 학습률을 올리는 구간, 전체 스텝에 대한 비율. 그 뒤는 코사인으로 내린다.
        head_weights: α_k, 헤드별 손실 가중치. 저마다 수 하나 또는 학습을 따라 변하는 곡선 (`wmtp.maths.curve`).
            None이면 모두 1. 새로 단 헤드(`model.new_heads`)가 있으면 모두 H이고 그 헤드들만 `NEW_HEAD_WEIGHT`·H:
            α_0/H = 1이므로 head 0은 H = 1일 때와 같은 크기의 손실로 배운다.
        trunk_gradient: 헤드 1, 2, …의 기울기가 head 0과 함께 쓰는 것으로 흐를 때의 배율, 수 또는 곡선.
            None이면 1, 새로 단 헤드가 있으면 `NEW_TRUNK_GRADIENT`.
        weighting: 점수를 가중치로 바꾸는 규칙 (`wmtp.maths.weighting`). None이면 점수를 내지 않고 모두 1이다.
        head_lam: λ_k, 헤드 k는 1 + λ_k·(w − 1)로 배운다. 뒤의 헤드일수록 목표를 맞히기 어려우니 가중치를 눅일 수 있다.
            None이면 모두 1.
    """

    name = "weighted"
    score_name: str | None = None
    run_dir: Path | None = None
    _steps = 0  # of the whole training, known when it starts

    def __init__(
        self,
        model: MTPMixin,
        optimizer: Callable[[MTPMixin], Optimizer],
        warmup: float = 0.03,
        head_weights: Sequence[Curve] | None = None,
        trunk_gradient: Curve | None = None,
        weighting: Any = None,
        head_lam: Sequence[Curve] | None = None,
    ) -> None:
        super().__init__()
        given = dict(warmup=warmup, head_weights=head_weights, trunk_gradient=trunk_gradient, head_lam=head_lam)
        ranges.check(ranges.WeightedMTP, **given)
        for name, by_head in (("head_lam", head_lam), ("head_weights", head_weights)):
            if by_head is not None and len(by_head) != model.heads:
                raise ConfigError(
                    f"algo.{name} = {list(by_head)} must have one number for each of the {model.heads} heads "
                    "(model.heads); or null for all ones."
                )
        new = model.new_heads
        if head_weights is None and new is not None:
            head_weights = [model.heads * (1.0 if k < new.first else NEW_HEAD_WEIGHT) for k in range(model.heads)]
        if trunk_gradient is None:
            trunk_gradient = 1.0 if new is None else NEW_TRUNK_GRADIENT
        self.model = model
        self.optimizer = optimizer
        self.warmup = warmup
        self.head_weights = head_weights
        self.trunk_gradient = trunk_gradient
        self.weighting = weighting
        self.head_lam = head_lam

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Score every target token: all that an algorithm has to say.

        Args:
            batch: `wmtp.data.batching.collate`의 배치.
            output: 헤드들의 은닉상태와 출력 행렬.

        Returns:
            score_BT, 목표 토큰 j의 자리에 그 점수. 클수록 무겁다. 기울기는 흐르지 않는다.
        """
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Take the weighted loss of one micro-batch, or of one piece of it (data.pieces)."""
        mask_BT = target_mask(batch["labels_BT"])
        number, count = batch.get("piece", (0, 1))
        draw = batch_idx // count  # a shuffled control is shuffled alike however the micro-batch is cut
        if self.weighting is not None and "pieces" in batch:
            # The scope of weights is the whole micro-batch: its first piece weighs all of them, before any is trained
            # on. Within a step no parameter changes, so the scores are those that each piece would have had.
            self._pieces = self._weigh_pieces(batch["pieces"], draw)

        output = self.model.mtp(batch["input_ids_BT"], trunk_gradient=value_at(self.trunk_gradient, self.share_done()))
        if self.weighting is None:
            weights = TokenWeights()
        elif count > 1:
            weights = self._pieces[number]
        else:
            with torch.no_grad():
                score_BT = self.token_scores(batch, output)
                weights = TokenWeights(score_BT, self.weighting(score_BT, mask_BT, draw, self.share_done()))
        loss = self._loss(batch, output, weights.weight_BT)

        count_H = loss.target_count_H.clamp(min=1)
        nll_H = loss.nll_sum_H / count_H
        self.last_step = {
            # Lightning divides by the number of micro-batches, DDP and FSDP by that of ranks; M already holds both.
            "loss": loss.loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size),
            "loss_display": loss.loss.detach() * batch["step_targets"] / count_H[0],
            "nll_H": nll_H,
            "score_BT": weights.score_BT,
            "weight_BT": weights.weight_BT,
            "mask_BT": mask_BT,
            "batch": batch,
        }
        if batch["problem_ids"]:  # an empty micro-batch has no loss to show
            # Not with prog_bar: Lightning would read it after every micro-batch, and wait for the device.
            shown = {f"train/ce_head{k}": nll for k, nll in enumerate(nll_H)}
            self.log_dict({"train/loss": self.last_step["loss_display"], **shown}, batch_size=1)
        return self.last_step

    @torch.no_grad()
    def _weigh_pieces(self, batches: list[dict[str, Any]], draw: int) -> list[TokenWeights]:
        """Weigh the pieces of a micro-batch as the one batch that they were cut from."""
        # Every piece is scored, an empty one too: sharded models need the same calls on every rank.
        scores = [self.token_scores(batch, self.model.mtp(batch["input_ids_BT"])) for batch in batches]
        # Row for row as they lay in the whole batch; a piece without samples holds a row that was not there.
        held = [len(batch["problem_ids"]) for batch in batches]
        shape = (max(sum(held), 1), max(score_BT.shape[1] for score_BT in scores))
        score_BT, mask_BT = scores[0].new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=scores[0].device)
        starts = [sum(held[:i]) for i in range(len(held))]
        for batch, piece_BT, start, rows in zip(batches, scores, starts, held, strict=True):
            score_BT[start : start + rows, : piece_BT.shape[1]] = piece_BT[:rows]
            mask_BT[start : start + rows, : piece_BT.shape[1]] = target_mask(batch["labels_BT"])[:rows]
        whole_BT = self.weighting(score_BT, mask_BT, draw, self.share_done())
        weights = []
        for piece_BT, start, rows in zip(scores, starts, held, strict=True):
            weight_BT = torch.zeros_like(piece_BT, dtype=whole_BT.dtype)
            weight_BT[:rows] = whole_BT[start : start + rows, : piece_BT.shape[1]]
            weights.append(TokenWeights(piece_BT, weight_BT))
        return weights

    def _loss(self, batch: dict[str, Any], output: MTPOutput, weight_BT: Tensor | None = None) -> MTPLoss:
        return weighted_mtp_loss(
            output.hidden,
            output.unembedding_VD,
            batch["labels_BT"],
            weight_BT,
            batch["step_targets"],
            self._values_now(self.head_weights),
            batch["targets"],
            shared_gradient=output.trunk_gradient,
            head_lam=self._values_now(self.head_lam),
        )

    def _values_now(self, curves: Sequence[Curve] | None) -> list[float] | None:
        return None if curves is None else [value_at(curve, self.share_done()) for curve in curves]

    def share_done(self) -> float:
        """Return the share of the training that is behind, by the host's own count."""
        return self.trainer.global_step / self._steps if self._steps else 0.0

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the unweighted CE of every head, averaged over target tokens."""
        loss = self._loss(batch, self.model.mtp(batch["input_ids_BT"]))
        nll_H = loss.nll_sum_H / loss.target_count_H.clamp(min=1)
        for k, (nll, count) in enumerate(zip(nll_H, loss.target_count_H.tolist(), strict=True)):
            # An empty batch too, at no weight: ranks that had logged nothing would leave the others waiting for them.
            self.log(f"val/ce_head{k}", nll, batch_size=count, on_epoch=True, sync_dist=True)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip all gradients together; where the trunk hears only a part of the other heads, theirs on their own.

        Else they would still shorten its steps by way of the norm, and at trunk_gradient = 0 head 0 would not learn
        as it does alone.
        """
        own = {id(parameter) for parameter in self.model.extra_heads.parameters()}
        if not own or not gradient_clip_val or gradient_clip_algorithm == "value" or self.trunk_gradient == 1:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for of_heads in (False, True):
            part = [parameter for parameter in parameters if (id(parameter) in own) == of_heads]
            torch.nn.utils.clip_grad_norm_(part, gradient_clip_val)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Optimizer, optimizer_closure: Any = None) -> None:
        """Take the step, and let go at once of the gradients and the graph: the next forward pass needs the room."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()
        self.last_step["loss"] = self.last_step["loss"].detach()

    def configure_optimizers(self) -> dict[str, Any]:
        """Warm up linearly, then follow a cosine down to zero."""
        optimizer = self.optimizer(self.model)
        steps = self._steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(optimizer, round(self.warmup * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_model(self) -> None:
        """Let the strategy spread the model over the ranks, where it is one that does (trainer=fsdp)."""
        if hasattr(self.trainer.strategy, "shard"):
            self.trainer.strategy.shard(self)

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse what cannot be trained, before anything slow.

        Raises:
            ConfigError: 위치를 배운 모델(GPT-2)의 위치 수보다 긴 표본이 있거나, 표본에 임베딩이 없는 토큰이 있을 때.
        """
        rows, path = self.model.get_input_embeddings().num_embeddings, self.model.name_or_path
        for split, samples in data.samples.items():
            held = samples.tensors["input_ids"]
            check_embedded(held, rows, data.tokenizer, f"model.path ({path})", f"the {split} samples hold")
        positions = getattr(self.model.config, "n_positions", None)
        if positions is None:
            return
        longest = max(max(samples.lengths, default=0) for samples in data.samples.values())
        if longest > positions:
            raise ConfigError(
                f"data.max_length = {data.max_length} lets in a sample of {longest} tokens, and this "
                f"{self.model.config.model_type} has {positions} positions; set data.max_length={positions}."
            )
