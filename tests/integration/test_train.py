import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning import Callback
from training import last_checkpoint
from transformers import AutoModelForCausalLM

from tests.real_data import DATA, real_data
from wmtp.callbacks.learning_rate_scale import LearningRateScale
from wmtp.checkpoints.io import AtomicCheckpointIO
from wmtp.checkpoints.saved_model import SavedModel
from wmtp.cli import front_door
from wmtp.errors import ConfigError, NonFiniteError
from wmtp.eval import evaluate_checkpoint
from wmtp.models.loading import find_model, load_model
from wmtp.models.tokenizer import load_tokenizer
from wmtp.models.weights_digest import weights_digest
from wmtp.run.attempts import write_attempt
from wmtp.run.failure import describe
from wmtp.train import train


class InterruptAfter(Callback):
    """Press Ctrl-C once, when a given number of steps is done; the step after it is the last."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.steps:
            self.steps = None
            os.kill(os.getpid(), signal.SIGINT)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def logged(run: Path, column: str) -> dict[int, float]:
    return {int(row["step"]): float(row[column]) for row in rows(run) if row.get(column)}


def test_a_run_directory_holds_all_that_is_needed(config, tmp_path):
    metrics = train(config())
    run = tmp_path / "runs" / "rho1-synthetic-tiny-base"
    for name in (
        "config.yaml", "metrics.csv", "checkpoints/last.ckpt", "model/model.safetensors", "model/tokenizer.json",
        "report.md", "report.html", "token_weights.json",
        "eval/before/synthetic/metrics.json", "eval/after/synthetic/results.jsonl",
    ):  # fmt: skip
        assert (run / name).is_file(), name
    usual = tmp_path / "usual"
    usual.touch()
    odd = [file for file in run.rglob("*") if file.is_file() and file.stat().st_mode != usual.stat().st_mode]
    assert odd == []
    assert 0 <= metrics["after/synthetic/pass@1"] <= 1
    assert metrics["after/val/ce_head0"] < metrics["before/val/ce_head0"]
    assert AutoModelForCausalLM.from_pretrained(run / "model").config.model_type == "llama"
    # What it was made of, by content: the weights at the start are those that were evaluated before training.
    written = yaml.safe_load((run / "config.yaml").read_text())
    evaluated = json.loads((run / "eval/before/synthetic/eval.json").read_text())
    assert written["made_of"]["model"] == evaluated["ckpt"]
    assert written["made_of"]["data"] and written["made_of"]["benchmarks"]["synthetic"]
    assert written["made_of"]["code"]["version"]


def test_a_run_counts_pass_at_every_k_that_it_is_asked_for(config):
    metrics = train(config("sampling.n=2", "eval.ks=[1,2]", "eval.before=false"))
    assert metrics["after/synthetic/pass@2"] >= metrics["after/synthetic/pass@1"]


def test_the_screen_and_every_report_speak_korean_on_request(config, tmp_path, capsys):
    with pytest.raises(ConfigError, match="lang = 'kr' must be one of en, ko"):
        train(config("lang=kr"))
    train(config("lang=ko", "eval.before=false", "trainer.max_steps=2"))
    said = capsys.readouterr().out
    assert "학습 후" in said and "보고서 " in said and "before" not in said
    run = tmp_path / "runs" / "rho1-synthetic-tiny-base"
    for page in (run / "report.html", run / "eval" / "after" / "synthetic" / "report.html"):
        assert '<html lang="ko">' in page.read_text() and "판정" in page.read_text()


@pytest.mark.long
def test_the_same_config_twice_gives_the_same_numbers(config, tmp_path):
    first, second = train(config()), train(config())
    timeless = [key for key in first if not any(word in key for word in ("speed", "tokens", "seconds"))]
    assert {key: first[key] for key in timeless} == {key: second[key] for key in timeless}
    runs = sorted((tmp_path / "runs").iterdir())
    a, b = (last_checkpoint(run)["state_dict"] for run in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    samples = [(run / "eval" / "after" / "synthetic" / "samples.jsonl").read_bytes() for run in runs]
    assert samples[0] == samples[1]


def test_eval_repeats_the_numbers_that_training_ended_with(config, tmp_path):
    metrics = train(config("sampling.temperature=0", "eval.before=false"))
    run = tmp_path / "runs" / "rho1-synthetic-tiny-base"
    again = evaluate_checkpoint(
        config(f"ckpt={run}", "sampling.temperature=0", "sampling.max_new_tokens=64", root="eval")
    )
    assert again["synthetic/pass@1"] == metrics["after/synthetic/pass@1"]
    (there,) = (run / "eval").glob("last-*")
    assert (there / "samples.jsonl").read_bytes() == (run / "eval/after/synthetic/samples.jsonl").read_bytes()


@pytest.mark.long
def test_a_continued_run_counts_its_new_weights_and_another_start_its_own(config, tmp_path):
    run = tmp_path / "runs" / "r"

    def evaluated(when: str) -> tuple[str, bytes]:
        folder = run / "eval" / when / "synthetic"
        return json.loads((folder / "eval.json").read_text())["ckpt"], (folder / "timings.jsonl").read_bytes()

    def weights() -> str:
        return weights_digest(SavedModel(run / "checkpoints" / "last.ckpt").load()[0])

    train(config("name=r", "trainer.max_steps=2"))
    before, after = evaluated("before"), evaluated("after")
    assert after[0] == weights() != before[0]

    train(config("name=r", "trainer.max_steps=4", f"ckpt={run}"))
    assert evaluated("after")[0] == weights() != after[0]
    assert evaluated("after")[1] != after[1]  # generated and judged anew
    assert evaluated("before") == before  # the start is the same, so nothing of it was

    other = load_model(find_model("asset:tiny-base"))
    with torch.no_grad():
        other.decoder_layers[0].mlp.down_proj.weight.mul_(-1)
    other.save_pretrained(tmp_path / "other")
    load_tokenizer(find_model("asset:tiny-base")).save_pretrained(tmp_path / "other")
    once_more = ["name=r", "trainer.max_steps=5", f"ckpt={run}", "eval.after=false"]
    train(config(*once_more, f"model.path={tmp_path / 'other'}"))
    assert evaluated("before")[0] == weights_digest(other) and evaluated("before")[1] != before[1]


@pytest.mark.parametrize(
    "accumulate", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.long)]
)
def test_a_run_stopped_by_ctrl_c_goes_on_bit_for_bit(config, tmp_path, accumulate):
    common = ["eval.before=false", "eval.after=false", "trainer.max_steps=6", "data.train_size=90"]
    common += [f"trainer.accumulate_grad_batches={accumulate}"]
    train(config(*common, "name=whole"))
    interrupt = f"+callbacks.interrupt={{_target_: {__name__}.InterruptAfter, steps: 2}}"
    with pytest.raises(KeyboardInterrupt):
        train(config(*common, "name=stopped", interrupt))
    stopped = tmp_path / "runs" / "stopped"
    assert last_checkpoint(stopped)["global_step"] == 3
    resumed = train(config(*common, "name=stopped", "ckpt=last"))
    starts = [row for row in rows(stopped) if row["step"] == "0"]
    assert [row["train/loss"] != "" for row in starts] == [False, False, True]  # two from before the first step
    assert resumed["before/val/ce_head0"] == logged(stopped, "val/ce_head0")[0]
    whole, resumed = (last_checkpoint(run)["state_dict"] for run in (tmp_path / "runs" / "whole", stopped))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    losses = logged(tmp_path / "runs" / "whole", "train/loss")
    assert len(losses) == 6
    assert logged(stopped, "train/loss") == losses


def test_dry_run_takes_a_step_and_leaves_nothing(config, tmp_path):
    train(config("dry_run=true"))
    assert not (tmp_path / "runs").exists()


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.long
def test_dry_run_of_a_run_that_goes_on_takes_a_step_more_and_touches_nothing(config, tmp_path, monkeypatch, capsys):
    common = ["name=run", "eval.before=false", "eval.after=false", "data.train_size=90"]
    train(config(*common, "trainer.max_steps=2"))
    run = tmp_path / "runs" / "run"
    (run / "model" / "config.json").unlink()  # as if it had not come to its end
    write_attempt(run, describe(NonFiniteError("loss")), ("lower rate", {"callbacks.learning_rate.scale": 0.5}))
    before, rates = contents(tmp_path / "runs"), []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, algo, optimizer):
            (rate,) = (one for one in trainer.callbacks if isinstance(one, LearningRateScale))
            rates.append((trainer.global_step, rate.scale))

    monkeypatch.setattr(sys.modules[__name__], "Watch", Watch, raising=False)
    watch = f"+callbacks.watch._target_={__name__}.Watch"
    for ckpt in ("last", "auto", str(run), str(run / "checkpoints" / "last.ckpt")):
        train(config(*common, "dry_run=true", f"ckpt={ckpt}", watch))
        assert rates == [(2, 0.5)]  # the third step, at the rate that recovery has lowered
        rates.clear()
    assert contents(tmp_path / "runs") == before
    assert capsys.readouterr().out.count("nothing was kept") == 4


@pytest.mark.parametrize("algo", ["baseline", "rho1 algo.score=absolute", "rho1 algo/weighting=hard"])
def test_every_algorithm_trains(config, algo):
    metrics = train(config(*f"algo={algo}".split(), "eval.before=false", "eval.after=false", "trainer.max_steps=2"))
    assert metrics["after/val/ce_head0"] != metrics["before/val/ce_head0"]


def test_one_head_is_trained_by_the_same_command(config):
    metrics = train(config("model.heads=1", "eval.before=false", "eval.after=false", "trainer.max_steps=2"))
    assert "after/val/ce_head1" not in metrics


@real_data
def test_mbpp_from_a_local_file_trains_and_runs_its_real_tests(config, tmp_path):
    metrics = train(config("data=mbpp", f"data.path={DATA}/mbpp", "data.token_budget=2048"))
    assert metrics["after/val/ce_head0"] < metrics["before/val/ce_head0"]
    run = tmp_path / "runs" / "rho1-mbpp-tiny-base"
    results = (run / "eval/after/mbpp/results.jsonl").read_text().splitlines()
    assert [json.loads(line)["task_id"] for line in results] == ["mbpp/11", "mbpp/12", "mbpp/13", "mbpp/14"]


@pytest.mark.long
def test_every_point_of_a_sweep_gets_a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["logger=csv", "trainer.max_steps=1", "data.train_size=50", "eval.before=false", "eval.after=false"]
    sweep = ["algo.weighting.lam=0.1,1.0", "algo.weighting.temperature=0.5,0.7"]
    monkeypatch.setattr(sys, "argv", ["wmtp.train", "--multirun", *sweep, *small])
    with pytest.raises(SystemExit) as stopped:
        front_door(train, "train")
    assert stopped.value.code == 0
    assert sorted(run.name for run in (tmp_path / "runs").iterdir() if (run / "config.yaml").exists()) == [
        f"rho1-synthetic-tiny-base-lam_{lam}-temperature_{temperature}"
        for lam in ("0.1", "1.0")
        for temperature in ("0.5", "0.7")
    ]


def test_a_save_that_fails_leaves_the_checkpoint_before_it_whole(tmp_path):
    io, checkpoint = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": torch.tensor(1)}, checkpoint)
    script = (
        "import resource, sys, torch\n"
        "from wmtp.checkpoints.io import AtomicCheckpointIO\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "AtomicCheckpointIO().save_checkpoint({'step': torch.zeros(100_000)}, sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(checkpoint)], capture_output=True)
    assert done.returncode != 0
    assert torch.load(checkpoint, weights_only=True)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
