"""Models that ship multi-token layers: read with them, written as they came, and never stripped of them silently."""

import json
import shutil

import pytest
import torch
from pytorch_lightning import Trainer
from safetensors.torch import load_file, save_file
from torch.optim import SGD
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    InklingConfig,
    InklingTextConfig,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Step3p7Config,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.modeling_layers import MtpModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from tests.published import CONFIGS, LINEAR_ATTENTION, publish
from tests.tolerance import assert_same_up_to_rounding, terms_of
from wmtp.algos.baseline import Baseline
from wmtp.data.batching import collate
from wmtp.data.tokenization import TokenizedSample
from wmtp.errors import CheckpointError, ConfigError
from wmtp.models.export import Export
from wmtp.models.generation import generate
from wmtp.models.loading import ModelSource, load_model, mtp_class
from wmtp.models.native_layout import COUNTS, shipped_layers
from wmtp.models.sampling import Request, Sampling

FAMILIES = sorted(CONFIGS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: publish(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def ids_of(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(1, 512, (rows, length), generator=torch.Generator().manual_seed(42))


def export(folder, target, **how):
    """Load a model and write it as a run does at its end, without having trained it; return what is in the files."""
    source = ModelSource(str(folder), **{"heads": None, "heads_init": "auto"} | how)
    source.write(source.load(), target)
    return load_file(target / "model.safetensors")


def load(folder, **how):
    return ModelSource(str(folder), heads=None, heads_init="auto", **how).load().eval()


def plain_with_layers(folder, name: str):
    """The model as transformers loads it, told where its layers are in a model this small."""
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    config = plain.config
    if name not in LINEAR_ATTENTION - {"bailing_hybrid"}:
        numbers = range(config.num_hidden_layers, config.num_hidden_layers + config.num_mtp_layers)
        if not name.startswith("mellum"):
            plain._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{n}\." for n in numbers]
    else:
        config.num_mtp_layers, config.mtp_layer_types = 1, ["full_attention"]
    if name == "bailing_hybrid":
        config.mtp_layer_types, config.mtp_mlp_layer_types = ["full_attention"], ["sparse"]
    return plain


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mimo"])
def test_the_layers_are_those_that_transformers_reads(folders, name):
    model = load(folders[name])
    plain = plain_with_layers(folders[name], name)
    theirs = MtpModel.from_pretrained(plain)
    ours = {f"layers.{n}": t for n, t in model.extra_heads.state_dict().items()}
    expected = {n: t for n, t in theirs.state_dict().items() if n.startswith("layers.")}
    assert ours.keys() == expected.keys() and all(torch.equal(ours[n], expected[n]) for n in ours)
    ids_BT = ids_of()
    hidden = model.mtp(ids_BT).hidden
    states_BTD = plain.get_decoder()(ids_BT).last_hidden_state
    assert len(hidden) == 1 + len(theirs.layers) and torch.equal(hidden[0], states_BTD)
    for k in range(1, len(hidden)):
        ahead_BT = torch.cat([ids_BT[:, k:], ids_BT[:, :k]], dim=1)
        states_BTD = theirs.forward_layer(k - 1, states_BTD, torch.arange(k, 9 + k)[None], None, input_ids=ahead_BT)
        assert_same_up_to_rounding(hidden[k][:, : 9 - k], states_BTD[:, : 9 - k], terms_of(model, 2 * 9))


def test_mimo_reads_its_states_before_the_embedding(folders):
    """By hand, as vLLM's mimo.py and mimo_mtp.py compute it: states before the last norm, [states ; embedding], …"""
    model, tensors = load(folders["mimo"]), load_file(folders["mimo"] / "model.safetensors")
    ids_BT = ids_of()
    own = {n.removeprefix("model.mtp_layers.0."): t for n, t in tensors.items() if n.startswith("model.mtp_layers.0.")}

    def norm(x, weight):
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps)

    x_BTD = tensors["model.embed_tokens.weight"][ids_BT]
    mask, angles = (
        torch.full((9, 9), float("-inf")).triu(1)[None, None],
        model.model.rotary_emb(x_BTD, torch.arange(9)[None]),
    )
    for layer in model.decoder_layers:
        x_BTD = layer(x_BTD, attention_mask=mask, position_embeddings=angles)
    states_BTD = x_BTD
    embedded_BTD = tensors["model.embed_tokens.weight"][torch.cat([ids_BT[:, 1:], ids_BT[:, :1]], dim=1)]
    both = torch.cat(
        [norm(states_BTD, own["hidden_layernorm.weight"]), norm(embedded_BTD, own["token_layernorm.weight"])], -1
    )
    block = model.extra_heads[0].mtp_block
    assert all(torch.equal(t, own[n]) for n, t in block.state_dict().items())
    x_BTD = both @ own["input_proj.weight"].T
    angles = model.model.rotary_emb(x_BTD, torch.arange(1, 10)[None])
    expected = norm(block(x_BTD, attention_mask=mask, position_embeddings=angles), own["final_layernorm.weight"])
    assert_same_up_to_rounding(model.mtp(ids_BT).hidden[1][:, :8], expected[:, :8], terms_of(model, 2 * 9))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_untrained_model_is_exported_bit_for_bit(folders, name, tmp_path):
    """Every tensor under its own name, whether the layers were heads or not."""
    source = load_file(folders[name] / "model.safetensors")
    for heads in (None, 1):
        written = export(folders[name], tmp_path / str(heads), heads=heads)
        assert written.keys() == source.keys()
        assert all(torch.equal(written[n], source[n]) for n in source)
        config = json.loads((tmp_path / str(heads) / "config.json").read_text())
        source_config = json.loads((folders[name] / "config.json").read_text())
        more = {"mtp_heads": config.get("mtp_heads"), "mtp_arrangement": "sequential"} if heads is None else {}
        assert config == source_config | more
    again = load_model(tmp_path / "None").eval()
    for a, b in zip(load(folders[name]).mtp(ids_of()).hidden, again.mtp(ids_of()).hidden, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_moves_trunk_and_layers_and_the_export_holds_them(folders, name, tmp_path):
    model = load(folders[name])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    samples = [TokenizedSample(f"p{i}", tuple(ids.tolist()), 2, (False,) * 9) for i, ids in enumerate(ids_of())]
    batch = collate(samples, sum(sample.targets for sample in samples), 0)
    Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(
        Baseline(model, lambda m: SGD(m.parameters(), lr=0.1), warmup=0.0), DataLoader([batch], batch_size=None)
    )  # fmt: skip
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    for k in range(len(model.extra_heads)):
        assert {f"extra_heads.{k}.{part}.weight" for part in ("enorm", "hnorm", "eh_proj", "post_norm")} <= moved
    assert any(n.startswith("model.") for n in moved)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).state_dict()
    assert all(torch.equal(t, again[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in LINEAR_ATTENTION])
def test_greedy_with_drafts_is_ordinary_greedy(folders, name, tokenizer):
    model = load(folders[name])
    asked = [Request("a", "def f(x):\n    return"), Request("b", "x + y"), Request("c", "for i in range(10):\n")]
    ordinary, drafted = (
        {i: c for i, c in generate(model, tokenizer, asked, Sampling(0.0, max_new_tokens=12, decoding=decoding))}
        for decoding in ("ordinary", "speculative")
    )
    assert {i: c.tokens for i, c in drafted.items()} == {i: c.tokens for i, c in ordinary.items()}
    assert all(c.blocks for c in drafted.values())


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", sorted(LINEAR_ATTENTION))
def test_models_with_states_decode_in_batches_as_transformers_does(folders, name, batch_size, tokenizer):
    """Prompts of many lengths, one of a single token, equal ones, and more of them than rows."""
    model, plain = load(folders[name]), AutoModelForCausalLM.from_pretrained(folders[name]).eval()
    prompts = [
        "def f(x):\n    return",
        "x",
        "x + y",
        "def f(x):\n    return",
        "for i in range(10):\n    print(i)",
        "x +",
    ]
    asked = [Request(f"r{i}", prompt) for i, prompt in enumerate(prompts)]
    for decoding in ("ordinary", "auto"):
        sampling = Sampling(0.0, max_new_tokens=9, batch_size=batch_size, decoding=decoding)
        done = dict(generate(model, tokenizer, asked, sampling))
        for i, prompt in enumerate(prompts):
            ids_1T = tokenizer(prompt, return_tensors="pt").input_ids
            theirs = plain.generate(ids_1T, max_new_tokens=9, do_sample=False, eos_token_id=0, pad_token_id=0)
            assert list(done[i].tokens) == theirs[0, ids_1T.shape[1] :].tolist()


@pytest.mark.parametrize("name", ["glm4_moe", "deepseek_v3", "deepseek_v3_of_two", "mellum"])
def test_generate_with_use_mtp_on_the_export_is_plain_greedy(folders, name, tmp_path):
    export(folders[name], tmp_path / "out")
    plain, ids_BT = plain_with_layers(tmp_path / "out", name), ids_of(1, 7)
    how = dict(max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(plain.generate(ids_BT, use_mtp=True, **how), plain.generate(ids_BT, **how))


def test_what_is_used_and_what_goes_stale_is_said_in_one_line(folders, capsys):
    folder = folders["glm4_moe"]
    for how, said in (
        (dict(heads=None, heads_init="auto"), "its 1 multi-token layer is used as head 1 (model.heads_init=copy"),
        (dict(heads=1, heads_init="auto"), "its 1 multi-token layer is not trained and left as shipped in the export"),
        (dict(heads=3, heads_init="copy"), "its 1 multi-token layer is not trained and left as shipped in the export"),
    ):
        ModelSource(str(folder), **how).load()
        lines = [line for line in capsys.readouterr().out.splitlines() if "multi-token" in line]
        assert len(lines) == 1 and lines[0].startswith(f"model.path = {folder}: {said}")


def test_new_layers_take_the_place_of_shipped_ones(folders, tmp_path):
    source = load_file(folders["glm4_moe"] / "model.safetensors")
    how = dict(heads=2, heads_init="copy", heads_arrangement="sequential")
    written = export(folders["glm4_moe"], tmp_path / "out", **how)
    assert written.keys() == source.keys()
    changed = {n for n in source if not torch.equal(source[n], written[n])}
    assert "model.layers.3.eh_proj.weight" in changed and all(n.startswith("model.layers.3.") for n in changed)


def test_the_last_layer_serves_every_token_further_on(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"= 4, but .* ships 1 multi-token layer; set model.heads=2, or .*=recurrent"):
        ModelSource(str(folders["mimo"]), heads=4, heads_init="native").load()
    model = ModelSource(str(folders["mimo"]), heads=4, heads_init="native", heads_arrangement="recurrent").load()
    assert model.heads == 4 and len(model.extra_heads) == 1 and len(model.mtp(ids_of()).hidden) == 4
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path).heads == 4


def test_heads_of_the_other_arrangement_are_not_taken_for_those_that_are_there(folders, tmp_path, capsys):
    for name, init, arrangement in (("glm4_moe", "native", "parallel"), ("asset:tiny-base", "saved", "recurrent")):
        path = str(folders.get(name, name))
        with pytest.raises(ConfigError, match=rf"heads_arrangement = {arrangement}, but the heads .*; set .*=copy to"):
            ModelSource(path, heads=2, heads_init=init, heads_arrangement=arrangement).load()
    with pytest.raises(ConfigError, match=r"2 new layers cannot take the place of the 1 .*; set model.heads=2, or"):
        ModelSource(str(folders["glm4_moe"]), 3, "copy", heads_arrangement="sequential").load()
    source = ModelSource("asset:tiny-base", 3, "auto", heads_arrangement="sequential")
    model = source.load()
    assert len(model.extra_heads) == 2 and model.new_heads.first == 1
    assert "its 4 saved heads are left out, as model.heads_arrangement=sequential says." in capsys.readouterr().out
    source.write(model, tmp_path / "out")
    more = ModelSource(str(tmp_path / "out"), 4, "copy", heads_arrangement="sequential").load()
    assert len(more.extra_heads) == 3


@pytest.fixture
def altered(folders, tmp_path):
    """Copy a published model and change its tensors' names or its config."""

    def change(name, rename=lambda n: n, **content):
        folder = shutil.copytree(folders[name], tmp_path / "altered")
        tensors = load_file(folder / "model.safetensors")
        renamed = {rename(n): t for n, t in tensors.items() if rename(n)}
        save_file(renamed, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | content))
        return folder

    return change


def test_an_unknown_layout_is_refused_with_what_would_be_lost_and_carried_along_on_request(altered, tmp_path):
    folder = altered("mimo", lambda n: n.replace("mtp_layers.0", "mtp_block"))
    with pytest.raises(
        ConfigError, match=r"does not know for qwen2 \(16 tensors: model.mtp_block.final_layernorm.weight, .*=copy"
    ):
        ModelSource(str(folder), heads=None, heads_init="auto").load()
    source = load_file(folder / "model.safetensors")
    written = export(folder, tmp_path / "out", heads=3, heads_init="copy")
    assert all(torch.equal(written[n], t) for n, t in source.items())
    assert shipped_layers(tmp_path / "out", load_model(tmp_path / "out").config).names


def test_a_layer_that_lacks_or_has_more_than_it_should_is_refused(altered):
    lacking = altered("glm4_moe", lambda n: None if n.endswith("eh_proj.weight") else n)
    with pytest.raises(CheckpointError, match=r"lacks extra_heads.0.eh_proj.weight \(1 tensors in all\)"):
        load(lacking)
    shutil.rmtree(lacking)
    strange = altered("glm4_moe", lambda n: n.replace("layers.3.hnorm", "layers.3.gnorm"))
    with pytest.raises(CheckpointError, match=r"lacks extra_heads.0.hnorm.weight"):
        load(strange)


def test_a_config_that_speaks_of_other_layers_is_refused(altered):
    folder = altered("deepseek_v3", num_nextn_predict_layers=3, num_mtp_layers=3)
    with pytest.raises(CheckpointError, match=r"config.json speaks of 3 multi-token layers and the weights hold 1"):
        load(folder)


def test_of_a_model_that_also_sees_the_language_model_is_trained_with_its_layers(folders, tmp_path):
    """Qwen3.5 as it is published: the text under model.language_model, pictures beside it, layers under mtp."""
    seeing, text = CONFIGS["qwen3_5"], load_file(folders["qwen3_5"] / "model.safetensors")
    eye = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32)
    config = Qwen3_5Config(text_config=seeing.to_dict(), vision_config=eye | dict(num_position_embeddings=16))
    Qwen3_5ForConditionalGeneration(config).save_pretrained(tmp_path / "seeing")
    tensors = load_file(tmp_path / "seeing" / "model.safetensors")
    renamed = {
        n.replace("model.", "model.language_model.", 1) if n.startswith("model.") else n: t for n, t in text.items()
    }
    save_file(tensors | renamed, tmp_path / "seeing" / "model.safetensors", {"format": "pt"})
    model = load(tmp_path / "seeing")
    for a, b in zip(model.mtp(ids_of()).hidden, load(folders["qwen3_5"]).mtp(ids_of()).hidden, strict=True):
        assert torch.equal(a, b)
    written = export(tmp_path / "seeing", tmp_path / "out")
    everything = tensors | renamed
    assert written.keys() == everything.keys() and all(torch.equal(written[n], t) for n, t in everything.items())
    assert load_model(tmp_path / "out").heads == 2


@pytest.mark.parametrize("config", [Step3p7Config(), InklingConfig()], ids=lambda config: config.model_type)
def test_families_whose_models_also_see_and_hear_are_refused(config):
    with pytest.raises(ConfigError, match=f"{config.model_type} is not a decoder-only language model of transformers"):
        mtp_class(config)


@pytest.mark.parametrize("config", [Step3p7Config(), InklingConfig()], ids=lambda config: config.model_type)
def test_the_published_names_of_step_and_inkling_lead_only_to_models_that_also_see(config):
    """Whoever gives them a way to a language model alone has given wmtp one: see docs/native_mtp.md."""
    targets = {target for t in get_checkpoint_conversion_mapping(config.model_type) for target in t.target_patterns}
    assert any(target.startswith("model.language_model.") for target in targets)
    assert get_checkpoint_conversion_mapping(config.get_text_config().model_type) is None


def test_step_has_no_language_model_of_its_own():
    assert type(Step3p7Config().get_text_config()) not in MODEL_FOR_CAUSAL_LM_MAPPING


def test_the_logits_of_inkling_are_scaled(tmp_path):
    config = InklingTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, swa_num_attention_heads=4,
        swa_num_key_value_heads=2, swa_head_dim=8, d_rel=4, rel_extent=16, n_routed_experts=4, num_experts_per_tok=2,
        n_shared_experts=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the logits of inkling_text are not its final hidden states times"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3_5", "mimo"])
def test_a_folder_whose_layers_are_left_out_promises_none(folders, name, tmp_path):
    Export(heads="drop").write(load(folders[name]), folders[name], tmp_path / "out")
    source, written = (load_file(folder / "model.safetensors") for folder in (folders[name], tmp_path / "out"))
    shipped = shipped_layers(folders[name], load(folders[name]).config)
    assert shipped_layers(tmp_path / "out", load_model(tmp_path / "out").config) is None
    assert {n for n in source if n not in written} >= {n for n in shipped.names if "*" not in n}
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    counts = {key: said[key] for key in COUNTS if key in said}
    assert counts and not any(counts.values())
    assert said["architectures"] == json.loads((folders[name] / "config.json").read_text())["architectures"]


def test_the_last_norm_of_ling_is_read_by_the_name_that_vllm_reads(folders, tmp_path):
    shutil.copytree(folders["bailing_hybrid"], tmp_path / "ling")
    ours, theirs = "model.layers.4.post_norm.weight", "model.layers.4.final_layernorm.weight"
    tensors = load_file(tmp_path / "ling" / "model.safetensors")
    tensors[theirs] = tensors.pop(ours)
    save_file(tensors, tmp_path / "ling" / "model.safetensors", {"format": "pt"})
    model = load(tmp_path / "ling")
    assert torch.equal(model.extra_heads[0].post_norm.weight, tensors[theirs])
    for a, b in zip(model.mtp(ids_of()).hidden, load(folders["bailing_hybrid"]).mtp(ids_of()).hidden, strict=True):
        assert torch.equal(a, b)
    written = export(tmp_path / "ling", tmp_path / "out")
    assert written.keys() == tensors.keys() and all(torch.equal(written[n], t) for n, t in tensors.items())


@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3_5", "mimo"])
def test_an_export_that_says_only_how_many_heads_it_has_is_read_as_well(folders, name, tmp_path):
    """By the tensors that are there: a config.json in the source's likeness may say no more."""
    model = load(folders[name])
    model.save_pretrained(tmp_path)
    content = json.loads((folders[name] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"mtp_heads": 2}))
    again = load_model(tmp_path).eval()
    for a, b in zip(model.mtp(ids_of()).hidden, again.mtp(ids_of()).hidden, strict=True):
        assert torch.equal(a, b)
