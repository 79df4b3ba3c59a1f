"""Start new heads on a model that came without any.

[연구 맥락] 새 헤드는 어떻게 시작해도 두 칸 뒤를 모른다. 마지막 층의 복사는 다음 토큰을, 항등(identity)은 몸통이
    이미 아는 것을 자신 있게 말하므로 CE는 고르게 찍은 것(ln V)보다도 크다. 그래서 시작한 다음에는 얼린 몸통 위에서
    헤드만 먼저 맞춘다 (wmtp.heads.pretraining). 어느 시작이 나은지는 docs/new_heads.md의 표에 있다.
[동작] copy      마지막 층과 같은 값
       random    그 구조가 새 층을 시작하는 값
       identity  마지막 층의 복사에서 출력 투영만 0: 헤드가 몸통의 은닉상태를 그대로 내보낸다
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wmtp.errors import ConfigError

if TYPE_CHECKING:
    from wmtp.models.mtp import MTPMixin

# What a layer adds to the residual stream comes out of these, in one architecture or another.
OUTPUTS = {"o_proj", "out_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h", "fc2", "w2", "wo"}


@dataclass(frozen=True)
class NewHeads:
    """Say how the extra heads of a model began, where no checkpoint held them.

    Attributes:
        folder: 몸통이 온 폴더.
        start: `STARTS`의 이름.
        seed: random의 씨앗.
        first: 새 헤드 가운데 첫째의 번호. 그 앞의 헤드는 체크포인트의 것이다.
    """

    folder: Path
    start: str
    seed: int
    first: int = 1


def copy(model: "MTPMixin", first: int = 1) -> None:
    """Start heads `first`, `first` + 1, … as copies of head 0."""
    for head in model.extra_heads[first - 1 :]:
        model.start_as_copy(head)


def random(model: "MTPMixin", first: int = 1) -> None:
    """Start those heads as the architecture starts a new layer, whatever a checkpoint held."""
    for head, fresh in zip(model.extra_heads[first - 1 :], model.random_heads()[first - 1 :], strict=True):
        head.load_state_dict(fresh.state_dict())


@torch.no_grad()
def identity(model: "MTPMixin", first: int = 1) -> None:
    """Start those heads as copies of head 0 that add nothing to the trunk's states.

    Raises:
        ConfigError: 출력 투영의 이름을 몰라서 항등이 되지 않는 구조일 때. 세 토큰으로 확인한다.
    """
    copy(model, first)
    for head in model.extra_heads[first - 1 :]:
        for name, parameter in head.named_parameters():
            if OUTPUTS & set(name.split(".")):
                parameter.zero_()
    with model.trunk_call() as call:
        model.base_model(torch.arange(3, device=model.device)[None], use_cache=False)
    trunk_BTD = call["args"][0] if call["args"] else call["kwargs"]["hidden_states"]
    if not all(torch.equal(hidden_BTD, trunk_BTD) for hidden_BTD in [*model.run_heads(call)][first - 1 :]):
        raise ConfigError(
            f"model.heads_init = identity: a layer of {model.config.model_type} adds something to its input even with "
            "its output projections at zero; set model.heads_init=copy, or add their names to "
            "wmtp/models/head_start.py."
        )


STARTS: dict[str, Callable[["MTPMixin", int], None]] = {
    "copy": copy,
    "random": random,
    "identity": identity,
    "auto": copy,  # of those that no checkpoint holds
}
