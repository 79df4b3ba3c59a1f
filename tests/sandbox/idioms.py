"""Read idioms.txt and forgeries.txt: right programs and wrong ones, and the tests that they meet.

[연구 맥락] idioms.txt는 다른 사람들의 자료에 나오는 관용구들이다. 하네스가 떨어뜨리면 안 되는 옳은 프로그램들이고,
시험이 어디서 실행되어야 하는지가 (`outside`, `inside`, `trusting`) 함께 적혀 있다.
`alone`은 참조 정답이 없어도 통과한다는 뜻이다.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from wmtp.evaluation.sandbox import Limits, Program

LIMITS = Limits(cpu_seconds=4.0, wall_seconds=30.0, memory_bytes=256 << 20)


@dataclass(frozen=True)
class Idiom:
    """Hold one right program and its tests."""

    name: str
    place: str
    alone: bool
    source: str
    test: str

    @property
    def program(self) -> Program:
        """Return what the sandbox judges."""
        return Program(self.source, (self.test,), task_id=self.name, limits=LIMITS)


def read_idioms() -> list[Idiom]:
    """Read idioms.txt, whose sections begin with `=== name | place` or `=== name | place | alone`."""
    return [
        Idiom(name, place, bool(alone), source, test) for (name, place, *alone), source, test in _read("idioms.txt")
    ]


def read_forgeries() -> list[Program]:
    """Read forgeries.txt: wrong programs, each with the test that it would forge, inside if not outside."""
    limits = replace(LIMITS, cpu_seconds=1.0, wall_seconds=5.0)
    return [Program(source, (test,), task_id=name, limits=limits) for (name,), source, test in _read("forgeries.txt")]


def _read(file: str) -> list[tuple[list[str], str, str]]:
    """Read sections of a head, a program and, after a line of dashes, its test."""
    sections = Path(__file__).with_name(file).read_text(encoding="utf-8").removeprefix("=== ").split("\n=== ")
    parts = [(head.split(" | "), *body.split("---\n")) for head, body in (one.split("\n", 1) for one in sections)]
    return [(head, source, test.rstrip("\n")) for head, source, test in parts]
