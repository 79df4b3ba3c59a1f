"""Record a run: metrics.csv in its directory, and MLflow. The only file that talks to MLflow.

[연구 맥락] 실험은 남아야 비교할 수 있다. 실행 디렉터리(`runs/<name>/`)가 원본이고, MLflow는 찾아보기 쉬운 색인이다.
그래서 MLflow가 잠기거나 끊겨도 학습은 멈추지 않는다: 경고 한 문장, 그리고 계속.
[동작] MLflow에 쓰는 일은 모두 뒤쪽 스레드 하나가 순서대로 한다 (새 SQLite 저장소는 만드는 데만 2~8초가 걸린다).
실행 번호는 `mlflow.json`에 적어 두어 `ckpt=last`로 이어서 학습하면 같은 MLflow 실행에 이어진다.
실험은 `mtp/<알고리즘>/<데이터>`로 나뉘고, 알고리즘끼리는 꼬리표 `data`로 찾아 견준다 (`comparison`).
[디버깅] MLflow에 값이 없다면 경고 문장을 찾아보고, `metrics.csv`와 비교한다. `flush()`는 다 쓸 때까지 기다린다.
    mlflow는 뒤쪽 스레드에서만 import한다. 두 스레드가 함께 처음 import하면 반쯤 읽힌 모듈에서 ImportError가 난다.
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
from urllib.parse import quote

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from wmtp.errors import CheckpointError, DataFormatError
from wmtp.evaluation.harness import SETTINGS
from wmtp.secrets import mask_secrets
from wmtp.storage.files import write_atomically
from wmtp.storage.lock import alone

# What MLflow accepts in one log_batch call.
_METRICS_A_BATCH, _PARAMS_A_BATCH, _TAG_CHARACTERS = 1000, 100, 5000
# A new SQLite store takes seconds, on a busy machine minutes, and a second run waits for it: no reason to give up.
_NEW_STORE_SECONDS = 300.0
_SERVER = "http://127.0.0.1:5000"  # where `mlflow server` listens unless told otherwise


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
                rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
            except (UnicodeDecodeError, csv.Error):
                rows = [["no table"]]
            self.metrics_keys = rows[0] if rows else []
            if rows and "step" not in rows[0]:
                raise DataFormatError(
                    f"{path} is no table of metrics; move it away, and the run goes on with a new one."
                )


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


def short_name(run_dir_name: str, experiment: str, point: str = "") -> str:
    """Name a run in MLflow by what sets it apart, in as few letters as its column shows.

    [동작] 알고리즘, 스윕의 지점이면 그 값, 그다음에 나머지. 데이터는 실험의 이름과 꼬리표에 있으므로 뺀다.

    Args:
        run_dir_name: 실행 디렉터리의 이름.
        experiment: MLflow 실험의 이름.
        point: 스윕에서 이 지점의 이름 (`wmtp.cli.sweep_point`).

    Example:
        >>> short_name("rho1-synthetic-tiny-base-2", "mtp/rho1/synthetic")
        'rho1 tiny-base-2'
        >>> short_name("rho1-synthetic-tiny-base-lam_0.1", "mtp/rho1/synthetic", "-lam_0.1")
        'rho1 lam_0.1 tiny-base'
        >>> short_name("mine-lam_0.1", "mtp/rho1/synthetic", "-lam_0.1")
        'lam_0.1 mine'
    """
    algo_and_data = experiment.split("/")[1:]
    rest = run_dir_name.removeprefix("-".join(algo_and_data) + "-")
    algo = [algo_and_data[0]] if rest != run_dir_name else []
    base, found, number = rest.rpartition(point) if point else (rest, "", "")
    return " ".join([*algo, *([point.strip("-") + number, base] if found else [rest])])


def log_evaluation(run_dir: Path, name: str, metrics: Mapping[str, Any], folder: Path) -> bool:
    """Add an evaluation to the MLflow run that a run directory belongs to, if there is one.

    [동작] 지표는 `eval/<name>/…`, 파일은 artifact `eval/<name>/`. MLflow가 답하지 않으면 경고 한 문장으로 끝난다:
    결과는 모두 `folder`에 있다.

    Returns:
        MLflow에 남겼으면 True.
    """
    state = _kept_run(run_dir)
    if state is None:
        return False
    # The address in the file has no password; the environment may have it.
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = uri if mask_secrets(uri) == state["tracking_uri"] else state["tracking_uri"]
    numbers = {f"eval/{name}/{key}": v for key, v in metrics.items() if isinstance(v, int | float)}
    said = {f"eval/{name}/{key}": v for key, v in metrics.items() if _is_setting(key) and v is not None}
    try:
        client = _client(uri)
        client.log_batch(state["run_id"], metrics=_entities(numbers, step=0), tags=_tags(said))
        client.log_artifacts(state["run_id"], str(folder), f"eval/{name}")
    except Exception as error:  # whatever a store, a driver or a network throws: the evaluation is done
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        sentence = f"warning: MLflow at {uri} does not take it ({reason}); the evaluation is in {folder}."
        print(mask_secrets(sentence), file=sys.stderr)
        return False
    return True


def _entities(metrics: Mapping[str, Any], step: int, now: int | None = None) -> list[Any]:
    """Make MLflow metrics of measured numbers, under names that MLflow accepts; a constant is no curve."""
    from mlflow.entities import Metric

    now = now or _now()
    return [
        Metric(re.sub(r"[^\w/. @-]", "_", key).replace("@", "_at_"), float(value), now, step)
        for key, value in metrics.items()
        if not isinstance(value, str) and not _is_setting(key)
    ]


def _tags(values: Mapping[str, Any]) -> list[Any]:
    """Make MLflow tags, secrets masked, no longer than MLflow accepts."""
    from mlflow.entities import RunTag

    return [RunTag(key, str(value)[:_TAG_CHARACTERS]) for key, value in flatten(mask_secrets(values)).items()]


def _is_setting(key: str) -> bool:
    return key.rpartition("/")[2] in SETTINGS


def _now() -> int:
    return int(time.time() * 1000)


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
        self._refused = False  # nothing that is asked of this store will ever be done
        self._creating = False
        self._progress = time.monotonic()
        self._peers: list[str] = []
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._worker: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self._experiment_name

    @property
    def version(self) -> str:
        return self._run_name

    def where(self) -> list[str]:
        """Say how to open this store and to compare what is in it; or that the run is not there."""
        if self._refused or self._run_id is None or self._jobs.unfinished_tasks:
            return ["(this run is not in MLflow, or not all of it: see the warning above)"]
        return [mlflow_ui_command(self.tracking_uri), *([self.comparison] if self.comparison else [])]

    @property
    def comparison(self) -> str:
        """Give the address that shows this run beside those of other algorithms on the same data."""
        if len(self._peers) < 2:
            return ""
        server = self.tracking_uri if self.tracking_uri.startswith(("http://", "https://")) else _SERVER
        wanted = quote(json.dumps(self._peers, separators=(",", ":")))
        return f"{mask_secrets(server).rstrip('/')}/#/compare-experiments/s?experiments={wanted}"

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
        now, numbers = _now(), dict(metrics)
        self._submit(lambda: self._write_metrics(numbers, step or 0, now))

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
        said = dict(tags)
        self._submit(lambda: self._client.log_batch(self._run_id, tags=_tags(said)))

    @rank_zero_only
    def describe(self, algo: str, data: str, config: Mapping[str, Any], differs: Iterable[str], point: str) -> None:
        """Say by tags what one searches runs by, and name the data set and the code as MLflow shows them.

        [동작] 알고리즘마다 실험이 다르므로, `tags.data = 'mbpp'`처럼 꼬리표로 실험을 가로질러 찾는다.

        Args:
            algo, data: 알고리즘과 데이터의 이름.
            config: 정리된 설정. `made_of`가 들어 있다.
            differs: 명령줄에서 바꾼 것들.
            point: 스윕의 지점 (`wmtp.cli.sweep_point`).
        """
        found = config["made_of"]
        tags = {"algo": algo, "data": data, "differs": " ".join(differs), "sweep": point.strip("-")}
        tags |= {"data_hash": found["data"], "model_hash": found["model"], "code": found["code"]}
        if commit := found["code"].get("commit"):
            tags["mlflow.source.git.commit"] = commit
        self.log_tags({key: value for key, value in tags.items() if value not in ("", None)})
        facts = json.dumps(mask_secrets(config.get("used") or {}), default=str)
        self._submit(lambda: self._write_data(data, found["data"], facts))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._worker is None:
            return
        status = {"success": "FINISHED", "finished": "FINISHED"}.get(status, "FAILED")
        self._terminated = True
        self._submit(lambda: self._client.set_terminated(self._run_id, status))
        self._submit(self._find_peers)

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until MLflow has everything, or until patience with a store that does nothing ends.

        Returns:
            모두 썼으면 True.
        """
        patience = self.patience_seconds if timeout_seconds is None else timeout_seconds
        start = time.monotonic()
        while self._jobs.unfinished_tasks:
            waited = time.monotonic() - max(start, self._progress)
            if waited > (max(patience, _NEW_STORE_SECONDS) if self._creating else patience):
                break
            time.sleep(0.01)
        if self._jobs.unfinished_tasks:
            self._warn("it is still busy")
            self.patience_seconds = 1.0  # waited in full once; not again at every later call
            return False
        return not self._refused

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
            while not self._refused:
                try:
                    if self._run_id is None:
                        self._open_run()
                    job()
                    break
                except Exception as error:  # whatever a store, a driver or a network throws: training must go on
                    reason = (str(error).strip() or repr(error)).splitlines()[0]
                    if not _is_permanent(error):
                        self._warn(f"does not answer ({reason})")
                        time.sleep(self.retry_seconds)
                        continue
                    self._warn(f"takes not all of this run ({reason})" if self._run_id else f"refuses it ({reason})")
                    self._refused = self._run_id is None
                    break
            self._progress = time.monotonic()
            self._jobs.task_done()

    def _warn(self, what: str) -> None:
        with self._warning:
            if not self._warned:
                self._warned = True
                sentence = f"MLflow at {self.tracking_uri} {what}; training goes on without it, "
                sentence += f"every metric is in {self.run_dir / 'metrics.csv'}."
                print(f"warning: {mask_secrets(sentence)}", file=sys.stderr)

    def _open_run(self) -> None:
        self._creating = self.tracking_uri.startswith("sqlite:///")
        try:
            self._client = self._client or _client(self.tracking_uri)
        finally:
            self._creating = False
            self._progress = time.monotonic()
        state = _kept_run(self.run_dir) or {}
        if state.get("tracking_uri") == mask_secrets(self.tracking_uri) and self._continue_run(state["run_id"]):
            return
        experiment_id = self._experiment()
        run = self._client.create_run(experiment_id, run_name=self._run_name, tags={"run_dir": str(self.run_dir)})
        self.run_dir.mkdir(parents=True, exist_ok=True)
        found = {"tracking_uri": mask_secrets(self.tracking_uri), "run_id": run.info.run_id}
        write_atomically(self.run_dir / "mlflow.json", json.dumps(found).encode())
        self._run_id = run.info.run_id

    def _experiment(self) -> str:
        """Find the experiment or make it, however many runs do so at the same time."""
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(self._experiment_name)
        if experiment is None:
            try:
                return self._client.create_experiment(self._experiment_name, self._artifact_location())
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(self._experiment_name)
        if experiment.lifecycle_stage == "deleted":
            raise _Deleted(
                f"the experiment {self._experiment_name} was deleted: mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}, or set mlflow_experiment=NAME"
            )
        return experiment.experiment_id

    def _find_peers(self) -> None:
        """Find the experiments of other algorithms on the same data."""
        root, _, data = self._experiment_name.split("/", 2) if self._experiment_name.count("/") > 1 else ("", "", "")
        if root:
            found = self._client.search_experiments(filter_string=f"name LIKE '{root}/%/{data}'")
            self._peers = sorted((experiment.experiment_id for experiment in found), key=int)

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

    def _write_metrics(self, metrics: Mapping[str, float], step: int, now: int) -> None:
        batch = _entities(metrics, step, now)
        for start in range(0, len(batch), _METRICS_A_BATCH):
            self._client.log_batch(self._run_id, metrics=batch[start : start + _METRICS_A_BATCH])

    def _write_data(self, name: str, digest: str, source: str) -> None:
        from mlflow.entities import Dataset, DatasetInput

        self._client.log_inputs(self._run_id, datasets=[DatasetInput(Dataset(name, digest, "wmtp", source), [])])

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


class _Deleted(Exception):
    """Say that the experiment was deleted: no later try will find it."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


def _kept_run(run_dir: Path) -> dict[str, Any] | None:
    """Read which MLflow run a run directory belongs to; a torn file says nothing."""
    try:
        state = json.loads((run_dir / "mlflow.json").read_bytes())
        return {"tracking_uri": str(state["tracking_uri"]), "run_id": str(state["run_id"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
