"""The pages of docs/add are followed literally: files written, commands run, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "add").glob("*.md"))
FILE = re.compile(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", re.M | re.S)
COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)


def copy_of_the_package(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "runs", "*.pyc")
    for part in ("wmtp", "conf", "scripts", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def write_files(page: Path, folder: Path) -> list[str]:
    files = FILE.findall(page.read_text("utf-8"))
    for name, text in files:
        assert not (folder / name).exists(), f"{page.name} writes over {name}"
        (folder / name).write_text(text, "utf-8")
    return [name for name, _ in files]


def commands_of(page: Path) -> list[str]:
    return [line for block in COMMANDS.findall(page.read_text("utf-8")) for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path) -> str:
    """Run a command line as it stands on the page, `python` being this one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=here, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_what_the_pages_write_fits_together_and_the_quiz_is_scored_right(tmp_path):
    folder = copy_of_the_package(tmp_path)
    written = [name for page in PAGES for name in write_files(page, folder)]
    assert len(PAGES) == 4 and len(written) == len(set(written)) >= 12
    checks = {line.partition("#")[0].strip() for page in PAGES for line in commands_of(page) if "check_configs" in line}
    assert checks == {"python scripts/check_configs.py"}
    assert ", 0 problems." in run(checks.pop(), folder)
    scoring = next(line for line in commands_of(ROOT / "docs/add/benchmark.md") if "samples=answers.jsonl" in line)
    assert re.search(r"quiz/pass@1 +0\.500", run(scoring, folder))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_page_runs_after_its_files_are_written(page, tmp_path):
    folder = copy_of_the_package(tmp_path)
    write_files(page, folder)
    for command in commands_of(page):
        run(command, folder)
