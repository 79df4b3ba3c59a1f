"""Run hostile programs and say, beyond doubt, whether they solved their problem.

[연구 맥락] 토큰가중치가 도움이 되는지는 생성한 프로그램을 실행해 보아야 안다. 생성된 프로그램은 적대적일 수 있으므로
(무한 루프, fork, 시험의 위조, 파일 삭제) 격리해서 실행하고, 시험은 프로그램의 프로세스 밖에서 한다.
[동작] program.py가 주고받는 값, pool.py가 작업자들을 부리는 쪽, timing.py와 placing.py가 참조 정답에
 맞춘 한도와 자리, worker/가 작업자 안이다. 자세한 것은 docs/sandbox.md.

    >>> with Sandbox(workers=1, allow_unsafe=True) as sandbox:
    ...     [verdict] = [v for _, v in sandbox.judge([Program("x = 1", tests=("assert x == 1",))])]
    >>> verdict.status
    'passed'
"""

from .placing import UNJUDGEABLE, places_by_references
from .pool import Sandbox
from .program import STATUSES, Limits, Program, Verdict, imports_of, wire_text
from .timing import PATIENCE, limits_from_calls, limits_from_references, times

__all__ = [
    "PATIENCE",
    "STATUSES",
    "UNJUDGEABLE",
    "Limits",
    "Program",
    "Sandbox",
    "Verdict",
    "imports_of",
    "limits_from_calls",
    "limits_from_references",
    "places_by_references",
    "times",
    "wire_text",
]
