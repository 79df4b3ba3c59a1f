"""Hold that the statistics of a comparison find what is there and not what is not, on studies with a known answer."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scripts.bench.compare import simulate
from wmtp.comparison.statistics import bootstrap_interval, cohens_h, estimate, holm, permutation_p

STUDIES = 400


def farthest(share: float, studies: int = STUDIES) -> float:
    """Return how far the share found may be from the true one: once in 10,000 a sound method is farther off."""
    return stats.norm.isf(5e-5) * math.sqrt(share * (1 - share) / studies)


@pytest.mark.parametrize(("seeds", "by_seed", "paired"), [(5, 0.01, True), (3, 0.03, True), (5, 0.02, False)])
def test_no_difference_is_found_in_at_most_five_percent(seeds, by_seed, paired):
    found = estimate(simulate(STUDIES, seeds, 200, gain=0.0, by_seed=by_seed, paired=paired))
    assert (found.p() < 0.05).mean() <= 0.05 + farthest(0.05)


@pytest.mark.parametrize(("seeds", "by_seed"), [(5, 0.01), (5, 0.03), (10, 0.01)])
def test_the_interval_covers_the_true_difference(seeds, by_seed):
    low, high = estimate(simulate(STUDIES, seeds, 200, gain=0.05, by_seed=by_seed)).interval()
    covered = ((low <= 0.05) & (0.05 <= high)).mean()
    assert 0.93 - farthest(0.93) <= covered <= 0.97 + farthest(0.97)


def test_five_points_are_found_at_a_thousand_problems_and_five_seeds():
    found = estimate(simulate(STUDIES, 5, 1000, gain=0.05, by_seed=0.01))
    assert (found.p() < 0.05).mean() >= 0.80 - farthest(0.80)


def test_taking_one_model_for_the_method_finds_too_much():
    # Why seeds are needed: the interval over problems alone leaves out what a seed moves.
    (differences,) = simulate(STUDIES, 5, 1000, gain=0.0, by_seed=0.03)
    alone = estimate([differences.mean(-2, keepdims=True)])
    assert alone.over == "problems" and (alone.p() < 0.05).mean() > 0.05 + farthest(0.05)


def test_the_variance_is_the_one_that_is_worked_out_by_hand():
    # Rows 0 2 and 2 4, columns 0 2 and 2 4: no residual; rows' variance 2 / 2, columns' variance 2 / 2.
    rows = np.array([[0.0, 2.0], [2.0, 4.0]])
    table = np.repeat(rows, 10, axis=1)  # twenty problems: columns' variance is 20/19 / 20
    found = estimate([table])
    assert found.value == 2 and found.df == 1
    assert found.standard_error**2 == pytest.approx(1 + 1 / 19, rel=1e-12)


def test_numbers_without_problems_are_the_t_test_and_without_pairs_that_of_welch():
    a, b = np.array([[3.1], [2.7], [3.4], [3.0]]), np.array([[2.9], [2.6], [2.8]])
    one, two = estimate([a]), estimate([a, -b])
    assert one.p(than=2.9) == pytest.approx(stats.ttest_1samp(a[:, 0], 2.9).pvalue, rel=1e-9)
    assert two.p() == pytest.approx(stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False).pvalue, rel=1e-9)
    low, high = two.interval()
    assert (low, high) == pytest.approx(tuple(stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False).confidence_interval()))


def test_one_seed_speaks_of_problems_and_one_number_of_nothing():
    assert estimate([np.ones((1, 50)) * [[0, 1] * 25]]).over == "problems"
    nothing = estimate([np.ones((1, 1))])
    assert nothing.over == "nothing" and np.isnan(nothing.interval()).all()


def test_two_seeds_that_agree_by_chance_do_not_make_certainty():
    # Of 100 problems each seed wins eight and loses four, not the same ones: the means are equal.
    wins, losses = np.arange(8), np.arange(8, 12)
    table = np.zeros((2, 100))
    for row, first in zip(table, (0, 20), strict=True):
        row[first + wins], row[first + losses] = 1, -1
    found = estimate([table])
    low, high = found.interval()
    assert found.value == pytest.approx(0.04) and low < 0 < high and found.p() > 0.05


def test_five_equal_answers_do_not_make_certainty():
    low, high = estimate([np.zeros((3, 5))]).interval()
    assert low < -0.3 and high > 0.3


def test_a_permutation_says_how_small_it_can_become():
    table = np.full((5, 20), 0.1)
    assert permutation_p([table]) == (2 / 32, 2 / 32)
    assert permutation_p([np.full((3, 20), 0.6), -np.full((3, 20), 0.1)]) == (2 / 20, 2 / 20)
    assert permutation_p([np.array([[0.1], [-0.1]])])[0] == 1.0


def test_the_bootstrap_holds_the_mean_and_draws_seeds_and_problems():
    table = np.add.outer(np.arange(6.0), np.arange(50.0) % 2)
    low, high = bootstrap_interval([table])
    assert low < table.mean() < high
    problems_alone = bootstrap_interval([table.mean(0, keepdims=True)])
    assert high - low > 2 * (problems_alone[1] - problems_alone[0])
    assert bootstrap_interval([table]) == (low, high)  # the same again


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_the_order(ps):
    corrected = holm(ps)
    assert all(p <= more <= 1 for p, more in zip(ps, corrected, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert [corrected[i] for i in order] == sorted(corrected)
    assert corrected[order[0]] == min(1.0, len(ps) * ps[order[0]])


def test_a_share_that_cannot_move_has_no_effect_size():
    assert cohens_h((0.0, 0.0, 0.0), 1.0, 1.0) is None
    assert cohens_h((0.0, -0.1, 0.1), 0.5, 0.5) == pytest.approx((0.0, -0.2, 0.2))
