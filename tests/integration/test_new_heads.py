"""New heads through the front door: stage 0 runs once, goes on after a kill, and is the same on any number of ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_resume import COMMON
from training import last_checkpoint, start

from tests.tolerance import adaptive_rounding, distance, terms_of
from wmtp.checkpoints.io import AtomicCheckpointIO
from wmtp.heads.fitting import HeadFitting
from wmtp.models.loading import ModelSource, find_model, load_model
from wmtp.train import train

NEW = ["algo=baseline", "model.heads_init=copy", "callbacks.head_pretraining.token_budget=512"]
FEW = [f"callbacks.head_pretraining.{key}" for key in ("steps=12", "check_every=6", "lr=0.003")]
SMALL = [*COMMON, *NEW, *FEW, "recovery=off", "optimizer=adamw", "optimizer.lr=0.00003"]
CPU = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]


def curve_of(run: Path) -> list[dict]:
    return json.loads((run / "new_heads.json").read_text())["curve"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.long
@pytest.mark.parametrize(
    ("adapter", "arrangement"),
    [("none", "parallel"), ("lora", "parallel"), ("lora", "sequential")],
)
def test_new_heads_are_fitted_once_and_neither_a_later_run_nor_a_resumed_one_does_it_again(
    config, tmp_path, cache, capsys, monkeypatch, adapter, arrangement
):
    short = [*NEW, *FEW, f"model/adapter={adapter}", f"model.heads_arrangement={arrangement}"]
    short += ["eval.before=false", "eval.after=false", "recovery=off"]
    short += ["data.train_size=60", "data.module.source.validation_size=8", "optimizer=adamw"]
    train(config(*short, "trainer.max_steps=2", "name=first"))
    first = tmp_path / "runs" / "first"
    curve = curve_of(first)
    assert [point["step"] for point in curve] == [0, 6, 12]
    assert all(after < before - 2 for before, after in zip(curve[0]["ce"], curve[-1]["ce"], strict=True))
    assert "heads: stage 0 took the validation CE of the new heads from" in capsys.readouterr().out
    assert len(list(cache.glob("new_heads/*.safetensors"))) == 1 and not list(cache.glob("new_heads/*.partial.pt"))

    monkeypatch.setattr(HeadFitting, "step", lambda *_: pytest.fail("the heads are fitted again"))
    train(config(*short, "trainer.max_steps=2", "name=second"))
    assert curve_of(tmp_path / "runs" / "second") == curve
    assert apart(*(last_checkpoint(tmp_path / "runs" / name)["state_dict"] for name in ("first", "second"))) == 0

    (entry,) = cache.glob("new_heads/*.safetensors")
    entry.unlink()
    train(config(*short, "trainer.max_steps=3", "name=second", "ckpt=last"))
    assert last_checkpoint(tmp_path / "runs" / "second")["global_step"] == 3
    assert load_model(tmp_path / "runs" / "second" / "model").heads == 4


def test_heads_of_a_checkpoint_are_not_touched_before_training(config, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(HeadFitting, "__init__", lambda *_, **__: pytest.fail("saved heads are fitted"))
    few = ["eval.before=false", "eval.after=false", "trainer.max_steps=1", "data.train_size=60", "name=run"]
    train(config("algo=baseline", "model=hf", f"model.path={find_model('asset:tiny-base')}", *few))
    assert (tmp_path / "runs" / "run" / "model").is_dir()
    assert not (tmp_path / "runs" / "run" / "new_heads.json").exists() and not cache.joinpath("new_heads").exists()


@pytest.mark.long
def test_heads_that_know_less_than_nothing_are_said(config, tmp_path, cache, capsys):
    few = ["callbacks.head_pretraining.steps=1", "callbacks.head_pretraining.lr=1e-9", "trainer.max_steps=1"]
    train(config(*NEW, *few, "eval.before=false", "eval.after=false", "data.train_size=60", "optimizer=adamw"))
    warning = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heads: WARNING")]
    assert len(warning) == 1 and "guessing evenly would have a CE of 6.24" in warning[0]


@pytest.mark.long
def test_a_run_that_makes_head_zero_worse_than_it_was_says_so_once(config, tmp_path, cache, capsys):
    wreck = ["~callbacks.head_pretraining", "algo.trunk_gradient=1", "algo.head_weights=[1,1,1,1]"]
    few = ["eval.before=false", "eval.after=false", "data.train_size=60", "optimizer=adamw", "optimizer.lr=0.01"]
    train(config(*NEW[:2], *wreck, *few, "trainer.max_steps=4", "trainer.val_check_interval=2"))
    warning = [line for line in capsys.readouterr().err.splitlines() if line.startswith("head 0: WARNING")]
    assert len(warning) == 1 and "Lower algo.trunk_gradient or optimizer.lr" in warning[0]


@pytest.mark.slow
def test_a_run_killed_in_stage_0_goes_on_to_the_same_heads(tmp_path):
    small = [*SMALL, "callbacks.head_pretraining.steps=200", "callbacks.head_pretraining.patience=100", "name=run"]
    small += ["trainer.max_steps=1", "callbacks.head_pretraining.check_every=5"]
    command = [sys.executable, "-m", "wmtp.train", *small, f"runs={tmp_path / 'killed'}"]
    environment = {**os.environ, "WMTP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("cache/new_heads/*.partial.pt")):
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    resumed = start(*small, "ckpt=auto", f"runs={tmp_path / 'killed'}", WMTP_CACHE=str(tmp_path / "cache"))
    assert resumed.returncode == 0, resumed.stderr
    assert not list(tmp_path.glob("cache/new_heads/*.partial.pt"))
    assert start(*small, f"runs={tmp_path / 'whole'}", WMTP_CACHE=str(tmp_path / "other")).returncode == 0
    (killed,), (whole,) = ([*(tmp_path / name).iterdir()] for name in ("killed", "whole"))
    assert curve_of(killed) == curve_of(whole) and apart(weights(killed), weights(whole)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [[], ["model/adapter=lora"], ["model.heads_arrangement=sequential"], ["model.heads_arrangement=recurrent"]],
    ids=["whole", "lora", "sequential", "recurrent"],
)
def test_two_ranks_sharded_or_not_fit_the_heads_that_one_does_and_train_alike(tmp_path, keys):
    def run(name: str, *more: str) -> Path:
        environment = {"WMTP_CACHE": str(tmp_path / f"cache-{name}")}
        done = start(*SMALL, *keys, "trainer.max_steps=4", f"name={name}", *more, f"runs={tmp_path}", **environment)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    bound = adaptive_rounding(terms_of(load_model(find_model("asset:tiny-base")), positions=512), torch.float32)
    copies = ModelSource("asset:tiny-base", heads_init="copy").load().extra_heads
    begin = {f"model.extra_heads.{name}": weight for name, weight in copies.state_dict().items()}
    alone = run("one", "trainer.accumulate_grad_batches=2")
    for other in (run("ddp", "trainer=ddp", *CPU), run("fsdp", "trainer=fsdp", *CPU)):
        for ours, theirs in zip(curve_of(other), curve_of(alone), strict=True):
            assert ours["ce"] == pytest.approx(theirs["ce"], rel=bound)
        ends = ({name: run_weights[name] for name in begin} for run_weights in (weights(other), weights(alone)))
        assert distance(*ends, begin) <= bound
