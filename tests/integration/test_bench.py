"""The table of what a step costs can be made anywhere, on a machine without a GPU too."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rows are measured in forked processes")


@pytest.mark.long
def test_every_row_of_the_scale_table_can_be_measured(monkeypatch, capsys):
    from scripts.bench import scale

    monkeypatch.setattr(sys, "argv", ["scale.py", "--toy", "--device", "cpu"])
    scale.main()
    said = capsys.readouterr().out
    for row in (
        "H = 2, naive logits", "H = 2, ours", "rho1, cached reference", "LoRA, r = 16", "activation checkpointing",
        "transformers' Trainer", "ours: Lightning and wmtp", "not measured: no GPU",
    ):  # fmt: skip
        assert row in said, row


def test_the_memory_of_the_head_losses_does_not_grow_with_the_heads():
    from scripts.bench import scale

    machine = scale.Machine("cpu")

    def megabytes(naive: bool, heads: int) -> float:
        return machine.apart(scale.loss_megabytes, machine, naive, heads, 256, 16, 8000)

    assert megabytes(False, 8) < 1.05 * megabytes(False, 1)
    assert megabytes(True, 8) > 7 * megabytes(True, 1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "arguments", "row"),
    [
        ("callbacks.py", ["--steps", "4", "--rows", "1", "--length", "16"], "WeightStatistics"),
        ("reference_cache.py", ["--steps", "1", "data.train_size=60"], "rho1, online"),
    ],
)
def test_a_benchmark_runs_to_its_table(script, arguments, row):
    file = Path(__file__).parents[2] / "scripts" / "bench" / script
    done = subprocess.run([sys.executable, str(file), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert row in done.stdout


@pytest.mark.long
def test_every_row_of_the_gpu_table_can_be_measured_without_one(tmp_path):
    from scripts.bench import gpu

    command = [str(Path(gpu.__file__).with_suffix("")), "--toy", "--out", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = json.loads((tmp_path / "gpu.json").read_text())["lines"]
    assert {line["row"] for line in lines} == {*gpu.CORRECT, *gpu.FAST, "tests"}
    bad = [line for line in lines if line["verdict"] not in ("", "ok")]
    assert not bad, bad
    assert len((tmp_path / "gpu.md").read_text().splitlines()) == len(lines) + 4
    assert all(line["name"] in done.stdout for line in lines)


@pytest.mark.long
def test_a_row_that_takes_too_long_or_kills_its_process_costs_only_itself(tmp_path):
    from scripts.bench.gpu import Measurer, Table

    table = Table(tmp_path)
    measurer = Measurer(True, table, time.monotonic() + 300)
    try:
        measurer.measure("decoding", 0.01)
        assert "TimeIsUp: its time was up" in table.lines.pop()[1].note
        measurer.process.kill()
        measurer.measure("device", 60)
        assert [line.verdict for _, line in table.lines] == ["failed"]
        measurer.measure("device", 60)
        assert [line.verdict for _, line in table.lines] == ["failed", "", ""]
    finally:
        measurer.end()
    assert measurer.process is None
    measurer.deadline = time.monotonic()
    measurer.measure("device", 60)
    assert "no time was left" in table.lines[-1][1].note


@pytest.mark.long
def test_every_row_of_what_grows_can_be_measured(monkeypatch, capsys):
    from scripts.bench import growth

    monkeypatch.setattr(sys, "argv", ["growth.py", "--toy"])
    growth.main()
    said = capsys.readouterr().out
    assert [name for name in growth.ROWS if f"| {name} |" not in said] == []


@pytest.mark.slow
def test_contests_of_any_size_are_prepared_and_what_was_planted_is_found(tmp_path, monkeypatch, capsys):
    from scripts.bench import contests

    size = ["--problems", "60", "--solutions", "3", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["contests.py", *size])
    contests.main()
    empty, full = capsys.readouterr().out.splitlines()[1:]
    # Of 60 problems two are asked (0 and 50) and two are for validation; 10 has the solution of 0.
    assert "[1, " in empty and empty.partition("[")[2] == full.partition("[")[2]
