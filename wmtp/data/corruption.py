"""Corrupt a share of the training solutions of any source, and say where.

[연구 맥락] 진짜 데이터(MBPP, CodeContests)에는 어느 토큰이 나쁜지 적혀 있지 않다. 가중치가 나쁜 토큰을 찾는지 재려면
    일부러 망가뜨리고 자리를 적어 두어야 한다. 사람이 틀리는 방식의 한 곳 바꾸기(mutation.py)를 한 풀이에 몇 번 한다.
[동작] 어느 문제를 어떻게 망가뜨릴지는 seed와 task_id만 정한다. 그래서 noise가 달라도 짝지을 수 있고, noise=0.5에서
    망가진 문제는 noise=0.7에서도 똑같이 망가진다. 검증과 시험은 언제나 깨끗하다.
[디버깅] 무엇이 망가졌는지는 problem.noise_spans를 본다. 뜻이 같은 채 남은 풀이가 얼마나 되는지는 docs/data.md에 있다.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from wmtp import ranges
from wmtp.cache.fingerprint import code_of, digest_of
from wmtp.data import mutation
from wmtp.data.mixture import refuse_evaluation_only
from wmtp.data.problem import Around, Problem, Source

Spans = tuple[tuple[int, int], ...]


class Corrupted(Around):
    """Give the problems of a source, a share of the training solutions corrupted in a few places.

    [동작] 학습에 쓰이는 첫 정답만 바꾼다. 원래의 정답은 어디에도 남지 않는다: critic도 보지 못한다.

    Args:
        source: 망가뜨릴 출처.
        noise: 망가뜨릴 학습 문제의 비율, [0, 1]. 바꿀 곳이 없는 풀이는 그대로 남는다.
        mutations: 한 풀이에서 바꿀 곳의 수. 한 곳이 다음 곳을 덮을 수도 있다.
        part: all, 또는 학습 문제 가운데 망가지지 않은 것만(clean), 망가진 것만(corrupted). clean은 깨끗한 몫으로만
            배운 참조모델을 만들 때 쓴다.
        seed: 무엇을 어떻게 망가뜨릴지. 학습의 seed와 무관하다.

    Raises:
        ConfigError: 인자가 범위를 벗어났거나, 평가 전용 출처일 때.

    Example:
        >>> from wmtp.data.synthetic import Synthetic
        >>> problem = next(Corrupted(Synthetic(train_size=1), noise=1, mutations=2).stream("train"))
        >>> problem.solutions != Synthetic(train_size=1).problems("train")[0].solutions, len(problem.noise_spans) > 0
        (True, True)
    """

    def __init__(
        self, source: Source, noise: float = 0.5, mutations: int = 4, part: str = "all", seed: int = 42
    ) -> None:
        ranges.check(ranges.Corrupted, noise=noise, mutations=mutations, part=part)
        refuse_evaluation_only(source)
        super().__init__(source)
        self.name = "corrupted"
        self.noise, self.mutations, self.part, self.seed = noise, mutations, part, seed

    def stream(self, split: str) -> Iterator[Problem]:
        """Yield the problems; those of the training split as they are corrupted, and of the part that is wanted."""
        for problem in self.source.stream(split):
            if split != "train":
                yield problem
                continue
            corrupted = self._corrupt(problem)
            if self.part == "all" or (self.part == "corrupted") == bool(corrupted.noise_spans):
                yield corrupted

    def published(self, split: str) -> Iterator[Problem]:
        """Yield the problems of the same part as they were: a leak is found by what the data says of itself."""
        wanted = {problem.task_id for problem in self.stream(split)}
        return (problem for problem in self.source.published(split) if problem.task_id in wanted)

    def fingerprint(self, split: str = "all") -> str:
        """Identify the content: that of the source, and how it is corrupted."""
        how = [float(self.noise), self.mutations, self.part, self.seed, code_of(mutation, sys.modules[__name__])]
        return digest_of([self.source.fingerprint(split), *(how if split in ("train", "all") else [])])[:16]

    def _corrupt(self, problem: Problem) -> Problem:
        # A string seed goes through SHA-512, so PYTHONHASHSEED has no say.
        rng = Random(f"{self.seed}/noise/{problem.task_id}")
        if rng.random() >= self.noise or not problem.solutions:
            return problem
        solution = problem.solutions[0]
        spans: tuple[tuple[int, int], ...] = ()
        for _ in range(self.mutations):
            changed = self.source.mutate(replace(problem, solutions=(solution,)), rng)
            if changed is None:
                break
            spans = with_edit(spans, changed[1], len(changed[0]) - len(solution))
            solution = changed[0]
        if solution == problem.solutions[0]:  # nothing to change, or changed and changed back
            return problem
        return replace(problem, solutions=(solution, *problem.solutions[1:]), noise_spans=spans)


def with_edit(spans: Spans, edit: tuple[int, int], growth: int) -> Spans:
    """Move spans along with one more edit of the text, and add its own; what overlaps becomes one span.

    Args:
        spans: 앞서 달라진 글자 구간들, 겹치지 않고 차례대로.
        edit: 새 글에서 달라진 구간 [시작, 끝).
        growth: 이 바꾸기로 글이 길어진 글자 수. 짧아졌으면 음수.

    Example:
        >>> with_edit(((2, 4), (10, 12)), (5, 8), growth=2)
        ((2, 4), (5, 8), (12, 14))
        >>> with_edit(((2, 4), (10, 12)), (3, 11), growth=0)
        ((2, 12),)
    """
    start, end = edit
    replaced = end - growth  # where the edit ended in the text before it
    moved = []
    for left, right in spans:
        if right <= start:
            moved.append((left, right))
        elif left >= replaced:
            moved.append((left + growth, right + growth))
        else:
            start, end = min(start, left), max(end, right + growth)
    return tuple(sorted([*moved, (start, end)]))
