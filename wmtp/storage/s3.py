"""Read files of a bucket that speaks S3, the listed version and no other.

[동작] 목록의 ETag를 If-Match로 보낸다. 그동안 바뀐 파일은 섞이지 않고 `Changed`가 된다.
[디버깅] 키는 환경 변수(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY 또는 AWS_PROFILE)에서만 온다.
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from wmtp.storage.listing import Changed, Listing, RemoteFile, choose


@dataclass(frozen=True)
class S3Place:
    """Read the files under one key of a bucket, or the one file that has this key.

    Args:
        key: 폴더나 파일의 키.
        patterns: 원하는 파일 이름들 (`choose` 참고).
        several: 맞는 이름을 모두 가져올지.
        endpoint_url: AWS가 아닌 서버의 주소.
    """

    bucket: str
    key: str
    patterns: tuple[str, ...]
    several: bool = False
    endpoint_url: str | None = None
    region: str | None = None

    @property
    def url(self) -> str:
        """Name the place in messages and in what is kept about the files."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def identity(self) -> list:
        """Return everything that decides which bytes these are."""
        endpoint = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return [self.url, endpoint, self.patterns, self.several]

    @property
    def filesystem(self) -> Any:
        """Open the store; one connection for all who ask."""
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
        more: dict[str, str] | None = {}
        while more is not None:
            try:
                answer = self.filesystem.call_s3("list_objects_v2", Bucket=self.bucket, Prefix=self.key, **more)
            except FileNotFoundError:  # no such bucket
                return None
            more = {"ContinuationToken": answer["NextContinuationToken"]} if answer.get("IsTruncated") else None
            for item in answer.get("Contents", []):
                key, etag = item["Key"], item["ETag"].strip('"')
                digest = ("md5", etag) if re.fullmatch("[0-9a-f]{32}", etag) else None
                if key == self.key and not key.endswith("/"):
                    return Listing((RemoteFile(PurePosixPath(key).name, key, item["Size"], etag, digest),))
                if key.startswith(folder):
                    name = key.removeprefix(folder)
                    found[name] = RemoteFile(name, key, item["Size"], etag, digest)
        chosen = choose(sorted(found), self.patterns, self.several)
        return Listing(tuple(found[name] for name in chosen)) if chosen else None

    def read(self, file: RemoteFile, start: int, end: int, listing: Listing) -> bytes:
        """Read bytes start..end of the listed version, of no other."""
        from fsspec.asyn import sync

        try:
            asked = dict(Key=file.key, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{file.etag}"')
            answer = self.filesystem.call_s3("get_object", Bucket=self.bucket, **asked)
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


def is_s3(path: Any) -> bool:
    """Say whether a path is an address in S3."""
    return str(path).startswith("s3://")
