"""Read rows of one's own, without a parser: what a row is, its fields say.

[연구 맥락] 제 데이터로 시작하는 사람에게 첫걸음이 클래스 하나와 YAML 두 개여서는 안 된다.
[동작] 줄의 모양은 셋이고, 필드의 이름으로 알아본다. 이름이 다르면 `data.fields.<필드>=<이름>`으로 알려 준다.
    messages             대화. assistant의 말마다 표본이 하나다: 그 앞까지가 프롬프트, 그 말만 학습 대상.
    prompt, completion   프롬프트도 답도 글자 그대로 쓴다.
    text, code           MBPP처럼 설명과 프로그램. text 대신 prompt여도 된다.
    뒤의 둘에 시험(test_list)이 있으면 critic의 보상과 벤치마크가 쓴다. prompt와 completion을 이은 것이 파이썬이면
    (함수의 서명과 본문처럼) 그것이 프로그램이고, 아니면 completion이 프로그램이다.
    검증은 따로 준 파일이거나, 프롬프트의 해시로 고른 몫이다: 같은 물음은 언제나 같은 쪽이고, 줄을 더하거나 빼도 다른
    줄의 쪽은 바뀌지 않는다. 몫에 든 것이 없으면 해시가 가장 작은 물음 하나가 검증이다.
[디버깅] `data.fields`가 맞는지는 오류 문장이 말하는 필드의 목록을 본다.
"""

import ast
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from typing_extensions import override

from wmtp import ranges
from wmtp.data.problem import Problem
from wmtp.data.rows import Row
from wmtp.data.sources import FileSource, called_function
from wmtp.errors import ConfigError, DataFormatError
from wmtp.storage import in_use

# What each field is called where nothing else is said.
FIELDS = {
    "messages": ("messages",),
    "prompt": ("prompt",),
    "completion": ("completion",),
    "text": ("text", "prompt"),
    "code": ("code",),
    "tests": ("test_list", "tests"),
    "setup": ("test_setup_code", "test_imports", "setup"),
    "id": ("task_id", "id"),
}
ROLES = ("system", "user", "assistant", "tool")
PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.parquet")
SHOWN = 30  # fields in a sentence
_DRAWS = 8  # of mutants, until one is in what was written


class Jsonl(FileSource):
    """Read files whose rows are recognised by their fields.

    Args:
        path: 파일, 그것들이 든 폴더, 또는 s3:// 주소. `.jsonl`, `.jsonl.gz`, `.parquet`.
        fields: 필드 → 그것을 담은 열의 이름. 없거나 None이면 `FIELDS`의 이름들.
        validation_share: 검증으로 고르는 물음의 몫.
        validation_path: 검증의 파일. 있으면 path는 모두 학습한다.
        licence: 데이터의 라이선스 (SPDX 이름).
        only_tested: 시험이 있는 줄만 (벤치마크).

    Raises:
        ConfigError: 범위 밖의 몫일 때.
    """

    name = "jsonl"
    licence = "unknown"
    splits = ("train", "validation")
    not_content = (*FileSource.not_content, "validation_path", "licence", "least", "held_out")

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        fields: Mapping[str, str | None] | None = None,
        validation_share: float = 0.05,
        validation_path: str | os.PathLike | None = None,
        licence: str = "unknown",
        only_tested: bool = False,
    ) -> None:
        super().__init__(path)
        ranges.check(ranges.Jsonl, validation_share=validation_share)
        self.columns = {field: (name,) for field, name in (fields or {}).items() if name}
        self.validation_share, self.validation_path = validation_share, validation_path
        self.has_validation_file = validation_path is not None
        self.licence, self.only_tested = licence, only_tested
        self.least: int | None = None  # the least hash of a question, looked up once
        self.held_out: list[Path] = []  # the files of validation_path

    @property
    def conversations(self) -> bool:
        """Say whether the first row is a conversation."""
        return any(self.kind(row) == "messages" for row, _ in zip(super().rows("train"), range(1), strict=False))

    @override
    def has_tests(self, split: str) -> bool:
        return any(problem.tested for problem in self.stream(split))

    @override
    def stream(self, split: str) -> Iterator[Problem]:
        """Yield the problems of one split, or of all; of a benchmark those that can be judged.

        Raises:
            ConfigError: 검증으로 하나를 고르면 학습할 것이 남지 않을 때.
        """
        found = False
        for problem in super().stream(split):
            found = True
            if problem.tested or not self.only_tested:
                yield problem
        if split == "train" and not found:
            raise ConfigError(
                f"{self.key} = {self.path} holds fewer than two different questions, and one is kept for validation; "
                "add rows, or give data.validation_path."
            )

    @override
    def mutate(self, problem: Problem, rng: Random) -> tuple[str, tuple[int, int]] | None:
        """Write a mutant that leaves the prompt as it is, where a program goes on with it."""
        given = len(problem.prompt or "") if problem.continues else 0
        draws = (super(Jsonl, self).mutate(problem, rng) for _ in range(_DRAWS))
        return next((found for found in draws if found is None or found[1][0] >= given), None)

    @override
    def files(self, split: str) -> list[Path]:
        if self.path is None:
            raise ConfigError(f"{self.key} has no value; give the file or the folder that holds your rows.")
        group = self.key.partition(".")[0]
        if self.has_validation_file:
            self.held_out = self.find(f"{self.name} (validation)", self.validation_path, f"{group}.validation_path")
            if split == "validation":
                return self.held_out
        files = [file for file in self.find(self.name, self.path, self.key) if file not in self.held_out]
        return files + (self.held_out if split == "all" else [])

    def find(self, name: str, path: str | os.PathLike | None, key: str) -> list[Path]:
        """Find the files of a path, as `wmtp.storage` looks for data."""
        return in_use().find_data(name, path, PATTERNS, several=True, key=key)

    @override
    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows; of a conversation one for every answer in it, cut off after that answer."""
        for row in super().rows(split):
            if self.kind(row) == "messages":
                yield from self.turns(row)
            else:
                yield row

    def column(self, field: str, row: Row) -> str | None:
        """Name the column that holds a field in this row, None where none does."""
        names = self.columns.get(field, FIELDS[field])
        return next((name for name in names if row.values.get(name) is not None), None)

    def named(self, field: str, row: Row) -> str:
        """Name the column that holds a field which `kind` has found there."""
        column = self.column(field, row)
        assert column is not None
        return column

    def kind(self, row: Row) -> str:
        """Recognise a row by its fields.

        Raises:
            DataFormatError: 알아볼 수 없을 때. 있는 필드를 모두 말한다.
        """
        there = {field for field in FIELDS if self.column(field, row)}
        strange = {field: names[0] for field, names in self.columns.items() if names[0] not in row.values}
        if not strange:
            if "messages" in there:
                return "messages"
            if {"prompt", "completion"} <= there:
                return "completion"
            if "text" in there and there & {"code", "tests"}:
                return "code"
        group, found = self.key.partition(".")[0], [name for name in row.values if row.values[name] is not None]
        listed = ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "") if found else "none"
        said = " and ".join(f"{group}.fields.{field} = {name}" for field, name in strange.items())
        said = f"no field for {said}" if said else "no messages, no prompt with completion, no text with code"
        raise DataFormatError(
            f"{row.where}: {said}; the row's fields are {listed}. Say which is which, as in "
            f"{group}.fields.prompt=NAME {group}.fields.completion=NAME (see docs/data.md)."
        )

    def turns(self, row: Row) -> Iterator[Row]:
        """Yield the row once for every answer that follows something."""
        column = self.named("messages", row)
        said = row.get(column, list)
        for number, message in enumerate(said):
            texts = [message.get(key) for key in ("role", "content")] if isinstance(message, dict) else [None]
            if not all(isinstance(text, str) for text in texts) or texts[0] not in ROLES:
                roles = ", ".join(ROLES)
                raise row.error(column, f'[{number}] must be {{"role": one of {roles}, "content": a text}}')
        answers = [
            end
            for end, message in enumerate(said)
            if end and message["role"] == "assistant" and message["content"].strip()
        ]
        if not answers:
            raise row.error(column, "holds no answer of the assistant, so there is nothing to learn")
        yield from (row.holding(column, said[: end + 1]) for end in answers)

    @override
    def parse(self, row: Row) -> Problem:
        kind = self.kind(row)
        problem = Problem(
            task_id=f"{self.name}/{self.id_of(row)}",
            source=self.name,
            split=self.split_of(row),
            text=self.question(row),
            licence=self.licence,
        )
        if kind == "messages":
            column = self.named("messages", row)
            said = [
                (message["role"], row.all_text(column, [message["content"]])[0]) for message in row.get(column, list)
            ]
            turn = sum(role == "assistant" for role, _ in said)
            name = problem.task_id + (f"/{turn}" if turn > 1 else "")
            text = next((text for role, text in reversed(said) if role == "user"), "")
            return replace(problem, task_id=name, text=text, messages=tuple(said[:-1]), solutions=(said[-1][1],))
        tests = self.tests_of(row)
        setup = "\n".join(self.texts("setup", row)).strip("\n")
        if kind == "completion":
            prompt, completion = problem.text, self.text("completion", row)
            continues = _continues(prompt, completion)
            solution = prompt + completion if continues else completion
            problem = replace(problem, prompt=prompt, continues=continues, solutions=(solution,))
        elif self.column("code", row):
            problem = replace(problem, solutions=(self.text("code", row),))
        called = called_function(tests[0], "".join(problem.solutions)) if tests else None
        return replace(problem, tests=tests, setup=setup, entry_point=called)

    def question(self, row: Row) -> str:
        """Return what a row asks, by which its split is chosen; of a conversation the first that a user says."""
        kind = self.kind(row)
        if kind != "messages":
            return self.text("prompt" if kind == "completion" else "text", row)
        column = self.named("messages", row)
        said = [message for message in row.get(column, list) if isinstance(message, dict)]
        first = next((message.get("content") for message in said if message.get("role") == "user"), "")
        return first if isinstance(first, str) else ""

    def id_of(self, row: Row) -> str:
        """Name a row: as it names itself, else by its file and line."""
        column = self.column("id", row)
        return str(row.get(column, int | str)) if column else f"{row.file.name}:{row.line}"

    def other_name(self, task_id: str, row: Row) -> str:
        """Tell two files of one name apart by their folders."""
        return task_id if self.column("id", row) else f"{task_id} ({row.file.parent.name})"

    def split_of(self, row: Row) -> str:
        """Tell the split of a row: that of its file, or by the hash of its question."""
        if self.has_validation_file:
            return "validation" if row.file in self.held_out else "train"
        if self.least is None:
            self.least = min(map(_hash, map(self.question, super().rows("all"))), default=0)
        chosen = _hash(self.question(row))
        return "validation" if chosen < self.validation_share * 2**64 or chosen == self.least else "train"

    def text(self, field: str, row: Row) -> str:
        """Return the text of a field."""
        return row.text(self.named(field, row))

    def texts(self, field: str, row: Row) -> tuple[str, ...]:
        """Return the texts of a field: a list of them, or one; none where there is no such field."""
        column = self.column(field, row)
        if column is None:
            return ()
        value: Any = row.get(column, str | list)
        return row.all_text(column, [value] if isinstance(value, str) else value)

    def tests_of(self, row: Row) -> tuple[str, ...]:
        """Return the tests of a row, empty ones left out."""
        return tuple(test for test in self.texts("tests", row) if test.strip())


def _hash(question: str) -> int:
    return int.from_bytes(hashlib.sha256(question.strip().encode()).digest()[:8])


def _continues(prompt: str, completion: str) -> bool:
    """Tell whether a completion goes on with a program that the prompt begins; a word alone begins none."""
    begun, rest = _parsed(prompt), _parsed(completion)
    alone = begun is not None and rest is not None and all(isinstance(node, ast.Expr) for node in begun.body)
    return not alone and _parsed(prompt + completion) is not None


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
