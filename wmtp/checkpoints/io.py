"""Write checkpoints so that no kill and no full disk can damage one, whole or in shards.

[연구 맥락] Lightning은 임시 폴더에 쓴 뒤 복사한다. 복사 중에 꺼지거나 디스크가 차면 last.ckpt가 반쪽이 되고,
    밤새 한 학습을 잃는다. 나뉜 체크포인트는 있던 폴더에 그대로 덮어쓴다.
[동작] 같은 폴더의 임시 이름에 쓰고, 디스크에 내린 뒤(fsync), 이름을 바꾼다. 그래서 앞의 체크포인트는 끝까지 온전하다.

    last.ckpt                  파일: torch.save 하나
    last.ckpt/meta.pt          폴더: 가중치와 옵티마이저 상태를 뺀 나머지. 샤드 파일의 크기와 CRC-32도
             /model/           safetensors, 랭크마다 하나. 랭크의 수와 상관없이 읽힌다
             /optimizer_0/     텐서의 이름은 "번호.이름" (17.exp_avg), 번호는 torch의 것

    둘 다 객체를 담지 않으므로 `weights_only=True`와 safetensors로만 읽는다.
[디버깅] last.ckpt가 없고 last.ckpt.old가 있으면 이름을 바꾸는 사이에 꺼진 것이다. 다음에 되돌린다 (`storage.files`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from wmtp.checkpoints.integrity import crc32_of
from wmtp.checkpoints.kinds import META, is_sharded
from wmtp.errors import CheckpointError
from wmtp.ranks.meeting import agree, is_first
from wmtp.storage.files import remove, swap_in


class AtomicCheckpointIO(TorchCheckpointIO):
    """Save to a temporary name, flush to the disk, then rename; read both kinds."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save one checkpoint, all of it or nothing.

        Raises:
            OSError: 디스크가 찼을 때. 임시 파일은 지우고, 앞의 체크포인트는 그대로 둔다.
        """
        path = Path(path)
        path.parent.mkdir(exist_ok=True)  # and not the run's directory: somebody may have removed it
        temporary = path.with_name(path.name + ".tmp")
        remove(temporary)
        try:
            _save(checkpoint, temporary)
            swap_in(temporary, path)
        except BaseException:
            remove(temporary)
            raise

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> Any:
        """Load a file, or put the shards of a folder together."""
        if not is_sharded(path):
            return super().load_checkpoint(path, map_location or (lambda storage, loc: storage), weights_only)
        path = Path(path)
        checkpoint = read_meta(path)
        checkpoint["state_dict"] = read_weights(path)
        for n, optimizer in enumerate(checkpoint["optimizer_states"]):
            for key, value in read_shards(path / f"optimizer_{n}").items():
                number, _, name = key.partition(".")
                optimizer["state"].setdefault(int(number), {})[name] = value
        return checkpoint


def save_shards(checkpoint: dict[str, Any], path: Path) -> None:
    """Save every rank's shards and, once all of them are on the disk, give the folder its name.

    [동작] 모든 랭크가 함께 부르고, 어느 랭크에서 무엇이 잘못되든 모든 랭크가 함께 그 오류로 끝난다.

    Args:
        checkpoint: Lightning의 체크포인트. 텐서는 이 랭크의 것(DTensor).
        path: 폴더가 될 이름.

    Raises:
        OSError: 어느 랭크에서든 디스크가 찼을 때. 임시 폴더는 지우고, 앞의 체크포인트는 그대로 둔다.
    """
    temporary = path.with_name(path.name + ".tmp")
    optimizers = {f"optimizer_{n}": state for n, state in enumerate(checkpoint.get("optimizer_states", []))}
    plain = {**checkpoint, "optimizer_states": []}
    model = plain.pop("state_dict")

    def begin() -> None:
        path.parent.mkdir(exist_ok=True)
        remove(temporary)
        for name in ("model", *optimizers):
            (temporary / name).mkdir(parents=True)

    def finish() -> None:
        sizes = {str(file.relative_to(temporary)): file.stat().st_size for file in temporary.rglob("*.safetensors")}
        _save(plain | {"shards": sizes, "crc32": sums}, temporary / META)
        swap_in(temporary, path)

    try:
        agree(begin)
        _save_tensors(model, temporary / "model")
        for name, optimizer in optimizers.items():
            tensors, rest = {}, {}
            for number, values in optimizer["state"].items():
                tensors |= {f"{number}.{key}": value for key, value in values.items() if isinstance(value, Tensor)}
                rest[number] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
            _save_tensors(tensors, temporary / name)
            plain["optimizer_states"].append({**optimizer, "state": rest})
        sums = _sums_of(temporary)
        agree(finish)
    except BaseException:
        if is_first():
            remove(temporary)
        raise


def read_meta(path: str | Path) -> dict[str, Any]:
    """Read what is not a tensor, after holding that every shard is there and whole.

    Raises:
        CheckpointError: 샤드 파일이 없거나 잘렸을 때.
    """
    path = Path(path)
    meta = torch.load(path / META, map_location="cpu", weights_only=True)
    meta.pop("crc32", None)
    for name, size in meta.pop("shards", {}).items():
        file = path / name
        there = file.stat().st_size if file.is_file() else 0
        if there != size:
            raise CheckpointError(
                f"ckpt = {path}: {name} should have {size} bytes and has {there}; copy the whole folder again, or go "
                "on with an earlier checkpoint."
            )
    return meta


def read_weights(path: str | Path, shapes_only: bool = False) -> dict[str, Tensor]:
    """Put the weights of a checkpoint in shards together, under all names; or their shapes, on the meta device."""
    weights = (shard_shapes if shapes_only else read_shards)(Path(path) / "model")
    return weights | {name: weights[first] for name, first in read_meta(path).get("tied", {}).items()}


def shard_shapes(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder of shards by shape and dtype only, on the meta device."""
    metadata = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: torch.empty(found.size, dtype=found.properties.dtype, device="meta")
        for name, found in metadata.items()
        if isinstance(found, TensorStorageMetadata)  # safetensors hold nothing else
    }


def load_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill tensors, sharded or whole, in place; each rank reads only what it holds."""
    if tensors:
        with _as_exception():
            dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)))


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Put the shards of a folder together in this process."""
    tensors = {name: torch.empty_like(tensor, device="cpu") for name, tensor in shard_shapes(folder).items()}
    with _as_exception():
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors


def _save(values: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # what torch finds wrong with the half file that a full disk left
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _save_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    if tensors:
        with _as_exception():
            dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _sums_of(folder: Path) -> dict[str, int]:
    """Sum up the shards, every rank its share of the files; all ranks call it once all of them are written."""
    files = sorted(folder.rglob("*.safetensors"))
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = {str(file.relative_to(folder)): crc32_of(file) for file in files[rank::ranks]}
    found: list[Any] = [mine] * ranks
    if ranks > 1:
        dist.all_gather_object(found, mine)
    return {name: crc for part in found for name, crc in part.items()}


@contextmanager
def _as_exception() -> Iterator[None]:
    """Raise what went wrong itself, on all ranks: what torch raises is no Exception, and nobody would handle it."""
    try:
        yield
    except dcp.CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from error
