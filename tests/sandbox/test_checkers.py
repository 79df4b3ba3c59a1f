"""Let a checker decide where several answers are right; neither it nor a program gets at the other, or out."""

import os

import pytest
from rungs import SAFE_RUNGS, open_rung

from wmtp.evaluation.sandbox import Limits, Program, places_by_references

QUICK = Limits(cpu_seconds=1.0, wall_seconds=10.0, memory_bytes=256 << 20)
TRACE = "/var/tmp/wmtp-hostile-checker"
# Any two different numbers of the input whose sum is its first line.
PAIR = """
def check(input, output, answer):
    total, numbers = (list(map(int, line.split())) for line in input.splitlines())
    try:
        pair = list(map(int, output.split()))
    except ValueError:
        return False
    return len(set(pair)) == 2 and sum(pair) == total[0] and set(pair) <= set(numbers)
"""
PAIRS = (("6\n1 2 4 5\n", "1 5"), ("5\n1 2 3 4\n", "1 4"))
SOLVES = """t = int(input())
xs = list(map(int, input().split()))
print(*next((a, b) for a in xs{} for b in xs if a != b and a + b == t))
"""
RIGHT, OTHER_WAY = SOLVES.format(""), SOLVES.format("[::-1]")


def judge(sandbox, *programs: Program):
    verdicts = dict(sandbox.judge(programs))
    return [verdicts[index] for index in range(len(programs))]


def printing(source: str, checker: str = PAIR, stdio=PAIRS, **more) -> Program:
    return Program(source, stdio=stdio, checker=checker, limits=QUICK, **more)


def test_every_right_answer_passes_and_no_wrong_one(sandbox):
    right, other, wrong, garbage, silent = judge(
        sandbox,
        *map(printing, (RIGHT, OTHER_WAY, "print(3, 3)", "print('1 5; import os')", "pass")),
    )
    assert right.passed and other.passed
    assert {wrong.message, garbage.message, silent.message} == {"printed what the checker refuses in test 1 of 2"}
    assert {wrong.status, garbage.status, silent.status} == {"wrong"}
    without = Program(OTHER_WAY, stdio=PAIRS, limits=QUICK)
    assert judge(sandbox, without)[0].status == "wrong"


def test_a_checker_sees_arguments_and_a_plain_value_of_a_function(sandbox):
    checker = (
        "def check(input, output, answer):\n    return type(output) is list and sorted(output) == answer == input[0]"
    )
    sources = (
        "def f(xs): return xs[::-1]",
        "class L(list):\n    __eq__ = lambda *_: True\ndef f(xs): return L(xs)",
        "def f(xs):\n    ys = xs[::-1]\n    xs.clear()\n    return ys",  # the checker has arguments of its own
        "def f(xs): return []",
        "def f(xs): return iter(xs)",
        "class E:\n    __eq__ = __lt__ = lambda *_: True\ndef f(xs): return [E(), E(), E()]",
    )
    calls = (("[1, 2, 3]", "[1, 2, 3]"),)
    programs = [Program(one, calls=calls, entry_point="f", checker=checker, limits=QUICK) for one in sources]
    assert [verdict.status for verdict in judge(sandbox, *programs)] == ["passed"] * 3 + ["wrong"] * 3


@pytest.mark.parametrize(
    ("checker", "message"),
    (
        ("def check(a, b, c): return 1 / 0", "the checker raised ZeroDivisionError"),
        ("def check(a, b, c): return int(b) == 3", "the checker raised ValueError"),
        ("def check(a, b, c): pass", "the checker returned neither True nor False"),
        ("def check(a, b, c): return 1", "the checker returned neither True nor False"),
        ("def check(a, b, c):\n    while True: pass", "the checker used more than 1 s of CPU time"),
        ("def check(a, b, c): return len(bytearray(1 << 33)) > 0", "the checker raised MemoryError"),
        ("import os\ndef check(a, b, c): os._exit(0)", "the checker exited with code 0"),
        ("import nothing_here\ndef check(a, b, c): return True", "the checker raised ModuleNotFoundError"),
        ("class T:\n    __bool__ = lambda s: True\ndef check(a, b, c): return T()", "neither True nor False"),
    ),
)
def test_a_checker_that_fails_is_neither_a_right_nor_a_wrong_answer(sandbox, checker, message):
    [verdict] = judge(sandbox, printing("print('x')", checker))
    assert verdict.status == "harness_error" and message in verdict.message, verdict


def test_the_time_of_a_checker_is_not_the_programs(sandbox):
    slow = "import time\ndef check(a, b, c):\n    while time.process_time() < 0.8: pass\n    return True"
    [verdict] = judge(sandbox, printing("pass", slow))
    assert verdict.passed and verdict.seconds < 0.4


#: What a checker from a stranger's file would try; one that succeeds accepts the answer.
ATTEMPTS = {
    "write a file": f"open({TRACE!r}, 'w')",
    "read a file of the host": "open('/etc/passwd')",
    "signal who asked for it": f"os.kill({os.getpid()}, 0)",
    "open a socket": "socket.socket()",
    "start a program": "os.execv('/bin/true', ['true'])",
    "lift its limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "leave something for the next": "open('left', 'x')",
    "write to the judge": "os.write(4, b'x')",
}


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_a_checker_reaches_no_more_than_a_program(rung):
    trying = """import os, socket, resource
def check(input, output, answer):
    try:
        {}
    except (OSError, ValueError):
        return False
    return not os.path.exists("left")
"""
    checkers = map(trying.format, ATTEMPTS.values())
    with open_rung(rung, workers=1) as sandbox:
        verdicts = judge(sandbox, *(printing("pass", checker) for checker in checkers))
        again = judge(sandbox, printing("pass", "import os\ndef check(a, b, c): return not os.listdir('.')"))
    assert {verdict.status for verdict in verdicts} == {"wrong"}, dict(zip(ATTEMPTS, verdicts, strict=True))
    assert again[0].passed and not os.path.lexists(TRACE)


#: What a program would do to the checker that comes after it; the checker accepts only what it did not get.
FORGERIES = (
    "open('left', 'w').write('x')\nprint('x')",
    "open('json.py', 'w').write('loads = lambda _: 1')\nprint('x')",
    "open('sitecustomize.py', 'w').write('import builtins; builtins.int = lambda _: 1')\nprint('x')",
    "import sys, os\nos.environ['PYTHONPATH'] = '.'\nsys.path.insert(0, '.')\nprint('x')",
    "import builtins\nbuiltins.int = lambda *_: 1\nprint('x')",
    "import json\njson.loads = lambda _: 1\nprint('x')",
    "print('[\"value\", true, null]')",
    "import os\nos.write(3, b'\\x13\\0\\0\\0[\"value\",true,null]')\nprint('x')",
    "print(\"__import__('os')._exit(0)\")",
    "print('x\\0' + chr(0xdc80).encode('utf-8', 'surrogateescape').decode('latin-1'))",
    "import os, time\nif os.fork() == 0:\n    time.sleep(5)\nprint('x')",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\nprint('x')",
)
NAIVE = """
import json, os
def check(input, output, answer):
    if os.listdir("."):
        return True
    try:
        return int(json.loads(output)) == int(answer)
    except (ValueError, TypeError):
        return False
"""


@pytest.mark.parametrize("source", FORGERIES)
def test_no_program_gets_at_the_checker(sandbox, source):
    [verdict] = judge(sandbox, printing(source, NAIVE, (("", "1"),)))
    assert verdict.status in ("wrong", "error"), verdict  # error: where no program may fork


def test_a_broken_checker_is_noticed_before_any_sample(sandbox):
    fails, refuses = "def check(a, b, c): return 1 / 0", "def check(a, b, c): return False"
    problems = [
        printing(RIGHT),
        printing(RIGHT, fails),
        printing(RIGHT, refuses),  # its own reference
        printing("print('wrong')"),
        printing(""),
        printing("", fails),
        printing("", refuses),  # the answer in the data may be none of the right ones
        printing("", fails, (("", ""),)),  # it says nothing to try it with
        Program("", calls=(("1", "1"),), entry_point="f", checker=fails, limits=QUICK),
    ]
    broken = "unjudgeable"
    expected = ["outside", broken, broken, broken, "outside", broken, "outside", "outside", broken]
    assert places_by_references(sandbox, problems) == expected
