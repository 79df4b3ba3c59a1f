"""Fetch a listing into a folder: whole, verified, going on where a killed process stopped.

[동작] 토막씩 받는다. 토막마다 fsync하고 sha256을 적어 두므로, 죽었다 깨어나도 이어 받는다. 다 받으면 서버가 알려 준
    체크섬과 맞춰 보고, 우리의 `wmtp-manifest.json`(어디서 왔는지, 크기, sha256)을 쓴다.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from wmtp.errors import StorageError
from wmtp.storage.files import sync, write_atomically
from wmtp.storage.hub import HubPlace
from wmtp.storage.listing import Listing, RemoteFile
from wmtp.storage.s3 import S3Place

CHUNK = 8 * 2**20  # bytes: what one request asks for, and the most that a killed download repeats
WAITS = (0.5, 1, 2, 4, 8)  # seconds between the attempts to read one chunk
MANIFEST = "wmtp-manifest.json"
Place = S3Place | HubPlace


def download(place: Place, listing: Listing, part: Path) -> Path:
    """Fetch the files of a place, and write down what they are; return the folder that holds them.

    Raises:
        StorageError: 끝내 온전히 받지 못했을 때. 이어 받을 토막은 남는다.
        Changed: 그동안 내용이 바뀌었을 때.
    """
    from tqdm import tqdm

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
            fetch = partial(_fetch, place, listing, file, target, journal, bar.update)
            digest = fetch() or fetch()  # once more, from the start
            if digest is None:
                raise StorageError(
                    f"{place.url}: {file.name} arrived twice with other bytes than the server's checksum promises. "
                    "The copy there, or something on the way, is damaged."
                )
            size, time_ns = target.stat().st_size, target.stat().st_mtime_ns
            entries[file.name] = {"size": size, "sha256": digest, "mtime_ns": time_ns, "etag": file.etag}
    manifest = {"from": place.url} | {name: getattr(listing, name) for name in ("version", "commit", "licence")}
    manifest |= {"fetched": datetime.now(UTC).isoformat(timespec="seconds"), "files": entries}
    write_atomically(files / MANIFEST, json.dumps(manifest, indent=1).encode())
    for folder in {target.parent for target in files.rglob("*")}:
        sync(folder)
    return files


def _fetch(
    place: Place, listing: Listing, file: RemoteFile, target: Path, journal: Path, progress: Callable[[int], Any]
) -> str | None:
    """Fetch one file chunk by chunk; return its sha256, or None if the server's checksum says to start over."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    journal.touch()
    ours = hashlib.sha256()
    theirs = _digest(file)
    with target.open("r+b") as data, journal.open("r+", encoding="ascii") as chunks:
        done = length = 0
        for line in chunks.read().splitlines(keepends=True):  # what a killed process left, if it is what it wrote
            chunk = data.read(min(CHUNK, file.size - done))
            if not chunk or line != hashlib.sha256(chunk).hexdigest() + "\n":
                break
            ours.update(chunk), theirs.update(chunk), progress(len(chunk))
            done, length = done + len(chunk), length + len(line)
        data.seek(done), data.truncate(), chunks.seek(length), chunks.truncate()
        while done < file.size:
            chunk = read_chunk(place, listing, file, done, min(done + CHUNK, file.size))
            data.write(chunk), data.flush(), os.fsync(data.fileno())
            chunks.write(hashlib.sha256(chunk).hexdigest() + "\n"), chunks.flush()
            ours.update(chunk), theirs.update(chunk), progress(len(chunk))
            done += len(chunk)
    if file.digest and theirs.hexdigest() != file.digest[1] and place.digest_counts(file):
        target.unlink(), journal.unlink(), progress(-done)
        return None
    return ours.hexdigest()


def list_files(place: Place) -> Listing | None:
    """List a place, trying a bucket again; without a network, nobody wants to wait for the Hub."""
    for wait in WAITS[:3] if isinstance(place, S3Place) else ():
        try:
            return place.listing()
        except PermissionError:
            raise
        except place.transient:
            time.sleep(wait)
    return place.listing()


def read_chunk(place: Place, listing: Listing, file: RemoteFile, start: int, end: int) -> bytes:
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
            if failures == len(WAITS):
                raise StorageError(
                    f"{place.url}: {file.name} could not be read after {failures + 1} attempts ({reason(error)}). "
                    "Run the same command again: it goes on from there."
                ) from error
            time.sleep(WAITS[failures])
            failures, span = failures + 1, max(span // 2, 2**16)  # a line that breaks often gets small pieces through
    return data


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


def say(sentence: str) -> None:
    """Tell the user what is going on, on stderr."""
    print(f"storage: {sentence}", file=sys.stderr, flush=True)
