"""Give programs limits that follow what the reference solution itself needs.

[연구 맥락] MBPP 123의 공식 정답은 4.5초가 걸린다. 모두에게 똑같은 3초는 공식 정답을 떨어뜨리고, 모두에게 똑같은 60초는
무한 루프 하나하나에 1분을 쓴다.
"""

import dataclasses
import math
from collections.abc import Sequence

from .pool import Sandbox
from .program import Limits, Program

_GENEROUS = Limits(cpu_seconds=60.0, wall_seconds=600.0)


def limits_from_references(
    sandbox: Sandbox, references: Sequence[Program], factor: float = 4.0, base: Limits | None = None
) -> list[Limits]:
    """Measure reference programs and return limits for each of their problems.

    Args:
        sandbox: 열려 있는 샌드박스.
        references: 참조 정답과 그 시험. limits는 무시한다.
        factor: 참조 정답의 CPU 시간의 몇 배까지 허락하는가.
        base: 나머지 한도와, CPU와 벽시계 시간의 최솟값. None이면 `Limits()`.

    Returns:
        references와 같은 순서의 한도. CPU 시간은 온전한 초로 올림하므로 잴 때마다 달라지지 않는다.
        통과하지 못한 참조는 base를 받는다.
    """
    base = base or Limits()
    runs, owners = [], []
    for place, reference in enumerate(references):
        for stdio in [(test,) for test in reference.stdio] or [()]:  # the limit holds for each run of a script
            runs.append(dataclasses.replace(reference, stdio=stdio, limits=_GENEROUS))
            owners.append(place)
    slowest = [0.0] * len(references)
    for index, verdict in sandbox.judge(runs):
        if verdict.passed:
            slowest[owners[index]] = max(slowest[owners[index]], verdict.seconds)
    return [_stretch(base, factor * seconds) for seconds in slowest]


def _stretch(base: Limits, seconds: float) -> Limits:
    """Raise the time limits where the reference needs it; the wall clock keeps its distance."""
    if seconds <= base.cpu_seconds:
        return base
    cpu = float(math.ceil(seconds))
    return dataclasses.replace(
        base, cpu_seconds=cpu, wall_seconds=base.wall_seconds * math.ceil(cpu / base.cpu_seconds)
    )
