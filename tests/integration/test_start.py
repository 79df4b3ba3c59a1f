"""What is asked before training is answered without what only training needs; and `--help` names what is there.

Which modules a command imports is held here, not how long that takes: scripts/bench/start.py measures it.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from wmtp import usage
from wmtp.cli import config_dir

SLOW = {
    "torch",
    "pytorch_lightning",
    "lightning_fabric",
    "transformers",
    "torchmetrics",
    "numpy",
    "scipy",
    "safetensors",
}
WHEN_USED = {"mlflow", "matplotlib", "peft", "boto3", "botocore", "s3fs", "pyarrow", "pandas", "sklearn"}
CONFIGS = {"train": "train", "eval": "eval", "precompute": "train", "compare": "compare", "promote": "promote"}


def modules_of(folder: Path, door: str, *arguments: str) -> tuple[int, str, set[str]]:
    """Run a front door; return its exit code, what it said, and which packages it had imported at its end."""
    program = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('\\n' + repr({name.partition('.')[0] for name in sys.modules})))\n"
        f"runpy.run_module('wmtp.{door}', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said, _, modules = done.stdout.rstrip().rpartition("\n")
    return done.returncode, said + done.stderr, ast.literal_eval(modules)


@pytest.mark.parametrize("door", CONFIGS)
def test_help_imports_nothing_that_is_slow_and_fits_on_a_screen(tmp_path, door):
    code, said, modules = modules_of(tmp_path, door, "--help")
    assert code == 0 and not modules & (SLOW | WHEN_USED)
    assert f"python -m wmtp.{door}" in said
    assert said.count("\n") < 50 and max(map(len, said.splitlines())) <= 120


@pytest.mark.parametrize(
    ("door", "arguments"),
    [
        ("train", "algo=rho"),
        ("train", "trainer.max_step=5"),
        ("train", "+lam=0.0"),
        ("train", "algo.weighting.temperature=-1"),
        ("train", "trainer.max_steps=-3"),
        ("train", "data.max_length=0"),
        ("train", "optimizer.lr=abc"),
        ("train", "data.leakage=maybe"),
        ("train", "model=hf"),
        ("train", "-m algo.weighting.lam=7,8"),
        ("eval", "ckpt=x sampling.temperature=hot"),
        ("eval", "ckpt=x ks=[0]"),
        ("eval", "ckpt=x sandbox.workers=0"),
        ("precompute", "data.noise=2"),
        ("compare", "runs=x lang=xx"),
        ("promote", "run=runs/nowhere"),
        ("promote", "run=runs/nowhere to=production2"),
    ],
)
def test_a_mistake_is_answered_before_anything_slow_is_imported(tmp_path, door, arguments):
    code, said, modules = modules_of(tmp_path, door, *arguments.split())
    assert code == 2 and "ConfigError: " in said, said
    assert not modules & (SLOW | WHEN_USED)
    if "is not a key" in said:
        assert "filelock" not in modules  # what wmtp.storage needs: a name is wrong, and no file is looked for


@pytest.mark.long
def test_a_run_begins_with_what_is_asked_for_and_imports_only_what_it_uses(tmp_path):
    small = ["trainer.max_steps=1", "data.train_size=60", "eval.before=false", "eval.after=false", "dry_run=true"]
    code, said, modules = modules_of(tmp_path, "train", "algo=baseline", "logger=csv", *small)
    assert code == 0, said
    assert said.startswith("baseline on synthetic, 1 steps, from asset:tiny-base; loading torch and Lightning …\n")
    # Not ours: accelerate imports boto3, transformers peft, and Lightning asks s3fs whether a folder lies there.
    assert not modules & {"mlflow"}


@pytest.mark.parametrize("config", usage.KEYS)
def test_the_keys_that_help_names_are_there(config):
    chosen = {"train": ["data=mbpp"], "eval": ["benchmark=mbpp"]}.get(config, [])
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose(config, chosen)
    absent = object()
    assert [key for key in usage.KEYS[config] if OmegaConf.select(cfg, key, default=absent) is absent] == []
    assert len(usage.KEYS[config]) <= 10


def test_help_lists_the_options_that_are_there_those_of_the_user_too(tmp_path):
    own = tmp_path / "own" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    _, said, _ = modules_of(tmp_path, "train", "--help", f"--config-dir={tmp_path / 'own'}")
    lines = re.sub(r"\n {8,}", " ", said.split("Groups:")[1].split("Keys")[0]).splitlines()[1:]  # long ones are wrapped
    groups = dict(line.split(None, 1) for line in lines if line)
    assert groups["experiment"].startswith("(none), mine, n200, ") and "sweep_rho1" in groups["experiment"]
    for group, options in groups.items():
        if group != "experiment":
            there = {file.stem for file in (config_dir() / group).glob("*.yaml")}
            assert {option for option in options.split(", ") if option[0] != "("} == there, group
    assert groups["benchmark"].startswith("(that of data), apps, ")


def test_the_option_that_help_names_first_is_the_one_that_is_chosen():
    groups = dict(usage._groups(config_dir() / "train.yaml", [config_dir()]))
    inside = {"algo/rewards": "algo=critic", "algo/value": "algo=critic"}  # which groups only that algorithm has
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for group, options in groups.items():
            cfg = compose("train", [inside[group]] if group in inside else [], return_hydra_config=True)
            choice = cfg.hydra.runtime.choices.get(group)
            if options[0] != "(":
                assert options.split(", ")[0] == choice, group
            else:
                assert choice in (None, cfg.hydra.runtime.choices.data), group


def test_the_examples_of_help_are_those_of_the_config_or_else_of_the_door(tmp_path):
    _, said, _ = modules_of(tmp_path, "precompute", "--help")
    assert "python -m wmtp.precompute trainer=ddp trainer.devices=8 " in said


def test_wmtp_is_one_command_with_several_inside(tmp_path):
    def wmtp(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "wmtp", *arguments], cwd=tmp_path, capture_output=True, text=True)

    listed = wmtp("--help")
    assert listed.returncode == 0 and {line.split()[0] for line in listed.stdout.splitlines()[2:]} == {*CONFIGS}
    assert wmtp("train", "--help").stdout == modules_of(tmp_path, "train", "--help")[1]
    wrong = wmtp("trian")
    assert wrong.returncode == 2 and wrong.stderr.startswith(
        "ConfigError: trian is no command of wmtp; there are train"
    )
    mistake = wmtp("train", "lam=0.5")
    assert mistake.returncode == 2 and "Did you mean algo.weighting.lam?" in mistake.stderr
