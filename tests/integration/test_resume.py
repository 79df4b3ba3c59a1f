"""A run killed at any moment goes on bit for bit, as if it had not been."""

import csv
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import training
from pytorch_lightning import Callback

COMMON = [
    "data.token_budget=512", "data.train_size=30", "trainer.max_steps=8", "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false", "eval.before=false", "eval.after=false", "logger=csv", "~callbacks.progress",
    "callbacks.last.every_n_train_steps=2", "data.module.source.validation_size=8", "+trainer.limit_val_batches=1",
]  # fmt: skip
HOOKS = [
    "on_train_batch_start", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
    "on_before_zero_grad", "on_train_batch_end",
]  # fmt: skip


class KillAt(Callback):
    """Kill this process, for good and at once, when it comes to a place for the nth time."""

    def __init__(self, hook: str, times: int) -> None:
        self.left = times
        setattr(self, hook, self.count)

    def count(self, trainer, *_) -> None:
        self.left -= 1
        if self.left == 0 and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at(hook: str, times: int) -> str:
    return f"+callbacks.kill={{_target_: {KillAt.__module__}.KillAt, hook: {hook}, times: {times}}}"


@pytest.fixture(scope="module")
def processes():
    """Fork processes from a server that has imported everything, so that each costs a second and not ten."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wmtp.train", "wmtp.algos.rho1", "wmtp.data.module", "wmtp.reporting"])
    return context


@pytest.fixture
def train(processes, tmp_path):
    """Train in a process of its own; return its exit code."""

    def run(*overrides: str) -> int:
        process = processes.Process(target=training.train_here, args=(*COMMON, f"runs={tmp_path / 'runs'}", *overrides))
        process.start()
        process.join(timeout=300)
        return process.exitcode

    return run


def losses(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")}


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = (training.last_checkpoint(each)["state_dict"] for each in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(run) == losses(whole)
    assert len(losses(run)) == 8


def check_killed(train, runs: Path, accumulate: int, hook: str, times: int) -> None:
    name, common = f"{hook}-{times}-{accumulate}", f"trainer.accumulate_grad_batches={accumulate}"
    whole = runs / f"whole{accumulate}"
    if not whole.exists():
        assert train(common, f"name={whole.name}") == 0
    assert train(common, f"name={name}", kill_at(hook, times)) == -signal.SIGKILL
    assert training.last_checkpoint(runs / name)["global_step"] < 8
    assert train(common, f"name={name}", "ckpt=last") == 0
    assert_same(runs / name, whole)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_accumulated_step_goes_on_bit_for_bit(train, tmp_path):
    check_killed(train, tmp_path / "runs", accumulate=2, hook="on_before_backward", times=11)


@pytest.mark.slow
def test_a_run_killed_at_any_of_20_places_goes_on_bit_for_bit(train, tmp_path):
    # The first checkpoint is written after two steps; before it there is nothing to go on with.
    places = [
        (accumulate, hook, times)
        for accumulate, hook in itertools.product((1, 2), HOOKS)
        for times in range(4, 9 if accumulate == 1 or "optimizer" in hook or "zero_grad" in hook else 17)
        if times > 2 * accumulate + 1
    ]
    for accumulate, hook, times in random.Random(42).sample(places, 20):
        check_killed(train, tmp_path / "runs", accumulate, hook, times)


def start(runs: Path, *overrides: str) -> subprocess.CompletedProcess:
    return training.start(*COMMON, f"runs={runs}", *overrides)


@pytest.mark.slow
def test_two_gloo_ranks_killed_in_the_middle_go_on_bit_for_bit_and_one_rank_says_what_changed(tmp_path):
    runs = tmp_path / "runs"
    ranks = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    assert start(runs, *ranks, "name=whole").returncode == 0
    killed = start(runs, *ranks, "name=killed", kill_at("on_before_backward", 6))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = start(runs, *ranks, "name=killed", "ckpt=last")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(runs / "killed", runs / "whole")
    assert sorted(path.name for path in runs.iterdir()) == ["killed", "whole"]
    alone = start(runs, "name=whole", "ckpt=last", "trainer.max_steps=10")
    assert alone.returncode == 0, alone.stderr
    said = "resume: world_size was 2 and is 1, so a step holds 1 micro-batches and not 2: going on in epoch"
    assert said in alone.stderr
