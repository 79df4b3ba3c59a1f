"""The table of what a step costs can be made anywhere, on a machine without a GPU too."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rows are measured in forked processes")


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
