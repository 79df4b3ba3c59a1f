"""Hold credit assignment to values worked out by hand, then to its defining properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.maths.credit import auc, gae_returns, localisation, value_deltas


def rows(values):
    """Lay values out behind a prompt of two tokens, padding on the right."""
    mask = torch.zeros(len(values), 2 + max(map(len, values)) + 1, dtype=torch.bool)
    value = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, numbers in enumerate(values):
        mask[row, 2 : 2 + len(numbers)] = True
        value[row, 2 : 2 + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    return mask, value


values = st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=6), min_size=1, max_size=4)


def test_returns_worked_out_by_hand():
    mask, value = rows([[0.2, 0.6, 0.5]])
    # Backwards with γ = 0.9, λ = 0.5, R = 1:
    #   δ3 = 1 − 0.5 = 0.5                        A3 = 0.5                       G3 = 1.0
    #   δ2 = 0.9·0.5 − 0.6 = −0.15                A2 = −0.15 + 0.45·0.5 = 0.075  G2 = 0.675
    #   δ1 = 0.9·0.6 − 0.2 = 0.34                 A1 = 0.34 + 0.45·0.075         G1 = 0.57375
    returns = gae_returns(value, mask, torch.tensor([1.0]), gamma=0.9, gae_lambda=0.5)
    assert returns[0].tolist() == pytest.approx([0, 0, 0.57375, 0.675, 1.0, 0])


@given(values, st.floats(-3, 3))
def test_without_decay_every_return_is_the_reward(numbers, reward):
    mask, value = rows(numbers)
    returns = gae_returns(value, mask, torch.full((len(numbers),), reward, dtype=torch.float64))
    torch.testing.assert_close(returns, reward * mask.double(), rtol=0, atol=1e-12)


@given(values, st.floats(0, 1))
def test_lambda_zero_bootstraps_from_the_next_state_and_lambda_one_forgets_the_values(numbers, gamma):
    mask, value = rows(numbers)
    reward = torch.ones(len(numbers), dtype=torch.float64)
    one_step = gae_returns(value, mask, reward, gamma, gae_lambda=0.0)
    discounted = gae_returns(value, mask, reward, gamma, gae_lambda=1.0)
    for row, here in enumerate(numbers):
        assert one_step[row, 2 : 2 + len(here)].tolist() == pytest.approx([gamma * v for v in here[1:]] + [1.0])
        assert discounted[row, 2 : 2 + len(here)].tolist() == pytest.approx(
            [gamma ** (len(here) - 1 - t) for t in range(len(here))]
        )


@given(values)
def test_deltas_add_up_to_what_the_program_gained(numbers):
    mask, value = rows(numbers)
    delta = value_deltas(value, mask)
    assert (delta[~mask] == 0).all()
    for row, here in enumerate(numbers):
        assert float(delta[row].sum()) == pytest.approx(here[-1] - float(value[row, 1]), abs=1e-9)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
@settings(max_examples=50)
def test_auc_is_the_share_of_pairs_in_order(positive, negative):
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    found = auc(torch.tensor(positive, dtype=torch.float32), torch.tensor(negative, dtype=torch.float32))
    assert float(found) == pytest.approx(sum(pairs) / len(pairs))


def test_auc_of_one_kind_only_is_not_a_number():
    assert math.isnan(auc(torch.tensor([1.0]), torch.tensor([])))
    assert math.isnan(auc(torch.tensor([]), torch.tensor([1.0])))


def test_localisation_counts_places_by_hand():
    #              prompt | targets
    score = torch.tensor([
        [-9.0, 0.1, -0.5, 0.0, 0.0, 0.0],   # lowest on the first changed token
        [-9.0, 0.1, 0.0, -0.1, -0.6, 0.0],  # two after it, outside the span
        [-9.0, -0.7, 0.1, -0.6, 0.0, 0.0],  # before it
        [-9.0, 0.2, 0.1, -0.2, 0.3, 0.0],   # a right program
        [-9.0, -0.9, 0.0, 0.0, 0.0, 0.0],   # wrong, but nobody knows where
    ])  # fmt: skip
    mask = torch.tensor([[False, True, True, True, True, False]]).repeat(5, 1)
    changed = torch.zeros(5, 6, dtype=torch.bool)
    changed[0, 2:4] = changed[1, 2:4] = changed[2, 3] = True
    found = localisation(score, mask, changed, torch.tensor([False, False, False, True, False]))
    assert found["programs"] == 3
    assert found["on_first"] == pytest.approx(1 / 3)
    assert found["within_two"] == pytest.approx(2 / 3)
    assert found["in_span"] == pytest.approx(1 / 3)
    assert found["chance"] == pytest.approx((2 / 4 + 2 / 4 + 1 / 4) / 3)
    # First changed: -0.5, 0.0, -0.6. Clean: 0.1 | 0.1 | -0.7, 0.1 | 0.2, 0.1, -0.2, 0.3. In order: 7 + 6 + 7 of 24.
    assert found["first_token_auc"] == pytest.approx((7 + 6 + 7) / 24)
    # Sums: 0.4 is right; -0.4, -0.6, -1.2 and -0.9 are wrong.
    assert found["sequence_auc"] == 1.0


def test_localisation_of_right_programs_only_is_not_a_number():
    mask = torch.ones(1, 3, dtype=torch.bool)
    found = localisation(torch.zeros(1, 3), mask, torch.zeros(1, 3, dtype=torch.bool), torch.tensor([True]))
    assert found["programs"] == 0 and math.isnan(found["in_span"])
