"""Hold what the set-up promises a newcomer: one clear sentence when it cannot work, repair when it was interrupted.

Python, pip and df are small programs of our own here, first on PATH; the scripts are the real ones. A real installation
takes minutes and a network: the trial from a clean clone is part of every release (docs/operations.md).
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

FAKE_PYTHON = """#!/bin/sh
# Answer as a Python of version $FAKE_VERSION whose venv copies itself and whose pip does what $FAKE_PIP says.
case "$*" in
  *version_info*) echo "$FAKE_VERSION" ;;
  *ensurepip*) exit 0 ;;
  "-m venv "*) for last; do :; done; mkdir -p "$last/bin" && cp "$0" "$last/bin/python" && touch "$last/pyvenv.cfg" ;;
  *"pip --version"*) exit 0 ;;
  *"pip install"*) echo "pip $*" >>"$FAKE_CALLS"; eval "$FAKE_PIP" ;;
  *) echo "ran $* in $PWD with OMP_NUM_THREADS=${OMP_NUM_THREADS:-none}" ;;
esac
"""


class Machine:
    """Run the scripts on a pretended machine."""

    def __init__(self, folder: Path):
        self.venv, self.calls, self.bin = folder / "venv", folder / "calls", folder / "bin"
        self.bin.mkdir()
        self.calls.touch()
        for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
            self.install(name, FAKE_PYTHON)
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "WMTP_VENV": str(self.venv),
            "FAKE_VERSION": "3.11.9",
            "FAKE_CALLS": str(self.calls),
            "FAKE_PIP": "true",
            "WMTP_DISK_GB": "0",
        }

    def install(self, name: str, program: str) -> None:
        (self.bin / name).write_text(program)
        (self.bin / name).chmod(0o755)

    def start(self, *command, cwd=None, **environment: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        environment = self.environment | environment
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *command, cwd=None, **environment: str) -> tuple[int, str, str]:
        process = self.start(*command, cwd=cwd, **environment)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize("script", ["setup", "demo", "test", "docs"])
def test_python_too_old_is_one_sentence(machine, script):
    code, out, err = machine.run(SCRIPTS / script, FAKE_VERSION="3.9.1", WMTP_TEST_DATA="x")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "Python 3.11 or newer is needed; found only python3.11 is 3.9.1" in err and "WMTP_PYTHON" in err
    assert not machine.venv.exists()


def test_python_that_is_not_there_is_one_sentence(machine):
    code, _, err = machine.run(SCRIPTS / "setup", WMTP_PYTHON="no-such-python")
    assert (code, err.count("\n")) == (2, 1)
    assert "found none" in err


def test_disk_too_small_is_one_sentence_and_leaves_nothing(machine):
    machine.install("df", "#!/bin/sh\necho header\necho /dev/disk 100 1 512000 1% /\n")
    code, _, err = machine.run(SCRIPTS / "setup", WMTP_DISK_GB="")
    assert (code, err.count("\n")) == (2, 1)
    assert f"the disk that holds {machine.venv} has 500 MB free" in err and "WMTP_VENV" in err
    assert not machine.venv.exists()


def test_disk_that_fills_up_on_the_way_is_one_sentence(machine):
    full = "echo Installing collected packages: torch; echo 'ERROR: [Errno 28] No space left on device'; exit 1"
    code, _, err = machine.run(SCRIPTS / "setup", FAKE_PIP=full)
    assert code == 2
    assert f"the disk is full ({machine.venv}" in err.splitlines()[-1]
    assert "starting over" in machine.run(SCRIPTS / "setup")[2]  # what pip had begun is not trusted


def test_error_of_pip_is_shown_with_the_place_of_the_log(machine):
    code, _, err = machine.run(SCRIPTS / "setup", FAKE_PIP="echo ERROR: No matching distribution; exit 1")
    assert code == 2
    assert f"ERROR: No matching distribution All messages: {machine.venv}/wmtp-setup.log" in err.splitlines()[-1]
    code, _, err = machine.run(SCRIPTS / "setup")
    assert code == 0 and "starting over" not in err  # nothing had been installed yet


def test_torch_comes_first_and_the_second_run_reuses_everything(machine):
    assert machine.run(SCRIPTS / "setup")[0] == 0
    torch, rest = machine.calls.read_text().splitlines()
    assert "torch==" in torch and "constraints.txt" in torch
    assert rest.endswith(f"-e {SCRIPTS.parent}[dev]") and "constraints.txt" in rest
    code, out, err = machine.run(SCRIPTS / "setup")
    assert (code, out, err) == (0, "", f"wmtp set-up: {machine.venv} is ready.\n")
    assert len(machine.calls.read_text().splitlines()) == 2
    assert machine.run(SCRIPTS / "setup", FAKE_VERSION="3.12.1")[0] == 0  # another Python: made anew
    assert len(machine.calls.read_text().splitlines()) == 4


UV = '#!/bin/sh\necho "uv $*" >>"$FAKE_CALLS"\n'


def test_uv_installs_where_it_is_there_and_pip_has_no_settings_that_it_would_not_read(machine):
    machine.install("uv", UV)
    code, _, err = machine.run(SCRIPTS / "setup")
    assert code == 0, err
    torch, rest = machine.calls.read_text().splitlines()
    assert torch.startswith(f"uv pip install --python {machine.venv}/bin/python -c ") and "torch==" in torch
    assert rest.startswith("uv pip install ") and rest.endswith(f" pip -e {SCRIPTS.parent}[dev]")  # pip for later


@pytest.mark.parametrize("setting", ["global.index-url='https://mirror/simple'", ":env:.cert='/etc/ca.pem'"])
def test_uv_never_asks_another_index_than_pip_would(machine, setting):
    machine.install("uv", UV)
    python = FAKE_PYTHON.replace("*ensurepip*)", f'"-m pip config list") echo "{setting}" ;;\n  *ensurepip*)')
    machine.install("python3.11", python)
    code, _, err = machine.run(SCRIPTS / "setup")
    assert code == 0 and "pip has settings of its own, which uv does not read: pip installs" in err
    assert all(call.startswith("pip ") for call in machine.calls.read_text().splitlines())
    machine.calls.write_text("")
    asked = {"UV_DEFAULT_INDEX": "https://mirror/simple", "WMTP_VENV": f"{machine.venv}-uv"}
    assert machine.run(SCRIPTS / "setup", **asked)[0] == 0
    assert all(call.startswith("uv ") for call in machine.calls.read_text().splitlines())


def test_what_is_being_fetched_is_said(machine):
    lines = ["Collecting mlflow", "  Downloading https://host/a/mlflow-3.17.2-py3-none-any.whl (48.1 MB)"]
    said = "; ".join(f"echo '{line}'" for line in lines)
    code, _, err = machine.run(SCRIPTS / "setup", FAKE_PIP=f"{said}; sleep 1", WMTP_TELL_EVERY="0.3")
    assert code == 0 and "    fetching mlflow (48.1 MB) " in err


def test_set_up_ends_where_a_polite_signal_is_lost(machine):
    """As it is now and then between the fork of what tells of the progress and its first command (seen under load)."""
    code, _, err = machine.run("sh", "-c", f"trap '' TERM; exec {SCRIPTS / 'setup'}")
    assert code == 0 and "done in 0 min" in err


@pytest.mark.slow
def test_set_up_that_was_killed_is_waited_for_and_repaired(machine):
    killed = machine.start(SCRIPTS / "setup", FAKE_PIP="touch $WMTP_VENV/half-written; sleep 2")
    deadline = time.monotonic() + 20
    while not (machine.venv / "half-written").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    code, _, err = machine.run(SCRIPTS / "setup")  # its pip lives on for a while
    assert code == 0
    assert "waiting for another set-up" in err and "interrupted; starting over" in err
    assert not (machine.venv / "half-written").exists()


def test_folder_with_other_things_in_it_is_left_alone(machine):
    machine.venv.mkdir()
    (machine.venv / "thesis.txt").touch()
    code, _, err = machine.run(SCRIPTS / "setup")
    assert (code, err.count("\n")) == (2, 1)
    assert os.listdir(machine.venv) == ["thesis.txt"]


def test_commands_work_from_any_folder_and_through_links(machine, tmp_path):
    link = tmp_path / "link"
    (tmp_path / "first").symlink_to(SCRIPTS / "demo")
    link.symlink_to("first")
    code, out, _ = machine.run(link, "algo=baseline", cwd=tmp_path)
    assert (code, out) == (0, f"ran -m wmtp.train algo=baseline in {tmp_path} with OMP_NUM_THREADS=none\n")
    code, out, err = machine.run(SCRIPTS / "test", "-k", "loss", cwd=tmp_path)
    assert (code, out) == (0, f"ran -m pytest -n 3 -k loss in {SCRIPTS.parent} with OMP_NUM_THREADS=1\n")
    assert "WMTP_TEST_DATA is not set" in err
