"""Read the file that W&B writes offline, and that `wandb sync` sends: its own records in a log of LevelDB's format."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 2**15  # ":W&B", a mark and a version; then blocks, in which a record is whole or in parts
WHOLE, FIRST, LAST = 1, 2, 4


def records(file: Path) -> Iterator[Any]:
    """Yield the records, as the messages of wandb's protocol."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = file.read_bytes(), HEADER, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts = (b"" if kind in (WHOLE, FIRST) else parts) + content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts)


def values_of(items: Any) -> dict[str, Any]:
    """Return the values of a record's items by name."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
