"""Write metrics.csv, the curves of a run, into its directory."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from typing_extensions import override

from wmtp.errors import DataFormatError


class MetricsCSV(CSVLogger):
    """Write `metrics.csv` straight into the run directory, and append to it on resume.

    [동작] Lightning의 CSVLogger는 다시 시작할 때 앞선 파일을 지운다. 이어서 학습할 때는 앞의 곡선이 남아 있어야 한다.
    한 단계가 두 번 적혀 있으면 (체크포인트 뒤에서 끊긴 경우) 나중 것이 옳다: reporting이 그렇게 읽는다.
    """

    _experiment: "_AppendingWriter | None"

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(save_dir=str(run_dir), name="", version="")

    @property
    @override
    def log_dir(self) -> str:
        return self._save_dir

    @property
    @override
    def experiment(self) -> "_AppendingWriter":
        if self._experiment is None:
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Do nothing: the run directory has the resolved config.yaml."""


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.exists():
            try:
                rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
            except (UnicodeDecodeError, csv.Error):
                rows = [["no table"]]
            self.metrics_keys = rows[0] if rows else []
            if rows and "step" not in rows[0]:
                raise DataFormatError(
                    f"{path} is no table of metrics; move it away, and the run goes on with a new one."
                )
