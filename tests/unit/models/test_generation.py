import random
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import LlamaConfig

from wmtp.errors import ConfigError
from wmtp.models.generation import Request, Sampling, generate
from wmtp.models.loading import load_tokenizer
from wmtp.models.mtp import MTPForCausalLM

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ROOT / "wmtp/assets/tokenizer")


@pytest.fixture(scope="module")
def model():
    """A random model with large weights, so that its distributions are sharp."""
    torch.manual_seed(42)
    shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, mtp_heads=4)
    config = LlamaConfig(vocab_size=512, max_position_embeddings=128, initializer_range=0.15, **shape)
    return MTPForCausalLM(config).eval()


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
def test_drafts_change_no_token(model, tokenizer, temperature, decoding):
    ordinary = complete(model, tokenizer, requests(), temperature=temperature, decoding="ordinary")
    assert complete(model, tokenizer, requests(), temperature=temperature, decoding=decoding, batch_size=5) == ordinary


@pytest.mark.parametrize("temperature", [0.0, 0.2, 0.8])
def test_samples_are_the_same_for_any_batch_size_order_and_interruption(model, tokenizer, temperature):
    asked = requests()
    alone = complete(model, tokenizer, asked, temperature=temperature, batch_size=1)
    shuffled = random.Random(42).sample(asked, len(asked))
    assert complete(model, tokenizer, shuffled, temperature=temperature, batch_size=3) == alone
    half = complete(model, tokenizer, shuffled[:7], temperature=temperature, batch_size=16)
    assert half | complete(model, tokenizer, shuffled[7:], temperature=temperature, batch_size=16) == alone


def test_greedy_is_that_of_transformers(model, tokenizer):
    for request in requests(4, samples=1, stop=()):
        [(_, ours)] = generate(model, tokenizer, [request], Sampling(temperature=0.0, max_new_tokens=20))
        ids = tokenizer(request.prompt, return_tensors="pt").input_ids
        theirs = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=0, pad_token_id=0)
        assert list(ours.tokens) == theirs[0, ids.shape[1] :].tolist()


def test_every_config_is_a_sampling():
    for file in (ROOT / "conf/sampling").glob("*.yaml"):
        assert isinstance(instantiate(OmegaConf.load(file)), Sampling)


def test_a_prompt_longer_than_the_model_is_refused_before_anything_is_computed(model, tokenizer):
    with pytest.raises(ConfigError, match=r"task/9: the prompt has .* 128 positions"):
        generate(model, tokenizer, [Request("task/9", "x y " * 128)], Sampling())


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", -1), ("temperature", True), ("top_p", 0), ("n", 0), ("max_new_tokens", 1.5), ("decoding", "fast")],
)
def test_a_wrong_setting_is_named(key, value):
    with pytest.raises(ConfigError, match=f"sampling.{key} = {value!r} must be"):
        Sampling(**{key: value})
