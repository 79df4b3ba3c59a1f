"""Weigh tokens by what a reference model knows and the model does not yet (Rho-1).

[연구 맥락] 참조모델이 쉽게 맞히는데 지금 모델이 틀리는 토큰은 배울 수 있는 토큰이다
    (Lin et al. 2024, arXiv 2404.07965, 2.2절).
    score: excess    CE_base(j) − CE_ref(j)          기본값
    score: absolute  |CE_ref(j) − CE_base(j)|        이 프로젝트의 처음 정의. 참조모델이 거부하는 쓰레기 토큰도 올린다
[동작] CE_base는 head 0(다음 토큰)에서, CE_ref는 얼린 참조모델에서. 배치에 reference_nll_BT가 있으면 그것을 쓴다.
[디버깅] noise가 있는 데이터에서 망가진 토큰의 평균 가중치가 1보다 크면, 참조모델이 그 데이터를 모르는 것이다.
"""

#   B sequences, T positions

from typing import Any, Literal

from torch import Tensor, nn

from wmtp.algos.weighted_mtp import WeightedMTP
from wmtp.errors import ConfigError
from wmtp.models.mtp import MTPMixin, MTPOutput


class Rho1(WeightedMTP):
    """Fine-tune with weights from the loss gap to a frozen reference model.

    Args:
        model: 학습할 모델.
        reference: 같은 토크나이저의 얼린 모델 (head 0만 쓴다), 또는 그 손실을 미리 계산해 데이터에 붙여 주는 것
            (`wmtp.algos.reference`).
        score: "excess" 또는 "absolute".
        **step: `WeightedMTP`의 인자들. weighting을 포함한다.
    """

    name = "rho1"

    def __init__(
        self,
        model: MTPMixin,
        reference: Any,
        score: Literal["excess", "absolute"] = "excess",
        **step: Any,
    ) -> None:
        super().__init__(model, **step)
        if score not in ("excess", "absolute"):
            raise ConfigError(f"algo.score = {score!r} must be excess or absolute (MATHS, section 4); try excess.")
        self.score = self.score_name = score
        # In a tuple, so that the frozen weights are neither trained nor saved with every checkpoint.
        self._reference = (reference.requires_grad_(False).eval() if isinstance(reference, nn.Module) else reference,)

    @property
    def reference(self) -> MTPMixin:
        """Return the frozen reference model; one that gave its losses to the data is loaded only when asked for."""
        (reference,) = self._reference
        return (reference if isinstance(reference, nn.Module) else reference.model).to(self.device)

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse to start where the reference's losses have to be in the cache and are not."""
        super().check(trainer, data)
        if hasattr(self._reference[0], "check"):
            self._reference[0].check(trainer, data)

    def setup(self, stage: str) -> None:
        """Let the losses be put into the data, or else keep the model that scores as training goes."""
        if stage == "fit" and hasattr(self._reference[0], "prepare"):
            model = self._reference[0].prepare(self.trainer)
            self._reference = (model or self._reference[0],)

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Score target tokens by the gap between the model's loss and the reference's."""
        gap_BT = output.next_token_nll(batch) - self.reference_nll(batch)
        return gap_BT if self.score == "excess" else gap_BT.abs()

    def reference_nll(self, batch: dict[str, Any]) -> Tensor:
        """Return CE_ref of every target token, from the batch where it was computed ahead."""
        if "reference_nll_BT" in batch:
            return batch["reference_nll_BT"]
        return self.reference.mtp(batch["input_ids_BT"]).next_token_nll(batch)
