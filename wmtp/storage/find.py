"""Find data, models and checkpoints: local path, cache, S3, Hub, in this order.

[동작] 여기는 순서와, 못 찾았을 때 어디를 보았는지 말하는 문장뿐이다. 먼 곳의 것은 복사본(copies.py)을 준다.
    한 프로세스는 한 이름에서 끝까지 같은 판을 본다.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from wmtp.checks import check_choice
from wmtp.errors import ConfigError, DataNotFoundError, StorageError
from wmtp.flat_keys import S3_KEYS, nested_form
from wmtp.secrets import refuse_secrets
from wmtp.storage.copies import Copies, read_manifest
from wmtp.storage.download import Place, list_files, reason
from wmtp.storage.hub import HubPlace
from wmtp.storage.listing import choose
from wmtp.storage.s3 import S3Place, is_s3

MODEL_FILES = ("*.json", "*.safetensors", "consolidated.pth", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*")
GGUF = ".gguf"
MODEL_MARKS = ("config.json", "params.json")  # transformers' format, Meta's


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
        refuse_secrets({"storage": {"s3": s3, **unknown}})
        for key in (*unknown, *(f"s3.{key}" for key in s3 or {} if key not in S3_KEYS)):
            there = f"there are {', '.join(S3_KEYS)}" if key.startswith("s3.") else "see conf/storage/"
            raise ConfigError(nested_form(f"storage.{key}") or f"storage.{key} is not a key; {there}.")
        check_choice("storage.mode", mode, ("auto", "offline"))
        self.s3 = {key: (s3 or {}).get(key) for key in S3_KEYS}
        self.offline = mode == "offline" or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        self.cache = Path(cache or os.environ.get("WMTP_CACHE") or "~/.cache/wmtp").expanduser()
        self.accepted = tuple(accept_licences)
        self.used: dict[str, dict[str, Any]] = {}
        self._copies = Copies(self.cache)
        self._found: dict[Path, Path] = {}  # one version for the life of a process

    def find_data(
        self,
        name: str,
        path: str | os.PathLike | None,
        patterns: Sequence[str],
        several: bool = False,
        key: str = "data.path",
        hub: Sequence[str] = (),
    ) -> list[Path]:
        """Find the files of a data set, or say every place that was tried.

        [동작] path를 주면 그곳만 본다: 오타 때문에 다른 데이터로 학습하는 일이 없어야 한다.

        Args:
            name: 데이터의 이름. 로컬과 S3에서는 폴더 이름이기도 하다.
            path: 사용자가 준 파일, 폴더, 또는 s3:// 주소. None이면 정해진 순서대로.
            patterns: 파일 이름들 (`choose` 참고).
            several: 맞는 파일을 모두 쓸지.
            key: 오류 문장에 쓸, path의 설정 이름.
            hub: Hub의 데이터셋 저장소와, 그 안에서 원하는 파일 이름들. 제 데이터처럼 Hub에 없으면 비운다.

        Raises:
            DataNotFoundError: 어느 곳에도 없을 때.
            StorageError: 있지만 가져올 수 없거나, 라이선스를 먼저 받아들여야 할 때.
        """
        patterns = tuple(patterns)
        remedy = f"Put the file there, or set {key}."
        folders: list[Path] = []
        places: list[S3Place | HubPlace] = []
        if path is None:
            root = os.environ.get("WMTP_DATA")
            folders = [*([Path(root).expanduser() / name] if root else []), self.cache / "data" / name]
            tried = [f"in $WMTP_DATA/{name}" + ("" if root else " (not set)")]
            on_hub = [HubPlace(hub[0], "dataset", tuple(hub[1:]), True, self.accepted)] if hub else []
            places = [*self._s3(name, patterns, several), *on_hub]
            if not places:  # where they are, they say so themselves
                tried.append(f"in the cache ({self.cache})")
        elif is_s3(path):
            tried, places = [], [self._s3_url(path, patterns, several)]
        else:
            folders, tried = [Path(path).expanduser()], [f"in {key}={path}"]
            remedy = "Correct the path, or leave it out to look in $WMTP_DATA, the cache, S3 and the Hub."
        for folder in folders:
            here = [f.relative_to(folder).as_posix() for pattern in patterns for f in sorted(folder.glob(pattern))]
            files = [folder] if folder.is_file() else [folder / name for name in choose(here, patterns, several)]
            if files:
                self.used[name] = {"from": str(folder)}
                return files
        copy = self._anywhere(name, places, tried, revalidate=path is not None)
        if copy is None:
            asked, wanted = f"{key.split('.')[0]}={name}", " or ".join(patterns)
            raise DataNotFoundError(
                f"{asked}: no {wanted} {_listed(tried)}. {remedy} The format is described in docs/data.md."
            )
        return [copy / file for file in read_manifest(copy)["files"]]

    def find_model(self, path: str, key: str = "model.path") -> Path:
        """Find a model's folder: a local one, s3://bucket/key, or organization/name in the cache, S3 or on the Hub.

        [동작] 한 저장소에 모델이 여럿이면 organization/name/폴더. 그 폴더와, 저장소 맨 위의 tokenizer.model만 가져온다.
        .gguf로 끝나는 이름은 파일이고, 그 파일만 가져온다. safetensors 없이 .gguf 하나만 든 로컬 폴더는 그 파일이다.

        Returns:
            폴더, 또는 .gguf 파일.

        Raises:
            DataNotFoundError: config.json(Meta의 형식은 params.json)이 있는 폴더가 어디에도 없을 때.
            ConfigError: 폴더에 .gguf가 여럿일 때.
            StorageError: 있지만 가져올 수 없거나, 라이선스를 먼저 받아들여야 할 때.
        """
        folder = Path(path).expanduser()
        if file := _gguf_in(folder, key):
            return file
        if _is_model(folder):
            return folder
        if (folder / "adapter_config.json").is_file():
            raise DataNotFoundError(
                f"{key} = {path} is an adapter without its model. Load both with peft, call merge_and_unload(), and "
                "give the folder that save_pretrained then writes; or give the base model."
            )
        is_file = path.endswith(GGUF)
        tried = [] if is_s3(path) else [f"in {folder.parent if is_file else folder}"]
        places, inside = self._model_places(path, folder)
        copy = self._anywhere(path, places, tried, revalidate=is_s3(path))
        if copy is not None and (file := _gguf_in(copy / inside, key)):
            return file
        if copy is None or not _is_model(copy / inside):
            wanted = folder.name if is_file else "config.json"
            raise DataNotFoundError(
                f"{key} = {path}: no {wanted} {_listed(tried)}. Give a folder that save_pretrained wrote, a .gguf "
                "file, s3://bucket/key, a name on the Hub, or asset:tiny-base."
            )
        return copy / inside

    def _model_places(self, path: str, folder: Path) -> tuple[list[Place], str]:
        """Return where a model that is not in a local folder would be, and where it lies in a copy of that place."""
        if is_s3(path):
            above, _, name = path.rpartition("/")
            if name.endswith(GGUF):
                return [self._s3_url(above, (name,), several=False)], name
            return [self._s3_url(path, MODEL_FILES, several=True)], ""
        named = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:/([\w.-]+))?", path)
        # A mistyped local path must not be looked up elsewhere: its first folder, at least, is there.
        if not named or folder.exists() or (named[2] and Path(folder.parts[0]).exists()) or named[1].endswith(GGUF):
            return [], ""
        repo, inside = named[1], named[2] or ""
        patterns: tuple[str, ...] = MODEL_FILES
        if inside.endswith(GGUF):
            patterns = (inside,)
        elif inside:
            patterns = (*(f"{inside}/{pattern}" for pattern in MODEL_FILES), "tokenizer.model")
        return [*self._s3(repo, patterns, True), HubPlace(repo, "model", patterns, True, self.accepted)], inside

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
        where = [self.s3["bucket"], (self.s3["prefix"] or "").strip("/"), name]
        return [self._s3_url("s3://" + "/".join(filter(None, where)), patterns, several)]

    def _s3_url(self, url: str | os.PathLike, patterns: tuple[str, ...], several: bool) -> S3Place:
        bucket, _, key = str(url).removeprefix("s3://").partition("/")
        return S3Place(bucket, key.strip("/"), patterns, several, self.s3["endpoint_url"], self.s3["region"])

    def _anywhere(self, name: str, places: Sequence[Place], tried: list[str], revalidate: bool) -> Path | None:
        """Return a whole copy from the cache, else from the first place that has it; note in `tried` what was tried."""
        for place in places:
            if self._copies.of(place) in self._found:
                return self._use(name, place, self._found[self._copies.of(place)])
        if places and (self.offline or not revalidate):
            for place in places:
                copy = self._copies.newest(place)
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
                listing = list_files(place)
            except place.transient as error:
                if isinstance(place, S3Place):  # a bucket that is configured and does not answer is no reason to go on
                    raise StorageError(self._copies.unreadable(place, error)) from error
                tried.append(f"{at} ({reason(error)})")
                continue
            if listing is not None:
                return self._use(name, place, self._copies.get(place, listing))
            tried.append(f"{at} (not there{'' if isinstance(place, S3Place) else ', or private: set HF_TOKEN'})")
        return None

    def _use(self, name: str, place: Place, copy: Path) -> Path:
        manifest = read_manifest(copy)
        self.used[name] = {key: manifest[key] for key in ("from", "version", "commit", "licence") if manifest[key]}
        self._found[self._copies.of(place)] = copy
        return copy


def _is_model(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MODEL_MARKS)


def _gguf_in(path: Path, key: str) -> Path | None:
    """Return a GGUF file, or the only one of a folder that holds no other weights."""
    if path.suffix == GGUF and path.is_file():
        return path
    files = sorted(path.glob(f"*{GGUF}"))
    if not files or any(path.glob("*.safetensors")):
        return None
    if len(files) > 1:
        raise ConfigError(
            f"{key} = {path} holds {len(files)} GGUF files ({', '.join(file.name for file in files)}); name "
            f"one of them: {key}={files[0]}"
        )
    return files[0]


def _listed(tried: Sequence[str]) -> str:
    return tried[0] if len(tried) == 1 else f"{', '.join(tried[:-1])}, or {tried[-1]}"
