"""Put a finished file or folder in the place of another, so that one of the two is always whole.

[동작] 파일은 한 번에 바뀐다. 폴더는 그럴 수 없으므로, 앞의 것을 .old로 비켜 두고 새것에 이름을 준 뒤 지운다.
    그 사이에 꺼졌다면 다음에 찾을 때 되돌린다. 표준 라이브러리만 쓴다: 앞문이 torch보다 먼저 부른다.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UMASK = os.umask(0o22)  # asked once, and put back: there is no other way, and other threads write files later
os.umask(_UMASK)


def give_usual_mode(path: Path) -> None:
    """Give a file the mode that a new one has here; safetensors and tempfile write for this user alone."""
    path.chmod(0o666 & ~_UMASK)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary name to write a file under; at the end of the block it gets its own, unless something failed.

    [동작] 디스크에 내린 뒤(fsync) 이름을 바꾼다. 죽거나, 디스크가 차거나, 전원이 꺼져도 반쪽 파일은 남지 않는다.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        give_usual_mode(temporary)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that no kill, crash or full disk can leave half of it."""
    with written_atomically(path) as temporary:
        temporary.write_bytes(content)


def swap_in(temporary: Path, path: Path) -> None:
    """Give a finished file or folder its name, in place of what has it now."""
    recover(path)
    if temporary.is_file() and not path.is_dir():
        temporary.replace(path)
    else:
        aside = _aside(path)
        remove(aside)
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        remove(aside)
    sync(path.parent)


def sync(path: Path) -> None:
    """Let the content of a file, or the names in a folder, reach the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_all(folder: Path) -> None:
    """Let a new folder and everything in it reach the disk, and be read by whom the umask allows."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            give_usual_mode(path)
        sync(path)


def recover(path: Path) -> None:
    """Put back what was moved aside, if a kill came before its successor had the name."""
    if not path.exists() and _aside(path).exists():
        _aside(path).rename(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".old")
