"""Write tiny random models in the layouts that models with multi-token layers are published in.

The names are typed by hand, as vLLM reads them (deepseek_mtp.py, glm4_moe_mtp.py, mimo_mtp.py, qwen3_next_mtp.py,
qwen3_5_mtp.py) or as transformers' conversion_mapping.py lists them (Mellum, Bailing), and never made by our mapping.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BailingHybridConfig,
    DeepseekV3Config,
    Glm4MoeConfig,
    MellumConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

SHAPE = dict(
    vocab_size=512, hidden_size=32, intermediate_size=64, num_attention_heads=4, max_position_embeddings=128,
    bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.15,
)  # fmt: skip
EXPERTS = dict(moe_intermediate_size=16, num_experts_per_tok=2)
GROUPED = SHAPE | dict(num_key_value_heads=2, head_dim=8)
LATENT = dict(
    num_key_value_heads=4, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    n_group=2, topk_group=1,
)  # fmt: skip
LINEAR = dict(
    num_hidden_layers=4, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
    linear_value_head_dim=8,
)  # fmt: skip
SHARED_EXPERT = dict(num_experts=4, shared_expert_intermediate_size=16)
ROUTED = dict(n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1, num_hidden_layers=3)

CONFIGS: dict[str, PretrainedConfig] = {
    "glm4_moe": Glm4MoeConfig(**GROUPED, **EXPERTS, **ROUTED),
    "deepseek_v3": DeepseekV3Config(**SHAPE, **EXPERTS, **ROUTED, **LATENT),
    "deepseek_v3_of_two": DeepseekV3Config(**SHAPE, **EXPERTS, **ROUTED, **LATENT, num_mtp_layers=2),
    "mellum": MellumConfig(
        **GROUPED, **EXPERTS, num_experts=4, num_hidden_layers=3, sliding_window=6, num_mtp_layers=1,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
    "mimo": Qwen2Config(**SHAPE, num_key_value_heads=2, num_hidden_layers=3),
    "qwen3_next": Qwen3NextConfig(**GROUPED, **EXPERTS, **LINEAR, **SHARED_EXPERT),
    "qwen3_5": Qwen3_5TextConfig(**GROUPED, **LINEAR),
    "qwen3_5_moe": Qwen3_5MoeTextConfig(**GROUPED, **EXPERTS, **LINEAR, **SHARED_EXPERT),
    "bailing_hybrid": BailingHybridConfig(
        **SHAPE, **EXPERTS, **LATENT, head_dim=8, num_experts=4, num_hidden_layers=4, layer_group_size=2,
        first_k_dense_replace=1,
    ),
}  # fmt: skip
LINEAR_ATTENTION = {"qwen3_next", "qwen3_5", "qwen3_5_moe", "bailing_hybrid"}


def publish(name: str, folder: Path, **sizes: Any) -> Path:
    """Write the model `name` of `CONFIGS`, in other sizes where they are given, into a folder; return it."""
    torch.manual_seed(42)
    config = type(CONFIGS[name]).from_dict(CONFIGS[name].to_dict() | sizes)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    last, width = config.num_hidden_layers - 1, config.hidden_size
    block = {n.split(".", 3)[3]: t for n, t in tensors.items() if n.startswith(f"model.layers.{last}.")}

    def norm() -> torch.Tensor:
        return torch.empty(width).uniform_(0.5, 1.5)

    def layer(where: str, embedding: str, hidden: str, projection: str, after: str, parts: str = "") -> None:
        for n, t in block.items():
            fresh = norm() if t.shape == (width,) else t.clone() if "bias" in n else torch.randn_like(t) * 0.15
            tensors[f"{where}{parts}{n}"] = fresh
        tensors[f"{where}{embedding}.weight"], tensors[f"{where}{hidden}.weight"] = norm(), norm()
        tensors[f"{where}{projection}.weight"] = torch.randn(width, 2 * width) * 0.15
        tensors[f"{where}{after}.weight"] = norm()

    tensors["model.norm.weight"] = norm()  # a norm of ones hides whether states are taken before or after it
    if name == "mimo":
        layer("model.mtp_layers.0.", "token_layernorm", "hidden_layernorm", "input_proj", "final_layernorm")
    elif name.startswith(("qwen", "mellum")):
        layer("mtp.", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "norm", parts="layers.0.")
    else:
        for k in range(config.num_mtp_layers):
            where = f"model.layers.{last + 1 + k}."
            after = "post_norm" if name == "bailing_hybrid" else "shared_head.norm"
            layer(where, "enorm", "hnorm", "eh_proj", after)
            if name.startswith(("glm", "deepseek")):
                tensors[f"{where}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
                tensors[f"{where}shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    if name == "mimo":
        content |= {"model_type": "mimo", "architectures": ["MiMoForCausalLM"], "num_nextn_predict_layers": 1}
        content["auto_map"] = {"AutoConfig": "configuration_mimo.MiMoConfig"}
    if name.startswith("deepseek"):  # of its code on the Hub, and read by servers
        content |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    if name.startswith("qwen3_5"):
        content["mtp_num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(content))
    return folder
