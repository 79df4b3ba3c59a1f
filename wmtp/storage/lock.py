"""Let one process at a time do something: the others wait, or are told.

[동작] 커널의 잠금(filelock)이라 죽은 프로세스는 저절로 놓는다. 잠금 파일은 지우지 않는다: 지우면 둘이 다른 것을 잠근다.
    잠글 수 없는 곳(읽기 전용, 몇몇 네트워크 파일 시스템)에서는 잠그지 않고 간다. 쓰기는 언제나 온전하거나 없으므로
    (files.py) 같은 일을 두 번 할 뿐이다.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Taken(Exception):
    """Say that another process holds a lock that was not to be waited for."""


@contextmanager
def alone(file: Path, wait: bool = True, waiting_for: str = "") -> Iterator[bool]:
    """Hold a lock; yield False where there are no locks to be had, and everybody goes on.

    Args:
        waiting_for: 기다려야 하면 화면에 쓸 문장.

    Raises:
        Taken: wait=False인데 다른 프로세스가 잡고 있을 때.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise Taken(str(file)) from None
            if waiting_for:
                print(waiting_for, file=sys.stderr, flush=True)
            lock.acquire()
    except (NotImplementedError, OSError):
        pass
    try:
        yield lock.is_locked
    finally:
        lock.release()
