"""Turn problems into token sequences with a boundary between prompt and target.

[연구 맥락] 학습 대상은 정답 프로그램뿐이다. 프롬프트와 정답을 따로 토큰화해 이어 붙이므로,
    생성할 때 모델이 보는 프롬프트와 학습 때의 프롬프트가 토큰 단위로 똑같다.
[동작] Problem + 프롬프트 방식 → TokenizedSample. 길이를 넘는 문제는 자르지 않고 버리며, 몇 개인지 센다.
    표본들은 객체의 목록이 아니라 이어 붙인 텐서 몇 개(TokenizedSamples)다. 그대로 파일에 두고 비추어 쓴다.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wmtp.cache.entries import pack, unpack
from wmtp.data.problem import Problem
from wmtp.models.encoding import encode_prompt, encode_solution


@dataclass(frozen=True)
class TokenizedSample:
    """Hold one training sequence: prompt, solution, end of text.

    [동작] 갓 만든 표본은 tuple을, `TokenizedSamples`에서 꺼낸 표본은 그 텐서의 한 조각(복사하지 않은 것)을 담는다.

    Attributes:
        task_id: 문제의 이름.
        input_ids: 프롬프트 + 정답 + EOS의 토큰 번호.
        prompt_length: 앞의 몇 토큰이 프롬프트인지. 이 토큰들은 학습 대상이 아니다.
        noise: 토큰마다, 일부러 망가뜨린 글자를 담고 있으면 True.
        reference_nll: 토큰마다 참조모델의 CE (`wmtp.algos.reference`). 미리 계산해 두지 않았으면 None.
    """

    task_id: str
    input_ids: Sequence[int] | Tensor
    prompt_length: int
    noise: Sequence[bool] | Tensor
    reference_nll: Sequence[float] | Tensor | None = None

    @property
    def targets(self) -> int:
        """Count the target tokens; the very first token has no position before it."""
        return len(self.input_ids) - max(self.prompt_length, 1)


class LossesBySample(Protocol):
    """Give what a reference model loses on every token of the i-th sample."""

    def __getitem__(self, i: int, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class TokenizedSamples:
    """Hold samples end to end in a few flat tensors; a sample becomes an object only while it is looked at.

    Attributes:
        tensors: input_ids [N], noise [N], starts [S + 1], prompt_lengths [S], task_ids (글자들).
            N은 모든 토큰, S는 표본의 수. i번째 표본은 starts[i]부터 starts[i + 1] 앞까지다.
        reference_nll: 표본마다 참조모델의 CE들. 없으면 None.

    Example:
        >>> samples = TokenizedSamples.pack([TokenizedSample("a", (5, 6, 7), 1, (False, False, True))])
        >>> samples[0].input_ids.tolist(), samples.lengths, samples.targets
        ([5, 6, 7], [3], [2])
    """

    tensors: dict[str, Tensor]
    reference_nll: LossesBySample | None = field(default=None, repr=False)

    @classmethod
    def pack(cls, samples: Iterable[TokenizedSample]) -> "TokenizedSamples":
        """Put samples end to end, one at a time."""
        input_ids, noise, starts, prompt_lengths, names = array("i"), bytearray(), array("q", [0]), array("i"), []
        for sample in samples:
            input_ids.extend(sample.input_ids)
            noise.extend(sample.noise)
            starts.append(len(input_ids))
            prompt_lengths.append(sample.prompt_length)
            names.append(sample.task_id)
        return cls(
            {
                "input_ids": _tensor(input_ids, torch.int32),
                "noise": _tensor(noise, torch.bool),
                "starts": _tensor(starts, torch.int64),
                "prompt_lengths": _tensor(prompt_lengths, torch.int32),
                "task_ids": pack(names),
            }
        )

    def with_reference(self, losses: LossesBySample | None) -> "TokenizedSamples":
        """Return the same samples, each with what a reference model loses on its tokens."""
        samples = copy(self)  # and what was counted already
        object.__setattr__(samples, "reference_nll", losses)
        return samples

    @cached_property
    def starts(self) -> list[int]:
        """List where each sample starts in the tensors that hold all of them, and where the last one ends."""
        return self.tensors["starts"].tolist()

    @cached_property
    def task_ids(self) -> list[str]:
        """List the name of each sample's problem."""
        return unpack(self.tensors["task_ids"])

    @cached_property
    def lengths(self) -> list[int]:
        """Count the tokens of every sample."""
        return self.tensors["starts"].diff().tolist()

    @cached_property
    def targets(self) -> list[int]:
        """Count the target tokens of every sample."""
        return (self.tensors["starts"].diff() - self.tensors["prompt_lengths"].clamp(min=1)).tolist()

    @cached_property
    def fingerprint(self) -> str:
        """Name what a model reads here and what it is asked, by content."""
        digest = hashlib.sha256()
        for name in ("input_ids", "starts", "prompt_lengths"):
            digest.update(self.tensors[name].numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[TokenizedSample]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, i: int) -> TokenizedSample:
        if not 0 <= i < len(self):
            raise IndexError(i)
        here = slice(self.starts[i], self.starts[i + 1])
        return TokenizedSample(
            self.task_ids[i],
            self.tensors["input_ids"][here],
            int(self.tensors["prompt_lengths"][i]),
            self.tensors["noise"][here],
            None if self.reference_nll is None else self.reference_nll[i],
        )


def _tensor(values: array | bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)


def tokenize_problem(
    problem: Problem, prompt: Any, tokenizer: PreTrainedTokenizerBase, shots: Sequence[Problem] = ()
) -> TokenizedSample:
    """Tokenize one problem for training.

    Args:
        problem: 정답이 하나 이상 있는 문제.
        tokenizer: 빠른(fast) 토크나이저. 글자 위치를 알려 주어야 한다.
    """
    prompt_ids = encode_prompt(tokenizer, prompt.render(problem, shots))
    text = prompt.completion(problem)
    # Noise spans count from the solution's first character, which may be in the prompt.
    shift = text.find(problem.answer) - len(problem.solutions[0]) + len(problem.answer)
    target_ids, places = encode_solution(tokenizer, text, prompt.end(tokenizer))
    noise = [False] * (len(prompt_ids) + len(target_ids))
    for span_start, span_end in problem.noise_spans:
        for place, (start, end) in enumerate(places, start=len(prompt_ids)):
            noise[place] |= start < span_end + shift and span_start + shift < end
    return TokenizedSample(problem.task_id, (*prompt_ids, *target_ids), len(prompt_ids), tuple(noise))


def tokenize_problems(
    problems: Iterable[Problem],
    prompt: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    shots: Sequence[Problem] = (),
) -> tuple[TokenizedSamples, list[str]]:
    """Tokenize problems and set aside those that do not fit.

    Returns:
        (들어가는 표본들, 길이가 max_length를 넘거나 정답이 없어 버린 문제의 이름들).
    """
    dropped = []

    def fitting() -> Iterator[TokenizedSample]:
        for problem in problems:
            sample = tokenize_problem(problem, prompt, tokenizer, shots) if problem.solutions else None
            if sample is None or len(sample.input_ids) > max_length:
                dropped.append(problem.task_id)
            else:
                yield sample

    return TokenizedSamples.pack(fitting()), dropped
