"""Say which storage a run looks in: where bytes lie belongs to the machine, not to the experiment.

[동작] 앞문이 `with using(storage):` 안에서 일하고, 그 안에서는 어디서든 `in_use()`가 그것이다. 출처나 모델이나 저장된
    실행이 들고 다니지 않으므로, 다른 기계에서 이어 해도 그 기계의 것을 쓴다.
[디버깅] 새 스레드는 이것을 물려받지 않는다(contextvars): 스레드에서 찾아야 하면 그 밖에서 `in_use()`를 불러 건넨다.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from wmtp.storage.find import Storage

_of_this_run: ContextVar[Storage | None] = ContextVar("storage_of_this_run", default=None)


@contextmanager
def using(storage: Storage) -> Iterator[Storage]:
    """Let every source and model look in this storage until the end of the block."""
    before = _of_this_run.set(storage)
    try:
        yield storage
    finally:
        _of_this_run.reset(before)


def in_use() -> Storage:
    """Return the storage that sources and models look in; outside of a run one of the defaults."""
    return _of_this_run.get() or Storage()
