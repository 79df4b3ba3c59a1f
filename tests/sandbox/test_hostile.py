"""Judge hostile programs right, and leave the machine as it was."""

import socket

import pytest
from hostile import LIMITS, read_cases
from rungs import SAFE_RUNGS, open_rung

from wmtp.evaluation.sandbox import Program, Sandbox

CASES = read_cases()


def judge_all(sandbox: Sandbox) -> list[str]:
    """Judge the whole suite; return one line for each verdict that is not right."""
    with sandbox:
        verdicts = dict(sandbox.judge(case.program for case in CASES))
    assert len(verdicts) == len(CASES)
    for verdict in verdicts.values():
        assert "assert" not in verdict.message and "f(" not in verdict.message and "\n" not in verdict.message
    return [
        f"{case.name}: {verdicts[index]}"
        for index, case in enumerate(CASES)
        if verdicts[index].status not in case.statuses
    ]


def test_the_suite_is_large_and_its_names_are_its_own():
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


def test_hostile_programs_get_their_verdicts_and_leave_nothing(untouched_machine):
    assert judge_all(open_rung("namespaces", workers=4)) == []


@pytest.mark.slow
@pytest.mark.parametrize("rung", SAFE_RUNGS)
@pytest.mark.parametrize("workers", (1, 4))
@pytest.mark.parametrize("repetition", range(3))
def test_verdicts_repeat_on_every_rung_with_any_number_of_workers(untouched_machine, rung, workers, repetition):
    assert judge_all(open_rung(rung, workers)) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", (1, 4))
def test_verdicts_do_not_depend_on_the_load(untouched_machine, busy_machine, workers):
    assert judge_all(open_rung("namespaces", workers)) == []


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_no_connection_reaches_a_listening_server(rung):
    with socket.create_server(("127.0.0.1", 0)) as server, open_rung(rung, workers=1) as sandbox:
        source = (
            f"import socket\ndef f(x): return socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)"
        )
        [(_, verdict)] = sandbox.judge([Program(source, ("assert f(2) == 4",), limits=LIMITS)])
        assert verdict.status == "error"
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
