"""Hold the parsers to every row of the real files, and their complaints to file and line."""

import gzip
import json
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from tests.real_data import DATA, real_data
from wmtp.data.prompts import BigcodeMbpp0Shot, CodeContestsStatement, HumanEvalRaw, MbppPaper3Shot
from wmtp.data.sources import CodeContests, HumanEval, HumanEvalPlus, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError, DataFormatError, DataNotFoundError

MBPP_ROW = {
    "text": "Add.",
    "code": "def add(a, b):\r\n\treturn a + b",
    "task_id": 601,
    "test_setup_code": "",
    "test_list": ["assert add(1, 2) == 3"],
    "challenge_test_list": ["assert add(9, 9) == 18"],
}
HUMANEVAL_ROW = {
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 1\n",
}
CALLED = {"base_input": [[1]], "plus_input": []}
CONTEST_ROW = {
    "name": "1_A. Sum",
    "description": "Add.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": ["2 2"], "output": ["4"]},
    "generated_tests": {"input": [], "output": []},
    "solutions": {"language": [2, 3, 1], "solution": ["int main", "print(sum(map(int, input().split())))", "print 1"]},
    "incorrect_solutions": {"language": [3, 4], "solution": ["print(0)", "class A"]},
}


def write(path: Path, *rows: dict | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@real_data
def test_every_row_of_mbpp_lands_in_its_official_split():
    full = Mbpp(f"{DATA}/mbpp").problems("all")
    sanitized = Mbpp(f"{DATA}/mbpp", sanitized=True).problems("all")
    assert Counter(p.split for p in full) == {"prompt": 10, "test": 500, "validation": 90, "train": 374}
    assert Counter(p.split for p in sanitized) == {"prompt": 7, "test": 257, "validation": 43, "train": 120}
    assert all(p.entry_point for p in full + sanitized)
    assert not any("\r" in text for p in full for text in (p.text, p.solutions[0], p.setup, *p.tests))
    assert sum("\t" in p.solutions[0] for p in full) == 129
    assert [p.task_id for p in full if p.setup] == ["mbpp/367", "mbpp/927"]
    assert Counter(p.setup for p in sanitized)["import math"] == 13


@real_data
def test_humaneval_reads_the_same_packed_and_unpacked():
    problems = HumanEval(f"{DATA}/humaneval").problems("test")
    assert len(problems) == 164
    assert problems == HumanEval(f"{DATA}/humaneval/HumanEval.jsonl.gz").problems("all")


@real_data
def test_codecontests_puts_every_problem_in_exactly_one_split():
    source = CodeContests(f"{DATA}/codecontests")
    every = source.problems("all")
    assert len(every) == 300 and all(p.solutions and p.stdio for p in every)
    assert sum(len(source.problems(split)) for split in source.splits) == 300


def cut_by(prompt, texts: dict[str, str]) -> list[str]:
    return [name for name, text in texts.items() if any(stop in text for stop in prompt.stop)]


@real_data
def test_no_stop_sequence_cuts_a_reference_solution():
    mbpp = Mbpp(f"{DATA}/mbpp").problems("all")
    contests = CodeContests(f"{DATA}/codecontests").problems("all")
    humaneval, body = HumanEval(f"{DATA}/humaneval").problems("all"), HumanEvalRaw()
    for prompt, problems in ((MbppPaper3Shot(), mbpp), (CodeContestsStatement(), contests)):
        assert cut_by(prompt, {p.task_id: p.solutions[0] for p in problems}) == []
    assert cut_by(body, {p.task_id: body.completion(p) for p in humaneval}) == []
    # The published bigcode list cuts one of the 974: which is why finished samples are judged uncut.
    assert cut_by(BigcodeMbpp0Shot(), {p.task_id: p.solutions[0] for p in mbpp}) == ["mbpp/342"]


def test_mbpp_keeps_tabs_and_leaves_challenge_tests_out(tmp_path):
    write(tmp_path / "mbpp.jsonl", MBPP_ROW)
    (problem,) = Mbpp(tmp_path).problems("train")
    assert problem.solutions == ("def add(a, b):\n\treturn a + b",)
    assert problem.tests == ("assert add(1, 2) == 3",)
    assert problem.entry_point == "add"
    (challenged,) = Mbpp(tmp_path, challenge_tests=True).problems("train")
    assert challenged.tests == ("assert add(1, 2) == 3", "assert add(9, 9) == 18")


def test_codecontests_takes_python_3_and_joins_the_tests_in_order(tmp_path):
    (problem,) = CodeContests(write(tmp_path / "rows.jsonl", CONTEST_ROW)).problems("all")
    assert problem.task_id == "codecontests/1_A. Sum"
    assert problem.solutions == ("print(sum(map(int, input().split())))",)
    assert problem.incorrect_solutions == ("print(0)",)
    assert problem.stdio == (("1 2\n", "3\n"), ("2 2\n", "4"))


def test_codecontests_reads_what_a_problem_allows(tmp_path):
    allowed = {
        "time_limit": {"seconds": 10, "nanos": 500_000_000},
        "memory_limit_bytes": 2 << 30,
        "input_file": "input.txt",
        "output_file": "stdout",
    }
    plain, rich = CodeContests(
        write(tmp_path / "rows.jsonl", CONTEST_ROW, CONTEST_ROW | {"name": "rich"} | allowed)
    ).problems("all")
    assert (plain.time_limit, plain.memory_limit, plain.input_file, plain.output_file) == (0.0, 0, "", "")
    assert (rich.time_limit, rich.memory_limit, rich.input_file, rich.output_file) == (10.5, 2 << 30, "input.txt", "")


def test_codecontests_tells_two_problems_of_one_name_apart_by_their_source(tmp_path):
    rows = [CONTEST_ROW | {"source": source} for source in (2, 1, 5)]
    problems = CodeContests(write(tmp_path / "rows.jsonl", *rows)).problems("all")
    name = "codecontests/1_A. Sum"
    assert [problem.task_id for problem in problems] == [name, f"{name} (codechef)", f"{name} (atcoder)"]
    with pytest.raises(DataFormatError, match=r"jsonl:3: codecontests/1_A\. Sum \(codechef\) is there a second time"):
        CodeContests(write(tmp_path / "twice.jsonl", *rows[:2], rows[1])).problems("all")


@pytest.mark.parametrize(
    ("file", "extra", "split"),
    [
        ("train.jsonl", {}, "train"),
        ("valid-00000-of-00001.jsonl", {}, "validation"),
        ("test.jsonl", {"split": "train"}, "train"),
        ("test_sample.jsonl", {}, "train"),  # no official name: by the hash of the problem's name
    ],
)
def test_codecontests_split_comes_from_the_row_then_the_file_then_the_name(tmp_path, file, extra, split):
    (problem,) = CodeContests(write(tmp_path / file, CONTEST_ROW | extra)).problems("all")
    assert problem.split == split


@pytest.mark.parametrize(
    ("source", "row", "change", "complaint"),
    [
        (Mbpp, MBPP_ROW, {"code": None}, r"rows\.jsonl:2: code is missing"),
        (Mbpp, MBPP_ROW, {"task_id": "x"}, r"rows\.jsonl:2: task_id must be int, not str"),
        (Mbpp, MBPP_ROW, {"task_id": 975}, r"rows\.jsonl:2: task_id = 975 must be in 1\.\.974"),
        (Mbpp, MBPP_ROW, {"test_list": [1]}, r"rows\.jsonl:2: test_list must be a list of texts"),
        (Mbpp, MBPP_ROW, {"test_list": []}, r"rows\.jsonl:2: test_list must hold at least one test"),
        (Mbpp, MBPP_ROW, {"test": "import numpy"}, r"rows\.jsonl:2: test is of MBPP\+, but holds no inputs"),
        (Mbpp, MBPP_ROW, {"task_id": "Mbpp/x", "plus_input": []}, r":2: task_id = Mbpp/x must be Mbpp/0 to Mbpp/974"),
        (HumanEvalPlus, HUMANEVAL_ROW | CALLED, {"plus_input": [1]}, r":2: plus_input must be a list of lists"),
        (HumanEvalPlus, HUMANEVAL_ROW | CALLED, {"plus_input": None}, r":2: test holds no inputs of EvalPlus'"),
        (CodeContests, CONTEST_ROW, {"time_limit": {"seconds": "2"}}, r"rows\.jsonl:2: time_limit = .* in seconds"),
        (CodeContests, CONTEST_ROW, {"input_file": "../x"}, r"rows\.jsonl:2: input_file = \.\./x must be the name"),
        (HumanEval, HUMANEVAL_ROW, {"prompt": 3}, r"rows\.jsonl:2: prompt must be str, not int"),
        (
            CodeContests,
            CONTEST_ROW,
            {"public_tests": {"input": ["1"], "output": []}},
            r":2: public_tests has 1 inputs and 0",
        ),
        (
            CodeContests,
            CONTEST_ROW,
            {"solutions": {"language": [], "solution": ["x"]}},
            r":2: solutions must give one language",
        ),
        (CodeContests, CONTEST_ROW, {"split": "dev"}, r":2: split = dev must be train, valid or test"),
    ],
)
def test_a_malformed_row_is_named_with_file_line_and_key(tmp_path, source, row, change, complaint):
    first = (
        row | {"name": "other"}
        if source is CodeContests
        else row | {"task_id": 602 if source is Mbpp else "HumanEval/1"}
    )
    with pytest.raises(DataFormatError, match=complaint):
        source(write(tmp_path / "rows.jsonl", first, row | change)).problems("all")


def test_a_line_cut_off_is_named_with_its_number(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", MBPP_ROW, json.dumps(MBPP_ROW | {"task_id": 602})[:50])
    with pytest.raises(DataFormatError, match=r"mbpp\.jsonl:2: not JSON"):
        Mbpp(path).problems("train")
    packed = tmp_path / "HumanEval.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(HUMANEVAL_ROW).encode())[:-9])
    with pytest.raises(DataFormatError, match="cut off or damaged"):
        HumanEval(packed).problems("test")
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataFormatError, match=r"binary\.jsonl:1: not UTF-8"):
        Mbpp(binary).problems("test")


def test_a_task_id_that_is_there_twice_is_named_with_both_lines(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", MBPP_ROW, MBPP_ROW | {"task_id": 602}, MBPP_ROW)
    with pytest.raises(DataFormatError, match=r"jsonl:3: mbpp/601 is there a second time, first at .*jsonl:1"):
        Mbpp(path).problems("train")


def test_missing_data_lists_every_place_that_was_tried(tmp_path, monkeypatch):
    with pytest.raises(DataNotFoundError, match=r"data=mbpp: no mbpp\.jsonl .* in data\.path=.*nowhere\. Correct"):
        Mbpp(tmp_path / "nowhere").problems("train")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WMTP_DATA", str(tmp_path))
    monkeypatch.delenv("WMTP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    places = (
        rf"in \$WMTP_DATA/humaneval, in the cache \({tmp_path}/\.cache/wmtp\), .*on the Hub as openai/.*\(offline\)"
    )
    with pytest.raises(DataNotFoundError, match=places):
        HumanEval().problems("test")
    (tmp_path / "humaneval").mkdir()
    write(tmp_path / "humaneval" / "HumanEval.jsonl", HUMANEVAL_ROW)
    assert len(HumanEval().problems("test")) == 1


@pytest.mark.parametrize("packed", ["mbpp.jsonl.gz", "sanitized-mbpp.json.gz"])
def test_a_packed_file_is_found_in_its_folder(tmp_path, packed):
    row = {"task_id": 11, "text": "t", "code": "def f(): pass", "test_list": ["assert f() is None"]}
    with gzip.open(tmp_path / packed, "wt") as file:
        json.dump([row] if "sanitized" in packed else row, file)
    (problem,) = Mbpp(tmp_path, sanitized="sanitized" in packed).problems("test")
    assert problem.task_id == "mbpp/11"
    (tmp_path / packed).write_bytes((tmp_path / packed).read_bytes()[:30])
    with pytest.raises(DataFormatError, match=rf"{packed}:1"):
        Mbpp(tmp_path, sanitized="sanitized" in packed).problems("test")


def test_a_split_that_a_source_does_not_have_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="split = train: humaneval has test"):
        HumanEval(tmp_path).problems("train")


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        write(folder / "mbpp.jsonl", MBPP_ROW)
    first = Mbpp(here).fingerprint()
    assert first == Mbpp(there).fingerprint() != Mbpp(here, challenge_tests=True).fingerprint()
    write(there / "mbpp.jsonl", MBPP_ROW | {"text": "Add!"})
    assert Mbpp(there).fingerprint() != first
    assert Synthetic(train_size=5).fingerprint() == Synthetic(train_size=5).fingerprint()
    assert Synthetic(train_size=5).fingerprint() != Synthetic(train_size=5, noise=0.5).fingerprint()


PARSER = """
from wmtp.data.sources import Mbpp

class Lessons(Mbpp):
    def parse(self, row):
        return super().parse(row)
"""


def test_the_fingerprint_follows_a_parser_that_lives_in_its_own_file(tmp_path, monkeypatch):
    write(tmp_path / "mbpp.jsonl", MBPP_ROW)
    monkeypatch.syspath_prepend(tmp_path)

    def fingerprint(code: str) -> str:
        (tmp_path / "own_parser.py").write_text(code)
        sys.modules.pop("own_parser", None)  # as a new process would
        return import_module("own_parser").Lessons(tmp_path).fingerprint()

    first = fingerprint(PARSER)
    assert fingerprint(PARSER.replace("super().parse(row)", "super().parse(dict(row))")) != first
    assert fingerprint(PARSER.replace("super().parse(row)", "super().parse(row)  # in other words")) == first
    assert fingerprint(PARSER) == first != Mbpp(tmp_path).fingerprint()


def test_a_byte_order_mark_and_any_line_end_are_read(tmp_path):
    rows = [json.dumps(MBPP_ROW), "", json.dumps(MBPP_ROW | {"task_id": 602, "text": "\u2028\ud55c\uae00\t"})]
    (tmp_path / "mbpp.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    problems = Mbpp(tmp_path).problems("train")
    assert [problem.task_id for problem in problems] == ["mbpp/601", "mbpp/602"]
    assert problems[1].text == "\u2028\ud55c\uae00\t" and "\r" not in problems[0].solutions[0]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (json.dumps({"task_id": 602, "text": "\ud55c"}).encode("utf-16"), r"jsonl:2: not UTF-8"),
        ('{"task_id": 602, "text": "é"}'.encode("latin-1"), r"jsonl:2: not UTF-8 at byte 26"),
        (json.dumps(MBPP_ROW | {"task_id": 602, "code": "x = '\ud83d'"}).encode(), r"jsonl:2: code holds half a char"),
        (b"[" * 100_000, r"jsonl:2: cannot be read"),
        (b'{"task_id": ' + b"9" * 5000 + b"}", r"jsonl:2: cannot be read"),
        (b"[1, 2]", r"jsonl:2: must be one JSON object, not list"),
    ],
    ids=["utf-16", "latin-1", "surrogate", "too deep", "too long a number", "no object"],
)
def test_an_odd_encoding_is_refused_with_file_and_line(tmp_path, second, complaint):
    (tmp_path / "mbpp.jsonl").write_bytes(json.dumps(MBPP_ROW).encode() + b"\n" + second)
    with pytest.raises(DataFormatError, match=complaint):
        Mbpp(tmp_path).problems("train")


def test_code_that_python_cannot_parse_is_data_all_the_same(tmp_path):
    write(tmp_path / "mbpp.jsonl", MBPP_ROW | {"code": "def add(a, b): \0", "test_list": ["add(\0"]})
    (problem,) = Mbpp(tmp_path).problems("train")
    assert problem.entry_point is None


def test_parquet_gives_the_same_problems_as_jsonl(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    rows = [CONTEST_ROW, CONTEST_ROW | {"name": "2_B. Other", "time_limit": None}]
    write(tmp_path / "train.jsonl", *rows)
    (tmp_path / "other").mkdir()
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "other" / "train-00000-of-00001.parquet")
    assert CodeContests(tmp_path / "other").problems("train") == CodeContests(tmp_path).problems("train")
    (tmp_path / "other" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataFormatError, match=r"parquet:1: not a whole Parquet file"):
        CodeContests(tmp_path / "other").problems("train")
