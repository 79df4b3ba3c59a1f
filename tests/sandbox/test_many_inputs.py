"""Judge functions by what they return for many inputs: EvalPlus' rules, and nothing that a program claims."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import SAFE_RUNGS, open_rung

from wmtp.evaluation.sandbox import Limits, Program, wire_text
from wmtp.evaluation.sandbox.worker.large import digest, is_large

QUICK = Limits(cpu_seconds=4.0, wall_seconds=20.0, memory_bytes=512 << 20, call_seconds=0.5)
SQUARES = Program(
    "def f(x): return x * x",
    entry_point="f",
    limits=QUICK,
    inputs=wire_text([[1], [2], [3], [4]]),
    base_inputs=2,
    answers=wire_text([1, 4, 9, 16]),
)


def judged(sandbox, *programs):
    return [verdict for _, verdict in sorted(sandbox.judge(programs))]


def saying(answer, source, inputs=((),), **how) -> Program:
    """Make a program of which each input has the same right answer."""
    answers = wire_text([answer] * len(inputs))
    how |= {"inputs": wire_text(list(map(list, inputs))), "answers": answers}
    return Program(source, entry_point="f", limits=QUICK, **how)


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_calls_are_judged_on_every_rung(rung):
    with open_rung(rung) as sandbox:
        wrong = replace(SQUARES, source="def f(x): return x * x if x < 3 else 0")
        right, other = judged(sandbox, SQUARES, wrong)
    assert (right.status, right.right, right.answers) == ("passed", 4, "")
    assert (other.status, other.right, other.message) == ("wrong", 2, "failed in test 3 of 4")


def test_verdicts_say_how_many_calls_were_right_whatever_ended_them(sandbox):
    ends = {
        "raise ValueError": ("error", "raised ValueError in test 3 of 4"),
        "while True: pass": ("timeout", "used more than 0.5 s of CPU time in one call"),
        "import os; os._exit(0)": ("crashed", "exited with code 0 before the tests were over"),
        "return bytearray(1 << 30)": ("memory", "ran out of memory in test 3 of 4"),
        "print('x' * 5_000_000)": ("output", "printed more than 4096 KiB"),
    }
    body = "def f(x):\n    if x < 3:\n        return x * x\n    "
    found = judged(sandbox, *(replace(SQUARES, source=body + end) for end in ends))
    assert [(verdict.status, verdict.message) for verdict in found] == list(ends.values())
    assert [verdict.right for verdict in found] == [2] * len(ends)
    assert [verdict.right for verdict in judged(sandbox, replace(SQUARES, source="while True: pass"))] == [0]
    for source, status in (("def f(x:", "error"), ("g = 1", "error"), ("f = 3", "error")):
        (verdict,) = judged(sandbox, replace(SQUARES, source=source))
        assert (verdict.status, verdict.right) == (status, 0)


def test_what_a_reference_returns_is_recorded_and_judges_it(sandbox):
    source = "import re\ndef f(x): return [x, {'a': (x, {x})}, 1j, float('inf'), 10**30]"
    recording = replace(SQUARES, source=source, answers="")
    (recorded,) = judged(sandbox, recording)
    assert recorded.passed and recorded.right == 4
    assert recorded.answers == wire_text([[x, {"a": (x, {x})}, 1j, float("inf"), 10**30] for x in (1, 2, 3, 4)])
    again, other = judged(
        sandbox, replace(recording, answers=recorded.answers), replace(SQUARES, answers=recorded.answers)
    )
    assert again.passed and not other.passed
    for useless in ("return float('nan')", "return object()", "return [float('nan')]"):
        (verdict,) = judged(sandbox, replace(recording, source=f"def f(x): {useless}"))
        assert (verdict.status, verdict.answers) == ("wrong", "")


def test_values_are_those_of_the_moment_they_were_returned(sandbox):
    same_list = "seen = []\ndef f(x):\n    seen.append(x)\n    return seen"
    answers = wire_text([[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]])
    (verdict,) = judged(sandbox, replace(SQUARES, source=same_list, answers=answers))
    assert verdict.passed


@pytest.mark.parametrize(
    ("answer", "output", "tolerance", "passes"),
    [
        (0.3, "0.1 + 0.2", 0, True),
        (0.3, "0.30001", 0, False),
        (0.3, "0.30001", 1e-4, True),
        (3, "3.0000001", 0, False),  # the answer is no float
        (3, "3.0", 0, True),
        ([0.5, 0.1], "[0.5, 0.1 + 1e-9]", 0, True),
        ([0.5, 0.1], "(0.5, 0.1 + 1e-9)", 0, False),
        ([[0.1], [2]], "[[0.1 + 1e-9], [2]]", 0, False),  # nested: only where the problem has a tolerance
        ([[0.1], [2]], "[[0.1 + 1e-9], [2]]", 1e-4, True),
        ([[1.0, 1.0], [2.0, 2.0]], "[[1.0], [2.0]]", 1e-4, False),  # numpy would broadcast
        (True, "1", 0, True),
        ({"a": 1}, "__import__('collections').Counter('a')", 0, True),
        ([1, 2], "type('L', (list,), {'__eq__': lambda s, o: True})([1, 3])", 0, False),
        ([1, 2], "type('L', (list,), {})([1, 2])", 0, True),
        ([1, 2], "type('E', (), {'__eq__': lambda s, o: True})()", 0, False),
        ([1, 2], "iter([1, 2])", 0, False),
        (float("inf"), "1e400", 0, True),
        (1e308, "float('inf')", 1e-4, False),
    ],
)
def test_values_agree_as_evalplus_has_it(sandbox, answer, output, tolerance, passes):
    (verdict,) = judged(sandbox, saying(answer, f"def f(): return {output}", tolerance=tolerance))
    assert verdict.passed == passes, verdict


def test_an_agreement_decides_where_several_answers_are_right(sandbox):
    any_order = "def agree(input, output, answer):\n    return set(output) == set(answer)\n"
    cases = {
        "[2, 1]": True,
        "(1, 2)": True,
        "iter([1, 2])": True,
        "{1: 0, 2: 0}.keys()": True,
        "[1]": False,
        "3": False,
    }
    programs = [saying([1, 2], f"def f(): return {output}", agreement=any_order) for output in cases]
    assert [verdict.passed for verdict in judged(sandbox, *programs)] == list(cases.values())
    half = "import math\ndef agree(input, output, answer):\n    return math.isclose(output * 2, input[0])\n"
    right, cheat = (
        saying(None, f"def f(x):\n    {body}", [([4],)], agreement=half.replace("input[0]", "input[0][0]"))
        for body in ("return x[0] / 2", "x[0] = 0\n    return 0")
    )
    # Its input is the judge's own, whatever the program has made of the one that it got.
    assert [verdict.passed for verdict in judged(sandbox, right, cheat)] == [True, False]


def test_an_agreement_cannot_open_the_judge(sandbox):
    hostile = "def agree(input, output, answer):\n    return eval(output)\n"
    (verdict,) = judged(sandbox, saying(None, "def f(): return 'True'", agreement=hostile))
    assert verdict.status == "harness_error"


def test_forged_messages_are_no_outputs(sandbox):
    sent = (
        '["outputs",[1,4,9,16,25],null]',
        '["outputs",null,null]',
        '["outputs",[{"opaque":[0,null]},1,1,1],null]',
        '["outputs",[{"large":"0"},1,1,1],null]',
        '["outputs",[{"h":[0,null,null]}],null]',
        '["value",null,null]',
        '["done","",null]',
    )
    forging = """
import os, struct
message = {!r}.encode()
def f(x):
    os.write(3, struct.pack('<I', len(message)) + message)
    os._exit(0)
"""
    for verdict in judged(sandbox, *(replace(SQUARES, source=forging.format(text)) for text in sent)):
        assert not verdict.passed and verdict.right == 0, verdict


def test_large_values_cross_as_digests_and_agree_only_where_equal(sandbox):
    source = "def f(n): return [('red', 'green', str(i)) for i in range(n)]"
    recording = Program(source, entry_point="f", limits=QUICK, inputs=wire_text([[10], [200_000]]))
    (recorded,) = judged(sandbox, recording)
    assert recorded.passed and len(recorded.answers) < 1000
    last = source + " if n < 1000 else [*[('red', 'green', str(i)) for i in range(n - 1)], ('red', 'green', '')]"
    right, wrong = judged(
        sandbox, *(replace(recording, source=text, answers=recorded.answers) for text in (source, last))
    )
    assert right.passed and (wrong.status, wrong.right) == ("wrong", 1)


def test_verdicts_do_not_depend_on_how_many_workers_there_are(sandbox):
    programs = [replace(SQUARES, source=f"def f(x): return x * x + (x == {n})") for n in range(6)]
    assert [verdict.right for verdict in judged(sandbox, *programs)] == [4, 0, 1, 2, 3, 4]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(max_size=2), max_size=4)
    ),
    max_leaves=20,
)


def respelled(value):
    """Write an equal value otherwise: floats for whole numbers, -0.0 for 0, dicts and sets in another order."""
    if isinstance(value, list | tuple):
        return type(value)(map(respelled, value))
    if isinstance(value, dict):
        return {respelled(key): respelled(item) for key, item in reversed(value.items())}
    if isinstance(value, bool | int) and abs(value) < 2**53:
        return float(value) or -0.0
    return value


@settings(max_examples=60, deadline=None, derandomize=True)
@given(PLAIN, PLAIN, st.integers(1, 3000))
def test_digests_are_equal_exactly_where_values_are(one, other, times):
    assert (digest(one) == digest(other)) == (one == other)
    again = respelled(one)
    assert again == one and digest(again) == digest(one)
    assert is_large([one] * times) == is_large([again] * times)
    assert digest([one] * times) == digest([again] * times)


def test_numbers_in_a_row_are_told_apart():
    row = list(range(10_000))
    assert digest(row) == digest(list(map(float, row))) != digest(row[::-1])
    assert digest([2**53, *row]) != digest([2**53 + 1, *row]) and digest([10**400, *row]) != digest([10**401, *row])
    assert digest(["a", "bc"] * 9999) != digest(["ab", "c"] * 9999)
    assert digest([("a", "b"), ("c",)]) != digest([("a",), ("b", "c")])


def test_plain_values_alone_can_be_written():
    assert json.loads(wire_text([[float("inf"), 1]])) == [[float("inf"), 1]]
    with pytest.raises(TypeError, match="object is no plain value"):
        wire_text([object()])
