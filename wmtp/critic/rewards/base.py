"""Choose the programs of a data set, and keep their rewards shard by shard.

[동작] 문제 64개가 한 다발이고, 다발마다 캐시의 항목 하나다 (wmtp.cache.entries). 다발을 잠그고 채점하므로 랭크들이
    통신 없이 나누어 한다. 다발의 이름은 문제의 번호라서, limit을 늘리면 더해진 다발만 채점한다.
"""

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from wmtp import ranges
from wmtp.cache.entries import build_together, entry_file, pack, read_entry, unpack
from wmtp.cache.fingerprint import code_of, modules_of
from wmtp.checks import check_whole_number
from wmtp.data import mutation
from wmtp.data.module import MTPDataModule
from wmtp.data.problem import Problem, Source
from wmtp.progress import progress_bar

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

    Args:
        solutions: 문제마다 쓸 정답의 수.
        incorrect: 문제마다 쓸 데이터의 오답의 수.
        mutants: 정답이 있는 문제의 오답이 이보다 적으면 정답의 돌연변이로 채운다.
        seed: 돌연변이를 정한다.

    Raises:
        ConfigError: 수가 음수이거나, 정답을 하나도 쓰지 않을 때.
    """

    name: str
    binary = False

    def __init__(self, solutions: int = 1, incorrect: int = 1, mutants: int = 1, seed: int = 42) -> None:
        ranges.check(ranges.Rewards, solutions=solutions, incorrect=incorrect, mutants=mutants)
        self.solutions, self.incorrect, self.mutants, self.seed = solutions, incorrect, mutants, seed

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
        check_whole_number("limit (problems to reward)", limit, null="all")
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
            "programs": [self.solutions, self.incorrect, self.mutants, self.seed],
            "code": [code_of(*modules_of(self), mutation), sys.version_info[:2]],
        }

    def given(self, problems: Sequence[Problem]) -> list[tuple[int, str, bool]]:
        """List the data's own programs: the number of the problem, the program, whether it is said to be right."""
        listed = []
        for i, problem in enumerate(problems):
            right, wrong = problem.solutions[: self.solutions], problem.incorrect_solutions[: self.incorrect]
            listed += [(i, program, True) for program in dict.fromkeys(right)]
            listed += [(i, program, False) for program in dict.fromkeys(wrong)]
        return listed

    def unproven(self, problems: Sequence[Problem], source: Source) -> list[tuple[int, str, Spans]]:
        """List the programs of problems without running any: the number of the problem, the program, its spans."""
        listed = []
        for i, problem in enumerate(problems):
            programs: dict[str, Spans] = {program: () for _, program, _ in self.given([problem])}
            right = set(problem.solutions)
            rng = self.rng(problem)
            for _ in range(DRAWS if right else 0):
                if len(programs.keys() - right) < self.mutants:
                    mutant, span = mutant_of(source, problem, problem.solutions[0], rng)
                    if mutant:
                        programs.setdefault(mutant, (span,))
            listed += [(i, program, spans) for program, spans in programs.items()]
        return listed

    def rng(self, problem: Problem) -> random.Random:
        """Start the draws of a problem's mutants: the same whatever else is judged."""
        return random.Random(f"{self.seed}/{problem.task_id}")

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
        with progress_bar(f"rewards: {self.name}", limit, 0, rank == 0, "problem") as bar:
            shards_of = _cut(folder, _once(data.source.stream(split)), limit)
            judge = lambda problems: _pack(problems, rows_of(problems) if problems else [])  # noqa: E731
            for file, problems, entry in build_together(shards_of, judge):
                shards[file] = _unpack(entry)
                bar.update(len(problems))
        return [shards[file] for file in sorted(shards)]


def mutant_of(source: Source, problem: Problem, program: str, rng: random.Random) -> tuple[str, tuple[int, int]]:
    """Draw a mutant of a right program; an empty text where nothing can be changed."""
    return source.mutate(replace(problem, solutions=(program,), noise_spans=()), rng) or ("", (0, 0))


def by_problem(
    count: int, programs: Sequence[tuple[int, str, Spans]], rewards: Sequence[float | None]
) -> list[list[Row]]:
    """Put programs that have a reward with their problems."""
    rows: list[list[Row]] = [[] for _ in range(count)]
    for (i, program, spans), reward in zip(programs, rewards, strict=True):
        if reward is not None:
            rows[i].append((program, reward, spans))
    return rows


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
    """Write judged problems; their own programs and inputs are not needed any more."""
    bare: dict[str, Any] = dict(solutions=(), incorrect_solutions=(), noise_spans=(), stdio=(), calls=(), origin="")
    return {"json": pack([[vars(replace(one, **bare)), judged] for one, judged in zip(problems, rows, strict=True)])}


def _unpack(entry: dict[str, Tensor]) -> list[Judged]:
    return [
        (_problem(fields), [(program, reward, tuple(map(tuple, spans))) for program, reward, spans in rows])
        for fields, rows in unpack(entry["json"])
    ]


def _problem(fields: dict[str, Any]) -> Problem:
    """Put a problem together again; JSON has made lists of its tuples."""
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in fields.items()}
    return Problem(**values)
