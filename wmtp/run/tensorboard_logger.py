"""Write the curves of a run for TensorBoard, into its directory."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from wmtp import ranges
from wmtp.reporting.reading import flatten
from wmtp.secrets import mask_secrets

MEASURE = "val/ce_head0"  # what TensorBoard's table of hyperparameters sets beside them


class TensorBoard(TensorBoardLogger):
    """Write `runs/<name>/tensorboard/`; `tensorboard --logdir runs` shows all runs, those of a sweep by their points.

    [동작] 지표의 이름은 metrics.csv의 것과 같다. 이어서 학습하면 같은 폴더에 파일이 하나 더 생기고, TensorBoard는
    겹치는 스텝에서 나중 것을 보인다. 설정은 HPARAMS 표에 나온다: 값을 지어내지 않고 어느 지표를 볼지만 알려 준다.
    """

    def __init__(self, run_dir: str | Path) -> None:
        ranges.check(ranges.PROGRAM, logger=["tensorboard"])
        super().__init__(save_dir=str(run_dir), name="", version="tensorboard", default_hp_metric=False)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, **_: Any) -> None:
        """Keep the settings, secrets masked."""
        from torch.utils.tensorboard.summary import hparams

        config = mask_secrets(vars(params) if isinstance(params, Namespace) else params or {})
        super().log_hyperparams(config)  # hparams.yaml
        flat = {key: value if isinstance(value, int | float) else str(value) for key, value in flatten(config).items()}
        for summary in hparams(flat, {MEASURE: 0.0}):
            self.experiment.file_writer.add_summary(summary)
