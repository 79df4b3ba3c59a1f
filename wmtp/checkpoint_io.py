"""Write checkpoints so that no kill and no full disk can damage one.

[연구 맥락] Lightning은 임시 폴더에 쓴 뒤 복사한다. 복사 중에 꺼지거나 디스크가 차면 last.ckpt가 반쪽이 되고,
    밤새 한 학습을 잃는다.
[동작] 같은 폴더의 임시 이름에 쓰고, 디스크에 내린 뒤(fsync), 이름을 바꾼다. 그래서 앞의 체크포인트는 끝까지 온전하다.
"""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Save to a temporary name, flush to the disk, then rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save one checkpoint, all of it or nothing.

        Raises:
            OSError: 디스크가 찼을 때. 임시 파일은 지우고, 앞의 체크포인트는 그대로 둔다.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
