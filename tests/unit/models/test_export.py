"""An exported folder is the source folder with trained values: names, bytes, architecture, and what lies beside."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
)

from wmtp.errors import CheckpointError, ConfigError
from wmtp.models.adapter import Lora
from wmtp.models.export import Export, Exported
from wmtp.models.loading import ModelSource, load_model
from wmtp.run.failure import kind_of

SPECIAL = dict(vocab_size=64, bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.15)
SHAPE = SPECIAL | dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=32
)
GROUPED = SHAPE | dict(num_key_value_heads=1)
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "gpt_neox": GPTNeoXConfig(**SHAPE),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4),
    "gpt2": GPT2Config(**SPECIAL, n_embd=16, n_layer=3, n_head=2, n_positions=32),
}
# What the published files hold and the model does not load: masks and rotary tables of old versions.
BUFFERS = {
    "llama": ("model.layers.{}.self_attn.rotary_emb.inv_freq", (4,)),
    "gpt_neox": ("gpt_neox.layers.{}.attention.bias", (1, 1, 32, 32)),
    "gpt2": ("h.{}.attn.bias", (1, 1, 32, 32)),
}
# A name that only the published layout has, so that these tests cannot pass on transformers' own names.
PUBLISHED = {
    "llama": "model.layers.2.mlp.up_proj.weight",
    "qwen2": "model.layers.2.self_attn.q_proj.bias",
    "gpt_neox": "embed_out.weight",
    "mixtral": "model.layers.2.block_sparse_moe.experts.3.w2.weight",
    "gpt2": "h.2.attn.c_attn.weight",
}


def publish(name: str, folder: Path, **how) -> Path:
    """Write a random model as its family publishes it: bfloat16, old names, buffers, and what lies beside."""
    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.view(-1)[:2] = torch.tensor([-0.0, 0.0])  # a sign that adding zero would lose
    model.save_pretrained(folder, **how)
    if name in BUFFERS and not how:
        pattern, shape = BUFFERS[name]
        weights = {key.removeprefix("transformer."): value for key, value in tensors_of(folder).items()}
        weights |= {pattern.format(i): torch.ones(shape) for i in range(3)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for file in ("tokenizer.json", "chat_template.jinja", "additional_chat_templates/tools.jinja", "LICENSE"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(f"{{}} of {file}")
    for file in ("README.md", "optimizer.pt", "wmtp-manifest.json", "pytorch_model.bin.index.json"):
        (folder / file).write_text("{}")
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value for file in sorted(folder.glob("model*.safetensors")) for name, value in load_file(file).items()
    }


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
    return {n: (t.dtype, tuple(t.shape), bytes(t.flatten().view(torch.uint8).numpy())) for n, t in tensors.items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module", params=CONFIGS)
def published(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, publish(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return publish("llama", tmp_path_factory.mktemp("llama"))


def load(folder: Path, heads: int = 3, **more):
    return ModelSource(str(folder), heads=heads, heads_init="copy", **more).load().eval()


@pytest.mark.parametrize("adapter", [None, Lora(r=2)], ids=["whole", "lora"])
def test_what_was_not_trained_comes_back_bit_for_bit(published, adapter, tmp_path):
    name, source = published
    model = load(source, adapter=adapter)
    done = Export().write(model, source, tmp_path / "out")
    expected, found = bits(tensors_of(source)), bits(tensors_of(tmp_path / "out"))
    assert PUBLISHED[name] in expected
    heads = {key: value for key, value in found.items() if key.startswith("extra_heads.")}
    assert {key: value for key, value in found.items() if key not in heads} == expected
    assert {dtype for dtype, *_ in heads.values()} == {torch.bfloat16}
    assert done.heads == 3 and done.left_out == set()
    assert {*done.copied} == ({BUFFERS[name][0].format(i) for i in range(3)} if name in BUFFERS else set())
    config = json.loads((source / "config.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | {"mtp_heads": 3}

    again = load_model(tmp_path / "out")
    assert bits(dict(again.state_dict())) == bits(dict(load(source).state_dict()))
    ids_BT = torch.arange(10).view(2, 5)
    plain, original = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "out", source))
    with torch.no_grad():
        assert torch.equal(plain(ids_BT).logits, original(ids_BT).logits)


def test_without_its_heads_the_folder_is_the_source_again(published, tmp_path):
    _, source = published
    Export().write(load(source), source, tmp_path / "kept")
    done = Export(heads="drop").write(load_model(tmp_path / "kept"), tmp_path / "kept", tmp_path / "out")
    assert done == Exported(1, done.copied, frozenset({"extra_heads.0", "extra_heads.1"}))
    assert bits(tensors_of(tmp_path / "out")) == bits(tensors_of(source))
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "out"))
    assert after == before


def test_training_changes_values_and_nothing_else(published, tmp_path):
    _, source = published
    model = load(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5
    Export().write(model, source, tmp_path / "out")
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    copied = {name for name in before if before[name].dtype != torch.bfloat16}  # the buffers are float32
    for name, value in before.items():
        expected = value if name in copied else (value.float() + 0.5).bfloat16()
        assert torch.equal(after[name], expected), name


def test_what_lies_beside_the_weights_is_copied_and_what_is_somebody_elses_is_not(llama, tmp_path):
    Export().write(load(llama), llama, tmp_path / "out", card=lambda done: f"# {done.heads} heads")
    there, here = files_of(tmp_path / "out"), files_of(llama)
    beside = ("tokenizer.json", "chat_template.jinja", "additional_chat_templates/tools.jinja", "LICENSE")
    for name in (*beside, "generation_config.json"):
        assert there[name] == here[name]
    assert there.keys() == {*beside, "generation_config.json", "config.json", "model.safetensors", "README.md"}
    assert there["README.md"] == b"# 3 heads"


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_written_and_said(tmp_path, llama, dtype, key):
    source = publish("llama", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    del config["dtype"]
    (source / "config.json").write_text(json.dumps(config | {key: "float16"}))
    Export(dtype=dtype).write(load(source), source, tmp_path / "out")
    inv_freq = {name for name in tensors_of(source) if name.endswith("inv_freq")}
    found = {value.dtype for name, value in tensors_of(tmp_path / "out").items() if name not in inv_freq}
    assert found == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | {key: dtype, "mtp_heads": 3}


@pytest.mark.parametrize("heads", [1, 3])
def test_a_source_in_several_files_is_written_in_several_with_a_right_index(tmp_path, heads):
    source = publish("mixtral", tmp_path / "source", max_shard_size="20KB")
    assert len([*source.glob("*.safetensors")]) > 2
    Export().write(load(source, heads), source, tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, framework="pt") as opened:
            assert name in opened.keys()
    assert index["weight_map"].keys() == found.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in found.values())
    expected = bits(tensors_of(source))
    assert {name: value for name, value in bits(found).items() if not name.startswith("extra_heads.")} == expected
    assert bits(dict(load_model(tmp_path / "out").state_dict())) == bits(dict(load(source, heads).state_dict()))


def test_tensors_of_a_family_that_the_model_never_loads_are_kept_and_named(tmp_path):
    source = publish("llama", tmp_path / "source")
    weights = tensors_of(source) | {"mtp.fc.weight": torch.full((2, 2), 0.1, dtype=torch.bfloat16)}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    done = Export(dtype="float32").write(load(source), source, tmp_path / "out")
    assert "mtp.fc.weight" in done.copied
    assert bits(tensors_of(tmp_path / "out"))["mtp.fc.weight"] == bits(weights)["mtp.fc.weight"]


def test_fewer_heads_than_the_source_has_are_written_as_fewer(tmp_path, llama):
    Export().write(load(llama), llama, tmp_path / "three")
    model = load_model(tmp_path / "three", heads=2)
    done = Export().write(model, tmp_path / "three", tmp_path / "two")
    assert done.heads == 2 and done.left_out == {"extra_heads.1"}
    assert load_model(tmp_path / "two").heads == 2
    done = Export().write(load_model(tmp_path / "three", heads=1), tmp_path / "three", tmp_path / "one")
    assert bits(tensors_of(tmp_path / "one")) == bits(tensors_of(llama))
    assert "mtp_heads" not in json.loads((tmp_path / "one" / "config.json").read_text())


def test_a_folder_of_an_early_wmtp_gets_an_architecture_that_servers_know(tmp_path):
    source = publish("llama", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"architectures": ["MTPForCausalLM"]}))
    Export().write(load(source), source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_a_file_is_read_by_whom_the_umask_allows(llama, tmp_path):
    Export().write(load(llama), llama, tmp_path / "out", card=lambda done: "")
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {file.stat().st_mode for file in (tmp_path / "out").rglob("*") if file.is_file()} == {usual}


def test_a_full_disk_leaves_the_folder_that_was_there(llama, tmp_path):
    out, model = tmp_path / "out", load(llama)
    Export().write(model, llama, out)
    before = files_of(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(Exception, match="File too large") as error:
            Export(dtype="float32").write(model, llama, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert kind_of(error.value) == "disk_full"
    assert files_of(out) == before and [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from wmtp.models.export import Export
from wmtp.models.loading import load_model
source, out = Path(sys.argv[1]), Path(sys.argv[2])
# The card is written last, when all else is.
Export(dtype="float32").write(load_model(source), source, out, card=lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_kill_leaves_the_folder_that_was_there_and_the_next_export_cleans_up(llama, tmp_path):
    out = tmp_path / "out"
    Export().write(load(llama), llama, out)
    before = files_of(out)
    arguments = [sys.executable, "-c", KILLED, str(llama), str(out)]
    assert subprocess.run(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    assert files_of(out) == before and (tmp_path / "out.tmp").is_dir()
    Export().write(load(llama, heads=2), llama, out)
    assert load_model(out).heads == 2 and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_values_that_the_precision_cannot_hold_are_one_sentence_and_write_nothing(tmp_path):
    source = tmp_path / "source"
    AutoModelForCausalLM.from_config(CONFIGS["llama"], dtype=torch.float16).save_pretrained(source)
    model = load(source)
    with torch.no_grad():
        model.decoder_layers[0].mlp.up_proj.weight[0, 0] = 1e5
    sentence = (
        r"= source: model.layers.0.mlp.up_proj.weight holds values that torch.float16 cannot; set .*=float32 and go"
    )
    with pytest.raises(CheckpointError, match=sentence):
        Export().write(model, source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_is_gone_or_another_is_one_sentence(tmp_path):
    source = publish("llama", tmp_path / "source")
    model = load(source)
    weights = tensors_of(source)
    weights["model.norm.weight"] = torch.ones(8)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"model.norm.weight is \(8,\) there and \(16,\) in the model\), .* put it"
    ):
        Export().write(model, source, tmp_path / "out")
    del weights["model.norm.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has no tensor model.norm.weight \(1 of the trained ones\)"):
        Export().write(model, source, tmp_path / "out")
    for file in ("model.safetensors", "config.json"):
        (source / file).unlink()
        sentence = r"source is no longer what training began with \(.*\), .* put it back and go on with ckpt=last"
        with pytest.raises(CheckpointError, match=sentence):
            Export().write(model, source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_adapter_alone_makes_head_zero_out_of_the_base_model(published, tmp_path):
    _, source = published
    export = Export(adapter="only", heads="drop")
    origin = ModelSource(str(source), heads=3, heads_init="copy", adapter=Lora(r=2), export=export)
    model = origin.load().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    done = origin.write(model, tmp_path / "out")
    assert done == Exported(1, left_out=frozenset({"extra_heads.0", "extra_heads.1"}), adapter=True)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == source.name
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not {"config.json", "generation_config.json", "model.safetensors"} & names
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    ids_BT = torch.arange(10).view(2, 5)
    with torch.no_grad():
        before_BTV = base(ids_BT).logits
        adapted_BTV = PeftModel.from_pretrained(base, tmp_path / "out").eval()(ids_BT).logits
        assert torch.equal(adapted_BTV, model(ids_BT).logits)
        assert not torch.equal(adapted_BTV, before_BTV)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (dict(dtype="float16"), "model.export.dtype = 'float16' must be one of source, float32, bfloat16"),
        (dict(heads="all"), "model.export.heads = 'all' must be one of keep, drop"),
        (dict(adapter="both"), "model.export.adapter = 'both' must be one of merged, only"),
        (dict(adapter="only"), "model.export.adapter = only cannot keep the heads of model.heads = 4, .*; set .*=drop"),
        (dict(adapter="only", lora=None), "the model is trained whole; set model/adapter=lora, or .*=merged"),
    ],
)
def test_what_no_folder_can_hold_is_refused_before_a_model_is_read(how, sentence):
    lora = how.pop("lora", Lora())
    with pytest.raises(ConfigError, match=sentence):
        ModelSource("nowhere", adapter=lora, export=Export(**how))
