"""Ask the storage for a file in a process of its own, so that it can be killed, limited, or be another machine."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

from wmtp.errors import StorageError
from wmtp.storage import Storage, copies, download

CHUNK = 2**16


def ask(settings: dict, cache: Path, environment: dict, limit: int | None = None, machine: str = "") -> None:
    """Fetch mbpp.jsonl; exit 0 with the file, 3 with a clear error.

    Args:
        settings: storage.s3.
        cache: storage.cache.
        environment: 환경 변수.
        limit: 파일 하나의 크기 제한. 디스크가 가득 찬 것과 같다.
        machine: 같은 디스크를 쓰지만 잠금은 나누지 않는 다른 기계의 이름.
    """
    os.environ.update(environment)
    download.WAITS, download.CHUNK = (0.01,) * 5, CHUNK
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if machine:
        copies.alone = contextmanager(lambda *_, **__: iter([True]))
        copies.socket.gethostname = lambda: machine
    try:
        Storage(cache=cache, s3=settings).find_data("mbpp", None, ["mbpp.jsonl"], hub=("nobody/nothing", "*"))
    except StorageError:
        os._exit(3)
    os._exit(0)
