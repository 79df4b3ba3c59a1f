"""Reward programs by running them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from wmtp.cache.fingerprint import code_of
from wmtp.critic.rewards.base import DRAWS, Rewards, Row, Spans, mutant_of
from wmtp.data.module import MTPDataModule
from wmtp.data.problem import Problem, Source
from wmtp.evaluation import sandbox as sandbox_package
from wmtp.evaluation.benchmarks import program_of
from wmtp.evaluation.sandbox import Limits, Sandbox, limits_from_references


class Tests(Rewards):
    """Reward a program with 1 if it passes its tests, with 0 if not.

    [동작] 문제마다 정답과 오답을 실행한다. 정답이라는데 실패하면 오답으로 세고, 오답이라는데 통과하면 버린다.
    그래도 오답이 모자라면 통과한 정답의 돌연변이를 만들어, 실패하는 것만 오답으로 쓴다.
    timeout이 나온 문제는 참조 정답이 느린지 재고, 느리면 한도를 늘려 다시 채점한다.

    Args:
        sandbox: 프로그램을 돌릴 곳 (닫힌 것). 채점할 것이 있을 때만 연다. None이면 `Sandbox()`.
        limits: 프로그램 하나의 한도. None이면 `Limits()`.
        **which: 어떤 프로그램을 쓸지 (`Rewards`). 돌연변이는 통과한 정답으로 만들고, 실패하는 것만 센다.
    """

    name = "tests"
    binary = True

    def __init__(self, sandbox: Sandbox | None = None, limits: Limits | None = None, **which: int) -> None:
        super().__init__(**which)
        self.sandbox, self.limits = sandbox or Sandbox(), limits or Limits()
        self.packages = self.sandbox.packages

    @override
    def key(self, data: MTPDataModule, split: str, model: Any) -> dict[str, Any]:
        judge = Path(sandbox_package.__file__).parent.rglob("*.py")
        return super().key(data, split, model) | {
            "limits": repr(self.limits),
            "packages": self.packages,
            "sandbox": code_of(*judge),
        }

    @contextmanager
    @override
    def judging(self, data: MTPDataModule, model: Any) -> Iterator[Callable[[Sequence[Problem]], list[list[Row]]]]:
        with self.sandbox:
            yield lambda problems: self._rows(problems, data.source)

    def _rows(self, problems: Sequence[Problem], source: Source) -> list[list[Row]]:
        right: list[list[str]] = [[] for _ in problems]
        wrong: list[dict[str, Spans]] = [{} for _ in problems]
        limits: dict[int, Limits] = {}
        # Without a test everything passes.
        tested = [problem if problem.tested else replace(problem, solutions=()) for problem in problems]
        given = self.given(tested)
        passed = self._passed(problems, [(i, program) for i, program, _ in given], limits)
        for (i, program, claimed), passes in zip(given, passed, strict=True):
            if passes is None:
                continue  # nothing is known about it
            if not passes:
                wrong[i][program] = ()
            elif claimed:
                right[i].append(program)
        rngs = [self.rng(problem) for problem in problems]
        for _ in range(DRAWS):
            drawn = {
                (i, mutant): span
                for i, problem in enumerate(problems)
                if right[i]
                for _ in range(self.mutants - len(wrong[i]))
                for mutant, span in [mutant_of(source, problem, right[i][0], rngs[i])]
                if mutant and mutant not in wrong[i]
            }
            for (i, mutant), passes in zip(drawn, self._passed(problems, list(drawn), limits), strict=True):
                if passes is False:
                    wrong[i][mutant] = (drawn[i, mutant],)
        return [
            [(program, 1.0, ()) for program in good] + [(program, 0.0, spans) for program, spans in bad.items()]
            for good, bad in zip(right, wrong, strict=True)
        ]

    def _passed(
        self, problems: Sequence[Problem], programs: list[tuple[int, str]], limits: dict[int, Limits]
    ) -> list[bool | None]:
        """Run programs, each given by the number of its problem; what times out may get longer `limits`.

        None은 판정할 수 없었다는 뜻이다 (시험이 파이썬이 아니거나, 여기 없는 패키지를 import한다).
        """
        statuses = self._run(problems, programs, limits)
        late = {i for (i, _), status in zip(programs, statuses, strict=True) if status == "timeout"} - limits.keys()
        slow = [i for i in sorted(late) if problems[i].solutions]
        references = [program_of(problems[i], problems[i].solutions[0], self.limits) for i in slow]
        limits |= dict(zip(slow, limits_from_references(self.sandbox, references), strict=True))
        longer = {i for i in slow if limits[i] != self.limits}
        again = [n for n, (i, _) in enumerate(programs) if i in longer and statuses[n] == "timeout"]
        for n, status in zip(again, self._run(problems, [programs[n] for n in again], limits), strict=True):
            statuses[n] = status
        return [None if status == "harness_error" else status == "passed" for status in statuses]

    def _run(
        self, problems: Sequence[Problem], programs: list[tuple[int, str]], limits: dict[int, Limits]
    ) -> list[str]:
        asked = (program_of(problems[i], program, limits.get(i, self.limits)) for i, program in programs)
        verdicts = dict(self.sandbox.judge(asked))
        return [verdicts[n].status for n in range(len(programs))]
