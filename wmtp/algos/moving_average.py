"""Compare the model with the moving average of itself, where no reference is to be had.

[연구 맥락] 평균은 잡음이 적은 자신이다. 평균보다 지금 더 못 맞히는 토큰(CE_base − CE_avg > 0)은 배웠다가 흔들리는
    것이고, 망가진 토큰처럼 배울 것이 없는 곳에서는 둘이 같다. 참조모델이 필요 없는 대신 정보도 적다.
        θ_avg ← decay · θ_avg + (1 − decay) · θ          스텝마다 한 번
[동작] torch의 `AveragedModel`이 평균을 낸다. 첫 스텝의 뒤에 모델과 같은 값에서 시작하므로, 처음 두 스텝의 점수는
    모두 0이고 가중치는 1이다. 체크포인트에 함께 들어가 이어 한 학습도 같은 수를 낸다. 메모리는 모델 하나만큼 더 든다.
"""

#   B sequences, T positions

from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wmtp import ranges
from wmtp.algos.reference import OnlineReference
from wmtp.errors import ConfigError
from wmtp.models.mtp import MTPMixin


class MovingAverage(OnlineReference):
    """Score every batch with the average of the model so far.

    Args:
        decay: 스텝마다 남기는 평균의 몫, [0, 1).

    Raises:
        ConfigError: decay가 범위 밖이거나, 모델을 나누어 갖는 학습(trainer=fsdp)일 때.
    """

    def __init__(self, decay: float = 0.99) -> None:
        ranges.check(ranges.MovingAverage, decay=decay)
        self.decay = decay
        self.frozen: Any = None

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse a model that no rank holds whole."""
        if hasattr(trainer.strategy, "shard"):
            raise ConfigError(
                "algo/reference = moving_average averages a whole model, which trainer=fsdp does not hold; "
                "take algo/reference=cached, or trainer=ddp."
            )

    def prepare(self, trainer: Any) -> None:
        """Begin with the model as it is."""
        model = trainer.lightning_module.model
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.decay)).requires_grad_(False).eval()

    def follow(self, model: MTPMixin) -> None:
        """Take the model after a step into the average."""
        self.average.to(model.device).update_parameters(model)

    def state(self) -> dict[str, Any]:
        """Return the average, for a checkpoint."""
        return self.average.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the average of a checkpoint."""
        self.average.load_state_dict(state)

    @torch.no_grad()
    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the average's CE of every target token of a batch, head 0's."""
        average: Any = self.average.to(batch["input_ids_BT"].device).module  # an MTPMixin, which torch does not know
        return average.mtp(batch["input_ids_BT"]).next_token_nll(batch)
