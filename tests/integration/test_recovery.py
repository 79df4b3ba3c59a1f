"""A run survives bad numbers, too little memory and being killed; or stops with one sentence, its checkpoints whole."""

import json
import shlex

import pytest
import torch
from hydra import compose, initialize_config_dir

from wmtp.cli import config_dir
from wmtp.errors import NonFiniteError
from wmtp.train import train

TINY = [
    "data.token_budget=512", "data.train_size=60", "trainer.max_steps=8", "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false", "eval.before=false", "eval.after=false", "logger=csv", "~callbacks.progress",
    "callbacks.last.every_n_train_steps=3", "data.module.source.validation_size=8", "+trainer.limit_val_batches=1",
    "callbacks.loss_explosion.window=4",
]  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def go(tmp_path, runs):
    """Train in this process."""

    def run(*overrides: str):
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return train(compose("train", [*TINY, f"runs={runs}", "name=run", *overrides]))

    return run


@pytest.fixture
def fault(tmp_path):
    """Write the override that adds a fault."""

    def override(kind: str, name: str = "fault", **arguments) -> str:
        if kind != "KillInSave":
            arguments["marks"] = str(tmp_path / f"marks-{name}")
        listed = ", ".join(f"{key}: {value}" for key, value in {"_target_": f"faults.{kind}", **arguments}.items())
        return f"+callbacks.{name}={{{listed}}}"

    return override


def checkpoint(run, name="last.ckpt"):
    return torch.load(run / "checkpoints" / name, weights_only=True)


def attempts(run):
    return json.loads((run / "attempts.json").read_text())


def assert_whole(run):
    assert (run / "report.html").is_file() and (run / "model" / "model.safetensors").is_file()
    assert checkpoint(run)["global_step"] == 8
    for file in (run / "checkpoints").glob("*.ckpt"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values()), file


def rates(run):
    return [group["lr"] for part in checkpoint(run)["optimizer_states"][0]["parts"] for group in part["param_groups"]]


def initial_rates(run):
    return checkpoint(run)["lr_schedulers"][0]["base_lrs"]


def test_after_nan_a_run_goes_back_and_trains_on_at_half_the_rate(go, runs, fault):
    go(fault("BadValue", place="loss", step=5))
    run = runs / "run"
    assert_whole(run)
    (attempt,) = attempts(run)
    assert attempt["cause"].startswith("NonFiniteError: loss is not finite at step 5 on rank 0")
    assert (attempt["resumed_step"], attempt["went_back_to"], attempt["remedy"]) == (3, "last.ckpt", "lower rate")
    assert initial_rates(run) == [0.005, 0.0005]
    assert (run / "failures" / "step-5" / "rank-0.json").is_file()
    assert "What went wrong" in (run / "report.html").read_text()
    assert "recovery 1: back to step 3 with lower rate" in (run / "train.log").read_text()
    # What went wrong can be repeated from the checkpoint that is kept beside the batch.
    replay = shlex.split(attempt["replay"])
    assert {f"ckpt={run}/failures/step-5", "recovery=off"} <= set(replay)
    (runs.parent / "marks-fault-0").unlink()
    with pytest.raises(NonFiniteError, match="loss is not finite at step 5"):
        go(fault("BadValue", place="loss", step=5), f"ckpt={run}/failures/step-5", "recovery=off")
    kept, again = (folder / "failures/step-5/rank-0.safetensors" for folder in (run, run / "failures/step-5"))
    assert kept.read_bytes() == again.read_bytes()


def test_after_oom_twice_the_next_step_has_the_gradient_of_the_whole_batch(go, runs, fault, tmp_path):
    def keep(name):
        return f"+callbacks.keep={{_target_: faults.KeepGradient, file: {tmp_path / name}, step: 3}}"

    go("name=whole", "trainer.max_steps=4", keep("whole"))
    go(keep("ours"), "trainer.max_steps=4", fault("OutOfMemory", step=3, times=2))
    assert [attempt["changes"] for attempt in attempts(runs / "run")] == [
        {"data.split": 2, "trainer.accumulate_grad_batches": 2},
        {"data.split": 4, "trainer.accumulate_grad_batches": 4},
    ]
    assert checkpoint(runs / "run")["global_step"] == 4
    ours, theirs = torch.load(tmp_path / "ours"), torch.load(tmp_path / "whole")
    worst = max(((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()).item() for name in theirs)
    assert worst < 2e-5, worst
