"""Weigh tokens by what a reference model knows and the model does not yet (Rho-1).

[연구 맥락] 참조모델이 쉽게 맞히는데 지금 모델이 틀리는 토큰은 배울 수 있는 토큰이다
    (Lin et al. 2024, arXiv 2404.07965, 2.2절).
    score: excess    CE_base(j) − CE_ref(j)          기본값
    score: absolute  |CE_ref(j) − CE_base(j)|        이 프로젝트의 처음 정의. 참조모델이 거부하는 쓰레기 토큰도 올린다
[동작] CE_base는 head 0(다음 토큰)에서, CE_ref는 얼린 참조모델에서 (reference.py).
[디버깅] noise가 있는 데이터에서 망가진 토큰의 평균 가중치가 1보다 크면, 참조모델이 그 데이터를 모르는 것이다.
"""

#   B sequences, T positions

from typing import Any, Literal

from torch import Tensor

from wmtp import ranges
from wmtp.algos.reference import OnlineReference
from wmtp.algos.weighted_mtp import WeightedMTP
from wmtp.models.mtp import MTPMixin, MTPOutput


class Rho1(WeightedMTP):
    """Fine-tune with weights from the loss gap to a frozen reference model.

    Args:
        reference: CE_ref를 말해 주는 것 (`wmtp.algos.reference`).
        **step: `WeightedMTP`의 인자들. weighting을 포함한다.
    """

    name = "rho1"

    def __init__(
        self, model: MTPMixin, reference: OnlineReference, score: Literal["excess", "absolute"] = "excess", **step: Any
    ) -> None:
        ranges.check(ranges.Rho1, score=score)
        super().__init__(model, **step)
        self.score = self.score_name = score
        self.reference = reference

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse to start where the reference cannot say its losses."""
        super().check(trainer, data)
        self.reference.check(trainer, data)

    def setup(self, stage: str) -> None:
        """Let the losses be computed ahead, where they are."""
        if stage == "fit":
            self.reference.prepare(self.trainer)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Take the step, and let a reference that follows the model see it."""
        super().optimizer_step(*arguments, **named)
        self.reference.follow(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep a reference that follows the model."""
        if state := self.reference.state():
            checkpoint["reference"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with it."""
        if "reference" in checkpoint:
            self.reference.restore(checkpoint["reference"])

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Score target tokens by the gap between the model's loss and the reference's."""
        gap_BT = output.next_token_nll(batch) - self.reference.losses(batch)
        return gap_BT if self.score == "excess" else gap_BT.abs()
