"""Hold rows of one's own to what their fields say, and complaints about them to file, line and fields found."""

import gzip
import json
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import pytest

from wmtp.data.chat import Chat, TokenizerTemplate
from wmtp.data.jsonl import Jsonl
from wmtp.data.leakage import find_leaks
from wmtp.data.problem import Problem, Source
from wmtp.data.prompts import OwnWords
from wmtp.data.tokenization import tokenize_problem
from wmtp.errors import ConfigError, DataFormatError, DataNotFoundError

ASKED = {"prompt": "Q: 1 + 1?\nA:", "completion": " 2"}
DESCRIBED = {"text": "Add.", "code": "def add(a, b):\n    return a + b\n", "test_list": ["assert add(1, 2) == 3"]}
TALK = {
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "```python\nx = 1\n```"},
    ]
}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ ' ' if m.role == 'assistant' }}{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write(path: Path, *rows: dict | str) -> Path:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def many(count: int) -> list[dict]:
    return [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(count)]


def splits(source: Jsonl) -> dict[str, str]:
    return {problem.text: problem.split for problem in source.stream("all")}


@pytest.fixture
def chat_tokenizer(tokenizer):
    from copy import deepcopy

    own = deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    own.chat_template = TEMPLATE
    return own


def test_each_of_three_shapes_is_recognised_by_its_fields(tmp_path):
    asked, described, hello, add = Jsonl(write(tmp_path / "r.jsonl", ASKED, DESCRIBED, TALK)).problems("all")
    prompt = OwnWords()
    assert (prompt.render(asked), prompt.completion(asked)) == ("Q: 1 + 1?\nA:", " 2") and not asked.tested
    assert prompt.render(described) == '"""\nAdd.\nassert add(1, 2) == 3\n"""\n'
    assert described.tested and described.entry_point == "add" and described.solutions == (DESCRIBED["code"],)
    assert hello.messages == (("user", "Hello"),) and hello.solutions == ("Hi.",)
    assert [role for role, _ in add.messages] == ["user", "assistant", "user"] and add.text == "Add."
    names = [problem.task_id for problem in (asked, described, hello, add)]
    assert names == ["jsonl/r.jsonl:1", "jsonl/r.jsonl:2", "jsonl/r.jsonl:3", "jsonl/r.jsonl:3/2"]


def test_other_names_are_told_by_a_map(tmp_path):
    rows = [{"id": 7, "question": "1 + 1 =", "answer": " 2", "meta": None}]
    (problem,) = Jsonl(write(tmp_path / "r.jsonl", *rows), {"prompt": "question", "completion": "answer"}).problems(
        "all"
    )
    assert (problem.task_id, problem.prompt, problem.solutions) == ("jsonl/7", "1 + 1 =", (" 2",))


@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        ([ASKED, {"question": "a", "answer": "b"}], {}, r"r\.jsonl:2: no messages, no prompt with completion, no text "
         r"with code; the row's fields are question, answer\. Say which is which, as in data\.fields\.prompt=NAME "),
        ([ASKED], {"completion": "reply"}, r"r\.jsonl:1: no field for data\.fields\.completion = reply; the row's "
         r"fields are prompt, completion\."),
        ([DESCRIBED], {"tests": "checks"}, r"no field for data\.fields\.tests = checks; .* text, code, test_list"),
        ([{}], {}, r"r\.jsonl:1: .* the row's fields are none\."),
        ([ASKED, "{"], {}, r"r\.jsonl:2: not JSON"),
        ([{**ASKED, "completion": 3}], {}, r"r\.jsonl:1: completion must be str, not int"),
        ([{"messages": [{"role": "user", "content": "x"}]}], {}, r"r\.jsonl:1: messages holds no answer"),
        ([{"messages": [{"role": "human", "content": "x"}]}], {}, r"r\.jsonl:1: messages \[0\] must be \{\"role\": "),
        ([{"messages": ["x"]}], {}, r"r\.jsonl:1: messages \[0\] must be"),
        ([{**ASKED, "id": 1}, {**ASKED, "id": 1}], {}, r"r\.jsonl:2: jsonl/1 is there a second time"),
        ([{**DESCRIBED, "test_list": [1]}], {}, r"r\.jsonl:1: test_list must be a list of texts"),
    ],
)  # fmt: skip
def test_a_wrong_row_or_field_is_one_sentence_with_file_line_and_the_fields_found(tmp_path, rows, fields, said):
    with pytest.raises(DataFormatError, match=said) as refused:
        Jsonl(write(tmp_path / "r.jsonl", *rows), fields).problems("all")
    assert "\n" not in str(refused.value)


def test_validation_is_a_share_of_the_questions_and_stays_when_rows_come_and_go(tmp_path):
    rows = many(1000)
    before = splits(Jsonl(write(tmp_path / "r.jsonl", *rows), validation_share=0.1))
    share = [*before.values()].count("validation")
    assert 60 < share < 140  # 100 expected; 4 standard deviations of a binomial are 38
    after = splits(Jsonl(write(tmp_path / "r.jsonl", *rows[::-2], *many(1200)[1000:]), validation_share=0.1))
    assert all(before[question] == after[question] for question in before.keys() & after.keys())
    # The same question never lies on both sides, whatever was answered.
    twice = [{**row, "completion": "?"} for row in rows]
    held = {p.text for p in Jsonl(write(tmp_path / "r.jsonl", *rows, *twice)).stream("validation")}
    assert not held & {p.text for p in Jsonl(tmp_path / "r.jsonl").stream("train")}


def test_a_few_rows_give_one_question_to_validation_and_one_question_is_too_few(tmp_path):
    split = [*splits(Jsonl(write(tmp_path / "r.jsonl", *many(3)))).values()]
    assert sorted(split) == ["train", "train", "validation"]
    alone = Jsonl(write(tmp_path / "r.jsonl", ASKED, ASKED | {"completion": " two"}))
    with pytest.raises(ConfigError, match=r"data\.path = .*r\.jsonl holds fewer than two different questions"):
        alone.problems("train")


def test_validation_may_be_a_file_of_the_same_folder(tmp_path):
    write(tmp_path / "a.jsonl", *many(3)), write(tmp_path / "b.jsonl.gz", *many(5)[3:])
    held = write(tmp_path / "held.jsonl", *many(7)[5:])
    source = Jsonl(tmp_path, validation_path=held)
    assert [p.text[0] for p in source.stream("train")] == ["0", "1", "2", "3", "4"]
    assert [p.text[0] for p in source.stream("validation")] == ["5", "6"]
    assert len(source.problems("all")) == 7
    with pytest.raises(DataNotFoundError, match=r"data\.validation_path=.*none\.jsonl"):
        Jsonl(tmp_path, validation_path=tmp_path / "none.jsonl").problems("validation")


def test_parquet_and_files_of_one_name_are_read_and_the_place_changes_nothing(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([ASKED | {"messages": None}, ASKED | TALK]), tmp_path / "r.parquet"
    )
    assert [p.messages != () for p in Jsonl(tmp_path / "r.parquet").stream("all")] == [False, True, True]
    here, there = (Jsonl(write(tmp_path / place / "r.jsonl", *many(4))) for place in "ab")
    here.problems("all")  # what was looked up on the way is no content
    assert here.fingerprint() == there.fingerprint() != Jsonl(tmp_path / "a/r.jsonl", {"prompt": "x"}).fingerprint()
    assert here.fingerprint() == Jsonl(tmp_path / "a/r.jsonl", licence="MIT").fingerprint()
    both = Jsonl(tmp_path / "a/r.jsonl", validation_path=tmp_path / "b/r.jsonl")
    assert {p.task_id for p in both.stream("all")} >= {"jsonl/r.jsonl:1", "jsonl/r.jsonl:1 (b)"}


def test_a_program_that_its_prompt_begins_is_judged_with_it(tmp_path):
    row = {"prompt": "def add(a, b):\n", "completion": "    return a + b\n", "tests": "assert add(1, 2) == 3"}
    told = {"prompt": "add", "completion": "def add(a, b):\n    return a + b\n", "tests": ["assert add(1, 2) == 3"]}
    goes_on, whole = Jsonl(write(tmp_path / "r.jsonl", row, told)).problems("all")
    prompt = OwnWords()
    assert prompt.completion(goes_on) == row["completion"] and goes_on.solutions[0] == row["prompt"] + row["completion"]
    assert prompt.program(goes_on, "    return 0\n") == "def add(a, b):\n    return 0\n"
    assert prompt.program(whole, told["completion"]) == told["completion"] == whole.solutions[0]
    for seed in range(20):  # a mutant goes on with the same prompt
        program, (start, _) = Jsonl().mutate(goes_on, Random(seed))
        assert program.startswith(row["prompt"]) and start >= len(row["prompt"])


def test_a_conversation_is_learned_answer_by_answer_up_to_the_token_that_closes_it(tmp_path, chat_tokenizer):
    _, add = Jsonl(write(tmp_path / "r.jsonl", TALK)).problems("all")
    chat = Chat(OwnWords(), TokenizerTemplate(chat_tokenizer, {}, "x"), "Solve {prompt}", "Be brief.")
    sample = tokenize_problem(add, chat, chat_tokenizer)
    read, learned = sample.input_ids[: sample.prompt_length], sample.input_ids[sample.prompt_length :]
    assert chat_tokenizer.decode(read) == (
        "<system>Be brief.<|end|>\n<user>Hello<|end|>\n<assistant> Hi.<|end|>\n<user>Add.<|end|>\n<assistant>"
    )
    # With the blank that the template writes before an answer: together they are the template's own text.
    assert chat_tokenizer.decode(learned) == " ```python\nx = 1\n```<|end|>"
    assert learned[-1] == chat_tokenizer.convert_tokens_to_ids("<|end|>")
    with pytest.raises(DataFormatError, match=r"r\.jsonl:1: messages are written in the tokenizer's chat template"):
        OwnWords().render(add)


def test_in_a_conversation_a_program_is_taught_in_the_reply_that_the_instruction_asks_for(tmp_path, chat_tokenizer):
    asked, described = Jsonl(write(tmp_path / "r.jsonl", ASKED, DESCRIBED)).problems("all")
    template = TokenizerTemplate(chat_tokenizer, {}, "x")
    chat = Chat(OwnWords(), template, "Solve:\n{prompt}", reply="```python\n{program}\n```")
    assert chat.render(described) == '<user>Solve:\n"""\nAdd.\nassert add(1, 2) == 3\n"""<|end|>\n<assistant>'
    assert chat.completion(described) == f" ```python\n{DESCRIBED['code'].rstrip()}\n```"
    # What a row says to the letter is not wrapped.
    assert (chat.render(asked), chat.completion(asked)) == ("<user>Q: 1 + 1?\nA:<|end|>\n<assistant>", " 2")
    # The spelling of the closing token inside of an answer is text.
    sample = tokenize_problem(Problem("x", "x", "train", "t", ("a<|end|>b",), prompt="q"), chat, chat_tokenizer)
    assert list(sample.input_ids).count(chat_tokenizer.convert_tokens_to_ids("<|end|>")) == 2  # the user's, the last


def test_a_template_that_refuses_a_conversation_is_one_sentence_with_file_and_line(tmp_path, chat_tokenizer):
    chat_tokenizer.chat_template = "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}" + TEMPLATE
    _, add = Jsonl(write(tmp_path / "r.jsonl", TALK)).problems("all")
    chat = Chat(OwnWords(), TokenizerTemplate(chat_tokenizer, {}, "model.path = x"), "{prompt}")
    with pytest.raises(DataFormatError, match=r"r\.jsonl:1: .* template of model\.path = x refuses .*\(too long\)"):
        chat.render(add)


def test_a_leak_is_found_in_a_fence(tmp_path):
    lines = "\n".join(f"    total += values[{i}] * weights[{i}]" for i in range(6))
    code = f"def weigh(values, weights):\n    total = 0\n{lines}\n    return total"
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "word " * 60 + f"\n```py\n{code}\n```"}]
    (problem,) = Jsonl(write(tmp_path / "r.jsonl", {"messages": talk})).problems("all")

    class Asked(Source):
        name, split, source = "asked", "test", None

        def stream(self, split):
            yield Problem(
                "asked/1", "asked", "test", "Weigh.", (code.replace("def weigh(", "def w("),), tests=("assert w",)
            )

    benchmark = Asked()
    benchmark.source = benchmark
    (leak,) = find_leaks([problem], [benchmark])
    assert (leak.benchmark_task_id, leak.kind) == ("asked/1", "code")
