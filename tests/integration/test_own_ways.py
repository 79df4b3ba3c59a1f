"""Follow to the letter what the documents say of one's own data, one's own configs, and the Tab key."""

import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.test_commands import shell

ROOT = Path(__file__).parents[2]


def chapter(document: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of its kind."""
    text = (ROOT / "docs" / document).read_text("utf-8").partition(f"\n{heading}\n")[2]
    return re.split(rf"^{heading.split()[0]} ", text, maxsplit=1, flags=re.M)[0]


def follow(text: str, folder: Path) -> list[str]:
    """Write the files that a chapter shows, and return the commands that it says to run."""
    for name, content in re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", text, re.M | re.S):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    return [line for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]


@pytest.mark.long
def test_the_questions_and_answers_of_the_data_page_train_as_it_says(tmp_path):
    command, *_ = follow(chapter("data.md", "## 내 데이터: `data=jsonl`"), tmp_path)
    done = shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "jsonl (unknown): 2 training samples" in done.stdout and "no row has tests" in done.stdout
    wrong = shell(command.replace("=answer", "=reply"), tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1] == (
        "DataFormatError: qa.jsonl:1: no field for data.fields.completion = reply; the row's fields are question, "
        "answer. Say which is which, as in data.fields.prompt=NAME data.fields.completion=NAME (see docs/data.md)."
    )


@pytest.mark.slow
def test_the_rows_with_tests_of_the_data_page_are_trained_on_and_judged_as_it_says(tmp_path):
    _, train, evaluate = follow(chapter("data.md", "## 내 데이터: `data=jsonl`"), tmp_path)
    for command in (train, evaluate):
        done = shell(command, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "jsonl/pass@1" in done.stdout


@pytest.mark.long
def test_the_own_configs_of_the_guide_train_as_it_says(tmp_path):
    text = chapter("guide.md", "## 5. 설정 바꾸기").partition("**내 설정 폴더.**")[2].partition("**탭으로")[0]
    (command,) = follow(text, tmp_path)
    follow(chapter("data.md", "## 내 데이터: `data=jsonl`"), tmp_path)  # qa.jsonl
    done = shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rare on jsonl, 2 steps" in done.stdout and (tmp_path / "runs/rare-jsonl-tiny-base/report.html").is_file()
    (tmp_path / "own/algo/rare.yaml").open("a").write("warmpu: 0.1\n")
    wrong = shell(command, tmp_path)
    assert wrong.returncode == 2 and "algo.warmpu is not a key that rare.Rare takes" in wrong.stderr


def in_a_terminal(steps: list[tuple[str, str]], folder: Path) -> str:
    """Type into an interactive bash, each time waiting for what should appear; return all that appeared."""
    terminal, its = pty.openpty()
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder), "PS1": "$ ", "TERM": "dumb"}
    command = ["bash", "--norc", "--noprofile", "-i"]
    bash = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=folder, env=env, start_new_session=True)
    shown = ""
    try:
        for keys, awaited in steps:
            before, end = len(shown), time.monotonic() + 120
            os.write(terminal, keys.encode())
            while awaited not in shown[before:] and time.monotonic() < end:
                if select.select([terminal], [], [], 1)[0]:
                    shown += os.read(terminal, 4096).decode(errors="replace")
    finally:
        bash.kill(), bash.wait(), os.close(terminal), os.close(its)
    return shown


def test_the_tab_key_completes_commands_options_keys_and_configs_of_ones_own(tmp_path):
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/wmtp"  # what pip installs; what is not asked by the shell is only shown
    script.write_text(f'#!/bin/sh\n[ "$1" = -sc ] && exec {sys.executable} -m wmtp "$@"\necho "GOT[$*]"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "own/algo").mkdir(parents=True)
    (tmp_path / "own/algo/unheard.yaml").write_text("defaults: [baseline]\n")
    guide = (ROOT / "docs/guide.md").read_text("utf-8")
    (install,) = re.findall(r"`(eval .*?-sc install=bash.*?)`", guide)
    shown = in_a_terminal(
        [
            (f"{install}; echo rea''dy\n", "ready"),
            ("wmtp tr\t", "train"),
            (" algo=cri\t", "algo=critic"),
            (" optimizer.mom\t", "optimizer.momentum="),
            ("0.9\n", "GOT["),
            ("wmtp train --config-dir own algo=unh\t", "unheard"),
            ("\n", "GOT["),
            ("wmtp eval sampling=gr\t", "greedy"),
            ("\n", "GOT["),
        ],
        tmp_path,
    )
    assert re.findall(r"GOT\[(.*?)\]", shown) == [
        "train algo=critic optimizer.momentum=0.9",
        "train --config-dir own algo=unheard",
        "eval sampling=greedy",
    ], shown
