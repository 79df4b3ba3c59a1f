"""Find training problems that a benchmark in use already asks, and leave them out.

[연구 맥락] 시험 문제로 연습한 모델의 점수는 실력이 아니다. 공개 데이터는 서로 베낀다: MBPP의 train 374개 중 9개,
    CodeContests 표본 209개 중 9개(div. 1과 div. 2에 이름만 달리 나온 문제)가 시험 분할에 다시 나온다.
[동작] 문제마다 세 가지 지문을 만들고, 벤치마크의 지문을 거꾸로 찾는 표(역색인)에 대어 본다.
    text   소문자 낱말 8개씩의 조각
    code   주석, docstring, 괄호, 함수 이름을 지운 정답의 기호 13개씩의 조각. 코드 블록이 든 답이면 그 안의 것도.
           벤치마크는 첫 정답, 학습 문제는 모든 정답을 본다: critic은 첫 정답만 배우지 않는다. 오답은 누구의 답도
           아니므로 보지 않는다
    tests  함수 이름까지 똑같은 assert 문장, 또는 (입력, 출력) 쌍
    text는 80 %, code는 90 %, tests는 절반 이상 겹치면 누출이다. 짧은 조각이 긴 글 안에서 우연히 나온 것은 세지 않는다.
    표에는 해시만 남는다. 벤치마크의 정답은 어디에도 쓰이지 않고 기록되지 않는다.
    정답은 200만 개까지 있으므로(CodeContests), 어느 시험에도 없는 조각은 비트의 표(_Seen)에서 곧바로 걸러진다.
[근거] MBPP train 대 test에서 9쌍: 8쌍은 같은 문제, 1쌍은 답이 같은 문제다(마름모와 정사각형의 둘레). 75 %로 내리면
    15쌍이 되고 첫째/마지막 같은 형제 문제가 섞인다. 틀에 박힌 합성 문제는 2만 개 중 가장 비슷한 것이 text 65 %,
    code 88 %라서 하나도 버려지지 않는다. HumanEval의 정답은 서식을 바꿔도 164개 중 157개를 찾는다.
[디버깅] 무엇이 왜 빠졌는지는 실행 폴더의 left_out.json과 보고서에 있다.
"""

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wmtp import ranges
from wmtp.cache.fingerprint import code_of, digest_of
from wmtp.cache.texts import remember
from wmtp.data.mixture import refuse_evaluation_only
from wmtp.data.problem import Around, Problem, Source
from wmtp.errors import ConfigError, DataLeakError
from wmtp.storage.files import write_atomically

TEXT_GRAM, CODE_GRAM = 8, 13  # words, code tokens
OVERLAP = {"text": 0.8, "code": 0.9, "tests": 0.5}  # what makes a leak
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n(.*?)^[ \t]*\1", re.MULTILINE | re.DOTALL)
LONG = 50  # n-grams; what is shorter must be matched by something of its own size
_ODD = np.int64(-7046029254386353131)  # 2**64 over the golden ratio: any odd number makes a rolling hash
# Unicode's white space within ASCII, which the faster pattern would not know.
_TOKEN, _ASCII_TOKEN = re.compile(r"\w+|[^\w\s()]"), re.compile(r"\w+|[^\w\s()\x1c-\x1f]", re.ASCII)


@dataclass(frozen=True)
class Leak:
    """Hold one training problem that a benchmark asks, by names only.

    Attributes:
        task_id: 학습 문제.
        benchmark: 벤치마크의 이름.
        benchmark_task_id: 겹치는 시험 문제.
        kind: 무엇이 겹치는지. text, code, tests 중 하나.
        overlap: 겹치는 비율, (0, 1].
    """

    task_id: str
    benchmark: str
    benchmark_task_id: str
    kind: str
    overlap: float


def guard(source: Source, benchmarks: Iterable[Any], policy: str) -> tuple[Source, list[Leak]]:
    """Make a source safe to train on while these benchmarks are in use.

    Args:
        benchmarks: 이 실행이 쓰는 벤치마크들 (`wmtp.evaluation.benchmarks.Benchmark`). limit과 무관하게 전체를 본다.
        policy: drop은 겹치는 학습 문제를 빼고, error는 멈추고, ignore는 찾아서 알리기만 한다.

    Raises:
        ConfigError: policy가 셋 중 하나가 아니거나, 평가 전용 출처이거나, 남는 학습 문제가 없을 때.
        DataLeakError: policy가 error이고 겹치는 문제가 있을 때.
    """
    ranges.check(ranges.PROGRAM, leakage=policy)
    refuse_evaluation_only(source)
    benchmarks = list(benchmarks)
    found = _remembered(source, benchmarks)
    leaks = [Leak(**leak) for leak in found["leaks"]]
    if not leaks or policy == "ignore":
        return source, leaks
    worst = max(leaks, key=lambda leak: leak.overlap)
    example = (
        f"{worst.task_id} and {worst.benchmark_task_id} of {worst.benchmark} share {worst.overlap:.0%} of {worst.kind}"
    )
    if policy == "error":
        raise DataLeakError(
            f"data.leakage = error: {len(leaks)} training problems of {source.name} are in a benchmark in use "
            f"({example}). Leave them out with data.leakage=drop."
        )
    if not found["clean"]:
        raise ConfigError(
            f"data.leakage = drop leaves no training problem of {source.name}: a benchmark in use asks them all "
            f"({example}). Evaluate on another split (benchmark.split=test), or set data.leakage=ignore."
        )
    return Without(source, frozenset(leak.task_id for leak in leaks)), leaks


def record(file: Path, policy: str, leaks: Sequence[Leak], dropped: Mapping[str, Sequence[str]]) -> None:
    """Write down which problems a run does not train on and why, by names only.

    Args:
        policy: `data.leakage`. ignore이면 누출된 문제도 학습했다는 뜻이다.
        dropped: 분할마다, 너무 길거나 정답이 없어 버린 문제들.
    """
    listed = {"leakage": policy, "leaks": [asdict(leak) for leak in leaks], "too_long_or_unsolved": dict(dropped)}
    write_atomically(file, json.dumps(listed, indent=1, ensure_ascii=False).encode())


def find_leaks(problems: Iterable[Problem], benchmarks: Iterable[Any]) -> Iterator[Leak | None]:
    """Yield for each problem its strongest overlap with a benchmark, None where there is none."""
    index = _Index()
    for benchmark in benchmarks:
        for problem in benchmark.source.stream(benchmark.split):
            index.add(benchmark.name, problem)
    return map(index.leak_of, problems)


class Without(Around):
    """Give the problems of a source, some training problems left out."""

    def __init__(self, source: Source, left_out: frozenset[str]) -> None:
        super().__init__(source)
        self.left_out = left_out

    def stream(self, split: str) -> Iterator[Problem]:
        """Yield the problems that are left."""
        return (p for p in self.source.stream(split) if split != "train" or p.task_id not in self.left_out)

    def fingerprint(self, split: str = "all") -> str:
        """Identify the content: that of the source, and what is left out."""
        return digest_of([self.source.fingerprint(split), sorted(self.left_out)])[:16]


class _Index:
    """Look up which benchmark problems share a fingerprint; holds hashes, no text."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self.marks: dict[str, list[set[int]]] = {kind: [] for kind in OVERLAP}
        self.holders: dict[str, dict[int, list[int]]] = {kind: defaultdict(list) for kind in OVERLAP}
        self.seen = {kind: _Seen() for kind in OVERLAP}

    def add(self, benchmark: str, problem: Problem) -> None:
        """Remember the fingerprints of a benchmark problem."""
        found = dict(_fingerprints(problem, problem.solutions[:1]))
        for kind in OVERLAP:
            fingerprint = found.get(kind, np.empty(0, np.int64))
            self.seen[kind].add(fingerprint)
            marks = set(fingerprint.tolist())
            self.marks[kind].append(marks)
            for mark in marks:
                self.holders[kind][mark].append(len(self.names))
        self.names.append((benchmark, problem.task_id))

    def leak_of(self, problem: Problem) -> Leak | None:
        """Return the strongest overlap of a training problem that makes a leak."""
        # A solution that was corrupted on purpose is nobody's answer, even where it happens to spell one.
        solutions = problem.solutions[1:] if problem.noise_spans else problem.solutions
        leaks = []
        for kind, fingerprint in _fingerprints(problem, solutions):
            holders = self.holders[kind]
            shared = {mark for mark in self.seen[kind].among(fingerprint) if mark in holders}
            if not shared:
                continue
            size = len(set(fingerprint.tolist()))
            for i in self._candidates(kind, size, shared):
                asked = self.marks[kind][i]
                overlap = len(shared & asked) / _enough(kind, size, len(asked))
                if overlap >= OVERLAP[kind]:
                    leaks.append(Leak(problem.task_id, *self.names[i], kind, round(overlap, 3)))
        return max(leaks, key=lambda leak: leak.overlap, default=None)

    def _candidates(self, kind: str, size: int, shared: set[int]) -> set[int]:
        """Find who may share enough: who misses all the rarest marks cannot, and common phrases lead nowhere."""
        holders = self.holders[kind]
        least = math.ceil(OVERLAP[kind] * _enough(kind, size, 1))
        rarest = sorted(shared, key=lambda mark: len(holders[mark]))[: max(len(shared) - least + 1, 0)]
        return {i for mark in rarest for i in holders[mark]}


class _Seen:
    """Tell at once of most marks that no benchmark has them: a bit for each of their last digits."""

    def __init__(self, bits: int = 22) -> None:
        self.last = np.int64(2**bits - 1)
        self.table = np.zeros(2**bits, dtype=bool)

    def add(self, marks: np.ndarray) -> None:
        self.table[marks & self.last] = True

    def among(self, marks: np.ndarray) -> list[int]:
        """Return those marks that may have been added; all that were are among them."""
        return marks[self.table[marks & self.last]].tolist()


def _enough(kind: str, a: int, b: int) -> int:
    """Count how many shared marks two problems of these sizes need to be the same; least where b is 1."""
    small, large = sorted((a, b))
    return small if kind == "tests" else max(small, min(large, LONG))


def _fingerprints(problem: Problem, solutions: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield one by one what a problem is known by, as marks that may repeat: its text, its tests, each solution."""
    yield "text", _grams(re.findall(r"\w+", problem.text.lower()), TEXT_GRAM)
    yield "tests", _tests(problem)
    for program in dict.fromkeys(one for solution in solutions for one in (solution, *_fenced(solution))):
        yield "code", _grams(_code_tokens(program), CODE_GRAM)


def _fenced(answer: str) -> list[str]:
    """List the programs in an answer's Markdown fences: what a conversation says around them hides no leak."""
    return [found[2] for found in _FENCE.finditer(answer)]


def _grams(tokens: Sequence[str], n: int) -> np.ndarray:
    # Filled up, so that the last word weighs as much as any: a cone is no cylinder.
    filled = np.array([*map(hash, tokens), *[0] * (n - 1)], dtype=np.int64)
    marks = np.zeros(len(tokens), dtype=np.int64)
    for shift in range(n):
        marks *= _ODD
        marks += filled[shift : shift + len(tokens)]
    return marks


def _code_tokens(code: str) -> list[str]:
    """Split a program into what no formatter changes, without comments, docstrings and the names of its functions.

    Example:
        >>> _code_tokens('def add(a):  # one more\\n    return a+1')
        ['def', '_', 'a', ':', 'return', 'a', '+', '1']
    """
    if '"""' in code or "'''" in code:  # looking first is ten times as fast as a pattern that finds nothing
        code = re.sub(r'^[ \t]*[rR]?("""|\'\'\').*?\1', "", code, flags=re.MULTILINE | re.DOTALL)
    if "#" in code:
        code = re.sub(r"#.*", "", code)
    code = code.replace("'", '"')
    tokens = (_ASCII_TOKEN if code.isascii() else _TOKEN).findall(code)
    if "def" not in code:
        return tokens
    defined = set(re.findall(r"\bdef\s+(\w+)", code))
    return ["_" if token in defined else token for token in tokens]


def _tests(problem: Problem) -> np.ndarray:
    """Hash every assert, white space and quotes aside, and every pair of input and output."""
    asserts = (line for test in problem.tests for line in re.findall(r"^[ \t]*assert\b(.*)", test, re.MULTILINE))
    named = (re.sub(r"\bcandidate\b", problem.entry_point or "candidate", line) for line in asserts)  # HumanEval
    pairs = ((given.strip(), expected.strip()) for given, expected in problem.pairs)
    marks = [hash("".join(line.split()).replace("'", '"')) for line in named]
    return np.array([*marks, *map(hash, pairs)], dtype=np.int64)


def _remembered(source: Source, benchmarks: Sequence[Any]) -> dict[str, Any]:
    """Find the leaks of a source, or remember them from the last time that the same contents met."""
    content = source.fingerprint()  # first: a path that both have is the data's, and so is the sentence about it
    asked = [[one.name, one.split, one.source.fingerprint(one.split)] for one in benchmarks]
    key = digest_of([content, asked, code_of(sys.modules[__name__])])

    def find() -> str:
        every = list(find_leaks(source.published("train"), benchmarks))
        leaks = [leak for leak in every if leak]
        once = {leak.task_id: asdict(leak) for leak in leaks}  # a mixture may give a problem more than once
        return json.dumps({"clean": len(every) - len(leaks), "leaks": list(once.values())})

    return json.loads(remember("leaks", f"{key[:32]}.json", find))
