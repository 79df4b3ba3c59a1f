"""A critic through the front door: what it leaves, how it goes on after a kill, and that any number of ranks agree."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from test_resume import COMMON, kill_at
from test_train import logged
from training import last_checkpoint, start

from tests.real_data import DATA, real_data
from tests.tolerance import adaptive_rounding, distance, terms_of
from wmtp.cache.value_heads import read_head
from wmtp.checkpoints.io import AtomicCheckpointIO
from wmtp.models.loading import find_model, load_model
from wmtp.train import train

FEW = [
    "algo.pretraining.problems=12", "algo.pretraining.heldout_problems=8", "algo.pretraining.steps=12",
    "algo.pretraining.check_every=6", "algo.localisation.problems=8", "data.module.source.validation_size=8",
]  # fmt: skip
SHORT = ["eval.before=false", "eval.after=false", "trainer.max_steps=2", "data.train_size=60"]
SMALL = [*COMMON, *FEW, "recovery=off"]
CPU = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]


class KeepValue(Callback):
    """Write down V as each rank has it when training begins and when it ends."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def keep(self, trainer, algo, when: str) -> None:
        self.folder.mkdir(exist_ok=True)
        torch.save(algo.value.state_dict(), self.folder / f"{when}-{trainer.global_rank}.pt")

    def on_train_start(self, trainer, algo) -> None:
        self.keep(trainer, algo, "start")

    def on_train_end(self, trainer, algo) -> None:
        self.keep(trainer, algo, "end")


def keep_value(folder: Path) -> str:
    return f"+callbacks.keep={{_target_: {__name__}.KeepValue, folder: {folder}}}"


def values(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {file.stem: torch.load(file, weights_only=True) for file in folder.iterdir()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    "algo", ["critic", "combined algo/value=head data.pieces=2 trainer.accumulate_grad_batches=4"], ids=lambda a: a[:8]
)
def test_a_critic_leaves_what_it_knows_behind(config, tmp_path, algo):
    metrics = train(config(f"algo={algo}".split()[0], *algo.split()[1:], *FEW, *SHORT))
    name = algo.split()[0]
    run = tmp_path / "runs" / f"{name}-synthetic-tiny-base"
    found = json.loads((run / "critic.json").read_text())
    assert 12 < found["programs"]["train"] <= 24 and found["programs"]["heldout"] == 16
    assert found["near_chance"] in (True, False)
    head = read_head(run)["head"]
    saved = last_checkpoint(run)
    assert apart(saved["callbacks"]["CriticPretraining"]["head"], head) == 0
    assert not any("value" in key or "network" in key for key in saved["state_dict"])
    assert {"in_span", "first_token_auc"} <= {key.split("/")[2] for key in metrics if key.startswith("after/local")}
    # Standardized scores add up to 0 in every program: their sum knows nothing.
    assert ("after/localisation/sequence_auc" in metrics) == (name == "critic")
    assert list(logged(run, "critic/auc").values()) == [pytest.approx(found["best"]["auc"])]
    assert "Critic's AUC" in (run / "report.md").read_text()


@pytest.mark.slow
def test_a_dry_run_teaches_a_critic_a_little_and_leaves_nothing(config, tmp_path, capsys):
    train(config("algo=critic", "dry_run=true", "data.train_size=60"))
    said = capsys.readouterr()
    assert "takes a step; nothing was kept" in said.out and "near chance" not in said.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_profile_measures_a_critic_without_teaching_it(config, capsys):
    found = train(config("algo=critic", "profile_memory=true", "data.train_size=60"))
    assert found["token_budget"] > 0
    assert "stage 1" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("rewards", ["neg_ce", "reward_model"])
def test_rewards_that_are_no_probability_work_without_another_word(config, tmp_path, rewards):
    more = []
    if rewards == "reward_model":
        from transformers import LlamaConfig, LlamaForSequenceClassification

        from wmtp.models.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(find_model("asset:tiny-base"))
        tokenizer.save_pretrained(tmp_path / "judge")
        small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        shape = LlamaConfig(vocab_size=512, num_labels=1, pad_token_id=tokenizer.pad_token_id, **small)
        LlamaForSequenceClassification(shape).save_pretrained(tmp_path / "judge")
        more = [f"algo.rewards.path={tmp_path / 'judge'}"]
    train(config("algo=critic", f"algo/rewards={rewards}", *more, *FEW, *SHORT))
    found = json.loads((tmp_path / "runs" / "critic-synthetic-tiny-base" / "critic.json").read_text())
    assert found["rewards"] == rewards and found["best"]["auc"] is not None


@pytest.mark.slow
def test_data_without_a_validation_split_trains_to_the_end_and_says_what_is_not_known(config, tmp_path, capsys):
    train(config("algo=critic", *FEW, *SHORT, "data.module.source.validation_size=0"))
    assert "what it knows could not be measured" in capsys.readouterr().err
    assert "not measured" in (tmp_path / "runs" / "critic-synthetic-tiny-base" / "report.md").read_text()


@pytest.mark.slow
def test_a_run_killed_in_stage_1_goes_on_in_its_own_directory_to_the_same_head(tmp_path):
    small = [*SMALL, "algo=critic", "trainer.max_steps=1", "algo.pretraining.steps=600", "ckpt=auto"]
    small += ["algo.pretraining.check_every=30", "algo.pretraining.patience=100"]
    cache = {"WMTP_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "wmtp.train", *small, f"runs={tmp_path / 'runs'}"]
    environment = {**os.environ, **cache, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("cache/value_head/*.partial.pt")):
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert start(*small, f"runs={tmp_path / 'runs'}", **cache).returncode == 0
    assert [run.name for run in (tmp_path / "runs").iterdir()] == ["critic-synthetic-tiny-base"]
    assert not list(tmp_path.glob("cache/value_head/*.partial.pt"))
    assert start(*small, f"runs={tmp_path / 'whole'}", WMTP_CACHE=str(tmp_path / "other")).returncode == 0
    runs = [next((tmp_path / name).iterdir()) for name in ("runs", "whole")]
    assert apart(*(read_head(run)["head"] for run in runs)) == 0
    curves = [json.loads((run / "critic.json").read_text())["curve"] for run in runs]
    assert [point["step"] for point in curves[0]] == list(range(30, 601, 30)) and curves[0] == curves[1]


@pytest.mark.slow
def test_a_run_killed_on_its_way_goes_on_with_its_value_bit_for_bit(tmp_path):
    small = [*SMALL, "algo=critic", "algo/value=head", f"runs={tmp_path}"]
    assert start(*small, "name=whole").returncode == 0
    assert start(*small, "name=killed", kill_at("on_before_backward", 6)).returncode != 0
    killed = tmp_path / "killed"
    assert last_checkpoint(killed)["global_step"] == 4
    # Of a run that is kept in S3 the checkpoint comes alone, and on another machine no cache holds its head.
    (killed / "value_head.safetensors").unlink()
    assert start(*small, "name=killed", "ckpt=last", WMTP_CACHE=str(tmp_path / "cache")).returncode == 0
    whole, resumed = last_checkpoint(tmp_path / "whole"), last_checkpoint(killed)
    assert apart(whole["state_dict"], resumed["state_dict"]) == 0
    value, theirs = (saved["callbacks"]["CriticPretraining"]["head"] for saved in (whole, resumed))
    assert apart(value, theirs) == 0
    assert (apart(value, read_head(tmp_path / "whole")["head"]) == 0) and (tmp_path / "whole" / "critic.json").exists()


@pytest.mark.slow
def test_recovery_goes_on_with_the_same_value(tmp_path):
    fault = f"+callbacks.fault={{_target_: faults.BadValue, place: loss, marks: {tmp_path / 'marks'}, step: 3}}"
    done = start(*COMMON, *FEW, "algo=critic", "algo/value=head", f"runs={tmp_path / 'runs'}", fault)
    assert done.returncode == 0 and "recovery 1: back to step 2" in done.stderr
    run = tmp_path / "runs" / "critic-synthetic-tiny-base"
    assert apart(last_checkpoint(run)["callbacks"]["CriticPretraining"]["head"], read_head(run)["head"]) == 0
    assert done.stdout.count("critic: sequence AUC") == 1


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_head_and_is_said_in_one_sentence(tmp_path):
    small = [*SMALL, "algo=critic", "algo/rewards=neg_ce", "trainer.max_steps=1", f"runs={tmp_path / 'runs'}"]
    # In blocks of 512 bytes: more than any file before the head, less than the head.
    done = start(*small, before="ulimit -f 100;", WMTP_CACHE=str(tmp_path / "cache"))
    assert done.returncode != 0 and "stage 1: 100%" in done.stderr
    assert "DiskFullError: a file may not grow that large here" in done.stderr.splitlines()[-1]
    assert not [file for file in tmp_path.rglob("*value_head*") if file.suffix in (".pt", ".safetensors", ".tmp")]
    assert start(*small, WMTP_CACHE=str(tmp_path / "cache")).returncode == 0


@pytest.mark.slow
def test_two_ranks_fit_the_head_that_one_does_and_all_have_it(tmp_path):
    def fit(name: str, *more: str) -> dict[str, dict[str, torch.Tensor]]:
        small = [*SMALL, "algo=critic", "algo.pretraining.problems=11", "trainer.max_steps=2", f"name={name}", *more]
        environment = {"WMTP_CACHE": str(tmp_path / f"cache-{name}")}
        done = start(*small, f"runs={tmp_path / 'runs'}", keep_value(tmp_path / name), **environment)
        assert done.returncode == 0, done.stderr
        return values(tmp_path / name)

    alone, together = fit("one"), fit("ddp", "trainer=ddp", *CPU)
    sharded = fit("fsdp", "trainer=fsdp", "algo/value=head", *CPU)
    whole = fit("ddp-head", "trainer=ddp", "algo/value=head", *CPU)
    for found in (together, sharded, whole):
        assert sorted(found) == ["end-0", "end-1", "start-0", "start-1"]
        assert all(apart(value, found["start-0"]) == 0 for value in found.values())
    bound = adaptive_rounding(terms_of(load_model(find_model("asset:tiny-base")), positions=512), torch.float32)
    assert distance(together["start-0"], alone["start-0"]) <= bound
    assert distance(sharded["start-0"], whole["start-0"]) <= bound
    curves = [json.loads((tmp_path / "runs" / name / "critic.json").read_text())["curve"] for name in ("one", "ddp")]
    assert curves[1][-1]["loss"] == pytest.approx(curves[0][-1]["loss"], rel=bound)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_ranks_that_are_killed_go_on_together_with_their_value(tmp_path, trainer):
    small = [*SMALL, f"trainer={trainer}", *CPU, "algo=critic", "algo/value=head"]
    small += [f"runs={tmp_path / 'runs'}", "optimizer=adamw", "trainer.max_steps=6"]
    assert start(*small, "name=whole", keep_value(tmp_path / "whole")).returncode == 0
    assert start(*small, "name=killed", kill_at("on_before_backward", 4)).returncode != 0
    assert start(*small, "name=killed", "ckpt=last", keep_value(tmp_path / "resumed")).returncode == 0
    whole, resumed = values(tmp_path / "whole"), values(tmp_path / "resumed")
    assert all(apart(whole["start-0"], value) == 0 for value in (*whole.values(), *resumed.values()))
    saved = [AtomicCheckpointIO().load_checkpoint(tmp_path / "runs" / name / "checkpoints" / "last.ckpt")
             for name in ("whole", "killed")]  # fmt: skip
    assert apart(*(checkpoint["state_dict"] for checkpoint in saved)) == 0


@pytest.mark.slow
@real_data
@pytest.mark.parametrize("data", ["mbpp", "codecontests"])
def test_real_data_teaches_a_critic_or_it_says_that_it_knows_nothing(config, tmp_path, capsys, data):
    real = [f"data={data}", "data.leakage=ignore", "benchmark=mbpp", f"benchmark.path={DATA}/mbpp"]
    real += [f"data.path={DATA}/{data}{'/train_sample.jsonl' * (data == 'codecontests')}", "data.token_budget=2048"]
    few = ["algo.pretraining.problems=40", "algo.pretraining.heldout_problems=20", "algo.localisation.problems=20"]
    few += ["algo.pretraining.steps=60", "algo.pretraining.check_every=30"]
    train(config("algo=critic", *real, *few, "eval.before=false", "eval.after=false", "trainer.max_steps=1"))
    found = json.loads((tmp_path / "runs" / f"critic-{data}-tiny-base" / "critic.json").read_text())
    assert found["programs"]["train"] > 10 and found["programs"]["heldout"] > 4
    assert found["best"]["in_span"] is not None and 0 <= found["best"]["auc"] <= 1
    assert ("near chance (0.5)" in capsys.readouterr().err) == found["near_chance"]
