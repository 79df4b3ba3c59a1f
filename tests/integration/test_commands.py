"""What wmtp prints as a command runs as printed, in a shell; and values are taken as they are typed."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.training import kill_session, last_checkpoint
from wmtp.cli import front_door
from wmtp.eval import evaluate_checkpoint

HERE = Path(__file__).parent
SMALL = [
    "trainer.max_steps=4", "data.train_size=60", "data.token_budget=512", "data.module.source.validation_size=8",
    "eval.before=false", "eval.after=false", "+trainer.enable_progress_bar=false", "~callbacks.progress",
]  # fmt: skip


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command line as a user pastes it, `python` being this one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {**os.environ, "PATH": path, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(["sh", "-c", command], cwd=cwd, env=here, capture_output=True, text=True, timeout=1800)


def commands(said: str) -> list[str]:
    """Find the commands among the lines that were printed."""
    return re.findall(r"^ +(python -m wmtp\..*)$", said, flags=re.M)


def steps(run: Path) -> int:
    return last_checkpoint(run)["global_step"]


@pytest.mark.long
def test_the_commands_printed_by_a_stopped_sweep_go_on_with_that_point_and_with_the_rest(tmp_path):
    stop = f"+callbacks.stop={{_target_: faults.Signal, name: SIGINT, marks: {tmp_path / 'marks'}, step: 2}}"
    sweep = ["-m", "algo.weighting.lam=0.1,0.3", "logger=csv", "name=연구_1", *SMALL, stop]
    stopped = shell(shlex.join(["python", "-m", "wmtp.train", *sweep]), tmp_path)
    assert stopped.returncode == 130
    first, rest = commands(stopped.stderr)
    one, other = tmp_path / "runs" / "연구_1-lam_0.1", tmp_path / "runs" / "연구_1-lam_0.3"
    assert steps(one) == 3 and not other.exists()

    done = shell(first, tmp_path)
    assert done.returncode == 0, done.stderr
    assert steps(one) == 4 and not other.exists()

    finished = (one / "checkpoints" / "last.ckpt").read_bytes()
    done = shell(rest, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "연구_1-lam_0.1: this point of the sweep has come to its end; left out" in done.stdout
    assert (one / "checkpoints" / "last.ckpt").read_bytes() == finished
    assert {run.name for run in (tmp_path / "runs").glob("연구_1-lam*")} == {one.name, other.name}
    configs = [last_checkpoint(run)["wmtp"]["config"] for run in (one, other)]
    assert [config["algo"]["weighting"]["lam"] for config in configs] == [0.1, 0.3]


@pytest.mark.long
def test_a_sweep_that_an_experiment_asks_for_prints_the_command_of_its_point(tmp_path):
    experiment = tmp_path / "own" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper: {params: {algo.weighting.lam: '0.1,0.3'}}\n"
    )
    stop = f"+callbacks.stop={{_target_: faults.Signal, name: SIGINT, marks: {tmp_path / 'marks'}, step: 2}}"
    asked = [f"--config-dir={experiment.parents[1]}", "experiment=mine", "logger=csv", *SMALL, stop]
    stopped = shell(shlex.join(["python", "-m", "wmtp.train", *asked]), tmp_path)
    (run,) = (tmp_path / "runs").glob("rho1-*")
    assert run.name == "rho1-synthetic-tiny-base-lam_0.1"
    done = shell(commands(stopped.stderr)[0], tmp_path)
    assert done.returncode == 0, done.stderr
    assert steps(run) == 4
    assert list((tmp_path / "runs").glob("rho1-*")) == [run]


@pytest.mark.long
def test_the_folder_of_a_long_sweep_point_fits_a_file_system_and_is_its_own(tmp_path):
    base = HERE.parents[1] / "wmtp" / "assets" / "tiny-base"
    models = [tmp_path / ("아주긴이름" * 12) / end for end in ("첫째", "둘째")]
    for model in models:
        shutil.copytree(base, model)
    sweep = ["-m", f"model.path={models[0]},{models[1]}", "logger=csv", *SMALL, "trainer.max_steps=1", "name=run"]
    done = shell(shlex.join(["python", "-m", "wmtp.train", *sweep]), tmp_path)
    assert done.returncode == 0, done.stderr
    names = [run.name for run in (tmp_path / "runs").glob("run-path_*")]
    assert len(names) == 2 and all(re.fullmatch(r"run-path_[\w.+-]+-[0-9a-f]{8}", name) for name in names)
    assert all(len(name.encode()) <= 100 for name in names)


@pytest.mark.long
def test_the_command_that_replays_a_failure_fails_as_the_run_did(tmp_path):
    marks = tmp_path / "marks"
    fault = f"+callbacks.fault={{_target_: faults.BadValue, place: loss, marks: {marks}, step: 2}}"
    went_on = shell(shlex.join(["python", "-m", "wmtp.train", "name=run", "logger=csv", *SMALL, fault]), tmp_path)
    assert went_on.returncode == 0, went_on.stderr
    (attempt,) = json.loads((tmp_path / "runs" / "run" / "attempts.json").read_text())
    marks.with_name("marks-0").unlink()
    again = shell(attempt["replay"], tmp_path)
    assert again.returncode == 2 and "loss is not finite at step 2" in again.stderr


@pytest.mark.slow
def test_the_command_that_opens_mlflow_serves_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = shell(shlex.join(["python", "-m", "wmtp.train", *SMALL, "trainer.max_steps=1", "runs=실험 (1)"]), tmp_path)
    command = re.search(r"^MLflow +(mlflow server .*)$", done.stdout, flags=re.M)[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(
        ["sh", "-c", f"exec {command}"], cwd=tmp_path, start_new_session=True,
        env={**os.environ, "PATH": path, "MLFLOW_PORT": str(port)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            with suppress(OSError):
                asked = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=mtp/rho1/synthetic"
                with urllib.request.urlopen(asked) as answer:
                    assert json.load(answer)["experiment"]["name"] == "mtp/rho1/synthetic"
                    return
            time.sleep(0.1)
        pytest.fail("no answer")
    finally:
        kill_session(server)


def test_points_of_a_sweep_never_share_the_folder_of_their_results(tmp_path, monkeypatch):
    for folder, task in (("가", 0), ("나", 1)):
        (tmp_path / folder).mkdir()
        row = {"task_id": f"synthetic/test/{task}", "completion": "x"}
        (tmp_path / folder / "samples.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    sweep = ["samples=가/samples.jsonl,나/samples.jsonl", "-m", "benchmark=synthetic", "out=out", "progress=false"]
    monkeypatch.setattr(sys, "argv", ["wmtp.eval", *sweep])
    with pytest.raises(SystemExit) as ended:
        front_door(evaluate_checkpoint, "eval")
    assert ended.value.code == 0
    results = sorted((tmp_path / "out").glob("samples-samples_*/synthetic/results.jsonl"))
    assert [json.loads(file.read_text())["task_id"] for file in results] == ["synthetic/test/0", "synthetic/test/1"]


@pytest.mark.parametrize("file", ["한글/samples.jsonl", "a (1).jsonl", "a=1,b=[2].jsonl", "it's {x}.jsonl"])
def test_a_file_is_found_by_its_name_as_it_is_typed(tmp_path, monkeypatch, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps({"task_id": "synthetic/test/0", "completion": "x"}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["wmtp.eval", f"samples={file}", "benchmark=synthetic", "out=결과 (1)", "progress=false"]
    )
    with pytest.raises(SystemExit) as ended:
        front_door(evaluate_checkpoint, "eval")
    assert ended.value.code == 0
    assert json.loads((tmp_path / "결과 (1)" / "metrics.json").read_text())["synthetic/samples"] == 1
