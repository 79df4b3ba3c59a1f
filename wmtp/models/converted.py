"""Convert a model of another format into a folder of ours, once, and find it in the cache ever after.

[동작] 폴더는 다른 이름(.part)으로 쓰고 다 되면 이름을 바꾼다: 전부 보이거나 전혀 안 보인다. 여러 프로세스가 함께
    시작하면 하나가 바꾸고 나머지는 기다린다. 이름에 내용의 해시가 들어 있어, 원본이 바뀌면 새로 바꾼다.
"""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from wmtp.errors import StorageError
from wmtp.storage.files import sync_all
from wmtp.storage.lock import alone


def converted(source: Path, identity: str, size: int, cache: Path, write: Callable[[Path], None]) -> Path:
    """Return the folder that a source was converted into; convert it where it is not there.

    Args:
        source: 바꿀 파일이나 폴더.
        identity: 그 내용의 이름.
        size: 바꾼 것이 많아야 몇 바이트인지.
        cache: 바꾼 폴더를 둘 곳.
        write: 바꾸는 함수. 받은 폴더는 죽은 프로세스가 쓰던 것일 수 있다.

    Raises:
        StorageError: 캐시에 쓸 수 없을 때. 쓴 데까지는 남는다.
    """
    target = cache / "converted" / f"{source.resolve().name}-{identity}"
    if target.is_dir():
        return target
    try:
        with alone(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                part = target.with_name(f".{target.name}.part")
                write(part)
                sync_all(part)
                part.rename(target)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"storage.cache = {cache}: {source} cannot be converted there ({error}). It takes at most "
            f"{size / 2**30:.1f} GiB: free some, or set storage.cache (or WMTP_CACHE) to a larger disk."
        ) from error
    return target
