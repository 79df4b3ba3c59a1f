"""Heads that read each other: the arithmetic of transformers, our loss, drafts that equal those from scratch."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_layers import MtpModel

from tests.published import publish
from tests.tolerance import assert_same_up_to_rounding, in_float64, terms_of
from wmtp.data.batching import collate
from wmtp.data.tokenization import TokenizedSample
from wmtp.errors import ConfigError
from wmtp.maths.alignment import shift_left, target_mask
from wmtp.maths.loss import weighted_mtp_loss
from wmtp.models.generation import generate
from wmtp.models.loading import ModelSource, load_model
from wmtp.models.sampling import Request, Sampling, acceptance

SHAPE = dict(
    vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    initializer_range=0.15,
)  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "mistral": MistralConfig(**SHAPE, sliding_window=6),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Plain models as transformers saves them."""
    found = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(42)
        found[name] = tmp_path_factory.mktemp(name)
        AutoModelForCausalLM.from_config(config).save_pretrained(found[name])
    for name in ("glm4_moe", "qwen3_5", "deepseek_v3_of_two"):
        found[name] = publish(name, tmp_path_factory.mktemp(name))
    return found


def make(folder, heads: int = 3, arrangement: str = "sequential", heads_init: str = "random"):
    model = load_model(folder, heads, heads_init, arrangement=arrangement).eval()
    for norm in (model.final_norm, *(n for name, n in model.extra_heads.named_modules() if name.endswith("norm"))):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)  # a norm of ones hides which of them was taken
    return model


def batch_of(*lengths: int) -> dict:
    numbers = torch.Generator().manual_seed(42)
    ids = [tuple(torch.randint(1, 512, (n,), generator=numbers).tolist()) for n in lengths]
    samples = [TokenizedSample(f"p{i}", row, 2, (False,) * len(row)) for i, row in enumerate(ids)]
    return collate(samples, sum(sample.targets for sample in samples), 0)


def by_transformers(model, ids_BT: torch.Tensor) -> list[torch.Tensor]:
    """Head 0 by the plain model, the others by `MtpModel`, each on tokens shifted by hand."""
    theirs = MtpModel(model, len(model.extra_heads)).to(model.dtype)
    theirs.layers = model.extra_heads
    before = {}
    with model.final_norm.register_forward_pre_hook(lambda _, args: before.update(norm=args[0])):
        states_BTD = model.base_model(ids_BT, use_cache=False).last_hidden_state
    hidden, T = [states_BTD], ids_BT.shape[1]
    if getattr(model.config, "mtp_states_before_norm", False):  # new layers are MiMo's
        states_BTD = before["norm"]
    for k in range(1, model.heads):
        ahead_BT = torch.cat([ids_BT[:, k:], ids_BT.new_full((len(ids_BT), k), 7)], dim=1)
        layer = min(k, len(model.extra_heads)) - 1
        states_BTD = theirs.forward_layer(layer, states_BTD, torch.arange(k, T + k)[None], None, input_ids=ahead_BT)
        hidden.append(states_BTD)
    return hidden


@pytest.mark.parametrize("arrangement", ["sequential", "recurrent"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_head_is_what_transformers_computes_wherever_it_has_a_target(folders, family, arrangement):
    model = make(folders[family], 4, arrangement)
    assert len(model.extra_heads) == (1 if arrangement == "recurrent" else 3)
    ids_BT = batch_of(11, 11)["input_ids_BT"]
    hidden, expected = model.mtp(ids_BT).hidden, by_transformers(model, ids_BT)
    assert torch.equal(hidden[0], expected[0])
    for k in range(1, 4):
        # Tokens past the end are other ones here: no place before them may notice.
        ours, theirs = hidden[k][:, : 11 - k], expected[k][:, : 11 - k]
        assert_same_up_to_rounding(ours, theirs, terms_of(model, 11))
        assert not torch.allclose(hidden[k], hidden[k - 1])


@pytest.mark.parametrize(
    ("family", "arrangement", "heads_init"),
    [
        *(
            (family, arrangement, "random")
            for family in ("llama", "qwen2")
            for arrangement in ("sequential", "recurrent")
        ),
        ("deepseek_v3_of_two", None, "native"),
        *((family, "recurrent", "native") for family in ("glm4_moe", "qwen3_5")),
    ],
)
def test_loss_and_gradient_are_those_of_explicit_logits_in_float64(folders, family, arrangement, heads_init):
    model = make(folders[family], 3, arrangement, heads_init).double()
    for part in (model, model.builder):  # the faster experts know no float64
        part.set_experts_implementation("eager")
    batch = batch_of(12, 7, 9)
    labels_BT, ids_BT = batch["labels_BT"], batch["input_ids_BT"]
    weight_BT = torch.rand(labels_BT.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2

    with in_float64():  # RMSNorm rounds to float32 otherwise
        output = model.mtp(ids_BT)
        ours = weighted_mtp_loss(
            output.hidden,
            output.unembedding_VD,
            labels_BT,
            weight_BT,
            batch["step_targets"],
            [1.0, 0.5, 2.0],
            chunk_size=5,
        )
        ours.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}

        model.zero_grad()
        explicit = 0.0
        for k, (alpha, hidden_BTD) in enumerate(zip([1.0, 0.5, 2.0], by_transformers(model, ids_BT), strict=True)):
            for b, t in [(b, t) for b in range(3) for t in range(12 - 1 - k) if labels_BT[b, t + 1 + k] != -100]:
                logits_V = hidden_BTD[b, t] @ model.get_output_embeddings().weight.T
                explicit = explicit + alpha * weight_BT[b, t + 1 + k] * cross_entropy(logits_V, labels_BT[b, t + 1 + k])
        explicit = explicit / (3 * batch["step_targets"])
        explicit.backward()
    terms = terms_of(model, 3 * 12)
    assert_same_up_to_rounding(ours.loss.detach(), explicit.detach(), terms)
    assert_same_up_to_rounding(gradients, {name: p.grad for name, p in model.named_parameters()}, terms)
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_weights_of_one_are_uniform_weights_bit_for_bit(folders):
    model, batch = make(folders["qwen2"]), batch_of(12, 7)
    results = []
    for weight_BT in (None, torch.ones_like(batch["labels_BT"], dtype=torch.float32)):
        model.zero_grad()
        output = model.mtp(batch["input_ids_BT"])
        loss = weighted_mtp_loss(
            output.hidden, output.unembedding_VD, batch["labels_BT"], weight_BT, batch["step_targets"]
        ).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_padding_and_what_stands_in_it_change_no_head(folders):
    model, batch = make(folders["llama"]), batch_of(12, 7)
    ids_BT = batch["input_ids_BT"]
    filled = ids_BT.clone()
    filled[1, 7:] = 5
    alone = model.mtp(ids_BT[1:, :7]).hidden
    for k, (a, b) in enumerate(zip(model.mtp(ids_BT).hidden, model.mtp(filled).hidden, strict=True)):
        exists_BT = shift_left(target_mask(batch["labels_BT"], k), k + 1, False)
        assert torch.equal(a[exists_BT], b[exists_BT])
        assert_same_up_to_rounding(a[1, : 6 - k], alone[k][0, : 6 - k], terms_of(model, 12))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_what_heads_share_with_head_zero_hears_them_in_part_and_the_layers_whole(folders, tied, factor):
    model, batch = make(folders["llama" if tied else "qwen2"]).double(), batch_of(12, 7)

    @in_float64()
    def gradients(trunk_gradient, head_weights):
        model.zero_grad()
        output = model.mtp(batch["input_ids_BT"], trunk_gradient=trunk_gradient)
        weighted_mtp_loss(
            output.hidden, output.unembedding_VD, batch["labels_BT"], None, batch["step_targets"], head_weights,
            shared_gradient=trunk_gradient,
        ).loss.backward()  # fmt: skip
        return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}

    whole, head_zero, part = gradients(1.0, [1, 1, 1]), gradients(1.0, [1, 0, 0]), gradients(factor, [1, 1, 1])
    expected = {
        name: of_all if name.startswith("extra_heads.") else head_zero[name] + factor * (of_all - head_zero[name])
        for name, of_all in whole.items()
    }
    assert_same_up_to_rounding(part, expected, terms_of(model, 2 * 12))


@pytest.mark.parametrize("family", CONFIGS)
def test_an_export_is_read_again_and_head_zero_is_a_plain_model(folders, family, tmp_path):
    for arrangement, heads in (("sequential", 3), ("recurrent", 4)):
        model = make(folders[family], heads, arrangement)
        ModelSource(str(folders[family]), heads, "random").write(model, tmp_path / arrangement)
        config = json.loads((tmp_path / arrangement / "config.json").read_text())
        served = family in ("qwen2", "llama")
        assert config["architectures"] == (["MiMoForCausalLM"] if served else [type(model).__name__])
        assert config["num_nextn_predict_layers"] == len(model.extra_heads)
        again = load_model(tmp_path / arrangement).eval()
        assert again.heads == heads and len(again.extra_heads) == len(model.extra_heads)
        ours, theirs = model.state_dict(), again.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        ids_BT = batch_of(9)["input_ids_BT"]
        for a, b in zip(model.mtp(ids_BT).hidden, again.mtp(ids_BT).hidden, strict=True):
            assert torch.equal(a, b)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / arrangement).eval()
        assert torch.equal(plain(ids_BT).logits, model(ids_BT).logits)


def test_a_copied_layer_begins_as_the_last_one_of_the_trunk(folders):
    model = load_model(folders["qwen2"], 3, "copy", arrangement="sequential")
    last = model.decoder_layers[-1].state_dict()
    for head in model.extra_heads:
        assert all(torch.equal(last[name], tensor) for name, tensor in head.mtp_block.state_dict().items())
    fresh = make(folders["qwen2"], heads_init="random")
    assert not torch.equal(fresh.extra_heads[0].mtp_block.mlp.up_proj.weight, last["mlp.up_proj.weight"])


def test_recomputing_in_the_backward_pass_changes_no_gradient(folders):
    model, batch = make(folders["llama"]).train(), batch_of(12, 7)

    def gradients():
        model.zero_grad()
        output = model.mtp(batch["input_ids_BT"])
        weighted_mtp_loss(
            output.hidden, output.unembedding_VD, batch["labels_BT"], None, batch["step_targets"]
        ).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    kept = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same_up_to_rounding(gradients(), kept, terms_of(model, 2 * 12))


PROMPTS = ["def f(x):\n    return", "x + y", "def f(x):\n    return", "class A:\n    def __init__(self):\n        pass"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("arrangement", "heads"), [("sequential", 2), ("sequential", 4), ("recurrent", 4)])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_drafts_change_no_token(folders, tokenizer, family, arrangement, heads, temperature):
    model = make(folders[family], heads, arrangement)
    asked = [Request(f"r{i % 3}", prompt, sample=i) for i, prompt in enumerate(PROMPTS)]
    written = {}
    for decoding in ("ordinary", "speculative" if temperature == 0 else "auto"):
        sampling = Sampling(temperature, max_new_tokens=14, batch_size=3, decoding=decoding)
        written[decoding] = {i: c.tokens for i, c in generate(model, tokenizer, asked, sampling)}
    ordinary, drafted = written.values()
    assert ordinary == drafted


class Teacher:
    """A drafter that also computes every draft from scratch, and remembers where the two differ."""

    def __init__(self, decoder) -> None:
        self.inner, self.decoder, self.model = decoder.model.real_drafter(decoder), decoder, decoder.model

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def draft(self, first, rows):
        drafts = self.inner.draft(first, rows)
        for row, written in zip(rows, drafts.token_NK.tolist(), strict=True):
            tokens = row.prompt + row.tokens
            if len(tokens) < 2:
                continue
            for k in range(1, self.model.heads):
                hidden = self.model.mtp(torch.tensor([tokens + written[: k - 1]])).hidden[k]
                logits_V = hidden[0, len(tokens) - 2] @ self.model.unembedding_VD.T
                self.model.compared.append((int(logits_V.argmax()), written[k - 1], logits_V.topk(2).values.tolist()))
        return drafts


@pytest.mark.parametrize(("arrangement", "heads"), [("sequential", 2), ("sequential", 4), ("recurrent", 4)])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_every_draft_is_the_one_that_all_tokens_so_far_would_give(folders, tokenizer, family, arrangement, heads):
    """Whatever was accepted, rejected or copied before: no slot keeps the trace of a rejected draft."""
    model = make(folders[family], heads, arrangement)
    model.real_drafter, model.drafter, model.compared = model.drafter, Teacher, []
    asked = [Request(f"r{i}", prompt) for i, prompt in enumerate(PROMPTS)]
    done = generate(model, tokenizer, asked, Sampling(0.0, max_new_tokens=14, batch_size=3, decoding="speculative"))
    accepted = acceptance([completion for _, completion in done])
    clear = [(a, b) for a, b, (first, second) in model.compared if first - second > 1e-3]
    assert len(clear) > 30 * (heads - 1) and all(a == b for a, b in clear)
    assert all(share < 1 for share in accepted)  # some drafts were rejected, so there were traces to keep


def test_drafts_of_a_trained_layer_are_accepted(folders, tokenizer):
    """A layer that is taught what head 0 says next drafts it."""
    model = make(folders["llama"], 2).train()
    ids_BT = torch.tensor([[11, 12, 13, 14, 15, 16, 17, 18] * 4])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        output = model.mtp(ids_BT)
        weighted_mtp_loss(output.hidden, output.unembedding_VD, ids_BT, None, ids_BT.numel()).loss.backward()
        optimizer.step()
    prompt = tokenizer.decode(ids_BT[0, :8])
    tokens = tokenizer(prompt).input_ids
    (_, done), = generate(
        model.eval(), tokenizer, [Request("a", prompt)], Sampling(0.0, max_new_tokens=24, decoding="speculative")
    )  # fmt: skip
    assert tokens == ids_BT[0, :8].tolist() and list(done.tokens) == ids_BT[0, 8:].tolist()
    assert acceptance([done])[0] == 1.0


def test_what_cannot_be_arranged_is_one_sentence(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"'around' must be one of parallel, sequential, recurrent.*null is that"):
        ModelSource("anywhere", heads_arrangement="around")
    with pytest.raises(ConfigError, match=r"= identity: a sequential layer reads two .*; set model.heads_init=copy"):
        make(folders["llama"], heads_init="identity")
    with pytest.raises(ConfigError, match=r"= native: .* holds no multi-token layers; set model.heads_init=copy"):
        make(folders["llama"], heads_init="native")
    AutoModelForCausalLM.from_config(GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4)).save_pretrained(
        tmp_path
    )
    with pytest.raises(
        ConfigError, match=r"= sequential: gpt2 has no RMSNorm, .*; set model.heads_arrangement=parallel"
    ):
        make(tmp_path)
