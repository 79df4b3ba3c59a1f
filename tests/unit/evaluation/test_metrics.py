"""Hold pass@k to numbers worked out by hand, on one rank and on two."""

import json
import math

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from wmtp.errors import ConfigError
from wmtp.evaluation.metrics import PassAtK

# Six samples of one problem, three of them right: the sanity number of the README.
SIX = ([0] * 6, [True, False, True, False, False, True])


def measure(problems: int, ks: tuple[int, ...], numbers: list[int], passed: list[bool]) -> dict[str, float]:
    metric = PassAtK(problems, ks)
    metric.update(torch.tensor(numbers, dtype=torch.long), torch.tensor(passed))
    return {name: value.item() for name, value in metric.compute().items()}


def test_six_samples_with_three_right():
    values = measure(1, (1, 3, 6), *SIX)
    assert values["pass@1"] == pytest.approx(0.5, abs=1e-12)
    assert values["pass@3"] == pytest.approx(1 - 1 / 20, abs=1e-12)  # 1 - C(3,3)/C(6,3)
    assert values["pass@6"] == 1.0


def test_problems_are_averaged_after_pass_at_k_and_not_before():
    # 4 samples, 1 right: 1 - C(3,2)/C(4,2) = 1/2; 2 samples, 2 right: 1. Pooled samples would give another number.
    assert measure(2, (2,), [0, 0, 0, 0, 1, 1], [True, False, False, False, True, True])["pass@2"] == pytest.approx(
        0.75
    )


def test_the_interval_holds_the_mean_and_shrinks_with_more_problems():
    few, many = (measure(n, (1,), list(range(n)), [i % 2 == 0 for i in range(n)]) for n in (20, 500))
    for values in (few, many):
        assert values["pass@1_low"] < 0.5 < values["pass@1_high"]
    assert many["pass@1_high"] - many["pass@1_low"] < few["pass@1_high"] - few["pass@1_low"]
    # 500 coin flips: 1.96 standard errors to both sides.
    assert many["pass@1_high"] - many["pass@1_low"] == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 500), rel=0.1)


def test_a_problem_without_a_sample_is_missing_and_not_failed():
    metric = PassAtK(3)
    metric.update(torch.tensor([0, 2]), torch.tensor([True, True]))
    assert metric.compute()["pass@1"].item() == 1.0
    assert metric.missing == 1


def test_more_samples_asked_for_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match=r"pass@7 needs at least 7 samples .* 1 of 1 problems have fewer"):
        measure(1, (7,), *SIX)
    with pytest.raises(ConfigError, match="k = 0 must be a whole number"):
        PassAtK(1, (0,))


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = PassAtK(2, (1, 2))
    # The ranks share problem 0 unevenly; rank 1 alone has problem 1.
    numbers, passed = ([0], [True]) if rank == 0 else ([0, 0, 1, 1], [False, False, True, False])
    metric.update(torch.tensor(numbers), torch.tensor(passed))
    values = {name: value.item() for name, value in metric.compute().items()}
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(values, file)
    dist.destroy_process_group()


def test_two_ranks_count_as_one(tmp_path):
    start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    together = measure(2, (1, 2), [0, 0, 0, 1, 1], [True, False, False, True, False])
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [together, together]
    assert together["pass@1"] == pytest.approx((1 / 3 + 1 / 2) / 2)
