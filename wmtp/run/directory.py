"""Name, make and find run directories.

[동작] runs/<name>/ 하나에 이어 하기, 평가, 비교에 필요한 모든 것이 있다:
    config.yaml  checkpoints/{best,last}.ckpt  model/  metrics.csv  eval/{before,after}/  report.html  train.log
이름이 이미 있으면 -2, -3 …을 붙인다. 여러 랭크가 같은 폴더를 쓰도록 환경 변수로 물려주고, torchrun이나
srun이 띄운 랭크에는 0번이 알려 준다 (`wmtp.ranks.meeting`).
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wmtp import ranges
from wmtp.checkpoints.kinds import is_checkpoint, is_sharded
from wmtp.errors import CheckpointError, ConfigError
from wmtp.ranks.meeting import agree, is_first
from wmtp.storage import in_use, is_s3
from wmtp.storage.lock import Taken, alone

# Set by the first process, read by the ranks that it starts: where training goes on, and from which checkpoint.
DIRECTORY, CHECKPOINT = "WMTP_RUN_DIR", "WMTP_CKPT"
COSTLY = ("checkpoints", "eval", "failure.json")  # what cost time to make


@contextmanager
def run_directory(run: Path | None, checkpoint: Path | None, root: Path, name: str) -> Iterator[Path]:
    """Go on in a run's own directory, or make `root/name`, `root/name-2`, …; no other process may train there.

    [동작] 새로 만든 폴더는, 시간을 들인 것이 생기기 전에 실패하거나 멈추면 지운다.

    Args:
        run: 이어 갈 폴더. None이면 새로 만든다.
        checkpoint: 이어 갈 체크포인트. Lightning이 띄우는 랭크에 물려준다.

    Raises:
        ConfigError: 이름이 폴더 이름이 될 수 없거나 폴더를 만들 수 없을 때.
        CheckpointError: 다른 프로세스가 그 폴더에서 학습하고 있을 때.
    """
    if DIRECTORY in os.environ:  # another rank made it, and holds it
        yield Path(os.environ[DIRECTORY])
        return
    made = run is None
    run = agree(lambda: _make(root, name).resolve()) if run is None else run.resolve()
    with _held(run):
        os.environ |= {DIRECTORY: str(run), **({CHECKPOINT: str(checkpoint.resolve())} if checkpoint else {})}
        try:
            yield run
        except BaseException:
            if made and not any((run / name).exists() for name in COSTLY):
                shutil.rmtree(run, ignore_errors=True)
            raise
        finally:
            del os.environ[DIRECTORY]
            os.environ.pop(CHECKPOINT, None)


@contextmanager
def _held(run: Path) -> Iterator[None]:
    """Hold a run's lock on the first rank; refuse on all where another process has it."""
    with ExitStack() as stack:
        try:
            agree(lambda: stack.enter_context(alone(run / ".lock", wait=False)) if is_first() else None)
        except Taken:
            raise CheckpointError(
                f"ckpt = {run}: another process is training there. Let it end, or leave ckpt out to begin a run of "
                "its own."
            ) from None
        yield


def check_still_there(run: Path) -> None:
    """Refuse to go on where somebody removed the run's directory: what would be written is half of a run.

    Raises:
        CheckpointError: 폴더가 없어졌거나 다른 것으로 바뀌었을 때.
    """
    if not (run / ".lock").exists():
        raise CheckpointError(
            f"run_dir = {run} was removed while it was trained in; what was trained since the last checkpoint is lost. "
            "Put it back from a copy and go on with ckpt, or begin again."
        )


def _make(root: Path, name: str) -> Path:
    ranges.name_of_run("name", name)
    number = 1
    while True:
        run = root / (name if number == 1 else f"{name}-{number}")
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            number += 1
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG and run.name == max(run.parts, key=len):
                raise ConfigError(
                    f"name = {name} is too long for a folder ({len(name.encode())} bytes, most file systems take 255); "
                    "set a shorter name=…"
                ) from error
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
    newest = newest_of(root, name)
    return newest if newest and not is_finished(newest) else None


def newest_of(root: Path, name: str) -> Path | None:
    """Find the newest run of a name."""
    return next(iter(_runs(root, name)), None)


def is_finished(run: Path) -> bool:
    """Say whether the model was exported, whole or as an adapter: before that its folder holds a tokenizer only."""
    return any((run / "model" / name).is_file() for name in ("config.json", "adapter_config.json"))


def _runs(root: Path, name: str) -> list[Path]:
    """List the runs of a name, newest first."""
    pattern = re.compile(re.escape(name) + r"(-(\d+))?")
    found = [(int(match[2] or 1), run) for run in root.glob(f"{name}*") if (match := pattern.fullmatch(run.name))]
    return [run for _number, run in sorted(found, reverse=True)]


def resolve_checkpoint(ckpt: str, root: Path, name: str = "") -> Path:
    """Turn what a user calls a checkpoint into a file.

    Args:
        ckpt: "last", 실행 폴더, .ckpt 파일, 또는 그 둘의 s3:// 주소.
        name: "last"일 때 찾을 이름.
    """
    if is_s3(ckpt):
        path = in_use().find_checkpoint(ckpt)
    elif ckpt == "last":
        path = newest_run(root, name)
    else:
        path = Path(ckpt).expanduser()
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() and not is_sharded(path) else path
    if not is_checkpoint(file):
        raise CheckpointError(f"ckpt = {ckpt}: no file {file}; give a run directory, a .ckpt file or last.")
    return file


def run_of(checkpoint: Path) -> Path:
    """Return the run directory that a checkpoint file lies in."""
    return checkpoint.resolve().parent.parent
