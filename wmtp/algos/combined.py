"""Mix what the reference finds learnable (rho1) with what the value finds decisive (critic).

[연구 맥락] 두 점수는 단위가 다르다 (nat과 확률). 시퀀스마다 표준화한 뒤 섞는다: mix·z(δ) + (1 − mix)·z(CE 차이).
    배치가 아니라 시퀀스마다 표준화하므로, 배치를 어떻게 나누어도 같은 점수다.
"""

#   B sequences, T positions

from typing import Any

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
        **parts: 그 밖의 `Critic`과 `Rho1`의 인자들.
    """

    name = "combined"

    def __init__(
        self, model: MTPMixin, value: PolicyValue, reference: OnlineReference, mix: float = 0.5, **parts: Any
    ) -> None:
        ranges.check(ranges.Combined, mix=mix)
        if reference.frozen == value.frozen:
            reference.frozen = value.frozen  # one model, in memory once
        super().__init__(model, value=value, reference=reference, **parts)
        self.mix, self.score_name = mix, "mixed"

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Mix both scores."""
        mask_BT = target_mask(batch["labels_BT"])
        critic_BT = Critic.token_scores(self, batch, output)
        rho1_BT = Rho1.token_scores(self, batch, output)
        return self.mix * standardize(critic_BT, mask_BT) + (1 - self.mix) * standardize(rho1_BT, mask_BT)
