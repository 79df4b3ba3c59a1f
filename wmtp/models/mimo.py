"""Fit a model with new layers into MiMo's layout, the only one in which servers know a plain model with a layer more.

[연구 맥락] 새 층을 단 모델이 서버에서 초안을 쓰려면 서버가 아는 구조여야 한다. vLLM에서 그것은 MiMo이고, MiMo는 Qwen2에
    층을 더한 것이다. Llama는 Qwen2에서 q, k, v의 치우침(bias)을 뺀 것이므로, 0인 치우침을 적어 주면 같은 계산이다.
[동작] `why_not_mimo`가 config만 보고 들어맞는지 정한다. 들어맞으면 내보낼 때 architectures를 MiMo로 적고, 몸통과 층에
    없는 치우침을 0으로 적는다 (`absent_biases`). 읽을 때는 0인지 확인하고 버린다: 모델에는 그런 텐서가 없다.
    들어맞지 않으면 구조의 이름을 그대로 두고 까닭을 한 줄로 말한다. 그 층으로는 wmtp만 초안을 쓴다.
[디버깅] 서버의 답이 다르면 vLLM 0.32.0의 model_executor/models/{mimo,mimo_mtp,qwen2}.py와 견준다: 어텐션 헤드의 너비는
    hidden_size를 그 수로 나눈 것이고(Qwen2Attention), o_proj와 MLP에는 치우침이 없고, 활성은 SiLU뿐이다.
    회전 위치는 rope_parameters를 그대로 따른다.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from wmtp.errors import CheckpointError

ARCHITECTURE = "MiMoForCausalLM"
# Whose layers are Qwen2's, with biases of q, k and v or without.
ALIKE = ("qwen2", "llama")
BIASES = tuple(f".self_attn.{part}_proj.bias" for part in "qkv")


def why_not_mimo(config: Any) -> str:
    """Say what of a model MiMo cannot express; nothing where it fits.

    Example:
        >>> from transformers import LlamaConfig, Qwen3Config
        >>> why_not_mimo(LlamaConfig()), why_not_mimo(LlamaConfig(mlp_bias=True))
        ('', 'mlp_bias is true')
        >>> why_not_mimo(Qwen3Config())
        "its layers are qwen3's"
    """
    if config.model_type not in ALIKE:
        return f"its layers are {config.model_type}'s"
    for name in ("attention_bias", "mlp_bias"):
        if getattr(config, name, False):
            return f"{name} is true"
    if config.hidden_act != "silu":
        return f"hidden_act is {config.hidden_act}"
    width, heads = getattr(config, "head_dim", None), config.num_attention_heads
    if width is not None and width * heads != config.hidden_size:
        return f"{heads} heads of {width} are not its width of {config.hidden_size}"
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "some of its layers have a sliding window"
    return ""


def absent_biases(config: Any) -> dict[str, int]:
    """List the biases that MiMo's layout has and this model has not, with their lengths.

    [동작] 폴더에서 읽은 층이면 그 폴더에 적혀 있던 대로 한다. 그래야 그대로 내보낸 폴더가 원본과 같다.

    Example:
        >>> from transformers import LlamaConfig, Qwen2Config
        >>> sizes = dict(num_hidden_layers=1, hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
        >>> absent_biases(LlamaConfig(**sizes, num_mtp_layers=1))  # doctest: +NORMALIZE_WHITESPACE
        {'model.layers.0.self_attn.q_proj.bias': 64, 'model.layers.0.self_attn.k_proj.bias': 32,
         'model.layers.0.self_attn.v_proj.bias': 32, 'model.mtp_layers.0.self_attn.q_proj.bias': 64,
         'model.mtp_layers.0.self_attn.k_proj.bias': 32, 'model.mtp_layers.0.self_attn.v_proj.bias': 32}
        >>> absent_biases(Qwen2Config(**sizes, num_mtp_layers=1))
        {}
    """
    names = getattr(config, "mtp_names", None)
    if config.model_type != "llama" or why_not_mimo(config) or not (names is None or has_biases(names)):
        return {}
    width = config.hidden_size // config.num_attention_heads
    kept = config.num_key_value_heads * width
    lengths = {"q": config.hidden_size, "k": kept, "v": kept}
    layers = [f"model.layers.{i}" for i in range(config.num_hidden_layers)]
    layers += [f"model.mtp_layers.{k}" for k in range(config.num_mtp_layers)]
    return {f"{layer}.self_attn.{part}_proj.bias": length for layer in layers for part, length in lengths.items()}


def has_biases(names: Iterable[str]) -> bool:
    """Say whether the layers of these names have biases of q, k and v, under MiMo's names."""
    return any(".mtp_layers." in name and name.endswith(BIASES) for name in names)


def zeros_of_absent_biases(config: Any) -> dict[str, Tensor]:
    """Return the biases that change nothing."""
    return {name: torch.zeros(length) for name, length in absent_biases(config).items()}


def check_that_they_are_zero(folder: Path, config: Any, key: str) -> None:
    """Refuse biases that a Llama has no place for and that would change what it computes.

    Raises:
        CheckpointError: 0이 아닌 것이 있을 때.
    """
    if config.model_type != "llama" or config.attention_bias:
        return
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                if name.endswith(BIASES) and opened.get_tensor(name).any():
                    raise CheckpointError(
                        f"{key} = {folder}: {name} is not 0, and a llama has no such bias; copy the model again, or "
                        "set model_type=qwen2 in its config.json if q, k and v have biases in every layer."
                    )
