"""Say what a benchmark is: which problems, in which prompt, judged under which limits.

[연구 맥락] 숫자 하나에는 문제, 분할, 프롬프트, 제한이 모두 들어 있다. 그것들을 한 객체에 모아 결과와 함께 저장한다.
[동작] 출처(source)가 문제를, 프롬프트(prompt)가 요청과 프로그램을 만든다. 여기는 둘을 잇기만 한다.
[디버깅] 맞은 프로그램이 timeout이면 `limits`를 본다. 참조 정답이 느린 문제는 harness가 제한을 늘려 다시 채점한다.
"""

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from wmtp import ranges
from wmtp.data.problem import Problem
from wmtp.data.prompts import Prompt
from wmtp.data.sources import FileSource
from wmtp.errors import ConfigError, DataFormatError
from wmtp.evaluation.answers import Answers, calling, limits_of
from wmtp.evaluation.extraction import extract
from wmtp.evaluation.sandbox import Limits, Program, imports_of

# What decides about problems of some sources only: it names no evaluation of the others.
_OF_SOME = ("calls", "comparison", "checker", "preamble")
_OF_INPUTS = ("inputs", "base_inputs", "agreement", "tolerance")
_USUAL = {one.name: one.default for one in fields(Problem)}


@dataclass(frozen=True)
class Benchmark:
    """Join problems, prompt mode and limits under the name that results carry.

    Args:
        name: 결과 키의 앞부분. 예: "mbpp" → `mbpp/pass@1`.
        source: 문제의 출처 (`wmtp.data.sources`, `wmtp.data.synthetic`).
        prompt: 프롬프트 방식 (`wmtp.data.prompts`).
        split: 공식 분할의 이름, 또는 모든 줄을 뜻하는 "all".
        limit: 앞에서부터 이만큼의 문제만. None이면 모두.
        limits: 프로그램 하나에 허락하는 시간과 메모리. 참조 정답이 느린 문제에서는 늘어난다.

    Raises:
        ConfigError: limit이 1보다 작을 때.
    """

    name: str
    source: Any
    prompt: Prompt
    split: str = "test"
    limit: int | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        ranges.check(ranges.Benchmark, limit=self.limit)
        if isinstance(self.source, FileSource):
            self.source.key = "benchmark.path"  # what a sentence about its file names

    @cached_property
    def all_problems(self) -> tuple[Problem, ...]:
        """Read the problems of the split, whatever the limit."""
        problems = tuple(self.source.problems(self.split))
        if not problems:
            raise ConfigError(
                f"benchmark.split = {self.split} holds no problem of {self.name}. Try benchmark.split=all."
            )
        if untested := next((one for one in problems if not one.tested), None):
            raise DataFormatError(
                f"{untested.origin or self.name}: {untested.task_id} has no test, so every program would pass. "
                "Give it tests, or take it out of the file."
            )
        return problems

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return the problems to evaluate."""
        return self.all_problems[: self.limit]

    @cached_property
    def shots(self) -> tuple[Problem, ...]:
        """Return the example problems that the prompt mode shows, in its order."""
        wanted = self.prompt.shot_task_ids
        found = {problem.task_id: problem for problem in self.source.problems("prompt")} if wanted else {}
        missing = [task_id for task_id in wanted if task_id not in found]
        if missing:
            raise ConfigError(
                f"benchmark.suite: the prompt {self.prompt.name} shows {', '.join(missing)}, which {self.name} does "
                "not have. Choose a prompt mode without shots."
            )
        return tuple(found[task_id] for task_id in wanted)

    def asked_as(self, prompt: Prompt) -> "Benchmark":
        """Return the same benchmark in another prompt mode; what has been read stays read."""
        other = copy(self)
        object.__setattr__(other, "prompt", prompt)
        return other

    def text(self, problem: Problem) -> str:
        """Write the prompt of one problem."""
        return self.prompt.render(problem, self.shots)

    def source_of(self, problem: Problem, completion: str, whole: bool = False, how: str = "none") -> str:
        """Write the program to judge: the completion as it is or what `extraction.extract` finds in it.

        Args:
            whole: 프롬프트를 앞에 붙이지 않을 완전한 프로그램인지.
        """
        if how == "none":
            return completion if whole else self.prompt.program(problem, completion)
        prompt = "" if whole else self.prompt.program(problem, "")
        return extract(completion, how, problem.defines, prompt, "\n".join((problem.setup, *problem.tests)))

    def program(
        self,
        problem: Problem,
        completion: str,
        limits: Limits | None = None,
        place: str = "either",
        answers: Answers | None = None,
        **given: Any,
    ) -> Program:
        """Build the program to judge from a completion, given as `source_of` takes it."""
        return program_of(problem, self.source_of(problem, completion, **given), limits or self.limits, place, answers)

    def reference(self, problem: Problem, limits: Limits, place: str = "either") -> Program:
        """Build the reference solution as a program to judge, an empty program where there is none."""
        return program_of(problem, next(iter(problem.solutions), ""), limits, place)

    def identity(self) -> dict[str, Any]:
        """Describe everything about the benchmark that a result depends on."""
        digest = hashlib.sha256()
        for problem in self.problems:
            judged = (problem.tests, problem.setup, problem.stdio, problem.time_limit, problem.memory_limit)
            files = problem.input_file, problem.output_file
            digest.update(repr((problem.task_id, self.text(problem), *judged, *files)).encode())
            if problem.inputs:  # what the reference returns is what is right
                digest.update(repr([getattr(problem, name) for name in _OF_INPUTS] + [problem.solutions[:1]]).encode())
            if others := [getattr(problem, name) for name in _OF_SOME if getattr(problem, name) != _USUAL[name]]:
                digest.update(repr(others).encode())
        return {
            "name": self.name,
            "split": self.split,
            "prompt": self.prompt.name,
            "shots": len(self.prompt.shot_task_ids),
            "limit": self.limit,
            "problems": digest.hexdigest()[:16],
            "limits": repr(self.limits),
            **self.prompt.conversation,
        }


def program_of(
    problem: Problem, source: str, limits: Limits, place: str = "either", answers: Answers | None = None
) -> Program:
    """Join a program and the tests of its problem, which may allow it more time and memory than the limits do.

    Args:
        answers: 입력으로 판정하는 문제의 옳은 값 (answers.py). 없으면 그런 문제의 tests로 판정한다.
    """
    if answers:
        return calling(problem, source, limits, answers)
    of_problem = ("tests", "setup", "stdio", *_OF_SOME, "input_file", "output_file", "entry_point", "task_id")
    shared = {name: getattr(problem, name) for name in of_problem}
    imports = imports_of(problem.solutions[0]) if problem.solutions else ""
    return Program(source, imports=imports, place=place, limits=limits_of(problem, limits), **shared)


def choose(metrics: Sequence[str], benchmarks: Mapping[str, Benchmark]) -> list[Benchmark]:
    """Pick the benchmarks behind a list of metric names, in the list's order.

    Raises:
        ConfigError: 모르는 이름이 있거나 목록이 비었을 때.
    """
    unknown = [name for name in metrics if name not in benchmarks]
    if unknown or not metrics:
        raise ConfigError(
            f"benchmark.metrics = [{', '.join(metrics)}] must name at least one of {', '.join(benchmarks)} "
            "and nothing else."
        )
    return [benchmarks[name] for name in metrics]
