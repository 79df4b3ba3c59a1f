"""A sweep ends with an answer: its runs compared, what failed listed, and nothing done twice when it is given again."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.integration.test_commands import SMALL, shell


def sweep(cwd: Path, *overrides: str):
    return shell(shlex.join(["python", "-m", "wmtp.train", "-m", *SMALL, "trainer.max_steps=2", *overrides]), cwd)


def answer(cwd: Path) -> dict:
    """Read what a sweep's comparison says, but for where its runs lie and how fast they were."""
    (file,) = cwd.glob("runs/*-sweep-*/compare.json")
    found = json.loads(file.read_text())
    means = {measure: arms for measure, arms in found["means"].items() if not measure.startswith("speed/")}
    compared = [one for one in found["comparisons"] if not one["measure"].startswith("speed/")]
    return {"means": means, "comparisons": compared, "goals": found["goals"]}


@pytest.mark.long
def test_a_sweep_compares_its_runs_lists_what_failed_and_goes_on_when_it_is_given_again(tmp_path):
    asked = ["name=s", "algo.weighting.lam=0.1,7,0.3"]
    first = sweep(tmp_path, *asked)
    assert first.returncode == 2
    (folder,) = tmp_path.glob("runs/s-sweep-*")
    assert f"report: {folder / 'compare.html'}" in first.stdout and (folder / "compare.html").is_file()
    assert f"sweep: 2 of 3 points are done, in {folder}" in first.stdout
    failed = "lam_7 has not come to its end: ConfigError: algo.weighting.lam = 7 must be a number in [0, 1]"
    assert failed in first.stderr
    said = answer(tmp_path)
    assert set(said["means"]["val/important_error"]) == {"lam=0.1", "lam=0.3"}

    store = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = (one for one in store.search_experiments() if one.name.startswith("mtp/"))
    runs = store.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "sweep_folder" in run.data.tags)
    points = [run for run in runs if run is not parent]
    assert len(points) == 2 and {run.data.tags["mlflow.parentRunId"] for run in points} == {parent.info.run_id}
    assert {file.path for file in store.list_artifacts(parent.info.run_id)} == {
        "compare.html", "compare.json", "compare.md",
    }  # fmt: skip

    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/s-lam_*/checkpoints/*")}
    again = sweep(tmp_path, *asked)
    assert again.returncode == 2 and again.stdout.count("has come to its end; left out") == 2
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/s-lam_*/checkpoints/*")} == before
    assert answer(tmp_path) == said and list(tmp_path.glob("runs/s-sweep-*")) == [folder]

    # The same name for another experiment: neither taken for done nor gone on with.
    other = sweep(tmp_path, *asked, "optimizer.lr=0.002")
    assert other.returncode == 2 and "left out" not in other.stdout
    assert "optimizer.lr = 0.002, but the point of this sweep in" in other.stderr
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/s-lam_*/checkpoints/*")} == before


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")], ids=["", "joblib"])
def test_a_sweep_that_is_killed_and_given_again_says_what_an_unbroken_one_says(tmp_path, more):
    if more and find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        pytest.skip("hydra-joblib-launcher is not installed; pip install 'wmtp[sweeps]'")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    asked = ["experiment=sweep_rho1", "name=s", "logger=csv", "seed=42"]  # λ × T × percentile: 27 points
    assert sweep(whole, *asked).returncode == 0
    kill = f"+callbacks.stop={{_target_: faults.Signal, name: SIGKILL, marks: {tmp_path / 'marks'}, step: 1, skip: 13}}"
    assert sweep(broken, *asked, kill).returncode != 0
    kept = {file: file.stat().st_mtime_ns for file in broken.glob("runs/s-*/model/model.safetensors")}
    assert len(kept) == 13
    done = sweep(broken, *asked, *more)
    assert done.returncode == 0, done.stderr
    assert answer(broken) == answer(whole)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len(list(broken.glob("runs/s-*/model"))) == 27
