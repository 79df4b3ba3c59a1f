"""Remember small texts: what is quick to read and slow to find out again.

[동작] 한 글 = `<캐시>/<종류>/<이름>`. 읽을 수 없으면 다시 알아내고, 쓸 수 없으면 시간이 들 뿐이다.
    torch를 부르지 않는다.
"""

from collections.abc import Callable
from contextlib import suppress

from wmtp.storage import in_use
from wmtp.storage.files import write_atomically


def remember(kind: str, name: str, find_out: Callable[[], str]) -> str:
    """Read a text; find it out and keep it where it is not there.

    Args:
        name: 글을 결정하는 모든 것의 이름 (`wmtp.cache.fingerprint.digest_of`).
    """
    file = in_use().cache / kind / name
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text(encoding="utf-8")
    text = find_out()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode())
    return text
