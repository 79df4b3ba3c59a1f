"""Turn problems into token sequences with a boundary between prompt and target.

[연구 맥락] 학습 대상은 정답 프로그램뿐이다. 프롬프트와 정답을 따로 토큰화해 이어 붙이므로,
    생성할 때 모델이 보는 프롬프트와 학습 때의 프롬프트가 토큰 단위로 똑같다.
[동작] Problem + 프롬프트 방식 → TokenizedSample. 길이를 넘는 문제는 자르지 않고 버리며, 몇 개인지 센다.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from wmtp.data.problem import Problem


@dataclass(frozen=True)
class TokenizedSample:
    """Hold one training sequence: prompt, solution, end of text.

    Attributes:
        task_id: 문제의 이름.
        input_ids: 프롬프트 + 정답 + EOS의 토큰 번호.
        prompt_length: 앞의 몇 토큰이 프롬프트인지. 이 토큰들은 학습 대상이 아니다.
        noise: 토큰마다, 일부러 망가뜨린 글자를 담고 있으면 True.
    """

    task_id: str
    input_ids: tuple[int, ...]
    prompt_length: int
    noise: tuple[bool, ...]

    @property
    def targets(self) -> int:
        """Count the target tokens; the very first token has no position before it."""
        return len(self.input_ids) - max(self.prompt_length, 1)


def tokenize_problem(
    problem: Problem, prompt: Any, tokenizer: PreTrainedTokenizerBase, shots: Sequence[Problem] = ()
) -> TokenizedSample:
    """Tokenize one problem for training.

    Args:
        problem: 정답이 하나 이상 있는 문제.
        prompt: `wmtp.data.prompts`의 프롬프트 방식.
        tokenizer: 빠른(fast) 토크나이저. 글자 위치를 알려 주어야 한다.
        shots: 프롬프트 앞에 보일 예시 문제들.
    """
    prompt_ids = tokenizer(prompt.render(problem, shots))["input_ids"]
    text = prompt.completion(problem)
    shift = text.find(problem.solutions[0])  # noise spans count from the solution's first character
    target = tokenizer(text, add_special_tokens=False, return_offsets_mapping=bool(problem.noise_spans))
    noise = [
        any(start < span_end + shift and span_start + shift < end for span_start, span_end in problem.noise_spans)
        for start, end in target.get("offset_mapping", [(0, 0)] * len(target["input_ids"]))
    ]
    return TokenizedSample(
        task_id=problem.task_id,
        input_ids=(*prompt_ids, *target["input_ids"], tokenizer.eos_token_id),
        prompt_length=len(prompt_ids),
        noise=(*(False for _ in prompt_ids), *noise, False),
    )


def tokenize_problems(
    problems: Iterable[Problem],
    prompt: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    shots: Sequence[Problem] = (),
) -> tuple[list[TokenizedSample], list[str]]:
    """Tokenize problems and set aside those that do not fit.

    Returns:
        (들어가는 표본들, 길이가 max_length를 넘거나 정답이 없어 버린 문제의 이름들).
    """
    kept, dropped = [], []
    for problem in problems:
        sample = tokenize_problem(problem, prompt, tokenizer, shots) if problem.solutions else None
        if sample is None or len(sample.input_ids) > max_length:
            dropped.append(problem.task_id)
        else:
            kept.append(sample)
    return kept, dropped
