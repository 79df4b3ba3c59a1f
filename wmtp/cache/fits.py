"""Fit something once for all runs that would fit the same: the critic's V, new heads.

[동작] 첫 랭크가 항목을 잡고 모두를 대신해 기다린다. 있으면 읽고, 없으면 모든 랭크가 함께 맞춘다.
    맞추는 동안의 것(.partial.pt)은 죽었다 깨어난 프로세스가 이어 가는 데만 쓰고, 다 맞추어 두면 지운다.
"""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmtp.cache.entries import claimed, read_entry, write_entry
from wmtp.storage.files import written_atomically


def fit_once(
    file: Path | None, broadcast: Callable[[Any], Any], fit: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Read what was fitted, or fit it and keep it; two runs that start together fit it once. All ranks call it.

    Args:
        file: 항목의 자리 (`entry_file`). 첫 랭크가 아니거나 캐시에 둘 것이 아니면 None.
    """
    with claimed(file) if file else nullcontext():
        entry = broadcast(read_entry(file) if file else None)
        if entry is None:
            entry = fit()
            if file and write_entry(file, entry):
                partial_of(file).unlink(missing_ok=True)
    return entry


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
