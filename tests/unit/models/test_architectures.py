"""Any decoder-only model of transformers gets heads, trains, exports and decodes; what cannot is refused."""

import copy
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from safetensors.torch import load_file, save_file
from torch.optim import SGD
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Starcoder2Config,
    T5Config,
)

from tests.tolerance import assert_same_up_to_rounding, in_float64, terms_of
from wmtp.algos.baseline import Baseline
from wmtp.data.batching import collate
from wmtp.data.tokenization import TokenizedSample
from wmtp.errors import CheckpointError, ConfigError
from wmtp.maths.loss import weighted_mtp_loss
from wmtp.models.adapter import Lora
from wmtp.models.export import Export
from wmtp.models.frozen import find_reference
from wmtp.models.generation import generate
from wmtp.models.loading import ModelSource, check_logits, load_model, mtp_class
from wmtp.models.sampling import Request, Sampling
from wmtp.models.tokenizer import load_tokenizer

# Large weights make the distributions of a random model sharp.
SPECIAL = dict(vocab_size=512, bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.15)
SHAPE = SPECIAL | dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=128
)
GROUPED = SHAPE | dict(num_key_value_heads=2)
CONFIGS = [
    LlamaConfig(**GROUPED),
    Qwen2Config(**GROUPED, tie_word_embeddings=True),
    Qwen3Config(**GROUPED, head_dim=8),
    MistralConfig(**GROUPED, sliding_window=64),
    GemmaConfig(**GROUPED, head_dim=8),
    Gemma2Config(**GROUPED, head_dim=8, sliding_window=64, final_logit_softcapping=None),
    GPT2Config(**SPECIAL, n_embd=32, n_layer=3, n_head=4, n_positions=128),
    GPTNeoXConfig(**SHAPE),
    Phi3Config(**SHAPE),
    Starcoder2Config(**GROUPED),
    Qwen3MoeConfig(**GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.model_type)
def original(request, tmp_path_factory):
    """A model as transformers makes and saves it: (model, folder)."""
    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_config(request.param).eval()
    folder = tmp_path_factory.mktemp(request.param.model_type)
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(1, 512, (2, 9), generator=torch.Generator().manual_seed(42))


def save_config(config, folder) -> str:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("heads_init", ["copy", "random"])
def test_before_training_head_zero_is_the_original_model(original, ids_BT, heads_init):
    plain, folder = original
    model = ModelSource(str(folder), heads=3, heads_init=heads_init).load().eval()
    hidden = model.mtp(ids_BT).hidden
    with torch.no_grad():
        expected_BTV = plain(ids_BT).logits
        assert torch.equal(model(ids_BT).logits, expected_BTV)
        assert torch.equal(hidden[0] @ model.unembedding_VD.T, expected_BTV)
    copies = [torch.equal(hidden[0], other) for other in hidden[1:]]
    assert copies == [heads_init == "copy"] * 2


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_type)
def short_window(request, attention):
    """A model with three heads, no dropout, and a window shorter than the sequences where it has one."""
    config = copy.deepcopy(request.param)
    config.mtp_heads = 3
    for name in ("attn_pdrop", "resid_pdrop", "embd_pdrop", "attention_dropout", "residual_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if getattr(config, "sliding_window", None):
        config.sliding_window = 5
    if config.model_type == "gemma2":  # it has no sdpa in transformers
        attention = "eager"
    torch.manual_seed(42)
    experts = dict(experts_implementation="eager") if hasattr(config, "num_experts") else {}  # the other has no float64
    return mtp_class(config)._from_config(config, attn_implementation=attention, **experts)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_the_right_needs_no_mask_nor_does_its_gradient(short_window):
    """Rows of 24, 17 and 9 tokens: as with a mask, as alone, and as recomputed in the backward pass."""
    model, lengths = short_window.double(), (24, 17, 9)
    mask_BT = torch.arange(24) < torch.tensor(lengths)[:, None]
    ids_BT = torch.randint(1, 512, (3, 24), generator=torch.Generator().manual_seed(42)) * mask_BT

    def states_and_gradients(**how):
        model.zero_grad()
        hidden = model.train().mtp(ids_BT, **how).hidden
        logits = [h[mask_BT] @ model.unembedding_VD.T for h in hidden]
        sum((k + 1) * logits_NV.logsumexp(-1).sum() for k, logits_NV in enumerate(logits)).backward()
        return [h[mask_BT] for h in hidden], [p.grad for p in model.parameters()]

    with in_float64():
        without = states_and_gradients()
        masked = states_and_gradients(attention_mask=mask_BT.long())
        again = dict(use_reentrant=False, context_fn=lambda: (nullcontext(), in_float64()))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
        recomputed = states_and_gradients()
        alone = [model.mtp(ids_BT[i : i + 1, :n]).hidden for i, n in enumerate(lengths)]
    terms = terms_of(model, ids_BT.numel())
    for other in (masked, recomputed):
        for ours, theirs in zip(without, other, strict=True):
            assert_same_up_to_rounding(ours, theirs, terms)
    assert_same_up_to_rounding([torch.cat([h[k][0] for h in alone]) for k in range(3)], without[0], terms)


@pytest.mark.parametrize("decoding", ["ordinary", "speculative"])
@pytest.mark.parametrize("attention", ["sdpa"])
def test_a_prompt_longer_than_the_window_is_read_as_transformers_reads_it(short_window, tokenizer, decoding):
    model = short_window.eval()
    asked = [Request("a", "def add(x):\n    return x + 1\n\ndef"), Request("b", "x + y")]
    sampling = Sampling(temperature=0.0, max_new_tokens=16, decoding=decoding)
    for i, ours in generate(model, tokenizer, asked, sampling):
        ids = tokenizer(asked[i].prompt, return_tensors="pt").input_ids
        theirs = model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=0, pad_token_id=0)
        assert ours.text == tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)


def test_one_training_step_moves_every_head_and_the_export_loads_everywhere(original, ids_BT, tmp_path):
    plain, folder = original
    model = load_model(folder, heads=3, heads_init="copy")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = [TokenizedSample(f"p{i}", tuple(ids.tolist()), 2, (False,) * 9) for i, ids in enumerate(ids_BT)]
    algo = Baseline(model, lambda model: SGD(model.parameters(), lr=0.1), warmup=0.0)
    batch = collate(samples, sum(sample.targets for sample in samples), 0)
    Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, gradient_clip_val=1.0,
    ).fit(algo, DataLoader([batch], batch_size=None))  # fmt: skip
    model.eval()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    for k in range(2):
        assert any(name.startswith(f"extra_heads.{k}.") for name in moved)
    assert any(name.startswith(model.base_model_prefix) for name in moved)

    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).eval()
    assert again.heads == 3
    for a, b in zip(model.mtp(ids_BT).hidden, again.mtp(ids_BT).hidden, strict=True):
        assert torch.equal(a, b)
    head_zero = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(head_zero) is type(plain)
    assert torch.equal(head_zero(ids_BT).logits, model(ids_BT).logits)


def test_greedy_is_that_of_transformers_with_drafts_and_without(original, tokenizer):
    plain, folder = original
    model = load_model(folder, heads=3, heads_init="copy")
    asked = [Request("a", "def f(x):\n    return"), Request("b", "x + y")]
    for decoding in ("ordinary", "speculative"):
        sampling = Sampling(temperature=0.0, max_new_tokens=12, decoding=decoding)
        for i, ours in generate(model, tokenizer, asked, sampling):
            ids = tokenizer(asked[i].prompt, return_tensors="pt").input_ids
            theirs = plain.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=0, pad_token_id=0)
            assert list(ours.tokens) == theirs[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("heads", [1, 3])
def test_random_heads_replace_the_saved_ones(tmp_path, heads):
    model = mtp_class(CONFIGS[0])(LlamaConfig(**GROUPED, mtp_heads=3))
    model.save_pretrained(tmp_path)
    fresh = load_model(tmp_path, heads=heads, heads_init="random")
    assert len(fresh.extra_heads) == heads - 1
    for saved, head in zip(model.extra_heads, fresh.extra_heads, strict=False):
        assert not torch.equal(saved.mlp.up_proj.weight, head.mlp.up_proj.weight)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Gemma2Config(**GROUPED, head_dim=8), "gemma2 changes its logits after .* .final_logit_softcapping = 30.0"),
        (CohereConfig(**GROUPED), "cohere changes its logits after .* .logit_scale = 0.0625"),
        (T5Config(), "t5 is not a decoder-only language model of transformers"),
    ],
    ids=["soft-cap", "scale", "encoder-decoder"],
)
def test_what_the_loss_would_compute_wrongly_is_refused_before_the_weights(config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        mtp_class(config)


def test_a_bias_after_the_output_matrix_is_refused(tmp_path):
    config = PhiConfig(**SHAPE)
    model = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the logits of phi are not its final hidden states times its output matrix"):
        load_model(tmp_path, heads=2, heads_init="copy")


def test_an_architecture_without_known_layers_is_refused_with_what_to_add():
    config = MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2, mtp_heads=2)
    with pytest.raises(ConfigError, match=r"has none of .*; add the attribute's name to wmtp/models/mtp.py"):
        model = mtp_class(config)(config)
        model.mtp(torch.zeros(1, 3, dtype=torch.long))


def test_a_checkpoint_that_lacks_a_tensor_is_not_filled_with_random_numbers(tmp_path):
    save_config(LlamaConfig(**GROUPED), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks model.layers.1.mlp.up_proj.weight \(1 tensors in all\)"):
        load_model(tmp_path, heads=3, heads_init="copy")


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            dict(intermediate_size=128),
            CheckpointError,
            r"layers.0.mlp.down_proj.weight is \(32, 64\) in .*\(32, 128\) by",
        ),
        (
            dict(model_type="brandnew"),
            ConfigError,
            "of no architecture that this version of transformers has .*brandnew",
        ),
        (
            dict(model_type="brandnew", auto_map={"AutoConfig": "configuration_x.X"}),
            ConfigError,
            "contains custom code .*; choose one that AutoModelForCausalLM loads without code of its own",
        ),
        (dict(quantization_config={"quant_method": "gptq", "bits": 4}), ConfigError, r"quantised weights \(gptq\)"),
    ],
    ids=["shapes", "unknown", "own-code", "quantised"],
)
def test_a_folder_that_cannot_be_trained_is_one_sentence(tmp_path, change, error, sentence):
    folder = Path(save_config(LlamaConfig(**GROUPED), tmp_path))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(error, match=f"model.path = .*{sentence}"):
        ModelSource(str(folder), heads=2, heads_init="copy").load()


def test_weights_in_several_files_are_loaded_only_if_all_are_there(tmp_path, ids_BT):
    plain = AutoModelForCausalLM.from_config(LlamaConfig(**GROUPED), dtype=torch.bfloat16).eval()
    plain.save_pretrained(tmp_path, max_shard_size="40KB")
    model = load_model(tmp_path, heads=8, heads_init="copy")
    assert model.dtype == torch.float32 and len(model.mtp(ids_BT).hidden) == 8
    assert torch.equal(model(ids_BT).logits, plain.float()(ids_BT).logits)
    first = min(tmp_path.glob("*.safetensors"))
    first.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {first.name} \(1 of \d files\); copy or save"):
        load_model(tmp_path, heads=8, heads_init="copy")


@pytest.mark.parametrize("token", ["eos_token", "pad_token"])
def test_a_special_token_without_an_embedding_is_said_before_training(tmp_path, tokenizer, token):
    """[PAD] or <|im_end|> added to the tokenizer: the model must have been resized, and so must the reference."""
    wide, plain = (
        Path(save_config(LlamaConfig(**GROUPED | dict(vocab_size=n)), tmp_path / str(n))) for n in (520, 512)
    )
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({token: "[NEW]"})
    for folder, saved in ((wide, more), (plain, tokenizer)):
        saved.save_pretrained(folder)
    ModelSource(str(wide)).load_tokenizer()
    sentence = rf"= .*512 has embeddings for 512 tokens, and the {token} of model.path, '\[NEW\]', is number 512"
    with pytest.raises(ConfigError, match=f"model.reference {sentence}"):
        find_reference(str(plain), str(wide))
    more.save_pretrained(plain)
    with pytest.raises(ConfigError, match=f"model.path {sentence}"):
        ModelSource(str(plain)).load_tokenizer()


def test_a_tokenizer_pads_with_its_end_and_must_have_one(tmp_path, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"has no end-of-text token, .* set eos_token in its tokenizer_config.json"):
        load_tokenizer(tmp_path)


def test_attention_is_chosen_by_config_and_changes_no_token(tmp_path, ids_BT, tokenizer):
    source = partial(ModelSource, save_config(LlamaConfig(**GROUPED), tmp_path), heads=3, heads_init="copy")
    models = {name: source(attn_implementation=name).load().eval() for name in ("sdpa", "eager")}
    for name, model in models.items():
        assert model.config._attn_implementation == name
    with in_float64(), torch.no_grad():
        by_sdpa, by_eager = (copy.deepcopy(model).double().mtp(ids_BT).hidden for model in models.values())
    assert_same_up_to_rounding(by_sdpa, by_eager, terms_of(model, ids_BT.numel()))
    # Decoding needs a mask of its own, so it goes by sdpa and hands the model back as it was.
    model = models["sdpa"]
    sampling = Sampling(temperature=0.0, max_new_tokens=4)
    expected = [c.tokens for _, c in generate(model, tokenizer, [Request("a", "x")], sampling)]
    model.set_attn_implementation("flex_attention")
    assert [c.tokens for _, c in generate(model, tokenizer, [Request("a", "x")], sampling)] == expected
    assert model.config._attn_implementation == "flex_attention"


def test_an_architecture_without_the_asked_attention_is_told_the_way_out(tmp_path):
    config = Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=None)
    source = partial(ModelSource, save_config(config, tmp_path), heads=2, heads_init="copy")
    with pytest.raises(ConfigError, match=r"= sdpa cannot be used for gemma2 .*; set model.attn_implementation=null"):
        source(attn_implementation="sdpa").load()
    assert source().load().config._attn_implementation == "eager"


def test_what_has_nothing_to_do_with_attention_is_not_blamed_on_it(tmp_path, monkeypatch):
    def lacking(*_, **__):
        raise ImportError("Loading a GPTQ quantized model requires optimum")

    folder = save_config(LlamaConfig(**GROUPED), tmp_path)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lacking)
    with pytest.raises(ConfigError, match=r"model.path = .* cannot be loaded here: Loading a GPTQ"):
        ModelSource(folder, 2, "copy", attn_implementation="sdpa").load()


def test_logits_are_checked_on_a_cpu_without_the_attention_of_a_gpu(tmp_path, monkeypatch):
    model = load_model(Path(save_config(LlamaConfig(**GROUPED), tmp_path)), heads=2, heads_init="copy")
    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", lambda self, name, **_: name)
    model.set_attn_implementation("flash_attention_2")  # no kernel of it is here
    check_logits(model)
    assert model.config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention"])
@pytest.mark.skipif(torch.accelerator.is_available(), reason="both may work with an accelerator")
def test_attention_that_is_not_there_is_one_sentence(tmp_path, name):
    source = ModelSource(save_config(LlamaConfig(**GROUPED), tmp_path), 3, "copy", attn_implementation=name)
    with pytest.raises(ConfigError, match=rf"model.attn_implementation = {name} .*set model.attn_implementation=sdpa"):
        source.load()


def test_an_unknown_attention_is_refused_at_once():
    with pytest.raises(ConfigError, match="'flash' must be one of sdpa, eager, flash_attention_2, flex_attention"):
        ModelSource("anywhere", attn_implementation="flash")


def test_an_adapter_starts_as_the_model_learns_and_merges_into_a_plain_one(original, ids_BT, tokenizer, tmp_path):
    plain, folder = original
    model = ModelSource(str(folder), heads=3, heads_init="copy", adapter=Lora(r=4)).load()
    assert torch.equal(model.eval()(ids_BT).logits, plain(ids_BT).logits)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = [TokenizedSample(f"p{i}", tuple(ids.tolist()), 2, (False,) * 9) for i, ids in enumerate(ids_BT)]
    batch = collate(samples, sum(sample.targets for sample in samples), 0)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the factor that starts at zero keeps the other one still in the first step
        optimizer.zero_grad()
        hidden = model.mtp(ids_BT).hidden
        weighted_mtp_loss(hidden, model.unembedding_VD, batch["labels_BT"], None, batch["step_targets"]).loss.backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    factors = {name for name in before if ".lora_" in name}
    heads = {model.decoder_layers[-1], *model.extra_heads}
    of_heads = {n for n, m in model.named_modules() if m in heads}
    assert factors <= moved and all(any(name.startswith(f"{n}.") for name in moved) for n in of_heads)
    assert {name for name in moved - factors if not name.startswith(tuple(f"{n}." for n in of_heads))} == set()

    Export().write(model, folder, tmp_path / "out")
    head_zero = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    merged = load_model(tmp_path / "out").eval()
    terms = terms_of(merged, ids_BT.numel())
    with torch.no_grad():
        assert_same_up_to_rounding(head_zero(ids_BT).logits, model(ids_BT).logits, terms)
        assert_same_up_to_rounding(merged.mtp(ids_BT).hidden, model.mtp(ids_BT).hidden, terms)
    asked = [Request("a", "def f(x):\n    return"), Request("b", "x + y")]
    drafted, ordinary = (
        {i: c.tokens for i, c in generate(model, tokenizer, asked, Sampling(0.0, max_new_tokens=8, decoding=decoding))}
        for decoding in ("speculative", "ordinary")
    )
    assert drafted == ordinary
