"""Put runs side by side and say what follows: differences with intervals, the goals, and what was not equal.

    python -m wmtp.compare runs/baseline-42 runs/baseline-43 runs/rho1-42 runs/rho1-43
    python -m wmtp.compare 'runs/*' lang=ko out=DIR
    python -m wmtp.compare runs against='rho1 lam=0.3'
    python -m wmtp.compare mlflow:mtp/baseline/synthetic mlflow:mtp/rho1/synthetic

[동작] 실행 폴더, 그것이 든 폴더, 별표가 든 이름, MLflow 실험을 섞어 준다. 나머지 인자는 conf/compare.yaml의 키다.
    무엇이 다른지는 설정에서 스스로 찾는다. 통계의 까닭은 `wmtp/comparison/statistics.py`와 docs/compare.md에 있다.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from wmtp.cli import front_door
from wmtp.errors import ConfigError
from wmtp.overrides import is_override

EXPERIMENT = "mlflow:"  # then the name of an experiment, as conf/train.yaml gives it


def compare(cfg: DictConfig, runs: list[str]) -> Any:
    """Compare runs as the config says, write the pages and print the table.

    Args:
        runs: 실행 폴더, 실행이 든 폴더, 별표가 든 이름, mlflow:<실험>.

    Returns:
        `wmtp.comparison.findings.Study`.

    Raises:
        ConfigError: 실행이 없거나, 조건이 하나뿐이거나, against가 모르는 이름일 때.
    """
    if not runs:
        raise ConfigError("RUN has no value; name what to compare: python -m wmtp.compare runs/baseline-* runs/rho1-*")
    from wmtp.comparison.arms import find_runs
    from wmtp.comparison.findings import study
    from wmtp.comparison.pages import summary, write_comparison
    from wmtp.reporting.texts import Texts

    texts = Texts(cfg.lang)
    found = study(find_runs([place for run in runs for place in _places(run, cfg)]), cfg.against)
    beside = Path(os.path.commonpath([run.folder.parent for run in found.runs]))
    out = Path(cfg.out).expanduser() if cfg.out else beside / "compare"
    page = write_comparison(found, out, texts)
    print(summary(found, page, texts))
    return found


def _places(run: str, cfg: DictConfig) -> list[str]:
    """Turn an experiment of MLflow into its run directories; what else a user names is a place already."""
    if not run.startswith(EXPERIMENT):
        return [run]
    from wmtp.run.mlflow_store import default_uri, run_directories_in

    here, every = run_directories_in(run.removeprefix(EXPERIMENT), default_uri(Path(cfg.runs)))
    if away := every - len(here):
        print(f"{run}: {away} of {every} run directories {'is' if away == 1 else 'are'} not on this machine")
    return list(map(str, here))


def main() -> None:
    """Run from the command line."""
    # A run's folder may have = in its name: what is there is a run.
    runs = [
        word for word in sys.argv[1:] if not word.startswith("-") and (Path(word).exists() or not is_override(word))
    ]
    sys.argv = [sys.argv[0], *(word for word in sys.argv[1:] if word not in runs)]
    front_door(partial(compare, runs=runs), "compare")


if __name__ == "__main__":
    main()
