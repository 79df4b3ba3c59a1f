"""Mix several sources into one, each with a weight.

[연구 맥락] 데이터의 비율은 결과를 바꾼다. 그래서 비율은 확률이 아니라 정확한 횟수다: 무게 2인 출처의 문제는 한 에폭에
    정확히 두 번, 무게 0.5인 출처의 문제는 절반만 한 번 나온다. 계획(batching.py)도 재개도 그대로 정확하다.
[동작] 학습 분할에만 무게를 준다. 검증 분할에는 무게가 0이 아닌 출처의 문제가 한 번씩 나온다.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from random import Random

from typing_extensions import override

from wmtp import ranges
from wmtp.cache.fingerprint import digest_of
from wmtp.data.problem import Problem, Source
from wmtp.errors import ConfigError


class Mix(Source):
    """Give the problems of several sources, each as often as its weight says.

    Args:
        sources: 이름 → 출처.
        weights: 이름 → 한 에폭에 학습 문제가 나오는 횟수. 0이면 그 출처를 쓰지 않는다.
            소수 부분은 task_id의 해시로 고른 만큼의 문제가 한 번 더 나온다.

    Raises:
        ConfigError: 모르는 이름, 음수, 모두 0, 또는 평가 전용 출처일 때.

    Example:
        >>> from wmtp.data.synthetic import Synthetic
        >>> mix = Mix({"synthetic": Synthetic(train_size=3, validation_size=1)}, {"synthetic": 2})
        >>> [problem.task_id[-1] for problem in mix.stream("train")]
        ['0', '0', '1', '1', '2', '2']
    """

    name = "mix"

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float]) -> None:
        ranges.check(ranges.Mix, weights=weights)
        for name in weights:
            if name not in sources:
                raise ConfigError(f"data.weights.{name}: there is no such source; choose from {', '.join(sources)}.")
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.sources = {name: sources[name] for name in self.weights}
        if not self.sources:
            raise ConfigError("data.weights leaves no source; give at least one a weight > 0.")
        for source in self.sources.values():
            refuse_evaluation_only(source)
        self.licence = ", ".join(sorted(set(self.licences.values())))

    @property
    @override
    def licences(self) -> dict[str, str]:
        return {name: licence for source in self.sources.values() for name, licence in source.licences.items()}

    def stream(self, split: str) -> Iterator[Problem]:
        """Yield the problems of one source after the other, training problems as often as they are to come."""
        return self._together(split, {name: source.stream for name, source in self.sources.items()})

    @override
    def published(self, split: str) -> Iterator[Problem]:
        return self._together(split, {name: source.published for name, source in self.sources.items()})

    def _together(self, split: str, streams: Mapping[str, Callable[[str], Iterator[Problem]]]) -> Iterator[Problem]:
        for name, stream in streams.items():
            weight = self.weights[name] if split == "train" else 1
            for problem in stream(split) if split in self.sources[name].splits else ():
                share = int.from_bytes(hashlib.sha256(problem.task_id.encode()).digest()[:8]) / 2**64
                yield from [problem] * (int(weight) + (share < weight % 1))

    def mutate(self, problem: Problem, rng: Random) -> tuple[str, tuple[int, int]] | None:
        """Write a mutant as the problem's own source does."""
        source = next(source for source in self.sources.values() if source.name == problem.source)
        return source.mutate(problem, rng)

    def fingerprint(self, split: str = "all") -> str:
        """Identify the content: that of the sources, and the weights."""
        parts = [[name, self.weights[name], source.fingerprint(split)] for name, source in self.sources.items()]
        return digest_of(["mix", *parts])[:16]


def refuse_evaluation_only(source: Source) -> None:
    """Refuse to train on a source that is a benchmark and nothing else.

    Raises:
        ConfigError: 출처에 train 분할이 없을 때.
    """
    if "train" not in source.splits:
        raise ConfigError(
            f"data.module.source = {source.name} is for evaluation only: training on a test split would make its "
            f"numbers worthless. Train on mbpp, codecontests or mix, and evaluate with benchmark={source.name}."
        )
