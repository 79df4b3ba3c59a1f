"""Hold pass@k and its intervals to maths.md 7."""

import math
from itertools import combinations

import pytest
import torch

from wmtp.errors import ConfigError
from wmtp.maths.pass_at_k import mean_interval, paired_difference, pass_at_k, sign_test, wilson_interval


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
    low, high = mean_interval(values)
    half = 1.96 * (0.3 * 0.7 / 500) ** 0.5
    assert low == pytest.approx(0.3 - half, abs=0.004) and high == pytest.approx(0.3 + half, abs=0.004)
    narrow = mean_interval(values, level=0.5)
    assert low < narrow[0] < 0.3 < narrow[1] < high


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(42)
    covered = 0
    for _ in range(200):
        low, high = mean_interval((torch.rand(100, generator=generator) < 0.4).double().tolist(), resamples=500)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_intervals_repeat_with_their_seed():
    values = torch.rand(50, generator=torch.Generator().manual_seed(42)).tolist()
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=43)


@pytest.mark.parametrize(
    "passes, problems, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_newcombe_1998_table_1(passes, problems, low, high):
    assert wilson_interval(passes, problems) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(problems - passes, problems)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(
    "values, low, high",
    [
        # z = 1.959964: n / (n + z²) to 1, where all n pass.
        ([1.0] * 5, 0.565518, 1.0),
        ([0.0] * 5, 0.0, 0.434482),
        ([1.0], 0.206549, 1.0),
        # 0.5 ± z / 2 / sqrt(n + z²), where half of n passes, or each problem half.
        ([0.5], 0.054621, 0.945379),
        ([0.5] * 100, 0.403832, 0.596168),
        ([0.0, 1.0], 0.094531, 0.905469),
    ],
)
def test_few_problems_and_the_ends_have_the_width_of_a_closed_form(values, low, high):
    assert mean_interval(values) == pytest.approx((low, high), abs=1e-6)


def test_an_interval_always_has_a_width_and_holds_the_mean():
    for problems in (1, 2, 9, 10, 11, 19, 20, 21, 164):
        for passes in range(problems + 1):
            low, high = mean_interval([1.0] * passes + [0.0] * (problems - passes), resamples=200)
            assert 0 <= low <= passes / problems <= high <= 1 and high - low > 0.01


def test_an_interval_over_no_problems_is_refused():
    with pytest.raises(ValueError, match="no problems"):
        mean_interval([])
    with pytest.raises(ValueError, match="no problems"):
        paired_difference([], [])


def test_a_difference_on_few_problems_is_not_certain():
    # Two more problems, one won and one lost: 0 ± z sqrt(2 / 14) / sqrt(14).
    assert paired_difference([1.0] * 12, [1.0] * 12) == pytest.approx((0, -0.197986, 0.197986), abs=1e-6)
    # 3 of 10 won: 0.25 ± z sqrt(5/12 - 0.25²) / sqrt(12).
    won = paired_difference([1.0] * 3 + [0.0] * 7, [0.0] * 10)
    assert won == pytest.approx((0.3, 0.25 - 0.336714, 0.25 + 0.336714), abs=1e-6)
    assert paired_difference([1.0], [0.0])[1] < 0 and paired_difference([1.0], [0.0])[2] <= 1


def test_many_problems_are_resampled_in_blocks():
    low, high = mean_interval([0.0, 1.0] * 10_000, resamples=1000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20_000**0.5, rel=0.15)


def test_pairing_sees_a_small_gain_that_two_intervals_hide():
    generator = torch.Generator().manual_seed(42)
    b = torch.rand(300, generator=generator)
    a = (b + 0.01 + 0.02 * torch.randn(300, generator=generator)).tolist()
    b = b.tolist()
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(0.01, abs=0.004) and 0 < low < difference < high
    assert mean_interval(a)[0] < mean_interval(b)[1]
    assert paired_difference(b, a) == pytest.approx((-difference, -high, -low), abs=3e-4)


def test_runs_on_other_problems_are_not_compared():
    with pytest.raises(ConfigError, match="they hold 2 and 1"):
        paired_difference([1.0, 0.0], [1.0])


def test_the_sign_test_is_that_of_the_binomial_by_hand():
    # 2 (1 + 9) / 2^9, 2 / 2^5, and certainty where both ways are as frequent.
    assert sign_test(8, 1) == sign_test(1, 8) == 20 / 512
    assert sign_test(0, 5) == 2 / 32 and sign_test(4, 4) == sign_test(0, 0) == 1
    assert sign_test(0, 1074) == 2.0**-1073  # below the smallest normal number, and no overflow beyond
    assert sign_test(0, 5000) == 0 and sign_test(2500, 2500) == 1
