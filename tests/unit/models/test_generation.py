import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import GPT2Config, LlamaConfig, Qwen2Config

from wmtp.errors import ConfigError
from wmtp.models import head_start
from wmtp.models.draw import nucleus_probabilities
from wmtp.models.generation import generate
from wmtp.models.loading import mtp_class
from wmtp.models.mtp import MTPForCausalLM
from wmtp.models.pace import Pace
from wmtp.models.sampling import Request, Sampling, acceptance
from wmtp.models.slot_cache import SlotCache

ROOT = Path(__file__).parents[3]
# Large weights make the distributions of a random model sharp.
SHAPE = dict(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=128,
    initializer_range=0.15,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(42)
    return MTPForCausalLM(LlamaConfig(**SHAPE, mtp_heads=4)).eval()


def requests(count: int = 12, samples: int = 2, stop: tuple[str, ...] = ("\nclass", "e")) -> list[Request]:
    rng = random.Random(42)
    words = ["alpha", "x", "y + 1", "list(z)", "return"]
    prompts = ["def f(x):\n    " + " ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(count)]
    return [Request(f"task/{i}", prompt, s, stop) for i, prompt in enumerate(prompts) for s in range(samples)]


def complete(model, tokenizer, asked, **settings):
    sampling = Sampling(**({"max_new_tokens": 24} | settings))
    return {(c.key, c.sample): (c.text, c.tokens, c.finished) for _, c in generate(model, tokenizer, asked, sampling)}


@pytest.mark.parametrize("temperature", [0.0, 0.2, 0.8])
@pytest.mark.parametrize("decoding", ["speculative", "auto"])
def test_samples_are_the_same_for_any_batch_size_order_and_interruption(model, tokenizer, temperature, decoding):
    asked, settings = requests(), dict(temperature=temperature, decoding=decoding)
    alone = complete(model, tokenizer, asked, batch_size=1, **settings)
    shuffled = random.Random(42).sample(asked, len(asked))
    assert complete(model, tokenizer, shuffled, batch_size=3, **settings) == alone
    half = complete(model, tokenizer, shuffled[:7], batch_size=16, **settings)
    assert half | complete(model, tokenizer, shuffled[7:], batch_size=16, **settings) == alone


@pytest.mark.parametrize(
    ("temperature", "decoding"), [(0.0, "speculative"), (0.0, "auto"), (0.2, "auto"), (0.8, "auto")]
)
def test_drafts_change_no_token(model, tokenizer, temperature, decoding):
    ordinary = complete(model, tokenizer, requests(), temperature=temperature, decoding="ordinary")
    assert complete(model, tokenizer, requests(), temperature=temperature, decoding=decoding, batch_size=5) == ordinary


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(num_key_value_heads=2, **SHAPE),
        Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **SHAPE),
        GPT2Config(
            vocab_size=512,
            bos_token_id=0,
            eos_token_id=0,
            n_embd=64,
            n_layer=3,
            n_head=4,
            n_positions=128,
            initializer_range=0.15,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_greedy_is_that_of_transformers_with_drafts_and_without(tokenizer, config):
    torch.manual_seed(42)
    config.mtp_heads = 4
    model = mtp_class(config)(config).eval()
    head_start.copy(model)
    asked = requests(4, samples=1, stop=())
    for decoding in ("ordinary", "speculative"):
        sampling = Sampling(temperature=0.0, max_new_tokens=20, batch_size=3, decoding=decoding)
        for i, ours in generate(model, tokenizer, asked, sampling):
            ids = tokenizer(asked[i].prompt, return_tensors="pt").input_ids
            theirs = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=0, pad_token_id=0)
            assert list(ours.tokens) == theirs[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("decoding", ["ordinary", "speculative"])
def test_sampling_keeps_the_distribution_of_head_zero(tokenizer, decoding):
    """Three tokens after one prompt, over 6 words: every outcome as often as the explicit product of conditionals."""
    torch.manual_seed(42)
    config = LlamaConfig(**(SHAPE | dict(vocab_size=6, initializer_range=0.1)), mtp_heads=3, eos_token_id=0)
    model, prompt, temperature, top_p = MTPForCausalLM(config).eval(), tokenizer.decode([2, 4, 3]), 0.8, 0.9
    assert tokenizer(prompt).input_ids == [2, 4, 3]

    expected = {(): 1.0}
    with torch.no_grad():
        for _ in range(3):
            for tokens in [t for t in expected if 0 not in t]:
                logits_1V = model(torch.tensor([[2, 4, 3, *tokens]])).logits[:, -1]
                p_V = nucleus_probabilities(logits_1V, temperature, top_p)[0].tolist()
                before = expected.pop(tokens)
                expected |= {(*tokens, v): before * p for v, p in enumerate(p_V) if p}

    asked = [Request("task/1", prompt, sample) for sample in range(4000)]
    sampling = Sampling(temperature, top_p, max_new_tokens=3, batch_size=500, decoding=decoding)
    done = [completion for _, completion in generate(model, tokenizer, asked, sampling)]
    observed = Counter(completion.tokens for completion in done)
    assert set(observed) <= set(expected)
    common = [t for t, p in expected.items() if p * len(asked) >= 5]
    counts = torch.tensor([[observed[t], expected[t] * len(asked)] for t in common], dtype=torch.float64)
    counts = torch.cat([counts, len(asked) - counts.sum(0, keepdim=True) + 1e-9])
    statistic = ((counts[:, 0] - counts[:, 1]) ** 2 / counts[:, 1]).sum()
    assert torch.special.gammaincc(torch.tensor(len(common) / 2).double(), statistic / 2) > 0.001
    if decoding == "speculative":
        assert all(0.05 < rate < 0.95 for rate in acceptance(done)), "some drafts must be right and some wrong"


@pytest.mark.parametrize("decoding", ["ordinary", "speculative"])
def test_text_ends_exactly_before_the_first_stop_string(model, tokenizer, decoding):
    free = complete(model, tokenizer, requests(stop=()), temperature=0.0)
    for (key, sample), (text, tokens, _) in free.items():
        stop = text[len(text) // 2 :][:3]
        [request] = [r for r in requests(stop=(stop, "never")) if (r.key, r.sample) == (key, sample)]
        [(_, cut)] = generate(
            model, tokenizer, [request], Sampling(temperature=0.0, max_new_tokens=24, decoding=decoding)
        )
        assert cut.text == text[: text.find(stop)]
        assert (cut.finished, cut.tokens) == ("stop", tokens[: len(cut.tokens)])
        assert stop not in tokenizer.decode(cut.tokens[:-1])


@pytest.mark.parametrize("decoding", ["ordinary", "speculative"])
def test_a_row_ends_with_the_positions_of_the_model(model, tokenizer, decoding):
    prompt = tokenizer.decode(tokenizer("x y " * 128).input_ids[:120])
    [(_, done)] = generate(model, tokenizer, [Request("task/1", prompt)], Sampling(0.0, decoding=decoding))
    assert (len(done.tokens), done.finished) == (8, "length")


def test_drafts_that_are_never_right_are_soon_given_up(model, tokenizer):
    sampling = Sampling(temperature=0.0, max_new_tokens=40, batch_size=1)
    done = [c for _, c in generate(model, tokenizer, requests(4, 1, stop=()), sampling)]
    assert sum(c.blocks for c in done) <= Pace.TRIAL


def test_a_model_in_training_is_evaluated_and_handed_back_in_training(model, tokenizer):
    model.train()
    list(generate(model, tokenizer, requests(1), Sampling(max_new_tokens=1)))
    assert model.training
    model.eval()


def test_a_batch_that_does_not_fit_is_named_and_not_the_batches_of_training(model, tokenizer, monkeypatch):
    def update(*_args, **_kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(SlotCache, "update", update)
    with pytest.raises(ConfigError, match=r"sampling.batch_size = 4: 4 rows of \d+ tokens do not fit"):
        list(generate(model, tokenizer, requests(), Sampling(batch_size=4)))


@pytest.mark.parametrize("decoding", ["ordinary", "speculative"])
def test_samples_of_one_prompt_share_one_reading_of_it(model, tokenizer, decoding):
    read, asked = [], requests(count=1, samples=40)
    last = len(tokenizer(asked[0].prompt).input_ids) - 1

    def note(_module, args, kwargs):
        if kwargs["use_cache"] and kwargs["input_ids"].shape[1] == last:  # steps are of at most 4
            read.append(len(kwargs["input_ids"]))

    assert last > 4
    with model.base_model.register_forward_pre_hook(note, with_kwargs=True):
        done = complete(model, tokenizer, asked, temperature=0.8, decoding=decoding, batch_size=8)
    assert len(done) == 40 and read == [1]


def test_no_request_is_no_completion(model, tokenizer):
    assert list(generate(model, tokenizer, [], Sampling())) == []


def test_every_config_is_a_sampling():
    for file in (ROOT / "conf/sampling").glob("*.yaml"):
        assert isinstance(instantiate(OmegaConf.load(file)), Sampling)


def test_a_prompt_longer_than_the_model_is_refused_before_anything_is_computed(model, tokenizer):
    with pytest.raises(ConfigError, match=r"task/9: the prompt has .* 128 positions"):
        generate(model, tokenizer, [Request("task/9", "x y " * 128)], Sampling())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1),
        ("temperature", True),
        ("top_p", 0),
        ("n", 0),
        ("max_new_tokens", 1.5),
        ("decoding", "fast"),
        ("stop", "x"),
        ("stop", [""]),
        ("stop", [1]),
    ],
)
def test_a_wrong_setting_is_named(key, value):
    with pytest.raises(ConfigError, match=re.escape(f"sampling.{key} = {value!r} must be")):
        Sampling(**{key: value})
