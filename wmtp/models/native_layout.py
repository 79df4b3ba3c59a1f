"""Know how published checkpoints name their multi-token layers, and translate there and back.

[연구 맥락] 서버(vLLM, SGLang)는 `architectures`와 텐서의 이름만 보고 층을 찾는다. 이름 하나가 다르면 초안을 쓰지
    못한다. 그래서 나온 모델의 이름으로 읽고, 같은 이름으로 쓴다.
[동작] 이름의 규칙은 transformers의 것을 쓴다: "MtpModel"의 표와 그 구조의 표 (`get_checkpoint_conversion_mapping`).
    DeepSeek, GLM, Bailing   model.layers.{층 수 + k}.{enorm,hnorm,eh_proj,shared_head.norm,self_attn,mlp,…}
                             (Bailing, 곧 Ling의 마지막 norm은 vLLM에서 final_layernorm이다. transformers의 표에는 없다)
    Mellum, Qwen             mtp.{fc,pre_fc_norm_embedding,pre_fc_norm_hidden,norm,layers.0.…}
    MiMo                     model.mtp_layers.{k}.{token_layernorm,hidden_layernorm,input_proj,final_layernorm,…}
    MiMo의 이름만 그 표에 없어서 여기 적는다 (vLLM의 mimo_mtp.py와 견주었다). 아무 층도 없이 온 모델에 새로 다는 층도
    MiMo의 이름으로 쓴다: 평범한 Qwen2나 Llama에 층을 더한 모델을 서버가 아는 이름은 그것뿐이다 (`wmtp.models.mimo`).
    아는 구조에서만 읽는다. 이름이 같아도 계산이 다를 수 있으므로, 모르는 구조는 텐서의 이름을 말하고 거절한다.
[디버깅] 읽은 층의 초안이 전혀 맞지 않으면 `mtp_hidden_states_first`(투영의 입력에서 은닉상태가 앞인지)를 본다.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from wmtp.errors import ConfigError
from wmtp.models.mimo import ALIKE, absent_biases, zeros_of_absent_biases
from wmtp.private_names import take_apart

# Their layers read as `MtpModel` does, but their config classes do not speak of them (tried against vLLM's names).
LIKE_QWEN = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
# Published with code of their own, and computed by an architecture that transformers has but for their layers.
SAME_AS = {"mimo": "qwen2"}
# How a config.json says the number of its layers.
COUNTS = ("num_mtp_layers", "num_nextn_predict_layers", "mtp_num_hidden_layers")
# What a config.json says of layers that are new to a model.
KEYS = (
    "num_mtp_layers", "num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types", "mtp_hidden_states_first",
    "mtp_states_before_norm",
)  # fmt: skip
MIMO = {
    "token_layernorm": "enorm",
    "hidden_layernorm": "hnorm",
    "input_proj": "eh_proj",
    "final_layernorm": "post_norm",
}
# Copies of the embedding and the output matrix that some checkpoints carry once more for their layers.
SHARED = ("embed_tokens.weight", "shared_head.head.weight")


@dataclass(frozen=True)
class ShippedLayers:
    """Name the multi-token layers that lie in a folder.

    Attributes:
        folder: 모델의 폴더.
        names: 그 텐서들의 이름. 전문가의 번호는 `*`로 적는다.
        count: 층의 수.
        known: 읽을 줄 아는 이름 규칙인지.
        beside: wmtp가 저장한 나란한 헤드도 그 폴더에 있는지.
    """

    folder: Path
    names: tuple[str, ...]
    count: int
    known: bool
    beside: bool = False

    @property
    def like_mimo(self) -> bool:
        """Say whether the names are MiMo's, which wmtp gives to layers that are new."""
        return all(".mtp_layers." in name for name in self.names)


def layer_count(config: Any) -> int:
    """Return how many multi-token layers a config speaks of; 0 where it speaks of none."""
    return getattr(config.get_text_config(), "num_mtp_layers", None) or 0


def as_mimo_reads(config: Any) -> None:
    """Let layers read what MiMo's do (vLLM's mimo.py): the trunk's states before its final norm, and those first."""
    config.mtp_hidden_states_first = config.mtp_states_before_norm = True


def shipped_layers(folder: Path, config: Any) -> ShippedLayers | None:
    """Look for multi-token layers by the names of a folder's tensors; no weight is read."""
    names = dict.fromkeys(_any_expert(name) for name in _tensor_names(folder))
    beside = any(name.startswith("extra_heads.") for name in names)
    text = config.get_text_config()
    layers = text.num_hidden_layers
    found = tuple(name for name in names if _is_ahead(name, layers))
    if not found:
        return None
    numbers = {int(n) for name in found for n in re.findall(r"layers\.(\d+)\.", name)}
    kind = text.model_type
    if getattr(config, "mtp_arrangement", None) == "sequential":  # wmtp wrote it
        known = True
    elif any(".mtp_layers." in name for name in found):
        known = kind in ALIKE
    else:
        known = kind in LIKE_QWEN or (layer_count(config) > 0 and kind not in ALIKE)
    return ShippedLayers(folder, found, len(numbers), known and len(numbers) > 0, beside)


def check_known(shipped: ShippedLayers, config: Any, key: str) -> None:
    """Refuse layers of which nobody here knows how they compute.

    Raises:
        ConfigError: 모르는 이름 규칙일 때. 잃을 뻔한 텐서의 이름을 말한다.
    """
    if not shipped.known:
        shown = ", ".join(shipped.names[:3]) + (", …" if len(shipped.names) > 3 else "")
        raise ConfigError(
            f"{key} = {shipped.folder} ships multi-token layers in a layout that wmtp does not know for "
            f"{config.model_type} ({len(shipped.names)} tensors: {shown}); set model.heads_init=copy to train new "
            "heads and carry these along as they are, or model.heads=1."
        )


def key_mapping(config: Any, names: Iterable[str]) -> dict[str, str]:
    """Return what `from_pretrained` needs in order to read published layers into `extra_heads`.

    Example:
        >>> from transformers import Glm4MoeConfig
        >>> config = Glm4MoeConfig(num_hidden_layers=46)
        >>> key_mapping(config, ["model.layers.46.eh_proj.weight", "model.layers.46.mlp.experts.*.up_proj.weight"])
        ... # doctest: +NORMALIZE_WHITESPACE
        {'^model\\\\.layers\\\\.46\\\\.eh_proj\\\\.weight$': 'extra_heads.0.eh_proj.weight',
         '^model\\\\.layers\\\\.46\\\\.mlp\\\\.experts\\\\.(\\\\d+)\\\\.up_proj\\\\.weight$':
             'extra_heads.0.mtp_block.mlp.experts.\\\\1.up_proj.weight'}
    """
    renamings, _ = _conversions(config)
    mapping, absent = {}, absent_biases(config)
    for name in names:
        if not name.endswith(SHARED) and name not in absent:
            pattern = re.escape(name).replace(r"\*", r"(\d+)", 1)
            mapping[f"^{pattern}$"] = _ours(_renamed(name, renamings)).replace("*", r"\1", 1)
    return mapping


def is_published(name: str, config: Any) -> bool:
    """Say whether a file's tensor is there because of a model's layers (of MiMo's names where they are new)."""
    names = getattr(config, "mtp_names", None)
    of_layers = ".mtp_layers." in name if names is None else _any_expert(name) in names
    return of_layers or name in absent_biases(config)


def without_layers(config: dict[str, Any]) -> dict[str, Any]:
    """Return a published config.json that speaks of no layers.

    Example:
        >>> without_layers({"num_nextn_predict_layers": 1, "text_config": {"mtp_num_hidden_layers": 1}})
        {'num_nextn_predict_layers': 0, 'text_config': {'mtp_num_hidden_layers': 0}}
    """
    config = {key: 0 if key in COUNTS else value for key, value in config.items()}
    if "text_config" in config:
        config["text_config"] = without_layers(config["text_config"])
    return config


def published(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a model's layers under the names that servers know.

    Args:
        model: `SequentialHeads`인 모델.
        state: 그 층들의 상태. 샤딩된 학습에서는 모은 것을 준다.
    """
    config = model.config
    renamings, converters = _conversions(config)
    inner = {_theirs(name): tensor for name, tensor in state.items()}
    apart = take_apart(converters, model.builder.config, inner)
    names = getattr(config, "mtp_names", None)
    if names is None:
        return {_mimo_name(name): tensor for name, tensor in apart.items()} | zeros_of_absent_biases(config)
    of_inner = {_renamed(name, renamings): name for name in names if not name.endswith(SHARED)}
    tensors = zeros_of_absent_biases(config)
    for name, tensor in apart.items():
        number = _EXPERT.search(name)
        theirs = of_inner[_any_expert(name)]
        tensors[theirs.replace("*", number.group(1)) if number else theirs] = tensor
    for name in names:  # each a tensor of its own: safetensors holds no two names of one
        if name.endswith(SHARED[0]):
            tensors[name] = model.get_input_embeddings().weight.detach().clone()
        elif name.endswith(SHARED[1]):
            tensors[name] = model.unembedding_VD.detach().clone()
    return tensors


_EXPERT = re.compile(r"(?<=experts\.)(\d+)(?=\.)")


def _any_expert(name: str) -> str:
    return _EXPERT.sub("*", name, count=1)


def _tensor_names(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted(json.loads(index.read_text())["weight_map"])
    names = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names += opened.keys()
    return sorted(names)


def _is_ahead(name: str, layers: int) -> bool:
    """Say whether a tensor is of a layer beyond the language model's own.

    Example:
        >>> _is_ahead("model.layers.3.eh_proj.weight", 3), _is_ahead("model.visual.layers.3.attn.weight", 3)
        (True, False)
    """
    if name.startswith("extra_heads."):  # heads that wmtp saved
        return False
    beyond = re.match(r"(?:model\.|language_model\.)*layers\.(\d+)\.", name)
    return re.search(r"(^|[._])(mtp|nextn)", name) is not None or (beyond is not None and int(beyond[1]) >= layers)


def _conversions(config: Any) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    """Return how published names become those of `MtpModel`, as its own `get_weight_conversions` puts it together."""
    text = config.get_text_config()
    layers, count = text.num_hidden_layers, text.num_mtp_layers
    prefix, target = r"^model\.mtp_layers\.(\d+)\.", r"model.mtp.layers.\1."
    transforms = [
        *(WeightRenaming(rf"{prefix}{theirs}\.", f"{target}{ours}.") for theirs, ours in MIMO.items()),
        WeightRenaming(prefix, target),
        *(WeightRenaming(f"layers.{layers + k}.", f"layers.{k}.mtp_block.") for k in range(count)),
        WeightRenaming(r"\.mtp_block\.final_layernorm\.", ".post_norm."),  # Ling's, as vLLM reads it
        *get_checkpoint_conversion_mapping("MtpModel"),
        *(get_checkpoint_conversion_mapping(text.model_type) or ()),
    ]
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    return renamings, [transform for transform in transforms if isinstance(transform, WeightConverter)]


def _renamed(name: str, renamings: Iterable[WeightRenaming]) -> str:
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name


def _ours(name: str) -> str:
    return f"extra_heads.{name.removeprefix('layers.')}" if name.startswith("layers.") else name


def _theirs(name: str) -> str:
    return f"layers.{name.removeprefix('extra_heads.')}" if name.startswith("extra_heads.") else name


def _mimo_name(name: str) -> str:
    """Name a tensor of `MtpModel` as MiMo's checkpoints do.

    Example:
        >>> _mimo_name("layers.0.hnorm.weight"), _mimo_name("layers.0.mtp_block.mlp.up_proj.weight")
        ('model.mtp_layers.0.hidden_layernorm.weight', 'model.mtp_layers.0.mlp.up_proj.weight')
    """
    _, number, rest = name.split(".", 2)
    part, _, leaf = rest.partition(".")
    theirs = {ours: theirs for theirs, ours in MIMO.items()}.get(part)
    return f"model.mtp_layers.{number}." + (f"{theirs}.{leaf}" if theirs else leaf)
