"""A model spread over ranks learns what it would learn whole, and goes on from any kind of checkpoint."""

import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from test_resume import COMMON, KillAt, losses
from transformers import AutoModelForCausalLM

from wmtp.checkpoint_io import AtomicCheckpointIO, read_meta
from wmtp.models.checkpoint import SavedModel
from wmtp.models.loading import load_model
from wmtp.run_directory import newest_run
from wmtp.swap import is_sharded

# AdamW turns the rounding of a gradient near 0 into a share of the rate; the moments tell more than the weights.
ADAMW = ["optimizer=adamw", "optimizer.lr=0.00003", "trainer.max_steps=4"]
CPU = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]
DDP, FSDP = ["trainer=ddp", *CPU], ["trainer=fsdp", *CPU]


def rank_main(rank: int, world: int, port: int, overrides: list[str]) -> None:
    """Be one rank as torchrun starts it."""
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
    from hydra import compose, initialize_config_dir
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from wmtp.cli import config_dir
    from wmtp.train import train

    rank_zero_only.rank = rank  # read from the environment when Lightning was imported, before the fork
    torch.set_num_threads(1)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [*COMMON, *overrides])
    train(config)


@pytest.fixture(scope="module")
def start():
    """Start the ranks of a run by forking a server that has imported everything; return their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["wmtp.train", "wmtp.strategy", "wmtp.recovery", "wmtp.algos.baseline", "wmtp.data.module", "wmtp.reporting"]
    )

    def run(world: int, *overrides: str) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = [(rank, world, port, ["algo=baseline", "recovery=off", *overrides]) for rank in range(world)]
        ranks = [context.Process(target=rank_main, args=each) for each in arguments]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(timeout=300)
        return [rank.exitcode for rank in ranks]

    return run


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def load(run: Path) -> dict:
    return AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")


def test_a_sharded_run_killed_in_the_middle_ends_where_ddp_does_on_two_ranks_and_on_one(start, tmp_path):
    runs = f"runs={tmp_path}"
    kill = f"+callbacks.kill={{_target_: {KillAt.__module__}.KillAt, hook: on_before_backward, times: 4}}"
    assert start(2, *ADAMW, *DDP, runs, "name=ddp") == [0, 0]
    assert 0 not in start(2, *ADAMW, *FSDP, runs, "name=sharded", kill)
    saved = tmp_path / "sharded" / "checkpoints" / "last.ckpt"
    assert is_sharded(saved) and read_meta(saved)["global_step"] == 2
    assert newest_run(tmp_path, "sharded") == tmp_path / "sharded"
    shutil.copytree(tmp_path / "sharded", tmp_path / "alone")
    assert start(2, *ADAMW, *FSDP, runs, "name=sharded", "ckpt=last") == [0, 0]
    # Two micro-batches of one rank are the step of two ranks with one each: the same place, the same steps.
    assert start(1, *ADAMW, runs, "name=alone", "ckpt=last", "trainer.accumulate_grad_batches=2") == [0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "ddp", "sharded"]

    whole, sharded, alone = (load(tmp_path / name) for name in ("ddp", "sharded", "alone"))
    assert whole["global_step"] == sharded["global_step"] == alone["global_step"] == 4
    assert difference(sharded["state_dict"], whole["state_dict"]) <= 1e-6
    assert difference(alone["state_dict"], whole["state_dict"]) <= 1e-6
    for number, state in whole["optimizer_states"][0]["state"].items():
        assert difference(sharded["optimizer_states"][0]["state"][number], state) <= 1e-7
        assert difference(alone["optimizer_states"][0]["state"][number], state) <= 1e-7
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "ddp"), abs=1e-5)

    model, tokenizer = SavedModel(saved).load()  # as wmtp.eval reads it
    folder = tmp_path / "sharded" / "model"
    exported, plain = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert exported.heads == 4 and plain.config.architectures == ["MTPForCausalLM"]
    assert difference(dict(exported.state_dict()), dict(model.state_dict())) == 0
    ids = tokenizer("def f(x):", return_tensors="pt").input_ids
    assert torch.equal(plain(ids).logits, model(ids).logits)
