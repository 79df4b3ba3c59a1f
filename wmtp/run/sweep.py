"""Remember what became of every point of a sweep, and hold that a run is a point of this one.

[동작] 탐색마다 폴더가 하나 있고 (`wmtp.sweep`이 정한다), 점마다 points/<점>.json이 그 실행의 폴더와 된 일을 말한다.
    점은 다른 프로세스(hydra/launcher=joblib)나 다른 컴퓨터(submitit_slurm)에서 돌아도 된다: 폴더의 이름을 환경 변수로
    물려받는다.
[디버깅] 어떤 점이 왜 빠졌는지는 points/를 본다.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wmtp.errors import ConfigError
from wmtp.storage.files import write_atomically

FOLDER = "WMTP_SWEEP"  # set by the process that sweeps, inherited by those that train its points
# What makes a point another experiment under the same name. What recovery changes by itself is not among these.
_SETTINGS = ("seed.", "algo.", "model.", "optimizer.", "data.module.source.", "data.module.prompt.", "data.max_length.",
             "prompt.", "trainer.max_steps.", "benchmark.", "sampling.", "eval.")  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Hold what became of one point.

    Attributes:
        name: `wmtp.cli.sweep_point`.
        state: "begun", "done" 또는 "failed".
        run: 실행 폴더, 만들었으면.
        why: 실패했으면 그 까닭 한 문장.
    """

    name: str
    state: str
    run: str | None = None
    why: str = ""


def remember(point: Point) -> None:
    """Write down what became of a point, in the sweep's folder; outside a sweep do nothing."""
    if point.name and (folder := os.environ.get(FOLDER)):
        file = Path(folder) / "points" / f"{point.name.lstrip('-')}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(asdict(point), ensure_ascii=False) + "\n").encode())


def points_in(folder: Path) -> list[Point]:
    """Read what became of the points, by name; a damaged file is no point."""
    found = []
    for file in sorted((folder / "points").glob("*.json")):
        try:
            found.append(Point(**json.loads(file.read_bytes())))
        except (ValueError, TypeError):
            continue
    return found


def check_same_point(run: Path, cfg: DictConfig) -> None:
    """Refuse to take a run for a point of this sweep that was made with other settings under the same name.

    Raises:
        ConfigError: 결과를 바꾸는 설정이 다를 때.
    """
    from wmtp.reporting.reading import flatten  # with torch, which a mistake does not wait for

    asked: Any = OmegaConf.to_container(cfg, resolve=True)
    recorded: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    here, there = flatten(asked), flatten(recorded)
    for key in (key for key in [*here, *there] if f"{key}.".startswith(_SETTINGS)):
        if here.get(key) != there.get(key):
            raise ConfigError(
                f"{key} = {here.get(key)}, but the point of this sweep in {run} was made with {there.get(key)}; give "
                "name=… to begin a sweep of its own, or move that run away."
            )
