"""Hold pass@k and its intervals to MATHS.md 7."""

import math
from itertools import combinations

import pytest
import torch

from wmtp.errors import ConfigError
from wmtp.maths.pass_at_k import bootstrap_interval, paired_bootstrap, pass_at_k


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_pass(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_known_values_and_large_counts():
    assert pass_at_k(200, 0, 100) == 0.0
    assert pass_at_k(200, 200, 1) == 1.0
    assert pass_at_k(200, 20, 1) == pytest.approx(0.1)
    # a ratio of factorials as floats overflows here
    assert pass_at_k(200, 20, 10) == pytest.approx(1 - math.comb(180, 10) / math.comb(200, 10), abs=1e-12)
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)


@pytest.mark.parametrize("n, k", [(5, 10), (0, 1), (5, 0)])
def test_k_beyond_n_is_an_error_and_not_a_silent_drop(n, k):
    with pytest.raises(ConfigError, match=rf"pass@{k} cannot be estimated from n = {n} samples"):
        pass_at_k(n, 0, k)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="c = 6 of n = 5"):
        pass_at_k(5, 6, 1)


def test_interval_is_that_of_the_normal_approximation_on_many_problems():
    values = [1.0] * 150 + [0.0] * 350
    low, high = bootstrap_interval(values)
    half = 1.96 * (0.3 * 0.7 / 500) ** 0.5
    assert low == pytest.approx(0.3 - half, abs=0.004) and high == pytest.approx(0.3 + half, abs=0.004)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < 0.3 < narrow[1] < high


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(42)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval((torch.rand(100, generator=generator) < 0.4).double().tolist(), resamples=500)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_intervals_repeat_with_their_seed():
    values = torch.rand(50, generator=torch.Generator().manual_seed(42)).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=43)


def test_one_problem_or_equal_problems_have_no_width_and_none_is_refused():
    assert bootstrap_interval([0.25]) == bootstrap_interval([0.25] * 3) == (0.25, 0.25)
    with pytest.raises(ValueError, match="no problems"):
        bootstrap_interval([])


def test_many_problems_are_resampled_in_blocks():
    low, high = bootstrap_interval([0.0, 1.0] * 10_000, resamples=1000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20_000**0.5, rel=0.15)


def test_pairing_sees_a_small_gain_that_two_intervals_hide():
    generator = torch.Generator().manual_seed(42)
    b = torch.rand(300, generator=generator)
    a = (b + 0.01 + 0.02 * torch.randn(300, generator=generator)).tolist()
    b = b.tolist()
    difference, low, high = paired_bootstrap(a, b)
    assert difference == pytest.approx(0.01, abs=0.004) and 0 < low < difference < high
    assert bootstrap_interval(a)[0] < bootstrap_interval(b)[1]
    assert paired_bootstrap(b, a) == pytest.approx((-difference, -high, -low), abs=3e-4)


def test_runs_on_other_problems_are_not_compared():
    with pytest.raises(ConfigError, match="they hold 2 and 1"):
        paired_bootstrap([1.0, 0.0], [1.0])
