"""Hold the promises of wmtp/run/tracking.py against a real MLflow store on disk and a real server that is not there."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from urllib.parse import unquote

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from wmtp.errors import DataFormatError
from wmtp.run.metrics_csv import MetricsCSV
from wmtp.run.mlflow_store import flatten, log_evaluation, mlflow_ui_command, short_name
from wmtp.run.tracking import MLflowLogger
from wmtp.secrets import mask_secrets


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
    logger = MLflowLogger(run_dir, experiment="mtp/rho1/synthetic")
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
    first = MLflowLogger(run_dir, "mtp/rho1/synthetic")
    first.log_hyperparams({"trainer": {"max_steps": 3}})
    first.log_metrics({"loss": 2.0}, step=1)
    first.finalize("success")
    assert first.flush()
    second = MLflowLogger(run_dir, "mtp/rho1/synthetic")
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
    first = MLflowLogger(run_dir, "mtp/rho1/synthetic")
    first.log_metrics({"loss": 2.0}, step=1)
    first.finalize("success")
    assert first.flush()
    client_of(first).delete_run(first.run_id)
    second = MLflowLogger(run_dir, "mtp/rho1/synthetic")
    second.log_metrics({"loss": 2.0}, step=1)
    assert second.flush() and second.run_id != first.run_id


ONE_OF_TWO = """
import sys
from pathlib import Path
from wmtp.run.tracking import MLflowLogger
run = Path(sys.argv[1])
run.mkdir()
logger = MLflowLogger(run, "mtp/x/y")
logger.log_hyperparams({"seed": 42})
logger.log_metrics({"loss": 1.0}, step=0)  # while the other thread still imports MLflow
logger.finalize("success")
print(logger.flush(), logger.where(), sep="\\n")
"""


@pytest.mark.long
def test_runs_that_start_together_on_a_new_store_are_all_in_it(tmp_path):
    from mlflow.tracking import MlflowClient

    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(tmp_path / name)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for name in ("first", "second")
    ]  # fmt: skip
    for run in runs:
        said, warned = run.communicate(timeout=600)
        assert run.returncode == 0 and "warning" not in warned, warned
        assert said.startswith("True\n") and "mlflow server" in said
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    found = client.search_runs([client.get_experiment_by_name("mtp/x/y").experiment_id])
    assert {run.info.run_name for run in found} == {"first", "second"}
    assert all(run.info.status == "FINISHED" and run.data.metrics == {"loss": 1.0} for run in found)


def test_a_run_that_is_not_in_the_store_is_not_linked_to(run_dir, capsys):
    first = MLflowLogger(run_dir, "mtp/rho1/deleted")
    first.log_metrics({"loss": 1.0}, step=0)
    assert first.flush()
    number = client_of(first).get_experiment_by_name("mtp/rho1/deleted").experiment_id
    client_of(first).delete_experiment(number)
    (run_dir / "mlflow.json").unlink()

    second = MLflowLogger(run_dir, "mtp/rho1/deleted")
    second.log_metrics({"loss": 1.0}, step=0)
    second.log_metrics({"loss": 0.5}, step=1)
    assert not second.flush(60)
    warning = capsys.readouterr().err
    assert warning.count("warning: ") == 1 and "does not answer" not in warning
    restore = f"mlflow experiments restore --experiment-id {number}"
    assert (
        f"refuses it (the experiment mtp/rho1/deleted was deleted: {restore}, or set mlflow_experiment=NAME)" in warning
    )
    assert second.where() == ["(this run is not in MLflow, or not all of it: see the warning above)"]

    command = [sys.executable, "-m", *restore.split()]
    subprocess.run(command, check=True, env={**os.environ, "MLFLOW_TRACKING_URI": second.tracking_uri})
    third = MLflowLogger(run_dir, "mtp/rho1/deleted")
    third.log_metrics({"loss": 1.0}, step=0)
    assert third.flush(60) and third.where()[0].startswith("mlflow server")


def test_runs_of_other_algorithms_on_the_same_data_are_found_together(run_dir):
    config = {"made_of": {"code": {"version": "0.1.0", "commit": "c0ffee", "dirty": True}, "data": "d", "model": "m"}}
    loggers = []
    for algo, point in (("rho1", "-lam_0.1"), ("rho1", "-lam_0.3"), ("baseline", "")):
        folder = run_dir.parent / f"{algo}-synthetic-tiny-base{point}"
        folder.mkdir()
        experiment = f"mtp/{algo}/synthetic"
        loggers.append(MLflowLogger(folder, experiment, short_name(folder.name, experiment, point)))
        loggers[-1].describe(algo, "synthetic", config, ["algo.weighting.lam=0.1"] if point else [], point)
        loggers[-1].log_metrics({"after/synthetic/pass@1": 0.5, "after/synthetic/n": 1, "after/synthetic/seed": 42}, 9)
        loggers[-1].finalize("success")
        assert loggers[-1].flush(60)
    client = client_of(loggers[-1])
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(everywhere, "tags.data = 'synthetic'")
    assert {(run.info.run_name, run.data.tags["algo"]) for run in found} == {
        ("rho1 lam_0.1 tiny-base", "rho1"), ("rho1 lam_0.3 tiny-base", "rho1"), ("baseline tiny-base", "baseline"),
    }  # fmt: skip
    (swept,) = client.search_runs(everywhere, "tags.sweep = 'lam_0.1'")
    assert swept.data.tags["differs"] == "algo.weighting.lam=0.1"
    assert swept.data.tags["code.commit"] == swept.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert swept.data.tags["code.dirty"] == "True" and swept.data.tags["model_hash"] == "m"
    assert swept.data.metrics == {"after/synthetic/pass_at_1": 0.5}  # what is set is no curve
    assert [(given.dataset.name, given.dataset.digest) for given in swept.inputs.dataset_inputs] == [("synthetic", "d")]
    command, address = loggers[-1].where()
    assert command.startswith("mlflow server --backend-store-uri sqlite:///")
    experiments = json.loads(unquote(address.partition("experiments=")[2]))
    shown = client.search_runs(experiments)
    assert {run.info.run_id for run in found} == {run.info.run_id for run in shown}


def test_a_torn_note_of_the_mlflow_run_starts_a_new_one(run_dir):
    (run_dir / "mlflow.json").write_text('{"tracking_uri": "sqlite:')
    logger = MLflowLogger(run_dir, "mtp/x")
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.flush(60) and json.loads((run_dir / "mlflow.json").read_text())["run_id"] == logger.run_id
    (run_dir / "mlflow.json").write_text("[]")
    assert log_evaluation(run_dir, "last", {"mbpp/pass@1": 0.5}, run_dir) is False


@pytest.mark.parametrize("content", [bytes(range(256)), b"\x00" * 40, b"step,loss\n1,\xff\n", b"once upon a time\n"])
def test_metrics_csv_that_is_no_table_is_said_in_a_sentence(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(DataFormatError, match=r"metrics\.csv is no table of metrics; move it away"):
        MetricsCSV(tmp_path).log_metrics({"loss": 1.0}, step=0)
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_a_locked_store_neither_stops_nor_delays_training_and_gets_its_metrics_afterwards(run_dir, capsys):
    logger = MLflowLogger(run_dir, "mtp/rho1/synthetic")
    logger.log_metrics({"before": 1.0}, step=0)
    assert logger.flush()
    logger.patience_seconds, logger.retry_seconds = 0.2, 0.1
    lock = sqlite3.connect(run_dir.parent / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    logger.log_metrics({"during": 1.0}, step=1)
    logger.finalize("success")
    assert logger._jobs.unfinished_tasks == 3  # the calls came back before any of their work was done
    assert not logger.flush()
    assert logger._jobs.unfinished_tasks == 3  # and so did this one
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
    logger = MLflowLogger(run_dir, "mtp/x")
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.flush()
    assert str(run_dir.parent) not in (run_dir / "mlflow.json").read_text()


@pytest.mark.slow  # a second interpreter imports Lightning and MLflow
def test_what_is_still_waiting_is_written_when_the_program_ends(run_dir):
    program = f"""
from pathlib import Path
from wmtp.run.tracking import MLflowLogger
logger = MLflowLogger(Path({str(run_dir)!r}), "mtp/x")
logger.log_metrics({{"loss": 1.0}}, step=0)
logger.finalize("success")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    run = client_of(MLflowLogger(run_dir, "mtp/x")).get_run(json.loads((run_dir / "mlflow.json").read_text())["run_id"])
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
