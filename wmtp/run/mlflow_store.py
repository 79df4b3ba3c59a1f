"""Open an MLflow store, and say what a run, a metric and a tag are called in it.

[연구 맥락] 알고리즘마다 실험이 따로이므로 (`mtp/<알고리즘>/<데이터>`), 이름과 꼬리표로 찾아 견준다.
[동작] mlflow를 부르는 곳은 여기와 tracking.py, registry.py뿐이다. 함수 안에서 import한다: 읽는 데 몇 초가 걸린다.
"""

import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wmtp.errors import CheckpointError, ConfigError, first_line
from wmtp.evaluation.harness import SETTINGS
from wmtp.reporting.reading import flatten
from wmtp.secrets import mask_secrets
from wmtp.storage.lock import alone

TAG_CHARACTERS = 5000  # what MLflow accepts


def default_uri(runs: Path) -> str:
    """Say where runs are kept unless told otherwise: in $MLFLOW_TRACKING_URI, else beside the run directories."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.expanduser().resolve() / 'mlflow.db'}"


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


def open_store(tracking_uri: str) -> Any:
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


def is_permanent(error: Exception) -> bool:
    """Tell a request that MLflow refuses (never retry it) from a store that does not answer."""
    return getattr(error, "error_code", None) in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


def kept_run(run_dir: Path) -> dict[str, Any] | None:
    """Read which MLflow run a run directory belongs to; a torn file says nothing."""
    try:
        state = json.loads((run_dir / "mlflow.json").read_bytes())
        return {"tracking_uri": str(state["tracking_uri"]), "run_id": str(state["run_id"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
        data = open_store(tracking_uri).get_run(run_id).data
    except MlflowException as error:
        reason = first_line(error)
        raise CheckpointError(f"ckpt = {run_id} cannot be looked up in MLflow at {uri} ({reason}).") from error
    run_dir = Path(data.tags.get("run_dir") or data.params.get("run_dir") or "")
    if not run_dir.is_absolute() or not run_dir.is_dir():
        raise CheckpointError(
            f"ckpt = {run_id}: its run directory {run_dir} is not on this machine; copy it here and give ckpt=DIR."
        )
    return run_dir


def run_directories_in(experiment: str, tracking_uri: str) -> tuple[list[Path], int]:
    """List the run directories of an MLflow experiment that are on this machine, and count all of them.

    Raises:
        ConfigError: 저장소나 실험이 없거나, 폴더가 하나도 이 컴퓨터에 없을 때.
    """
    from mlflow.exceptions import MlflowException

    asked, uri = f"RUN = mlflow:{experiment}", mask_secrets(tracking_uri)
    if tracking_uri.startswith("sqlite:///") and not Path(tracking_uri.removeprefix("sqlite:///")).is_file():
        raise ConfigError(f"{asked}: no MLflow store at {uri}; set MLFLOW_TRACKING_URI, or runs=DIR.")
    try:
        store = open_store(tracking_uri)
        found = store.get_experiment_by_name(experiment)
        runs = store.search_runs([found.experiment_id], max_results=1000) if found else None
    except MlflowException as error:
        reason = first_line(error)
        raise ConfigError(
            f"{asked} cannot be looked up in MLflow at {uri} ({reason}); give run directories."
        ) from error
    if runs is None:
        names = ", ".join(sorted(one.name for one in store.search_experiments()))
        raise ConfigError(f"{asked}: {uri} has no such experiment, but {names}; give one of them.")
    folders = [Path(run.data.tags.get("run_dir") or run.data.params.get("run_dir") or "") for run in runs]
    here = sorted(folder for folder in folders if folder.is_absolute() and folder.is_dir())
    if not here:
        raise ConfigError(f"{asked}: none of its {len(runs)} run directories is on this machine; copy them here.")
    return here, len(runs)


def short_name(run_dir_name: str, experiment: str, point: str = "") -> str:
    """Name a run in MLflow by what sets it apart, in as few letters as its column shows.

    [동작] 알고리즘, 탐색의 점이면 그 값, 그다음에 나머지. 데이터는 실험의 이름과 꼬리표에 있으므로 뺀다.

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


def given_uri(kept: str) -> str:
    """Return the address of a store with what a file keeps of it: the file has no password, the environment may."""
    asked = os.environ.get("MLFLOW_TRACKING_URI", "")
    return asked if mask_secrets(asked) == kept else kept


def log_evaluation(run_dir: Path, name: str, metrics: Mapping[str, Any], folder: Path) -> bool:
    """Add an evaluation to the MLflow run that a run directory belongs to, if there is one.

    [동작] 지표는 `eval/<name>/…`, 파일은 artifact `eval/<name>/`. MLflow가 답하지 않으면 경고 한 문장으로 끝난다:
    결과는 모두 `folder`에 있다.
    """
    state = kept_run(run_dir)
    if state is None:
        return False
    uri = given_uri(state["tracking_uri"])
    numbers = {f"eval/{name}/{key}": v for key, v in metrics.items() if isinstance(v, int | float)}
    said = {f"eval/{name}/{key}": v for key, v in metrics.items() if is_setting(key) and v is not None}
    try:
        client = open_store(uri)
        client.log_batch(state["run_id"], metrics=metric_entities(numbers, step=0), tags=tag_entities(said))
        client.log_artifacts(state["run_id"], str(folder), f"eval/{name}")
    except Exception as error:  # whatever a store, a driver or a network throws: the evaluation is done
        reason = first_line(error)
        sentence = f"warning: MLflow at {uri} does not take it ({reason}); the evaluation is in {folder}."
        print(mask_secrets(sentence), file=sys.stderr)
        return False
    return True


def run_of_sweep(client: Any, experiment_id: str, folder: Path) -> str:
    """Find the run that a sweep's points lie under, or make it, however many points ask at the same time."""
    with alone(folder / ".mlflow.lock"):
        found = client.search_runs([experiment_id], f"tags.`sweep_folder` = '{folder.name}'", max_results=1)
        if not found:
            tags = {"sweep_folder": folder.name, "run_dir": str(folder)}
            return client.create_run(experiment_id, run_name=folder.name, tags=tags).info.run_id
        return found[0].info.run_id


def log_sweep(folder: Path, runs: Iterable[Path]) -> None:
    """Keep a sweep's comparison with the runs that its points lie under, one in each experiment of them."""
    states = {state["run_id"]: state["tracking_uri"] for run in runs if (state := kept_run(run))}
    done: set[str] = set()
    try:
        clients = {uri: open_store(given_uri(uri)) for uri in set(states.values())}
        for run_id, uri in states.items():
            client = clients[uri]
            parent = client.get_run(run_id).data.tags.get("mlflow.parentRunId")
            if parent is None or parent in done:
                continue
            for name in ("compare.html", "compare.md", "compare.json"):
                client.log_artifact(parent, str(folder / name))
            client.set_terminated(parent)
            done.add(parent)
    except Exception as error:  # whatever a store, a driver or a network throws: the comparison is done
        reason = first_line(error)
        print(
            mask_secrets(f"warning: MLflow does not take the comparison ({reason}); it is in {folder}."),
            file=sys.stderr,
        )


def metric_entities(metrics: Mapping[str, Any], step: int, now: int | None = None) -> list[Any]:
    """Make MLflow metrics of measured numbers, under names that MLflow accepts; a constant is no curve."""
    from mlflow.entities import Metric

    now = now or now_in_milliseconds()
    return [
        Metric(re.sub(r"[^\w/. @-]", "_", key).replace("@", "_at_"), float(value), now, step)
        for key, value in metrics.items()
        if not isinstance(value, str) and not is_setting(key)
    ]


def tag_entities(values: Mapping[str, Any]) -> list[Any]:
    """Make MLflow tags, secrets masked, no longer than MLflow accepts."""
    from mlflow.entities import RunTag

    return [RunTag(key, str(value)[:TAG_CHARACTERS]) for key, value in flatten(mask_secrets(values)).items()]


def is_setting(key: str) -> bool:
    """Tell a setting of the measurement from a measured number."""
    return key.rpartition("/")[2] in SETTINGS


def now_in_milliseconds() -> int:
    """Read the clock in the unit of MLflow."""
    return int(time.time() * 1000)
