"""Record a run in Weights & Biases.

[동작] Lightning의 WandbLogger에 세 가지를 더한다. 이어서 학습하면 같은 W&B 실행에 이어진다 (번호는 실행 폴더의
    wandb.json). 탐색의 점들은 탐색의 이름으로 묶인다 (group). 한 프로세스가 점을 여럿 돌면 점마다 실행이 따로다.
    API 키는 환경 변수 WANDB_API_KEY에서만 온다. 화면에 나온 글과 git의 주소는 보내지 않는다: 가릴 수 없는 것이 섞일 수
    있다.
[디버깅] WANDB_MODE=offline이면 `runs/<이름>/wandb/`에만 쓴다. 나중에 `wandb sync`로 올린다.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from wmtp import ranges
from wmtp.errors import ConfigError, first_line
from wmtp.run.sweep import FOLDER
from wmtp.secrets import mask_secrets
from wmtp.storage.files import write_atomically


class WeightsAndBiases(WandbLogger):
    """Keep a run in Weights & Biases under the names of metrics.csv.

    Args:
        run_dir: 실행 폴더. 여기 `wandb.json`이 있으면 그 W&B 실행을 이어서 쓴다.
        project: W&B의 프로젝트.
        entity: W&B의 팀이나 사용자. None이면 API 키의 주인.
        group: 함께 묶을 이름. None이면 탐색의 이름, 탐색이 아니면 없다.

    Raises:
        ConfigError: wandb가 없거나, API 키도 없이 온라인일 때.
    """

    def __init__(
        self, run_dir: str | Path, project: str = "wmtp", entity: str | None = None, group: str | None = None
    ) -> None:
        ranges.check(ranges.PROGRAM, logger=["wandb"])
        import wandb

        run_dir = Path(run_dir)
        sweep = os.environ.get(FOLDER)
        super().__init__(
            name=run_dir.name,
            save_dir=str(run_dir),
            id=_id_of(run_dir),
            project=project,
            entity=entity,
            group=group or (Path(sweep).name if sweep else None),
            settings=wandb.Settings(console="off", disable_git=True, save_code=False, quiet=True),
        )
        self._wandb_init.pop("anonymous", None)  # given by Lightning; W&B warns of it

    @property
    def experiment(self) -> Any:
        """Return the W&B run, begun when it is first asked for; an earlier one of this process has ended then."""
        import wandb

        if rank_zero_only.rank == 0 and self._experiment is None and wandb.run is not None:
            wandb.finish()
        try:
            return super().experiment
        except wandb.errors.Error as error:
            reason = mask_secrets(first_line(error).rstrip("."))
            raise ConfigError(
                f"logger = wandb cannot begin ({reason}); check WANDB_API_KEY, or set WANDB_MODE=offline."
            ) from error

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Keep the settings, secrets masked."""
        super().log_hyperparams(mask_secrets(dict(params or {})))

    @rank_zero_only
    def describe(self, algo: str, data: str, config: Mapping[str, Any], differs: Iterable[str], point: str) -> None:
        """Say by tags what one searches runs by."""
        self.experiment.tags = tuple(dict.fromkeys([*(self.experiment.tags or ()), algo, data]))


def _id_of(run_dir: Path) -> str:
    """Return the name that W&B knows this run directory by, a new one the first time."""
    file = run_dir / "wandb.json"
    try:
        return str(json.loads(file.read_bytes())["id"])
    except (OSError, ValueError, KeyError, TypeError):
        found = secrets.token_hex(4)
        if rank_zero_only.rank == 0:
            write_atomically(file, json.dumps({"id": found}).encode())
        return found
