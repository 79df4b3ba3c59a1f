"""Hold the mutator to its word: one place, a program still, and everything else byte for byte."""

import ast
import random
import sysconfig
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.data.mixture import Mix
from wmtp.data.mutation import difference, edits, mutate
from wmtp.data.problem import Problem, Source
from wmtp.data.synthetic import Synthetic

# Programs that people have written, and that are there wherever Python is.
LIBRARY = ("bisect", "colorsys", "heapq", "keyword", "stat", "textwrap", "this")
AWKWARD = (
    "def 합(수들):\n\t# 더한다 — é\n\treturn sum(수 for 수 in 수들 if 수 >= 0) # 끝 < 끝\n",
    "def f(a, b):\r\n    if ((a) <  # not this < one\r\n       (b)):\r\n        return a\r\n    return b\r\n",
    'x = "é"; y = 1 if x == "é" else 2; print(x, y)',
    "def f(xs):\n    return [x \\\n      for x in xs\n      if not x]\n\x0c\ndef g(n): return n - 1",
    "class A:\n    def f(self, n=3):\n        while True:\n            n //= 2\n            if n is not None: break\n",
    "match [1, 2]:\n    case [a, b] if a < b:\n        print(f'{a + b}', a)\n",
    "print((y := 3) + y, *map(int, '1 2'.split()), sep='')",
)


def library(name: str) -> str:
    return (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8")


def check(source: str, seed: int) -> None:
    mutant, (start, end) = mutate(source, random.Random(seed))
    ast.parse(mutant)
    assert ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(source))
    kept = len(mutant) - end
    assert 0 <= start < end <= len(mutant)
    assert source[:start] == mutant[:start] and source[len(source) - kept :] == mutant[end:]
    assert mutate(source, random.Random(seed)) == (mutant, (start, end))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from([*map(library, LIBRARY[:2]), *AWKWARD]), st.integers(0, 10**6))
def test_a_mutant_parses_means_something_else_and_differs_inside_its_span_only(source, seed):
    check(source, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARY)
def test_mutants_of_a_library_module_are_sound(name):
    for seed in range(60):
        check(library(name), seed)


@pytest.mark.parametrize(
    ("program", "kind", "expected"),
    (
        ("return a <= b", "comparison", {"return a < b", "return a >= b"}),
        ("return a not in b", "comparison", {"return a in b"}),
        ("return a < b == 0", "comparison", {"return a <= b == 0", "return a > b == 0", "return a < b != 0"}),
        ("return (a) % (b)", "arithmetic", {"return (a) // (b)", "return (a) * (b)"}),
        ("a += b", "arithmetic", {"a -= b", "a *= b"}),
        ("return a ** b", "order", {"return b ** a"}),
        ("return f(a, b)", "order", {"return f(b, a)"}),
        ("return 7", "number", {"return 6", "return 8"}),
        ("return 0.5", "number", {"return 0.51", "return 01.5"}),
        ("return sorted(a, reverse=True)", "boolean", {"return sorted(a, reverse=False)"}),
        ("return sorted(a)", "flag", {"return sorted(a, reverse=True)"}),
        ("a.sort()", "flag", {"a.sort(reverse=True)"}),
        ("return min(a)", "call", {"return max(a)"}),
        ("return a.upper()", "call", {"return a.lower()"}),
        ("return a and b or a", "junction", {"return a or b or a", "return a and b and a"}),
        ("return not a", "condition", {"return a"}),
        ("if a: b()", "condition", {"if not a: b()"}),
        ("return -a", "sign", {"return a"}),
        ("return a[b:]", "slice", {"return a[:]"}),
        ("return a[1:b:2]", "slice", {"return a[:b:2]", "return a[1::2]", "return a[1:b]"}),
        ("return a[::-1]", "slice", {"return a[:]"}),
        ("return a[b]", "bound", {"return a[b + 1]", "return a[b - 1]"}),
        ("return range(len(a) - 1)", "bound", {"return range(len(a) - 1 + 1)", "return range(len(a) - 1 - 1)"}),
        ("return a", "name", {"return b"}),
        ("c = a", "name", {"c = b"}),
        ("return [c for c in a]", "name", {*(f"return [{n} for c in a]" for n in "ab"), "return [c for c in b]"}),
        ("return a.b()", "return", {"return a", "return b"}),
        ("a.append(b)", "statement", {"pass"}),
        ("for c in a: break", "jump", {"for c in a: continue", "for c in a: pass"}),
        ("return a['k ']", "text", {"return a['k']", "return a['K ']", "return a['k  ']"}),
        ("'''a < b'''", "comparison", set()),
        ("return f'{a < b}'", "comparison", set()),
    ),
)
def test_what_can_be_wrong_is_found_with_its_rivals(program, kind, expected):
    source = f"def f(a, b):\n    {program}\n"
    found = {source[: e.start] + e.text + source[e.end :] for e in edits(source) if e.kind == kind}
    assert found == {f"def f(a, b):\n    {other}\n" for other in expected}


def test_a_name_is_swapped_only_for_a_variable_that_has_a_value_there():
    source = textwrap.dedent("""
        import math
        def area(r, unused):
            square = r * r
            later = math.pi * square
            return later
    """)
    names = [(source.count("\n", 0, e.start), e.text) for e in edits(source) if e.kind == "name"]
    assert {text for line, text in names if line == 3} == {"unused"}
    assert {text for line, text in names if line == 4} == {"r", "unused"}
    assert {text for line, text in names if line == 5} == {"r", "unused", "square"}


def test_the_main_guard_stays():
    assert {e.kind for e in edits('if __name__ == "__main__":\n    main()\n')} == {"statement"}


@pytest.mark.parametrize("source", ("", "print 1", "x\0", "(" * 500, "'''only words'''", "pass", "x = [\n"))
def test_what_cannot_be_changed_gives_none(source):
    assert mutate(source, random.Random(42)) is None


def test_the_span_of_something_that_is_missing_is_what_stands_there_instead():
    mutant = "return x"
    start, end = difference("return not x", mutant)
    assert mutant[start:end] == "x"


def test_a_source_without_a_mutator_of_its_own_changes_the_first_solution():
    problem = Problem("a/1", "a", "train", "", ("def f(x):\n    return x + 1", "def f(x):\n    return 2"))
    mutant, (start, end) = Source().mutate(problem, random.Random(42))
    assert mutant.startswith("def f(x):\n    return ") and mutant != problem.solutions[0] and start < end


def test_a_mixture_and_its_guarded_form_mutate_as_the_problem_s_own_source_does():
    source = Synthetic(train_size=5, validation_size=1)
    mix = Mix({"synthetic": source}, {"synthetic": 2})
    for problem in source.problems("train"):
        expected = source.mutate(problem, random.Random(42))
        assert mix.mutate(problem, random.Random(42)) == expected


def test_a_mutant_of_a_solution_with_garbage_comments_keeps_the_comments():
    source = Synthetic(train_size=200, noise=1.0)
    commented = [problem for problem in source.problems("train") if "  #" in problem.solutions[0]]
    assert len(commented) > 30
    for problem in commented:
        before = problem.solutions[0].split("\n")
        mutant, (start, end) = source.mutate(problem, random.Random(42))
        after = mutant.split("\n")
        [at] = [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert before[at].partition("  #")[2] == after[at].partition("  #")[2]
        assert "#" not in mutant[start:end] and "\n" not in mutant[start:end]
