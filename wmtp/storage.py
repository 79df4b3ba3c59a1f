"""Find data and models wherever they are, and mirror what is far away. The only file that talks to S3 and the Hub.

[연구 맥락] 한 달 뒤에 다시 돌려도 같은 바이트여야 실험이다. 그래서 먼 곳의 파일은 한 번 통째로 캐시에 복사하고
    (mirror), 그 뒤로는 복사본만 읽는다. 반쯤 받은 파일이 데이터로 쓰이는 일은 설계로 막는다.
[동작] 찾는 순서는 언제나 로컬 → 캐시 → S3 → Hugging Face Hub. 복사는 이렇게 한다:
      1. 목록을 받는다. 이름, 크기, ETag(또는 커밋)의 해시가 이 복사본의 판(version)이다.
      2. 임시 폴더 `.<판>.<기계>.part`에 조각(CHUNK)씩 받는다.
         조각마다 fsync하고 sha256을 적어 두므로, 죽었다 깨어나도 이어 받는다.
      3. 서버가 알려 준 체크섬과 맞춰 보고, 우리의 `wmtp-manifest.json`(크기, sha256)을 쓴다.
      4. 폴더 이름을 `<판>`으로 바꾼다(rename). 전부 보이거나 전혀 안 보인다. 둘이 겹치면 먼저 바꾼 쪽이 이긴다.
[디버깅] 캐시는 언제 지워도 된다. 무엇이 어디서 왔는지는 복사본의 wmtp-manifest.json에 있다.
    비밀번호와 키는 환경 변수로만 받으며, 설정에 적으면 오류다.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from wmtp.errors import ConfigError, DataNotFoundError, StorageError

CHUNK = 8 * 2**20  # bytes: what one request asks for, and the most that a killed download repeats
WAITS = (0.5, 1, 2, 4, 8)  # seconds between the attempts to read one chunk
MANIFEST = "wmtp-manifest.json"
MODEL_FILES = ("*.json", "*.safetensors", "consolidated.pth", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*")
MODEL_MARKS = ("config.json", "params.json")  # transformers' format, Meta's
UNKNOWN_LICENCES = (None, "", "other", "unknown")
S3_KEYS = ("bucket", "prefix", "endpoint_url", "region")


# ---- what a place holds ----------------------------------------------------------------------------------------------


class Changed(Exception):
    """Say that a place no longer holds the version that was listed."""


@dataclass(frozen=True)
class RemoteFile:
    """Hold one file of a listing.

    Args:
        name: 복사본에서 가질 이름 ("full/train.parquet").
        key: 그 장소에서 부르는 이름.
        size: 바이트 수.
        etag: 서버가 이 판을 부르는 이름.
        digest: 바이트가 가져야 할 체크섬 (종류, 16진수). 서버가 알려 주지 않으면 None.
    """

    name: str
    key: str
    size: int
    etag: str
    digest: tuple[str, str] | None = None


@dataclass(frozen=True)
class Listing:
    """Hold the wanted files of a place at one moment, and under which licence they are."""

    files: tuple[RemoteFile, ...]
    licence: str | None = None
    commit: str | None = None

    @property
    def version(self) -> str:
        """Name the contents: two listings of the same bytes have the same version."""
        content = [(file.name, file.size, file.etag) for file in self.files]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class S3Place:
    """Read the files under one key of a bucket, or the one file that has this key.

    Args:
        bucket: 버킷.
        key: 폴더나 파일의 키.
        patterns: 원하는 파일 이름들 (`choose` 참고).
        several: 맞는 이름을 모두 가져올지.
        endpoint_url: AWS가 아닌 서버의 주소.
        region: 리전.
    """

    bucket: str
    key: str
    patterns: tuple[str, ...]
    several: bool = False
    endpoint_url: str | None = None
    region: str | None = None

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def identity(self) -> list:
        """Return everything that decides which bytes these are."""
        endpoint = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return [self.url, endpoint, self.patterns, self.several]

    @property
    def filesystem(self) -> Any:
        return _s3_filesystem(self.endpoint_url, self.region)

    @property
    def transient(self) -> tuple[type[Exception], ...]:
        """Name the errors after which another attempt may help."""
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError

        return (OSError, BotoCoreError, ClientError)

    def listing(self) -> Listing | None:
        """List the wanted files; None if there are none."""
        found: dict[str, RemoteFile] = {}
        folder = f"{self.key.rstrip('/')}/" if self.key else ""
        more: dict[str, str] = {}
        while True:
            try:
                answer = self.filesystem.call_s3("list_objects_v2", Bucket=self.bucket, Prefix=self.key, **more)
            except FileNotFoundError:  # no such bucket
                return None
            for item in answer.get("Contents", []):
                key, etag = item["Key"], item["ETag"].strip('"')
                digest = ("md5", etag) if re.fullmatch("[0-9a-f]{32}", etag) else None
                if key == self.key and not key.endswith("/"):
                    return Listing((RemoteFile(PurePosixPath(key).name, key, item["Size"], etag, digest),))
                if key.startswith(folder):
                    name = key.removeprefix(folder)
                    found[name] = RemoteFile(name, key, item["Size"], etag, digest)
            if not answer.get("IsTruncated"):
                break
            more = {"ContinuationToken": answer["NextContinuationToken"]}
        chosen = choose(sorted(found), self.patterns, self.several)
        return Listing(tuple(found[name] for name in chosen)) if chosen else None

    def read(self, file: RemoteFile, start: int, end: int, listing: Listing) -> bytes:
        """Read bytes start..end of the listed version, of no other."""
        from fsspec.asyn import sync

        try:
            answer = self.filesystem.call_s3(
                "get_object",
                Bucket=self.bucket,
                Key=file.key,
                Range=f"bytes={start}-{end - 1}",
                IfMatch=f'"{file.etag}"',
            )
        except FileNotFoundError as error:
            raise Changed from error
        except OSError as error:
            if "PreconditionFailed" in repr(error.__cause__):
                raise Changed from error
            raise
        if answer["ETag"].strip('"') != file.etag:  # a server that does not know If-Match
            raise Changed
        return sync(self.filesystem.loop, answer["Body"].read)

    def digest_counts(self, file: RemoteFile) -> bool:
        """Say whether the ETag is an MD5; encrypted with keys of KMS or of the customer, it only looks like one."""
        head = self.filesystem.call_s3("head_object", Bucket=self.bucket, Key=file.key)
        return head.get("ServerSideEncryption", "AES256") == "AES256" and not head.get("SSECustomerAlgorithm")


@cache
def _s3_filesystem(endpoint_url: str | None, region: str | None) -> Any:
    import s3fs

    filesystem = s3fs.S3FileSystem(
        endpoint_url=endpoint_url,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={"retries": {"total_max_attempts": 1}},
        skip_instance_cache=True,
    )
    filesystem.retries = 1  # `read_chunk` is the one place that tries again
    return filesystem


@dataclass(frozen=True)
class HubPlace:
    """Read the files of a repository on the Hugging Face Hub, all of one commit.

    Args:
        repo: "조직/이름".
        kind: "dataset" 또는 "model".
        patterns: 원하는 파일 이름들 (`choose` 참고).
        several: 맞는 이름을 모두 가져올지.
        accepted: 라이선스를 몰라도 쓰겠다고 사용자가 밝힌 저장소들.
    """

    repo: str
    kind: str
    patterns: tuple[str, ...]
    several: bool = False
    accepted: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def page(self) -> str:
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def endpoint(self) -> str:
        return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")

    @property
    def identity(self) -> list:
        """Return everything that decides which bytes these are; a mirror of the Hub holds the same."""
        return [self.url, self.patterns, self.several]

    @property
    def transient(self) -> tuple[type[Exception], ...]:
        """Name the errors after which another attempt may help."""
        from huggingface_hub.errors import HTTPError

        return (OSError, HTTPError)

    def listing(self) -> Listing | None:
        """List the wanted files; None if there are none.

        Raises:
            StorageError: 라이선스를 알 수 없거나 먼저 받아들여야 할 때.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

        try:
            info = HfApi(endpoint=self.endpoint).repo_info(
                self.repo, repo_type=self.kind, files_metadata=True, timeout=10
            )
        except GatedRepoError as error:
            raise StorageError(self._gated()) from error
        except (RepositoryNotFoundError, HFValidationError):
            return None
        found = {}
        for item in info.siblings:
            digest = ("sha256", item.lfs.sha256) if item.lfs else ("git", item.blob_id)
            found[item.rfilename] = RemoteFile(item.rfilename, item.rfilename, item.size, digest[1], digest)
        chosen = choose(sorted(found), self.patterns, self.several)
        if not chosen:
            return None
        licence = (info.card_data or {}).get("license")
        licence = " or ".join(licence) if isinstance(licence, list) else licence
        if licence in UNKNOWN_LICENCES and self.repo not in self.accepted:
            raise StorageError(
                f"{self.page} names no licence that is known ({licence or 'none'}). Read its page; if you may use it, "
                f"set storage.accept_licences=[{self.repo}]."
            )
        return Listing(tuple(found[name] for name in chosen), licence, info.sha)

    def read(self, file: RemoteFile, start: int, end: int, listing: Listing) -> bytes:
        """Read bytes start..end of the file at the listed commit.

        Raises:
            StorageError: 라이선스를 받아들이지 않은 저장소일 때.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self.repo, file.key, repo_type=self.kind, revision=listing.commit, endpoint=self.endpoint)
        headers = build_hf_headers() | {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        response = get_session().get(url, headers=headers, follow_redirects=True, timeout=30)
        try:
            hf_raise_for_status(response)
        except GatedRepoError as error:
            raise StorageError(self._gated()) from error
        except EntryNotFoundError as error:
            raise Changed from error
        return response.content

    def digest_counts(self, file: RemoteFile) -> bool:
        """Say whether the digest is one of the content: on the Hub always."""
        return True

    def _gated(self) -> str:
        return (
            f"{self.page} is gated: accept its licence there, logged in, then set HF_TOKEN to a token of that account."
        )


def choose(names: Sequence[str], patterns: Sequence[str], several: bool = False) -> list[str]:
    """Pick file names by patterns in which * stays within one folder.

    Args:
        names: 있는 이름들.
        patterns: 원하는 이름들. 앞의 것이 먼저다.
        several: 어느 패턴이든 맞는 이름을 모두. False면 처음으로 무언가에 맞은 패턴의 것만.

    Example:
        >>> choose(["a.json", "full/x.parquet", "full/y.parquet"], ["b.json", "full/*.parquet"])
        ['full/x.parquet', 'full/y.parquet']
        >>> choose(["full/x.json"], ["*.json"])
        []
    """
    chosen: list[str] = []
    for pattern in patterns:
        depth = pattern.count("/")
        chosen += [n for n in names if n.count("/") == depth and fnmatchcase(n, pattern) and n not in chosen]
        if chosen and not several:
            break
    return chosen


# ---- bringing it here ------------------------------------------------------------------------------------------------


class Storage:
    """Find data, models and checkpoints: local path, cache, S3, Hub, in this order.

    Args:
        mode: "auto", 또는 네트워크를 쓰지 않는 "offline" (환경 변수 HF_HUB_OFFLINE=1도 같은 뜻).
        cache: 복사본을 둘 폴더. None이면 `$WMTP_CACHE`, 그것도 없으면 ~/.cache/wmtp.
        s3: bucket, prefix, endpoint_url, region. bucket이 없으면 S3를 쓰지 않는다.
        accept_licences: 라이선스를 모르지만 써도 된다고 사용자가 확인한 Hub 저장소.

    Attributes:
        used: 찾아 준 것마다 온 곳, 판, 커밋, 라이선스. 보고서와 MLflow에 남는다.

    Raises:
        ConfigError: 모르는 키, 평평한 키, 설정에 적힌 비밀번호.
    """

    def __init__(
        self,
        mode: str = "auto",
        cache: str | os.PathLike | None = None,
        s3: Mapping[str, Any] | None = None,
        accept_licences: Sequence[str] = (),
        **unknown: Any,
    ) -> None:
        for key in unknown:
            raise ConfigError(nested_form(f"storage.{key}") or f"storage.{key} is not a key; see conf/storage/.")
        for key in s3 or {}:
            if key not in S3_KEYS:
                raise ConfigError(
                    nested_form(f"storage.s3.{key}")
                    or f"storage.s3.{key} is not a key; there are {', '.join(S3_KEYS)}."
                )
        if mode not in ("auto", "offline"):
            raise ConfigError(f"storage.mode = {mode!r} must be auto or offline.")
        self.s3 = {key: (s3 or {}).get(key) for key in S3_KEYS}
        if "@" in (self.s3["endpoint_url"] or ""):
            raise ConfigError(
                "storage.s3.endpoint_url holds a user name or a password; give the address alone, and the credentials "
                "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment."
            )
        self.offline = mode == "offline" or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        self.cache = Path(cache or os.environ.get("WMTP_CACHE") or "~/.cache/wmtp").expanduser()
        self.accepted = tuple(accept_licences)
        self.used: dict[str, dict[str, Any]] = {}
        self._found: dict[Path, Path] = {}  # one version for the life of a process

    def find_data(
        self,
        name: str,
        path: str | os.PathLike | None,
        patterns: Sequence[str],
        several: bool = False,
        hub: Sequence[str] = (),
    ) -> list[Path]:
        """Find the files of a data set, or say every place that was tried.

        [동작] path를 주면 그곳만 본다: 오타 때문에 다른 데이터로 학습하는 일이 없어야 한다.

        Args:
            name: 데이터의 이름. 로컬과 S3에서는 폴더 이름이기도 하다.
            path: 사용자가 준 파일, 폴더, 또는 s3:// 주소. None이면 정해진 순서대로.
            patterns: 파일 이름들 (`choose` 참고).
            several: 맞는 파일을 모두 쓸지.
            hub: Hub의 데이터셋 저장소와, 그 안에서 원하는 파일 이름들.

        Raises:
            DataNotFoundError: 어느 곳에도 없을 때.
            StorageError: 있지만 가져올 수 없거나, 라이선스를 먼저 받아들여야 할 때.
        """
        patterns = tuple(patterns)
        remedy = "Put the file there, or set data.path (training) or benchmark.path (evaluation)."
        folders, places, tried = [], [], []
        if path is None:
            root = os.environ.get("WMTP_DATA")
            folders = [*([Path(root).expanduser() / name] if root else []), self.cache / "data" / name]
            tried = [f"in $WMTP_DATA/{name}" + ("" if root else " (not set)")]
            places = [
                *self._s3(name, patterns, several),
                HubPlace(hub[0], "dataset", tuple(hub[1:]), True, self.accepted),
            ]
        elif is_s3(path):
            places = [self._s3_url(path, patterns, several)]
        else:
            folders, tried = [Path(path).expanduser()], [f"in data.path={path}"]
            remedy = "Correct the path, or leave it out to look in $WMTP_DATA, the cache, S3 and the Hub."
        for folder in folders:
            files = [folder] if folder.is_file() else _matches(folder, patterns, several)
            if files:
                self.used[name] = {"from": str(folder)}
                return files
        copy = self._anywhere(name, places, tried, revalidate=path is not None)
        if copy is None:
            wanted = " or ".join(patterns)
            raise DataNotFoundError(
                f"data={name}: no {wanted} {_listed(tried)}. {remedy} The format is described in docs/data.md."
            )
        return [copy / file for file in _manifest(copy)["files"]]

    def find_model(self, path: str, key: str = "model.path") -> Path:
        """Find a model's folder: a local one, s3://bucket/key, or organization/name in the cache, S3 or on the Hub.

        [동작] 한 저장소에 모델이 여럿이면 organization/name/폴더. 그 폴더와, 저장소 맨 위의 tokenizer.model만 가져온다.

        Args:
            path: 로컬 폴더, s3:// 주소, 또는 Hub의 이름.
            key: 오류 문장에 쓸 설정의 이름.

        Raises:
            DataNotFoundError: config.json(Meta의 형식은 params.json)이 있는 폴더가 어디에도 없을 때.
            StorageError: 있지만 가져올 수 없거나, 라이선스를 먼저 받아들여야 할 때.
        """
        folder = Path(path).expanduser()
        if _is_model(folder):
            return folder
        places: list[S3Place | HubPlace] = []
        tried = [] if is_s3(path) else [f"in {folder}"]
        inside = ""
        named = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:/([\w.-]+))?", path)
        if is_s3(path):
            places = [self._s3_url(path, MODEL_FILES, several=True)]
        # A mistyped local path must not be looked up elsewhere: its first folder, at least, is there.
        elif named and not folder.exists() and not (named[2] and Path(folder.parts[0]).exists()):
            repo, inside, patterns = named[1], named[2] or "", MODEL_FILES
            if inside:
                patterns = (*(f"{inside}/{pattern}" for pattern in MODEL_FILES), "tokenizer.model")
            places = [*self._s3(repo, patterns, True), HubPlace(repo, "model", patterns, True, self.accepted)]
        copy = self._anywhere(path, places, tried, revalidate=is_s3(path))
        if copy is None or not _is_model(copy / inside):
            raise DataNotFoundError(
                f"{key} = {path}: no config.json {_listed(tried)}. Give a folder that save_pretrained wrote, "
                "s3://bucket/key, a name on the Hub, or asset:tiny-base."
            )
        return copy / inside

    def find_checkpoint(self, url: str) -> Path:
        """Mirror a .ckpt file of S3 with the tokenizer beside it, or a run directory, or a model folder.

        Returns:
            복사본 안의 .ckpt 파일, 또는 복사본 폴더.

        Raises:
            DataNotFoundError: 그 주소에 체크포인트가 없을 때.
        """
        where = PurePosixPath(url.removeprefix("s3://"))
        beside = ("config.yaml", *(f"model/{pattern}" for pattern in MODEL_FILES if pattern != "*.safetensors"))
        if where.suffix == ".ckpt" and where.parent.name == "checkpoints":
            root, name, patterns = where.parent.parent, f"checkpoints/{where.name}", beside
        elif where.suffix == ".ckpt":
            root, name, patterns = where.parent, where.name, ()
        else:
            root, name, patterns = where, "checkpoints/last.ckpt", (*MODEL_FILES, *beside)
        tried: list[str] = []
        place = self._s3_url(f"s3://{root}", (name, *patterns), several=True)
        copy = self._anywhere("ckpt", [place], tried, revalidate=True)
        if copy and (copy / name).is_file():
            return copy / name
        if copy and (copy / "config.json").is_file():
            return copy
        raise DataNotFoundError(f"ckpt = {url}: no {name} {_listed(tried)}. Give a run directory or a .ckpt file.")

    def _s3(self, name: str, patterns: tuple[str, ...], several: bool) -> list[S3Place]:
        """Return where the configured bucket would hold something, if there is a bucket."""
        if not self.s3["bucket"]:
            return []
        key = "/".join(part for part in ((self.s3["prefix"] or "").strip("/"), name) if part)
        return [S3Place(self.s3["bucket"], key, patterns, several, self.s3["endpoint_url"], self.s3["region"])]

    def _s3_url(self, url: str | os.PathLike, patterns: tuple[str, ...], several: bool) -> S3Place:
        bucket, _, key = str(url).removeprefix("s3://").partition("/")
        return S3Place(bucket, key.strip("/"), patterns, several, self.s3["endpoint_url"], self.s3["region"])

    def _anywhere(
        self, name: str, places: Sequence["S3Place | HubPlace"], tried: list[str], revalidate: bool
    ) -> Path | None:
        """Return a whole copy from the cache, else from the first place that has it; note in `tried` what was tried."""
        for place in places:
            if self._unit(place) in self._found:
                return self._use(name, place, self._found[self._unit(place)])
        if places and (self.offline or not revalidate):
            for place in places:
                copy = self._newest(self._unit(place))
                if copy:
                    return self._use(name, place, copy)
            tried.append(f"in the cache ({self.cache})")
        if places and not any(isinstance(place, S3Place) for place in places):
            tried.append("in S3 (storage.s3.bucket is not set)")
        for place in places:
            at = f"in {place.url}" if isinstance(place, S3Place) else f"on the Hub as {place.repo}"
            if self.offline:
                tried.append(f"{at} (offline)")
                continue
            try:
                listing = _list(place)
            except place.transient as error:
                if isinstance(place, S3Place):  # a bucket that is configured and does not answer is no reason to go on
                    raise StorageError(self._unreadable(place, error)) from error
                tried.append(f"{at} ({_reason(error)})")
                continue
            if listing is not None:
                return self._use(name, place, self._mirror(place, listing))
            tried.append(f"{at} (not there{'' if isinstance(place, S3Place) else ', or private: set HF_TOKEN'})")
        return None

    def _unreadable(self, place: "S3Place | HubPlace", error: BaseException) -> str:
        remedy = "Check the network"
        if "credentials" in str(error).lower() or isinstance(error, PermissionError):
            remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to keys that may read it"
        if self._newest(self._unit(place)):
            remedy += ", or use the copy in the cache with storage.mode=offline"
        return f"{place.url} could not be read ({_reason(error)}). {remedy}."

    def _use(self, name: str, place: "S3Place | HubPlace", copy: Path) -> Path:
        manifest = _manifest(copy)
        self.used[name] = {key: manifest[key] for key in ("from", "version", "commit", "licence") if manifest[key]}
        self._found[self._unit(place)] = copy
        return copy

    # ---- the cache: <cache>/mirror/<place>/<version>/{manifest.json, files …} ----

    def _unit(self, place: "S3Place | HubPlace") -> Path:
        """Return the folder of all versions of a place."""
        key = hashlib.sha256(json.dumps(place.identity).encode()).hexdigest()[:8]
        return self.cache / "mirror" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', place.url)}-{key}"

    def _newest(self, unit: Path) -> Path | None:
        """Return the whole copy that was fetched or confirmed last."""
        manifests = sorted(unit.glob(f"[!.]*/{MANIFEST}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for copy in (manifest.parent for manifest in manifests):
            if _whole(copy):
                return copy
            _say(f"the copy in {copy} is damaged, and is not used")
        return None

    def _mirror(self, place: "S3Place | HubPlace", listing: Listing) -> Path:
        """Return a whole copy of a listing, fetched if the cache does not have it.

        Raises:
            StorageError: 끝내 온전히 받지 못했을 때. 캐시에는 아무것도 남지 않는다 (이어 받을 조각만 남는다).
        """
        unit = self._unit(place)
        if _whole(unit / listing.version):
            with suppress(OSError):  # a cache that others may only read
                os.utime(unit / listing.version / MANIFEST)  # the newest again
            return unit / listing.version
        try:
            unit.mkdir(parents=True, exist_ok=True)
            with _alone(unit, place.url) as owner:
                for _ in range(3):
                    if _whole(unit / listing.version):  # another process was faster
                        return unit / listing.version
                    try:
                        return _fetch(place, listing, unit, owner)
                    except Changed:
                        _say(f"{place.url} changed while it was read; starting again with what it is now")
                        listing = _list(place)
                    if listing is None:
                        raise StorageError(f"{place.url} was removed while it was read. Ask who owns it.")
        except place.transient as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StorageError(
                    f"storage.cache = {self.cache} has no room for {place.url}; free some, or set storage.cache (or "
                    "WMTP_CACHE) to a larger disk."
                ) from error
            if isinstance(error, OSError) and error.filename is not None:
                raise StorageError(
                    f"storage.cache = {self.cache} cannot be written ({_reason(error)}); "
                    "set storage.cache or WMTP_CACHE."
                ) from error
            raise StorageError(self._unreadable(place, error)) from error
        raise StorageError(f"{place.url} kept changing while it was read, three times. Wait until it is complete.")


def _is_model(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MODEL_MARKS)


def is_s3(path: Any) -> bool:
    """Say whether a path is an address in S3."""
    return str(path).startswith("s3://")


def nested_form(key: str) -> str | None:
    """Say where a flat storage key belongs in the nested config; None if it is not one.

    Example:
        >>> nested_form("storage.bucket")
        'storage.bucket is a flat key; write it nested: storage.s3.bucket=….'
        >>> nested_form("s3_region")
        's3_region is a flat key; write it nested: storage.s3.region=….'
        >>> nested_form("storage.s3.secret_key")
        'storage.s3.secret_key: credentials are read from the environment only; set AWS_ACCESS_KEY_ID and \
AWS_SECRET_ACCESS_KEY, or HF_TOKEN, there.'
        >>> nested_form("data.path")
    """
    parent, _, last = key.lower().rpartition(".")
    if re.search(r"secret|passw|credential|token$|access_key|api_key", last) and re.match("storage|s3|aws|hf", key):
        return (
            f"{key}: credentials are read from the environment only; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or HF_TOKEN, there."
        )
    bare = re.sub("^(storage_)?(aws_|s3_)?", "", last)
    bare = {"endpoint": "endpoint_url", "region_name": "region"}.get(bare, bare)
    if bare in S3_KEYS and parent in ("", "storage", "s3"):
        return f"{key} is a flat key; write it nested: storage.s3.{bare}=…."
    if last in ("storage_mode", "storage_cache"):
        return f"{key} is a flat key; write it nested: storage.{bare}=…."
    return None


# ---- fetching: everything below writes into a temporary folder, and renames it once ----------------------------------


def _fetch(place: S3Place | HubPlace, listing: Listing, unit: Path, owner: str) -> Path:
    """Fetch a listing into a temporary folder, going on where a killed process stopped, and rename it into place."""
    from tqdm import tqdm

    part = unit / f".{listing.version}.{owner}.part"
    size = sum(file.size for file in listing.files)
    files = part / "files"
    files.mkdir(parents=True, exist_ok=True)
    (part / "chunks").mkdir(exist_ok=True)
    here = sum(file.stat().st_size for file in files.rglob("*") if file.is_file())
    if shutil.disk_usage(part).free < size - here:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _say(f"fetching {place.url} ({size / 1e6:.1f} MB{', ' + listing.licence if listing.licence else ''})")
    entries = {}
    with tqdm(total=size, unit="B", unit_scale=True, desc=PurePosixPath(place.url).name, disable=None) as bar:
        for number, file in enumerate(listing.files):
            target, journal = files / file.name, part / "chunks" / str(number)
            digest = _fetch_file(place, listing, file, target, journal, bar.update)
            if digest is None:  # once more, from the start
                digest = _fetch_file(place, listing, file, target, journal, bar.update)
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
    if final.exists() and not _whole(final):
        _say(f"the copy in {final} is damaged; replacing it")
        os.rename(final, part / "damaged")
    try:
        os.rename(files, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _whole(final):
            raise
    _fsync_folder(unit)
    for left in unit.glob(f".*.{owner}.part"):  # this one, and what earlier versions left
        shutil.rmtree(left, ignore_errors=True)
    return final


def _list(place: S3Place | HubPlace) -> Listing | None:
    """List a place, trying a bucket again; without a network, nobody wants to wait for the Hub."""
    for wait in WAITS[:3] if isinstance(place, S3Place) else ():
        try:
            return place.listing()
        except PermissionError:
            raise
        except place.transient:
            time.sleep(wait)
    return place.listing()


def _fetch_file(
    place: S3Place | HubPlace,
    listing: Listing,
    file: RemoteFile,
    target: Path,
    journal: Path,
    progress: Callable[[int], Any],
) -> str | None:
    """Fetch one file chunk by chunk; return its sha256, or None (and start over) if the server's checksum disagrees."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(), journal.touch()
    whole = hashlib.sha256()
    theirs = _digest(file)
    with target.open("r+b") as data, journal.open("r+", encoding="ascii") as chunks:
        done = length = 0
        for line in chunks.read().splitlines(keepends=True):  # what a killed process left, if it is what it wrote
            chunk = data.read(min(CHUNK, file.size - done))
            if not chunk or line != hashlib.sha256(chunk).hexdigest() + "\n":
                break
            whole.update(chunk), theirs.update(chunk), progress(len(chunk))
            done, length = done + len(chunk), length + len(line)
        data.seek(done), data.truncate(), chunks.seek(length), chunks.truncate()
        while done < file.size:
            chunk = read_chunk(place, listing, file, done, min(done + CHUNK, file.size))
            data.write(chunk), data.flush(), os.fsync(data.fileno())
            chunks.write(hashlib.sha256(chunk).hexdigest() + "\n"), chunks.flush()
            whole.update(chunk), theirs.update(chunk), progress(len(chunk))
            done += len(chunk)
    if file.digest and theirs.hexdigest() != file.digest[1] and place.digest_counts(file):
        target.unlink(), journal.unlink(), progress(-done)
        return None
    return whole.hexdigest()


def read_chunk(place: S3Place | HubPlace, listing: Listing, file: RemoteFile, start: int, end: int) -> bytes:
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
                    f"{place.url}: {file.name} could not be read after {failures + 1} attempts ({_reason(error)}). "
                    "Run the same command again: it goes on from there."
                ) from error
            time.sleep(WAITS[failures])
            failures, span = failures + 1, max(span // 2, 2**16)  # a line that breaks often gets small pieces through
    return data


@contextmanager
def _alone(unit: Path, url: str) -> Iterator[str]:
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
            _say(f"another process is fetching {url}; waiting for it")
            lock.acquire()
    except (NotImplementedError, OSError):  # no locks on this file system
        yield f"{machine}-{os.getpid()}"
        return
    try:
        yield machine
    finally:
        lock.release()


def _whole(copy: Path) -> bool:
    """Say whether a copy has all its bytes: same size and time as when it was written, else the same sha256."""
    try:
        for name, entry in _manifest(copy)["files"].items():
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


def _manifest(copy: Path) -> dict[str, Any]:
    return json.loads((copy / MANIFEST).read_text(encoding="utf-8"))


def _digest(file: RemoteFile) -> Any:
    """Start the kind of checksum that the server gave."""
    kind = file.digest[0] if file.digest else "sha256"
    if kind == "git":  # how git names a blob
        return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=False)


def _matches(folder: Path, patterns: Sequence[str], several: bool) -> list[Path]:
    names = [found.relative_to(folder).as_posix() for pattern in patterns for found in sorted(folder.glob(pattern))]
    return [folder / name for name in choose(names, patterns, several)]


def _listed(tried: Sequence[str]) -> str:
    return tried[0] if len(tried) == 1 else f"{', '.join(tried[:-1])}, or {tried[-1]}"


def _reason(error: BaseException) -> str:
    """Say an error in a line, without the signatures that addresses may carry."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return re.sub(r"\?\S+", "", lines[0]) if lines else type(error).__name__


def _fsync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _say(sentence: str) -> None:
    print(f"storage: {sentence}", file=sys.stderr, flush=True)


# ---- the storage in use ----------------------------------------------------------------------------------------------

# Where bytes lie belongs to the machine, not to the experiment: a front door says it once, and no source, model or
# saved run carries it.
_in_use: Storage | None = None


def use(storage: Storage) -> None:
    """Let every source and model look in this storage from now on."""
    global _in_use
    _in_use = storage


def in_use() -> Storage:
    """Return the storage that sources and models look in."""
    return _in_use or Storage()
