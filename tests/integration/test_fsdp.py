"""A model spread over ranks learns what it would learn whole, and goes on from any kind of checkpoint."""

import errno
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from test_resume import COMMON, KillAt, losses
from test_split import MUON_PRODUCTS
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import register_fsdp_forward_method
from training import kill_session, train_here
from transformers import AutoModelForCausalLM

import wmtp
from tests.tiny import tiny_model
from tests.tolerance import adaptive_rounding, distance, relative_rounding, terms_of
from wmtp.checkpoints.integrity import check_bits
from wmtp.checkpoints.io import AtomicCheckpointIO, read_meta, read_weights, save_shards
from wmtp.checkpoints.kinds import is_checkpoint, is_sharded
from wmtp.checkpoints.last_good import last_good
from wmtp.checkpoints.saved_model import SavedModel, read_checkpoint
from wmtp.checkpoints.strategy import PRECISIONS, ShardedStrategy
from wmtp.errors import CheckpointError, ConfigError
from wmtp.maths.loss import weighted_mtp_loss
from wmtp.models.loading import ModelSource, load_model
from wmtp.models.mtp import MTPMixin, MTPOutput
from wmtp.ranks.meeting import join
from wmtp.ranks.sharding import shard
from wmtp.run.directory import newest_run
from wmtp.run.failure import kind_of
from wmtp.storage.files import swap_in

ASSETS = Path(wmtp.__file__).parent / "assets"
RATE, STEPS = 0.00003, 4
ADAMW = ["optimizer=adamw", f"optimizer.lr={RATE}", f"trainer.max_steps={STEPS}"]
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
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # read from the environment when Lightning was imported, before the fork
    train_here(*COMMON, *overrides)


@pytest.fixture(scope="module")
def start():
    """Start the ranks of a run by forking a server that has imported everything; return their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["wmtp.train", "wmtp.checkpoints.strategy", "wmtp.run.recovery", "wmtp.algos.baseline", "wmtp.data.module"]
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


def terms() -> int:
    """Count what is added up for a gradient of tiny-base, in batches of 512 tokens."""
    return terms_of(load_model(ASSETS / "tiny-base"), positions=512)


def assert_same_end(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Hold that two runs of AdamW ended at the same weights: it moves each of them by about a rate a step."""
    assert one.keys() == other.keys()
    squares = torch.cat([(one[name].double() - other[name].double()).square().flatten() for name in one])
    assert squares.mean().sqrt() <= adaptive_rounding(terms(), torch.float32) * RATE * STEPS


def load(run: Path) -> dict:
    return AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")


@pytest.mark.long
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
    assert whole["global_step"] == sharded["global_step"] == alone["global_step"] == STEPS
    assert_same_end(sharded["state_dict"], whole["state_dict"])
    assert_same_end(alone["state_dict"], whole["state_dict"])
    rounding = relative_rounding(terms(), torch.float32)
    for name, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
        of_whole, *of_others = (
            {number: state[name] for number, state in run["optimizer_states"][0]["state"].items()}
            for run in (whole, sharded, alone)
        )
        assert max(distance(moments, of_whole) for moments in of_others) <= power * rounding
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "ddp"), rel=rounding)

    model, tokenizer = SavedModel(saved).load()  # as wmtp.eval reads it
    folder = tmp_path / "sharded" / "model"
    exported, plain = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert exported.heads == 4 and plain.config.architectures == ["LlamaForCausalLM"]
    assert difference(dict(exported.state_dict()), dict(model.state_dict())) == 0
    ids = tokenizer("def f(x):", return_tensors="pt").input_ids
    assert torch.equal(plain(ids).logits, model(ids).logits)

    shard = saved / "model" / "shard-00002-model-00001-of-00001.safetensors"
    check_bits(saved)
    whole_shard = shard.read_bytes()
    shard.write_bytes(whole_shard[:-1] + bytes([whole_shard[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"damaged: model/shard-00002\S+ is not as it was written"):
        check_bits(saved)
    assert last_good(saved.parent, set_aside=False) is None
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"shard-00002\S+ should have \d+ bytes and has 0; copy the whole folder"):
        read_checkpoint(saved)


class Inside:
    """Compute the loss before the forward pass ends, where FSDP promises that the output matrix is whole."""

    def loss(self, batch: dict) -> torch.Tensor:
        return loss_of(MTPMixin.mtp(self, batch["input_ids_BT"]), batch)


def loss_of(output: MTPOutput, batch: dict) -> torch.Tensor:
    weight_BT = output.next_token_nll(batch)
    return weighted_mtp_loss(output.hidden, output.unembedding_VD, batch["labels_BT"], weight_BT, batch["targets"]).loss


def take_losses(rank: int, port: int, results: Path) -> None:
    """Be one of two ranks: compute losses inside and outside of sharded models, and leave what comes of them."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    ids_BT = torch.randint(2, 512, (3, 20), generator=torch.Generator().manual_seed(42 + rank))
    batch, found = {"input_ids_BT": ids_BT, "labels_BT": ids_BT, "targets": 57}, {}
    models = [("parallel", True), ("parallel", False), ("sequential", True), ("recurrent", False)]
    for (arrangement, tied), precision, inside in itertools.product(models, PRECISIONS, (True, False)):
        model = tiny_model(heads=3, arrangement=arrangement, tie_word_embeddings=tied)
        model.__class__ = type("Inside", (Inside, type(model)), {})
        shard(model, init_device_mesh("cpu", (2,)), PRECISIONS[precision])
        register_fsdp_forward_method(model, "loss")
        with torch.no_grad():
            before = model.loss(batch) if inside else loss_of(model.mtp(batch["input_ids_BT"]), batch)
        loss = model.loss(batch) if inside else loss_of(model.mtp(batch["input_ids_BT"]), batch)
        loss.backward()
        gradients = [parameter.grad.full_tensor() for parameter in model.parameters()]
        model.unshard()  # and see what FSDP, which hangs a hook on what a forward returns, has left on the parameters
        hooks = sum(len(parameter._backward_hooks or ()) for parameter in model.parameters())
        found.setdefault(f"{arrangement} {tied} {precision}", []).append(([before, loss.detach(), *gradients], hooks))
    torch.save(found, results / f"{rank}.pt")
    dist.destroy_process_group()


def test_the_loss_outside_a_sharded_model_and_its_gradients_are_bit_for_bit_those_inside(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    ranks = [context.Process(target=take_losses, args=(rank, port, tmp_path), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=300)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert len(found) == 8
        for case, ((inside, _), (outside, hooks)) in found.items():
            assert len(inside) > 20 and all(map(torch.equal, inside, outside)), case
            assert any(tensor.any() for tensor in inside[2:]) and hooks == 0, case


def test_a_precision_without_float32_masters_is_refused():
    for precision in ("16-mixed", "bf16-true"):
        with pytest.raises(ConfigError, match=f"trainer.precision = {precision} cannot be used with trainer=fsdp"):
            ShardedStrategy(precision=precision)


def test_a_model_without_weights_has_the_names_and_shapes_of_the_real_one():
    for heads, init, arrangement in ((4, "saved", None), (6, "copy", "parallel"), (3, "copy", "sequential")):
        how = dict(heads_init=init, heads_arrangement=arrangement, activation_checkpointing=True)
        source = ModelSource(path="asset:tiny-base", heads=heads, **how)
        real, empty = source.load(), source.load(empty=True)
        assert all(parameter.is_meta for parameter in empty.parameters())
        shapes = [
            [(name, p.shape, p.dtype) for name, p in model.named_parameters(remove_duplicate=False)]
            for model in (real, empty)
        ]
        assert shapes[0] == shapes[1]
        assert len(list(real.parameters())) == len(list(empty.parameters()))  # tied in both


@pytest.mark.parametrize("arrangement", ["parallel", "sequential"])
def test_activation_checkpointing_recomputes_every_head_and_changes_no_gradient(arrangement):
    ids_BT = torch.randint(0, 512, (2, 16), generator=torch.Generator().manual_seed(42))
    gradients, calls = [], []
    for recompute in (False, True):
        how = dict(heads_init="copy", heads_arrangement=arrangement, activation_checkpointing=recompute)
        model = ModelSource(path="asset:tiny-base", **how).load().train()
        count = []
        for layer in (*model.decoder_layers, *(getattr(head, "mtp_block", head) for head in model.extra_heads)):
            layer.mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        sum(hidden_BTD.square().sum() for hidden_BTD in model.mtp(ids_BT).hidden).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        calls.append((len(count), len(model.decoder_layers) + len(model.extra_heads)))
    assert [count // layers for count, layers in calls] == [1, 2]
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_a_swap_cut_short_anywhere_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    path, temporary = tmp_path / "last.ckpt", tmp_path / "last.ckpt.tmp"

    class Killed(BaseException):
        pass

    def make(place: Path, kind: str, content: str) -> None:
        if kind == "folder":
            place.mkdir()
        (place / "meta.pt" if kind == "folder" else place).write_text(content)

    def content(place: Path) -> str:
        return (place / "meta.pt" if place.is_dir() else place).read_text()

    for before, after in (("folder", "folder"), ("file", "folder"), ("folder", "file"), ("file", "file")):
        for killed_at in range(1, 6):
            for place in tmp_path.iterdir():
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            make(path, before, "old")
            make(temporary, after, "new")
            calls = []

            def counted(real, calls=calls, killed_at=killed_at):
                def call(*args, **kwargs):
                    calls.append(real)
                    if len(calls) == killed_at:
                        raise Killed
                    return real(*args, **kwargs)

                return call

            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", counted(Path.rename))
                patch.setattr(Path, "replace", counted(Path.replace))
                patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
                patch.setattr(os, "fsync", counted(os.fsync))
                try:
                    swap_in(temporary, path)
                except Killed:
                    pass
            assert is_checkpoint(path) and content(path) in ("old", "new"), (before, after, killed_at)
            if len(calls) < killed_at:
                assert content(path) == "new" and [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_shards_before_it_and_nothing_else(tmp_path, monkeypatch):
    path, real, left = tmp_path / "last.ckpt", os.fsync, []
    save_shards({"state_dict": {"weight": torch.ones(3)}}, path)

    def fsync(file: int) -> None:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left.pop()
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    for written in (0, 1):  # the disk is full at the shard, or at what is beside the shards
        left[:] = [None] * written
        with pytest.raises(OSError, match="No space left on device") as error:
            save_shards({"state_dict": {"weight": torch.zeros(3)}}, path)
        assert kind_of(error.value) == "disk_full"
        assert [place.name for place in tmp_path.iterdir()] == ["last.ckpt"]
        assert torch.equal(read_weights(path)["weight"], torch.ones(3))


def test_of_a_gathered_checkpoint_a_rank_reads_only_what_it_needs(tmp_path):
    model = torch.nn.Linear(4, 4)
    weights = {name: torch.full_like(tensor, 2.0) for name, tensor in model.state_dict().items()}
    more = {"wmtp": {}, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(20_000_000)}}}]}
    torch.save({"state_dict": weights, **more}, tmp_path / "last.ckpt")
    strategy = ShardedStrategy()
    strategy.model, before = model, own_megabytes()
    checkpoint = strategy.load_checkpoint(tmp_path / "last.ckpt")
    assert own_megabytes() - before < 20 and len(checkpoint["optimizer_states"]) == 1
    assert difference(model.state_dict(), weights) == 0


def own_megabytes() -> float:
    """Return the memory of this process that is no mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def test_under_torchrun_the_config_says_how_long_ranks_wait_and_a_wrong_number_is_one_sentence(monkeypatch):
    waits = []
    monkeypatch.setattr(Fabric, "launch", lambda fabric: waits.append(fabric.strategy._timeout.total_seconds()))
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "0")
    for name, value in (("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1"), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, value)
    trainer = {"accelerator": "cpu", "devices": 1, "num_nodes": 1}
    for strategy in ("ddp", {"timeout": 7}):
        join(OmegaConf.create({**trainer, "strategy": strategy}))
    assert waits == [30 * 60, 7 * 60]
    for devices in (0, 2, [0, 1]):
        with pytest.raises(ConfigError, match=r"trainer.devices = .* must be the processes of a machine"):
            join(OmegaConf.create({**trainer, "strategy": "ddp", "devices": devices}))


@pytest.mark.slow
def test_recomputing_offloading_and_gathering_change_nothing_and_every_kind_goes_on_in_every_other(start, tmp_path):
    runs = f"runs={tmp_path}"
    assert start(2, *ADAMW, *DDP, runs, "name=ddp") == [0, 0]
    whole = load(tmp_path / "ddp")["state_dict"]
    for name, key in (
        ("recomputed", "model.activation_checkpointing=true"),
        ("offloaded", "trainer.strategy.cpu_offload=true"),
        ("read by all", "trainer.strategy.meta_device=false"),
        ("gathered", "trainer.strategy.sharded_checkpoints=false"),
    ):
        assert start(2, *ADAMW, *FSDP, runs, f"name={name.replace(' ', '_')}", key) == [0, 0], name
        assert_same_end(load(tmp_path / name.replace(" ", "_"))["state_dict"], whole)
    assert (tmp_path / "gathered" / "checkpoints" / "last.ckpt").is_file()

    gather = "trainer.strategy.sharded_checkpoints=false"
    kinds = {"ddp": DDP, "shards": FSDP, "gathered": [*FSDP, gather]}
    half = ["trainer.max_steps=4", f"+callbacks.stop={{_target_: {__name__}.StopAt, step: 2}}"]
    for kind, trainer in kinds.items():
        assert start(2, *ADAMW, *trainer, *half, runs, f"name=half-{kind}") == [0, 0]
        for other, then in kinds.items():
            name = f"{kind}-{other}"
            shutil.copytree(tmp_path / f"half-{kind}", tmp_path / name)
            assert start(2, *ADAMW, *then, runs, f"name={name}", "ckpt=last") == [0, 0]
            assert_same_end(load(tmp_path / name)["state_dict"], whole)

    begin = {f"model.{name}": tensor for name, tensor in load_model(ASSETS / "tiny-base").state_dict().items()}
    for trainer, name in ((DDP, "muon-ddp"), (FSDP, "muon-shards")):
        assert start(2, "trainer.max_steps=4", "optimizer=muon", *trainer, runs, f"name={name}") == [0, 0]
    ends = [load(tmp_path / name)["state_dict"] for name in ("muon-shards", "muon-ddp")]
    assert distance(*ends, begin) <= relative_rounding(MUON_PRODUCTS, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [["model/adapter=lora"], ["algo=rho1"]], ids=["lora", "rho1"])
def test_adapters_and_weights_are_the_same_on_shards_and_go_on(keys, start, tmp_path):
    runs = f"runs={tmp_path}"
    half = f"+callbacks.stop={{_target_: {__name__}.StopAt, step: 2}}"
    assert start(2, *ADAMW, *DDP, *keys, runs, "name=ddp") == [0, 0]
    assert start(2, *ADAMW, *FSDP, *keys, half, runs, "name=shards") == [0, 0]
    assert start(2, *ADAMW, *FSDP, *keys, runs, "name=shards", "ckpt=last") == [0, 0]
    whole, sharded = (load(tmp_path / name) for name in ("ddp", "shards"))
    assert sharded["global_step"] == 4
    assert_same_end(sharded["state_dict"], whole["state_dict"])
    exported, plain = (load_model(tmp_path / name / "model").state_dict() for name in ("shards", "ddp"))
    assert not any("lora" in name for name in exported)
    assert_same_end(exported, plain)


class StopAt(Callback):
    """End training at a step of a longer schedule."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
def test_a_disk_that_is_full_for_one_rank_ends_all_of_them_with_that_word(sharded, start, tmp_path):
    rank = int(sharded)  # the first one writes what is gathered
    full = f"+callbacks.full={{_target_: {__name__}.FullDisk, rank: {rank}, step: 3}}"
    kind = f"trainer.strategy.sharded_checkpoints={str(sharded).lower()}"
    assert 0 not in start(2, *ADAMW, *FSDP, kind, full, f"runs={tmp_path}", "name=run")
    for name in ("failure.json", "failure-rank1.json"):
        assert json.loads((tmp_path / "run" / name).read_text())["kind"] == "disk_full"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
    assert start(2, *ADAMW, *FSDP, kind, f"runs={tmp_path}", "name=run", "ckpt=last") == [0, 0]


class FullDisk(Callback):
    """Let no file of one rank grow large from a step on."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


@pytest.mark.slow
def test_only_the_first_of_four_ranks_ever_holds_the_model_whole(tmp_path):
    from scripts.bench import sharding

    size = sharding.make_model(tmp_path, layers=6)
    first, *others = [peak for peak, _ in sharding.measure(tmp_path, ranks=4, empty=True)]
    assert max(others) < 0.6 * size  # its shard, and one tensor on its way
    assert first + sum(others) < 0.7 * sum(peak for peak, _ in sharding.measure(tmp_path, ranks=4, empty=False))


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_trains_evaluates_and_resumes_in_one_run_directory(tmp_path, nodes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def torchrun(*overrides: str) -> list[str]:
        command = [
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={2 // nodes}",
            "--master-addr=127.0.0.1", f"--master-port={port}",
        ]  # fmt: skip
        arguments = [
            *COMMON, *ADAMW, *FSDP, f"runs={tmp_path}", f"trainer.devices={2 // nodes}", f"trainer.num_nodes={nodes}",
            "eval.before=true", "eval.after=true", "eval.limit=2", *overrides,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
        started = [
            subprocess.Popen(
                [*command, f"--node-rank={node}", "-m", "wmtp.train", *arguments], env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            ) for node in range(nodes)
        ]  # fmt: skip
        try:
            said = [process.communicate(timeout=300)[0] for process in started]
        finally:
            for process in started:
                kill_session(process)
        assert [process.returncode for process in started] == [0] * nodes, said
        return said

    (first, *others) = torchrun("name=run")
    assert "pass@1 after training" in first and not any("pass@1" in other for other in others)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    torchrun("name=run", "ckpt=last", "trainer.max_steps=6")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert read_meta(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 6


@pytest.mark.gpu
def test_bf16_shards_on_gpus_follow_bf16_ddp_with_float32_masters(start, tmp_path):
    ranks = min(torch.cuda.device_count(), 2)
    gpus = [f"trainer.devices={ranks}", "trainer.accelerator=gpu", "trainer.precision=bf16-mixed"]
    runs = f"runs={tmp_path}"
    assert start(ranks, *ADAMW, "trainer=ddp", *gpus, runs, "name=ddp") == [0] * ranks
    for name, *keys in (
        ("shards",),
        ("offloaded", "trainer.strategy.cpu_offload=true"),
        ("recomputed", "model.activation_checkpointing=true"),
    ):
        assert start(ranks, *ADAMW, "trainer=fsdp", *gpus, *keys, runs, f"name={name}") == [0] * ranks, name
        ours, theirs = (load(tmp_path / run) for run in (name, "ddp"))
        assert {tensor.dtype for tensor in ours["state_dict"].values()} == {torch.float32}
        # Four steps of AdamW move a weight by at most four rates; bfloat16 rounding decides some of them.
        assert difference(ours["state_dict"], theirs["state_dict"]) <= 2 * STEPS * RATE
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "ddp"), rel=4 * 2.0**-8)
        again = start(
            ranks, *ADAMW, "trainer=fsdp", *gpus, *keys, runs, f"name={name}", "ckpt=last", "trainer.max_steps=6"
        )
        assert again == [0] * ranks
