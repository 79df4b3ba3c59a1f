"""Every mistake gets one sentence, exit code 2, and leaves nothing behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from wmtp.cli import front_door
from wmtp.errors import CheckpointError, ConfigError, DataFormatError
from wmtp.eval import evaluate_checkpoint
from wmtp.storage.lock import alone
from wmtp.train import train

ASSETS = Path(str(resources.files("wmtp") / "assets"))


@pytest.fixture
def answer(tmp_path, capsys, monkeypatch):
    """Run a front door in this process and return the sentence it ends with."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, program=train, name="train") -> str:
        small = ["data.train_size=50"] if name == "train" and "data=mbpp" not in arguments else []
        monkeypatch.setattr(sys, "argv", [f"wmtp.{name}", *small, *arguments])
        with pytest.raises(SystemExit) as stopped:
            front_door(program, name)
        assert stopped.value.code == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(said) == 1, said
        assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
        return said[0]

    return run


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("algo=rho", r"ConfigError: algo = rho is not one of .*baseline.*rho1.*Did you mean rho1\?"),
        ("trainer.max_step=5", r"ConfigError: trainer\.max_step is not a key"),
        ("algo.weighting.temperature=0", r"ConfigError: algo\.weighting\.temperature = 0 must be a number > 0"),
        ("algo.weighting.percentile=7", r"ConfigError: algo\.weighting\.percentile = 7 must be"),
        ("algo.weighting.lam=abc", r"ConfigError: algo\.weighting\.lam = 'abc' must be a number"),
        ("algo.score=relative", r"ConfigError: algo\.score = 'relative' must be one of excess, absolute"),
        ("data.noise=2", r"ConfigError: data\.noise = 2"),
        ("data.token_budget=10", r"ConfigError: data\.max_length|ConfigError: data\.token_budget"),
        ("model=hf", r"ConfigError: model\.path has no value and no default; set it: model\.path=…"),
        ("trainer=gpu", r"ConfigError: trainer\.accelerator = gpu, but torch .* sees no GPU here; set trainer=cpu"),
        ("model.path=/nowhere", r"DataNotFoundError: model\.path = /nowhere: no config\.json"),
        ("model.heads=8", r"ConfigError: model\.heads = 8.*heads_init=copy"),
        (
            "model.export.dtype=half",
            r"ConfigError: model\.export\.dtype = 'half' must be one of source, float32, bfloat16",
        ),
        (
            "model.export.adapter=only",
            r"ConfigError: .* = only, but the model is trained whole; set model/adapter=lora",
        ),
        (
            "model/adapter=lora model.export.adapter=only",
            r"ConfigError: .* = only cannot keep the heads of model\.heads = 4, .*; set model\.export\.heads=drop",
        ),
        ("sampling.temperature=hot", r"ConfigError: sampling\.temperature = 'hot' must be a number >= 0"),
        ("eval.ks=[1,2]", r"ConfigError: pass@2 needs at least 2 samples .* Set sampling\.n=2 or more"),
        ("eval.ks=[0]", r"ConfigError: eval\.ks: k = 0 must be a whole number"),
        ("optimizer.lr=-1", r"ConfigError: optimizer\.lr = -1 must be a number > 0"),
        ("trainer.max_steps=many", r"ConfigError: trainer\.max_steps = 'many' must be a whole number"),
        ("data=mbpp data.path=/nowhere", r"DataNotFoundError: data=mbpp: .* data\.path=/nowhere"),
        ("data=humaneval", r"ConfigError: data = humaneval is for evaluation only.*benchmark=humaneval"),
        ("data=[mbpp,codecontests]", r"ConfigError: data = \[mbpp,codecontests\] must be one choice.*data=mix"),
        ("data=mbpp,codecontests", r"ConfigError: data = mbpp,codecontests must be one choice.*data=mix"),
        ("data.leakage=maybe", r"ConfigError: data\.leakage = 'maybe' must be one of drop, error, ignore"),
        ("ckpt=last", r"CheckpointError: ckpt = last: no run of rho1-synthetic-tiny-base"),
        ("ckpt=/nowhere/last.ckpt", r"CheckpointError: ckpt = /nowhere/last\.ckpt: no file"),
        ("algo/rewards=tests", r"ConfigError: algo/rewards is a group of algo=combined, critic alone; choose one"),
        ("algo=baseline algo/weighting=hard", r"ConfigError: algo/weighting is a group of algo=combined, critic, "),
        ("lam=0.5", r"ConfigError: lam is not a key of this config.*Did you mean algo\.weighting\.lam\?$"),
        ("max_step=3", r"ConfigError: max_step is not a key of this config.*Did you mean trainer\.max_steps\?$"),
        ("+lam=0.0", r"ConfigError: lam changes nothing.*Did you mean algo\.weighting\.lam\?$"),
        ("+max_steps=3", r"ConfigError: max_steps changes nothing.*Did you mean trainer\.max_steps\?$"),
        (
            "+data.path=own.jsonl",
            r"ConfigError: data\.path changes nothing.*It is a key of data=apps, codecontests, jsonl, mbpp, taco",
        ),
        ("+callbacks.x.every=3", r"ConfigError: callbacks\.x\.every changes nothing"),
        ("data=mix +data.path.synthetic=x", r"ConfigError: data\.path\.synthetic changes nothing"),
        ("+algo.lam=0.5", r"ConfigError: algo\.lam is not a key that wmtp\.algos\.rho1\.Rho1 takes"),
        (
            "trainer.max_time=1",
            r"ConfigError: .*What pytorch_lightning\.Trainer takes .* is added with \+trainer\.max_time=",
        ),
        ("+seed=3", r"ConfigError: seed is a key of this config already; write seed=… without the \+"),
        ("+experiment=n200", r"ConfigError: experiment is a key of this config already"),
        ("experiment=nope", r"ConfigError: experiment = nope is not one of .*n200, .*\(conf/experiment/\)"),
        ("hydra.sweeper.params.model.heads=2", r".* narrows an experiment that sweeps; here give model.heads=2\."),
        ("-m hydra/launcher=submitit_slum", r"ConfigError: hydra/launcher = submitit_slum is not one of "),
        ("+p=${q} +q=${p}", r"ConfigError: p = \$\{q\} cannot be read: it leads back to itself"),
        ("name=${nope}", r"ConfigError: name = \$\{nope\} cannot be read: Interpolation key 'nope' not found"),
        ("name=${oc.env:NOPE_NOPE}", r"ConfigError: name = .*Environment variable 'NOPE_NOPE' not found"),
        ("+p=${q", r"ConfigError: \+p='\$\{q' cannot be read"),
        (f"{'.'.join('a' * 300)}=1", r"ConfigError: a\.a\.a.* is nested too deeply"),
        (f"+a={'[' * 300}{']' * 300}", r"ConfigError: \+a=\[\[\[.* is nested too deeply"),
        ("한글=1", r"ConfigError: 한글=1 cannot be read: a key is words of letters"),
        ("name=choice(가,나)", r"ConfigError: .* all of it if it is one text: 'name=\"choice\(가,나\)\"'"),
        ("name=[a]", r"ConfigError: name = \['a'\] must be a text"),
        ("seed=abc", r"ConfigError: seed = 'abc' must be a whole number"),
        ("dry_run=maybe", r"ConfigError: dry_run = 'maybe' must be true or false"),
        ("name=a/b", r"ConfigError: name = 'a/b' must be letters"),
        ("name=..", r"ConfigError: name = '\.\.' must be letters.* and begin with a letter"),
        (f"name={'x' * 300}", r"ConfigError: name = x+ is too long for a folder .*set a shorter name"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(answer, overrides, sentence):
    assert re.match(sentence, answer(*overrides.split()))


def test_a_malformed_row_is_named_with_its_line(answer, tmp_path):
    (tmp_path / "mbpp.jsonl").write_text('{"task_id": 601, "text": "t", "code": "c"\n')
    said = answer("data=mbpp", f"data.path={tmp_path / 'mbpp.jsonl'}")
    assert said.startswith("DataFormatError: ")
    assert "mbpp.jsonl" in said and "1" in said


def test_a_reference_with_another_tokenizer_is_refused(answer, tmp_path):
    other = tmp_path / "reference"
    shutil.copytree(ASSETS / "tiny-reference", other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(other)
    said = answer(f"model.reference={other}")
    assert said.startswith(f"TokenizerMismatchError: model.reference = {other} reads other tokens")


def test_a_sample_longer_than_the_positions_that_a_model_has_learned_is_refused(answer, tmp_path, capsys):
    folder = tmp_path / "gpt2"
    shutil.copytree(ASSETS / "tiny-base", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=8, n_layer=2, n_head=2, n_positions=32)).save_pretrained(folder)
    capsys.readouterr()
    said = answer("model=hf", f"model.path={folder}", "model.heads=1", "algo=baseline", "eval.before=false")
    assert re.match(r"ConfigError: data\.max_length = \d+ lets in a sample .* set data\.max_length=32\.", said)


def test_a_truncated_model_file_is_refused(answer, tmp_path):
    broken = tmp_path / "base"
    shutil.copytree(ASSETS / "tiny-base", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    assert "truncated" in answer(f"model.path={broken}")


@pytest.mark.long
def test_a_truncated_checkpoint_and_one_of_another_model_are_refused(answer, config, tmp_path, capsys):
    train(config("trainer.max_steps=1", "eval.before=false", "eval.after=false"))
    last = tmp_path / "runs" / "rho1-synthetic-tiny-base" / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    truncated, pickled = tmp_path / "truncated.ckpt", tmp_path / "pickled.ckpt"
    truncated.write_bytes(whole[:200_000])
    torch.save({"wmtp": {}, "code": Path}, pickled)
    kept = tmp_path / "kept.ckpt"
    shutil.copy(last, kept)
    shutil.rmtree(tmp_path / "runs")
    capsys.readouterr()
    assert answer(f"ckpt={truncated}").startswith(f"CheckpointError: ckpt = {truncated} is truncated")
    assert answer(f"ckpt={pickled}").startswith(f"CheckpointError: ckpt = {pickled} is")
    assert "is of another model" in answer(f"ckpt={kept}", "model.heads=1")
    assert "optimizer=muon, and this is optimizer=adamw; give optimizer=muon" in answer(
        f"ckpt={kept}", "optimizer=adamw"
    )
    flipped = bytearray(kept.read_bytes())
    flipped[len(flipped) // 2] ^= 4
    truncated.write_bytes(flipped)
    assert re.search(r"is damaged: \S+/data/\d+ is not as it was written.*ckpt=auto", answer(f"ckpt={truncated}"))
    truncated.write_bytes(whole[:200_000])
    evaluate = dict(program=evaluate_checkpoint, name="eval")
    assert "truncated" in answer(f"ckpt={truncated}", **evaluate)
    assert "give exactly one" in answer(**evaluate)
    assert answer("samples=x.jsonl", **evaluate).startswith("ConfigError: benchmark")


@pytest.mark.parametrize(
    "arguments",
    [
        "data=mbpp data.path=s3://user:hunter2x9@bucket/mbpp",
        "data=mbpp data.path=s3://bucket/mbpp?token=hunter2x9",
        "model=hf model.path=https://hunter2x9@host/model",
        "+db_pwd=hunter2x9",
        "+logger.mlflow.tokens=[hunter2x9]",
        "logger.mlflow.tracking_uri=postgresql://me:p@hunter2x9@host/db",
        "-m algo.weighting.lam=0.1,0.3 ckpt=s3://me:hunter2x9@bucket/run",
    ],
)
def test_a_secret_in_a_command_is_refused_before_any_network_and_never_shown(answer, arguments, monkeypatch, tmp_path):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    said = answer(*arguments.split())
    assert said.startswith("ConfigError: ") and "holds a secret" in said and "environment variable" in said
    assert "hunter2x9" not in said
    assert not any(tmp_path.iterdir())


ROWS = {
    "unknown.jsonl": '{"task_id": "x/1", "completion": ""}',
    "good.jsonl": '{"task_id": "Mbpp/11", "completion": ""}',
    "short.jsonl": '{"task_id": "mbpp/11"}',
}
LONG = "a" * 260


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("samples=unknown.jsonl", r".*task_id = x/1 is not in mbpp, split all; an id is written like mbpp/11\."),
        ("samples=- benchmark.limit=1", r"ConfigError: out has no value, and results cannot go beside standard input"),
        (
            "samples=good.jsonl extract=markdown",
            r"ConfigError: extract = 'markdown' must be one of none, fence, auto\.",
        ),
        ("samples=short.jsonl", r".*short\.jsonl:1: completion is missing\. .* described in docs/evaluation\.md\)"),
        ("samples=x benchmark.path=/nowhere", r"DataNotFoundError: samples = x: no such file"),
        (
            "samples=good.jsonl benchmark.path=/nowhere",
            r"DataNotFoundError: benchmark=mbpp: .* benchmark\.path=/nowhere",
        ),
        ("diff=lora,lora samples=good.jsonl", r"ConfigError: ckpt, generator, samples and diff: give exactly one"),
        ("diff=lora,nowhere", r"ConfigError: diff = lora,nowhere must be two folders with results"),
        ("diff=lora,lora", r"ConfigError: diff: lora holds no results\.jsonl"),
        (f"samples={LONG}", r"ConfigError: samples = a+ cannot be used \(File name too long\)"),
        (f"ckpt={LONG}", r"ConfigError: ckpt = a+ cannot be used \(File name too long\)"),
        ("ckpt=lora", r"DataNotFoundError: ckpt = lora is an adapter without its model"),
        ("ckpt=model:lora out=out", r"DataNotFoundError: ckpt = lora is an adapter without its model"),
        ("samples=short.jsonl benchmark=nope", r"ConfigError: benchmark = nope is not one of .*mbpp"),
        ("samples=short.jsonl ks=1", r"ConfigError: ks = 1 must be a list, such as \[1, 10\]"),
    ],
)
def test_a_mistake_in_an_evaluation_names_what_to_change(answer, tmp_path, arguments, sentence):
    for name, row in ROWS.items():
        (tmp_path / name).write_text(row + "\n")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    row = {"task_id": 11, "text": "t", "code": "def f(): pass", "test_list": ["assert f() is None"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(row) + "\n")
    said = answer("benchmark=mbpp", "benchmark.path=.", "benchmark.split=all", *arguments.split(),
                  program=evaluate_checkpoint, name="eval")  # fmt: skip
    assert re.match(sentence, said), said


def test_an_experiment_may_change_any_key_and_add_none_that_nothing_reads(answer, tmp_path):
    experiment = tmp_path / "own" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nlam: 0.5\n")
    said = answer(f"--config-dir={tmp_path / 'own'}", "experiment=mine")
    assert said.startswith("ConfigError: lam changes nothing") and "Did you mean algo.weighting.lam?" in said


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_secret_in_a_file_of_the_user_is_refused_and_left_nowhere(answer, tmp_path, mode):
    experiment = tmp_path / "own" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nlogger: {mlflow: {tracking_uri: 'http://me:hunter2x9@host'}}\n")
    said = answer(*mode, f"--config-dir={tmp_path / 'own'}", "experiment=mine")
    assert said.startswith("ConfigError: logger.mlflow.tracking_uri = http://***@host holds a secret")
    assert not list((tmp_path).glob("runs/*"))


def test_the_stack_of_a_bug_shows_no_secret(tmp_path):
    program = "import wmtp.cli\ndef bug(cfg): raise RuntimeError('GET https://host/x?token=hunter2' + 'x9: 403')\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}wmtp.cli.front_door(bug, 'train')"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "RuntimeError: GET https://host/x?token=***" in done.stderr and "Traceback" in done.stderr
    assert "hunter2x9" not in done.stderr


def test_a_config_error_is_answered_without_importing_torch(tmp_path):
    script = "import sys, wmtp.cli, wmtp.train\nassert 'torch' not in sys.modules\nwmtp.train.main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script, "algo=rho"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 2
    assert "ConfigError: algo = rho" in done.stderr
    assert " torch\n" not in done.stderr


def test_a_bug_while_a_mistake_is_reported_is_shown_as_a_bug(monkeypatch, capsys):
    def program(cfg):
        try:
            raise ConfigError("optimizer.lr = -1 must be a number > 0.")
        except ConfigError as mistake:
            raise KeyError("a bug in the report") from None if cfg.seed == 1 else mistake

    for seed, sentence in ((1, False), (2, True)):
        monkeypatch.setattr(sys, "argv", ["wmtp.train", f"seed={seed}"])
        with pytest.raises(SystemExit if sentence else KeyError):
            front_door(program, "train")
        assert ("optimizer.lr = -1" in capsys.readouterr().err) == sentence


@pytest.mark.long
def test_a_run_goes_on_only_as_what_it_is(config, tmp_path):
    small = ["name=run", "eval.before=false", "eval.after=false", "trainer.max_steps=1", "data.train_size=60"]
    train(config(*small))
    run = tmp_path / "runs" / "run"
    kept = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match=r"trained with algo=rho1, and this is algo=baseline; give algo=rho1"):
        train(config(*small, "ckpt=last", "algo=baseline"))
    with pytest.raises(CheckpointError, match=r"trained on other data \(data\.\*"):
        train(config(*small, "ckpt=last", "data.noise=0.25"))
    with alone(run / ".lock"), pytest.raises(CheckpointError, match="another process is training there"):
        train(config(*small, "ckpt=last", "trainer.max_steps=2"))
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == kept
    copy = tmp_path / "copy.ckpt"  # of no run: it goes on in a directory of its own, whatever the algorithm
    shutil.copy(run / "checkpoints" / "last.ckpt", copy)
    train(config(*small, "name=own", f"ckpt={copy}", "algo=baseline", "trainer.max_steps=2"))
    assert (tmp_path / "runs" / "own" / "model" / "config.json").is_file()
    (run / "metrics.csv").write_bytes(bytes(range(256)))
    with pytest.raises(DataFormatError, match=r"metrics\.csv is no table of metrics; move it away"):
        train(config(*small, "ckpt=last", "trainer.max_steps=2"))
