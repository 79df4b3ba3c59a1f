"""Append JSON lines so that a kill at any moment loses nothing but the line being written.

[연구 맥락] 평가는 몇 시간이 걸리기도 한다. 중간에 꺼져도 이미 만든 표본과 채점은 남아야 하고, 이어서 끝낸 결과는
    한 번에 끝낸 결과와 바이트까지 같아야 한다.
[동작] 줄 하나가 끝날 때마다 파일에 내보낸다. 다시 열면 반쯤 쓰인 마지막 줄은 잘라 내고 나머지를 읽는다.
    다 끝나면 `finish`가 정해진 순서로 다시 써서, 도착한 순서가 결과 파일에 남지 않게 한다.
[디버깅] 같은 키의 줄이 둘이면 뒤의 것이 이긴다.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wmtp.errors import DataFormatError
from wmtp.storage.files import write_atomically

Key = tuple[str, int]  # task_id, sample


class Journal:
    """Keep the rows of one JSONL file, on disk as soon as they are known.

    Args:
        columns: 줄마다 있어야 하는 열과 그 형.

    Raises:
        DataFormatError: 끝까지 쓰인 줄이 이 형식이 아닐 때.

    Attributes:
        rows: (task_id, sample)로 찾는 줄. 열 때 파일에 있던 것과 그 뒤에 더한 것.
    """

    def __init__(self, path: Path, **columns: type | tuple[type, ...]):
        self.path = path
        self.rows: dict[Key, dict[str, Any]] = {}
        self._file = path.open("a+b")
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # torn by a kill
            whole += len(line)
            try:
                row = json.loads(line)
                strange = [name for name, kind in columns.items() if not isinstance(row[name], kind)]
                if strange or not isinstance(row["task_id"], str) or not isinstance(row["sample"], int):
                    raise TypeError(strange)
                self.rows[row["task_id"], row["sample"]] = row
            except (ValueError, KeyError, TypeError):
                raise DataFormatError(
                    f"{path}:{number}: not a row that an evaluation wrote. Remove the line, or choose another out=DIR."
                ) from None
        self._file.truncate(whole)

    def append(self, row: dict[str, Any]) -> None:
        """Add one row and hand it to the operating system."""
        self.rows[row["task_id"], row["sample"]] = row
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file; what was appended stays as it is."""
        self._file.close()

    def finish(self, order: Iterable[Key]) -> None:
        """Rewrite the file in the given order, all of it or nothing."""
        self.close()
        write_atomically(self.path, b"".join(_line(self.rows[key]) for key in order))


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"
