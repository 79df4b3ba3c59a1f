"""Hold that a checkpoint is, bit for bit, what was written.

[연구 맥락] 디스크와 복사는 드물게 비트 하나를 뒤집는다. torch.load는 모르고 읽으므로, 틀린 가중치로 이어 학습한다.
[동작] torch.save의 파일은 zip이고 항목마다 CRC-32가 이미 들어 있다. safetensors에는 없으므로, 조각을 쓸 때 파일마다
    재어 meta.pt에 적는다. 읽을 때 다시 잰다: 1 GB에 1.4초쯤 (docs/recovery.md), 쓸 때는 조각만 그 반.
"""

import zipfile
import zlib
from pathlib import Path

import torch

from wmtp.checkpoints.kinds import META, is_sharded
from wmtp.errors import CheckpointError

CHUNK = 2**24


def check_bits(path: Path) -> None:
    """Read all of a checkpoint of either kind, and compare the sums.

    Raises:
        CheckpointError: 한 비트라도 다를 때.
    """
    if damage := _damage(path):
        raise CheckpointError(
            f"ckpt = {path} is damaged: {damage} is not as it was written; copy it again, or go on from the one before "
            "it with ckpt=auto."
        )


def _damage(path: Path) -> str | None:
    """Name the first part that is not as it was written."""
    file = path / META if is_sharded(path) else path
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
        if bad or file == path:
            return bad
        sums = torch.load(file, map_location="cpu", weights_only=True).get("crc32", {})
    except Exception:  # a flipped bit in the table of contents can raise anything
        return file.name
    return next((name for name, crc in sums.items() if crc32_of(path / name) != crc), None)


def crc32_of(file: Path) -> int | None:
    """Sum up a file; None where there is none."""
    if not file.is_file():
        return None
    crc = 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
