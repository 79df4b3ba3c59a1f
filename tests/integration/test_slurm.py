"""A job of launcher=slurm on a real SLURM: told to stop, queued again, gone on with, done.

Debian's slurmctld, slurmd and slurm-client are enough; one node on loopback, no munge. Where they are only unpacked,
SLURM_PLUGINS names the folder of their plugins.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_commands import SMALL
from tests.integration.training import last_checkpoint

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch"))),
        reason="no SLURM here; apt-get install slurmctld slurmd slurm-client",
    ),
]
CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes={host} Default=YES State=UP PriorityTier=1 GraceTime=200
PartitionName=urgent Nodes={host} State=UP PriorityTier=2 PreemptMode=OFF
"""


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def wait_for(what: Callable[[], object], seconds: float = 150) -> None:
    """Wait until something is so; a machine that is busy may take its time."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.5)


@pytest.fixture
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start a cluster of this machine alone; yield the environment that speaks to it."""
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    places = dict(folder=folder, host=host, port=free_port(), other_port=free_port(), cores=os.cpu_count())
    plugins = os.environ.get("SLURM_PLUGINS")
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(CONF.format(**places) + (f"PluginDir={plugins}\n" if plugins else ""))
    bare = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    env = bare | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT)}
    step = Path(shutil.which("slurmd")).with_name("slurmstepd")
    with (folder / "log").open("w") as log:
        daemons = [
            subprocess.Popen([*command, "-D"], env=env, stdout=log, stderr=log)
            for command in (["slurmctld"], ["slurmd", "-N", host, *(["-d", str(step)] if step.exists() else [])])
        ]
        try:
            wait_for(lambda: "idle" in subprocess.run("sinfo", env=env, capture_output=True, text=True).stdout, 60)
            yield env
        finally:
            subprocess.run(["scancel", "--me"], env=env, capture_output=True)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


@pytest.mark.parametrize(
    "stop",
    ["scancel --signal=USR1 {job}", "sbatch --partition=urgent --ntasks=2 --wrap=true --output=/dev/null"],
    ids=["its time is up", "another job takes its node"],
)
def test_a_job_that_is_told_to_stop_is_queued_again_and_goes_on(tmp_path, cluster, stop):
    ranks = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    slow = "+callbacks.slow={_target_: faults.Slow, seconds: 0.2}"
    typed = [
        *ranks,
        *SMALL,
        "trainer.max_steps=40",
        "callbacks.last.every_n_train_steps=1",
        "logger=csv",
        "name=x",
        slow,
    ]
    where = ["launcher=slurm", "launcher.submit=true", "launcher.cpus=1", "launcher.time=60"]
    env = cluster | {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "wmtp.train", *typed, *where]
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("Submitted batch job "), said.stderr
    job = said.stdout.split()[-1]
    log, run = tmp_path / f"slurm-{job}.log", tmp_path / "runs" / "x"

    def state() -> str:
        shown = subprocess.run(["scontrol", "show", "job", job], env=env, capture_output=True, text=True).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word).get("JobState", "")

    wait_for((run / "checkpoints" / "last.ckpt").exists)
    subprocess.run(stop.format(job=job).split(), env=env, check=True)
    wait_for(lambda: state() == "PENDING")
    stopped = last_checkpoint(run)["global_step"]
    assert 0 < stopped < 40, log.read_text()
    # SLURM lets two minutes go by. In the very second in which the job ended, slurmd would still refuse it.
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+10"], env=env, check=True)
    wait_for(lambda: state() == "COMPLETED")
    text = log.read_text()
    assert text.count("loading torch and Lightning") == 2 and f"Stopped at step {stopped}, and saved" in text
    assert last_checkpoint(run)["global_step"] == 40
    assert sorted(file.name for file in run.glob("train*.log")) == ["train-rank1.log", "train.log"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["x"]
