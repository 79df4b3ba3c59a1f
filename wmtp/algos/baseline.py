"""Train with every token weighing the same: the comparison that every result needs.

[연구 맥락] baseline은 w = 1인 MTP다. rho1과 critic은 `token_scores`만 다르므로, 차이는 오직 가중치에서 온다.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pytorch_lightning import LightningModule
from torch.optim import Optimizer
from transformers import get_cosine_schedule_with_warmup

from wmtp.algos.mixin import WeightedMTPMixin
from wmtp.errors import ConfigError
from wmtp.models.mtp import MTPMixin


class Baseline(WeightedMTPMixin, LightningModule):
    """Fine-tune an MTP model with uniform weights.

    Attributes:
        name: 실행 폴더와 MLflow 실험의 이름에 들어간다.
        run_config: 체크포인트에 함께 저장할 설정 (평범한 dict).

    Args:
        model: H개의 헤드를 가진 모델 (`wmtp.models.mtp`).
        optimizer: 모델을 받아 옵티마이저를 돌려주는 함수 (conf/optimizer/*.yaml).
        warmup: 학습률을 올리는 구간, 전체 스텝에 대한 비율. 그 뒤는 코사인으로 내린다.
        head_weights: α_k, 헤드별 손실 가중치. None이면 모두 1.
        weighting: 점수를 가중치로 바꾸는 규칙 (`wmtp.maths.weighting`). 점수가 있는 알고리즘만 쓴다.
    """

    name = "baseline"
    run_config: dict[str, Any] = {}

    def __init__(
        self,
        model: MTPMixin,
        optimizer: Callable[[MTPMixin], Optimizer],
        warmup: float = 0.03,
        head_weights: Sequence[float] | None = None,
        weighting: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(warmup, bool) or not isinstance(warmup, (int, float)) or not 0 <= warmup < 1:
            raise ConfigError(f"algo.warmup = {warmup!r} must be a share of the steps in [0, 1); try 0.03.")
        if head_weights is not None and len(head_weights) != model.heads:
            raise ConfigError(
                f"algo.head_weights = {list(head_weights)} must have one number for each of the {model.heads} heads "
                "(model.heads); or null for all ones."
            )
        self.model = model
        self.optimizer = optimizer
        self.warmup = warmup
        self.head_weights = head_weights
        self.weighting = weighting

    def configure_model(self) -> None:
        """Let the strategy spread the model over the ranks, where it is one that does (trainer=fsdp)."""
        if hasattr(self.trainer.strategy, "shard"):
            self.trainer.strategy.shard(self)

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse what cannot be trained, before anything slow.

        Raises:
            ConfigError: 위치를 배운 모델(GPT-2)의 위치 수보다 긴 표본이 있을 때.
        """
        positions = getattr(self.model.config, "n_positions", None)
        if positions is None:
            return
        longest = max(max(samples.lengths, default=0) for samples in data.samples.values())
        if longest > positions:
            raise ConfigError(
                f"data.max_length = {data.max_length} lets in a sample of {longest} tokens, and this "
                f"{self.model.config.model_type} has {positions} positions; set data.max_length={positions}."
            )

    def configure_optimizers(self) -> dict[str, Any]:
        """Warm up linearly, then follow a cosine down to zero."""
        optimizer = self.optimizer(self.model)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(optimizer, round(self.warmup * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Optimizer, optimizer_closure: Any = None) -> None:
        """Take the step, and let go at once of the gradients and the graph: the next forward pass needs the room."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()
        self.last_step["loss"] = self.last_step["loss"].detach()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Embed what is needed to rebuild the model: plain values, never objects."""
        adapter = self.model.adapter and asdict(self.model.adapter)
        checkpoint["wmtp"] = {"config": self.run_config, "model": self.model.config.to_dict(), "adapter": adapter}
