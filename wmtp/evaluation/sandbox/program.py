"""Describe what is judged, within which limits, and what came out.

[연구 맥락] 채점은 세 가지 값만 주고받는다: 프로그램(`Program`), 한도(`Limits`), 판정(`Verdict`).
벤치마크는 이 셋만 알면 되고, 샌드박스의 내부는 몰라도 된다.
"""

import ast
import functools
from dataclasses import dataclass

PLACES = ("outside", "inside", "trusting")
STATUSES = ("passed", "wrong", "error", "timeout", "memory", "output", "crashed", "harness_error")


@dataclass(frozen=True)
class Limits:
    """Bound what one run of a program may use.

    CPU 시간이 기준이고 wall 시간은 잠든 프로그램을 위한 안전망이다. 그래서 판정이 기계의 부하에 좌우되지 않는다.

    Attributes:
        cpu_seconds: 프로그램(자식 포함)의 CPU 시간. stdio 문제에서는 시험 하나당.
        wall_seconds: 벽시계 시간의 안전망. cpu_seconds보다 넉넉해야 한다.
        memory_bytes: 프로세스 하나의 주소 공간과, 자식까지 합친 실제 메모리.
        processes: 프로그램이 동시에 가질 수 있는 프로세스와 스레드의 수.
        file_bytes: 파일 하나와 개인 디렉터리 전체의 크기.
        output_bytes: 표준 출력과 표준 오류 각각의 크기.
    """

    cpu_seconds: float = 4.0
    wall_seconds: float = 30.0
    memory_bytes: int = 1 << 30
    processes: int = 32
    file_bytes: int = 16 << 20
    output_bytes: int = 4 << 20

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"limits.{name} = {value} must be > 0.")


@dataclass(frozen=True)
class Program:
    """Hold one program and the tests that decide about it.

    Attributes:
        source: 채점할 프로그램. 적대적일 수 있다.
        tests: 차례로 실행할 파이썬 문장들. 신뢰하는 쪽에서 실행되고, 프로그램에는 보이지 않는다.
        setup: source 뒤, tests 앞에서 (신뢰하는 쪽에서) 실행할 코드. 여기서 정의된 이름은 프로그램의 것보다 우선한다.
        stdio: (표준 입력, 기대 출력) 쌍. 있으면 프로그램을 시험마다 새 프로세스로 실행한다.
        calls: (인자들, 기대값) 쌍. 인자는 한 줄에 하나, 둘 다 JSON. 시험마다 새 프로세스에서 entry_point를 부른다:
            `class Solution`의 메서드이거나 (LeetCode), 맨 바깥의 함수다.
        comparison: 출력이나 돌려준 값을 견주는 규칙 (`worker/comparing.py`).
        checker: 있으면 규칙 대신 이 코드의 `check(input, output, answer)`가 정한다 (`worker/checking.py`).
            남의 코드이므로 프로그램처럼 갇힌다.
        preamble: source가 당연히 여기는 것들 (LeetCode의 `List`). source 앞에서, 같은 이름 공간에서 실행한다.
        input_file, output_file: 있으면 표준 입력을 이 이름의 파일로도 주고, 표준 출력 대신 이 이름의 파일을 본다.
        imports: 참조 정답의 import 문들 (`imports_of`). 시험이 도구로 쓰는 이름은 (`math.isclose`의 math) 시험 자신의
            import가 아니면 여기서 온다. 채점할 프로그램의 import는 결코 쓰지 않는다.
        entry_point: 시험받는 함수. 이 이름만은 언제나 프로그램에서 온다 (MBPP 126은 내장 함수 `sum`을 새로 정의한다).
        place: 시험을 실행할 곳. "outside"는 judge, "inside"는 프로그램의 프로세스 (비교만은 judge), "trusting"은 거기서
            프로그램의 객체가 평범한 값과 섞여도 되는 것. "either"는 참조 정답이 없을 때: 밖에서 실행하고, 틀린 까닭이
            경계일 수 있으면 안에서도 실행한다. 참조 정답이 있으면 `places_by_references`가 정한다.
        task_id: 오류 문장에 쓰는 이름.
        limits: 이 프로그램의 한도.
    """

    source: str
    tests: tuple[str, ...] = ()
    setup: str = ""
    stdio: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    comparison: str = "deepmind"
    checker: str = ""
    preamble: str = ""
    input_file: str = ""
    output_file: str = ""
    imports: str = ""
    entry_point: str | None = None
    place: str = "either"
    task_id: str = ""
    limits: Limits = Limits()


@dataclass(frozen=True)
class Verdict:
    """Say what became of a program.

    Attributes:
        status: `STATUSES` 중 하나.
        seconds: 프로그램이 쓴 CPU 시간.
        message: 한 줄의 이유. 참조 정답이나 시험의 글은 결코 들어가지 않는다.
        place: 시험이 실행된 곳, "outside" 또는 "inside".
    """

    status: str
    seconds: float
    message: str = ""
    place: str = "outside"

    @property
    def passed(self) -> bool:
        """Tell whether the program solved the problem."""
        return self.status == "passed"


@functools.lru_cache(maxsize=4096)
def imports_of(reference: str) -> str:
    """Return the import statements at the top level of a reference solution.

    Example:
        >>> imports_of("import math\\ndef f(r):\\n    import re\\n    return math.pi * r")
        'import math'
    """
    try:
        statements = ast.parse(reference).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return "\n".join(ast.unparse(one) for one in statements if isinstance(one, ast.Import | ast.ImportFrom))
