"""Hold reading to this: every shape in use gives the same samples, and what is wrong is named with its place."""

import gzip
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from wmtp.data.problem import Problem
from wmtp.data.prompts import HumanEvalRaw
from wmtp.errors import DataFormatError, DataNotFoundError
from wmtp.evaluation import sample_files
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.for_others import evalplus_results
from wmtp.evaluation.harness import evaluate
from wmtp.evaluation.sample_files import STANDARD_INPUT, read_answers
from wmtp.evaluation.samples import Given, read_samples
from wmtp.evaluation.sandbox import Sandbox

PROMPT = 'def f{i}(x):\n    """Add {i}."""\n'
BODY = "    return x + {i}\n"


class Functions:
    """Four problems in HumanEval's form."""

    def problems(self, split):
        return [
            Problem(
                f"HumanEval/{i}", "humaneval", "test", PROMPT.format(i=i), (PROMPT.format(i=i) + BODY.format(i=i),),
                tests=(f"assert f{i}(1) == {1 + i}",), entry_point=f"f{i}",
            )
            for i in range(4)
        ]  # fmt: skip


BENCHMARK = Benchmark("humaneval", Functions(), HumanEvalRaw())
# Two answers a problem: the second is wrong, and the last problem has none.
BODIES = [[BODY.format(i=i), "    return None\n"] for i in range(3)]
WHOLE = [[PROMPT.format(i=i) + body for body in bodies] for i, bodies in enumerate(BODIES)]
PAIRS = [(i, number) for i in range(3) for number in range(2)]


def lines(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def written(folder: Path, content: bytes) -> Path:
    (folder / "given").write_bytes(content)
    return folder / "given"


def human_eval(name="HumanEval/{}") -> list[dict]:
    return [{"task_id": name.format(i), "completion": BODIES[i][n]} for i, n in PAIRS]


def evalplus() -> list[dict]:
    return [{"task_id": f"humaneval/{i}", "solution": WHOLE[i][n]} for i, n in PAIRS]


def logged(key="filtered_resps") -> list[dict]:
    """Write rows as lm-evaluation-harness logs them: all answers of a document in one row, one row a filter."""
    return [
        {
            "doc_id": i, "doc": {"task_id": f"HumanEval/{i}", "prompt": PROMPT.format(i=i), "entry_point": f"f{i}"},
            "target": "", "arguments": {}, "resps": [BODIES[i]], key: [WHOLE[i]], "filter": name, "pass@1": 0.5,
        }
        for name in ("create_test", "another")
        for i in range(3)
    ]  # fmt: skip


def folder_of_programs(folder: Path) -> Path:
    for i, n in PAIRS:
        (folder / "model" / f"HumanEval_{i}").mkdir(parents=True, exist_ok=True)
        (folder / "model" / f"HumanEval_{i}" / f"{n}.py").write_text(WHOLE[i][n])
        (folder / "model" / f"HumanEval_{i}" / "notes.txt").write_text("no program")
    return folder / "model"


SHAPES = {
    "human-eval": ("completions", BODIES, lambda folder: written(folder, lines(human_eval()))),
    "other names": ("completions", BODIES, lambda folder: written(folder, lines(human_eval("humaneval_{}")))),
    "short names": ("completions", BODIES, lambda folder: written(folder, lines(human_eval("{}")))),
    "JSON": ("completions", BODIES, lambda folder: written(folder, json.dumps(human_eval(), indent=1).encode())),
    "gzip": ("completions", BODIES, lambda folder: written(folder, gzip.compress(lines(human_eval())))),
    "BOM": ("completions", BODIES, lambda folder: written(folder, b"\xef\xbb\xbf" + lines(human_eval()))),
    "EvalPlus": (
        "EvalPlus' solutions", WHOLE,
        lambda folder: written(folder, lines(evalplus())),
    ),
    "EvalPlus' folder": ("a folder of programs, as EvalPlus lays it out", WHOLE, folder_of_programs),
    "bigcode": (
        "bigcode's generations, in the order of the problems", WHOLE,
        lambda folder: written(folder, json.dumps(WHOLE).encode()),
    ),
    "lm-eval": ("logged samples of lm-evaluation-harness", WHOLE, lambda folder: written(folder, lines(logged()))),
    "lm-eval, not filtered": (
        "logged samples of lm-evaluation-harness", BODIES, lambda folder: written(folder, lines(logged("other"))),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_the_same_samples_and_the_same_verdicts(tmp_path, sandbox, name):
    shape, texts, make = SHAPES[name]
    given = make(tmp_path)
    said, answers = read_answers(given)
    assert said == shape and len(answers) == 6
    whole = texts is WHOLE
    expected = {(f"HumanEval/{i}", n): Given(texts[i][n], whole) for i, n in PAIRS}
    assert read_samples(given, BENCHMARK) == expected
    metrics = evaluate(BENCHMARK, tmp_path / "out", sandbox=sandbox, samples=given, progress=False)
    assert metrics["humaneval/pass@1"] == 0.5 and metrics["humaneval/missing"] == ["HumanEval/3"]
    # What an evaluation writes is a file of samples again, with the same verdicts.
    again = tmp_path / "out" / "samples.jsonl"
    assert read_samples(again, BENCHMARK) == expected


def test_a_whole_program_stands_alone_and_a_completion_follows_its_prompt(tmp_path, sandbox):
    alone = "from __future__ import annotations\ndef f0(x: nothing) -> x:\n    return x\n"  # first line, or an error
    given = written(tmp_path, lines([{"task_id": "HumanEval/0", key: alone} for key in ("solution", "completion")]))
    evaluate(BENCHMARK, tmp_path / "out", sandbox=sandbox, samples=given, progress=False)
    results = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["status"] for row in results] == ["passed", "error"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row.get("whole") for row in rows] == [True, None]


def test_what_can_be_read_once_only_is_read_once(monkeypatch):
    sample_files._piped.cache_clear()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines(human_eval()))))
    read, write = os.pipe()  # what a shell makes of <(…)
    os.write(write, lines(human_eval()))
    os.close(write)
    for given in (STANDARD_INPUT, Path(f"/dev/fd/{read}")):
        first, second = read_samples(given, BENCHMARK), read_samples(given, BENCHMARK)
        assert first == second and len(first) == 6
    os.close(read)
    sample_files._piped.cache_clear()


GOOD = {"task_id": "HumanEval/0", "completion": ""}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines([GOOD, {"task_id": "HumanEval/0"}]), r"given:2: completion is missing\. .* docs/evaluation\.md"),
        (lines([{"task_id": "HumanEval/0", "solution": 3}]), r"given:1: solution must be str, not int"),
        (lines([{"completion": ""}]), r"given:1: task_id is missing"),
        (lines([{**GOOD, "sample": "0"}]), r"given:1: sample must be int, not str"),
        (lines([{**GOOD, "task_id": "HumanEval/9"}]), r"given:1: task_id = HumanEval/9 is not in humaneval"),
        (b'[{"task_id": "HumanEval/0", "completion": ""}, 3]', r"given:2: must be an object with a task_id, not int"),
        (b'[{"task_id"', r"given:1: not JSON"),
        (b"[[3]]", r"given:1: problem 0 must be a list of programs"),
        (b'[["x"], 3]', r"given:2: problem 1 must be a list of programs"),
        (json.dumps([["x"]] * 5).encode(), r"given:5: task_id is missing, and humaneval, split test has 4 problems"),
        (lines([{"doc": {"task_id": "HumanEval/0"}, "resps": "x"}]), r"given:1: resps must be list, not str"),
        (lines([{"doc": {"task_id": "HumanEval/0"}, "resps": [[3]]}]), r"given:1: resps must be a list of texts"),
        (lines([{"doc": {}, "resps": [["x"]]}]), r"given:1: task_id is missing, and humaneval"),
        (gzip.compress(lines([GOOD]), mtime=0)[:-9], r"given: the packed file is cut off or damaged"),
        (b"[]", r"given: holds no sample"),
        (b"def f(): pass", r"given:1: not JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, content, said):
    with pytest.raises(DataFormatError, match=said):
        read_samples(written(tmp_path, content), BENCHMARK)


def test_a_folder_without_programs_is_named(tmp_path):
    with pytest.raises(DataFormatError, match=r"holds no HumanEval_0/0\.py or the like\. Give such a folder"):
        read_answers(tmp_path)
    (tmp_path / "HumanEval_0").mkdir()
    (tmp_path / "HumanEval_0" / "0.py").write_bytes(b"\xff")
    with pytest.raises(DataFormatError, match=r"HumanEval_0/0\.py:1: not UTF-8 at byte 0"):
        read_answers(tmp_path)
    with pytest.raises(DataNotFoundError, match="no such file"):
        read_answers(tmp_path / "nowhere")


def test_a_name_as_it_is_written_comes_before_one_that_is_spelled_alike(tmp_path):
    class Lower(Functions):
        """Names that differ by case alone."""

        def problems(self, split):
            return [replace(problem, task_id=problem.task_id.lower()) for problem in super().problems(split)]

    lower = Benchmark("lower", Lower(), HumanEvalRaw())
    given = written(tmp_path, lines(human_eval("humaneval/{}")))
    assert len(read_samples(given, lower, [BENCHMARK, lower])) == 6 and not read_samples(given, BENCHMARK, [lower])
    with pytest.raises(DataFormatError, match="task_id = HUMANEVAL/0 is not in t"):  # either of two
        both = Benchmark(
            "t", SimpleNamespace(problems=lambda _: [*lower.problems, *BENCHMARK.problems]), HumanEvalRaw()
        )
        read_samples(written(tmp_path, lines(human_eval("HUMANEVAL/{}"))), both)


def test_the_order_names_no_problem_of_several_benchmarks(tmp_path):
    class Others(Functions):
        """The same under other names."""

        def problems(self, split):
            return [replace(problem, task_id=f"other/{i}") for i, problem in enumerate(super().problems(split))]

    given = written(tmp_path, json.dumps(WHOLE).encode())
    with pytest.raises(DataFormatError, match="the order says nothing in several benchmarks; take one"):
        read_samples(given, BENCHMARK, [BENCHMARK, Benchmark("other", Others(), HumanEvalRaw())])


def test_results_have_the_shape_that_others_read(tmp_path, sandbox):
    given = written(tmp_path, lines(human_eval()))
    evaluate(BENCHMARK, tmp_path / "out", sandbox=sandbox, samples=given, progress=False, ks=(1, 2))
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["pass_at_k"] == {"base": {"pass@1": 0.5, "pass@2": 1.0}}
    assert list(results["eval"]) == [f"HumanEval/{i}" for i in range(3)]
    for i, rows in enumerate(results["eval"].values()):
        assert [row["base_status"] for row in rows] == ["pass", "fail"]
        assert [row["solution"] for row in rows] == WHOLE[i]
        assert {row["task_id"] for row in rows} == {f"HumanEval/{i}"} and rows[0]["plus_status"] is None
    table = (tmp_path / "out" / "verdicts.csv").read_text().splitlines()
    assert table == ["task_id,passed,samples,0,1", *(f"HumanEval/{i},1,2,passed,wrong" for i in range(3))]


def test_results_call_the_problems_of_mbpp_as_evalplus_does():
    programs = [(("mbpp/11", 0), "x", "timeout", None), (("mbpp/11", 1), "y", "crashed", None)]
    programs += [(("mbpp/12", 0), "z", "passed", None)]
    found = json.loads(b"".join(evalplus_results(programs, {"mbpp/pass@1": 0.5}, "h")))
    assert [row["base_status"] for row in found["eval"]["Mbpp/11"]] == ["timeout", "fail"]
    assert [row["solution"] for row in found["eval"]["Mbpp/12"]] == ["z"]
    assert (found["date"], found["hash"], found["pass_at_k"]) == (None, "h", {"base": {"pass@1": 0.5}})
    assert json.loads(b"".join(evalplus_results([], {}, "h")))["eval"] == {}
