"""Decide by the reference solution of each problem where its tests run.

[연구 맥락] 시험은 프로그램의 프로세스 밖에서 실행할 때 가장 믿을 만하다. 하지만 어떤 시험은 값이 프로세스의 경계를
건너면 뜻이 달라져서, 옳은 프로그램도 떨어진다. 무엇이 옳은지는 참조 정답이 안다: 참조 정답이 통과하는 곳 가운데 가장
믿을 만한 곳에서 그 문제를 채점한다. 어디서도 통과하지 못하면 채점할 수 없는 문제이고, 틀린 것으로 세지 않는다.
[동작] 평가(harness.py)가 표본을 채점하기 전에 한 번 부른다. 결과에는 안에서 채점한 문제와 채점할 수 없는 문제가 적힌다.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from .pool import Sandbox
from .program import PLACES, Program
from .timing import PATIENCE, times

UNJUDGEABLE = "unjudgeable"


def places_by_references(sandbox: Sandbox, references: Sequence[Program]) -> list[str]:
    """Find for each problem the most trustworthy place where its reference solution passes.

    Args:
        references: 참조 정답과 그 시험. 참조 정답이 없는 문제는 source가 빈 글이다.

    Returns:
        references와 같은 순서로, "outside", "inside", "trusting", "unjudgeable". 참조 정답이 없으면 "either", 그 시험이
        파이썬이 아니거나 여기 없는 패키지를 import하면 "unjudgeable". 입출력 쌍으로 된 문제는 건너는 값이 없으므로
        "outside"이고, 함수를 부르거나 checker가 있는 것은 그 참조 정답이나 checker가 되는지만 본다.
    """
    paired = [bool(one.stdio or one.calls) for one in references]
    places = [
        "outside" if pairs else UNJUDGEABLE if one.source else "either"
        for one, pairs in zip(references, paired, strict=True)
    ]
    open_questions = [index for index, place in enumerate(places) if place == UNJUDGEABLE]
    for place in PLACES:
        runs = [dataclasses.replace(_patient(references[index]), place=place) for index in open_questions]
        passed = {open_questions[number] for number, verdict in sandbox.judge(runs) if verdict.passed}
        for index in passed:
            places[index] = place
        open_questions = [index for index in open_questions if index not in passed]
    unknown = [index for index, place in enumerate(places) if place == "either"]
    for number, verdict in sandbox.judge([references[index] for index in unknown]):
        if verdict.status == "harness_error":
            places[unknown[number]] = UNJUDGEABLE
    for index in _broken(sandbox, {index: one for index, one in enumerate(references) if paired[index]}):
        places[index] = UNJUDGEABLE
    return places


def _broken(sandbox: Sandbox, references: dict[int, Program]) -> list[int]:
    """Find the problems whose reference fails, or whose checker fails on the data's own answer.

    정답을 그냥 출력하는 대회 문제의 참조 정답은 실행하지 않는다: 수백 개의 시험에 몇 분이 걸린다.
    """
    runs = {
        index: _patient(one) if one.source else _echo(one)
        for index, one in references.items()
        if (one.source and one.calls) or (one.checker and (one.source or _answer(one).strip()))
    }
    verdicts = zip(runs, (verdict for _, verdict in sorted(sandbox.judge(runs.values()))), strict=True)
    return [
        index
        for index, verdict in verdicts
        if verdict.status == "harness_error" or (references[index].source and not verdict.passed)
    ]


def _echo(problem: Program) -> Program:
    """Make a program that gives the first answer of a problem; whether that is right is for its checker to say."""
    answer = _answer(problem)
    prints = f"print({answer!r}, end='')"
    returns = f"import json\ndef {problem.entry_point}(*_): return json.loads({answer!r})"
    first: dict[str, Any] = {"stdio": problem.stdio[:1], "calls": problem.calls[:1]}
    return dataclasses.replace(problem, source=prints if problem.stdio else returns, preamble="", **first)


def _answer(problem: Program) -> str:
    return (problem.stdio or problem.calls)[0][1]


def _patient(reference: Program) -> Program:
    """Give a reference more time than a program gets."""
    return dataclasses.replace(reference, limits=times(reference.limits, PATIENCE))
