"""Hold that the most memory a run took is in its numbers."""

import csv

import torch

from tests.unit.test_callbacks import rho1, train
from wmtp.callbacks.peak_memory import GB, PeakMemory, peak_memory


def test_the_peak_holds_what_was_taken_and_let_go_and_is_logged(tmp_path, tokenizer):
    cpu = torch.device("cpu")
    now = peak_memory(cpu)
    size = int((now + 0.1) * GB)  # more than the process has ever had beside it
    taken = torch.ones(size, dtype=torch.uint8)
    del taken
    peak = peak_memory(cpu)
    assert peak * GB >= size and peak > now
    train(tmp_path, rho1(), tokenizer, [PeakMemory()])
    with (tmp_path / "metrics.csv").open() as file:
        logged = [float(row["memory/peak_gb"]) for row in csv.DictReader(file) if row.get("memory/peak_gb")]
    assert logged and min(logged) >= peak * (1 - torch.finfo(torch.float32).eps)
