"""A plain Llama with a new layer is written as MiMo, the layout that servers know, and read again as what it is."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from wmtp.errors import CheckpointError
from wmtp.models.export import Export
from wmtp.models.loading import ModelSource, load_model
from wmtp.models.mimo import ARCHITECTURE, why_not_mimo

SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    initializer_range=0.15,
)  # fmt: skip
# Of the trunk's two layers and of the new one: q, k and v each.
ZEROS = {
    f"model.{layer}.self_attn.{part}_proj.bias" for layer in ("layers.0", "layers.1", "mtp_layers.0") for part in "qkv"
}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def llama(request, tmp_path):
    """A plain Llama as it is published."""
    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, tie_word_embeddings=True)).to(request.param)
    model.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def served(llama, tmp_path):
    """The same with a new layer, as servers take it."""
    source = ModelSource(str(llama), 2, "random", heads_arrangement="sequential")
    source.write(source.load(), tmp_path / "served")
    return tmp_path / "served"


def said(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_a_llama_gets_biases_of_zero_where_mimo_has_some(llama, served):
    plain, written = load_file(llama / "model.safetensors"), load_file(served / "model.safetensors")
    new = written.keys() - plain.keys()
    assert {name for name in new if name.endswith("bias")} == ZEROS
    assert all(name in ZEROS or name.startswith("model.mtp_layers.0.") for name in new)
    assert all(not written[name].any() and written[name].dtype == plain["model.norm.weight"].dtype for name in ZEROS)
    assert {name: len(written[name]) for name in ZEROS if ".0.self_attn" in name and "mtp" in name} == {
        "model.mtp_layers.0.self_attn.q_proj.bias": 32,
        "model.mtp_layers.0.self_attn.k_proj.bias": 16,
        "model.mtp_layers.0.self_attn.v_proj.bias": 16,
    }
    assert same({name: written[name] for name in plain}, plain)
    assert said(served)["architectures"] == [ARCHITECTURE] and said(served)["model_type"] == "llama"


def test_it_is_read_again_as_a_llama_and_written_again_bit_for_bit(served, tmp_path):
    model = load_model(served)
    assert model.heads == 2 and not any(name.endswith("bias") for name in model.state_dict())
    for heads in (None, 1):  # with the layer as a head, and with the layer left alone
        source = ModelSource(str(served), heads)
        source.write(source.load(), tmp_path / "again")
        assert same(load_file(tmp_path / "again" / "model.safetensors"), load_file(served / "model.safetensors"))
        assert said(tmp_path / "again")["architectures"] == [ARCHITECTURE]


def test_without_its_layer_it_is_the_plain_llama_again(llama, served, tmp_path):
    Export(heads="drop").write(load_model(served), served, tmp_path / "dropped")
    assert same(load_file(tmp_path / "dropped" / "model.safetensors"), load_file(llama / "model.safetensors"))
    assert said(tmp_path / "dropped") == said(llama)


def test_biases_that_would_be_lost_are_refused(served):
    tensors = load_file(served / "model.safetensors")
    tensors["model.layers.1.self_attn.k_proj.bias"][3] = 1
    save_file(tensors, served / "model.safetensors")
    for heads in (None, 1):
        with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.k_proj\.bias is not 0, and a llama has no"):
            load_model(served, heads, "auto")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (LlamaConfig(**SHAPE, attention_bias=True), "attention_bias is true"),
        (LlamaConfig(**SHAPE, mlp_bias=True), "mlp_bias is true"),
        (LlamaConfig(**SHAPE, hidden_act="gelu"), "hidden_act is gelu"),
        (LlamaConfig(**SHAPE, head_dim=16), "4 heads of 16 are not its width of 32"),
        (Qwen2Config(**SHAPE, use_sliding_window=True, max_window_layers=1, sliding_window=8), "a sliding window"),
        (MistralConfig(**SHAPE), "its layers are mistral's"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.model_type,
)
def test_what_mimo_cannot_express_is_said_at_the_start_and_keeps_its_name(config, why, tmp_path, capsys):
    assert why in why_not_mimo(config)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "plain")
    source = ModelSource(str(tmp_path / "plain"), 2, "random", heads_arrangement="sequential")
    model = source.load()
    assert f"no server does: {why_not_mimo(config)}, which MiMo" in capsys.readouterr().out
    source.write(model, tmp_path / "out")
    assert said(tmp_path / "out")["architectures"] == said(tmp_path / "plain")["architectures"] != [ARCHITECTURE]
    plain, written = (load_file(tmp_path / where / "model.safetensors") for where in ("plain", "out"))
    assert all(name.startswith("model.mtp_layers.") for name in written.keys() - plain.keys())
