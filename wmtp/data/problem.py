"""Define the one shape that every programming problem takes, whatever its source, and what a source is.

[연구 맥락] MBPP, HumanEval, CodeContests, 합성 문제를 한 가지 모양으로 다루면 새 데이터 집합은 파서 하나로 끝난다.
[동작] 파서(sources.py, synthetic.py)가 만들고, 토큰화와 벤치마크가 읽는다.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from typing_extensions import override

from wmtp.data.mutation import mutate


@dataclass(frozen=True)
class Problem:
    """Hold one programming problem, its solutions and its tests.

    Attributes:
        task_id: 출처 안에서 유일한 이름. 예: "mbpp/601", "HumanEval/3", "synthetic/test/17".
        source: 출처의 이름. 예: "mbpp".
        split: "train", "validation", "test", "prompt" 중 하나.
        text: 자연어 문제 설명. HumanEval은 함수 서명과 docstring (프롬프트 그대로).
        solutions: 참조 정답 프로그램. 없을 수 있다. 줄바꿈은 항상 LF.
        incorrect_solutions: 오답 프로그램. 없을 수 있다.
        tests: 정답 프로그램 뒤에서 차례로 실행하는 파이썬 문장 (보통 assert 하나씩).
        setup: 정답 뒤, tests 앞에서 실행할 코드 (MBPP 367, 927).
        stdio: (표준 입력, 기대 출력) 쌍. CodeContests 같은 문제만.
        calls: 부를 함수의 (인자들, 기대값) 쌍. 인자는 한 줄에 하나, 둘 다 JSON. LeetCode 같은 문제만.
        comparison: 출력이나 돌려준 값을 견주는 규칙의 이름 (`wmtp/evaluation/sandbox/worker/comparing.py`).
        checker: 답이 여럿인 문제에서 규칙 대신 정하는 `check(input, output, answer)`의 글. 없으면 "".
        preamble: 프로그램이 당연히 여기는 import들. 채점할 때 프로그램 앞에서 실행한다.
        starter: 프로그램이 채울 틀 (`class Solution: …`). 프롬프트에 보인다.
        prompt: 데이터가 글자까지 정한 프롬프트 (data=jsonl). None이면 프롬프트 방식이 text로 쓴다.
        continues: 그 프롬프트까지가 프로그램인지. 그러면 solutions도 프롬프트로 시작한다.
        messages: 답 앞의 대화, (역할, 말)들 (data=jsonl). 답은 solutions[0]이다.
        time_limit, memory_limit: 문제가 정한 시간(초)과 메모리(바이트), 없으면 0. 설정의 한도보다 크면 이것을 쓴다.
        input_file, output_file: 표준 입출력 대신 쓰는 파일의 이름. 없으면 "".
        entry_point: 부를 함수의 이름. 모르면 None.
        inputs: 있으면 tests 대신 이것으로 판정한다: entry_point를 부를 인자 목록들의 목록, 파이썬 리터럴로 쓴 글
            (inf와 nan도 쓴다). 옳은 값은 solutions[0]이 돌려주는 것이고, 그때 tests는 프롬프트에 보여 주기만 한다.
        base_inputs: inputs의 앞에서 몇 개가 `…_base` 점수를 정하는지. 0이면 그런 점수가 없다.
        agreement: 그때 값을 비교하는 `agree(input, output, answer)`의 글, 우리가 쓴 것. ""이면 같은지 본다.
        tolerance: 소수에 허락하는 절대 오차. 0이면 옳은 값이 소수일 때만 1e-6.
        licence: 데이터의 라이선스 (SPDX 이름).
        noise_spans: solutions[0]에서 일부러 망가뜨린 글자 구간 [시작, 끝). data.noise가 켜진 학습 문제에만 있다.
        origin: 어느 파일의 몇째 줄에서 왔는지. 오류 문장에만 쓴다.
    """

    task_id: str
    source: str
    split: str
    text: str
    solutions: tuple[str, ...] = ()
    incorrect_solutions: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    setup: str = ""
    stdio: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    comparison: str = "deepmind"
    checker: str = ""
    preamble: str = ""
    starter: str = ""
    prompt: str | None = None
    continues: bool = False
    messages: tuple[tuple[str, str], ...] = ()
    time_limit: float = 0.0
    memory_limit: int = 0
    input_file: str = ""
    output_file: str = ""
    entry_point: str | None = None
    inputs: str = ""
    base_inputs: int = 0
    agreement: str = ""
    tolerance: float = 0.0
    licence: str = "unknown"
    noise_spans: tuple[tuple[int, int], ...] = ()
    origin: str = field(default="", compare=False)

    @property
    def tested(self) -> bool:
        """Tell whether there is anything that a wrong program could fail."""
        return bool(self.tests or self.stdio or self.calls or self.inputs)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return what goes in and what comes out, whether it is printed or returned."""
        return self.stdio or self.calls

    @property
    def answer(self) -> str:
        """Return what of the first solution stands after the prompt that it continues; all of it where none is."""
        return self.solutions[0].removeprefix(self.prompt if self.continues and self.prompt else "")

    @property
    def defines(self) -> str | None:
        """Name what a right program defines: the function under test, or the class that holds it."""
        return "Solution" if "class Solution" in self.starter else self.entry_point


class Source:
    """Give the problems of one data set, by split.

    Attributes:
        name: 출처의 이름. task_id의 앞부분이기도 하다.
        licence: 데이터의 라이선스 (SPDX 이름).
        splits: 이 출처에 있는 분할. "train"이 없으면 평가에만 쓴다.
    """

    name: str
    licence: str
    splits: tuple[str, ...] = ("train", "validation", "test", "prompt")

    @property
    def conversations(self) -> bool:
        """Say whether its rows are written in a tokenizer's chat template."""
        return False

    def stream(self, split: str) -> Iterator[Problem]:
        """Yield the problems of one split one at a time, so that a data set may be larger than memory."""
        raise NotImplementedError

    def published(self, split: str) -> Iterator[Problem]:
        """Yield the problems of one split as they were before anything was done to them on purpose."""
        return self.stream(split)

    def problems(self, split: str) -> list[Problem]:
        """Collect the problems of one split."""
        return list(self.stream(split))

    def has_tests(self, split: str) -> bool:
        """Tell whether the programs of a split can be judged; of a public data set they can."""
        return True

    def mutate(self, problem: Problem, rng: Random) -> tuple[str, tuple[int, int]] | None:
        """Write the first solution with one thing wrong in one place.

        [연구 맥락] 맞은 프로그램과 한 곳만 다른 프로그램은 critic이 틀린 자리를 배우는 재료다. (maths.md 5절)

        Returns:
            (프로그램, 달라진 글자 구간 [시작, 끝)). 바꿀 것이 없으면 None. 정말 틀렸는지는 실행해 보아야 안다.
        """
        return mutate(problem.solutions[0], rng)

    def fingerprint(self, split: str = "all") -> str:
        """Identify the content: the same for the same problems, another when anything about them changes.

        Args:
            split: 이 분할의 문제가 같으면 충분할 때. 그 분할의 파일만 읽는 출처도 있다.
        """
        raise NotImplementedError

    @property
    def licences(self) -> dict[str, str]:
        """Return the licence of each data set in use, by name."""
        return {self.name: self.licence}


class Around(Source):
    """Give the problems of another source, changed or fewer of them; what is not said otherwise is that source's."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.licence, self.splits = source.name, source.licence, source.splits

    @property
    @override
    def licences(self) -> dict[str, str]:
        return self.source.licences

    @property
    @override
    def conversations(self) -> bool:
        return self.source.conversations

    @override
    def has_tests(self, split: str) -> bool:
        return self.source.has_tests(split)

    @override
    def mutate(self, problem: Problem, rng: Random) -> tuple[str, tuple[int, int]] | None:
        return self.source.mutate(problem, rng)
