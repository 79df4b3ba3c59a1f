"""Keep what is slow to make (tokens, reference losses) as memory-mapped files, named by what they were made of.

[연구 맥락] 같은 데이터를 실행마다 다시 만들고 토큰화하면 2만 문제에 십여 초씩 버린다. 한 번 만든 것은 파일에서
    곧바로 메모리에 비추어(mmap) 쓰고, 입력이 한 글자라도 바뀌면 열쇠가 달라져 새로 만든다.
[동작] 한 항목 = `<캐시>/<종류>/<열쇠의 sha256>.safetensors`. 텐서 몇 개와 그 내용의 체크섬이 들어 있다.
    쓰기는 임시 이름 → fsync → rename. 만드는 동안은 잠그므로, 둘이 동시에 시작하면 하나는 기다렸다가 읽는다.
    체크섬이 맞지 않는 항목은 그렇다고 말하고 다시 만든다. 쓸 수 없는 캐시도 말만 하고 캐시 없이 간다.
[디버깅] 캐시는 언제 지워도 된다.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wmtp.cache.fingerprint import digest_of
from wmtp.storage import in_use


def entry_file(kind: str, key: Any) -> Path:
    """Return where the entry of a key lies.

    Args:
        kind: 캐시 안의 폴더 이름 ("tokens", "reference").
        key: 항목을 결정하는 모든 것, 평범한 값들로.
    """
    return in_use().cache / kind / f"{digest_of(key)[:32]}.safetensors"


def read_or_build(file: Path, build: Callable[[], dict[str, Tensor]], wait: bool = True) -> dict[str, Tensor] | None:
    """Read an entry; build and keep it where it is not there or damaged.

    Args:
        file: `entry_file`이 알려 준 자리.
        build: 항목을 만드는 함수.
        wait: 다른 프로세스가 잡고 있으면 기다릴지.

    Returns:
        이름 → 텐서. 파일에 비춘(mmap) 것이며, 쓸 수 없는 캐시라면 방금 만든 것.
        wait=False인데 다른 프로세스가 잡고 있으면 None.
    """
    with alone(file, wait) as held:
        if not held:
            return None
        entry = read_entry(file)
        if entry is None:
            built = build()
            entry = (write_entry(file, built) and read_entry(file)) or built
    return entry


def read_entry(file: Path) -> dict[str, Tensor] | None:
    """Map an entry into memory; None if it is not there, or damaged, which is said."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            entry = {name: opened.get_tensor(name) for name in opened.keys()}
            whole = _digest(entry) == (opened.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, ValueError):
        whole = False
    if not whole:
        _say(f"{file} is damaged; making it again")
    return entry if whole else None


def write_entry(file: Path, entry: dict[str, Tensor]) -> bool:
    """Put an entry there whole or not at all; a cache that cannot be written is said and costs time, nothing else."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in file.parent.glob(f".{file.name}.*.tmp"):
            left_by_a_kill.unlink()
        save_file(entry, temporary, metadata={"sha256": _digest(entry)})
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # safetensors writes for this user alone
        temporary.replace(file)
        return True
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        _say(f"cannot keep {file} ({error}); going on without it")
        return False


@contextmanager
def alone(file: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of an entry; yield whether it is held. A process that dies lets go of it.

    [동작] 잠금을 쓸 수 없는 곳(읽기 전용, 몇몇 네트워크 파일 시스템)에서는 잠그지 않고 간다:
    rename이 원자적이므로 같은 일을 두 번 할 뿐이다.
    """
    lock = FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                yield False
                return
            _say(f"another process is making {file}; waiting for it")
            lock.acquire()
    except (NotImplementedError, OSError):
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


def _digest(entry: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(entry.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _say(sentence: str) -> None:
    print(f"cache: {sentence}", file=sys.stderr, flush=True)
