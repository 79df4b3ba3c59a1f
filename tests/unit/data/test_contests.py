"""Hold the parsers of LiveCodeBench, APPS and TACO to the published shapes, and to plain text in a pickle."""

import base64
import gzip
import json
import os
import pickle
import tracemalloc
import zlib
from datetime import date, datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from wmtp.data import packed_tests
from wmtp.data.contests import PREAMBLE, Apps, LiveCodeBench, Taco
from wmtp.data.leakage import find_leaks
from wmtp.data.prompts import AppsQuestion, LiveCodeBenchBase0Shot
from wmtp.data.sources import CodeContests
from wmtp.errors import ConfigError, DataFormatError


def case(given: str, expected: str, kind: str = "stdin") -> dict:
    return {"input": given, "output": expected, "testtype": kind}


def packed(tests: list[dict], protocol: int = 4) -> str:
    """Pack tests as LiveCodeBench does."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests), protocol))).decode()


SCRIPT = {
    "question_title": "Sum",
    "question_content": "Add two numbers.",
    "platform": "atcoder",
    "question_id": "abc301_a",
    "contest_id": "abc301",
    "contest_date": "2024-09-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([case("1 2\n", "3\n")]),
    "private_test_cases": packed([case("2 2", "4")]),
    "metadata": "{}",
}
FUNCTION = SCRIPT | {
    "question_id": "2727",
    "contest_date": "2023-08-21T00:00:00",
    "platform": "leetcode",
    "starter_code": "class Solution:\n    def shift(self, xs: List[int], k: int) -> List[int]:\n        ",
    "difficulty": "hard",
    "public_test_cases": json.dumps([case("[1, 2]\n3", "[4, 5]", "functional")]),
    "private_test_cases": json.dumps([case('[]\n"a"\n', " [] ", "functional")]),
    "metadata": json.dumps({"func_name": "shift"}),
}
APPS_SCRIPT = {
    "problem_id": 7,
    "question": "Add two numbers.",
    "solutions": json.dumps(["print(sum(map(int, input().split())))\r\n", "print(3)"]),
    "input_output": json.dumps({"inputs": ["1 2", ["2", "2"]], "outputs": ["3\n", ["2", "2"]]}),
    "difficulty": "interview",
    "url": "https://example.org/7",
    "starter_code": "",
}
APPS_FUNCTION = APPS_SCRIPT | {
    "problem_id": 8,
    "input_output": json.dumps({"fn_name": "add", "inputs": [[1, [2, "x\ny"]]], "outputs": [[3]]}),
    "difficulty": "introductory",
    "starter_code": "def add(a, b):\n\t",
}


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_livecodebench_joins_public_and_private_tests_of_scripts_and_of_functions(tmp_path):
    script, function = LiveCodeBench(write(tmp_path / "test.jsonl", SCRIPT, FUNCTION)).problems("all")
    assert script.task_id == "livecodebench/abc301_a" and script.split == "test"
    assert (script.stdio, script.calls) == ((("1 2\n", "3\n"), ("2 2\n", "4")), ())
    assert (function.stdio, function.calls) == ((), (("[1, 2]\n3", "[4, 5]"), ('[]\n"a"', "[]")))
    assert (function.entry_point, function.defines, function.comparison) == ("shift", "Solution", "livecodebench")
    assert function.solutions == () and function.tested and function.preamble == PREAMBLE


def test_what_graders_put_before_every_program_hides_no_builtin():
    made = {}
    exec(PREAMBLE, made)
    assert (made["pow"], made["compile"], made["open"], made["sum"]) == (pow, compile, open, sum)
    assert made["gcd"](4, 6) == 2 and made["List"] and made["datetime"].date and made["heapq"].heappush


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("size", [1, 100_000])
def test_private_tests_are_unpacked_whatever_python_packed_them(tmp_path, protocol, size):
    rows = SCRIPT | {"private_test_cases": packed([case("é" * size, "4")], protocol)}
    (problem,) = LiveCodeBench(write(tmp_path / "test.jsonl", rows)).problems("test")
    assert problem.stdio[1] == ("é" * size + "\n", "4")


class Runs:
    """Be pickled as a call."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def bomb(compressed_of: bytes) -> str:
    return base64.b64encode(zlib.compress(compressed_of)).decode()


HOSTILE = {
    "runs code": (lambda trace: bomb(pickle.dumps(Runs(trace))), "is a pickle that is more than one text"),
    "runs code beside a text": (lambda trace: bomb(pickle.dumps(("[]", Runs(trace)))), "more than one text"),
    "names a function": (lambda trace: bomb(b"cos\nsystem\n(S'true'\ntR."), "it holds GLOBAL"),
    "a list": (lambda trace: bomb(pickle.dumps(["[]"])), "it holds EMPTY_LIST"),
    "two texts": (lambda trace: bomb(b"\x8c\x02[]\x8c\x02[]."), "is a pickle of 2 texts instead of one"),
    "no text": (lambda trace: bomb(b"."), "is a pickle of 0 texts instead of one"),
    "a huge memo": (lambda trace: bomb(b"\x8c\x02[]" + b"r\xff\xff\xff\x7f" * 9 + b"."), "more than 8 operations"),
    "a text longer than it is": (lambda trace: bomb(b"\x8d" + b"\xff" * 7 + b"\x7fab."), "more than one text"),
    "cut off": (lambda trace: packed([case("1", "1")])[:-8], "is cut off"),
    "no zlib": (lambda trace: base64.b64encode(b"plain").decode(), "is neither JSON nor base64 of zlib"),
    "no base64": (lambda trace: "!" * 8, "is neither JSON nor base64 of zlib"),
    "no JSON inside": (lambda trace: bomb(pickle.dumps("[1")), "is not JSON"),
    "brackets without end": (lambda trace: bomb(pickle.dumps("[" * 100_000)), "is not JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_is_no_text_is_refused_in_one_sentence_and_never_run(tmp_path, name):
    make, complaint = HOSTILE[name]
    row = FUNCTION | {"private_test_cases": make(tmp_path / "trace")}
    file = write(tmp_path / "test.jsonl", SCRIPT, row)
    with pytest.raises(DataFormatError, match=r"test\.jsonl:2: private_test_cases is ") as refused:
        LiveCodeBench(file).problems("test")
    assert complaint in str(refused.value) and len(str(refused.value)) < 1000
    assert not (tmp_path / "trace").exists()


def test_a_zip_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_tests, "MOST_BYTES", 1 << 20)
    text = bomb(pickle.dumps("0" * (64 << 20)))  # 64 MB in 64 KB
    file = write(tmp_path / "test.jsonl", SCRIPT | {"private_test_cases": text})
    tracemalloc.start()
    with pytest.raises(DataFormatError, match=r"private_test_cases is more than 1 MiB once unpacked"):
        LiveCodeBench(file).problems("test")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (SCRIPT | {"public_test_cases": "[1]"}, r":1: public_test_cases must be a list of objects with input, output"),
        (SCRIPT | {"public_test_cases": '[{"input": "1"}]'}, r":1: public_test_cases must be a list of objects"),
        (SCRIPT | {"public_test_cases": '{"input": "1"}'}, r":1: public_test_cases must be list, not dict"),
        (FUNCTION | {"metadata": '{"func_name": "a.b"}'}, r":1: metadata must name a function, not 'a\.b'"),
        (SCRIPT | {"metadata": "[]"}, r":1: metadata must be dict, not list"),
        (SCRIPT | {"question_id": 7}, r":1: question_id must be str, not int"),
        (FUNCTION | {"metadata": "{}"}, r":1: metadata names no func_name, though a test is functional"),
        (FUNCTION | {"public_test_cases": json.dumps([case("[1", "1")])}, r":1: public_test_cases is not JSON"),
        (FUNCTION | {"public_test_cases": json.dumps([case("1", "")])}, r":1: public_test_cases is not JSON"),
    ],
)
def test_a_row_of_livecodebench_that_cannot_be_read_is_named(tmp_path, row, complaint):
    with pytest.raises(DataFormatError, match=complaint):
        LiveCodeBench(write(tmp_path / "test.jsonl", row)).problems("test")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["abc301_a", "2727"]),
        ({"since": "2024-09-01"}, ["abc301_a"]),
        ({"since": date(2023, 8, 21)}, ["abc301_a", "2727"]),
        ({"until": "2024-08-31"}, ["2727"]),
        ({"since": "2023-08-21", "until": "2023-08-21"}, ["2727"]),
        ({"difficulty": "easy"}, ["abc301_a"]),
        ({"difficulty": ["easy", "hard"], "until": "2024-01-01"}, ["2727"]),
    ],
)
def test_problems_are_chosen_by_day_and_difficulty(tmp_path, asked, found):
    file = write(tmp_path / "test.jsonl", SCRIPT, FUNCTION)
    assert [one.task_id.partition("/")[2] for one in LiveCodeBench(file, **asked).problems("test")] == found


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"since": "September"}, r"benchmark\.since = September must be a day, such as 2024-09-01"),
        ({"since": "2024-01-02", "until": "2024-01-01"}, r"benchmark\.since = 2024-01-02 is after benchmark\.until"),
        ({"since": "2025-01-01"}, r"benchmark\.since = 2025-01-01 leaves none of the 2 problems of livecodebench"),
        ({"difficulty": "medium"}, r"data\.difficulty = medium leaves none of the 2 problems"),
        ({"difficulty": "simple"}, r"difficulty = simple must be one of easy, medium, hard for livecodebench"),
    ],
)
def test_a_choice_that_cannot_be_is_a_sentence(tmp_path, asked, complaint):
    with pytest.raises(ConfigError, match=complaint):
        LiveCodeBench(write(tmp_path / "test.jsonl", SCRIPT, FUNCTION), **asked).problems("test")


def test_livecodebench_is_read_from_several_files_packed_and_from_parquet(tmp_path):
    write(tmp_path / "test.jsonl", SCRIPT)
    (tmp_path / "test2.jsonl.gz").write_bytes(gzip.compress(json.dumps(FUNCTION).encode()))
    problems = LiveCodeBench(tmp_path).problems("test")
    table = [one | {"contest_date": datetime.fromisoformat(one["contest_date"])} for one in (SCRIPT, FUNCTION)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "all.parquet")
    assert problems == LiveCodeBench(tmp_path / "all.parquet", since="2023-08-21").problems("test")
    assert len(problems) == 2


def test_apps_reads_scripts_and_functions_from_texts_or_values(tmp_path):
    script, function = Apps(write(tmp_path / "test.jsonl", APPS_SCRIPT, APPS_FUNCTION)).problems("test")
    assert (script.task_id, script.comparison, script.preamble) == ("apps/7", "apps", PREAMBLE)
    assert script.stdio == (("1 2\n", "3\n"), ("2\n2\n", "2\n2"))
    assert script.solutions == ("print(sum(map(int, input().split())))\n", "print(3)")
    assert (function.calls, function.entry_point, function.defines) == (
        (('1\n[2, "x\\ny"]', "[3]"),), "add", "add",
    )  # fmt: skip
    decoded = APPS_SCRIPT | {key: json.loads(APPS_SCRIPT[key]) for key in ("solutions", "input_output")}
    assert Apps(write(tmp_path / "decoded.jsonl", decoded | {"split": "test"})).problems("test") == [script]


def test_a_row_of_apps_may_lack_solutions_and_tests(tmp_path):
    (bare,) = Apps(write(tmp_path / "test.jsonl", APPS_SCRIPT | {"solutions": "", "input_output": ""})).problems("test")
    assert bare.solutions == () and not bare.tested


def test_a_twentieth_of_the_official_training_problems_validates_wherever_the_row_stands(tmp_path):
    rows = [APPS_SCRIPT | {"problem_id": number} for number in range(400)]
    source = Apps(write(tmp_path / "train.jsonl", *rows).parent)
    held_out = {one.task_id for one in source.problems("validation")}
    assert 8 <= len(held_out) <= 36 and len(source.problems("train")) == 400 - len(held_out)
    again = Apps(write(tmp_path / "train.jsonl", *rows[::-3]).parent)
    assert {one.task_id for one in again.problems("validation")} <= held_out


def test_taco_names_its_problems_by_file_and_row_and_keeps_what_they_allow(tmp_path):
    row = {key: value for key, value in APPS_SCRIPT.items() if key != "problem_id"}
    rich = {"difficulty": "EASY", "time_limit": "10.0 seconds", "memory_limit": "2048.0 megabytes"}
    odd = {"difficulty": "HARD", "time_limit": "None", "memory_limit": None}
    file = write(tmp_path / "test-00000-of-00001.jsonl", row | rich, row | odd, APPS_SCRIPT | {"difficulty": "EASY"})
    first, second, numbered = Taco(file).problems("test")
    assert [first.task_id, numbered.task_id] == ["taco/test-00000-of-00001/1", "taco/7"]
    assert (first.time_limit, first.memory_limit) == (10.0, 2 << 30) and (second.time_limit, second.memory_limit) == (
        0,
        0,
    )
    assert [one.task_id for one in Taco(file, difficulty="HARD").problems("test")] == ["taco/test-00000-of-00001/2"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"input_output": '{"inputs": ["1"], "outputs": []}'}, r":1: input_output must hold two lists of one length"),
        ({"input_output": '{"inputs": [1], "outputs": ["1"]}'}, r":1: input_output must be a list of texts"),
        (
            {"input_output": '{"fn_name": "f", "inputs": ["1"], "outputs": [1]}'},
            r":1: input_output must give the argum",
        ),
        ({"input_output": '{"fn_name": 7}'}, r":1: input_output must name a function, not 7"),
        ({"input_output": "{"}, r":1: input_output is not JSON"),
        ({"solutions": '{"a": 1}'}, r":1: solutions must be list, not dict"),
        ({"problem_id": None}, r":1: problem_id is missing"),
    ],
)
def test_a_row_of_apps_that_cannot_be_read_is_named(tmp_path, change, complaint):
    with pytest.raises(DataFormatError, match=complaint):
        Apps(write(tmp_path / "test.jsonl", APPS_SCRIPT | change)).problems("test")


def test_the_prompts_show_the_starter_code_where_there_is_one(tmp_path):
    script, function = LiveCodeBench(write(tmp_path / "test.jsonl", SCRIPT, FUNCTION)).problems("test")
    prompt = LiveCodeBenchBase0Shot()
    assert prompt.render(script) == "### Question\nAdd two numbers.\n\n### Answer\n\n"
    assert "### Starter Code\nclass Solution:\n    def shift(self, xs" in prompt.render(function)
    script, function = Apps(write(tmp_path / "test.jsonl", APPS_SCRIPT, APPS_FUNCTION)).problems("test")
    prompt = AppsQuestion()
    assert prompt.render(script) == "\nQUESTION:\nAdd two numbers.\n\nUse Standard Input format\n\nANSWER:\n"
    assert prompt.render(function).endswith("def add(a, b):\n\nUse Call-Based format\n\nANSWER:\n")
    assert prompt.completion(script) == "print(sum(map(int, input().split())))\n"


class Asks:
    """Be a benchmark as the leak guard sees it."""

    def __init__(self, source):
        self.name, self.split, self.source = source.name, "test", source


def test_a_call_that_a_benchmark_makes_is_a_leak(tmp_path):
    calls = {"fn_name": "f", "inputs": [[[1, 2], 3], [[], "a"]], "outputs": [[4, 5], []]}
    planted = APPS_FUNCTION | {"question": "Move.", "solutions": "", "input_output": json.dumps(calls)}
    for folder in ("lcb", "apps"):
        (tmp_path / folder).mkdir()
    lcb = LiveCodeBench(write(tmp_path / "lcb" / "test.jsonl", FUNCTION))
    apps = Apps(write(tmp_path / "apps" / "train.jsonl", planted, APPS_SCRIPT | {"question": "Weigh one whole list."}))
    leaks = [leak for leak in find_leaks(apps.stream("all"), [Asks(lcb)]) if leak]
    assert [(leak.task_id, leak.benchmark_task_id, leak.kind) for leak in leaks] == [
        ("apps/8", "livecodebench/2727", "tests")
    ]


CHECK = "def check(input, output, answer):\n    return output == answer\n"
CONTEST = {
    "name": "pairs",
    "description": "Any.",
    "public_tests": {"input": ["1\n"], "output": ["1\n"]},
    "solutions": {"language": [3], "solution": ["print(1)"]},
}


@pytest.mark.parametrize(
    ("source", "row"), [(LiveCodeBench, SCRIPT), (Apps, APPS_SCRIPT), (Taco, APPS_SCRIPT), (CodeContests, CONTEST)]
)
def test_a_row_of_every_shape_with_inputs_may_bring_a_checker_or_name_its_file(tmp_path, source, row):
    (tmp_path / "any.py").write_text(CHECK)
    (inline,) = source(write(tmp_path / "test.jsonl", row | {"checker": CHECK})).problems("test")
    named = source(write(tmp_path / "test.jsonl", row | {"checker": "any.py"}))
    assert inline.checker == CHECK and named.problems("test") == [inline]
    before = named.fingerprint()
    (tmp_path / "any.py").write_text(CHECK + "# stricter")
    assert named.fingerprint() != before


@pytest.mark.parametrize(
    ("checker", "line", "complaint"),
    [
        ("def check(input, output, answer:", 1, "is not Python ('(' was never closed)"),
        ("x = 1\nreturn x", 2, "is not Python ('return' outside function)"),
        ("def check(a, b, c): return '\0'", 1, "is not Python (source code string cannot contain null bytes)"),
        ("(" * 1000, 1, "is not Python ("),
        ("x = " + "-" * 200_000 + "1", 1, "is not Python ("),
        ("def verify(input, output, answer): return True", 1, "defines no function check(input, output, answer)"),
        ("\ndef check(output): return True", 2, "check must take three arguments: input, output, answer"),
        ("def check(a, b, c, d): return True", 1, "check must take three arguments"),
        ("def check(a, b, c, *, d): return True", 1, "check must take three arguments"),
        ("def check(a, b, c):\n    return eval(b) == c", 2, "calls eval, which would run what a program printed"),
    ],
)
def test_a_wrong_checker_is_named_with_file_and_line_before_anything_is_run(tmp_path, checker, line, complaint):
    def refusal(value: str) -> str:
        file = write(tmp_path / "test.jsonl", APPS_SCRIPT, APPS_FUNCTION | {"checker": value})
        with pytest.raises(DataFormatError) as refused:
            Apps(file).problems("test")
        return str(refused.value)

    said = refusal(checker)
    assert (
        "test.jsonl:2: checker " in said
        and complaint in said
        and "()" not in said
        and f"(line {line} of the checker)" in said
    )
    (tmp_path / "any.py").write_text(checker)
    said = refusal("any.py")
    assert f"any.py:{line}: " in said and complaint in said and "test.jsonl:2 names" in said


def test_a_checker_with_more_than_it_needs_is_taken_and_a_file_elsewhere_is_not(tmp_path):
    for checker in ("def check(*all): return True", "def check(a, b, c, d=1): return True"):
        assert Apps(write(tmp_path / "test.jsonl", APPS_SCRIPT | {"checker": checker})).problems("test")[0].checker
    for name, complaint in (("../any.py", "without a folder"), ("gone.py", r"= gone\.py cannot be read")):
        with pytest.raises(DataFormatError, match=rf"test\.jsonl:1: checker .*{complaint}"):
            Apps(write(tmp_path / "test.jsonl", APPS_SCRIPT | {"checker": name})).problems("test")
