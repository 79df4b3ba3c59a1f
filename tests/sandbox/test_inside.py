"""Judge what no border lets through in the program's own process, and still pass nothing that is wrong."""

from dataclasses import replace

import pytest
from hostile import read_cases
from idioms import read_forgeries, read_idioms
from rungs import SAFE_RUNGS, open_rung

from wmtp.evaluation.sandbox import UNJUDGEABLE, Limits, Program, places_by_references

IDIOMS, FORGERIES = read_idioms(), read_forgeries()
QUICK = Limits(cpu_seconds=1.0, wall_seconds=10.0, memory_bytes=256 << 20)


def test_there_are_many_and_their_names_are_their_own():
    assert len({idiom.name for idiom in IDIOMS}) == len(IDIOMS) >= 60
    assert len({forgery.task_id for forgery in FORGERIES}) == len(FORGERIES) >= 40


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_the_reference_decides_where_the_tests_run(rung):
    with open_rung(rung) as sandbox:
        places = places_by_references(sandbox, [idiom.program for idiom in IDIOMS])
        placed = [replace(idiom.program, place=place) for idiom, place in zip(IDIOMS, places, strict=True)]
        verdicts = dict(sandbox.judge(placed))
    assert {idiom.name: place for idiom, place in zip(IDIOMS, places, strict=True) if place != idiom.place} == {}
    for index, idiom in enumerate(IDIOMS):
        assert verdicts[index].passed, (idiom.name, verdicts[index])
        assert verdicts[index].place == ("outside" if idiom.place == "outside" else "inside")


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_without_a_reference_right_programs_pass_and_the_result_says_where(rung):
    with open_rung(rung) as sandbox:
        verdicts = dict(sandbox.judge(idiom.program for idiom in IDIOMS))
    for index, idiom in enumerate(IDIOMS):
        assert verdicts[index].passed == idiom.alone, (idiom.name, verdicts[index])
        assert not idiom.alone or verdicts[index].place == idiom.place, idiom.name


@pytest.mark.parametrize("rung", SAFE_RUNGS)
@pytest.mark.parametrize("place", ("either", "outside", "inside"))
def test_no_forgery_passes_wherever_it_is_judged(rung, place):
    with open_rung(rung) as sandbox:
        verdicts = dict(sandbox.judge(replace(forgery, place=place) for forgery in FORGERIES))
    assert [FORGERIES[index].task_id for index, verdict in verdicts.items() if verdict.passed] == []


def test_the_hostile_programs_pass_inside_no_more_than_outside(untouched_machine):
    cases = [case for case in read_cases() if case.kind != "script"]
    with open_rung("namespaces", workers=4) as sandbox:
        verdicts = dict(sandbox.judge(replace(case.program, place="inside") for case in cases))
    wrong = {case.name for index, case in enumerate(cases) if verdicts[index].passed != ("passed" in case.statuses)}
    assert wrong == set()


def test_what_is_expected_never_comes_to_the_program(sandbox):
    """A program that reads all it can of its own process finds the question, and never the answer."""
    source = """
import gc, sys
def f(x):
    seen, frame = gc.get_objects(), sys._getframe()
    while frame:
        seen += [*frame.f_code.co_consts, *frame.f_locals.values()]
        frame = frame.f_back
    return any(str(x + 1) in repr(one) for one in seen if type(one) in (int, str, tuple, list))
"""
    tests = (
        "import threading\nassert f(47110815) == 47110816 or not f(47110815)",
        "assert f(47110815) == int('47110816') or not f(47110815)",
    )
    hidden, written = [Program(source, (test,), place="inside", limits=QUICK) for test in tests]
    assert [verdict.status for _, verdict in sorted(sandbox.judge([hidden, written]))] == ["passed", "wrong"]


def test_a_problem_that_no_program_can_solve_here_stops_nothing(sandbox):
    references = [
        Program("def f(x): return x", ("assert f(1) == 1",), limits=QUICK),
        Program("def f(x): return x", ("assert f(1) == 2",), limits=QUICK),
        Program("def f(x): return x", ("assert f(",), limits=QUICK),
        Program("def f(x): return x", ("import no_such_package\nassert f(1) == 1",), limits=QUICK),
        Program("def f(x): return x", ("import sys; sys.modules['os']._exit(1)",), limits=QUICK),
        Program("", ("assert f(",), limits=QUICK),
        Program("", ("import no_such_package\nassert f(1) == 1",), limits=QUICK),
        Program("", ("assert f(1) == 1",), limits=QUICK),
        Program("", stdio=(("1", "1"),), limits=QUICK),
    ]
    assert places_by_references(sandbox, references) == [
        "outside", *[UNJUDGEABLE] * 6, "either", "outside",
    ]  # fmt: skip
