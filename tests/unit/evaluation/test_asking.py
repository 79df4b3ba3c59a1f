"""Hold that a model is asked as it was taught, and that the numbers of plain prompts stay what they are."""

import copy
import json

import pytest
import torch

from tests.tiny import tiny_model
from wmtp.checkpoints.saved_model import SavedModel
from wmtp.data.chat import Chat, Messages, TokenizerTemplate, messages
from wmtp.data.prompts import HumanEvalRaw, Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.evaluation.asking import Asking
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.server import Server
from wmtp.models.encoding import encode_prompt
from wmtp.models.generation import end_tokens, generate
from wmtp.models.sampling import Request, Sampling

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}CLOSE\n{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
SUITE = [Benchmark("synthetic", Synthetic(0, 0, 2, seed=42), Synthetic0Shot())]
ASKING = {"instruction": "Solve:\n{prompt}\nNow!"}


@pytest.fixture
def tokenizer(tokenizer):
    return copy.deepcopy(tokenizer)


def closing_with(tokenizer, end: str):
    tokenizer.chat_template = TEMPLATE.replace("CLOSE", end)
    return tokenizer


def put(tokenizer, model=None, taught=None, **asking) -> Benchmark:
    model = model or tiny_model(max_position_embeddings=256)
    (benchmark,) = Asking(**ASKING | asking).of_model(SUITE, model, tokenizer, "ckpt = x", taught)
    return benchmark


def test_auto_is_a_conversation_where_the_model_ends_its_answers_as_the_template_does(tokenizer, capsys):
    benchmark = put(closing_with(tokenizer, "<|endoftext|>"))
    problem = benchmark.problems[0]
    assert benchmark.text(problem) == (
        f"<user>Solve:\n{SUITE[0].text(problem).strip()}\nNow!<|endoftext|>\n<assistant>"
    )
    assert benchmark.prompt.name == "synthetic_0shot_chat" and benchmark.prompt.stop == ()
    said = capsys.readouterr().out
    digest = benchmark.prompt.conversation["chat_template"]
    assert said == (
        f"prompts: as a conversation, in the template {digest} (auto: the model ends its answers with <|endoftext|>)\n"
    )
    assert benchmark.identity()["chat_template"] == digest


def test_a_base_model_that_ships_a_template_is_asked_plainly(tokenizer, capsys):
    """Qwen2.5's base models have the template of the instruct models, and end with another token."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    model = tiny_model(vocab_size=600, max_position_embeddings=256)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert put(closing_with(tokenizer, "<|im_end|>"), model) == SUITE[0]
    assert capsys.readouterr().out == "prompts: plain (auto: the model does not end its answers with <|im_end|>)\n"

    model.generation_config.eos_token_id = [
        tokenizer.convert_tokens_to_ids("<|im_end|>")
    ]  # as the instruct models have
    assert put(tokenizer, model).prompt.conversation


def test_what_wmtp_trained_on_plain_prompts_is_asked_plainly_and_without_a_template_nothing_is_said(tokenizer, capsys):
    assert put(closing_with(tokenizer, "<|endoftext|>"), taught=False) == SUITE[0]
    assert "prompts: plain (auto: wmtp trained it on plain prompts)" in capsys.readouterr().out
    assert put(tokenizer, chat=False) == SUITE[0]
    tokenizer.chat_template = None
    for chat in ("auto", False):
        capsys.readouterr()
        assert put(tokenizer, chat=chat) == SUITE[0] and capsys.readouterr().out == ""
    # A template that closes answers with no token of its own says nothing about the model.
    assert put(closing_with(tokenizer, "\nEND"), chat="auto") == SUITE[0]


def test_the_card_of_an_exported_folder_says_that_wmtp_trained_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert SavedModel(tmp_path).taught is None
    for tags, taught in (("code\n---\n\n- wmtp", None), ("code\n- wmtp", False), ("wmtp\n- conversational", True)):
        (tmp_path / "README.md").write_text(f"---\ntags:\n- {tags}\n---\n\n# x\n")
        assert SavedModel(tmp_path).taught is taught


def test_a_conversation_ends_where_its_template_says_whatever_the_model_came_with(tokenizer):
    model = tiny_model(max_position_embeddings=256, initializer_range=0.15).eval()
    model.generation_config.eos_token_id = None
    sampling, request = Sampling(temperature=0.0, max_new_tokens=12), [Request("x", "def")]
    torch.manual_seed(0)
    ((_, before),) = generate(model, tokenizer, request, sampling)
    assert before.finished == "length"
    third = tokenizer.convert_ids_to_tokens(before.tokens[2])
    assert before.tokens.index(before.tokens[2]) == 2
    tokenizer.add_special_tokens({"additional_special_tokens": [third]})  # the same number, now a token of its own
    put(closing_with(tokenizer, third), model, chat=True)
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id, before.tokens[2]}
    ((_, after),) = generate(model, tokenizer, request, sampling)
    assert after.finished == "eos" and after.tokens == before.tokens[:3]


def test_no_template_and_no_place_for_a_system_message_are_one_sentence(tokenizer):
    tokenizer.chat_template = None
    for ask in (lambda one: one.check(tokenizer, "ckpt = x"), lambda _: put(tokenizer, chat=True)):
        with pytest.raises(
            ConfigError, match=r"^prompt.chat = true, but the tokenizer of ckpt = x has no chat template"
        ):
            ask(Asking(**ASKING, chat=True))
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    Asking(**ASKING, chat=True).check(tokenizer, "ckpt = x")
    with pytest.raises(
        ConfigError, match=r"the chat template of ckpt = x refuses the messages \(no system\); leave out"
    ):
        Asking(**ASKING, chat=True, system="Be brief.").check(tokenizer, "ckpt = x")
    for wrong in ({"chat": "yes"}, {"instruction": "Solve it!"}):
        with pytest.raises(ConfigError, match=rf"prompt.{next(iter(wrong))} = "):
            Asking(**ASKING | wrong)


def test_the_same_is_asked_on_every_day_and_variables_reach_the_template(tokenizer):
    # Llama 3.2 writes it so.
    day = '{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}'
    tokenizer.chat_template = (
        day + "{{ date_string }} {{ strftime_now('%Y') }} {{ thinking }} {{ messages[0].content }}"
    )
    written = TokenizerTemplate(tokenizer, {"thinking": False}, "x").write(messages("hi", None))
    assert written == "01 Jan 2026 2026 False hi"
    other_day = {"thinking": True, "date_string": "26 Jul 2024"}
    assert TokenizerTemplate(tokenizer, other_day, "x").write(messages("hi", "s")) == "26 Jul 2024 2026 True s"


def test_a_start_of_text_that_the_template_writes_is_read_once(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.bos_token = "<|endoftext|>"
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", start)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE.replace("CLOSE", "<|endoftext|>")
    benchmark = put(tokenizer)
    ids = encode_prompt(tokenizer, benchmark.text(benchmark.problems[0]))
    assert ids[0] == start and ids.count(start) == 2  # the beginning, and the end of what the user says


def test_the_program_of_an_answer_is_that_of_the_plain_prompt(tokenizer):
    chat = Chat(HumanEvalRaw(), Messages(), "{prompt}")
    problem = SUITE[0].problems[0]
    assert chat.program(problem, "    x") == HumanEvalRaw().program(problem, "    x")


@pytest.mark.parametrize(
    ("model", "chat", "in_chat"),
    [
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "auto", True),
        ("gemma-2b-it", "auto", True),
        ("llama2:7b-chat", "auto", True),
        ("Qwen/Qwen2.5-Coder-0.5B", "auto", False),
        ("edit-chatty", "auto", False),
        ("gpt", True, True),
        ("x-chat", False, False),
    ],
)
def test_a_server_is_asked_by_its_models_name(model, chat, in_chat, capsys):
    server = Server("http://x", model)
    (benchmark,) = Asking(**ASKING, chat=chat, system="Be brief.").of_server(SUITE, server)
    assert server.chat is in_chat and bool(benchmark.prompt.conversation) is in_chat
    assert capsys.readouterr().out.startswith("prompts: as a conversation" if in_chat else "prompts: plain")
    if in_chat:
        asked = json.loads(benchmark.text(benchmark.problems[0]))
        assert [one["role"] for one in asked] == ["system", "user"] and asked[0]["content"] == "Be brief."
