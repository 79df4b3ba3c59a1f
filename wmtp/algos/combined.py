"""Mix what the reference finds learnable (rho1) with what the value finds decisive (critic).

[연구 맥락] 두 점수는 단위가 다르다 (nat과 확률). 시퀀스마다 표준화한 뒤 섞는다: mix·z(δ) + (1 − mix)·z(CE 차이).
    배치가 아니라 시퀀스마다 표준화하므로, 배치를 어떻게 나누어도 같은 점수다.
    join: product는 σ(z(δ))^mix · σ(z(CE 차이))^(1 − mix), σ는 시그모이드: 합과 달리 둘 다 높아야 높다.
    하나가 아주 높다고 다른 하나가 낮은 것을 덮지 못한다.
"""

#   B sequences, T positions

from typing import Any, Literal

from torch import Tensor

from wmtp import ranges
from wmtp.algos.critic import Critic
from wmtp.algos.reference import OnlineReference
from wmtp.algos.rho1 import Rho1
from wmtp.critic.value import PolicyValue
from wmtp.maths.alignment import target_mask
from wmtp.maths.weighting import standardize
from wmtp.models.mtp import MTPMixin, MTPOutput


class Combined(Critic, Rho1):
    """Fine-tune with the standardized scores of critic and rho1.

    Args:
        value, reference: `Critic`과 `Rho1`의 것.
        mix: critic의 몫, [0, 1]. 0은 rho1, 1은 critic.
        join: "sum" 또는 "product".
        **parts: 그 밖의 `Critic`과 `Rho1`의 인자들.
    """

    name = "combined"

    def __init__(
        self,
        model: MTPMixin,
        value: PolicyValue,
        reference: OnlineReference,
        mix: float = 0.5,
        join: Literal["sum", "product"] = "sum",
        **parts: Any,
    ) -> None:
        ranges.check(ranges.Combined, mix=mix, join=join)
        if reference.frozen == value.frozen:
            reference.frozen = value.frozen  # one model, in memory once
        super().__init__(model, value=value, reference=reference, **parts)
        self.mix, self.join, self.score_name = mix, join, "mixed"

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Mix both scores."""
        mask_BT = target_mask(batch["labels_BT"])
        critic_BT = standardize(Critic.token_scores(self, batch, output), mask_BT)
        rho1_BT = standardize(Rho1.token_scores(self, batch, output), mask_BT)
        if self.join == "product":
            return mask_BT * critic_BT.sigmoid() ** self.mix * rho1_BT.sigmoid() ** (1 - self.mix)
        return self.mix * critic_BT + (1 - self.mix) * rho1_BT
