"""Find the newest checkpoint that training can go on from: whole, as it was written, and every value finite.

[연구 맥락] 발산한 학습은 NaN이 든 체크포인트를 남기고, 디스크는 드물게 비트를 뒤집는다. 그런 것에서 이어 가면
    며칠 뒤에야 안다.
[동작] 새것부터 하나씩 끝까지 읽는다. 처음 온전한 것에서 멈추고, 그보다 새것은 `.bad`로 이름을 바꾼다.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from torch.utils._pytree import tree_leaves

from wmtp.checkpoints.integrity import check_bits
from wmtp.checkpoints.kinds import is_checkpoint
from wmtp.checkpoints.saved_model import read_checkpoint
from wmtp.errors import CheckpointError
from wmtp.storage.files import remove, swap_in


def last_good(folder: Path, before_step: int | None = None, set_aside: bool = True) -> tuple[Path, int] | None:
    """Find the newest checkpoint that is whole and finite.

    Args:
        before_step: 이 스텝이나 그 뒤의 것은 유한해도 쓰지 않는다.
        set_aside: 새것이지만 쓸 수 없는 것의 이름을 `.bad`로 바꿀지.

    Returns:
        (체크포인트, 그 스텝). 없으면 None.
    """
    for old in folder.glob("*.ckpt.old"):
        is_checkpoint(old.with_suffix(""))  # finishes a swap that was cut short
    end = float("inf") if before_step is None else before_step
    steps = {path: step_of(path) for path in folder.glob("*.ckpt")}
    for path in sorted(steps, key=lambda path: (steps[path], path.name == "last.ckpt"), reverse=True):
        if steps[path] < end and is_good(path):
            return path, int(steps[path])
        if set_aside:
            bad = path.with_name(path.name + ".bad")
            remove(bad)
            path.rename(bad)
    return None


def step_of(path: Path) -> float:
    """Return the step that a checkpoint was written at; infinity where it cannot be read."""
    try:
        return read_checkpoint(path)["global_step"]
    except (CheckpointError, OSError, KeyError, RuntimeError):
        return float("inf")


def is_good(path: Path) -> bool:
    """Tell whether a checkpoint is bit for bit what was written, and every value in it finite."""
    try:
        check_bits(path)
        return all(bool(tensor.isfinite().all()) for tensor in tensors_of(path) if tensor.is_floating_point())
    except (CheckpointError, OSError, KeyError, RuntimeError):
        return False


def tensors_of(path: Path) -> Iterator[Tensor]:
    """Read the weights and the optimizer's state, one tensor after the other."""
    if path.is_dir():
        for file in sorted(path.rglob("*.safetensors")):
            with safe_open(file, "pt") as shard:
                yield from (shard.get_tensor(name) for name in shard.keys())
        return
    checkpoint = read_checkpoint(path)
    leaves = tree_leaves([checkpoint["state_dict"], checkpoint.get("optimizer_states", [])])
    yield from (leaf for leaf in leaves if isinstance(leaf, Tensor))


def replace_by_link(source: Path, target: Path) -> None:
    """Give a checkpoint a second name at once; it takes no space, since checkpoints are replaced, never changed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".link")
    remove(temporary)

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:  # a file system without hard links
            shutil.copy2(one, other)

    if source.is_dir():
        shutil.copytree(source, temporary, copy_function=link)
    else:
        link(str(source), str(temporary))
    swap_in(temporary, target)
