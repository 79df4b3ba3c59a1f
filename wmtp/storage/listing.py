"""Say what a place holds: names, sizes and checksums, and by them which version it is.

[연구 맥락] 이름이 같아도 바이트가 다르면 다른 데이터다. 목록의 내용이 곧 판(version)의 이름이다.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


class Changed(Exception):
    """Say that a place no longer holds the version that was listed."""


@dataclass(frozen=True)
class RemoteFile:
    """Hold one file of a listing.

    Args:
        name: 복사본에서 가질 이름 ("full/train.parquet").
        key: 그 장소에서 부르는 이름.
        size: 바이트 수.
        etag: 서버가 이 판을 부르는 이름.
        digest: 바이트가 가져야 할 체크섬 (종류, 16진수). 서버가 알려 주지 않으면 None.
    """

    name: str
    key: str
    size: int
    etag: str
    digest: tuple[str, str] | None = None


@dataclass(frozen=True)
class Listing:
    """Hold the wanted files of a place at one moment, and under which licence they are."""

    files: tuple[RemoteFile, ...]
    licence: str | None = None
    commit: str | None = None

    @property
    def version(self) -> str:
        """Name the contents: two listings of the same bytes have the same version."""
        content = [(file.name, file.size, file.etag) for file in self.files]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def choose(names: Sequence[str], patterns: Sequence[str], several: bool = False) -> list[str]:
    """Pick file names by patterns in which * stays within one folder.

    Args:
        patterns: 원하는 이름들. 앞의 것이 먼저다.
        several: 어느 패턴이든 맞는 이름을 모두. False면 처음으로 무언가에 맞은 패턴의 것만.

    Example:
        >>> choose(["a.json", "full/x.parquet", "full/y.parquet"], ["b.json", "full/*.parquet"])
        ['full/x.parquet', 'full/y.parquet']
        >>> choose(["full/x.json"], ["*.json"])
        []
    """
    chosen: list[str] = []
    for pattern in patterns:
        depth = pattern.count("/")
        chosen += [n for n in names if n.count("/") == depth and fnmatchcase(n, pattern) and n not in chosen]
        if chosen and not several:
            break
    return chosen
