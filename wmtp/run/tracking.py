"""Record a run: metrics.csv in its directory, and MLflow. The only file that talks to MLflow.

[연구 맥락] 실험은 남아야 비교할 수 있다. 실행 디렉터리(`runs/<name>/`)가 원본이고, MLflow는 찾아보기 쉬운 색인이다.
그래서 MLflow가 잠기거나 끊겨도 학습은 멈추지 않는다: 경고 한 문장, 그리고 계속.
[동작] MLflow에 쓰는 일은 모두 뒤쪽 스레드 하나가 순서대로 한다 (새 SQLite 저장소는 만드는 데만 2~8초가 걸린다).
실행 번호는 `mlflow.json`에 적어 두어 `ckpt=last`로 이어서 학습하면 같은 MLflow 실행에 이어진다.
[디버깅] MLflow에 값이 없다면 경고 문장을 찾아보고, `metrics.csv`와 비교한다. `flush()`는 다 쓸 때까지 기다린다.
"""

import atexit
import csv
import json
import logging
import os
import queue
import re
import shlex
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from wmtp.errors import CheckpointError
from wmtp.secrets import mask_secrets
from wmtp.storage.files import write_atomically
from wmtp.storage.lock import alone

# What MLflow accepts in one log_batch call.
_METRICS_A_BATCH, _PARAMS_A_BATCH, _TAG_CHARACTERS = 1000, 100, 5000


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested config into dotted keys.

    Example:
        >>> flatten({"algo": {"weighting": {"lam": 0.3}, "heads": [1, 2]}})
        {'algo.weighting.lam': 0.3, 'algo.heads': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class MetricsCSV(CSVLogger):
    """Write `metrics.csv` straight into the run directory, and append to it on resume.

    [동작] Lightning의 CSVLogger는 다시 시작할 때 앞선 파일을 지운다. 이어서 학습할 때는 앞의 곡선이 남아 있어야 한다.
    한 단계가 두 번 적혀 있으면 (체크포인트 뒤에서 끊긴 경우) 나중 것이 옳다: reporting이 그렇게 읽는다.

    Args:
        run_dir: 실행 디렉터리.
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(save_dir=str(run_dir), name="", version="")

    @property
    def log_dir(self) -> str:
        return self._save_dir

    @property
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
                with path.open(newline="", encoding="utf-8") as file:
                    self.metrics_keys = next(csv.reader(file), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise CheckpointError(
                    f"{path} is damaged ({error}); remove it to go on without the curves so far."
                ) from error


def mlflow_logger(
    run_dir: str | Path,
    experiment: str,
    run_name: str | None = None,
    tracking_uri: str | None = None,
) -> "MLflowLogger":
    """Make the logger that keeps this run in MLflow.

    Args:
        run_dir: 실행 디렉터리. 여기 `mlflow.json`이 있으면 그 MLflow 실행을 이어서 쓴다.
        experiment: 실험 이름. 예: "mtp/rho1/synthetic".
        run_name: MLflow에 보일 이름. 기본은 실행 디렉터리의 이름.
        tracking_uri: 저장소. 기본은 환경 변수 MLFLOW_TRACKING_URI, 그것도 없으면 실행 디렉터리 옆의 mlflow.db (SQLite).

    Returns:
        Lightning 로거. Trainer(logger=[…])에 넣는다.
    """
    run_dir = Path(run_dir).expanduser().resolve()
    uri = tracking_uri or default_uri(run_dir.parent)
    return MLflowLogger(run_dir, experiment, run_name or run_dir.name, uri)


def default_uri(runs: Path) -> str:
    """Say where runs are kept unless told otherwise: in $MLFLOW_TRACKING_URI, else beside the run directories."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.expanduser().resolve() / 'mlflow.db'}"


def run_directory_of(run_id: str, tracking_uri: str) -> Path:
    """Look up where the run directory of an MLflow run is.

    Raises:
        CheckpointError: 저장소가 없거나, 그런 실행이 없거나, 폴더가 이 컴퓨터에 없을 때.
    """
    from mlflow.exceptions import MlflowException

    uri = mask_secrets(tracking_uri)
    if tracking_uri.startswith("sqlite:///") and not Path(tracking_uri.removeprefix("sqlite:///")).is_file():
        raise CheckpointError(f"ckpt = {run_id}: no MLflow store at {uri}; set MLFLOW_TRACKING_URI, or runs=DIR.")
    try:
        data = _client(tracking_uri).get_run(run_id).data
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"ckpt = {run_id} cannot be looked up in MLflow at {uri} ({reason}).") from error
    run_dir = Path(data.tags.get("run_dir") or data.params.get("run_dir") or "")
    if not run_dir.is_absolute() or not run_dir.is_dir():
        raise CheckpointError(
            f"ckpt = {run_id}: its run directory {run_dir} is not on this machine; copy it here and give ckpt=DIR."
        )
    return run_dir


def log_evaluation(run_dir: Path, name: str, metrics: Mapping[str, Any], folder: Path) -> bool:
    """Add an evaluation to the MLflow run that a run directory belongs to, if there is one.

    [동작] 지표는 `eval/<name>/…`, 파일은 artifact `eval/<name>/`. MLflow가 답하지 않으면 경고 한 문장으로 끝난다:
    결과는 모두 `folder`에 있다.

    Returns:
        MLflow에 남겼으면 True.
    """
    kept = run_dir / "mlflow.json"
    if not kept.exists():
        return False
    state = json.loads(kept.read_text())
    # The address in the file has no password; the environment may have it.
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = uri if mask_secrets(uri) == state["tracking_uri"] else state["tracking_uri"]
    numbers = {f"eval/{name}/{key}": v for key, v in metrics.items() if isinstance(v, int | float)}
    try:
        client = _client(uri)
        client.log_batch(state["run_id"], metrics=_entities(numbers, step=0))
        client.log_artifacts(state["run_id"], str(folder), f"eval/{name}")
    except Exception as error:  # whatever a store, a driver or a network throws: the evaluation is done
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        sentence = f"warning: MLflow at {uri} does not answer ({reason}); the evaluation is in {folder}."
        print(mask_secrets(sentence), file=sys.stderr)
        return False
    return True


def _entities(metrics: Mapping[str, Any], step: int) -> list[Any]:
    """Make MLflow metrics of numbers, under names that MLflow accepts."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(re.sub(r"[^\w/. @-]", "_", key).replace("@", "_at_"), float(value), now, step)
        for key, value in metrics.items()
        if not isinstance(value, str)
    ]


def mlflow_ui_command(tracking_uri: str) -> str:
    """Say how to open MLflow on this store.

    Example:
        >>> mlflow_ui_command("sqlite:///runs/mlflow.db")
        'mlflow server --backend-store-uri sqlite:///runs/mlflow.db --workers 1'
        >>> mlflow_ui_command("https://mlflow.example.org")
        'open https://mlflow.example.org'
    """
    if tracking_uri.startswith(("http://", "https://")):
        return f"open {shlex.quote(mask_secrets(tracking_uri))}"
    return f"mlflow server --backend-store-uri {shlex.quote(mask_secrets(tracking_uri))} --workers 1"


class MLflowLogger(Logger):
    """Keep a run in MLflow without ever making training wait for it, or fail with it.

    [동작] Lightning의 MLFlowLogger는 학습 스레드에서 쓰고, 저장소가 잠기면 학습을 죽인다. 여기서는 부탁을 줄에 넣고
    뒤쪽 스레드가 순서대로 처리한다. 실패한 부탁은 다시 시도하며, 경고는 한 번만 한다.
    [디버깅] `flush()`가 False면 아직 쓰지 못한 것이 남아 있다는 뜻이다.

    Args:
        run_dir: 실행 디렉터리.
        experiment: 실험 이름.
        run_name: 실행 이름.
        tracking_uri: MLflow 저장소의 주소.
        patience_seconds: 끝날 때 (`log_files`, `flush`, 프로그램 종료) 다 쓰기를 기다리는 최대 시간.
        retry_seconds: 실패한 부탁을 다시 시도하기까지의 시간.
    """

    def __init__(
        self,
        run_dir: Path,
        experiment: str,
        run_name: str,
        tracking_uri: str,
        patience_seconds: float = 20.0,
        retry_seconds: float = 2.0,
    ) -> None:
        super().__init__()
        self.run_dir = Path(run_dir)
        self.tracking_uri = tracking_uri
        self.patience_seconds = patience_seconds
        self.retry_seconds = retry_seconds
        self._experiment_name = experiment
        self._run_name = run_name
        self._client: Any = None
        self._run_id: str | None = None
        self._warned = False
        self._warning = threading.Lock()  # whoever comes second goes on only once the sentence is out
        self._terminated = False
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._worker: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self._experiment_name

    @property
    def version(self) -> str:
        return self._run_name

    @property
    def ui_command(self) -> str:
        """Say how to open this store."""
        return mlflow_ui_command(self.tracking_uri)

    @property
    def run_id(self) -> str | None:
        """Give the MLflow run id, or None as long as the store has not answered."""
        return self._run_id

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, **_: Any) -> None:
        config = vars(params) if isinstance(params, Namespace) else params or {}
        flat = {key: str(value) for key, value in flatten(mask_secrets(config)).items()}
        self._submit(lambda: self._write_params(flat))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._terminated:  # Lightning finalizes after validate() too, and then goes on
            self._terminated = False
            self._submit(lambda: self._client.update_run(self._run_id, status="RUNNING"))
        batch = _entities(metrics, step or 0)
        for start in range(0, len(batch), _METRICS_A_BATCH):
            chunk = batch[start : start + _METRICS_A_BATCH]
            self._submit(lambda chunk=chunk: self._client.log_batch(self._run_id, metrics=chunk))

    @rank_zero_only
    def log_files(self, paths: Iterable[str | Path], under: str | None = None) -> None:
        """Keep these files of the run directory as MLflow artifacts, and wait for it; missing ones are left out."""
        for path in map(Path, paths):
            if path.is_dir():
                self._submit(lambda path=path: self._client.log_artifacts(self._run_id, str(path), path.name))
            elif path.exists():
                self._submit(lambda path=path: self._client.log_artifact(self._run_id, str(path), under))
        self.flush()

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Tag the run, secrets masked; a later value of a tag replaces the one before."""
        from mlflow.entities import RunTag

        batch = [RunTag(key, str(value)[:_TAG_CHARACTERS]) for key, value in flatten(mask_secrets(tags)).items()]
        self._submit(lambda: self._client.log_batch(self._run_id, tags=batch))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._worker is None:
            return
        status = {"success": "FINISHED", "finished": "FINISHED"}.get(status, "FAILED")
        self._terminated = True
        self._submit(lambda: self._client.set_terminated(self._run_id, status))

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until MLflow has everything, or until patience ends.

        Returns:
            남은 부탁이 없으면 True.
        """
        end = time.monotonic() + (self.patience_seconds if timeout_seconds is None else timeout_seconds)
        while self._jobs.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)
        if self._jobs.unfinished_tasks:
            self._warn("it is still busy")
            self.patience_seconds = 1.0  # waited in full once; not again at every later call
            return False
        return True

    def _submit(self, job: Callable[[], None]) -> None:
        if self._worker is None:
            # A daemon: a store that hangs must not keep the program from ending.
            self._worker = threading.Thread(target=self._work, name="mlflow", daemon=True)
            self._worker.start()
            atexit.register(self.flush)
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            while True:
                try:
                    if self._run_id is None:
                        self._open_run()
                    job()
                    break
                except Exception as error:  # whatever a store, a driver or a network throws: training must go on
                    self._warn((str(error).strip() or repr(error)).splitlines()[0])
                    if _is_permanent(error):
                        break
                    time.sleep(self.retry_seconds)
            self._jobs.task_done()

    def _warn(self, reason: str) -> None:
        with self._warning:
            if not self._warned:
                self._warned = True
                sentence = f"MLflow at {self.tracking_uri} does not answer ({reason}); training goes on without it, "
                sentence += f"every metric is in {self.run_dir / 'metrics.csv'}."
                print(f"warning: {mask_secrets(sentence)}", file=sys.stderr)

    def _open_run(self) -> None:
        self._client = self._client or _client(self.tracking_uri)
        kept = self.run_dir / "mlflow.json"
        if kept.exists():
            state = json.loads(kept.read_text())
            if state.get("tracking_uri") == mask_secrets(self.tracking_uri) and self._continue_run(state["run_id"]):
                return
        experiment = self._client.get_experiment_by_name(self._experiment_name)
        if experiment is None:
            experiment_id = self._client.create_experiment(self._experiment_name, self._artifact_location())
        else:
            experiment_id = experiment.experiment_id
        run = self._client.create_run(experiment_id, run_name=self._run_name, tags={"run_dir": str(self.run_dir)})
        self.run_dir.mkdir(parents=True, exist_ok=True)
        found = {"tracking_uri": mask_secrets(self.tracking_uri), "run_id": run.info.run_id}
        write_atomically(kept, json.dumps(found).encode())
        self._run_id = run.info.run_id

    def _continue_run(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if run.info.lifecycle_stage == "deleted":
            return False
        self._client.update_run(run_id, status="RUNNING")
        self._run_id = run_id
        return True

    def _write_params(self, flat: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        # A parameter is written once and for all in MLflow; what a resumed run changes becomes a tag.
        known = self._client.get_run(self._run_id).data.params
        new = [Param(key, value) for key, value in flat.items() if key not in known]
        changed = [RunTag(f"resumed.{key}", value) for key, value in flat.items() if known.get(key, value) != value]
        for start in range(0, len(new), _PARAMS_A_BATCH):
            self._client.log_batch(self._run_id, params=new[start : start + _PARAMS_A_BATCH])
        if changed:
            self._client.log_batch(self._run_id, tags=changed[:_PARAMS_A_BATCH])

    def _artifact_location(self) -> str | None:
        # A local store would otherwise put artifacts into ./mlruns of whatever directory we happen to be in.
        if not self.tracking_uri.startswith("sqlite:///"):
            return None
        store = Path(self.tracking_uri.removeprefix("sqlite:///"))
        return str(store.parent / "mlflow-artifacts" / self._experiment_name)


def _client(tracking_uri: str) -> Any:
    """Open the store, telemetry off, without MLflow's own chatter."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # The worker retries by itself; MLflow's default would hang for minutes on a dead server.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not tracking_uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri)
    store = Path(tracking_uri.removeprefix("sqlite:///"))
    store.parent.mkdir(parents=True, exist_ok=True)
    # Two runs of a sweep that create the store's tables at the same time get in each other's way.
    with alone(store.with_name(store.name + ".lock")):
        return MlflowClient(tracking_uri)


def _is_permanent(error: Exception) -> bool:
    """Tell a request that MLflow refuses (never retry it) from a store that does not answer."""
    return getattr(error, "error_code", None) in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}
