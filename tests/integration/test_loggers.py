"""Hold the other loggers to what metrics.csv says, without a network, and to keeping no secret."""

import csv
import json
import shlex
from pathlib import Path

import pytest
import yaml

from tests.integration.test_commands import SMALL, shell
from tests.wandb_file import records, values_of
from wmtp.errors import ConfigError
from wmtp.train import train

FEW = ["trainer.max_steps=2", "eval.limit=2", "eval.before=false", "name=run", "trainer.val_check_interval=1"]
SECRET = "hunter2x9hunter2x9hunter2x9hunter2x9aaaa"


def curves(run: Path) -> dict[str, list[float]]:
    """Read metrics.csv: the values of each metric, in the order in which they came."""
    found: dict[str, list[float]] = {}
    for row in csv.DictReader((run / "metrics.csv").open()):
        for key, value in row.items():
            if value and key not in ("step", "epoch"):
                found.setdefault(key, []).append(float(value))
    return found


@pytest.mark.long
def test_tensorboard_reads_the_same_names_and_numbers_and_a_resumed_run_goes_on(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    train(config("logger=tensorboard", *FEW))
    run = tmp_path / "runs/run"
    assert not (run / "mlflow.json").exists() and not (tmp_path / "runs/mlflow.db").exists()
    found = train(config("logger=tensorboard", *FEW, "trainer.max_steps=3", "ckpt=last"))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    expected = curves(run)
    assert {"val/ce_head0", "train/loss"} <= expected.keys()
    evaluated = {key for key in found if key.startswith("after/synthetic/")}  # metrics.csv leaves those to the report
    assert "after/synthetic/pass@1" in evaluated
    assert {*events.Tags()["scalars"]} - {"epoch"} - evaluated == {*expected}
    for name, values in expected.items():
        there = {event.step: event.value for event in events.Scalars(name)}
        assert there[max(there)] == pytest.approx(values[-1], rel=2**-23), name  # TensorBoard keeps float32
    assert len({event.step for event in events.Scalars("train/loss")}) == 3
    (start,) = [
        plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info
        for tag, data in events.PluginTagToContent("hparams").items()
        if "session_start" in tag
    ]
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert start.hparams["algo.weighting.lam"].number_value == settings["algo"]["weighting"]["lam"]


def offline_runs(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*"))


@pytest.mark.long
def test_wandb_offline_has_the_same_names_groups_a_sweep_and_keeps_no_secret(tmp_path):
    env = {"WANDB_MODE": "offline", "WANDB_API_KEY": SECRET}
    say = " ".join(f"{key}={value}" for key, value in env.items())
    asked = ["-m", "algo.weighting.lam=0.1,0.3", "logger=wandb", "name=s", *SMALL, "trainer.max_steps=1"]
    done = shell(f"{say} {shlex.join(['python', '-m', 'wmtp.train', *asked])}", tmp_path)
    assert done.returncode == 0, done.stderr
    ids, groups = set(), set()
    for lam in (0.1, 0.3):
        run = tmp_path / f"runs/s-lam_{lam}"
        (folder,) = offline_runs(run)
        (file,) = folder.glob("*.wandb")
        found = [*records(file)]
        begun = next(record.run for record in found if record.HasField("run"))
        ids.add(begun.run_id), groups.add(begun.run_group)
        assert begun.display_name == run.name and begun.project == "wmtp"
        settings, history = {}, []
        for record in found:
            settings |= values_of(record.config.update) | values_of(record.run.config.update)
            history += [values_of(record.history.item)] if record.HasField("history") else []
        assert settings["algo"]["weighting"]["lam"] == lam and settings["made_of"]["data"]
        names = {key for row in history for key in row if key[0] != "_"} - {"trainer/global_step", "epoch"}
        assert names == {*curves(run)}
        last = [row["val/ce_head0"] for row in history if "val/ce_head0" in row][-1]
        assert last == pytest.approx(curves(run)["val/ce_head0"][-1], rel=1e-12)
    (group,) = groups
    assert len(ids) == 2 and group.startswith("s-sweep-") and (tmp_path / "runs" / group).is_dir()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 20 and not [file for file in written if SECRET.encode() in file.read_bytes()]
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.long
def test_a_resumed_run_goes_on_in_its_run_of_wandb(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(config("logger=wandb", *FEW, "eval.after=false"))
    train(config("logger=wandb", *FEW, "eval.after=false", "trainer.max_steps=3", "ckpt=last"))
    first, second = offline_runs(tmp_path / "runs/run")
    assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2]
    assert json.loads((tmp_path / "runs/run/wandb.json").read_text())["id"] == first.name.rpartition("-")[2]
    import wandb

    wandb.finish()


@pytest.mark.parametrize(
    ("logger", "hidden", "said"),
    [
        ("tensorboard", "tensorboard", r"logger = tensorboard needs the package tensorboard, .*'wmtp\[tensorboard\]'"),
        ("wandb", "wandb", r"logger = wandb needs the package wandb, .*pip install 'wmtp\[wandb\]'"),
        ("wandb", "", r"logger = wandb, but the environment variable WANDB_API_KEY is not set; .* WANDB_MODE=offline"),
    ],
)
def test_a_missing_package_or_key_is_one_sentence(config, tmp_path, monkeypatch, logger, hidden, said):
    from wmtp import ranges

    monkeypatch.delenv("WANDB_MODE", raising=False), monkeypatch.delenv("WANDB_API_KEY", raising=False)
    there = ranges.find_spec
    monkeypatch.setattr(ranges, "find_spec", lambda name: None if name == hidden else there(name))
    with pytest.raises(ConfigError, match=said):
        train(config(f"logger={logger}", *FEW))
    assert not (tmp_path / "runs").exists()
