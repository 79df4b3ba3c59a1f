"""Try a run out in small, in a directory that is gone afterwards (dry_run=true).

[동작] 조합하고, 읽고, 한 스텝을 밟고, 평가한다. 이어 할 것이 있으면 그 체크포인트에서 한 스텝 더 간다.
    사용자의 실행 폴더는 읽기만 한다. 출력은 버린다: 지워질 폴더의 이름과, 한 스텝이 얼마나 못 배우는지를 말할 뿐이다.
"""

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wmtp.run.attempts import FILE
from wmtp.run.directory import run_directory
from wmtp.run.start import Start


def in_small(cfg: DictConfig) -> DictConfig:
    """Return the config with few problems, no loggers and no second attempt."""
    changes: dict[str, Any] = {"eval": {"limit": 2}, "logger": None, "recovery": {"max_attempts": 0}}
    if OmegaConf.select(cfg, "algo.pretraining"):  # a critic is taught before the first step
        few = {"problems": 32, "heldout_problems": 32, "steps": 1}
        changes["algo"] = {"pretraining": few, "localisation": {"problems": 32}}
    if OmegaConf.select(cfg, "callbacks.head_pretraining"):  # and so are new heads
        changes["callbacks"] = {"head_pretraining": {"steps": 1}}
    small = OmegaConf.merge(cfg, changes)
    assert isinstance(small, DictConfig)
    return small


@contextmanager
def rehearsal(start: Start) -> Iterator[Path]:
    """Make a run directory for the time of the rehearsal; what recovery changed in the real run holds in it too."""
    with (
        tempfile.TemporaryDirectory(prefix="wmtp-dry-run-") as runs,
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        run_directory(None, start.checkpoint, Path(runs), "dry-run") as run,
    ):
        if start.run and (start.run / FILE).exists():
            shutil.copy(start.run / FILE, run)
        yield run
