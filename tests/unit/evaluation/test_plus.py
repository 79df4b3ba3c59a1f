"""Hold HumanEval+ and MBPP+ to EvalPlus' two scores: base, and base with plus."""

import json
from pathlib import Path

import pytest

from tests.real_data import DATA, real_data
from wmtp.data.prompts import BigcodeMbpp0Shot, HumanEvalRaw
from wmtp.data.sources import FileSource, HumanEval, HumanEvalPlus, MbppPlus
from wmtp.errors import HarnessError
from wmtp.evaluation.answers import answers_of
from wmtp.evaluation.benchmarks import Benchmark, program_of
from wmtp.evaluation.harness import evaluate
from wmtp.evaluation.sandbox import Limits, Sandbox
from wmtp.storage import Storage, using

ROW = {
    "task_id": "HumanEval/0",
    "prompt": "def f(xs):\n    '''Sort.'''\n",
    "entry_point": "f",
    "canonical_solution": "    return sorted(xs)\n",
    "base_input": [[[2, 1]], [[]]],
    "plus_input": [[[3, 3, 1]], [[2.5, -1]]],
    "atol": 0,
}
BODIES = {
    "    return sorted(xs)\n": ("pass", "pass"),
    "    return sorted(set(xs))\n": ("pass", "fail"),
    "    while len(xs) > 2: pass\n    return sorted(xs)\n": ("pass", "timeout"),
    "    return xs\n": ("fail", "fail"),
    "    while True: pass\n": ("timeout", "timeout"),
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as sandbox:
        yield sandbox


@pytest.fixture
def cache(tmp_path):
    with using(Storage(mode="offline", cache=tmp_path / "cache")):
        yield tmp_path / "cache"


def written(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of(file: Path, source: type[FileSource] = HumanEvalPlus) -> Benchmark:
    return Benchmark("humaneval_plus", source(file), HumanEvalRaw())


@pytest.mark.parametrize("source", [HumanEvalPlus, HumanEval])
def test_base_and_plus_are_counted_apart(tmp_path, sandbox, cache, source):
    benchmark = of(written(tmp_path / "rows.jsonl", ROW), source)
    samples = written(tmp_path / "s.jsonl", *({"task_id": "HumanEval/0", "completion": body} for body in BODIES))
    metrics = evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=samples, progress=False)
    assert metrics["humaneval_plus/pass@1"] == pytest.approx(1 / 5)
    assert metrics["humaneval_plus_base/pass@1"] == pytest.approx(3 / 5)
    assert metrics["humaneval_plus_base/pass@1_low"] < 3 / 5 < metrics["humaneval_plus_base/pass@1_high"]
    found = json.loads((tmp_path / "out/eval_results.json").read_text())
    statuses = [(row["base_status"], row["plus_status"]) for row in found["eval"]["HumanEval/0"]]
    assert statuses == list(BODIES.values())
    rates = {kind: rate for kind, rates in found["pass_at_k"].items() for rate in rates.values()}
    assert rates == pytest.approx({"base": 3 / 5, "plus": 1 / 5})
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [row["base"] for row in rows] == ["passed", "passed", "passed", "wrong", "timeout"]


def test_what_is_right_is_asked_once_and_kept_by_content(tmp_path, sandbox, cache):
    problems = HumanEvalPlus(written(tmp_path / "rows.jsonl", ROW)).problems("test")
    answers = answers_of(sandbox, problems, Limits())
    assert json.loads(answers["HumanEval/0"].outputs) == [[1, 2], [], [1, 3, 3], [-1, 2.5]]
    (kept,) = (cache / "answers").iterdir()
    with Sandbox(workers=1) as unused:
        judged = unused._jobs
        assert answers_of(unused, problems, Limits()) == answers and unused._jobs == judged
    changed = ROW | {"canonical_solution": "    return sorted(xs, reverse=True)\n"}
    others = HumanEvalPlus(written(tmp_path / "rows.jsonl", changed)).problems("test")
    assert json.loads(answers_of(sandbox, others, Limits())["HumanEval/0"].outputs)[0] == [2, 1]
    assert len(list((cache / "answers").iterdir())) == 2
    for damaged in (b"", kept.read_bytes().replace(b"2.5", b"3.5")):
        kept.write_bytes(damaged)
        assert answers_of(sandbox, problems, Limits())["HumanEval/0"].outputs == answers["HumanEval/0"].outputs


def test_a_reference_that_fails_makes_its_problem_unjudgeable(tmp_path, sandbox, cache):
    broken = ROW | {"task_id": "HumanEval/1", "canonical_solution": "    return xs[5]\n"}
    samples = written(tmp_path / "s", *({"task_id": f"HumanEval/{i}", "completion": "    pass"} for i in (0, 1)))
    benchmark = of(written(tmp_path / "rows.jsonl", ROW, broken))
    metrics = evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=samples, progress=False)
    assert metrics["humaneval_plus/unjudgeable"] == ["HumanEval/1"] and metrics["humaneval_plus/problems"] == 1
    alone = of(written(tmp_path / "rows.jsonl", broken))
    with pytest.raises(HarnessError, match="no problem can be judged"):
        evaluate(alone, tmp_path / "other", sandbox=sandbox, samples=samples, suite=[alone, benchmark], progress=False)


def test_another_reference_is_another_evaluation(tmp_path):
    names = []
    for solution in ("    return sorted(xs)\n", "    return xs\n"):
        benchmark = of(written(tmp_path / "rows.jsonl", ROW | {"canonical_solution": solution}))
        names.append(benchmark.identity()["problems"])
    assert len(set(names)) == 2


def references_pass(source: type[FileSource], name: str, chosen: slice) -> None:
    file = Path(DATA) / "evalplus" / f"{name}.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    problems = source(file).problems("all")[chosen]
    with Sandbox() as sandbox:
        answers = answers_of(sandbox, problems, Limits())
        assert [one.task_id for one in problems if one.task_id not in answers] == []
        judging = (program_of(one, one.solutions[0], Limits(), answers=answers[one.task_id]) for one in problems)
        verdicts = dict(sandbox.judge(judging))
    assert [(problems[index].task_id, verdict) for index, verdict in verdicts.items() if not verdict.passed] == []


@real_data
@pytest.mark.parametrize(
    ("source", "name", "chosen"),
    [
        (HumanEvalPlus, "HumanEvalPlus-Mini", slice(164)),
        (HumanEvalPlus, "HumanEvalPlus", slice(26, 36)),
        (HumanEvalPlus, "HumanEvalPlus-OriginFmt", slice(28, 36)),
        (MbppPlus, "MbppPlus", slice(4)),
        (MbppPlus, "MbppPlus-OriginFmt", slice(4)),
    ],
)
def test_some_references_pass_their_own_plus_tests(cache, source, name, chosen):
    references_pass(source, name, chosen)


@real_data
@pytest.mark.slow
@pytest.mark.parametrize(("source", "rows"), [(HumanEvalPlus, 164), (MbppPlus, 378)])
@pytest.mark.parametrize("end", ["", "-OriginFmt"])
def test_all_references_pass_their_own_plus_tests(cache, source, rows, end):
    """HumanEval+ takes one CPU minute, MBPP+ three; one output of MBPP+ 255 is two million tuples."""
    references_pass(source, f"{source.__name__}{end}", slice(rows))


@real_data
def test_the_prompt_of_mbpp_plus_is_evalplus_own(cache):
    file = Path(DATA) / "evalplus" / "MbppPlus.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    benchmark = Benchmark("mbpp_plus", MbppPlus(file), BigcodeMbpp0Shot(), split="all")
    prompts = {row.values["task_id"].lower(): row.values["prompt"] for row in benchmark.source.rows("all")}
    assert len(prompts) == 378
    assert {problem.task_id: benchmark.text(problem) for problem in benchmark.problems} == prompts
