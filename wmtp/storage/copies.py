"""Keep copies of what is far away: a folder for every place, in it a folder for every version.

[동작] `<캐시>/mirror/<장소>/<판>/`에 파일들과 wmtp-manifest.json이 있다.
       1. 임시 폴더 `.<판>.<기계>.part`에 받는다 (download.py).
       2. 폴더 이름을 `<판>`으로 바꾼다(rename): 한꺼번에 보이거나 전혀 보이지 않는다. 둘이 겹치면 먼저가 이긴다.
[디버깅] 무엇이 어디서 왔는지는 복사본의 wmtp-manifest.json에 있다. 언제 지워도 된다.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from wmtp.errors import StorageError
from wmtp.storage.download import MANIFEST, Place, download, list_files, reason, say
from wmtp.storage.files import sync
from wmtp.storage.listing import Changed, Listing
from wmtp.storage.lock import alone


class Copies:
    """Hold the copies of one cache."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def of(self, place: Place) -> Path:
        """Return the folder of all versions of a place."""
        key = hashlib.sha256(json.dumps(place.identity).encode()).hexdigest()[:8]
        return self.cache / "mirror" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', place.url)}-{key}"

    def newest(self, place: Place) -> Path | None:
        """Return the whole copy that was fetched or confirmed last."""
        manifests = sorted(
            self.of(place).glob(f"[!.]*/{MANIFEST}"), key=lambda file: file.stat().st_mtime_ns, reverse=True
        )
        for copy in (manifest.parent for manifest in manifests):
            if is_whole(copy):
                return copy
            say(f"the copy in {copy} is damaged, and is not used")
        return None

    def get(self, place: Place, listing: Listing) -> Path:
        """Return a whole copy of a listing, fetched if it is not there.

        Raises:
            StorageError: 끝내 온전히 받지 못했을 때. 캐시에는 아무것도 남지 않는다 (이어 받을 토막만 남는다).
        """
        unit = self.of(place)
        if is_whole(unit / listing.version):
            with suppress(OSError):  # a cache that others may only read
                os.utime(unit / listing.version / MANIFEST)  # the newest again
            return unit / listing.version
        try:
            unit.mkdir(parents=True, exist_ok=True)
            # Every machine has a temporary folder of its own; where there are no locks, every process.
            machine = f"{socket.gethostname()}-{uuid.getnode():x}"
            said = f"storage: another process is fetching {place.url}; waiting for it"
            with alone(unit / ".lock", waiting_for=said) as locked:
                owner = machine if locked else f"{machine}-{os.getpid()}"
                for _ in range(3):
                    if is_whole(unit / listing.version):  # another process was faster
                        return unit / listing.version
                    part = unit / f".{listing.version}.{owner}.part"
                    try:
                        return _put(unit, listing.version, download(place, listing, part), owner)
                    except Changed:
                        say(f"{place.url} changed while it was read; starting again with what it is now")
                        now = list_files(place)
                    if now is None:
                        raise StorageError(f"{place.url} was removed while it was read. Ask who owns it.")
                    listing = now
        except place.transient as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StorageError(
                    f"storage.cache = {self.cache} has no room for {place.url}; free some, or set storage.cache (or "
                    "WMTP_CACHE) to a larger disk."
                ) from error
            if isinstance(error, OSError) and error.filename is not None:
                raise StorageError(
                    f"storage.cache = {self.cache} cannot be written ({reason(error)}); "
                    "set storage.cache or WMTP_CACHE."
                ) from error
            raise StorageError(self.unreadable(place, error)) from error
        raise StorageError(f"{place.url} kept changing while it was read, three times. Wait until it is complete.")

    def unreadable(self, place: Place, error: BaseException) -> str:
        """Say in a sentence why a place could not be read, and what to do."""
        remedy = "Check the network"
        if "credentials" in str(error).lower() or isinstance(error, PermissionError):
            remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to keys that may read it"
        if self.newest(place):
            remedy += ", or use the copy in the cache with storage.mode=offline"
        return f"{place.url} could not be read ({reason(error)}). {remedy}."


def _put(unit: Path, version: str, files: Path, owner: str) -> Path:
    """Make a finished download visible under the name of its version."""
    final = unit / version
    if final.exists() and not is_whole(final):
        say(f"the copy in {final} is damaged; replacing it")
        os.rename(final, files.parent / "damaged")
    try:
        os.rename(files, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_whole(final):
            raise
    sync(unit)
    for left in unit.glob(f".*.{owner}.part"):  # this one, and what earlier versions left
        shutil.rmtree(left, ignore_errors=True)
    return final


def is_whole(copy: Path) -> bool:
    """Say whether a copy has all its bytes: same size and time as when it was written, else the same sha256."""
    try:
        for name, entry in read_manifest(copy)["files"].items():
            stat = (copy / name).stat()
            if stat.st_size != entry["size"]:
                return False
            if stat.st_mtime_ns != entry["mtime_ns"]:
                with (copy / name).open("rb") as opened:
                    if hashlib.file_digest(opened, "sha256").hexdigest() != entry["sha256"]:
                        return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def read_manifest(copy: Path) -> dict[str, Any]:
    """Read where a copy came from, and the size, time and checksum of each of its files."""
    return json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
