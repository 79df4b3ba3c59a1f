"""Read hostile.txt: hostile programs, and the verdict that each deserves.

[연구 맥락] 널리 쓰이는 하네스들이 속거나 다친 방법들이다 (docs/sandbox.md). 함수의 시험은
모두 `f(2) == 4`와 `f(3) == 9`,
스크립트의 시험은 입력 3과 4에 출력 9와 16. 어느 프로그램이든 문제를 풀지 않았거나(통과하면 안 된다),
풀었지만 수상해 보인다(통과해야 한다).
"""

from dataclasses import dataclass
from pathlib import Path

from wmtp.evaluation.sandbox import Limits, Program

LIMITS = Limits(
    cpu_seconds=0.6, wall_seconds=3.0, memory_bytes=96 << 20, processes=16, file_bytes=4 << 20, output_bytes=1 << 20
)
PATIENT = Limits(cpu_seconds=1.0, wall_seconds=60.0, memory_bytes=256 << 20, processes=16, output_bytes=1 << 20)


@dataclass(frozen=True)
class Case:
    """Hold one program, and the statuses that are right for it.

    여러 판정이 옳을 수 있는 까닭: fork를 거절하는 단에서는 error, 허락하는 단에서는 timeout이 되는 식이다.
    """

    name: str
    kind: str
    statuses: tuple[str, ...]
    source: str

    @property
    def program(self) -> Program:
        """Return what the sandbox judges."""
        limits = PATIENT if self.statuses == ("passed",) else LIMITS
        if self.kind == "script":
            return Program(self.source, stdio=(("3\n", "9\n"), ("4\n", "16\n")), task_id=self.name, limits=limits)
        return Program(self.source, ("assert f(2) == 4", "assert f(3) == 9"), task_id=self.name, limits=limits)


def read_cases() -> list[Case]:
    """Read all cases of hostile.txt, whose sections begin with `=== name | kind | statuses`."""
    cases = []
    text = Path(__file__).with_name("hostile.txt").read_text(encoding="utf-8")
    for section in text.split("\n=== ")[1:]:
        head, source = section.split("\n########")[0].split("\n", 1)
        name, kind, statuses = head.split(" | ")
        source = source.replace("<CR>", "\r").replace("<NUL>", "\0")
        cases.append(Case(name, kind, tuple(statuses.split()), source))
    return cases
