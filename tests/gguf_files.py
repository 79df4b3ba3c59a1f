"""Write GGUF files as llama.cpp's converter does: its names, its order of the rotary rows, its blocks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
CODE = [f"def f{n}(x):\n    return x + {n}\n        12345  12345\n    # it's a comment" for n in range(300)]


def code_tokenizer(digits_apart: bool) -> Tokenizer:
    """Train byte pairs on code, cut as GPT-2 or, with digits apart, as SmolLM2 and StarCoder cut it."""
    tokenizer = Tokenizer(models.BPE())
    like_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, like_gpt2]) if digits_apart else like_gpt2
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        CODE, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    return tokenizer


def tiny_llama(rows: int, tied: bool = True) -> LlamaForCausalLM:
    """Make a small model whose widths are whole blocks of 32."""
    torch.manual_seed(42)
    shape = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, max_position_embeddings=128)
    attention = dict(num_attention_heads=4, num_key_value_heads=2)
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, tie_word_embeddings=tied, **shape, **attention)).eval()


def tiny_qwen2(rows: int) -> Qwen2ForCausalLM:
    """Make a small model with biases, whose rotary rows llama.cpp leaves as they are."""
    torch.manual_seed(42)
    shape = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, max_position_embeddings=128)
    attention = dict(num_attention_heads=4, num_key_value_heads=2)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=rows, tie_word_embeddings=True, **shape, **attention)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def write_gguf(
    file: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    kind: str = "F32",
    pre: str | None = "smollm",
    more: dict[str, np.ndarray] | None = None,
    twice: bool = False,
    without: tuple[str, ...] = (),
    settings: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
) -> Path:
    """Write a model and a byte-level tokenizer.

    Args:
        file: 쓸 파일.
        model: Llama나 Qwen2.
        tokenizer: 바이트 단위 BPE.
        kind: 행렬을 담는 방법 ("F32", "Q8_0", "Q4_1").
        pre: 글을 자르는 법의 이름.
        more: 더할 텐서.
        twice: 입력과 출력이 한 행렬이어도 둘 다 쓸지.
        without: 뺄 텐서의 이름.
        settings: 메타데이터를 더하는 함수.
    """
    config, content = model.config, json.loads(tokenizer.to_str())
    writer = gguf.GGUFWriter(str(file), config.model_type)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    vocabulary = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    special = {token["content"] for token in content["added_tokens"]}
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    for add, token in ((writer.add_bos_token_id, "<|im_start|>"), (writer.add_eos_token_id, "<|im_end|>")):
        if (number := tokenizer.token_to_id(token)) is not None:
            add(number)
    settings(writer)
    for name, weight in model.state_dict().items():
        theirs = their_name(name)
        if theirs in without or (theirs == "output.weight" and config.tie_word_embeddings and not twice):
            continue
        values = in_their_order(name, weight, config)
        if kind == "F32" or values.ndim == 1:
            writer.add_tensor(theirs, values)
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(theirs, gguf.quants.quantize(values, quantised), raw_dtype=quantised)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def their_name(ours: str) -> str:
    """Return llama.cpp's name of a tensor."""
    stem, _, end = ours.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{end}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{BLOCK[part]}.{end}"


def in_their_order(name: str, weight: torch.Tensor, config: Any) -> np.ndarray:
    """Give rotary rows in neighbouring pairs, as llama.cpp turns them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads and config.model_type == "llama":
        weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return weight.contiguous().numpy()


def as_stored(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Return what is left of a weight after it was stored."""
    if kind == "F32" or weight.ndim == 1:
        return weight
    quantised = gguf.GGMLQuantizationType[kind]
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), quantised), quantised))
