"""Let every head read the one before it and the token in between: the arrangement that models ship with.

[연구 맥락] DeepSeek-V3(arXiv 2412.19437, 2.2절)부터 많은 모델이 이런 층을 품고 나온다. 위치 t에서
    h_0[t] = 몸통의 마지막 norm을 지난 은닉상태 (MiMo의 배치에서는 지나기 전)    head 0: y[t+1]
    h_k[t] = norm(층_k( W [norm(임베딩(x[t+k])) ; norm(h_{k−1}[t])] ))            head k: y[t+1+k]
    임베딩과 출력 행렬은 몸통의 것이다. 나란한 헤드와 달리 head k는 그 사이의 토큰 x[t+1] … x[t+k]를 안다. 그래서 더 잘
    맞히지만, 초안을 쓸 때는 하나씩 차례로 써야 한다 (`drafting.SequentialDrafter`).
    층이 헤드보다 적으면 마지막 층을 되풀이해 쓴다 (FastMTP, arXiv 2509.18362).
[동작] 층은 transformers의 `MtpModel`이 짓고, 마스크와 위치도 그것에게 묻는다. 층만 `extra_heads`에 두고 나머지
    (임베딩, 출력 행렬)는 등록하지 않는다: 같은 텐서가 두 이름을 갖지 않는다. 그 `forward`로는 학습할 수
    없다 (5.23.0에서 loss가 None에서 시작하고, 가는 길에 토큰을 뽑는다). 우리는 층만 차례로 부르고, 손실은 나란한 헤드와
    함께 쓴다.
    head k가 위치 t에서 읽을 토큰 t + k가 없는 마지막 k자리에는 목표도 없다. 무엇을 읽든 앞자리에는 닿지 않는다
    (인과 마스크). 돌아 들어오는 일은 없다 (`shift_left`).
[디버깅] 헤드의 CE가 나쁘면 자리부터: `tests/unit/models/test_sequential.py`가 로짓과 기울기를 float64로 견준다.
"""

#   B sequences, T positions, H heads, D width; k the head: 0 is the model itself

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import MtpModel

from wmtp.errors import ConfigError
from wmtp.maths.alignment import shift_left
from wmtp.maths.gradient import scale_gradient
from wmtp.models.drafting import SequentialDrafter
from wmtp.models.mimo import ARCHITECTURE, why_not_mimo
from wmtp.models.mtp import MTPMixin
from wmtp.models.native_layout import KEYS, is_published, layer_count, published, without_layers

OWN = ("extra_heads.", "shared_post_norm.")  # how the names of the layers' tensors begin


class SequentialHeads(MTPMixin):
    """Let head k be a layer on the states of head k − 1 and the embedding of the token that head k − 1 predicts.

    Attributes:
        builder: 층을 지은 transformers의 `MtpModel`. 등록하지 않으므로 상태에도, 학습할 것에도 나오지 않는다.
    """

    drafter = SequentialDrafter
    builder: MtpModel

    def make_heads(self) -> nn.ModuleList:
        """Let transformers build the layers, and keep it for its masks and positions."""
        layers, self.__dict__["builder"] = self._build()
        if self.builder.use_shared_post_norm:
            self.shared_post_norm = self.builder.shared_post_norm
        return layers

    def random_heads(self) -> nn.ModuleList:
        """Build layers that start as the architecture starts a new layer."""
        return self._build()[0].to(self.dtype).apply(self._init_weights)

    def _build(self) -> tuple[nn.ModuleList, MtpModel]:
        builder = MtpModel(self, layer_count(self.config))
        layers, builder.layers = builder.layers, nn.ModuleList()
        return layers, builder

    @torch.no_grad()
    def start_as_copy(self, head: nn.Module) -> None:
        """Give a layer the block of the last such layer of the trunk, and let it read the mean of its two inputs.

        Raises:
            ConfigError: 몸통에 같은 모양의 층이 없을 때.
        """
        shape = _shapes(head.mtp_block)
        alike = [layer for layer in self.decoder_layers if _shapes(layer) == shape]
        if not alike:
            raise ConfigError(
                f"model.heads_init = copy: no layer of {self.config.model_type} has the shape of its multi-token "
                "layers; set model.heads_init=random."
            )
        head.mtp_block.load_state_dict(alike[-1].state_dict())
        if head.post_norm is not None:
            head.post_norm.load_state_dict(self.final_norm.state_dict())
        width = len(head.eh_proj.weight)
        head.eh_proj.weight.copy_(torch.eye(width).repeat(1, 2) / 2)

    @property
    def trunk_layers(self) -> nn.ModuleList:
        """Return all layers: head 0 has none of its own."""
        return self.decoder_layers

    @property
    def layers_of_heads(self) -> list[nn.Module]:
        """Return the layer of each of heads 1, 2, …; the last one again where there are fewer layers than heads."""
        return [self.extra_heads[min(k, len(self.extra_heads)) - 1] for k in range(1, self.heads)]

    def exported_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that files hold; the layers under the names that servers know (`native_layout`)."""
        layers = {name: tensor for name, tensor in state.items() if name.startswith(OWN)}
        trunk = {name: tensor for name, tensor in state.items() if name not in layers}
        return super().exported_tensors(trunk) | published(self, layers)

    def exported_config(self) -> dict[str, Any]:
        """Return what config.json says of the heads: how many, and of which layers where they are new there."""
        said = super().exported_config() | {"mtp_arrangement": "sequential"}
        if getattr(self.config, "mtp_names", None) is None:
            said |= {key: getattr(self.config, key, None) for key in KEYS}
            said["architectures"] = None if why_not_mimo(self.config) else [ARCHITECTURE]
        return {key: value for key, value in said.items() if value is not None}

    def config_without_heads(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the source's config.json without the promise of layers: as the base was, or with none of them."""
        config, names = dict(config), getattr(self.config, "mtp_names", None) or ()
        if config["model_type"] == self.config.model_type and any(".mtp_layers." in name for name in names):
            config["architectures"] = [type(self).__name__]
            return {key: value for key, value in config.items() if key not in KEYS}
        return without_layers(config)

    def is_of_heads(self, name: str) -> bool:
        """Say whether a tensor of a file is of the layers, by any of its names."""
        return super().is_of_heads(name) or is_published(name, self.config)

    def save_pretrained(self, *args: Any, state_dict: dict[str, Tensor] | None = None, **kwargs: Any) -> Any:
        """Save as transformers does, the layers under the names that they are read by."""
        state_dict = self.exported_tensors(self.state_dict() if state_dict is None else state_dict)
        return super().save_pretrained(*args, state_dict=state_dict, save_original_format=False, **kwargs)

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Set the attention of the layers too, whose config is a copy."""
        super().set_attn_implementation(*args, **kwargs)
        self.builder.set_attn_implementation(*args, **kwargs)

    @contextmanager
    def trunk_call(self) -> Iterator[dict[str, Any]]:
        """Catch what went into the trunk and what came out of its final norm, or went into that (MiMo)."""
        call: dict[str, Any] = {}

        def catch(_module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            call["input_ids_BT"] = args[0] if args else kwargs["input_ids"]
            call["position_ids"] = kwargs.get("position_ids")
            call.setdefault("states_BTD", output.last_hidden_state)

        hooks = [self.base_model.register_forward_hook(catch, with_kwargs=True)]
        if getattr(self.config, "mtp_states_before_norm", False):
            hooks.append(self.final_norm.register_forward_pre_hook(lambda _, args: call.update(states_BTD=args[0])))
        try:
            yield call
        finally:
            for hook in hooks:
                hook.remove()

    def _through_heads(self, call: dict[str, Any], trunk_gradient: float) -> tuple[Tensor, ...]:
        input_ids_BT, positions_BT = call["input_ids_BT"], call["position_ids"]
        if positions_BT is None:
            positions_BT = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)[None]
        states_BTD = scale_gradient(call["states_BTD"], trunk_gradient)
        hidden = []
        for k in range(1, self.heads):
            embedded_BTD = scale_gradient(self.embed(shift_left(input_ids_BT, k, 0)), trunk_gradient)
            masks = self.builder.create_masks_for_mtp_layer(self._index(k), embedded_BTD, None, positions_BT + k)
            states_BTD = self.run_layer(k, states_BTD, embedded_BTD, positions_BT + k, **masks)
            hidden.append(states_BTD)
        return tuple(hidden)

    def embed(self, input_ids_BT: Tensor) -> Tensor:
        """Embed tokens as the trunk does, without the norm that some trunks take after it."""
        embedding = self.get_input_embeddings()
        if hasattr(embedding, "embed_norm"):
            return nn.functional.embedding(input_ids_BT, embedding.weight)
        return embedding(input_ids_BT)

    def run_layer(self, k: int, states_BTD: Tensor, embedded_BTD: Tensor, position_ids: Tensor, **how: Any) -> Tensor:
        """Run the layer of head k, as `MtpModel.forward_layer` does, with masks and a cache of the caller's.

        Args:
            k: 헤드의 번호, 1부터.
            states_BTD: head k − 1의 은닉상태.
            embedded_BTD: 토큰 t + k의 임베딩.
            position_ids: 토큰 t + k의 위치.
            **how: 층에 그대로 넘긴다 (마스크, 캐시).
        """
        builder, angles = self.builder, None
        if builder.rotary_emb is not None:
            kind = (
                {"layer_type": builder.config.layer_types[self._index(k)]}
                if getattr(builder, "has_per_layer_rope", False)
                else {}
            )
            angles = builder.rotary_emb(embedded_BTD, position_ids=position_ids, **kind)
        how = {"past_key_values": None, **how}
        layer = self.layers_of_heads[k - 1]
        states_BTD = layer(embedded_BTD, states_BTD, position_embeddings=angles, position_ids=position_ids, **how)
        return self.shared_post_norm(states_BTD) if builder.use_shared_post_norm else states_BTD

    def kind_of_attention(self, k: int) -> str:
        """Name the mask that the layer of head k looks through."""
        kinds = getattr(self.builder.config, "layer_types", None)
        return kinds[self._index(k)] if kinds else "full_attention"

    def _index(self, k: int) -> int:
        return min(k, len(self.extra_heads) or layer_count(self.config)) - 1


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
