"""Hold the leak guard to what it finds, what it must not take for a leak, and what it never shows."""

import ast
import json
import random
import re
from dataclasses import replace

import pytest

from tests.real_data import DATA, real_data
from wmtp.data.leakage import Leak, find_leaks, guard, record
from wmtp.data.problem import Problem, Source
from wmtp.data.prompts import BigcodeMbpp0Shot, HumanEvalRaw
from wmtp.data.sources import CodeContests, HumanEval, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError, DataLeakError
from wmtp.evaluation.benchmarks import Benchmark

ASKED = Problem(
    task_id="bench/1",
    source="bench",
    split="test",
    text="Write a function that returns the length of the longest run of equal neighbours in a list.",
    solutions=(
        "def longest_run(xs):\n    best = run = 0\n    last = None\n    for x in xs:\n"
        "        run = run + 1 if x == last else 1\n        best, last = max(best, run), x\n    return best\n",
    ),
    tests=("assert longest_run([1, 1, 2]) == 2", "assert longest_run(['a']) == 1"),
    entry_point="longest_run",
)
OTHER = Problem(
    task_id="train/0",
    source="train",
    split="train",
    text="Write a function that returns the sum of the digits of a number, whatever its sign may be.",
    solutions=("def digit_sum(n):\n    return sum(int(c) for c in str(abs(n)))\n",),
    tests=("assert digit_sum(-12) == 3",),
    entry_point="digit_sum",
)


class Given(Source):
    """Give the problems that a test names."""

    licence, splits = "CC0-1.0", ("train", "test")

    def __init__(self, name, *problems):
        self.name, self.given = name, problems

    def stream(self, split):
        return (problem for problem in self.given if problem.split == split)

    def fingerprint(self, split="all"):
        return repr(self.given)


def benchmark(source, split="test"):
    return Benchmark(source.name, source, BigcodeMbpp0Shot(), split)


BENCH = benchmark(Given("bench", ASKED))
SHOUTED = "  WRITE a function, that returns: the length of the longest run of equal neighbours in a list!"
REFORMATTED = (
    'def f(xs):\n  """Find it."""\n  best=run=0 # so far\n  last=None\n  for x in xs:\n'
    "    run=run+1 if x==last else 1\n    best,last=max(best,run),x\n  return best"
)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("text", {"text": SHOUTED}),
        ("code", {"solutions": (REFORMATTED,)}),
        ("tests", {"tests": ("assert longest_run( [1,1,2] ) == 2", 'assert longest_run(["b"]) == 1')}),
    ],
)
def test_a_planted_leak_is_found_by_text_by_code_or_by_tests(kind, change):
    planted = replace(OTHER, task_id="train/1", **change)
    source, leaks = guard(Given("train", OTHER, planted), [BENCH], "drop")
    assert leaks == [Leak("train/1", "bench", "bench/1", kind, leaks[0].overlap)]
    assert [problem.task_id for problem in source.problems("train")] == ["train/0"]
    assert source.fingerprint() != Given("train", OTHER, planted).fingerprint()


def test_every_solution_that_may_be_learned_from_counts_and_no_wrong_or_corrupted_one():
    second = replace(OTHER, task_id="train/1", solutions=(*OTHER.solutions, REFORMATTED))
    wrong = replace(OTHER, task_id="train/2", incorrect_solutions=(REFORMATTED,))
    corrupted = replace(OTHER, task_id="train/3", solutions=(REFORMATTED, *OTHER.solutions), noise_spans=((0, 5),))
    found = list(find_leaks([second, wrong, corrupted], [BENCH]))
    assert [leak and (leak.task_id, leak.kind) for leak in found] == [("train/1", "code"), None, None]


def test_a_statement_is_found_inside_a_longer_text_and_a_phrase_is_not():
    statement = " ".join(f"word{i} of the story number {i * i}" for i in range(40))
    asked = replace(ASKED, text=statement)
    long = replace(OTHER, text=f"Translated from another site. {statement} Input and output follow as usual.")
    phrase = replace(OTHER, text=f"{ASKED.text} {statement}")
    assert [leak and leak.kind for leak in find_leaks([long], [benchmark(Given("bench", asked))])] == ["text"]
    assert list(find_leaks([phrase], [BENCH])) == [None]


def shingles(text: str, pattern: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(pattern, text) + [""] * (n - 1)
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_what_is_found_is_what_the_definition_says_problem_by_problem():
    """Compare with sets of the words themselves: each training problem against each benchmark problem, no index."""
    rng = random.Random(42)
    words = ["n", "x", "été", "=", "+", "for", "[", "]", "in", "range", "7", "print", ","]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 120))) for _ in range(12)]

    def problem(split: str, number: int) -> Problem:
        def text() -> str:  # a stretch of one of few texts, so that overlaps of every size come up
            whole = rng.choice(texts).split()
            start = rng.randrange(len(whole))
            return " ".join([*rng.choices(words, k=rng.randrange(4)), *whole[start : start + rng.randint(1, 90)]])

        pairs = tuple((f"{rng.randrange(3)}", f"{rng.randrange(2)}") for _ in range(rng.randrange(4)))
        solutions = tuple(text() for _ in range(rng.randint(0, 4)))
        return Problem(f"{split}/{number}", split, split, text(), solutions, stdio=pairs)

    asked, given = ([problem(split, i) for i in range(60)] for split in ("test", "train"))

    def marks(one: Problem, solutions: tuple[str, ...]) -> list[tuple[str, set]]:
        code = [("code", shingles(solution, r"\w+|[^\w\s()]", 13)) for solution in solutions]
        return [("text", shingles(one.text.lower(), r"\w+", 8)), ("tests", set(one.stdio)), *code]

    def strongest(one: Problem) -> float:
        best = 0.0
        for other in asked:
            for kind, theirs in marks(other, other.solutions[:1]):
                for _, ours in (mark for mark in marks(one, one.solutions) if mark[0] == kind):
                    small, large = sorted((len(ours), len(theirs)))
                    needed = small if kind == "tests" else max(small, min(large, 50))
                    share = len(ours & theirs) / needed if needed else 0
                    best = max(best, share if share >= {"text": 0.8, "code": 0.9, "tests": 0.5}[kind] else 0)
        return round(best, 3)

    found = list(find_leaks(given, [benchmark(Given("bench", *asked))]))
    assert [leak.overlap if leak else 0 for leak in found] == [strongest(one) for one in given]
    assert {leak.kind if leak else None for leak in found} == {"text", "code", "tests", None}


def test_the_policies_drop_stop_or_only_tell():
    source = Given("train", OTHER, replace(ASKED, task_id="train/1", split="train"))
    with pytest.raises(
        DataLeakError, match=r"data\.leakage = error: 1 training problems of train .*train/1 and bench/1"
    ):
        guard(source, [BENCH], "error")
    kept, leaks = guard(source, [BENCH], "ignore")
    assert kept is source and len(leaks) == 1
    with pytest.raises(ConfigError, match=r"data\.leakage = 'maybe' must be one of drop, error, ignore"):
        guard(source, [BENCH], "maybe")
    clean = Given("train", OTHER)
    assert guard(clean, [BENCH], "error") == (clean, [])


def test_training_on_a_test_split_is_refused():
    with pytest.raises(ConfigError, match=r"humaneval is for evaluation only.*benchmark=humaneval"):
        guard(HumanEval("anywhere"), [], "ignore")
    source = Given("train", OTHER)
    with pytest.raises(ConfigError, match=r"leaves no training problem of train.*benchmark\.split=test"):
        guard(source, [benchmark(source, "train")], "drop")


def test_what_a_run_left_out_is_written_without_any_answer(tmp_path):
    planted = replace(ASKED, task_id="train/1", split="train")
    _, leaks = guard(Given("train", OTHER, planted), [BENCH], "drop")
    record(tmp_path / "left_out.json", "drop", leaks, {"train": ["train/9"], "validation": []})
    text = (tmp_path / "left_out.json").read_text()
    assert json.loads(text)["too_long_or_unsolved"]["train"] == ["train/9"]
    assert "train/1" in text and "best" not in text and "neighbours" not in text and "assert" not in text


@pytest.mark.parametrize("size", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_synthetic_problem_is_taken_for_a_leak(size):
    source, leaks = guard(Synthetic(train_size=size, noise=0.5), [benchmark(Synthetic(train_size=0))], "drop")
    assert leaks == [] and isinstance(source, Synthetic)


@real_data
def test_mbpp_train_holds_nine_problems_of_its_own_test_split():
    source = Mbpp(f"{DATA}/mbpp")
    left, leaks = guard(source, [benchmark(source)], "drop")
    pairs = {(leak.task_id, leak.benchmark_task_id) for leak in leaks}
    # The same text, or the same answer under another text; found by eye among the 50 most similar pairs.
    assert pairs >= {("mbpp/602", "mbpp/217"), ("mbpp/841", "mbpp/296"), ("mbpp/658", "mbpp/362")}
    assert len(leaks) == 9 and len(left.problems("train")) == 365
    assert not any(leak.task_id == "mbpp/731" for leak in leaks)  # a cone is no cylinder


@real_data
def test_answers_of_humaneval_are_found_under_another_text_and_another_formatting():
    humaneval = HumanEval(f"{DATA}/humaneval")
    planted = [
        replace(OTHER, task_id=f"train/{i}", solutions=(ast.unparse(ast.parse(problem.solutions[0])),), tests=())
        for i, problem in enumerate(humaneval.problems("test"))
    ]
    found = list(find_leaks(planted, [Benchmark("humaneval", humaneval, HumanEvalRaw())]))
    assert sum(leak is not None and leak.kind == "code" for leak in found) >= 150


@real_data
def test_one_contest_problem_under_two_names_is_found():
    source = CodeContests(f"{DATA}/codecontests")
    _, leaks = guard(source, [benchmark(source)], "drop")
    assert len(leaks) == 9
    assert {leak.task_id for leak in leaks} >= {"codecontests/499_C. Crazy Town"}  # 498_A in the other division
