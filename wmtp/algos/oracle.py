"""Drop the tokens known to be corrupted: what a perfect judge of bad tokens would bring, and no more.

[연구 맥락] rho1의 이득에는 두 가지가 섞여 있다: 나쁜 토큰을 덜 배우는 것과, 배울 수 있는 토큰을 더 배우는 것.
    oracle은 앞의 것만 한다. 그래서 noise가 있는 데이터에서 rho1 − oracle, 깨끗한 데이터에서 rho1 − baseline이 뒤의
    것을 말한다.
[동작] 점수는 망가진 토큰이 −1, 나머지는 0이다. 딱 자르는 선택(conf/algo/oracle.yaml)은 동점을 모두 남기므로 깨끗한
    토큰은 모두 n/(깨끗한 토큰의 수), 망가진 토큰은 0이다. 모두 망가진 배치에서는 모두 1이다.
[디버깅] weight/auc는 정확히 1이다.
"""

#   B sequences, T positions

from typing import Any

from torch import Tensor

from wmtp.algos.weighted_mtp import WeightedMTP
from wmtp.errors import ConfigError
from wmtp.maths.alignment import target_mask
from wmtp.models.mtp import MTPOutput


class Oracle(WeightedMTP):
    """Fine-tune without the tokens that the data knows to be corrupted."""

    name = "oracle"

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse data that knows of no corrupted token.

        Raises:
            ConfigError: 학습 표본에 망가진 것으로 아는 토큰이 하나도 없을 때.
        """
        super().check(trainer, data)
        if not data.samples["train"].tensors["noise"].any():
            raise ConfigError(
                f"algo=oracle drops the tokens known to be corrupted, and {data.source.name} knows of none in its "
                "training samples; set data.noise above 0 (data=synthetic), or take algo=baseline."
            )

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Score corrupted target tokens below all others."""
        return -(batch["noise_BT"] & target_mask(batch["labels_BT"])).float()
