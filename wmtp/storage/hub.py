"""Read files of a repository on the Hugging Face Hub, all of one commit, under a licence that is known.

[디버깅] HF_ENDPOINT로 다른 서버(mirror)를, HF_TOKEN으로 비공개 저장소를 읽는다.
"""

import os
from dataclasses import dataclass
from typing import Any

from wmtp.errors import StorageError
from wmtp.storage.listing import Changed, Listing, RemoteFile, choose

UNKNOWN_LICENCES = (None, "", "other", "unknown")


@dataclass(frozen=True)
class HubPlace:
    """Read the files of a repository on the Hugging Face Hub, all of one commit.

    Args:
        repo: "조직/이름".
        kind: "dataset" 또는 "model".
        accepted: 라이선스를 몰라도 쓰겠다고 사용자가 밝힌 저장소들.
    """

    repo: str
    kind: str
    patterns: tuple[str, ...]
    several: bool = False
    accepted: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Name the place in messages and in what is kept about the files."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def page(self) -> str:
        """Give the address that a person opens."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def endpoint(self) -> str:
        """Give the server's address: the Hub's, or that of a mirror."""
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
            info: Any = HfApi(endpoint=self.endpoint).repo_info(
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
