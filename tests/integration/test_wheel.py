"""What is installed from a wheel works alone: built from tracked files, in an environment and a folder of its own.

[연구 맥락] 저장소 안에서는 되는데 설치하면 설정이나 자산이 없는 배포를, 내놓기 전에 알아야 한다.
[동작] 추적되는 파일만 베껴 sdist를, 그 sdist로 wheel을 만들고 새 가상 환경에 넣는다. 다른 패키지는 .pth로 이 환경의
    것을 빌려 쓰고, 파이썬의 감사 훅(audit hook)이 저장소의 파일을 여는 것을 모두 적는다.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import wmtp

ROOT = Path(__file__).resolve().parents[2]
SITE = sysconfig.get_path("purelib")

# Runs as each process of the environment starts: writes down what is opened or listed inside the checkout, but for the
# packages that were lent.
WATCH = """\
import os, sys
def watch(event, values):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(values[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(values[0]))
        if path.startswith({root!r} + os.sep) and not path.startswith({lent!r}):
            if path != {seen!r}:
                with open({seen!r}, "a") as file:
                    file.write(event + " " + path + "\\n")
sys.addaudithook(watch)
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, timeout: float = 300) -> str:
    here = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=here, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the source distribution from what is tracked, and the wheel from that; without a network."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", ":!docs", ":!tests"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    for name in listed.stdout.rstrip("\0").split("\0"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, made, cwd=source)
    (sdist,) = made.iterdir()
    pip = [sys.executable, "-m", "pip", "--no-cache-dir", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", made, sdist, cwd=made)
    assert sdist.name == f"wmtp-{wmtp.__version__}.tar.gz"
    return made / f"wmtp-{wmtp.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel into an environment of its own, which borrows every other package."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "--no-compile"]
    run(*pip, wheel, cwd=place)
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    # The .pth files over there are not read: an editable wmtp among them stays unseen.
    (own / "lent.pth").write_text(f"{SITE}\n")
    (own / "watch_checkout.py").write_text(WATCH.format(root=str(ROOT), lent=sys.prefix, seen=str(place / "seen.txt")))
    (own / "watch_checkout.pth").write_text("import watch_checkout\n")
    return place


@pytest.fixture
def read_of_the_checkout(installed):
    """Say what was read of the checkout since the last time."""

    def read() -> list[str]:
        seen = installed / "seen.txt"
        lines = seen.read_text().splitlines() if seen.exists() else []
        seen.unlink(missing_ok=True)
        return lines

    read()
    return read


def test_the_watch_sees_a_file_of_the_checkout(installed, read_of_the_checkout, tmp_path):
    run(installed / "bin" / "python", "-c", f"open({str(ROOT / 'LICENSE')!r})", cwd=tmp_path)
    assert read_of_the_checkout() == [f"open {ROOT / 'LICENSE'}"]


def test_the_installed_package_is_the_one_of_the_wheel(installed, read_of_the_checkout, tmp_path):
    ask = "import importlib.metadata as m, wmtp; print(m.version('wmtp'), wmtp.__version__, wmtp.__file__)"
    version, same, file = run(installed / "bin" / "python", "-c", ask, cwd=tmp_path).split()
    assert (version, same) == (wmtp.__version__, wmtp.__version__)
    assert Path(file).is_relative_to(installed)
    assert "train" in run(installed / "bin" / "wmtp", "--help", cwd=tmp_path)
    assert read_of_the_checkout() == []


def test_wmtp_trains_from_an_empty_folder(installed, read_of_the_checkout, tmp_path):
    small = ["trainer.max_steps=2", "data.train_size=60", "eval.before=false", "eval.limit=2"]
    run(installed / "bin" / "wmtp", "train", *small, "name=first", cwd=tmp_path)
    report = (tmp_path / "runs" / "first" / "report.md").read_text(encoding="utf-8")
    assert "pass@1" in report
    assert (tmp_path / "runs" / "first" / "model" / "config.json").is_file()
    assert read_of_the_checkout() == []


def test_wmtp_judges_samples_from_an_empty_folder(installed, read_of_the_checkout, tmp_path):
    right = "def solve(xs):\n    xs = [x * x for x in xs]\n    return len(set(xs))\n"  # six_samples.jsonl
    rows = [
        {"task_id": "synthetic/test/0", "completion": answer} for answer in (right, "def solve(xs):\n    return 0\n")
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["samples=answers.jsonl", "benchmark=synthetic", "out=out", "progress=false"]
    run(installed / "bin" / "wmtp", "eval", *asked, cwd=tmp_path)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["synthetic/pass@1"] == 0.5
    assert read_of_the_checkout() == []
