"""Record a run in MLflow while it goes on.

[연구 맥락] 실험은 남아야 비교할 수 있다. 실행 폴더(`runs/<name>/`)가 원본이고, MLflow는 찾아보기 쉬운 색인이다.
그래서 MLflow가 잠기거나 끊겨도 학습은 멈추지 않는다: 경고 한 문장, 그리고 계속.
[동작] MLflow에 쓰는 일은 모두 뒤쪽 스레드 하나가 순서대로 한다 (새 SQLite 저장소는 만드는 데만 2~8초가 걸린다).
실행 번호는 `mlflow.json`에 적어 두어 `ckpt=last`로 이어서 학습하면 같은 MLflow 실행에 이어진다.
실험은 `mtp/<알고리즘>/<데이터>`로 나뉘고, 알고리즘끼리는 꼬리표 `data`로 찾아 견준다 (`comparison`).
[디버깅] MLflow에 값이 없다면 경고 문장을 찾아보고, `metrics.csv`와 비교한다. `flush()`는 다 쓸 때까지 기다린다.
    mlflow는 뒤쪽 스레드에서만 import한다. 두 스레드가 함께 처음 import하면 반쯤 읽힌 모듈에서 ImportError가 난다.
"""

import atexit
import json
import os
import queue
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from typing_extensions import override

from wmtp.errors import first_line
from wmtp.reporting.reading import flatten
from wmtp.run import mlflow_store
from wmtp.run.sweep import FOLDER
from wmtp.secrets import mask_secrets
from wmtp.storage.files import write_atomically

# What MLflow accepts in one log_batch call.
_METRICS_A_BATCH, _PARAMS_A_BATCH = 1000, 100
# A new SQLite store takes seconds, on a busy machine minutes, and a second run waits for it: no reason to give up.
_NEW_STORE_SECONDS = 300.0
_SERVER = "http://127.0.0.1:5000"  # where `mlflow server` listens unless told otherwise


class MLflowLogger(Logger):
    """Keep a run in MLflow without ever making training wait for it, or fail with it.

    [동작] Lightning의 MLFlowLogger는 학습 스레드에서 쓰고, 저장소가 잠기면 학습을 죽인다. 여기서는 부탁을 줄에 넣고
    뒤쪽 스레드가 순서대로 처리한다. 실패한 부탁은 다시 시도하며, 경고는 한 번만 한다.
    [디버깅] `flush()`가 False면 아직 쓰지 못한 것이 남아 있다는 뜻이다.

    Args:
        run_dir: 실행 폴더. 여기 `mlflow.json`이 있으면 그 MLflow 실행을 이어서 쓴다.
        experiment: 실험 이름. 예: "mtp/rho1/synthetic".
        run_name: MLflow에 보일 이름. 기본은 실행 폴더의 이름.
        tracking_uri: 저장소. 기본은 환경 변수 MLFLOW_TRACKING_URI, 그것도 없으면 실행 폴더 옆의 mlflow.db (SQLite).
        patience_seconds: 끝날 때 (`log_files`, `flush`, 프로그램 종료) 다 쓰기를 기다리는 최대 시간.
        retry_seconds: 실패한 부탁을 다시 시도하기까지의 시간.
    """

    def __init__(
        self,
        run_dir: str | Path,
        experiment: str,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        patience_seconds: float = 20.0,
        retry_seconds: float = 2.0,
    ) -> None:
        super().__init__()
        self.run_dir = Path(run_dir).expanduser().resolve()
        self.tracking_uri = tracking_uri or mlflow_store.default_uri(self.run_dir.parent)
        self.patience_seconds = patience_seconds
        self.retry_seconds = retry_seconds
        self._experiment_name = experiment
        self._run_name = run_name or self.run_dir.name
        self._client: Any = None
        self.run_id: str | None = None  # once the store has answered
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
    @override
    def name(self) -> str:
        return self._experiment_name

    @property
    @override
    def version(self) -> str:
        return self._run_name

    def where(self) -> list[str]:
        """Say how to open this store and to compare what is in it; or that the run is not there."""
        if self._refused or self.run_id is None or self._jobs.unfinished_tasks:
            return ["(this run is not in MLflow, or not all of it: see the warning above)"]
        return [mlflow_store.mlflow_ui_command(self.tracking_uri), *([self.comparison] if self.comparison else [])]

    @property
    def comparison(self) -> str:
        """Give the address that shows this run beside those of other algorithms on the same data."""
        if len(self._peers) < 2:
            return ""
        server = self.tracking_uri if self.tracking_uri.startswith(("http://", "https://")) else _SERVER
        wanted = quote(json.dumps(self._peers, separators=(",", ":")))
        return f"{mask_secrets(server).rstrip('/')}/#/compare-experiments/s?experiments={wanted}"

    @rank_zero_only
    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, **_: Any) -> None:
        config = vars(params) if isinstance(params, Namespace) else params or {}
        flat = {key: str(value) for key, value in flatten(mask_secrets(config)).items()}
        self._submit(lambda: self._write_params(flat))

    @rank_zero_only
    @override
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._terminated:  # Lightning finalizes after validate() too, and then goes on
            self._terminated = False
            self._submit(lambda: self._client.update_run(self.run_id, status="RUNNING"))
        now, numbers = mlflow_store.now_in_milliseconds(), dict(metrics)
        self._submit(lambda: self._write_metrics(numbers, step or 0, now))

    @rank_zero_only
    def log_files(self, paths: Iterable[str | Path], under: str | None = None) -> None:
        """Keep these files of the run directory as MLflow artifacts, and wait for it; missing ones are left out."""
        for path in map(Path, paths):
            if path.exists():
                self._submit(partial(self._write_files, path, under))
        self.flush()

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Tag the run, secrets masked; a later value of a tag replaces the one before."""
        said = dict(tags)
        self._submit(lambda: self._client.log_batch(self.run_id, tags=mlflow_store.tag_entities(said)))

    @rank_zero_only
    def describe(self, algo: str, data: str, config: Mapping[str, Any], differs: Iterable[str], point: str) -> None:
        """Say by tags what one searches runs by, and name the data set and the code as MLflow shows them.

        [동작] 알고리즘마다 실험이 다르므로, `tags.data = 'mbpp'`처럼 꼬리표로 실험을 가로질러 찾는다.
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
    @override
    def finalize(self, status: str) -> None:
        if self._worker is None:
            return
        status = {"success": "FINISHED", "finished": "FINISHED"}.get(status, "FAILED")
        self._terminated = True
        self._submit(lambda: self._client.set_terminated(self.run_id, status))
        self._submit(self._find_peers)

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until MLflow has everything, or until patience with a store that does nothing ends; say which."""
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
                    if self.run_id is None:
                        self._open_run()
                    job()
                    break
                except Exception as error:  # whatever a store, a driver or a network throws: training must go on
                    reason = first_line(error)
                    if not mlflow_store.is_permanent(error):
                        self._warn(f"does not answer ({reason})")
                        time.sleep(self.retry_seconds)
                        continue
                    self._warn(f"takes not all of this run ({reason})" if self.run_id else f"refuses it ({reason})")
                    self._refused = self.run_id is None
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
            self._client = self._client or mlflow_store.open_store(self.tracking_uri)
        finally:
            self._creating = False
            self._progress = time.monotonic()
        state = mlflow_store.kept_run(self.run_dir) or {}
        if state.get("tracking_uri") == mask_secrets(self.tracking_uri) and self._continue_run(state["run_id"]):
            return
        experiment_id, tags = self._experiment(), {"run_dir": str(self.run_dir)}
        if sweep := os.environ.get(FOLDER):
            tags |= {"mlflow.parentRunId": mlflow_store.run_of_sweep(self._client, experiment_id, Path(sweep))}
        run = self._client.create_run(experiment_id, run_name=self._run_name, tags=tags)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        found = {"tracking_uri": mask_secrets(self.tracking_uri), "run_id": run.info.run_id}
        write_atomically(self.run_dir / "mlflow.json", json.dumps(found).encode())
        self.run_id = run.info.run_id

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
        self.run_id = run_id
        return True

    def _write_metrics(self, metrics: Mapping[str, float], step: int, now: int) -> None:
        batch = mlflow_store.metric_entities(metrics, step, now)
        for start in range(0, len(batch), _METRICS_A_BATCH):
            self._client.log_batch(self.run_id, metrics=batch[start : start + _METRICS_A_BATCH])

    def _write_files(self, path: Path, under: str | None) -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self._client.log_artifact(self.run_id, str(path), under)

    def _write_data(self, name: str, digest: str, source: str) -> None:
        from mlflow.entities import Dataset, DatasetInput

        self._client.log_inputs(self.run_id, datasets=[DatasetInput(Dataset(name, digest, "wmtp", source), [])])

    def _write_params(self, flat: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        # A parameter is written once and for all in MLflow; what a resumed run changes becomes a tag.
        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, value) for key, value in flat.items() if key not in known]
        changed = [RunTag(f"resumed.{key}", value) for key, value in flat.items() if known.get(key, value) != value]
        for start in range(0, len(new), _PARAMS_A_BATCH):
            self._client.log_batch(self.run_id, params=new[start : start + _PARAMS_A_BATCH])
        if changed:
            self._client.log_batch(self.run_id, tags=changed[:_PARAMS_A_BATCH])

    def _artifact_location(self) -> str | None:
        # A local store would otherwise put artifacts into ./mlruns of whatever directory we happen to be in.
        if not self.tracking_uri.startswith("sqlite:///"):
            return None
        store = Path(self.tracking_uri.removeprefix("sqlite:///"))
        return str(store.parent / "mlflow-artifacts" / self._experiment_name)


class _Deleted(Exception):
    """Say that the experiment was deleted: no later try will find it."""

    error_code = "RESOURCE_DOES_NOT_EXIST"
