"""Keep V in the run directory: value_head.safetensors, in which stands what V reads too (its identity)."""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from wmtp.storage.files import write_atomically

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
