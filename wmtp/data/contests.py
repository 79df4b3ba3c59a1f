"""Read LiveCodeBench, APPS and TACO: contest problems whose programs print an answer or return one.

[연구 맥락] LiveCodeBench는 날짜로 오염을 피하는 벤치마크다: 모델의 학습이 끝난 뒤에 나온 문제만 본다. APPS와 TACO는
    정답이 많은 학습 데이터이자 벤치마크다. 셋은 시험의 모양이 같다: 표준 입출력, 또는 함수의 인자와 기대값.
[동작] 함수 문제는 `Problem.calls`, 나머지는 `Problem.stdio`가 된다. 낸 쪽의 채점기가 프로그램 앞에 두는 import들은
    `preamble`이 된다: LeetCode의 틀은 `List`를 import하지 않는다.
[디버깅] 낸 쪽의 채점기와 다른 점은 docs/evaluation.md에 있다.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from typing_extensions import override

from wmtp.data.packed_tests import unpack
from wmtp.data.problem import Problem
from wmtp.data.rows import Row
from wmtp.data.sources import FileSource, split_of
from wmtp.errors import ConfigError
from wmtp.storage import in_use

# What the graders of these data put before every program; builtins come after what would hide them (pow, compile).
_ALL_OF = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "builtins typing"
).split()
PREAMBLE = "\n".join(
    [f"from {name} import *" for name in _ALL_OF]
    + [f"import {', '.join(name for name in _ALL_OF if name not in ('builtins', 'typing'))}"]
    + ["sys.setrecursionlimit(50_000)"]
)
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0}, {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class ContestFiles(FileSource):
    """Read contest problems, those of some difficulties only where that is asked for.

    Attributes:
        difficulties: 이 데이터가 쓰는 난이도의 이름들.

    Args:
        difficulty: 난이도 하나, 또는 여럿. 없으면 모두.
    """

    difficulties: tuple[str, ...]

    def __init__(self, path: Any = None, difficulty: str | Sequence[str] | None = None):
        super().__init__(path)
        self.difficulty = tuple([difficulty] if isinstance(difficulty, str) else difficulty or ())
        for one in self.difficulty:
            if one not in self.difficulties:
                raise ConfigError(f"difficulty = {one} must be one of {', '.join(self.difficulties)} for {self.name}.")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows that are wanted.

        Raises:
            ConfigError: 파일에 줄은 있는데 남는 것이 하나도 없을 때.
        """
        seen = kept = 0
        for row in super().rows(split):
            seen += 1
            if self.wants(row):
                kept += 1
                yield row
        if seen and not kept:
            raise ConfigError(f"{self.filters()} leaves none of the {seen} problems of {self.name}. Ask for more.")

    def wants(self, row: Row) -> bool:
        """Tell whether a row is one of those asked for."""
        return not self.difficulty or row.text("difficulty") in self.difficulty

    def filters(self) -> str:
        """Say what was asked for."""
        return f"{self.key.partition('.')[0]}.difficulty = {', '.join(self.difficulty)}"

    def problem(self, row: Row, task_id: str, tests: dict[str, Any], **more: Any) -> Problem:
        """Make a Problem of what all three shapes have."""
        return Problem(
            task_id=f"{self.name}/{task_id}",
            source=self.name,
            starter=row.text("starter_code", ""),
            checker=row.checker(),
            preamble=PREAMBLE,
            licence=self.licence,
            **tests,
            **more,
        )


class LiveCodeBench(ContestFiles):
    """Read LiveCodeBench's code generation problems, as JSONL or Parquet; all of them are test problems.

    [동작] 숨은 시험은 JSON이거나 싸여 있다 (packed_tests.py). `metadata`에 `func_name`이 있으면 함수 문제다.
    글은 줄마다, 글이 다르면 십진수로 견준다.

    Args:
        path: 파일, s3:// 주소, 또는 `test*.jsonl`이나 `test*.parquet`이 있는 폴더. 없으면 기본 장소를 찾는다.
        since, until: 대회의 날짜. 둘 다 그날을 포함한다.
    """

    name = "livecodebench"
    licence = "cc"  # so says its card, without a version
    splits = ("test",)
    difficulties: tuple[str, ...] = ("easy", "medium", "hard")

    def __init__(
        self,
        path: Any = None,
        difficulty: str | Sequence[str] | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
    ):
        super().__init__(path, difficulty)
        self.since, self.until = _day("benchmark.since", since), _day("benchmark.until", until)
        if self.since and self.until and self.since > self.until:
            raise ConfigError(f"benchmark.since = {self.since} is after benchmark.until = {self.until}. Swap them.")

    @override
    def files(self, split: str) -> list[Path]:
        patterns = ("test*.jsonl", "test*.jsonl.gz", "test*.parquet", "data/test-*.parquet")
        hub = ("livecodebench/code_generation_lite", "test*.jsonl")
        return in_use().find_data(self.name, self.path, patterns, several=True, key=self.key, hub=hub)

    @override
    def wants(self, row: Row) -> bool:
        if not super().wants(row):
            return False
        if not self.since and not self.until:
            return True
        held = _day_of(row)
        return (self.since or held) <= held <= (self.until or held)

    @override
    def filters(self) -> str:
        days = [f"benchmark.{name} = {day}" for name, day in (("since", self.since), ("until", self.until)) if day]
        return " and ".join([super().filters()] * bool(self.difficulty) + days)

    @override
    def parse(self, row: Row) -> Problem:
        function = _function(row, "metadata", row.decoded("metadata", dict, {}).get("func_name"))
        pairs = [*_pairs(row, "public_test_cases", function), *_pairs(row, "private_test_cases", function)]
        tests = {"calls": tuple(pairs), "entry_point": function} if function else {"stdio": tuple(pairs)}
        text = row.text("question_content")
        return self.problem(row, row.text("question_id"), tests, split="test", text=text, comparison="livecodebench")


class Apps(ContestFiles):
    """Read APPS in the shape of its rows on the Hub, as JSONL or Parquet.

    [동작] `input_output`과 `solutions`는 JSON을 담은 글이거나 그 값 자체다. 비어 있으면 없는 것이다. `fn_name`이 있으면
    함수 문제다. 분할은 CodeContests처럼 정하고, 공식 train의 20분의 1(이름의 해시로 고른다)이 validation이 된다.
    글은 CodeContests의 규칙으로, 돌려준 값은 APPS의 규칙으로 견준다.

    Args:
        path: 파일, s3:// 주소, 또는 `train*`, `test*`(.jsonl, .jsonl.gz, .parquet)가 있는 폴더.
            없으면 기본 장소를 찾는다.
    """

    name = "apps"
    licence = "MIT"
    splits = ("train", "validation", "test")
    difficulties: tuple[str, ...] = ("introductory", "interview", "competition")
    hub = ("codeparrot/apps", "{}.jsonl")

    @override
    def files(self, split: str) -> list[Path]:
        name = {"train": "train", "validation": "train", "test": "test"}.get(split, "*")
        endings = ("*.jsonl", "*.jsonl.gz", "*.parquet")
        patterns = [
            f"{folder}{part}{ending}" for folder in ("", "ALL/") for part in ("train", "test") for ending in endings
        ]
        repository, file = self.hub
        hub = (repository, file.format(name))
        return in_use().find_data(self.name, self.path, patterns, several=True, key=self.key, hub=hub)

    @override
    def parse(self, row: Row) -> Problem:
        task_id = self.name_of(row)
        return self.problem(
            row,
            task_id,
            _tests(row),
            split=_split(task_id, row),
            text=row.text("question"),
            solutions=row.all_text("solutions", row.decoded("solutions", list, [])),
            comparison="apps",
            time_limit=_amount(row, "time_limit", _UNITS[0]),
            memory_limit=int(_amount(row, "memory_limit", _UNITS[1])),
        )

    def name_of(self, row: Row) -> str:
        """Name a problem by its number in the data."""
        key = "problem_id" if "problem_id" in row.values else "id"
        return str(row.get(key, int | str))


class Taco(Apps):
    """Read TACO in the shape of its rows on the Hub, which is that of APPS.

    [동작] TACO의 줄에는 번호가 없으므로 이름은 파일과 줄이다: `taco/test/17`. `id`가 있는 판은 그것을 쓴다.
    `time_limit`("2.0 seconds")과 `memory_limit`("256.0 megabytes")은 설정의 한도보다 클 때 쓴다.
    """

    name = "taco"
    licence = "Apache-2.0"
    difficulties = ("EASY", "MEDIUM", "MEDIUM_HARD", "HARD", "VERY_HARD", "UNKNOWN_DIFFICULTY")
    hub = ("BAAI/TACO", "ALL/{}-*.parquet")

    @override
    def name_of(self, row: Row) -> str:
        if "id" in row.values or "problem_id" in row.values:
            return super().name_of(row)
        return f"{row.file.name.partition('.')[0]}/{row.line}"


def _day(key: str, value: str | date | None) -> date | None:
    """Read a day of the config."""
    try:
        return date.fromisoformat(str(value)) if value is not None else None
    except ValueError:
        raise ConfigError(f"{key} = {value} must be a day, such as 2024-09-01.") from None


def _day_of(row: Row) -> date:
    """Read the day of a contest: a text such as 2024-09-01T00:00:00, or a time of a Parquet file."""
    value = row.get("contest_date", str | date)
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        raise row.error("contest_date", f"= {value} must begin with a day, such as 2024-09-01") from None


def _pairs(row: Row, key: str, function: str | None) -> Iterator[tuple[str, str]]:
    """Yield the tests of one kind: what goes in and what comes out."""
    text = row.values.get(key)
    if isinstance(text, str) and text.strip() and text.lstrip()[0] not in "[{":
        try:
            row = row.holding(key, unpack(text.strip()))
        except ValueError as error:
            raise row.error(key, f"is {error}") from None
    for test in row.decoded(key, list, []):
        values = [test.get(part) for part in ("input", "output")] if isinstance(test, dict) else [None]
        if None in values:
            raise row.error(key, "must be a list of objects with input, output and testtype")
        given, expected = row.all_text(key, values)
        if test.get("testtype") == "functional" and not function:
            raise row.error("metadata", "names no func_name, though a test is functional")
        if not function:
            yield _ended(given), expected
            continue
        lines, expected = [line for line in given.split("\n") if line.strip()], expected.strip()
        for text in (*lines, expected or "?"):
            row.holding(key, text).decoded(key)  # says what is wrong with it
        yield "\n".join(lines), expected


def _tests(row: Row) -> dict[str, Any]:
    """Read the tests of APPS and TACO: standard input and output, or arguments and values where there is fn_name."""
    key = "input_output"
    held = row.decoded(key, dict, {})
    inputs, outputs = held.get("inputs") or [], held.get("outputs") or []
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise row.error(key, "must hold two lists of one length, inputs and outputs")
    if function := _function(row, key, held.get("fn_name")):
        if not all(isinstance(one, list) for one in inputs):
            raise row.error(key, f"must give the arguments of {function} as lists")
        arguments = ["\n".join(map(json.dumps, one)) for one in inputs]
        return {"calls": tuple(zip(arguments, map(json.dumps, outputs), strict=True)), "entry_point": function}
    texts = [
        row.all_text(key, ["\n".join(one) if _is_lines(one) else one for one in side]) for side in (inputs, outputs)
    ]
    return {"stdio": tuple((_ended(given), expected) for given, expected in zip(*texts, strict=True))}


def _function(row: Row, key: str, name: Any) -> str | None:
    """Return the name of the function to call, None where programs print."""
    if name and not (isinstance(name, str) and name.isidentifier()):
        raise row.error(key, f"must name a function, not {name!r}")
    return name or None


def _is_lines(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def _ended(given: str) -> str:
    """End the last line of an input, which files in circulation have lost."""
    return given if given.endswith("\n") else given + "\n"


def _split(task_id: str, row: Row) -> str:
    """Set a twentieth of the official training problems aside for validation, which these data have none of."""
    split = split_of(task_id, row)
    held_out = int.from_bytes(hashlib.sha256(task_id.encode()).digest()) % 20 == 0
    return "validation" if split == "train" and held_out else split


def _amount(row: Row, key: str, units: Mapping[str, float]) -> float:
    """Read "2.0 seconds" or "256 megabytes"; 0 where a row says nothing of the kind."""
    found = re.match(r"\s*(\d+(?:\.\d+)?)\s*(ms|[a-z])", str(row.values.get(key) or "").lower())
    return float(found[1]) * units.get(found[2], 0.0) if found else 0.0
