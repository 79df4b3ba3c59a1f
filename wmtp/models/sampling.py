"""Say what a model is asked to write, how its tokens are chosen, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wmtp import ranges

Ending = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Request:
    """Ask for one completion of one prompt.

    Attributes:
        key: 문제 이름. 표본의 씨앗이 된다.
        prompt: 모델이 이어 쓸 글.
        sample: 같은 문제의 몇 번째 표본인지.
        stop: 이 문자열이 나오면 그 앞에서 자른다.
    """

    key: str
    prompt: str
    sample: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Say how tokens are chosen (conf/sampling).

    Args:
        temperature: 0이면 greedy.
        top_p: 누적 확률이 이 값에 이를 때까지의 토큰만 남긴다.
        n: 문제마다 표본 수 (요청을 만드는 쪽이 읽는다).
        seed: 표본의 씨앗.
        max_new_tokens: 이어 쓸 토큰의 최대 수.
        batch_size: 함께 디코딩하는 행의 수. 결과는 달라지지 않는다.
        decoding: greedy의 결과는 셋 다 같다.
            "ordinary"는 한 토큰씩.
            "auto"는 헤드의 초안 가운데 보통의 디코딩이 뽑을 토큰만 받아들인다. 표본도 "ordinary"와 같으므로,
            실행하면서 재어 보고 빠른 쪽을 고른다.
            "speculative"는 언제나 초안을 쓰고, 표본은 maths.md 8절의 min(1, p/q)로 받아들인다. 더 많이 받아들이지만
            같은 것은 분포이고 표본은 아니다. 반올림에 대한 보장도 없다.
        stop: 프롬프트 방식의 것 대신 쓸 정지 문자열들 (요청을 만드는 쪽이 읽는다). []이면 없고, None이면 방식의 것.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    n: int = 1
    seed: int = 42
    max_new_tokens: int = 256
    batch_size: int = 16
    decoding: Literal["auto", "ordinary", "speculative"] = "auto"
    stop: list[str] | None = None

    def __post_init__(self) -> None:
        ranges.check(ranges.Sampling, **vars(self))

    def stop_strings(self, of_prompt: Sequence[str]) -> tuple[str, ...]:
        """Return where to stop: as the prompt mode says, unless `stop` does, where a shell leaves `\\n` two letters.

        Example:
            >>> Sampling().stop_strings(("[DONE]",)), Sampling(stop=["\\\\nclass"]).stop_strings(("[DONE]",))
            (('[DONE]',), ('\\nclass',))
        """
        if self.stop is None:
            return tuple(of_prompt)
        return tuple(one.replace("\\n", "\n").replace("\\t", "\t") for one in self.stop)


def stop_at(text: str, stop: Sequence[str]) -> int:
    """Return where the earliest stop string begins, or -1.

    Example:
        >>> stop_at("return x\\nclass A", ("\\nprint", "\\nclass"))
        8
    """
    return min((at for s in stop if (at := text.find(s)) >= 0), default=-1)


@dataclass(frozen=True)
class Completion:
    """Hold what the model wrote after a prompt.

    Attributes:
        key, sample: 요청의 것 그대로.
        text: 이어 쓴 글. 멈춤 문자열과 그 뒤는 없다.
        tokens: 뽑은 토큰 전부 (멈추게 한 토큰까지).
        finished: "eos", "stop", 또는 길이가 다해서 "length".
        near_ties: 반올림으로 갈릴 뻔해서 다시 계산한 토큰의 수.
        blocks: 초안을 검증한 횟수.
        accepted: 헤드 1, 2, …의 초안이 (앞의 초안과 함께) 받아들여진 횟수.
    """

    key: str
    sample: int
    text: str
    tokens: tuple[int, ...]
    finished: Ending
    near_ties: int = 0
    blocks: int = 0
    accepted: tuple[int, ...] = ()


def acceptance(completions: Sequence[Completion]) -> list[float]:
    """Return how often the draft of each extra head was accepted, together with those before it.

    Example:
        >>> acceptance([Completion("x", 0, "", (), "eos", blocks=4, accepted=(4, 2))])
        [1.0, 0.5]
    """
    drafted = [c for c in completions if c.blocks]
    blocks = sum(c.blocks for c in drafted)
    return [sum(counts) / blocks for counts in zip(*(c.accepted for c in drafted), strict=True)]
