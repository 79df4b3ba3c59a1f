"""Hold the promises of wmtp/run/tracking.py against a real MLflow store on disk and a real server that is not there."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from wmtp.run.tracking import MetricsCSV, MLflowLogger, flatten, mask_secrets, mlflow_logger, mlflow_ui_command


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """Make one empty SQLite store (2 s), to be copied by the tests."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    logger = MLflowLogger(path.parent / "first", "template", "first", f"sqlite:///{path}")
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.flush(60)
    return path


@pytest.fixture
def run_dir(empty_store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "a_run").mkdir()
    return tmp_path / "a_run"


def client_of(logger):
    from mlflow.tracking import MlflowClient

    return MlflowClient(logger.tracking_uri)


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(run_dir, loggers, steps=3, **kwargs):
    trainer = Trainer(
        max_steps=steps, logger=loggers, default_root_dir=run_dir, log_every_n_steps=1, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **kwargs,
    )  # fmt: skip
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2))


def test_a_training_run_appears_in_mlflow_with_parameters_metrics_and_files(run_dir):
    logger = mlflow_logger(run_dir, experiment="mtp/rho1/synthetic")
    logger.log_hyperparams({"algo": {"name": "rho1", "weighting": {"lam": 0.3}}, "hf_token": "hf_very_secret"})
    fit(run_dir, [logger])
    (run_dir / "report.md").write_text("# a report")
    logger.log_files([run_dir / "report.md", run_dir / "not_there.json"])
    logger.log_metrics({"mbpp/pass@1": 0.25}, step=3)
    assert logger.flush() and client_of(logger).get_run(logger.run_id).info.status == "RUNNING"
    logger.finalize("success")
    assert logger.flush()

    client = client_of(logger)
    assert client.get_experiment_by_name("mtp/rho1/synthetic") is not None
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "a_run"
    assert run.data.params == {"algo.name": "rho1", "algo.weighting.lam": "0.3", "hf_token": "***"}
    assert [point.step for point in client.get_metric_history(logger.run_id, "train/loss")] == [0, 1, 2]
    assert run.data.metrics["mbpp/pass_at_1"] == 0.25
    assert [item.path for item in client.list_artifacts(logger.run_id)] == ["report.md"]
    assert not (run_dir / "mlruns").exists()


def test_a_resumed_run_continues_the_same_mlflow_run(run_dir):
    first = mlflow_logger(run_dir, "mtp/rho1/synthetic")
    first.log_hyperparams({"trainer": {"max_steps": 3}})
    first.log_metrics({"loss": 2.0}, step=1)
    first.finalize("success")
    assert first.flush()
    second = mlflow_logger(run_dir, "mtp/rho1/synthetic")
    second.log_hyperparams({"trainer": {"max_steps": 6}, "new": 1})
    second.log_metrics({"loss": 1.0}, step=4)
    second.finalize("success")
    assert second.flush()

    assert second.run_id == first.run_id
    run = client_of(second).get_run(second.run_id)
    assert run.data.params == {"trainer.max_steps": "3", "new": "1"}
    assert run.data.tags["resumed.trainer.max_steps"] == "6"
    assert [p.step for p in client_of(second).get_metric_history(second.run_id, "loss")] == [1, 4]


def test_a_run_that_someone_deleted_starts_anew_instead_of_failing(run_dir):
    first = mlflow_logger(run_dir, "mtp/rho1/synthetic")
    first.log_metrics({"loss": 2.0}, step=1)
    first.finalize("success")
    assert first.flush()
    client_of(first).delete_run(first.run_id)
    second = mlflow_logger(run_dir, "mtp/rho1/synthetic")
    second.log_metrics({"loss": 2.0}, step=1)
    assert second.flush() and second.run_id != first.run_id


def test_a_locked_store_neither_stops_nor_delays_training_and_gets_its_metrics_afterwards(run_dir, capsys):
    logger = mlflow_logger(run_dir, "mtp/rho1/synthetic")
    logger.log_metrics({"before": 1.0}, step=0)
    assert logger.flush()
    logger.patience_seconds, logger.retry_seconds = 0.2, 0.1
    lock = sqlite3.connect(run_dir.parent / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    logger.log_metrics({"during": 1.0}, step=1)
    assert time.monotonic() - start < 0.1
    logger.finalize("success")
    assert time.monotonic() - start < 0.1
    assert not logger.flush()
    assert time.monotonic() - start < 2
    warning = capsys.readouterr().err
    assert warning.count("warning: MLflow at") == 1 and "training goes on" in warning
    lock.execute("ROLLBACK")
    lock.close()
    assert logger.flush(30)
    assert client_of(logger).get_run(logger.run_id).data.metrics["during"] == 1.0


def test_an_unreachable_server_costs_one_sentence(tmp_path, capsys):
    logger = MLflowLogger(tmp_path, "mtp/x", "x", "http://someone:pa55word@127.0.0.1:9", patience_seconds=0.5)
    fit(tmp_path, [logger])
    assert not logger.flush()
    error = capsys.readouterr().err
    assert error.count("warning: MLflow") == 1
    assert "pa55word" not in error


def test_a_password_in_the_address_of_the_store_is_not_written_into_the_run_directory(run_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", str(run_dir.parent))
    logger = mlflow_logger(run_dir, "mtp/x")
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.flush()
    assert str(run_dir.parent) not in (run_dir / "mlflow.json").read_text()


@pytest.mark.slow  # a second interpreter imports Lightning and MLflow
def test_what_is_still_waiting_is_written_when_the_program_ends(run_dir):
    program = f"""
from pathlib import Path
from wmtp.run.tracking import mlflow_logger
logger = mlflow_logger(Path({str(run_dir)!r}), "mtp/x")
logger.log_metrics({{"loss": 1.0}}, step=0)
logger.finalize("success")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    run = client_of(mlflow_logger(run_dir, "mtp/x")).get_run(
        json.loads((run_dir / "mlflow.json").read_text())["run_id"]
    )
    assert run.info.status == "FINISHED" and run.data.metrics == {"loss": 1.0}


def test_metrics_csv_keeps_the_earlier_curve_when_a_run_is_resumed(tmp_path):
    first = MetricsCSV(tmp_path)
    first.log_metrics({"train/loss": 2.0}, step=1)
    first.log_metrics({"val/loss": 3.0}, step=1)
    first.save()
    second = MetricsCSV(tmp_path)
    second.log_metrics({"train/loss": 1.0, "weight/mean": 1.0}, step=2)
    second.save()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["step,train/loss,val/loss,weight/mean", "1,2.0,,", "1,,3.0,", "2,1.0,,1.0"]


def test_lightning_writes_metrics_csv_directly_into_the_run_directory(tmp_path):
    fit(tmp_path, [MetricsCSV(tmp_path)])
    assert (tmp_path / "metrics.csv").read_text().startswith("epoch,step,train/loss\n")


@pytest.mark.parametrize(
    "key",
    ["token", "hf_token", "HF_TOKEN", "password", "aws_secret_access_key", "aws_access_key_id", "key-id", "api_key"],
)
def test_secret_keys_are_masked(key):
    assert mask_secrets({"storage": {key: "abcdef123"}}) == {"storage": {key: "***"}}


@pytest.mark.parametrize("key", ["token_budget", "max_new_tokens", "tokenizer", "author", "keys", "monkey"])
def test_ordinary_keys_are_not_masked(key):
    assert mask_secrets({key: 12}) == {key: 12}


def test_values_of_secret_environment_variables_are_masked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUt/nFEMI")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    config = {"a": ["x-wJalrXUt/nFEMI-y"], "region": "eu-central-1", "n": None, "hf_token": None}
    assert mask_secrets(config) == {"a": ["x-***-y"], "region": "eu-central-1", "n": None, "hf_token": None}


def test_flatten_keeps_empty_groups_and_lists_as_values():
    assert flatten({"a": {}, "b": {"c": [1]}}) == {"a": {}, "b.c": [1]}


def test_the_printed_command_masks_a_password():
    assert "hunter2" not in mlflow_ui_command("postgresql://me:hunter2@host/db")
