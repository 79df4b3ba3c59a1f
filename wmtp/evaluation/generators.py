"""Say what writes samples: a model in this process, or anything else that completes prompts (server.py).

[연구 맥락] 같은 벤치마크, 같은 채점, 같은 파일이면 누가 썼든 견줄 수 있다. 그래서 평가가 아는 것은 여기 적힌 셋뿐이다.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from wmtp.models.sampling import Request, Sampling


class Written(NamedTuple):
    """Hold one answer, and what it took.

    Attributes:
        text: 정지 문자열 앞까지의 답.
        tokens: 쓴 토큰의 수.
        blocks, accepted: 초안을 검증한 횟수, 받아들인 횟수 (`Completion`).
    """

    text: str
    tokens: int
    blocks: int = 0
    accepted: tuple[int, ...] = ()


class Generator(Protocol):
    """Complete prompts."""

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        """Answer every request; yield (index, answer) as they finish."""

    def too_long(self, prompts: Iterable[str]) -> dict[str, str]:
        """Find the prompts that cannot be read whole, and say why."""

    def abandon(self) -> None:
        """End what is being asked, from another thread: nobody waits for it any more."""


@dataclass(frozen=True)
class InProcess:
    """Complete with a model of this process."""

    model: Any
    tokenizer: Any

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        """Decode in batches (`wmtp.models.generation.generate`)."""
        from wmtp.models.generation import generate  # with transformers, which take seconds to load

        for index, done in generate(self.model, self.tokenizer, requests, sampling):
            yield index, Written(done.text, len(done.tokens), done.blocks, done.accepted)

    def too_long(self, prompts: Iterable[str]) -> dict[str, str]:
        """Find the prompts that leave the model no position for an answer."""
        from wmtp.models.generation import position_limit, too_long

        limit = position_limit(self.model)
        return {
            prompt: f"the prompt has {tokens} tokens, the model {limit} positions"
            for prompt, tokens in too_long(self.model, self.tokenizer, prompts).items()
        }

    def abandon(self) -> None:
        """Do nothing: the sample at hand is the last."""
