"""Whatever a tokenizer puts around a text, a prompt has one start and no end, and a solution has one end."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoModelForCausalLM, CTRLTokenizer, LlamaConfig, PreTrainedTokenizerFast

from tests.tiny import SHAPE, tiny_model
from wmtp.algos.baseline import Baseline
from wmtp.data.batching import collate
from wmtp.data.module import MTPDataModule
from wmtp.data.problem import Problem
from wmtp.data.prompts import Prompt, Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.data.tokenization import tokenize_problem
from wmtp.errors import CheckpointError, ConfigError, DataNotFoundError
from wmtp.models.encoding import encode_prompt, encode_solution
from wmtp.models.frozen import FrozenModel
from wmtp.models.generation import generate, too_long
from wmtp.models.loading import ModelSource, load_model
from wmtp.models.sampling import Request, Sampling
from wmtp.models.tokenizer import load_tokenizer

OURS = Path(__file__).parents[3] / "wmtp/assets/tokenizer/tokenizer.json"
ROWS = 514  # the tokens of ours, <s> and </s>
PROBLEM = Problem("synthetic/test/0", "synthetic", "test", "Add one.", ("def f(x):\n    return x + 1\n",))
# What a tokenizer puts around every text by itself.
AROUND = {
    "nothing": "$A",
    "start": "<s> $A",
    "end": "$A </s>",
    "both": "<s> $A </s>",
    "start twice": "<s> <s> $A",
}


def make_tokenizer(around: str = "$A", **more) -> PreTrainedTokenizerFast:
    """Make ours put something around texts, in Llama 3's form: bytes first, then a template."""
    tokenizer = Tokenizer.from_file(str(OURS))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    special = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    template = processors.TemplateProcessing(around, special_tokens=special)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **more)


def save(folder: Path, tokenizer: PreTrainedTokenizerFast, **changes) -> Path:
    """Save a tiny model and a tokenizer side by side."""
    tiny_model(**dict(vocab_size=ROWS) | changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=AROUND)
def loaded(request, tmp_path):
    """A tokenizer of every kind, as it comes back from a folder that was saved, loaded and saved again."""
    first = save(tmp_path / "first", make_tokenizer(AROUND[request.param]))
    load_tokenizer(first).save_pretrained(tmp_path / "second")
    return request.param, load_tokenizer(tmp_path / "second")


def test_a_prompt_has_one_start_and_no_end_and_a_solution_one_end(loaded):
    kind, tokenizer = loaded
    start = ["<s>"] if "start" in kind or kind == "both" else []
    sample = tokenize_problem(PROBLEM, Synthetic0Shot(), tokenizer)
    prompt, solution = sample.input_ids[: sample.prompt_length], sample.input_ids[sample.prompt_length :]
    tokens = tokenizer.convert_ids_to_tokens(sample.input_ids)
    assert tokens[: len(start)] == start and tokens.count("<s>") == len(start)
    assert tokens[-1] == "</s>" and tokens.count("</s>") == 1
    assert tokenizer.decode(prompt[len(start) :]) == Synthetic0Shot().render(PROBLEM)
    assert tokenizer.decode(solution) == PROBLEM.solutions[0] + "</s>"
    assert len(sample.noise) == len(sample.input_ids)


def test_generation_reads_the_prompt_that_training_read(loaded):
    _, tokenizer = loaded
    text = Synthetic0Shot().render(PROBLEM)
    sample = tokenize_problem(PROBLEM, Synthetic0Shot(), tokenizer)
    model = tiny_model(vocab_size=ROWS, max_position_embeddings=sample.prompt_length)
    assert too_long(model, tokenizer, [text]) == {text: sample.prompt_length}
    assert encode_prompt(tokenizer, text) == list(sample.input_ids[: sample.prompt_length])


def test_a_start_that_a_chat_template_wrote_is_not_doubled(loaded):
    _, tokenizer = loaded
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}"
    text = tokenizer.apply_chat_template([{"role": "user", "content": "return x"}], tokenize=False)
    assert text.startswith("<s>")
    assert tokenizer.decode(encode_prompt(tokenizer, text)) == "<s>return x\n"


def test_an_empty_prompt_is_the_start_of_text(loaded):
    _, tokenizer = loaded
    assert encode_prompt(tokenizer, "") == [tokenizer.bos_token_id]


def test_an_end_that_a_program_spells_is_text_and_one_that_a_prompt_mode_writes_is_the_end():
    tokenizer = make_tokenizer("<s> $A </s>")
    code = "print('</s>', '<s>')\n"
    ids, places = encode_solution(tokenizer, code)
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == code + "</s>" and len(places) == len(ids)
    assert encode_solution(tokenizer, "return x</s>")[0] == encode_solution(tokenizer, "return x")[0]
    assert encode_prompt(tokenizer, code).count(tokenizer.eos_token_id) == 1  # in a prompt, its author's word counts


def test_a_tokenizer_that_ends_every_text_asks_the_small_model_the_same(tmp_path):
    """Its prompts ended in the end of text, and pass@1 of 0.300 became 0.167 without a word."""
    shutil.copytree(OURS.parents[1] / "tiny-base", tmp_path / "model")
    model, ours = load_model(tmp_path / "model").eval(), load_tokenizer(OURS.parent)
    ends = Tokenizer.from_file(str(OURS))
    end = [(ours.eos_token, ours.eos_token_id)]
    ends.post_processor = processors.TemplateProcessing(f"$A {ours.eos_token}", special_tokens=end)
    ends.save(str(tmp_path / "model" / "tokenizer.json"))
    theirs = load_tokenizer(tmp_path / "model")
    assert theirs("x").input_ids == [*ours("x").input_ids, ours.eos_token_id]
    prompts = [Synthetic0Shot().render(problem) for problem in Synthetic(test_size=4).problems("test")]
    requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
    sampling = Sampling(temperature=0.0, max_new_tokens=16)
    found = [dict(generate(model, tokenizer, requests, sampling)) for tokenizer in (ours, theirs)]
    assert found[0] == found[1] and all(completion.text for completion in found[0].values())


# ---- padding with the end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_padding_with_the_end_keeps_the_end_a_target_and_changes_no_loss_and_no_gradient(tied, named):
    end, pad = make_tokenizer(), make_tokenizer(pad_token="<|pad|>")
    end.pad_token = end.eos_token
    problems = [PROBLEM, Problem("b", "synthetic", "test", "Return it twice.", ("def g(x):\n    return [x, x]\n",))]
    number = dict(pad_token_id=end.eos_token_id) if named else {}  # transformers then knows the number, too
    model, found = tiny_model(vocab_size=ROWS, tie_word_embeddings=tied, **number), []
    for tokenizer in (end, pad):
        samples = [tokenize_problem(problem, Synthetic0Shot(), tokenizer) for problem in problems]
        batch = collate(samples, sum(sample.targets for sample in samples), tokenizer.pad_token_id)
        assert (batch["labels_BT"] == tokenizer.eos_token_id).sum(1).tolist() == [1, 1]
        algo = Baseline(model, optimizer=torch.optim.SGD)
        model.zero_grad()
        loss = algo._loss(batch, model.mtp(batch["input_ids_BT"])).loss
        loss.backward()
        assert model.lm_head.weight.grad[end.eos_token_id].abs().sum() > 0
        found.append([loss.detach(), *(weight.grad.clone() for weight in model.parameters())])
    assert all(map(torch.equal, *found))  # padding lies behind every target, so its gradients are zeros


# ---- rows that do not fit the tokenizer ------------------------------------------------------------------------------


class Marked(Prompt):
    """Ask with a mark of its own in front, as somebody does who adds tokens."""

    name = "marked"

    def render(self, problem, shots=()):
        return f"<task>{problem.text}\n"


def marked(folder: Path, rows: int = ROWS) -> Path:
    """A tokenizer with a token more than the model's embeddings were resized for."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<task>", special=False)])
    return save(folder, tokenizer, vocab_size=rows)


SENTENCE = rf"has embeddings for {ROWS} tokens, and '<task>', which the .* hold, is number {ROWS}: resize"


def test_a_token_added_without_an_embedding_is_named_before_training_and_before_generation(tmp_path, monkeypatch):
    source = ModelSource(str(marked(tmp_path / "narrow")), heads=2)
    model, tokenizer = source.load(), source.load_tokenizer()
    with pytest.raises(ConfigError, match=f"the model {SENTENCE}"):
        next(generate(model, tokenizer, [Request("a", "<task>x")], Sampling()))
    with pytest.raises(ConfigError, match=SENTENCE):
        too_long(model, tokenizer, ["x", "<task>x"])
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "cache"))
    data = MTPDataModule(Synthetic(train_size=8), Marked(), tokenizer)
    data.setup()
    with pytest.raises(ConfigError, match=rf"model.path \({tmp_path}/narrow\) {SENTENCE}"):
        Baseline(model, optimizer=torch.optim.SGD).check(None, data)
    with pytest.raises(ConfigError, match=rf"model.reference \({tmp_path}/narrow\) {SENTENCE}"):
        FrozenModel(tmp_path / "narrow").check_reads(data)
    wide = ModelSource(str(marked(tmp_path / "wide", ROWS + 1)), heads=2).load()
    Baseline(wide, optimizer=torch.optim.SGD).check(None, data)
    FrozenModel(tmp_path / "wide").check_reads(data)
    unmarked = MTPDataModule(Synthetic(train_size=8), Synthetic0Shot(), tokenizer)
    unmarked.setup()
    Baseline(model, optimizer=torch.optim.SGD).check(None, unmarked)  # a token that nobody uses does no harm


def test_embeddings_beyond_the_tokenizer_train_decode_and_come_back(tmp_path):
    folder = save(tmp_path / "padded", make_tokenizer("<s> $A </s>"), vocab_size=640)
    source = ModelSource(str(folder), heads=2)
    model, tokenizer = source.load(), source.load_tokenizer()
    with torch.no_grad():  # the model likes a token that the tokenizer does not know
        model.lm_head.weight[630] = 50 * model.mtp(torch.tensor([[512, 5]])).hidden[0][0, -1]
    (_, found), *_ = generate(
        model, tokenizer, [Request("a", tokenizer.decode([5]))], Sampling(temperature=0.0, max_new_tokens=3)
    )
    assert 630 in found.tokens and isinstance(found.text, str)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(load_model(tmp_path / "again").lm_head.weight, model.lm_head.weight)


# ---- tied output -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 3])
def test_tied_embeddings_are_one_matrix_in_training_in_the_export_and_after_it(tmp_path, heads):
    folder = save(tmp_path / "tied", make_tokenizer(), heads=heads, tie_word_embeddings=True)
    model = load_model(folder)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    with torch.no_grad():
        model.lm_head.weight += 0.25
    model.save_pretrained(tmp_path / "trained")
    assert "lm_head.weight" not in load_file(tmp_path / "trained" / "model.safetensors")
    ids_BT = torch.arange(5)[None]
    again, plain = load_model(tmp_path / "trained"), AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert all(map(torch.equal, again.mtp(ids_BT).hidden, model.eval().mtp(ids_BT).hidden))
    assert torch.equal(plain(ids_BT).logits, model(ids_BT).logits)


def test_an_untied_model_that_lacks_its_output_matrix_is_named(tmp_path):
    folder = save(tmp_path / "lacking", make_tokenizer(), tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "lm_head.weight"}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=r"lacks lm_head.weight"):
        load_model(folder)


# ---- tokenizers that cannot say where their tokens lie ---------------------------------------------------------------


def test_a_tokenizer_written_in_python_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"x</w>": 0, "<unk>": 1, "y</w>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), eos_token="<unk>").save_pretrained(
        tmp_path
    )
    LlamaConfig(**SHAPE).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is CTRLTokenizer, written in Python: .* with a tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(
        DataNotFoundError, match=r"no tokenizer that transformers can load .* put its tokenizer.json there"
    ):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_brings_its_own_code_is_refused_and_the_code_does_not_run(tmp_path):
    LlamaConfig(**SHAPE).save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    auto = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(auto))
    with pytest.raises(DataNotFoundError, match="no tokenizer that transformers can load"):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()
