"""Read MBPP, HumanEval and CodeContests files into Problems, row by row.

[연구 맥락] 벤치마크의 숫자는 데이터가 정확할 때만 뜻이 있다.
    그래서 잘못된 줄은 건너뛰지 않고, 파일과 줄 번호를 말하며 멈춘다.
[동작] 출처(source)는 문제를 하나씩 내주는 객체다 (`wmtp.data.problem.Source`).
    split은 train, validation, test, prompt 중 하나, 또는 모든 줄을 뜻하는 all.
[디버깅] 경로를 주지 않으면 로컬 → 캐시 → S3 → Hub에서 찾는다 (`wmtp.storage`). 오류 문장에 찾아본 곳이 모두 나온다.
"""

import ast
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from wmtp.cache.fingerprint import digest_of, digest_of_file, identify
from wmtp.data.checkers import checkers_beside
from wmtp.data.evalplus import humaneval_plus, is_plus, mbpp_plus
from wmtp.data.problem import Problem, Source
from wmtp.data.rows import Row, read_json_array, read_jsonl, read_parquet
from wmtp.errors import ConfigError, DataFormatError
from wmtp.storage import in_use

CODECONTESTS_SOURCES = ("unknown", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu")


class FileSource(Source):
    """Read the problems of one data set out of its files.

    [동작] 파일은 부를 때마다 한 줄씩 다시 읽는다. 전체를 메모리에 들고 있지 않는다.

    Args:
        path: 파일, 폴더 또는 s3:// 주소. 없으면 기본 장소를 찾는다.
    """

    key = "data.path"  # where a user gives the path; of a benchmark's source, benchmark.path
    not_content: tuple[str, ...] = ("path", "key")  # attributes that change no problem

    def __init__(self, path: str | os.PathLike | None = None):
        self.path = path

    def stream(self, split: str) -> Iterator[Problem]:
        """Yield the problems of one split, or of all, in the order of the files.

        Raises:
            ConfigError: 이 출처에 없는 분할일 때.
            DataFormatError: 잘못된 줄이나 같은 task_id가 두 번 있을 때. 파일과 줄을 알려 준다.
            DataNotFoundError: 파일이 없을 때. 찾아본 곳을 모두 알려 준다.
        """
        if split not in (*self.splits, "all"):
            raise ConfigError(f"split = {split}: {self.name} has {', '.join(self.splits)}; or take every row with all.")
        first_seen: dict[str, str] = {}
        for row in self.rows(split):
            problem = replace(self.parse(row), origin=row.where)
            if problem.task_id in first_seen:
                problem = replace(problem, task_id=self.other_name(problem.task_id, row))
            if problem.task_id in first_seen:
                raise DataFormatError(
                    f"{row.where}: {problem.task_id} is there a second time, first at "
                    f"{first_seen[problem.task_id]}. Remove one of the two rows."
                )
            first_seen[problem.task_id] = row.where
            if split in (problem.split, "all"):
                yield problem

    def fingerprint(self, split: str = "all") -> str:
        """Identify the content: the same for the same problems, another when a file or its reading changes.

        [동작] 파일과 그 옆에 있는 checker의 이름과 바이트, path를 뺀 인자, 그리고 파서와 그것이 이어받은 클래스들의
        소스 코드로 만든다. 파일이 놓인 곳은 무관하다.
        """
        files = self.files(split)
        content = [[file.name, digest_of_file(file)] for file in [*files, *checkers_beside(files)]]
        return digest_of([identify(self, ignore=self.not_content), content])[:16]

    def files(self, split: str) -> list[Path]:
        """Find the files of the data set, at least those of the split."""
        raise NotImplementedError

    def plus_files(self, name: str, file: str, hub: str) -> list[Path]:
        """Find the file of an EvalPlus data set, its own format before that of the data set that it extends."""
        parquet = "data/test-*.parquet"
        endings = (".jsonl", ".jsonl.gz", "-OriginFmt.jsonl", "-OriginFmt.jsonl.gz")
        patterns = (*(f"{file}{ending}" for ending in endings), parquet)
        return in_use().find_data(name, self.path, patterns, key=self.key, hub=(hub, parquet))

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of the data set's files, at least those of the split, in the format that each name says."""
        readers = {".json": read_json_array, ".parquet": read_parquet}
        for file in self.files(split):
            yield from readers.get(Path(file.name.removesuffix(".gz")).suffix, read_jsonl)(file)

    def parse(self, row: Row) -> Problem:
        """Make a Problem of one row."""
        raise NotImplementedError

    def other_name(self, task_id: str, row: Row) -> str:
        """Name a problem whose name is taken, where the format allows two of one name."""
        return task_id


class Mbpp(FileSource):
    """Read MBPP, full (mbpp.jsonl) or sanitized (sanitized-mbpp.json), packed (.gz) or not.

    [동작] 분할은 task_id로 정해져 있다: 1-10 prompt, 11-510 test, 511-600 validation, 601-974 train.
    `test_setup_code`와 sanitized의 `test_imports`는 정답 뒤, 시험 앞에서 도는 `setup`이 된다.

    Args:
        sanitized: 폴더에서 어느 파일을 읽을지.
        challenge_tests: 11개 문제에 있는 `challenge_test_list`도 쓸지.
    """

    name = "mbpp"
    licence = "CC-BY-4.0"

    def __init__(self, path: str | os.PathLike | None = None, sanitized: bool = False, challenge_tests: bool = False):
        super().__init__(path)
        self.sanitized = sanitized
        self.challenge_tests = challenge_tests

    @override
    def files(self, split: str) -> list[Path]:
        parquet = "sanitized/*.parquet" if self.sanitized else "full/*.parquet"
        file = "sanitized-mbpp.json" if self.sanitized else "mbpp.jsonl"
        patterns = (file, f"{file}.gz", parquet)
        hub = ("google-research-datasets/mbpp", parquet)
        return in_use().find_data(self.name, self.path, patterns, key=self.key, hub=hub)

    @override
    def parse(self, row: Row) -> Problem:
        if is_plus(row):
            return mbpp_plus(row, _mbpp_split, called_function, self.licence)
        if "test" in row.values:
            raise row.error(
                "test", "is of MBPP+, but holds no inputs, and without them the base tests alone would be judged here"
            )
        number = row.get("task_id", int)
        code = row.text("code")
        tests = row.texts("test_list")
        if self.challenge_tests:
            tests += row.texts("challenge_test_list", default=[])
        if not tests:
            raise row.error("test_list", "must hold at least one test")
        setup = (*row.texts("test_imports", default=[]), row.text("test_setup_code", default=""))
        return Problem(
            task_id=f"mbpp/{number}",
            source=self.name,
            split=_mbpp_split(number, row),
            text=row.text("text" if "text" in row.values else "prompt"),
            solutions=(code,),
            tests=tests,
            setup="\n".join(setup).strip("\n"),
            entry_point=called_function(tests[0], code),
            licence=self.licence,
        )


class MbppPlus(Mbpp):
    """Read MBPP+ (EvalPlus v0.2.0): 378 problems of MBPP, from MbppPlus.jsonl, its OriginFmt, or the Hub's Parquet."""

    @override
    def files(self, split: str) -> list[Path]:
        return self.plus_files("mbpp_plus", "MbppPlus", "evalplus/mbppplus")

    @override
    def parse(self, row: Row) -> Problem:
        return plus_row(row, super().parse)


class HumanEval(FileSource):
    """Read HumanEval (HumanEval.jsonl or .jsonl.gz); all of its 164 problems are test problems.

    [동작] 참조 정답은 프롬프트와 본문을 이은 완전한 프로그램이다. 시험은 `check`의 정의와 그것을 부르는 문장이다.
    시험이 부르는 보조 함수(32, 38, 50번)는 프로그램의 것이 아니라 프롬프트의 것을 쓴다 (`setup`).
    """

    name = "humaneval"
    licence = "MIT"
    splits = ("test",)

    @override
    def files(self, split: str) -> list[Path]:
        parquet = "openai_humaneval/*.parquet"
        patterns, hub = ("HumanEval.jsonl", "HumanEval.jsonl.gz", parquet), ("openai/openai_humaneval", parquet)
        return in_use().find_data(self.name, self.path, patterns, key=self.key, hub=hub)

    @override
    def parse(self, row: Row) -> Problem:
        if is_plus(row):
            return humaneval_plus(row, self.licence)
        prompt = row.text("prompt")
        entry_point = row.text("entry_point")
        tests: tuple[str, ...] = (row.text("test"), f"check({entry_point})")
        if entry_point == "check":  # the tests define a function of that name: take the program's before they do
            tests = ("candidate = check", tests[0], "check(candidate)")
        return Problem(
            task_id=row.text("task_id"),
            source=self.name,
            split="test",
            text=prompt,
            solutions=(prompt + row.text("canonical_solution"),),
            tests=tests,
            # The tests of 32, 38 and 50 call what the prompt defines: take that, not what a program puts in its place.
            setup=_whole(prompt),
            entry_point=entry_point,
            licence=self.licence,
        )


class HumanEvalPlus(HumanEval):
    """Read HumanEval+ (EvalPlus v0.1.10), from HumanEvalPlus.jsonl, its OriginFmt, or the Hub's Parquet."""

    @override
    def files(self, split: str) -> list[Path]:
        return self.plus_files("humaneval_plus", "HumanEvalPlus", "evalplus/humanevalplus")

    @override
    def parse(self, row: Row) -> Problem:
        return plus_row(row, super().parse)


class CodeContests(FileSource):
    """Read CodeContests in the shape of its Hugging Face rows, as JSONL or Parquet.

    [동작] Python 3 정답(language 3)과 오답만 담고, public, private, generated 시험을 이 순서로
    표준 입출력 쌍으로 잇는다. 분할은 줄의 `split` 값, 없으면 공식 파일 이름(train, valid, test, 조각은
    train-00000-of-00039), 그것도 아니면 이름의 sha256으로 정한다: 10으로 나눈 나머지 0은 validation,
    1과 2는 test, 나머지는 train. 그래서 줄을 더하거나 빼도 다른 문제의 분할은 바뀌지 않는다.
    `time_limit`, `memory_limit_bytes`, `input_file`, `output_file`을 지킨다. 이름이 같은 두 문제는 `source`가 다르면
    다른 문제이고, 뒤의 것의 이름에는 출처가 붙는다: `codecontests/A (codechef)`.

    Args:
        path: 파일, s3:// 주소, 또는 `train*`, `valid*`, `test*`(.jsonl, .jsonl.gz, .parquet)가 있는 폴더.
            없으면 기본 장소를 찾는다.
    """

    name = "codecontests"
    licence = "CC-BY-4.0"
    splits = ("train", "validation", "test")

    @override
    def files(self, split: str) -> list[Path]:
        names = {"train": "train", "validation": "valid", "test": "test"}
        endings = ("*.jsonl", "*.jsonl.gz", "*.parquet")
        patterns = [
            *(f"{name}{ending}" for name in names.values() for ending in endings),
            *(f"data/{name}-*.parquet" for name in names.values()),
        ]
        # On the Hub the training split is gigabytes in 39 files, and the others are one small file each.
        hub = ("deepmind/code_contests", f"data/{names.get(split, '*')}-*.parquet")
        return in_use().find_data(self.name, self.path, patterns, several=True, key=self.key, hub=hub)

    @override
    def parse(self, row: Row) -> Problem:
        name = row.text("name")
        tests = [pair for kind in ("public_tests", "private_tests", "generated_tests") for pair in row.stdio(kind)]
        return Problem(
            task_id=f"{self.name}/{name}",
            source=self.name,
            split=split_of(name, row),
            text=row.text("description"),
            solutions=row.python3("solutions"),
            incorrect_solutions=row.python3("incorrect_solutions"),
            stdio=tuple(tests),
            time_limit=row.seconds("time_limit"),
            memory_limit=row.get("memory_limit_bytes", int, 0),
            checker=row.checker(),
            input_file=row.file_name("input_file"),
            output_file=row.file_name("output_file"),
            licence=self.licence,
        )

    @override
    def other_name(self, task_id: str, row: Row) -> str:
        source = row.get("source", int | str, 0)
        if isinstance(source, int):
            source = CODECONTESTS_SOURCES[source] if 0 <= source < len(CODECONTESTS_SOURCES) else f"source {source}"
        return f"{task_id} ({source.lower()})"


def plus_row(row: Row, parse: Callable[[Row], Problem]) -> Problem:
    """Parse a row of EvalPlus', and refuse any other."""
    if not is_plus(row):
        raise row.error("test", "holds no inputs of EvalPlus'; benchmark=humaneval or mbpp reads rows of that kind")
    return parse(row)


def _whole(prompt: str) -> str:
    """Give the function that a prompt begins a body, where it has no docstring to be one."""
    try:
        ast.parse(prompt)
        return prompt
    except IndentationError:
        return prompt.rstrip("\n") + "\n    pass\n"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return prompt


def _mbpp_split(number: int, row: Row) -> str:
    for last, split in ((10, "prompt"), (510, "test"), (600, "validation"), (974, "train")):
        if 1 <= number <= last:
            return split
    raise row.error("task_id", f"= {number} must be in 1..974")


def called_function(test: str, code: str) -> str | None:
    """Name the function of the solution that the test calls."""
    defined = set(re.findall(r"^def\s+(\w+)", code, flags=re.MULTILINE))
    try:
        nodes = ast.walk(ast.parse(test))
        calls = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no Python, a NUL byte, or nested too deep
        return None
    return next((name for name in calls if name in defined), None)


def split_of(name: str, row: Row) -> str:
    """Find the split of a row: as the row says, as an official file name says, or by the hash of its name."""
    official = re.fullmatch(
        r"(train|valid|validation|test)(-\d+-of-\d+(-[0-9a-f]+)?)?\.(jsonl(\.gz)?|parquet)", row.file.name
    )
    split = row.text("split", default=official[1] if official else "")
    split = "validation" if split == "valid" else split
    if not split:
        remainder = int.from_bytes(hashlib.sha256(name.encode()).digest()) % 10
        split = "validation" if remainder == 0 else "test" if remainder <= 2 else "train"
    if split not in CodeContests.splits:
        raise row.error("split", f"= {split} must be train, valid or test")
    return split
