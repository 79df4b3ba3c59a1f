"""Find where training begins, anew or where a checkpoint left it, and hold that it is the same training.

[연구 맥락] 한 폴더에서 다른 데이터나 다른 알고리즘으로 이어 가면 곡선 하나에 두 실험이 섞이고, 나중에는 아무도 모른다.
    다른 옵티마이저의 상태는 읽을 수도 없다.
[동작] 첫 랭크가 정하고, 나머지는 그것을 따른다: torchrun이 띄운 랭크에는 알려 주고, Lightning이 나중에 띄우는 랭크는
    환경 변수로 물려받는다. 그사이에 무엇이 가장 새것인지는 바뀔 수 있기 때문이다.
[디버깅] 조각 크기, 학습률, 스텝의 수처럼 이어 가며 바꾸어도 되는 것은 보지 않는다.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from wmtp.checkpoints.kinds import is_checkpoint
from wmtp.errors import CheckpointError
from wmtp.ranks.meeting import agree
from wmtp.run.directory import CHECKPOINT, DIRECTORY, resolve_checkpoint, run_of, unfinished_run
from wmtp.storage import is_s3


@dataclass(frozen=True)
class Start:
    """Hold where training begins.

    Attributes:
        run: 이어 갈 실행 폴더. 새로 만들 것이면 None.
        checkpoint: 이어 갈 체크포인트. 처음부터면 None.
    """

    run: Path | None = None
    checkpoint: Path | None = None


def find_start(ckpt: str | None, root: Path, name: str, touch: bool = True) -> Start:
    """Find the run directory and the checkpoint that `ckpt` means.

    Args:
        ckpt: 설정의 ckpt: null, last, auto, 실행 폴더, .ckpt 파일, s3://….
        name: last와 auto가 찾을 이름.
        touch: 온전하지 않은 체크포인트의 이름을 바꾸어도 되는지.
    """
    if DIRECTORY in os.environ:
        checkpoint = os.environ.get(CHECKPOINT)
        return Start(Path(os.environ[DIRECTORY]), Path(checkpoint) if checkpoint else None)
    if ckpt and is_s3(ckpt):  # every machine fetches it for itself
        return _find(ckpt, root, name, touch)
    return agree(lambda: _find(ckpt, root, name, touch))


def _find(ckpt: str | None, root: Path, name: str, touch: bool) -> Start:
    from wmtp.checkpoints.integrity import check_bits
    from wmtp.checkpoints.saved_model import read_checkpoint

    if not ckpt:
        return Start()
    if ckpt == "auto":
        run = unfinished_run(root, name)
        return Start(run, _newest_whole(run, touch)) if run else Start()
    checkpoint = resolve_checkpoint(ckpt, root, name)
    read_checkpoint(checkpoint)  # says of a truncated file, or somebody else's, that it is one
    check_bits(checkpoint)
    # One that lies in no run, or was fetched from S3, goes on in a directory of its own.
    inside = checkpoint.resolve().parent.name == "checkpoints" and not is_s3(ckpt)
    return Start(run_of(checkpoint) if inside else None, checkpoint)


def _newest_whole(run: Path, touch: bool) -> Path | None:
    """Find the last checkpoint; where it is damaged, the newest before it that is not."""
    from wmtp.checkpoints.last_good import is_good, last_good, replace_by_link

    last = run / "checkpoints" / "last.ckpt"
    if is_checkpoint(last) and is_good(last):
        return last
    damaged = last.exists()
    good = last_good(last.parent, set_aside=touch)
    if damaged:
        back = f"{good[0].name} at step {good[1]}" if good else "the beginning"
        print(f"ckpt = auto: {last} is damaged, or holds NaN; going on from {back}.", file=sys.stderr)
    if good is None or not touch:
        return good and good[0]
    if good[0] != last:
        replace_by_link(good[0], last)
    return last


def check_same_training(start: Start, cfg: DictConfig, algo: Any, samples: str) -> int:
    """Refuse a checkpoint of another model or optimizer, and to go on with another experiment in the same run.

    Args:
        start: 어디서 시작하는지.
        samples: 무엇을 읽고 학습하는지, 내용에서 나온 이름.

    Returns:
        체크포인트를 쓴 스텝, 처음부터면 0.
    """
    from wmtp.checkpoints.saved_model import check_same_model, read_checkpoint

    if start.checkpoint is None:
        return 0
    checkpoint = read_checkpoint(start.checkpoint)
    check_same_model(checkpoint["state_dict"], algo, start.checkpoint)
    config = checkpoint["wmtp"]["config"]
    for key in ("optimizer", "algo") if start.run else ("optimizer",):
        now, then = _name(cfg[key]["_target_"]), _name(config.get(key, {}).get("_target_"))
        if then and now != then:
            raise CheckpointError(
                f"ckpt = {start.checkpoint} was trained with {key}={then}, and this is {key}={now}; give {key}={then} "
                "to go on, or leave ckpt out to begin a run of its own."
            )
    if start.run and config.get("made_of", {}).get("samples", samples) != samples:
        raise CheckpointError(
            f"ckpt = {start.checkpoint} was trained on other data (data.*, or what a benchmark leaves out of it); give "
            f"those of {start.run / 'config.yaml'} to go on, or leave ckpt out to begin a run of its own."
        )
    return checkpoint["global_step"]


def _name(target: str | None) -> str | None:
    """Give the name by which a target is chosen on the command line.

    Example:
        >>> _name("wmtp.algos.rho1.Rho1"), _name("wmtp.algos.optimizers.muon")
        ('rho1', 'muon')
    """
    return target and target.rpartition(".")[2].lower()
