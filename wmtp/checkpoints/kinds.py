"""Tell the two kinds of checkpoints: a file, or a folder of shards. No torch: the front doors ask early."""

from pathlib import Path

from wmtp.storage.files import recover

META = "meta.pt"  # Lightning's name for what is in a checkpoint beside its shards


def is_sharded(path: str | Path) -> bool:
    """Say whether this is a checkpoint in shards, a folder."""
    return (Path(path) / META).is_file()


def is_checkpoint(path: Path) -> bool:
    """Say whether there is a checkpoint of either kind."""
    recover(path)
    return path.is_file() or is_sharded(path)
