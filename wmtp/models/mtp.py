"""Put H prediction heads on a causal language model: what every arrangement of heads promises, and Meta's.

[연구 맥락] MTP(다중토큰예측)는 위치 t에서 y[t+1] … y[t+H]를 한 번에 예측한다
    (Gloeckle et al. 2024, arXiv 2404.19737, 2절).
    layers[:-1]  = 몸통(trunk), 모든 헤드가 같은 출력을 받는다
    head 0       = layers[-1]           (평범한 다음 토큰 예측)
    head k       = extra_heads[k - 1]   (k + 1번째 뒤의 토큰)
    마지막 norm과 unembedding은 모든 헤드가 함께 쓴다.
    이것이 나란한 헤드(parallel)다. 앞 헤드의 출력을 다음 헤드가 읽는 차례 헤드(sequential)는 `sequential.py`에 있다.
    어느 쪽이든 `mtp`는 H × [B, T, D]를 내고, 손실과 알고리즘은 둘을 가리지 않는다.
[동작] 어떤 transformers 모델이든 `put_heads_on(Base)`로 감싼다.
    Base의 `forward`와 `generate`는 그대로이므로 head 0은 정의상 원래 모델과 같다. 마지막 층에 들어가는 입력
    (몸통의 은닉상태, 마스크, 회전 위치)을 붙잡아 다른 헤드에 똑같이 넣는다.
[디버깅] 로짓이 원래 모델과 다르면 head 0이 아니라 Base를 의심하라: 여기서는 Base를 고치지 않는다.
"""

#   B sequences, T positions, H heads, D width, V vocabulary

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.func import functional_call
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from wmtp.errors import ConfigError
from wmtp.maths.gradient import scale_gradient
from wmtp.maths.loss import target_nll
from wmtp.models.adapter import Lora, merge
from wmtp.models.drafting import ParallelDrafter
from wmtp.models.head_start import NewHeads
from wmtp.private_names import one_sequence_in_each_row

LAYER_NAMES = ("layers", "h")
NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
EXTRA_HEADS = "extra_heads."  # how the names of their tensors begin, in memory and in files


class MTPOutput(NamedTuple):
    """Hold what the heads say, and the matrix that turns it into logits.

    Attributes:
        hidden: 헤드마다 하나씩, H × [B, T, D]. 마지막 norm을 지난 은닉상태.
        model: 이것을 낸 모델.
        trunk_gradient: 헤드 1, 2, …의 기울기가 head 0과 함께 쓰는 것으로 흐를 때의 배율 (`mtp`).
    """

    hidden: tuple[Tensor, ...]
    model: "MTPMixin"
    trunk_gradient: float = 1.0

    @property
    def unembedding_VD(self) -> Tensor:
        """Return the output matrix that all heads share, whole until the backward pass is over (FSDP2).

        It is not a field: FSDP hangs a hook on every tensor that a forward returns, and this one never goes away.
        """
        return self.model.unembedding_VD

    def next_token_nll(self, batch: dict[str, Any]) -> Tensor:
        """Compute head 0's CE of every target token of the batch (`wmtp.maths.loss.target_nll`)."""
        return target_nll(self.hidden[0], self.unembedding_VD, batch["labels_BT"], targets=batch["targets"])


if TYPE_CHECKING:  # what a subclass brings: `put_heads_on` puts this class before whichever model it is
    from transformers import PreTrainedModel as _CausalLM
else:
    _CausalLM = object


class MTPMixin(_CausalLM):
    """Add the heads of tokens further ahead to a transformers causal LM; a subclass says how they are arranged.

    [연구 맥락] 로짓 [B, T, H, V]는 절대 만들지 않는다. 은닉상태까지만 만들고, 손실이 조각내어 unembedding을 곱한다.
    [동작] 짜임(arrangement)마다 다른 것은 여섯이다: `make_heads`, `start_as_copy`, `trunk_layers`, `trunk_call`,
        `_through_heads`, 그리고 초안을 쓰는 법 `drafter` (`wmtp.models.drafting`).
    """

    adapter: Lora | None = None
    new_heads: NewHeads | None = None  # how the extra heads began, where they are not a checkpoint's
    closes_with: int | None = None  # the token that closes its answers, where it is taught in conversations
    drafter: type  # of wmtp.models.drafting

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.extra_heads = self.make_heads()
        self.post_init()

    def make_heads(self) -> nn.ModuleList:
        """Build the modules that only heads 1, 2, … have."""
        raise NotImplementedError

    def start_as_copy(self, head: Any) -> None:
        """Give one of `extra_heads` the values of the layer that head 0 is, as far as it has such a layer."""
        raise NotImplementedError

    @property
    def trunk_layers(self) -> nn.ModuleList:
        """Return the decoder layers whose output the extra heads read; those after them are head 0 alone."""
        raise NotImplementedError

    def trunk_call(self) -> AbstractContextManager[dict[str, Any]]:
        """Catch, from the forward pass within, all that the extra heads read."""
        raise NotImplementedError

    def _through_heads(self, call: dict[str, Any], trunk_gradient: float) -> tuple[Tensor, ...]:
        """Run heads 1, 2, … on what `trunk_call` caught."""
        raise NotImplementedError

    def random_heads(self) -> nn.ModuleList:
        """Build heads that start as the architecture starts a new layer."""
        return self.make_heads().to(self.dtype).apply(self._init_weights)

    @property
    def heads(self) -> int:
        """Return H, the number of future tokens predicted at once."""
        return getattr(self.config, "mtp_heads", 1)

    @property
    def layers_of_heads(self) -> list[nn.Module]:
        """Return the layer that each of heads 1, 2, … runs; one that serves several is there as often."""
        return list(self.extra_heads)

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """Return the base model's decoder layers."""
        return _first_attribute(self.base_model, LAYER_NAMES)

    @property
    def final_norm(self) -> nn.Module:
        """Return the norm before the output matrix."""
        return _first_attribute(self.base_model, NORM_NAMES)

    @property
    def unembedding_VD(self) -> Tensor:
        """Return the output matrix that all heads share."""
        return self.get_output_embeddings().weight

    def exported_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that files hold, named and cut as the checkpoint has them.

        [동작] LoRA는 합치고, transformers가 읽으며 바꾼 이름과 모양(MoE의 전문가를 하나로 묶은 것 등)은 되돌린다.
            파일에 다르게 적히는 층은 그 짜임의 클래스가 더한다.

        Args:
            state: 이 모델의 `state_dict()` 전체.
        """
        if self.adapter is not None:
            state = merge(self, state)
        return revert_weight_conversion(self, dict(state))

    def exported_config(self) -> dict[str, Any]:
        """Return what config.json says of the heads."""
        return {"mtp_heads": self.heads} if self.heads > 1 else {}

    def config_without_heads(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the source's config.json for a folder that heads 1, 2, … are left out of."""
        return config

    def is_of_heads(self, name: str) -> bool:
        """Say whether a tensor of a file is of heads 1, 2, …, which are there to be used or not."""
        return name.startswith(EXTRA_HEADS)

    def mtp(self, input_ids_BT: Tensor, trunk_gradient: float = 1.0, **kwargs: Any) -> MTPOutput:
        """Run the trunk once and all heads on its output.

        [동작] 패딩은 오른쪽에만 있으므로 (`wmtp.data.batching.collate`), 진짜 토큰은 마스크 없이도 패딩을 보지 못한다.
            마스크가 없으면 어텐션(attention)은 가장 빠른 길로 가고, 호스트는 장치를 기다리지 않는다.

        Args:
            input_ids_BT: 토큰 번호. 패딩이 있다면 오른쪽에.
            trunk_gradient: 헤드 1, 2, …의 기울기가 head 0과 함께 쓰는 것(몸통, 마지막 norm, 임베딩, 출력 행렬)으로
                흐를 때의 배율. 0이면 head 0은 혼자일 때와 똑같이 배우고, 헤드 자신의 기울기는 어느 값이든 같다.
            **kwargs: Base에 그대로 넘긴다 (attention_mask 등).
        """
        with self.trunk_call() as call, nullcontext() if "position_ids" in kwargs else one_sequence_in_each_row():
            base = self.base_model(input_ids_BT, use_cache=False, **kwargs)
            others = self._through_heads(call, trunk_gradient)
        return MTPOutput((base.last_hidden_state, *others), self, trunk_gradient)

    # `mtp` does not call it: FSDP takes it for a forward pass of its own, and within `mtp` it would be a second one,
    # and the output matrix in shards again when the loss reads it.
    def heads_on(self, call: dict[str, Any], trunk_gradient: float = 0.0) -> MTPOutput:
        """Run the extra heads alone, on what was caught before.

        Args:
            call: `trunk_call`이 붙잡은 것. 얼린 몸통이라면 기억해 두었다가 여러 번 쓸 수 있다.
            trunk_gradient: `mtp`의 것.
        """
        with one_sequence_in_each_row():
            return MTPOutput(self._through_heads(call, trunk_gradient), self, trunk_gradient)


class ParallelHeads(MTPMixin):
    """Let every head be one layer that reads the trunk's states: Meta's arrangement."""

    drafter = ParallelDrafter

    def make_heads(self) -> nn.ModuleList:
        """Build heads like the last layer (types and windows are looked up by index), cached in slots of their own."""
        last = len(self.decoder_layers) - 1
        layer_class: Any = type(self.decoder_layers[-1])
        heads = [layer_class(self.config, last) for _ in range(self.heads - 1)]
        for k, head in enumerate(heads, start=1):
            for module in head.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = last + k
        return nn.ModuleList(heads)

    def start_as_copy(self, head: Any) -> None:
        """Make a head what head 0 is."""
        head.load_state_dict(self.decoder_layers[-1].state_dict())

    @property
    def trunk_layers(self) -> nn.ModuleList:
        """Return all layers but the last, which is head 0."""
        return self.decoder_layers[:-1]

    @contextmanager
    def trunk_call(self) -> Iterator[dict[str, Any]]:
        """Catch what head 0's layer is called with (trunk states, mask, rotary angles, cache), for the other heads."""
        call: dict[str, Any] = {}

        def catch(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            call["args"], call["kwargs"] = args, kwargs

        hook = self.decoder_layers[-1].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            yield call
        finally:
            hook.remove()

    def _through_heads(self, call: dict[str, Any], trunk_gradient: float) -> tuple[Tensor, ...]:
        call = apply_to_collection(call, Tensor, scale_gradient, trunk_gradient)
        norm = {name: scale_gradient(p, trunk_gradient) for name, p in self.final_norm.named_parameters()}
        return tuple(functional_call(self.final_norm, norm, (hidden_BTD,)) for hidden_BTD in self.run_heads(call))

    def run_heads(self, call: dict[str, Any]) -> Iterator[Tensor]:
        """Give the extra heads what head 0 was given, one after the other; the final norm is not taken yet."""
        for head in self.extra_heads:
            out = head(*call["args"], **call["kwargs"])
            yield out if torch.is_tensor(out) else out[0]


def _first_attribute(module: nn.Module, names: tuple[str, ...]) -> Any:
    """Return the first of `names` that the module has."""
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise ConfigError(
        f"model: {type(module).__name__} has none of {', '.join(names)}, so heads cannot be attached; "
        "add the attribute's name to wmtp/models/mtp.py."
    )


@cache
def put_heads_on(base: type[PreTrainedModel], arrangement: type[MTPMixin] = ParallelHeads) -> type[MTPMixin]:
    """Return a transformers class with heads on it, arranged in one way or the other.

    [동작] 이름과 모듈을 Base에게서 빌린다. transformers는 그 둘로 체크포인트의 옛 텐서 이름을 찾아 바꾸고
        (GPT-NeoX의 embed_out, MoE의 experts), 못 찾으면 조용히 새 값으로 시작한다. 서버는 config.json의 architectures에
        적힌 이름으로 모델을 고른다.

    Example:
        >>> from transformers import LlamaConfig
        >>> config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        ...                      num_attention_heads=2, mtp_heads=4)
        >>> output = put_heads_on(LlamaForCausalLM)(config).mtp(torch.zeros(1, 3, dtype=torch.long))
        >>> len(output.hidden), tuple(output.hidden[0].shape)
        (4, (1, 3, 8))
    """
    return type(base.__name__, (arrangement, base), {"__module__": base.__module__})


MTPForCausalLM = put_heads_on(LlamaForCausalLM)  # model=tiny, and what Meta's checkpoints are converted into
