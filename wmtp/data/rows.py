"""Read the rows of a data file, JSONL, a JSON array or Parquet, and complain with the place where a row stands.

[연구 맥락] 잘못된 줄은 건너뛰지 않는다. 파일과 줄 번호, 고칠 키를 말하며 멈춘다.
[동작] 파일은 한 줄씩 읽는다. 값은 종류를 물어보며 꺼낸다 (`Row.text`, `Row.texts`, …).
    줄바꿈은 LF로 통일하고 탭은 그대로 둔다 (MBPP 정답 129개가 탭을 쓴다).
[디버깅] 오류의 줄 번호는 JSON 배열과 Parquet에서는 몇 번째 줄(row)인지다.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import IO, Any

from wmtp.data.checkers import complaint_of
from wmtp.errors import DataFormatError

PYTHON3 = 3  # the language number in CodeContests


@dataclass(frozen=True)
class Row:
    """Hold one row and where it stands, so that every complaint can say so."""

    file: Path
    line: int
    values: dict[str, Any]
    described_in: str = "docs/data.md"

    @property
    def where(self) -> str:
        """Name the file and the line."""
        return f"{self.file}:{self.line}"

    def error(self, key: str, complaint: str) -> DataFormatError:
        """Make the error that says what is wrong with a key of this row, and what to do."""
        return DataFormatError(
            f"{self.where}: {key} {complaint}. Correct the row (the format is described in {self.described_in})."
        )

    def get(self, key: str, kind: type | UnionType, default: Any = None) -> Any:
        """Return a value of the asked type."""
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = getattr(kind, "__name__", str(kind))
            raise self.error(key, f"must be {wanted}, not {type(value).__name__}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text, its lines ended by \\n alone."""
        return self._lf(key, self.get(key, str, default))

    def texts(self, key: str, default: list | None = None) -> tuple[str, ...]:
        """Return a list of texts."""
        return self.all_text(key, self.get(key, list, default))

    def holding(self, key: str, value: Any) -> "Row":
        """Return the row with another value."""
        return replace(self, values={**self.values, key: value})

    def decoded(self, key: str, kind: type | UnionType = object, default: Any = None) -> Any:
        """Return a value that the row holds as it is, or as a text of JSON; an empty text is none."""
        value = self.values.get(key)
        if not isinstance(value, str):
            return self.get(key, kind, default)
        try:
            found = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise self.error(key, f"is not JSON ({error})") from None
        return found if kind is object else self.holding(key, found).get(key, kind, default)

    def checker(self) -> str:
        """Return the code that decides where several answers are right, "" for none: a text, or a file beside this.

        Raises:
            DataFormatError: 파이썬이 아니거나 check(input, output, answer)가 없을 때. 파일과 줄을 알려 준다.
        """
        code, where = self.text("checker", ""), ""
        if code.endswith(".py") and "\n" not in code:
            file = self.file.parent / self.file_name("checker")
            try:
                code, where = file.read_text("utf-8"), str(file)
            except (OSError, ValueError) as error:
                raise self.error("checker", f"= {code} cannot be read ({error})") from None
        if not code or (found := complaint_of(code)) is None:
            return code
        line, complaint = found
        if where:
            raise DataFormatError(f"{where}:{line}: {complaint}. Correct the checker, which {self.where} names.")
        raise self.error("checker", f"{complaint} (line {line} of the checker)")

    def stdio(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield the (standard input, expected output) pairs of one kind of test."""
        tests = self.get(key, dict, {"input": [], "output": []})
        inputs = self.all_text(key, tests.get("input"))
        outputs = self.all_text(key, tests.get("output"))
        if len(inputs) != len(outputs):
            raise self.error(key, f"has {len(inputs)} inputs and {len(outputs)} outputs")
        for given, expected in zip(inputs, outputs, strict=True):
            # The last line of an official input ends with a newline; copies in circulation have lost it.
            yield (given if given.endswith("\n") else given + "\n", expected)

    def seconds(self, key: str) -> float:
        """Return a time: a number, or the seconds and nanos of a protocol buffer; 0 where there is none."""
        value = self.get(key, int | float | dict, 0)
        parts = [value.get("seconds") or 0, value.get("nanos") or 0] if isinstance(value, dict) else [value, 0]
        if not all(isinstance(part, int | float) and 0 <= part < 1e12 for part in parts):
            raise self.error(key, f"= {value} must be a time in seconds")
        return parts[0] + parts[1] / 1e9

    def file_name(self, key: str) -> str:
        """Return the name of a file that programs use instead of standard input or output, "" for none."""
        name = self.text(key, "")
        if name in ("", "stdin", "stdout"):
            return ""
        if "/" in name or "\0" in name or name in (".", ".."):
            raise self.error(key, f"= {name} must be the name of a file, without a folder")
        return name

    def python3(self, key: str) -> tuple[str, ...]:
        """Return the Python 3 programs among the solutions in all languages."""
        solutions = self.get(key, dict, {"language": [], "solution": []})
        languages, programs = solutions.get("language"), self.all_text(key, solutions.get("solution"))
        if not isinstance(languages, list) or len(languages) != len(programs):
            raise self.error(key, "must give one language for each solution")
        return tuple(p for language, p in zip(languages, programs, strict=True) if language == PYTHON3)

    def all_text(self, key: str, values: Any) -> tuple[str, ...]:
        """Return texts that stand in a value of the row."""
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.error(key, "must be a list of texts")
        return tuple(self._lf(key, value) for value in values)

    def _lf(self, key: str, text: str) -> str:
        """Unify the line ends; refuse what JSON can spell and no file can hold."""
        try:
            text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            raise self.error(key, f"holds half a character (a lone surrogate at {error.start})") from None
        return text.replace("\r\n", "\n").replace("\r", "\n")


def read_jsonl(file: Path, described_in: str = "docs/data.md", opened: IO[bytes] | None = None) -> Iterator[Row]:
    """Yield the rows of a JSONL file, packed or opened already, one at a time; say where its format is described."""
    line = 0
    try:
        with opened or _opened(file) as lines:
            for line, raw in enumerate(lines, start=1):
                if raw.strip():
                    yield Row(file, line, _json_object(raw, f"{file}:{line}"), described_in)
    except (EOFError, gzip.BadGzipFile, zlib.error) as broken:
        raise DataFormatError(f"{file}:{line + 1}: the packed file is cut off or damaged. Copy it again.") from broken


def _opened(file: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def read_json_array(file: Path) -> Iterator[Row]:
    """Yield the rows of a file that is one JSON array; the line counted is the row's place in the array."""
    try:
        with _opened(file) as opened:
            content = opened.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(f"{file}:1: not JSON ({error}). Copy the file again.") from None
    for number, value in enumerate(parse_json_array(content, file), start=1):
        if not isinstance(value, dict):
            raise DataFormatError(f"{file}: row {number} must be an object, not {type(value).__name__}.")
        yield Row(file, number, value)


def parse_json_array(content: bytes, file: Path) -> list[Any]:
    """Parse the content of a file that is one JSON array."""
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataFormatError(f"{file}:{line}: not JSON ({error}). Copy the file again.") from None
    if not isinstance(values, list):
        raise DataFormatError(f"{file}:1: must be an array of rows, not {type(values).__name__}.")
    return values


def read_parquet(file: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file, one at a time; the line counted is the row's place in the file."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as opened:
            values = (row for batch in opened.iter_batches(batch_size=1) for row in batch.to_pylist())
            for number, row in enumerate(values, start=1):
                yield Row(file, number, row)
    except ArrowException as error:
        raise DataFormatError(f"{file}:1: not a whole Parquet file ({error}). Copy the file again.") from error


def _json_object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{where}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise DataFormatError(
            f"{where}: not JSON ({error.msg} at column {error.colno}). "
            "Correct the row, or copy the file again if it was cut off."
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, or brackets 1000 deep
        raise DataFormatError(f"{where}: cannot be read ({error}). Correct the row.") from None
    if not isinstance(value, dict):
        raise DataFormatError(f"{where}: must be one JSON object, not {type(value).__name__}.")
    return value
