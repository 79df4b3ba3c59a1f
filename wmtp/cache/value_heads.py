"""Keep V on the disk: in the run directory when it is fitted, in the cache while it is being fitted.

[동작] 실행 폴더의 value_head.safetensors에는 V가 무엇을 읽는지(identity)도 있다.
    맞추는 동안의 것(.partial.pt)은 죽었다 깨어난 프로세스가 이어 가는 데만 쓰고, 다 맞추면 지운다.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from wmtp.storage.files import write_atomically, written_atomically

HEAD = "value_head.safetensors"


def write_head(run: Path, head: dict[str, Tensor], identity: str) -> None:
    """Write V into a run directory.

    Raises:
        OSError: 디스크가 찼을 때. 반쯤 쓴 파일은 남지 않는다.
    """
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}
    write_atomically(run / HEAD, save(head, metadata={"value": identity}))


def read_head(run: Path) -> dict[str, Any] | None:
    """Read what `write_head` wrote: head, and value (its identity); None where there is nothing."""
    if not (run / HEAD).is_file():
        return None
    with safe_open(run / HEAD, framework="pt") as opened:
        head = {name: opened.get_tensor(name) for name in opened.keys()}
        return {"head": head, "value": opened.metadata()["value"]}


def write_partial(entry: Path, state: dict[str, Any]) -> None:
    """Keep a fit that is not at its end; on a full disk a kill costs its steps, nothing else."""
    with suppress(OSError, RuntimeError):  # torch says RuntimeError where the disk is full
        entry.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(partial_of(entry)) as temporary:
            torch.save(state, temporary)


def read_partial(entry: Path) -> dict[str, Any] | None:
    """Read what a killed process left; None if there is nothing, or it is damaged."""
    try:
        return torch.load(partial_of(entry), map_location="cpu", weights_only=True)
    except Exception:  # torch raises anything from EOFError to UnpicklingError; the steps are taken again
        return None


def partial_of(entry: Path) -> Path:
    """Name the file of a fit that is not at its end."""
    return entry.with_suffix(".partial.pt")
