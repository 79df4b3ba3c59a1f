"""Copy a listing into the cache: whole, verified, and visible all at once or not at all.

[동작] 1. 임시 폴더 `.<판>.<기계>.part`에 조각씩 받는다.
          조각마다 fsync하고 sha256을 적어 두므로, 죽었다 깨어나도 이어 받는다.
       2. 서버가 알려 준 체크섬과 맞춰 보고, 우리의 `wmtp-manifest.json`(크기, sha256)을 쓴다.
       3. 폴더 이름을 `<판>`으로 바꾼다(rename). 둘이 겹치면 먼저 바꾼 쪽이 이긴다.
[디버깅] 무엇이 어디서 왔는지는 복사본의 wmtp-manifest.json에 있다.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from wmtp.errors import StorageError
from wmtp.storage.hub import HubPlace
from wmtp.storage.listing import Listing, RemoteFile
from wmtp.storage.s3 import S3Place

MANIFEST = "wmtp-manifest.json"
Place = S3Place | HubPlace


@dataclass(frozen=True)
class Download:
    """Fetch a listing of a place.

    Args:
        place: 받을 곳.
        listing: 그곳의 목록.
        chunk: 요청 하나가 받는 바이트 수. 죽은 내려받기가 다시 받는 것도 많아야 이만큼이다.
        waits: 조각 하나를 다시 읽기 전에 기다리는 초.
    """

    place: Place
    listing: Listing
    chunk: int
    waits: Sequence[float]

    def into(self, unit: Path, owner: str) -> Path:
        """Fetch into a temporary folder, going on where a killed process stopped, and rename it into place.

        Args:
            unit: 이 장소의 판들이 있는 폴더.
            owner: 임시 폴더의 이름에 들 것 (`alone`이 알려 준다).
        """
        from tqdm import tqdm

        place, listing = self.place, self.listing
        part = unit / f".{listing.version}.{owner}.part"
        size = sum(file.size for file in listing.files)
        files = part / "files"
        files.mkdir(parents=True, exist_ok=True)
        (part / "chunks").mkdir(exist_ok=True)
        here = sum(file.stat().st_size for file in files.rglob("*") if file.is_file())
        if shutil.disk_usage(part).free < size - here:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        say(f"fetching {place.url} ({size / 1e6:.1f} MB{', ' + listing.licence if listing.licence else ''})")
        entries = {}
        with tqdm(total=size, unit="B", unit_scale=True, desc=PurePosixPath(place.url).name, disable=None) as bar:
            for number, file in enumerate(listing.files):
                target, journal = files / file.name, part / "chunks" / str(number)
                digest = self._file(file, target, journal, bar.update)
                if digest is None:  # once more, from the start
                    digest = self._file(file, target, journal, bar.update)
                if digest is None:
                    raise StorageError(
                        f"{place.url}: {file.name} arrived twice with other bytes than the server's checksum promises. "
                        "The copy there, or something on the way, is damaged."
                    )
                stat = target.stat()
                entries[file.name] = {
                    "size": stat.st_size,
                    "sha256": digest,
                    "mtime_ns": stat.st_mtime_ns,
                    "etag": file.etag,
                }
        manifest = {
            "from": place.url,
            "version": listing.version,
            "commit": listing.commit,
            "licence": listing.licence,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": entries,
        }
        with (files / MANIFEST).open("w", encoding="utf-8") as opened:
            json.dump(manifest, opened, indent=1)
            opened.flush()
            os.fsync(opened.fileno())
        for folder in {target.parent for target in files.rglob("*")}:
            _fsync_folder(folder)
        final = unit / listing.version
        if final.exists() and not is_whole(final):
            say(f"the copy in {final} is damaged; replacing it")
            os.rename(final, part / "damaged")
        try:
            os.rename(files, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_whole(final):
                raise
        _fsync_folder(unit)
        for left in unit.glob(f".*.{owner}.part"):  # this one, and what earlier versions left
            shutil.rmtree(left, ignore_errors=True)
        return final

    def _file(self, file: RemoteFile, target: Path, journal: Path, progress: Callable[[int], Any]) -> str | None:
        """Fetch one file chunk by chunk; return its sha256, or None if the server's checksum says to start over."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(), journal.touch()
        ours = hashlib.sha256()
        theirs = _digest(file)
        with target.open("r+b") as data, journal.open("r+", encoding="ascii") as chunks:
            done = length = 0
            for line in chunks.read().splitlines(keepends=True):  # what a killed process left, if it is what it wrote
                chunk = data.read(min(self.chunk, file.size - done))
                if not chunk or line != hashlib.sha256(chunk).hexdigest() + "\n":
                    break
                ours.update(chunk), theirs.update(chunk), progress(len(chunk))
                done, length = done + len(chunk), length + len(line)
            data.seek(done), data.truncate(), chunks.seek(length), chunks.truncate()
            while done < file.size:
                chunk = read_chunk(self.place, self.listing, file, done, min(done + self.chunk, file.size), self.waits)
                data.write(chunk), data.flush(), os.fsync(data.fileno())
                chunks.write(hashlib.sha256(chunk).hexdigest() + "\n"), chunks.flush()
                ours.update(chunk), theirs.update(chunk), progress(len(chunk))
                done += len(chunk)
        if file.digest and theirs.hexdigest() != file.digest[1] and self.place.digest_counts(file):
            target.unlink(), journal.unlink(), progress(-done)
            return None
        return ours.hexdigest()


def read_chunk(place: Place, listing: Listing, file: RemoteFile, start: int, end: int, waits: Sequence[float]) -> bytes:
    """Read bytes start..end, trying again while it may help.

    Raises:
        StorageError: 여러 번 해도 안 되거나, 권한이 없을 때.
        Changed: 그동안 내용이 바뀌었을 때.
    """
    data, span, failures = b"", end - start, 0
    while len(data) < end - start:
        first = start + len(data)
        last = min(first + span, end)
        try:
            piece = place.read(file, first, last, listing)
            if len(piece) != last - first:
                raise OSError(f"{len(piece)} bytes came instead of {last - first}")
            data, failures = data + piece, 0
        except PermissionError:
            raise
        except place.transient as error:
            if failures == len(waits):
                raise StorageError(
                    f"{place.url}: {file.name} could not be read after {failures + 1} attempts ({reason(error)}). "
                    "Run the same command again: it goes on from there."
                ) from error
            time.sleep(waits[failures])
            failures, span = failures + 1, max(span // 2, 2**16)  # a line that breaks often gets small pieces through
    return data


@contextmanager
def alone(unit: Path, url: str) -> Iterator[str]:
    """Let one process of this machine fetch at a time; yield the name of its temporary folder.

    [동작] 잠금이 안 되는 파일 시스템에서는 프로세스마다, 언제나 기계마다 임시 폴더가 다르다. 승자는 rename이 정한다.
    """
    from filelock import FileLock, Timeout

    machine = f"{socket.gethostname()}-{uuid.getnode():x}"
    lock = FileLock(unit / ".lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is fetching {url}; waiting for it")
            lock.acquire()
    except (NotImplementedError, OSError):  # no locks on this file system
        yield f"{machine}-{os.getpid()}"
        return
    try:
        yield machine
    finally:
        lock.release()


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


def _digest(file: RemoteFile) -> Any:
    """Start the kind of checksum that the server gave."""
    kind = file.digest[0] if file.digest else "sha256"
    if kind == "git":  # how git names a blob
        return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=False)


def reason(error: BaseException) -> str:
    """Say an error in a line, without the signatures that addresses may carry."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return re.sub(r"\?\S+", "", lines[0]) if lines else type(error).__name__


def _fsync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def say(sentence: str) -> None:
    """Tell the user what is going on, on stderr."""
    print(f"storage: {sentence}", file=sys.stderr, flush=True)
