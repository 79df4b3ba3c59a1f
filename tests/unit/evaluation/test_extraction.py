"""Hold extraction to finding the program in an answer, and to changing no verdict where there is nothing to find."""

import pytest

from tests.real_data import DATA, real_data
from tests.unit.evaluation.chat_answers import ANSWERS
from wmtp.data.problem import Problem
from wmtp.data.prompts import BigcodeMbpp0Shot, HumanEvalRaw
from wmtp.data.sources import HumanEval, Mbpp
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.extraction import HOW, extract, holds_fence
from wmtp.evaluation.sandbox import Sandbox

PROMPT = '''from typing import List


def offset(x: int) -> int:
    """ Add one. """
    return x + 1


def total(xs: List[int]) -> int:
    """ Add xs up, and one.
    >>> total([1, 2])
    4
    """
'''


class Given:
    """The three problems of chat_answers.py."""

    def problems(self, split):
        of = ("given", "test")
        return [
            Problem("squares", *of, "Sum squares.", tests=("assert squares([1, 2, 3]) == 14",), entry_point="squares"),
            Problem("total", *of, PROMPT, tests=("assert total([1, 2]) == 4",), setup=PROMPT, entry_point="total"),
            Problem("sum", *of, "Add.", stdio=(("1 2\n", "3\n"),)),
        ]


@pytest.fixture(scope="module")
def verdicts():
    """Judge every answer in every way, in a real sandbox."""
    asked = [(name, how) for name in ANSWERS for how in HOW]
    answered = {"total": Benchmark("total", Given(), HumanEvalRaw())}
    other = Benchmark("other", Given(), BigcodeMbpp0Shot())
    problems = {problem.task_id: problem for problem in other.problems}
    programs = []
    for name, how in asked:
        answer = ANSWERS[name]
        benchmark = answered.get(answer.problem, other)
        programs.append(benchmark.program(problems[answer.problem], answer.text, how=how))
    with Sandbox(workers=2) as sandbox:
        found = {asked[index]: verdict.passed for index, verdict in sandbox.judge(iter(programs))}
    return {name: "".join(how[0] for how in HOW if found[name, how]) for name in ANSWERS}


def test_every_answer_passes_in_the_ways_that_it_should(verdicts):
    assert verdicts == {name: answer.passes for name, answer in ANSWERS.items()}
    assert len(ANSWERS) >= 60


def test_what_passes_as_it_is_passes_in_every_way():
    assert all(answer.passes in ("", "nfa", "fa", "a") for answer in ANSWERS.values())


def test_a_fence_is_seen_where_there_is_one():
    assert holds_fence("1. So:\n   ```py\n   x\n   ```") and holds_fence("~~~\nx\n~~~")
    assert not holds_fence("x = '```'\ny = `a`\n# ``` is a fence\n")


def test_what_the_tests_call_stays_too():
    pair, other, f = "class Pair:\n    pass\n", "class Other:\n    pass\n", "def f(pair):\n    return 1\n"
    assert extract(f"{pair}{other}{f}f(Pair())\n", "auto", "f", tests="assert f(Pair()) == 1") == pair + f


@real_data
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_real_solutions_pass_in_whatever_they_are_wrapped(name):
    source, prompt = {"humaneval": (HumanEval, HumanEvalRaw), "mbpp": (Mbpp, BigcodeMbpp0Shot)}[name]
    benchmark = Benchmark(name, source(f"{DATA}/{name}"), prompt(), split="all")
    some = [p for i, p in enumerate(benchmark.problems) if i % 8 == 0 or p.task_id in ("mbpp/367", "mbpp/601")]
    asked = []
    for problem in some:
        completion, solution = benchmark.prompt.completion(problem), problem.solutions[0]
        asked += [(problem, completion), (problem, f"Sure!\n```python\n{solution}\n```\nDone.")]
        asked += [(problem, f"Here's it:\n\n{solution}\n\nThat's all.\n"), (problem, f"{completion}\n\nThat's all.\n")]
    programs = [benchmark.program(problem, text, how="auto") for problem, text in asked]
    with Sandbox(workers=2) as sandbox:
        failed = [asked[index] for index, verdict in sandbox.judge(iter(programs)) if not verdict.passed]
    assert failed == []


def test_extraction_is_idempotent():
    for name, answer in ANSWERS.items():
        once = extract(answer.text, "auto", None if answer.problem == "sum" else answer.problem)
        assert extract(once, "auto", None if answer.problem == "sum" else answer.problem) == once, name


@pytest.mark.parametrize("text", ["\0", "\ud800", "(" * 5000, "-" * 20_000, "x = " + "[" * 300, "```\n" * 3000])
def test_no_text_is_too_strange(text):
    for how in ("fence", "auto"):
        assert isinstance(extract(text, how, "f", PROMPT), str)
