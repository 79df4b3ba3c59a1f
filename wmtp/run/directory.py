"""Name, make and find run directories.

[동작] runs/<name>/ 하나에 이어 하기, 평가, 비교에 필요한 모든 것이 있다:
    config.yaml  checkpoints/{best,last}.ckpt  model/  metrics.csv  eval/{before,after}/  report.html  train.log
이름이 이미 있으면 -2, -3 …을 붙인다. 여러 랭크가 같은 폴더를 쓰도록 환경 변수로 물려주고, torchrun이나
srun이 띄운 랭크에는 0번이 알려 준다 (`wmtp.ranks.meeting`).
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wmtp.checkpoints.kinds import is_checkpoint, is_sharded
from wmtp.errors import CheckpointError, ConfigError
from wmtp.ranks.meeting import agree
from wmtp.storage import in_use, is_s3

INHERITED = "WMTP_RUN_DIR"  # set by the first process, read by the ranks that it starts


@contextmanager
def fresh_run(root: Path, name: str) -> Iterator[Path]:
    """Make a directory `root/name`, or `root/name-2`, …; remove it if the run fails before it did anything.

    Raises:
        ConfigError: 이름에 경로가 들어 있거나 폴더를 만들 수 없을 때.
    """
    if INHERITED in os.environ:  # another rank made it
        yield Path(os.environ[INHERITED])
        return
    run = agree(lambda: _make(root, name).resolve())
    os.environ[INHERITED] = str(run)
    try:
        yield run
    except Exception:
        costly = ("checkpoints", "eval", "failure.json")
        if not any((run / name).exists() for name in costly):  # nothing that cost time
            shutil.rmtree(run, ignore_errors=True)
        raise
    finally:
        del os.environ[INHERITED]


@contextmanager
def same_run(run: Path) -> Iterator[Path]:
    """Go on in a run's own directory, on all ranks: what is the newest may have changed when they start."""
    inherited = INHERITED in os.environ
    os.environ[INHERITED] = str(run.resolve())
    try:
        yield run
    finally:
        if not inherited:
            del os.environ[INHERITED]


def _make(root: Path, name: str) -> Path:
    if not re.fullmatch(r"[\w.=,+-]+", name):
        raise ConfigError(f"name = {name!r} must be letters, digits and ._=,+- only: it becomes a folder in runs.")
    number = 1
    while True:
        run = root / (name if number == 1 else f"{name}-{number}")
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(f"runs = {root}: cannot make {run} ({error.strerror}); choose another folder.") from error


def newest_run(root: Path, name: str) -> Path:
    """Find the newest run of a name that has a checkpoint.

    Raises:
        CheckpointError: 그런 실행이 없을 때.
    """
    for run in _runs(root, name):
        if is_checkpoint(run / "checkpoints" / "last.ckpt"):
            return run
    raise CheckpointError(f"ckpt = last: no run of {name} with a checkpoint in {root}; start one without ckpt first.")


def unfinished_run(root: Path, name: str) -> Path | None:
    """Find the newest run of a name, if it has not come to its end."""
    if INHERITED in os.environ:
        return Path(os.environ[INHERITED])
    runs = _runs(root, name)
    return runs[0] if runs and not (runs[0] / "model" / "config.json").is_file() else None


def finished_run(root: Path, name: str) -> Path | None:
    """Find the newest run of a name, if it has come to its end."""
    runs = _runs(root, name)
    return runs[0] if runs and (runs[0] / "model" / "config.json").is_file() else None


def _runs(root: Path, name: str) -> list[Path]:
    """List the runs of a name, newest first."""
    pattern = re.compile(re.escape(name) + r"(-(\d+))?")
    found = [(int(match[2] or 1), run) for run in root.glob(f"{name}*") if (match := pattern.fullmatch(run.name))]
    return [run for _number, run in sorted(found, reverse=True)]


def resolve_checkpoint(ckpt: str, root: Path, name: str = "") -> Path:
    """Turn what a user calls a checkpoint into a file.

    Args:
        ckpt: "last", 실행 폴더, .ckpt 파일, 또는 그 둘의 s3:// 주소.
        root: 실행 폴더들의 폴더.
        name: "last"일 때 찾을 이름.
    """
    if is_s3(ckpt):
        path = in_use().find_checkpoint(ckpt)
    elif ckpt == "last":
        path = Path(os.environ[INHERITED]) if INHERITED in os.environ else newest_run(root, name)
    else:
        path = Path(ckpt).expanduser()
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() and not is_sharded(path) else path
    if not is_checkpoint(file):
        raise CheckpointError(f"ckpt = {ckpt}: no file {file}; give a run directory, a .ckpt file or last.")
    return file


def run_of(checkpoint: Path) -> Path:
    """Return the run directory that a checkpoint file lies in."""
    return checkpoint.resolve().parent.parent
