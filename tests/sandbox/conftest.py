"""Share what the sandbox tests need: rungs that work here, and the state of the machine."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from wmtp.errors import SandboxUnavailableError
from wmtp.evaluation.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox():
    """Give the sandbox of the highest rung that works here."""
    try:
        with Sandbox(workers=2) as opened:
            yield opened
    except SandboxUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def data() -> Path:
    """Give the folder of the real data sets."""
    if "WMTP_TEST_DATA" not in os.environ:
        pytest.skip("WMTP_TEST_DATA is not set: it names the folder with mbpp/, humaneval/ and codecontests/")
    return Path(os.environ["WMTP_TEST_DATA"])


def children() -> set[int]:
    """List the processes below this one, zombies included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def traces() -> set[str]:
    """List the files that programs of the hostile suite try to leave behind, and directories of dead workers."""
    abandoned = [
        path
        for path in Path(tempfile.gettempdir()).glob("wmtp-sandbox-*")
        if not Path("/proc", path.name.split("-")[2]).exists()  # the directory of a worker that lives is in use
    ]
    left = [*Path("/var/tmp").glob("wmtp-hostile-*"), *Path(os.__file__).parent.glob("*.hostile")]
    return {str(path) for path in (*abandoned, *left)}


@pytest.fixture
def untouched_machine():
    """Check that a test leaves no process, no zombie and no file behind.

    이 프로세스를 subreaper로 만든다: 작업자가 죽은 뒤에도 살아남은 것은, 좀비까지, 모두 이 프로세스의 자식이 된다.
    """
    if sys.platform != "linux":
        pytest.skip("subreapers and /proc are Linux's")
    libc, set_subreaper = ctypes.CDLL(None), 36
    libc.prctl(set_subreaper, 1, 0, 0, 0)
    processes, files, directory = children(), traces(), os.getcwd()
    yield
    for _ in range(40):
        if not children() - processes:
            break
        time.sleep(0.05)
    left = children() - processes
    libc.prctl(set_subreaper, 0, 0, 0, 0)
    assert not left, f"processes are left: {left}"
    assert not traces() - files
    assert os.getcwd() == directory


@pytest.fixture
def busy_machine():
    """Load the machine with two busy loops."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.fixture
def readable_copy(tmp_path_factory):
    """Copy the sandbox to where every user can read it, and name an interpreter that everybody can run."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root, to become another user, and an interpreter that others may run")
    root = Path(tempfile.mkdtemp(prefix="wmtp-copy-"))
    package = Path(sys.modules["wmtp.evaluation.sandbox"].__file__).parent
    shutil.copytree(package, root / "wmtp" / "evaluation" / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("errors.py", "checks.py", "ranges.py"):
        shutil.copy(package.parent.parent / module, root / "wmtp")
    for folder in (root / "wmtp", root / "wmtp" / "evaluation"):
        (folder / "__init__.py").touch()
    os.chmod(root, 0o755)
    yield python, root
    shutil.rmtree(root)
