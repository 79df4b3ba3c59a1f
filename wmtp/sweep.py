"""Answer for a whole sweep: compare its runs when all have been, and list the points that failed.

[연구 맥락] 탐색의 답은 점마다의 숫자가 아니라 그 차이와 구간이다. 마지막 점이 끝나면 비교가 저절로 나온다.
[동작] Hydra의 콜백이다 (conf/train.yaml의 hydra.callbacks). 탐색의 폴더(`runs/<이름>-sweep-<해시>`)는 무엇을
    훑는지로 이름 짓는다: 같은 명령을 다시 주면 같은 폴더이고, 끝난 점은 건너뛰고 나머지만 하므로 표는 한 번에 다 한
    것과 같다. 한 점이 실패해도 나머지는 계속한다.
[디버깅] 비교는 언제든 다시 한다: python -m wmtp.compare에 점들의 실행 폴더를 준다.
"""

import hashlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from wmtp.errors import WmtpError
from wmtp.run.sweep import FOLDER, points_in

# What may differ between two commands of one sweep: how its points are launched, and what is shown.
_SAME_SWEEP = ("ckpt", "lang", "hydra", "logger", "storage")


class SweepAnswer(Callback):
    """Compare the runs of a sweep at its end, and list the points that failed."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Name the sweep's folder by what it sweeps over."""
        asked = [*config.hydra.overrides.task, *(f"{k}={v}" for k, v in (config.hydra.sweeper.params or {}).items())]
        kept = sorted(word for word in asked if word.lstrip("+~").partition("=")[0].split(".")[0] not in _SAME_SWEEP)
        digest = hashlib.sha256("\n".join(kept).encode()).hexdigest()[:8]
        name = config.get("name") or "all"
        os.environ[FOLDER] = str(Path(config.runs).expanduser().resolve() / f"{name}-sweep-{digest}")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Say what came of the points, and compare those that are done."""
        folder = Path(os.environ.pop(FOLDER))
        points = points_in(folder)
        if config.get("dry_run") or config.get("profile_memory") or not points:
            return
        done = [Path(point.run) for point in points if point.state == "done" and point.run]
        try:
            if len(done) > 1:
                self._answer(folder, done, config.lang)
        except WmtpError as error:  # one point alone, or nothing that differs but the seed
            print(f"sweep: nothing to compare ({error})")
        except Exception:  # a bug of ours; Hydra would make a warning of it, and say nothing of the points
            sys.excepthook(*sys.exc_info())  # the front door's, which masks secrets
            again = shlex.join(["python", "-m", "wmtp.compare", *map(str, done)])
            print(f"sweep: the comparison failed, the runs are whole; compare them again with {again}", file=sys.stderr)
        for point in points:
            if point.state != "done":
                why = point.why or "it was stopped; give the command again to go on with it"
                print(f"sweep: {point.name.lstrip('-')} has not come to its end: {why}", file=sys.stderr)
        print(f"sweep: {len(done)} of {len(points)} points are done, in {folder}")
        if len(done) < len(points):
            sys.exit(2)

    def _answer(self, folder: Path, done: list[Path], lang: str) -> None:
        from wmtp.comparison.arms import find_runs
        from wmtp.comparison.findings import study
        from wmtp.comparison.pages import summary, write_comparison
        from wmtp.reporting.texts import Texts
        from wmtp.run.mlflow_store import log_sweep

        texts = Texts(lang)
        found = study(find_runs(map(str, done)))
        page = write_comparison(found, folder, texts)
        print(summary(found, page, texts))
        log_sweep(folder, done)
