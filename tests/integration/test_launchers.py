"""What a launcher shows starts the very same run: it is run as shown, by bash, torchrun and stand-ins of schedulers."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from tests.integration.test_commands import SMALL, shell
from tests.integration.test_start import SLOW, WHEN_USED, modules_of

ROOT = Path(__file__).resolve().parents[2]
CPU_RANKS = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]
VESSL = ["launcher=vessl", "launcher.image=registry/wmtp:1", "launcher.cluster=c", "launcher.preset=gpu-a100-4"]
# As in the documents; SLURM's and VESSL's examples in docker/ are what these show.
STUDY = [
    "algo=rho1", "model=hf", "model.path=/shared/models/base", "model.reference=/shared/models/reference", "data=mbpp",
    "data.path=/shared/mbpp", "optimizer=adamw", "trainer=fsdp", "runs=/shared/runs", "name=first",
]  # fmt: skip
EXAMPLES = {
    "slurm.sbatch": [
        *STUDY, "trainer.devices=8", "trainer.num_nodes=2", "launcher=slurm", "launcher.partition=a100",
        "launcher.memory=900G", "launcher.setup=[cd /shared/wmtp, source .venv/bin/activate]",
        "launcher.env={WMTP_CACHE: /shared/cache}",
    ],
    "vessl.yaml": [
        *STUDY, "trainer.devices=4", "storage.s3.bucket=my-bucket", "launcher=vessl",
        "launcher.image=registry.example.com/wmtp:cuda", "launcher.cluster=my-cluster", "launcher.preset=gpu-a100-4",
        "launcher.inputs={/shared/mbpp: 'volume://vessl-storage/mbpp'}",
        "launcher.mounts={/shared/models: 'volume://my-cluster-storage/models', "
        "/shared/runs: 'volume://my-cluster-storage/runs', /shared/cache: 'volume://my-cluster-storage/cache'}",
        "launcher.env={WMTP_CACHE: /shared/cache, MLFLOW_TRACKING_URI: 'https://mlflow.example.com'}",
        "launcher.private_env=[AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_USERNAME, "
        "MLFLOW_TRACKING_PASSWORD, HF_TOKEN]",
    ],
}  # fmt: skip


@pytest.fixture
def say(tmp_path, monkeypatch, capsys):
    """Give a front door a command line in this process; return its exit code, what it showed and what it said."""

    def say(*arguments: str, door: str = "train") -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"wmtp.{door}", *arguments])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        with pytest.raises(SystemExit) as ended:
            import_module(f"wmtp.{door}").main()
        return ended.value.code, *capsys.readouterr()

    return say


@pytest.fixture
def shown(say):
    """Return what a command shows that starts its job elsewhere."""

    def shown(*arguments: str, door: str = "train") -> str:
        code, out, err = say(*arguments, door=door)
        assert (code, err) == (0, "")
        return out

    return shown


def stand_in(folder: Path, name: str, script: str) -> dict[str, str]:
    """Put a program of our own under a scheduler's name before all others; return the environment."""
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)
    return {"PATH": f"{file.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def overrides_of(command: str) -> list[str]:
    """Read a shown command as a shell does, and return what follows its module."""
    words = shlex.split(command.replace("\\\n", " "))
    return words[words.index("-m") + 2 :]


@pytest.mark.slow
def test_the_command_of_torchrun_runs_as_shown_with_every_rank(tmp_path, shown):
    typed = [*CPU_RANKS, *SMALL, "trainer.max_steps=2", "logger=csv", "runs=a b, c's (1)", "name=x=1,2"]
    command = shown(*typed, "launcher=torchrun", "dry_run=true")
    assert command.startswith("torchrun --standalone --nproc-per-node=2 -m wmtp.train ")
    assert overrides_of(command) == typed
    assert list(tmp_path.iterdir()) == []

    done = shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "a b, c's (1)" / "x=1,2"
    config = OmegaConf.load(run / "config.yaml")
    assert (config.name, config.trainer.max_steps, config.trainer.devices) == ("x=1,2", 2, 2)
    assert {file.name for file in run.glob("train*.log")} == {"train.log", "train-rank1.log"}


@pytest.mark.slow
def test_torchrun_is_started_here_and_its_exit_code_is_that_of_the_command(tmp_path):
    typed = [*CPU_RANKS, *SMALL, "trainer.max_steps=1", "logger=csv", "name=here", "dry_run=false"]
    started = ["launcher=torchrun", "launcher.submit=true"]
    done = shell(shlex.join(["python", "-m", "wmtp.train", *typed, *started]), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "here" / "train-rank1.log").is_file()
    done = shell(shlex.join(["python", "-m", "wmtp.train", *typed, *started, "ckpt=runs/nothing"]), tmp_path)
    assert done.returncode == 1 and "CheckpointError: " in done.stderr


def test_several_machines_get_a_line_each_and_the_processes_that_were_asked_for(shown):
    lines = shown(
        "trainer=fsdp", "launcher=torchrun", "launcher.nodes=2", "launcher.processes=8", "launcher.address=h0"
    ).splitlines()
    assert lines == [
        f"torchrun --nnodes=2 --node-rank={rank} --nproc-per-node=8 --master-addr=h0 --master-port=29500 -m wmtp.train "
        "trainer=fsdp trainer.num_nodes=2 trainer.devices=8"
        for rank in (0, 1)
    ]


@pytest.mark.slow
def test_the_script_of_slurm_goes_on_until_it_is_done(tmp_path):
    """A stand-in of sbatch runs the script here, one of srun its command, one of scontrol counts and runs it again."""
    typed = [*SMALL, "trainer.max_steps=4", "logger=csv", "runs=a 'b, c", "name=x"]
    stop = f"+callbacks.stop={{_target_: faults.Signal, name: SIGUSR1, marks: {tmp_path / 'marks'}, step: 2}}"
    env = stand_in(tmp_path, "sbatch", "cat > job; bash job > log 2>&1; echo $? > code; echo Submitted batch job 7")
    stand_in(tmp_path, "srun", 'while [ "${1#--}" != "$1" ]; do shift; done; "$@"')
    stand_in(tmp_path, "scontrol", 'echo "$@" >> requeued; bash job > log2 2>&1; echo $? > code2')
    env |= {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}", "SLURM_JOB_ID": "7"}
    command = [sys.executable, "-m", "wmtp.train", *typed, stop, "launcher=slurm"]
    outside = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}

    dry = [*command, "launcher.submit=true", "dry_run=true", "launcher.setup=[]"]
    script = subprocess.run(dry, cwd=tmp_path, env=outside | env, capture_output=True, text=True).stdout
    assert overrides_of(script[script.index("srun --kill") : script.index(" || code")]) == [*typed, stop, "ckpt=auto"]
    assert not (tmp_path / "job").exists() and subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0

    command += ["launcher.submit=true", "launcher.cpus=1"]
    done = subprocess.run(command, cwd=tmp_path, env=outside | env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "Submitted batch job 7\n", done.stderr
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert [(tmp_path / file).read_text() for file in ("code", "code2")] == ["75\n", "0\n"]
    assert "Stopped at step" in (tmp_path / "log").read_text()
    assert (tmp_path / "a 'b, c" / "x" / "model" / "config.json").is_file()


@pytest.mark.parametrize("file", EXAMPLES)
def test_the_examples_are_what_the_launchers_show(shown, file):
    assert shown(*EXAMPLES[file]) == (ROOT / "docker" / file).read_text("utf-8")


def test_the_file_for_vessl_names_secrets_and_holds_none(tmp_path, shown, monkeypatch):
    spec = yaml.safe_load(shown(*EXAMPLES["vessl.yaml"]))
    assert spec["env"]["HF_TOKEN"] == {"secret": "HF_TOKEN"}
    assert spec["env"]["MLFLOW_TRACKING_URI"] == "https://mlflow.example.com"
    assert overrides_of(spec["run"][0]["command"]) == [*STUDY, "trainer.devices=4", "storage.s3.bucket=my-bucket",
                                                       "ckpt=auto"]  # fmt: skip
    for name, value in stand_in(tmp_path, "vessl", 'cp "$4" taken; echo "$1 $2 $3"').items():
        monkeypatch.setenv(name, value)
    assert shown("trainer=gpu", "name=x", "launcher.submit=true", *VESSL) == "run create -f\n"
    assert yaml.safe_load((tmp_path / "taken").read_text())["resources"] == {"cluster": "c", "preset": "gpu-a100-4"}


def test_a_secret_of_the_environment_is_never_written_into_a_job(say, monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", "not-for-others")
    code, out, err = say("name=x", "launcher=slurm", "launcher.env={X: '${oc.env:LAB_TOKEN}'}")
    assert code == 2 and "would hold a secret (export X=***)" in err
    assert "not-for-others" not in out + err


def test_the_points_of_a_sweep_are_jobs_of_their_own(tmp_path, shown):
    sweep = ["-m", "algo.weighting.lam=0.1,0.3", "name=s=1", "launcher=slurm"]
    scripts = shown(*sweep).split("#!/bin/bash\n")[1:]
    runs = [overrides_of(script[script.index("srun --kill") : script.index(" || code")]) for script in scripts]
    assert runs == [[f"algo.weighting.lam={lam}", f"name=s=1-lam_{lam}", "ckpt=auto"] for lam in ("0.1", "0.3")]
    assert [re.search("--job-name=(.*)", script)[1] for script in scripts] == ["wmtp-s_1-lam_0.1", "wmtp-s_1-lam_0.3"]
    assert not list(tmp_path.glob("runs/*/"))


def test_a_launcher_that_a_file_chose_is_not_chosen_again_by_the_job(tmp_path, shown):
    for path, text in {
        "launcher/lab.yaml": "defaults: [slurm]\npartition: lab\nsetup: []\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /launcher: lab\n",
    }.items():
        (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / path).write_text(text)
    script = shown("--config-dir=own", "experiment=mine", "name=x")
    assert "#SBATCH --partition=lab\n" in script
    run = overrides_of(script[script.index("srun --kill") : script.index(" || code")])
    assert run == ["--config-dir=own", "experiment=mine", "name=x", "launcher=local", "ckpt=auto"]


def test_evaluations_and_precomputing_are_started_as_well(shown):
    script = shown("ckpt=runs/x", "launcher=slurm", "launcher.processes=4", "launcher.setup=[]", door="eval")
    assert "python -m wmtp.eval \\\n    ckpt=runs/x || code=$?\n" in script and "--ntasks-per-node=4\n" in script
    assert "--signal" not in script and "scontrol" not in script  # the same command goes on, and no code says so
    command = shown("launcher=torchrun", door="precompute")
    assert command == "torchrun --standalone --nproc-per-node=1 -m wmtp.precompute\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["launcher=slurm"],
            "ConfigError: name has no value, and a job that is started again finds its run",
        ),
        (["name=x y", "launcher=slurm"], "ConfigError: name = 'x y' must be letters, digits and ._=,+- only"),
        (["name=x", "launcher=slurm", "trainer.max_steps=0"], "ConfigError: trainer.max_steps = 0 must be"),
        (
            ["name=x", "launcher=slurm", "launcher.time=tomorrow"],
            "ConfigError: launcher.time = 'tomorrow' must be",
        ),
        (["name=x", "launcher=slurm", "launcher.memory=64 GB"], "ConfigError: launcher.memory = '64 GB' must be like"),
        (["name=x", "launcher=slurm", "launcher.cpus=0"], "ConfigError: launcher.cpus = 0 must be a whole number"),
        (["name=x", "launcher=slurm", "launcher.options=[account]"], "ConfigError: launcher.options = 'account' must"),
        (["name=x", "launcher=slurm", "trainer=fsdp"], "ConfigError: launcher.processes = 'auto' must be a whole"),
        (
            ["name=x", "launcher=slurm", "launcher.submit=true"],
            "ConfigError: launcher.submit = true needs sbatch,",
        ),
        (["launcher=torchrun", "launcher.nodes=2"], "ConfigError: launcher.address has no value"),
        (
            [*VESSL, "name=x", "trainer.num_nodes=2"],
            "ConfigError: launcher.nodes = 2 must be a whole number from 1",
        ),
        (["name=x", "launcher=vessl"], "ConfigError: launcher.image has no value"),
        ([*VESSL, "name=x", "launcher.env={HF_TOKEN: hf_0}"], "ConfigError: launcher.env"),
        (["launcher=pbs"], "ConfigError: launcher = pbs is not one of local, slurm, torchrun, vessl (conf/launcher/)."),
        (["launcher.nodes=2"], "ConfigError: launcher.nodes is not a key of this config"),
    ],
)
def test_a_mistake_is_one_sentence(say, arguments, sentence):
    code, out, err = say(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and sentence in err


@pytest.mark.parametrize(
    "launcher", [["launcher=torchrun"], ["launcher=slurm"], VESSL], ids=["torchrun", "slurm", "vessl"]
)
def test_a_job_is_shown_without_what_only_training_needs(tmp_path, launcher):
    code, said, modules = modules_of(tmp_path, "train", "name=x", *launcher)
    assert code == 0 and "-m wmtp.train" in said, said
    assert not modules & (SLOW | WHEN_USED)
