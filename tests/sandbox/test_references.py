"""Pass every reference solution: a program that solved its problem is never failed by the harness."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from wmtp.evaluation.sandbox import Limits, Program, limits_from_references

GENEROUS = Limits(cpu_seconds=20.0, wall_seconds=120.0)

#: Right programs that the check file marks as failing, because it ran them with a pipe as standard input and they ask
#: for the size of the file. Here standard input is a file, as on Codeforces and in DeepMind's own sandbox.
NEED_A_FILE = {
    "1342_E. Placing Rooks",
    "61_E. Enemy is weak",
    "1129_C. Morse Code",
    "1486_E. Paired Payment",
    "1286_B. Numbers on Tree",
}
#: Right programs that the check file marks as too slow; whether they end within 20 s depends on the machine.
SLOW = {"1238_E. Keyboard Purchase", "1503_E. 2-Coloring"}


def mbpp(data: Path) -> Iterator[Program]:
    for line in (data / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Program(
            row["code"],
            tuple(row["test_list"]),
            setup=row["test_setup_code"],
            task_id=f"mbpp/{row['task_id']}",
            limits=GENEROUS,
        )


def sanitized_mbpp(data: Path) -> Iterator[Program]:
    for row in json.loads((data / "mbpp" / "sanitized-mbpp.json").read_text(encoding="utf-8")):
        setup = "\n".join(row["test_imports"])
        yield Program(row["code"], tuple(row["test_list"]), setup, task_id=f"mbpp/{row['task_id']}", limits=GENEROUS)


def human_eval(data: Path) -> Iterator[Program]:
    for line in (data / "humaneval" / "HumanEval.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Program(
            row["prompt"] + row["canonical_solution"],
            (f"{row['test']}\ncheck({row['entry_point']})",),
            setup=row["prompt"],
            entry_point=row["entry_point"],
            task_id=row["task_id"],
            limits=GENEROUS,
        )


def code_contests(data: Path) -> Iterator[Program]:
    for line in (data / "codecontests" / "train_sample.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kinds = ("public_tests", "private_tests", "generated_tests")
        tests = [test for kind in kinds for test in zip(row[kind]["input"], row[kind]["output"], strict=True)]
        stdio = tuple((given + "\n", expected) for given, expected in tests)
        yield Program(row["solutions"]["solution"][0], stdio=stdio, task_id=row["name"], limits=GENEROUS)


@pytest.mark.parametrize(
    ("read", "count"), ((mbpp, 974), (human_eval, 164), pytest.param(sanitized_mbpp, 427, marks=pytest.mark.slow))
)
def test_all_references_pass(sandbox, data, read, count):
    programs = list(read(data))
    verdicts = dict(sandbox.judge(programs))
    failed = {programs[index].task_id: verdict for index, verdict in verdicts.items() if not verdict.passed}
    assert len(verdicts) == count
    assert not failed


@pytest.mark.slow
@pytest.mark.parametrize("read", (mbpp, human_eval, sanitized_mbpp))
def test_all_references_pass_inside_as_well(sandbox, data, read):
    """No reference needs that; it shows that rewriting the tests changes nothing about them."""
    programs = [replace(program, place="inside") for program in read(data)]
    verdicts = sandbox.judge(programs)
    assert {programs[index].task_id: verdict for index, verdict in verdicts if not verdict.passed} == {}


def test_a_redefined_helper_of_the_prompt_does_not_help(sandbox, data):
    """HumanEval 32 checks an answer by `poly`, which the prompt defines and a completion could redefine."""
    (task,) = (program for program in human_eval(data) if program.task_id == "HumanEval/32")
    source = task.setup + "    return 0\n\ndef poly(xs, x): return 0\n"
    forged = Program(source, task.tests, task.setup, entry_point="find_zero")
    [(_, verdict)] = sandbox.judge([forged])
    assert verdict.status == "wrong"


def test_limits_follow_the_reference(sandbox, data):
    (slow,) = (program for program in mbpp(data) if program.task_id == "mbpp/123")
    base = Limits(cpu_seconds=2.0, wall_seconds=30.0)
    quick = Program("def f(x): return x", ("assert f(1) == 1",), limits=base)
    of_slow, of_quick = limits_from_references(sandbox, [replace(slow, limits=base), quick])
    assert of_quick == base
    assert of_slow.cpu_seconds >= 8.0 and of_slow.wall_seconds > of_slow.cpu_seconds


def test_a_script_that_is_fast_on_each_of_many_inputs_keeps_its_limit(sandbox):
    script = "for _ in range(2_000_000): pass\nprint(input())"  # some tens of milliseconds an input
    stdio = tuple((f"{n}\n", f"{n}") for n in range(12))
    base = Limits(cpu_seconds=1.0, wall_seconds=30.0)
    assert limits_from_references(sandbox, [Program(script, stdio=stdio, limits=base)]) == [base]


@pytest.mark.slow
def test_code_contests_solutions_are_judged_as_by_the_official_comparison(sandbox, data):
    checks = json.loads((data / "codecontests" / "train_sample.check.json").read_text(encoding="utf-8"))
    programs = [program for program in code_contests(data) if program.task_id not in SLOW]
    passed = {programs[index].task_id for index, verdict in sandbox.judge(programs) if verdict.passed}
    expected = {name for name, check in checks.items() if check["solution_passes_all"]}
    assert len(expected) == 255
    assert passed == expected | NEED_A_FILE
