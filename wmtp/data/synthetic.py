"""Generate MBPP-format problems that a tiny model can learn, and corrupt them where asked.

[연구 맥락] 데이터도 GPU도 없이 전체 실험이 돌아야 한다. 그리고 어느 토큰이 나쁜지 아는 학습 데이터가 있어야
가중치가 그 토큰을 찾는지 판정할 수 있다.
[동작] grammar.py의 연산 1~3개와 집계 하나를 뽑아 영어 문장, 정답, 단위 시험 여섯 개를 만든다.
분할은 상수를 뺀 연산 순서의 해시로 정한다: 시험에 나오는 순서는 어떤 seed의 학습 데이터에도 없다.
상수까지 넣어 나누면 같은 순서에 숫자만 다른 문제가 학습에 섞여 시험이 쉬워진다.
낱낱의 연산과 상수는 모두 학습에 나온다.
[디버깅] pass@1이 0에 머물면 head 0의 NLL부터 본다: 0.15 아래로 내려가야 풀리기 시작한다.
"""

import hashlib
import random
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from wmtp import ranges
from wmtp.cache.fingerprint import code_of, digest_of
from wmtp.data import grammar
from wmtp.data.grammar import AGGREGATIONS, ENDINGS, LINKS, OPENINGS, OPERATIONS, STEP_OF_STATEMENT, VOCABULARY, Step
from wmtp.data.mutation import difference
from wmtp.data.problem import Problem, Source
from wmtp.errors import ConfigError

TESTS_PER_PROBLEM = 6


class Synthetic(Source):
    """Generate the problems of the offline default, the same for the same seed.

    [동작] 크기를 줄이면 앞부분만 남고, noise를 켜도 문제와 시험은 그대로이며 학습용 정답만 바뀐다
    (noise=0인 쌍둥이와 task_id로 짝지을 수 있다). 검증과 시험은 언제나 깨끗하다.

    Args:
        seed: 문제, 입력, 손상을 모두 정한다. 분할은 seed와 무관하다.
        noise: 정답을 망가뜨릴 학습 문제의 비율, [0, 1]. 0.5이면 코드 토큰의 약 1/4이 나빠진다.
        train_skip: 건너뛸 앞쪽 학습 문제의 수. 같은 씨앗에서 앞쪽을 배우는 실행과 프로그램이 하나도 겹치지 않는다.

    Raises:
        ConfigError: 크기가 음수이거나 noise가 [0, 1] 밖일 때.

    Example:
        >>> problem = Synthetic(test_size=1).problems("test")[0]
        >>> problem.task_id, problem.entry_point, len(problem.tests)
        ('synthetic/test/0', 'solve', 6)
    """

    name = "synthetic"
    licence = "Apache-2.0"

    def __init__(
        self,
        train_size: int = 20_000,
        validation_size: int = 500,
        test_size: int = 500,
        seed: int = 42,
        noise: float = 0.0,
        train_skip: int = 0,
    ) -> None:
        self.sizes = {"train": train_size, "validation": validation_size, "test": test_size, "prompt": 0}
        self.seed = seed
        self.noise = noise
        self.train_skip = train_skip
        sizes = dict(train_size=train_size, validation_size=validation_size, test_size=test_size)
        ranges.check(ranges.Synthetic, noise=noise, train_skip=train_skip, **sizes)

    def stream(self, split: str) -> Iterator[Problem]:
        """Generate the problems of a split; there are none for "prompt"."""
        if split not in self.sizes:
            raise ConfigError(f"split = {split} is not one of {', '.join(self.sizes)}. Try test.")
        first = self.train_skip if split == "train" else 0
        return islice(self._generate(split), first, first + self.sizes[split])

    def mutate(self, problem: Problem, rng: random.Random) -> tuple[str, tuple[int, int]] | None:
        """Write the first solution with one wrong operation or constant.

        [동작] 한 줄을 같은 변수를 읽고 쓰는 다른 줄로 바꾼다. 줄 끝의 주석은 남는다. 바뀐 프로그램이 여섯 시험을
        우연히 통과하는 비율은 약 1 %다 (시험 문제 4000번 측정; 주로 x < 7과 x < 8처럼 이웃한 상수).
        문법에 없는 줄이 있는 프로그램은 여느 프로그램처럼 바꾼다.
        """
        lines = [line.partition("  #") for line in problem.solutions[0].split("\n")]
        if any(statement not in STEP_OF_STATEMENT for statement, _, _ in lines[1:]):
            return super().mutate(problem, rng)
        at = rng.randrange(1, len(lines))
        statement, gap, comment = lines[at]
        wrong = _wrong_step(STEP_OF_STATEMENT[statement], rng).statement
        start, end = difference(statement, wrong)
        lines[at] = (wrong, gap, comment)
        offset = sum(len("".join(line)) + 1 for line in lines[:at])
        return "\n".join(map("".join, lines)), (offset + start, offset + end)

    def fingerprint(self, split: str = "all") -> str:
        """Identify the content: the same for the same problems, another when an argument or the grammar changes."""
        code = code_of(grammar, sys.modules[__name__])
        return digest_of([self.sizes, self.seed, float(self.noise), self.train_skip, code])[:16]

    def _generate(self, split: str) -> Iterator[Problem]:
        # A string seed goes through SHA-512, so PYTHONHASHSEED has no say.
        rng = random.Random(f"{self.seed}/{split}")
        seen = set()
        while True:
            steps = _draw_steps(rng)
            if split_of(step.operation for step in steps) != split or steps in seen:
                continue
            inputs = [_draw_input(steps[0].takes, rng) for _ in range(TESTS_PER_PROBLEM)]
            outputs = [_run(steps, value) for value in inputs]
            if not _tells_apart(steps, inputs, outputs):
                continue
            task_id = f"synthetic/{split}/{len(seen)}"
            seen.add(steps)
            solution = _program(steps, [step.statement for step in steps])
            noise_spans: tuple[tuple[int, int], ...] = ()
            noise_rng = random.Random(f"{self.seed}/noise/{task_id}")
            text = _describe(steps, rng)
            if split == "train" and noise_rng.random() < self.noise:
                solution, noise_spans = _corrupt(steps, noise_rng)
            yield Problem(
                task_id=task_id,
                source=self.name,
                split=split,
                text=text,
                solutions=(solution,),
                tests=tuple(
                    f"assert solve({asked!r}) == {told!r}" for asked, told in zip(inputs, outputs, strict=True)
                ),
                entry_point="solve",
                licence=self.licence,
                noise_spans=noise_spans,
            )


def split_of(operations) -> str:
    """Tell the split of an ordered composition of operation names: 80 % train, 10 % validation, 10 % test."""
    digest = hashlib.blake2b("/".join(operations).encode(), digest_size=4).digest()
    bucket = int.from_bytes(digest, "big") % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def _draw_steps(rng: random.Random) -> tuple[Step, ...]:
    variable = rng.choice(("xs", "xs", "words"))
    steps = []
    for _ in range(rng.choice((1, 2, 2, 2, 3))):
        steps.append(rng.choice(rng.choice(OPERATIONS[variable])))
        variable = steps[-1].gives
    steps.append(rng.choice(rng.choice(AGGREGATIONS[variable])))
    return tuple(steps)


def _draw_input(variable: str, rng: random.Random) -> list:
    size = rng.randint(6, 10)
    if variable == "words":
        return rng.choices(rng.sample(VOCABULARY, 12), k=size)
    return [rng.randint(-9, 15) for _ in range(size)]


def _run(steps: tuple[Step, ...], value: Any) -> Any:
    for step in steps:
        value = step.run(value)
    return value


def _tells_apart(steps: tuple[Step, ...], inputs: list, outputs: list) -> bool:
    """Tell whether the tests see every step: outputs vary, and leaving any one step out changes some."""
    if len(set(map(repr, outputs))) < 4:
        return False
    for i, step in enumerate(steps):
        if step.takes == step.gives:
            rest = steps[:i] + steps[i + 1 :]
            if sum(_run(rest, value) != output for value, output in zip(inputs, outputs, strict=True)) < 2:
                return False
    return True


def _program(steps: tuple[Step, ...], lines: list[str]) -> str:
    return "\n".join([f"def solve({steps[0].takes}):", *lines])


def _describe(steps: tuple[Step, ...], rng: random.Random) -> str:
    text = rng.choice(OPENINGS[steps[0].takes])
    text += rng.choice(steps[0].phrases)
    for step in steps[1:-1]:
        text += rng.choice(LINKS) + rng.choice(step.phrases)
    return text + rng.choice(ENDINGS) + rng.choice(steps[-1].phrases) + "."


def _wrong_step(step: Step, rng: random.Random) -> Step:
    """Draw another constant of the same operation, or else another operation of the same variables."""
    table = OPERATIONS if step.gives != "value" else AGGREGATIONS
    family = next(steps for steps in table[step.takes] if steps[0].operation == step.operation)
    if len(family) > 1 and rng.random() < 0.5:
        return rng.choice([other for other in family if other is not step])
    rivals = [
        steps
        for steps in table[step.takes]
        if steps is not family
        and steps[0].gives == step.gives
        # "return xs" for "return xs[-1] if xs else 0" only stops early: it has no character that is wrong.
        and not step.statement.startswith(steps[0].statement)
    ]
    return rng.choice(rng.choice(rivals))


def _corrupt(steps: tuple[Step, ...], rng: random.Random) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Corrupt a solution in one of three ways, and say which characters differ from the clean one."""
    clean = [step.statement for step in steps]
    kind = rng.choice(("wrong steps", "garbage comments", "shuffled lines"))
    if kind == "wrong steps":
        lines = [_wrong_step(step, rng).statement for step in steps]
    elif kind == "garbage comments":
        lines = [f"{line}  # {_garbage(rng)}" for line in clean]
    else:
        lines = clean
        while lines == clean:
            lines = rng.sample(clean, k=len(clean))
    spans, offset = [], len(_program(steps, [""]))
    for before, after in zip(clean, lines, strict=True):
        if before != after:
            start, end = difference(before, after)
            spans.append((offset + start, offset + end))
        offset += len(after) + 1
    return _program(steps, lines), tuple(spans)


def _garbage(rng: random.Random) -> str:
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 5))) for _ in range(2))
