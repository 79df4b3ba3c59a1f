"""Weigh tokens by how much they change the value of the program so far.

[연구 맥락] 가치헤드 V는 "여기까지 읽은 프로그램이 맞을 확률"을 안다. 목표 토큰 t의 점수는 δ_t = V(s_t) − V(s_{t−1})이다
    (maths.md 5절). 프로그램을 망치는 토큰에서 V가 떨어지므로 그 토큰은 가벼워진다.
[동작] 1단계(stage 1): `CriticPretraining` 콜백이 V를 배운다. 이 알고리즘이 스스로 붙인다.
    2단계(stage 2): 여기. V는 얼어 있다.
[디버깅] critic.json의 AUC와 localisation을 먼저 본다. V가 모르면 가중치에도 뜻이 없다.
"""

#   B sequences, T positions

from collections.abc import Callable
from typing import Any, Literal

from pytorch_lightning import Callback
from torch import Tensor

from wmtp import ranges
from wmtp.algos.weighted_mtp import WeightedMTP
from wmtp.critic.value import PolicyValue
from wmtp.maths.alignment import target_mask
from wmtp.maths.credit import value_deltas
from wmtp.models.mtp import MTPMixin, MTPOutput


class Critic(WeightedMTP):
    """Fine-tune with weights from the changes of a value that was fitted to rewards.

    Args:
        rewards: 프로그램에 보상을 주는 것 (`wmtp.critic.rewards`).
        pretraining: rewards를 받아 1단계 콜백을 돌려주는 함수 (`CriticPretraining`).
        localisation: rewards를 받아 자리를 재는 콜백을 돌려주는 함수 (`Localisation`).
        value_score: "delta" δ_t, 또는 "value" V(s_t) (값이 떨어진 뒤의 토큰도 가볍게).
        **step: `WeightedMTP`의 인자들. weighting을 포함한다.
    """

    name = "critic"

    def __init__(
        self,
        model: MTPMixin,
        value: PolicyValue,
        rewards: Any,
        pretraining: Callable[..., Callback],
        localisation: Callable[..., Callback],
        value_score: Literal["delta", "value"] = "delta",
        **step: Any,
    ) -> None:
        ranges.check(ranges.Critic, value_score=value_score)
        super().__init__(model, **step)
        self.value_score = self.score_name = value_score
        # No submodule, so that V is neither trained nor saved with the model: the callback does both.
        object.__setattr__(self, "value", value)
        self._callbacks = [pretraining(rewards=rewards), localisation(rewards=rewards)]

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse to start where a model of V's own cannot read the data."""
        super().check(trainer, data)
        if self.value.frozen is not None:
            self.value.frozen.check_reads(data)

    def configure_callbacks(self) -> list[Callback]:
        """Bring stage 1 and the measure of it along."""
        return self._callbacks

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Score target tokens by the change of V, or by V itself."""
        mask_BT = target_mask(batch["labels_BT"])
        if self.value.head is None:  # not fitted yet: every token is worth the same
            return mask_BT * 0.0
        value_BT = self.value.read(batch, output)
        return value_deltas(value_BT, mask_BT) if self.value_score == "delta" else value_BT * mask_BT
