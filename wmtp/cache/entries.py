"""Keep what is slow to make (tokens, reference losses) as memory-mapped files, named by what they were made of.

[연구 맥락] 같은 데이터를 실행마다 다시 만들고 토큰화하면 2만 문제에 십여 초씩 버린다. 한 번 만든 것은 파일에서
    곧바로 메모리에 비추어(mmap) 쓰고, 입력이 한 글자라도 바뀌면 키가 달라져 새로 만든다.
[동작] 한 항목 = `<캐시>/<종류>/<키의 sha256>.safetensors`. 텐서 몇 개와 그 내용의 체크섬이 들어 있다.
    만드는 동안은 잠그므로, 둘이 동시에 시작하면 하나는 기다렸다가 읽는다. 여럿이면 남이 잡지 않은 것을 잡는다.
    체크섬이 맞지 않는 항목은 그렇다고 말하고 다시 만든다. 쓸 수 없는 캐시도 말만 하고 캐시 없이 간다.
[디버깅] 캐시는 언제 지워도 된다.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wmtp.cache.fingerprint import digest_of
from wmtp.storage import in_use
from wmtp.storage.files import written_atomically
from wmtp.storage.lock import Taken, alone

Work = TypeVar("Work")


def entry_file(kind: str, key: Any) -> Path:
    """Return where the entry of a key lies.

    Args:
        kind: 캐시 안의 폴더 이름 ("tokens", "reference").
        key: 항목을 결정하는 모든 것, 평범한 값들로.
    """
    return in_use().cache / kind / f"{digest_of(key)[:32]}.safetensors"


def read_or_build(file: Path, build: Callable[[], dict[str, Tensor]], wait: bool = True) -> dict[str, Tensor]:
    """Read an entry; build and keep it where it is not there or damaged.

    Returns:
        이름 → 텐서. 파일에 비춘(mmap) 것이며, 쓸 수 없는 캐시라면 방금 만든 것.

    Raises:
        Taken: wait=False인데 다른 프로세스가 잡고 있을 때.
    """
    with claimed(file, wait):
        entry = read_entry(file)
        if entry is None:
            built = build()
            entry = (write_entry(file, built) and read_entry(file)) or built
        return entry


def claimed(file: Path, wait: bool = True) -> AbstractContextManager[bool]:
    """Hold the lock of an entry (`wmtp.storage.lock.alone`)."""
    return alone(file.with_suffix(".lock"), wait, f"cache: another process is making {file}; waiting for it")


def build_together(
    shards: Iterable[tuple[Path, Work]], build: Callable[[Work], dict[str, Tensor]]
) -> Iterator[tuple[Path, Work, dict[str, Tensor]]]:
    """Read entries, or build those that no other process is building, until all are there.

    [동작] 여러 프로세스가 함께 부르면 통신 없이 나누어 한다. 하나가 죽으면 그가 잡았던 것은 남은 프로세스가 만든다.
    """
    while True:
        held = []
        for file, work in shards:
            try:
                entry = read_or_build(file, partial(build, work), wait=False)
            except Taken:
                held.append((file, work))
            else:
                yield file, work, entry
        if not held:
            return
        time.sleep(0.1)
        shards = held


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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in file.parent.glob(f".{file.name}.*.tmp"):
            left_by_a_kill.unlink()
        with written_atomically(file) as temporary:
            save_file(entry, temporary, metadata={"sha256": _digest(entry)})
        return True
    except (OSError, SafetensorError) as error:
        _say(f"cannot keep {file} ({error}); going on without it")
        return False


def pack(value: Any) -> Tensor:
    """Write a value of plain types as the bytes of a JSON text, so that an entry can hold it."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def unpack(packed: Tensor) -> Any:
    """Read what `pack` wrote."""
    return json.loads(packed.numpy().tobytes())


def _digest(entry: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(entry.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _say(sentence: str) -> None:
    print(f"cache: {sentence}", file=sys.stderr, flush=True)
