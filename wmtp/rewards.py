"""Give whole programs a reward: what the critic learns to foresee, token by token.

[연구 맥락] critic은 "이 프로그램이 맞을 것인가"를 배운다 (MATHS.md 5절의 R). 맞은 프로그램과 틀린 프로그램이 한 곳만
    다르면 둘의 차이는 그 자리에서만 배울 수 있다. 오답이 없는 데이터에서는 정답을 한 곳만 고치고(`Source.mutate`),
    정말 틀렸는지는 샌드박스가 판정한다.
[동작] 세 가지가 같은 모양이다: `judge(data, split, limit, model) -> [RewardedProgram]`.
    Tests        시험을 통과하면 1, 아니면 0
    문제 64개가 한 조각, 조각마다 캐시의 항목 하나다. 조각을 잠그고 채점하므로 랭크들이 나누어 하고, 죽었다 깨어나면
    남은 조각만 한다. 데이터의 알려진 손상(noise_spans)은 결코 보지 않는다.
[디버깅] 보상이 모두 0이면 데이터의 정답이 제 시험을 통과하는지 본다.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmtp.data import mutation
from wmtp.data.fingerprint import code_of, digest_of_file
from wmtp.data.module import MTPDataModule
from wmtp.data.problem import Problem, Source
from wmtp.data.token_cache import entry_file, read_entry, read_or_build
from wmtp.errors import ConfigError
from wmtp.evaluation import sandbox as sandbox_package
from wmtp.evaluation.benchmarks import program_of
from wmtp.evaluation.progress import progress_bar
from wmtp.evaluation.sandbox import Limits, Sandbox, limits_from_references

SHARD = 64  # problems: what a kill loses at most
DRAWS = 8  # of mutants, before a problem is left with fewer

Spans = tuple[tuple[int, int], ...]
Row = tuple[str, float, Spans]  # a program, its reward, where it differs from the right one that it was made from
Judged = tuple[Problem, list[Row]]


@dataclass(frozen=True)
class RewardedProgram:
    """Hold one program and its reward.

    Attributes:
        problem: 프로그램이 푸는 문제. solutions는 이 프로그램 하나, noise_spans는 바탕이 된 맞은 프로그램과 다른 곳
            (돌연변이가 아니면 비어 있다). 보상은 이미 정해졌으므로 stdio는 비운다.
        reward: 시퀀스보상.
    """

    problem: Problem
    reward: float


class Rewards:
    """Judge the programs of a data set shard by shard, and keep every shard; each kind says how.

    Attributes:
        name: 설정과 기록에 쓰는 이름.
        binary: 보상이 0과 1뿐이면 True.
    """

    name: str
    binary = False

    def judge(
        self, data: MTPDataModule, split: str, limit: int | None = None, model: Any = None
    ) -> list[RewardedProgram]:
        """Return the programs of a split with their rewards, by problem, the right ones first.

        [동작] 여러 랭크가 함께 부르면 나누어 하고, 모두 끝나야 돌아온다. 두 번째부터는 캐시에서 읽는다.

        Args:
            data: 문제의 출처, 프롬프트, 토크나이저.
            split: "train" 또는 "validation".
            limit: 앞에서부터 이만큼의 문제만. None이면 모두. 늘리면 더해진 것만 채점한다.
            model: 학습할 모델. NegCE만 쓴다.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ConfigError(f"limit = {limit!r} problems to reward must be a whole number >= 1, or null for all.")
        folder = entry_file("rewards", self.key(data, split, model)).with_suffix("")
        shards = _read(folder, limit)
        if shards is None:
            with self.judging(data, model) as rows_of:
                shards = self._build(folder, data, split, limit, rows_of)
        return [
            RewardedProgram(replace(problem, solutions=(program,), noise_spans=spans), reward)
            for shard in shards
            for problem, rows in shard
            for program, reward, spans in rows
        ]

    def key(self, data: MTPDataModule, split: str, model: Any) -> dict[str, Any]:
        """Return everything that decides the rewards of a split."""
        return {
            "kind": self.name,
            "split": split,
            "source": data.source.fingerprint(split),
            "code": [code_of(sys.modules[__name__], mutation), sys.version_info[:2]],
        }

    def judging(
        self, data: MTPDataModule, model: Any
    ) -> AbstractContextManager[Callable[[Sequence[Problem]], list[list[Row]]]]:
        """Make ready whatever judging needs; the function that comes out judges the programs of a few problems."""
        raise NotImplementedError

    def _build(
        self, folder: Path, data: MTPDataModule, split: str, limit: int | None, rows_of: Callable
    ) -> list[list[Judged]]:
        """Judge whatever is not there yet and not in another process's hands, then wait for the rest."""
        rank = data.trainer.global_rank if data.trainer else 0
        shards: dict[Path, list[Judged]] = {}
        work: Iterable = _cut(folder, _once(data.source.stream(split)), limit)
        with progress_bar(f"rewards: {self.name}", limit, 0, rank == 0) as bar:
            while True:
                held = []
                for file, problems in work:

                    def build(problems: list[Problem] = problems) -> dict[str, Tensor]:
                        return _pack(problems, rows_of(problems))

                    entry = read_or_build(file, build, wait=False)
                    if entry is None:
                        held.append((file, problems))
                    else:
                        shards[file] = _unpack(entry)
                        bar.update(len(problems))
                if not held:
                    return [shards[file] for file in sorted(shards)]
                time.sleep(0.1)
                work = held


class Tests(Rewards):
    """Reward a program with 1 if it passes its tests, with 0 if not.

    [동작] 문제마다 정답과 오답을 실행한다. 정답이라는데 실패하면 오답으로 세고, 오답이라는데 통과하면 버린다.
    그래도 오답이 모자라면 통과한 정답의 돌연변이를 만들어, 실패하는 것만 오답으로 쓴다.
    timeout이 나온 문제는 참조 정답이 느린지 재고, 느리면 한도를 늘려 다시 채점한다.

    Args:
        solutions: 문제마다 쓸 정답의 수.
        incorrect: 문제마다 쓸 데이터의 오답의 수.
        mutants: 맞은 정답이 있는 문제의 오답이 이보다 적으면 돌연변이로 채운다.
        sandbox: 프로그램을 돌릴 곳 (닫힌 것). 채점할 것이 있을 때만 연다. None이면 `Sandbox()`.
        limits: 프로그램 하나의 한도. None이면 `Limits()`.
        seed: 돌연변이를 정한다.

    Raises:
        ConfigError: 수가 음수이거나, 정답을 하나도 쓰지 않을 때.
    """

    name = "tests"
    binary = True

    def __init__(
        self,
        solutions: int = 1,
        incorrect: int = 1,
        mutants: int = 1,
        sandbox: Sandbox | None = None,
        limits: Limits | None = None,
        seed: int = 42,
    ) -> None:
        for name, value, least in (("solutions", solutions, 1), ("incorrect", incorrect, 0), ("mutants", mutants, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"algo.rewards.{name} = {value!r} must be a whole number >= {least}; try 1.")
        self.solutions, self.incorrect, self.mutants, self.seed = solutions, incorrect, mutants, seed
        self.sandbox, self.limits = sandbox or Sandbox(), limits or Limits()

    def key(self, data: MTPDataModule, split: str, model: Any) -> dict[str, Any]:
        judge = sorted(Path(sandbox_package.__file__).parent.rglob("*.py"))
        return super().key(data, split, model) | {
            "programs": [self.solutions, self.incorrect, self.mutants, self.seed],
            "limits": repr(self.limits),
            "sandbox": [digest_of_file(file) for file in judge],
        }

    @contextmanager
    def judging(self, data: MTPDataModule, model: Any) -> Iterator[Callable[[Sequence[Problem]], list[list[Row]]]]:
        with self.sandbox:
            yield lambda problems: self._rows(problems, data.source)

    def _rows(self, problems: Sequence[Problem], source: Source) -> list[list[Row]]:
        right: list[list[str]] = [[] for _ in problems]
        wrong: list[dict[str, Spans]] = [{} for _ in problems]
        limits: dict[int, Limits] = {}
        given = [
            (i, program, claimed)
            for i, problem in enumerate(problems)
            if problem.tests or problem.stdio  # without a test everything passes
            for claimed, programs in (
                (True, problem.solutions[: self.solutions]),
                (False, problem.incorrect_solutions[: self.incorrect]),
            )
            for program in dict.fromkeys(programs)
        ]
        passed = self._passed(problems, [(i, program) for i, program, _ in given], limits)
        for (i, program, claimed), passes in zip(given, passed, strict=True):
            if not passes:
                wrong[i][program] = ()
            elif claimed:
                right[i].append(program)
        rngs = [random.Random(f"{self.seed}/{problem.task_id}") for problem in problems]
        for _ in range(DRAWS):
            drawn = {
                (i, mutant): span
                for i, problem in enumerate(problems)
                if right[i]
                for _ in range(self.mutants - len(wrong[i]))
                for mutant, span in [_mutant(source, problem, right[i][0], rngs[i])]
                if mutant and mutant not in wrong[i]
            }
            for (i, mutant), passes in zip(drawn, self._passed(problems, list(drawn), limits), strict=True):
                if not passes:
                    wrong[i][mutant] = (drawn[i, mutant],)
        return [
            [(program, 1.0, ()) for program in good] + [(program, 0.0, spans) for program, spans in bad.items()]
            for good, bad in zip(right, wrong, strict=True)
        ]

    def _passed(
        self, problems: Sequence[Problem], programs: list[tuple[int, str]], limits: dict[int, Limits]
    ) -> list[bool]:
        """Run programs, each given by the number of its problem; what times out may get longer `limits`."""
        statuses = self._run(problems, programs, limits)
        late = {i for (i, _), status in zip(programs, statuses, strict=True) if status == "timeout"} - limits.keys()
        slow = [i for i in sorted(late) if problems[i].solutions]
        references = [program_of(problems[i], problems[i].solutions[0], self.limits) for i in slow]
        limits |= dict(zip(slow, limits_from_references(self.sandbox, references), strict=True))
        again = [
            n
            for n, (i, _) in enumerate(programs)
            if i in slow and statuses[n] == "timeout" and limits[i] != self.limits
        ]
        for n, status in zip(again, self._run(problems, [programs[n] for n in again], limits), strict=True):
            statuses[n] = status
        return [status == "passed" for status in statuses]

    def _run(
        self, problems: Sequence[Problem], programs: list[tuple[int, str]], limits: dict[int, Limits]
    ) -> list[str]:
        asked = (program_of(problems[i], program, limits.get(i, self.limits)) for i, program in programs)
        verdicts = dict(self.sandbox.judge(asked))
        return [verdicts[n].status for n in range(len(programs))]


def _mutant(source: Source, problem: Problem, program: str, rng: random.Random) -> tuple[str, tuple[int, int]]:
    """Draw a mutant of a right program; an empty text where nothing can be changed."""
    return source.mutate(replace(problem, solutions=(program,), noise_spans=()), rng) or ("", (0, 0))


def _once(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Leave out the second time that a mixture gives a problem."""
    seen = set()
    for problem in problems:
        if problem.task_id not in seen:
            seen.add(problem.task_id)
            yield problem


def _files(folder: Path, limit: int | None) -> Iterator[tuple[Path, int]]:
    """Name the shards, and how many problems each holds unless the split ends there."""
    first = 0
    while limit is None or first < limit:
        end = first + SHARD if limit is None else min(first + SHARD, limit)
        yield folder / f"{first:07d}-{end:07d}.safetensors", end - first
        first = end


def _cut(folder: Path, problems: Iterator[Problem], limit: int | None) -> Iterator[tuple[Path, list[Problem]]]:
    """Cut a stream of problems into shards; one that is not full says that the split ends there."""
    for file, size in _files(folder, limit):
        shard = list(islice(problems, size))
        yield file, shard
        if len(shard) < size:
            return


def _read(folder: Path, limit: int | None) -> list[list[Judged]] | None:
    """Read the shards; None if one is missing."""
    shards = []
    for file, size in _files(folder, limit):
        entry = read_entry(file)
        if entry is None:
            return None
        shards.append(_unpack(entry))
        if len(shards[-1]) < size:
            break
    return shards


def _pack(problems: Sequence[Problem], rows: Sequence[Sequence[Row]]) -> dict[str, Tensor]:
    """Write judged problems as the bytes of a JSON text; their own programs and inputs are not needed any more."""
    bare = [replace(problem, solutions=(), incorrect_solutions=(), noise_spans=(), stdio=()) for problem in problems]
    text = json.dumps([[vars(problem), programs] for problem, programs in zip(bare, rows, strict=True)])
    return {"json": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def _unpack(entry: dict[str, Tensor]) -> list[Judged]:
    judged = json.loads(entry["json"].numpy().tobytes())
    return [
        (
            Problem(**{name: tuple(value) if isinstance(value, list) else value for name, value in problem.items()}),
            [(program, reward, tuple(map(tuple, spans))) for program, reward, spans in rows],
        )
        for problem, rows in judged
    ]
