"""Train as a user does, by a config or by the real command, and read what it left."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from wmtp.cli import config_dir
from wmtp.train import train


def train_here(*overrides: str) -> None:
    """Train in this process, which is a test's own."""
    torch.set_num_threads(1)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        train(compose("train", list(overrides)))


def start(*overrides: str, before: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Start the real command, with all that it starts in a session of its own; leave none of it behind.

    Args:
        *overrides: 설정.
        before: 명령 앞에 둘 셸 명령 ("ulimit -f 100;").
        **environment: 더할 환경 변수.
    """
    here = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}.", "OMP_NUM_THREADS": "1", **environment}
    command = shlex.join([sys.executable, "-m", "wmtp.train", *overrides])
    process = subprocess.Popen(
        ["sh", "-c", f"{before} exec {command}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=here,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=400)
    finally:
        kill_session(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kill_session(process: subprocess.Popen) -> None:
    """Kill what is left of a process that was started with a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def last_checkpoint(run: Path) -> dict[str, Any]:
    """Read the checkpoint file that a run goes on from."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
