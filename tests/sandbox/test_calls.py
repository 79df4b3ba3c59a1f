"""Judge functions by what they return, as LiveCodeBench and APPS ask for them."""

import pytest

from wmtp.evaluation.sandbox import Limits, Program, limits_from_references, places_by_references
from wmtp.evaluation.sandbox.worker import comparing

QUICK = Limits(cpu_seconds=1.0, wall_seconds=10.0, memory_bytes=256 << 20)
SORTING = (("[3, 1, 2]", "[1, 2, 3]"), ("[]", "[]"))


def judge(sandbox, *programs: Program):
    verdicts = dict(sandbox.judge(programs))
    return [verdicts[index] for index in range(len(programs))]


def calling(source: str, calls=SORTING, **more) -> Program:
    return Program(source, calls=calls, entry_point="f", limits=QUICK, **more)


@pytest.mark.parametrize(
    ("source", "status", "message"),
    (
        ("class Solution:\n    def f(self, xs): return sorted(xs)", "passed", ""),
        ("def f(xs): return tuple(sorted(xs))", "passed", ""),
        ("class Solution: pass\ndef f(xs): return sorted(xs)", "passed", ""),
        ("def f(xs): return [xs, *sorted(xs)][1:]", "passed", ""),
        ("class Solution:\n    def f(self, xs): return xs", "wrong", "returned something else in test 1 of 2"),
        ("def f(xs): return sorted(xs) or None", "wrong", "returned something else in test 2 of 2"),
        ("def f(xs): return xs[9]", "error", "raised IndexError in test 1 of 2"),
        ("def g(xs): return sorted(xs)", "error", "raised NameError in test 1 of 2"),
        ("f = [1, 2, 3]", "error", "raised TypeError in test 1 of 2"),
        ("def f(xs:", "error", "raised SyntaxError while it was loaded"),
        ("def f(xs):\n    while True: pass", "timeout", "used more than 1 s of CPU time in test 1 of 2"),
        ("class E:\n    __eq__ = lambda *_: True\ndef f(xs): return E()", "wrong", "something else in test 1 of 2"),
        (
            "class E(list):\n    __eq__ = lambda *_: True\ndef f(xs): return E()",
            "wrong",
            "something else in test 1 of 2",
        ),
        ("import os\ndef f(xs): os._exit(0)", "crashed", "exited with code 0"),
    ),
)
def test_a_function_passes_by_what_it_returns(sandbox, source, status, message):
    [verdict] = judge(sandbox, calling(source))
    assert verdict.status == status and message in verdict.message, verdict


def test_every_call_has_a_process_of_its_own_and_what_the_program_takes_for_granted(sandbox):
    counts = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)"
    typed = "from __future__ import annotations\ndef f(x: List[int]) -> int: return gcd(x, 6)"
    preamble = "from math import *\nfrom typing import *"
    once, granted, missing = judge(
        sandbox,
        calling(counts, (("1", "1"), ("2", "1"))),
        calling(typed, (("4", "2"),), preamble=preamble),
        calling(typed, (("4", "2"),)),
    )
    assert once.passed and granted.passed and missing.status == "error"
    script = Program("print(gcd(*map(int, input().split())))", stdio=(("4 6\n", "2"),), preamble=preamble, limits=QUICK)
    assert judge(sandbox, script)[0].passed


def test_calls_that_are_no_json_are_nobodys_wrong_answer(sandbox):
    [verdict] = judge(sandbox, calling("def f(x): return x", (("[1", "2"),)))
    assert (verdict.status, verdict.message) == ("harness_error", "the tests are no JSON (JSONDecodeError)")


def test_a_reference_that_fails_its_calls_makes_the_problem_unjudgeable_and_a_slow_one_stretches_the_limit(sandbox):
    right, wrong, none = calling("def f(xs): return sorted(xs)"), calling("def f(xs): return xs"), calling("")
    assert places_by_references(sandbox, [right, wrong, none]) == ["outside", "unjudgeable", "outside"]
    # What counts is one call: two that take 0.4 s each leave the limit at twice as much, not at four times.
    slow = "import time\ndef f(xs):\n    while time.process_time() < 0.4: pass\n    return sorted(xs)"
    [limits] = limits_from_references(sandbox, [calling(slow)])
    assert limits.cpu_seconds == 2.0


#: (printed, expected, the same for deepmind, the same for livecodebench)
OUTPUTS = (
    ("1 2\n", "1 2", True, True),
    ("1  2", "1 2", True, True),  # numbers, one by one
    ("a  b", "a b", True, False),
    ("YES", "Yes", True, False),
    ("1\n2", "1 2", True, False),
    ("1 \n 2 \n\n", "1\n2", True, True),
    ("1\n\n2", "1\n2", True, False),
    ("1.50", "1.5", True, True),
    ("0.333333", "0.3333333", True, False),
    ("50000000000000000", "50000000000000001", True, False),  # the same float
    ("nan", "nan", True, True),
    ("nan 1", "nan 1.0", True, False),  # one line has to be equal as a whole, and NaN is not itself
    ("sNaN 1", "sNaN 1.0", True, False),
    ("1e5", "100000", True, True),
    ("", "", True, True),
    ("", "0", False, False),
)


@pytest.mark.parametrize(("printed", "expected", "deepmind", "livecodebench"), OUTPUTS)
def test_outputs_are_compared_by_the_rule_of_who_published_the_problem(printed, expected, deepmind, livecodebench):
    said = {name: same(printed.encode(), expected.encode()) for name, same in comparing.TEXTS.items()}
    assert said == {"deepmind": deepmind, "livecodebench": livecodebench, "apps": deepmind}


#: (returned, expected, the same for livecodebench, the same for apps)
VALUES = (
    ([1], [1], True, True),
    ((1, 2), [1, 2], True, True),
    ([(1, 2)], [[1, 2]], False, False),
    ([(1, 2)], [[[1, 2]]], False, True),
    ("ab", ["ab"], False, True),
    ("ab", ["ab", "c"], False, True),
    (1, True, True, True),
    (0.1 + 0.2, 0.3, False, False),
    (None, [], False, False),
)


@pytest.mark.parametrize(("returned", "expected", "livecodebench", "apps"), VALUES)
def test_values_are_compared_by_the_rule_of_who_published_the_problem(returned, expected, livecodebench, apps):
    said = {name: same(returned, expected) for name, same in comparing.VALUES.items()}
    assert said == {"deepmind": livecodebench, "livecodebench": livecodebench, "apps": apps}
