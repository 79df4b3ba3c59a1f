"""Append JSON lines so that a kill at any moment loses nothing but the line being written.

[연구 맥락] 평가는 몇 시간이 걸리기도 한다. 중간에 꺼져도 이미 만든 표본과 채점은 남아야 하고, 이어서 끝낸 결과는
    한 번에 끝낸 결과와 바이트까지 같아야 한다.
[동작] 줄 하나가 끝날 때마다 파일에 내보낸다. 다시 열면 반쯤 쓰인 마지막 줄은 잘라 내고 나머지를 읽는다.
    메모리에는 줄마다 어디에 있는지만 남는다: 표본이 십만 개여도 글은 디스크에 있다.
    여러 프로세스가 나누어 쓰면 (shares.py) 저마다 자기 파일(`part`)에 쓰고 `refresh`로 남의 것을 읽는다.
    다 끝나면 `finish`가 정해진 순서로 다시 써서, 도착한 순서도 누가 썼는지도 결과 파일에 남지 않게 한다.
[디버깅] 같은 키의 줄이 둘이면 뒤에 읽은 것이 이긴다.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from wmtp.errors import DataFormatError
from wmtp.storage.files import written_atomically

Key = tuple[str, int]  # task_id, sample
Row = dict[str, Any]
_LENGTH_BITS, _FILE_BITS = 32, 16


class _Rows(Mapping[Key, Row]):
    """Find the rows by their key, each read from its file when it is asked for."""

    def __init__(self) -> None:
        self.files: list[IO[bytes]] = []
        self._place: dict[Key, int] = {}  # file, offset and length in one number: there are many of them

    def put(self, key: Key, file: int, offset: int, length: int) -> None:
        """Say where the row of a key is."""
        self._place[key] = (offset << _LENGTH_BITS | length) << _FILE_BITS | file

    def drop(self, key: Key) -> None:
        """Forget a row."""
        del self._place[key]

    def __getitem__(self, key: Key) -> Row:
        place, file = divmod(self._place[key], 1 << _FILE_BITS)
        offset, length = divmod(place, 1 << _LENGTH_BITS)
        return json.loads(os.pread(self.files[file].fileno(), length, offset))

    def __contains__(self, key: object) -> bool:
        return key in self._place

    def __iter__(self) -> Iterator[Key]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


class Journal:
    """Keep the rows of one JSONL file, on disk as soon as they are known.

    Args:
        path: 다 끝났을 때의 파일.
        part: 여럿이 나누어 쓸 때 이 프로세스의 이름. 빈 글이면 path에 바로 쓴다. None이면 나누어 쓰지 않는다.
        accepts: 파일에서 읽은 줄 가운데 남길 것.
        columns: 줄마다 있어야 하는 열과 그 형.

    Raises:
        DataFormatError: 끝까지 쓰인 줄이 이 형식이 아닐 때.

    Attributes:
        rows: (task_id, sample)로 찾는 줄. 열 때 파일에 있던 것과 그 뒤에 더한 것.
    """

    def __init__(
        self,
        path: Path,
        part: str | None = None,
        accepts: Callable[[Key, Row], bool] = lambda *_: True,
        **columns: type | tuple[type, ...],
    ):
        self.path = path
        self.rows, self._writing = _Rows(), threading.Lock()
        self._shared, self._accepts, self._columns = part is not None, accepts, columns
        self._own = path.with_name(f"{path.stem}.{part}.jsonl") if part else path
        self._file = self._own.open("a+b")
        self.rows.files.append(self._file)
        self._read_to = [0]  # of each file
        self._others: dict[Path, int] = {}
        self._file.truncate(self._read(0, self._own))
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have written since the last time."""
        if not self._shared:
            return
        for path in (self.path, *sorted(self.path.parent.glob(f"{self.path.stem}.*.jsonl"))):
            try:
                opened = path.open("rb")  # anew, so that a network file system asks its server
            except FileNotFoundError:
                continue
            if os.path.sameopenfile(opened.fileno(), self._file.fileno()):
                opened.close()
                continue
            number = self._others.get(path)
            if number is not None and os.path.sameopenfile(opened.fileno(), self.rows.files[number].fileno()):
                self.rows.files[number].close()
                self.rows.files[number] = opened
            else:  # new, or another file under the same name: what was gathered at the end
                number = self._others[path] = len(self.rows.files)
                self.rows.files.append(opened)
                self._read_to.append(0)
            self._read(number, path)

    def append(self, row: Row) -> None:
        """Add one row and hand it to the operating system."""
        line = _line(row)
        with self._writing:  # samples come while others are judged, each in a thread of its own
            self._file.write(line)
            self._file.flush()
            self.rows.put((sys.intern(row["task_id"]), row["sample"]), 0, self._read_to[0], len(line))
            self._read_to[0] += len(line)

    def sync(self) -> None:
        """Let all that was written reach the disk, and so whoever opens the file from another machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files; what was appended stays as it is."""
        for file in self.rows.files:
            file.close()

    def finish(self, order: Iterable[Key]) -> None:
        """Rewrite all rows into one file in the given order, all of it or nothing; they can still be read."""
        finished, offset = _Rows(), 0
        with written_atomically(self.path) as temporary:
            with temporary.open("wb") as file:
                for key in order:
                    line = _line(self.rows[key])
                    file.write(line)
                    finished.put(key, 0, offset, len(line))
                    offset += len(line)
            finished.files.append(temporary.open("rb"))
        self.close()
        self.rows = finished
        for path in {self._own, *self._others} - {self.path}:
            path.unlink(missing_ok=True)

    def _read(self, number: int, path: Path) -> int:
        """Take in the whole lines of a file that have not been read yet; return where they end."""
        file = self.rows.files[number]
        file.seek(self._read_to[number])
        for line in file:
            if not line.endswith(b"\n"):
                break  # torn by a kill, or not yet written to its end
            try:
                row = json.loads(line)
                strange = [name for name, kind in self._columns.items() if not isinstance(row[name], kind)]
                if strange or not isinstance(row["task_id"], str) or not isinstance(row["sample"], int):
                    raise TypeError(strange)
            except (ValueError, KeyError, TypeError):
                raise DataFormatError(
                    f"{path}:{self._line_number(file, self._read_to[number])}: not a row that an evaluation wrote. "
                    "Remove the line, or choose another out=DIR."
                ) from None
            key = sys.intern(row["task_id"]), row["sample"]
            if self._accepts(key, row):
                self.rows.put(key, number, self._read_to[number], len(line))
            self._read_to[number] += len(line)
        return self._read_to[number]

    @staticmethod
    def _line_number(file: IO[bytes], offset: int) -> int:
        file.seek(0)
        return file.read(offset).count(b"\n") + 1


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"
