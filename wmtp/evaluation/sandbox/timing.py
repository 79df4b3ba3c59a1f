"""Give programs limits that follow what the reference solution itself needs.

[연구 맥락] MBPP 123의 공식 정답은 4.5초가 걸린다. 모두에게 똑같은 3초는 공식 정답을 떨어뜨리고, 모두에게 똑같은 60초는
무한 루프 하나하나에 1분을 쓴다. 그래서 느린 문제만, 참조 정답의 시간을 따라 늘린다.
[동작] 평가(harness.py)와 보상(rewards.py)은 timeout이 나온 문제의 참조 정답만 재고, 한도가 늘면 다시 채점한다.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from .pool import Sandbox
from .program import Limits, Program

# A program may take this many times the CPU time of the reference solution, and the reference solution itself this many
# times the base limit: 20 seconds with the default limits.
FACTOR, PATIENCE = 4, 5


def limits_from_references(sandbox: Sandbox, references: Sequence[Program]) -> list[Limits]:
    """Measure reference programs and return limits for each of their problems.

    [동작] 한도는 두 배씩 늘린다. 참조 정답의 시간은 잴 때마다 조금씩 달라도 한도는 같게 나온다.

    Args:
        references: 참조 정답과 그 시험. limits는 이 문제의 평소 한도.

    Returns:
        references와 같은 순서의 한도. 통과하지 못했거나 빠른 참조는 제 limits를 그대로 받는다.
    """
    runs, owners = [], []
    for place, reference in enumerate(references):
        patient = times(reference.limits, PATIENCE)
        # The limit holds for each run of a script, and for each call.
        each: list[dict[str, Any]] = [{"stdio": (test,)} for test in reference.stdio] + [
            {"calls": (test,)} for test in reference.calls
        ]
        for tests in each or [{}]:
            runs.append(dataclasses.replace(reference, limits=patient, **tests))
            owners.append(place)
    slowest, passed = [0.0] * len(references), [True] * len(references)
    for index, verdict in sandbox.judge(runs):
        slowest[owners[index]] = max(slowest[owners[index]], verdict.seconds)
        passed[owners[index]] &= verdict.passed
    return [
        _stretch(reference.limits, FACTOR * seconds) if solved else reference.limits
        for reference, seconds, solved in zip(references, slowest, passed, strict=True)
    ]


def _stretch(base: Limits, seconds: float) -> Limits:
    """Double the time limits until a program may take so many seconds."""
    factor = 1
    while factor * base.cpu_seconds < seconds:
        factor *= 2
    return times(base, factor)


def times(limits: Limits, factor: float) -> Limits:
    """Multiply the time limits."""
    names = ("cpu_seconds", "wall_seconds", "call_seconds")
    return dataclasses.replace(limits, **{name: factor * getattr(limits, name) for name in names})


def limits_from_calls(base: Limits, seconds: float, slowest: float) -> Limits:
    """Stretch limits to what the reference solution needed for all of its calls, and for the slowest."""
    call_seconds = base.call_seconds
    while call_seconds < FACTOR * slowest:
        call_seconds *= 2
    return dataclasses.replace(_stretch(base, FACTOR * seconds), call_seconds=call_seconds)
