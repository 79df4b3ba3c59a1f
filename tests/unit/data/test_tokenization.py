"""A solution becomes the tokens that follow a prompt, whatever a tokenizer does at the beginning of a text."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from wmtp.data.problem import Problem
from wmtp.data.prompts import MbppPaper3Shot, Synthetic0Shot
from wmtp.data.tokenization import tokenize_problem
from wmtp.models.encoding import encode_continuation

CODE = "def f(x):\n    return x + 1\n"
TEXTS = [CODE, "    return x\n", " x", "\n\nx = 1", "x", "", "값"]


def sentencepiece(legacy: bool) -> PreTrainedTokenizerFast:
    """A tokenizer that begins every text with a space, in the older and in the newer form of Llama's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, max_token_length=8)
    tokenizer.train_from_iterator([CODE.replace("\n", " ")] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(params=["legacy", "metaspace", "ours"])
def any_tokenizer(request, tokenizer):
    return tokenizer if request.param == "ours" else sentencepiece(request.param == "legacy")


@pytest.mark.parametrize("text", TEXTS)
def test_what_follows_a_prompt_reads_as_it_was_written(any_tokenizer, text):
    prompt = any_tokenizer("say it:\n", add_special_tokens=False)["input_ids"]
    ids, places = encode_continuation(any_tokenizer, text)
    assert any_tokenizer.decode([*prompt, *ids]) == any_tokenizer.decode(prompt) + text
    assert len(ids) == len(places) and all(0 <= start <= end <= len(text) for start, end in places)
    assert set().union(*(range(start, end) for start, end in places)) == set(range(len(text)))


@pytest.mark.parametrize("prompt", [Synthetic0Shot(), MbppPaper3Shot()])
def test_a_learnt_solution_compiles(any_tokenizer, prompt):
    problem = Problem("synthetic/test/0", "synthetic", "test", "Add one.", (CODE,), noise_spans=((20, 21),))
    sample = tokenize_problem(problem, prompt, any_tokenizer)
    asked = any_tokenizer.decode(sample.input_ids[: sample.prompt_length])
    learnt = any_tokenizer.decode(sample.input_ids[:-1]).removeprefix(asked)
    compile(prompt.program(problem, learnt), "learnt", "exec")
    assert any(sample.noise) and not any(sample.noise[: sample.prompt_length])
