"""Hold the way from scores to weights to maths.md 3."""

#   B sequences, T positions

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

from wmtp.errors import ConfigError, NonFiniteScoreError
from wmtp.maths.weighting import (
    HardSelection,
    SoftWeighting,
    blend,
    check_finite,
    clip_keeping_mean,
    draw_scores,
    emphasize_top,
    smooth_scores,
    softmax_log_weights,
    standardize,
)

# Weights are float64 until the end: their float32 is rounded once, and once more where they are blended with 1.
ROUNDED = 2 * torch.finfo(torch.float32).eps
SHAPES = {
    "normal": lambda score_BT: score_BT,
    "equal": lambda score_BT: torch.full_like(score_BT, 0.1),
    "tied": lambda score_BT: score_BT.round(),
    "heavy tails": lambda score_BT: score_BT**7,
    "huge outlier": lambda score_BT: score_BT.flatten().index_fill(0, torch.tensor([0]), 1e4).view_as(score_BT),
    "tiny": lambda score_BT: score_BT * 1e-6,
}


@st.composite
def scores(draw) -> tuple[Tensor, Tensor]:
    B, T = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    score_BT = SHAPES[draw(st.sampled_from(sorted(SHAPES)))](torch.randn(B, T, generator=generator))
    mask_BT = torch.rand(B, T, generator=generator) < draw(st.sampled_from([1.0, 0.6, 0.1]))
    match draw(st.sampled_from(["as drawn", "one valid token", "a row without targets", "nothing valid"])):
        case "one valid token":
            mask_BT[:] = False
            mask_BT[B // 2, T // 2] = True
        case "a row without targets":
            mask_BT[0] = False
        case "nothing valid":
            mask_BT[:] = False
    # What lies outside the mask is nobody's business.
    score_BT[~mask_BT] = draw(st.sampled_from([0.0, math.nan, math.inf]))
    return score_BT.to(draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))), mask_BT


weightings = st.builds(
    SoftWeighting,
    lam=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.01, 0.5, 0.7, 1.0, 20.0]),
    percentile=st.sampled_from([0.01, 0.1, 0.3, 1.0]),
    epsilon=st.sampled_from([1e-6, 0.05, 0.99]),
    w_max=st.sampled_from([1.01, 3.0, 1e4]),
    scope=st.sampled_from(["batch", "sequence"]),
    control=st.sampled_from(["none", "shuffle", "random"]),
    smooth=st.sampled_from([0, 0, 2]),
)
hard_selections = st.builds(
    HardSelection,
    percentile=st.sampled_from([0.01, 0.1, 0.6, 1.0]),
    scope=st.sampled_from(["batch", "sequence"]),
    control=st.sampled_from(["none", "shuffle", "random"]),
)
search = settings(max_examples=80, deadline=None, derandomize=True)


def scopes_of(scope: str, *tensors: Tensor):
    """Give the valid values of every scope, one-dimensional."""
    *values, mask_BT = tensors
    rows = [slice(None)] if scope == "batch" else range(len(mask_BT))
    for row in rows:
        if mask_BT[row].any():
            yield [value[row][mask_BT[row]] for value in values]


@search
@given(scores(), weightings)
def test_mean_is_one_and_bounds_hold_in_every_scope(case, weighting):
    score_BT, mask_BT = case
    weight_BT = weighting(score_BT.requires_grad_(), mask_BT)
    assert weight_BT.dtype == torch.float32 and not weight_BT.requires_grad
    assert weight_BT[~mask_BT].eq(0).all()
    for (weight_N,) in scopes_of(weighting.scope, weight_BT, mask_BT):
        assert weight_N.double().mean().item() == pytest.approx(1, rel=ROUNDED)
        assert weighting.epsilon * (1 - ROUNDED) <= weight_N.min().item()
        assert weight_N.max().item() <= weighting.w_max * (1 + ROUNDED)


@search
@given(scores(), hard_selections)
def test_hard_selection_has_mean_one_and_two_values(case, selection):
    score_BT, mask_BT = case
    weight_BT = selection(score_BT.requires_grad_(), mask_BT)
    assert not weight_BT.requires_grad and weight_BT[~mask_BT].eq(0).all()
    for (weight_N,) in scopes_of(selection.scope, weight_BT, mask_BT):
        assert weight_N.double().mean().item() == pytest.approx(1, rel=ROUNDED)
        assert len(weight_N[weight_N > 0].unique()) == 1


@search
@given(scores(), st.one_of(weightings, hard_selections).filter(lambda one: one.control == "none" and not one.smooth))
def test_a_higher_score_never_gets_a_lower_weight(case, weighting):
    score_BT, mask_BT = case
    for score_N, weight_N in scopes_of(weighting.scope, score_BT, weighting(score_BT, mask_BT), mask_BT):
        ordered_N = weight_N[score_N.argsort()].double()
        assert (ordered_N.diff() >= -ROUNDED * ordered_N[1:]).all()


@search
@given(scores(), st.one_of(weightings, hard_selections))
def test_equal_scores_get_exactly_one(case, weighting):
    _, mask_BT = case
    for score in (0.0, 0.1, -7.3e5, 1e30):
        assert weighting(torch.full(mask_BT.shape, score), mask_BT).equal(mask_BT.float())


@search
@given(scores(), st.one_of(weightings, hard_selections))
def test_weights_do_not_depend_on_padding(case, weighting):
    score_BT, mask_BT = case
    plain_BT = weighting(score_BT, mask_BT, draw=7)
    padded_BT = weighting(pad(score_BT, (0, 9), value=5.0), pad(mask_BT, (0, 9), value=False), draw=7)
    # z is float32, at most √N, and divided by the temperature in the exponent.
    rounded = ROUNDED * (1 + math.sqrt(mask_BT.numel()) / getattr(weighting, "temperature", 1))
    torch.testing.assert_close(padded_BT, pad(plain_BT, (0, 9)), rtol=rounded, atol=0)


@search
@given(scores(), weightings)
def test_shuffle_permutes_the_weights_within_the_scope(case, weighting):
    score_BT, mask_BT = case
    shuffled, plain = (
        SoftWeighting(**{**vars(weighting), "control": control})(score_BT, mask_BT) for control in ("shuffle", "none")
    )
    for a_N, b_N in scopes_of(weighting.scope, shuffled, plain, mask_BT):
        assert a_N.sort().values.equal(b_N.sort().values)


def test_shuffle_is_decided_by_its_seed_and_prefers_no_place():
    mask_BT = torch.ones(4, 250, dtype=torch.bool)
    score_BT = torch.arange(1000.0).view(4, 250)
    for weighting in (SoftWeighting(lam=1.0, control="shuffle"), HardSelection(control="shuffle")):
        first = weighting(score_BT, mask_BT, draw=1)
        assert first.equal(weighting(score_BT, mask_BT, draw=1))
        assert not first.equal(weighting(score_BT, mask_BT, draw=2))
        assert not first.equal(dataclasses.replace(weighting, seed=43)(score_BT, mask_BT, draw=1))
        correlation = torch.corrcoef(torch.stack([first.flatten(), score_BT.flatten()]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(1000)


@pytest.mark.parametrize("kind", ["heavy tails", "huge outlier"])
def test_a_million_tokens_keep_mean_bounds_and_order(kind):
    generator = torch.Generator().manual_seed(42)
    score_BT = SHAPES[kind](torch.randn(1, 1_000_000, generator=generator))
    weighting = SoftWeighting(lam=1.0, temperature=0.1, percentile=0.3)
    weight_N = weighting(score_BT, torch.ones(1, 1_000_000, dtype=torch.bool))[0]
    assert weight_N.double().mean().item() == pytest.approx(1, rel=ROUNDED)
    assert weight_N.min() >= 0.05 * (1 - ROUNDED) and weight_N.max() <= 3 * (1 + ROUNDED)
    assert weight_N[score_BT[0].argsort()].diff().min() >= -3 * ROUNDED


@search
@given(scores())
def test_random_scores_are_those_of_valid_tokens_of_the_row(case):
    score_BT, mask_BT = case
    key_BT = torch.rand(mask_BT.shape, generator=torch.Generator().manual_seed(42), dtype=torch.float64)
    drawn_BT = draw_scores(score_BT, mask_BT, key_BT)
    assert drawn_BT[~mask_BT].eq(0).all()
    for drawn_N, score_N in scopes_of("sequence", drawn_BT, score_BT, mask_BT):
        assert torch.isin(drawn_N, score_N).all()


def test_random_draws_every_score_alike_and_each_token_on_its_own():
    mask_BT = torch.tensor([[True, False, True, True, True]])
    selection = HardSelection(percentile=0.001, control="random")  # of four scores the highest that was drawn is kept
    draws, kept_DN = 4000, []
    for draw in range(draws):
        kept_DN.append(selection(torch.tensor([[0.0, 9.0, 1.0, 2.0, 3.0]]), mask_BT, draw)[mask_BT] > 0)
    kept_DN = torch.stack(kept_DN).double()
    # P(a token is kept) = Σ_s P(it drew s and nobody drew higher) = Σ_s 1/4 · (s/4)³, s = 1 … 4, for every token alike;
    # that all four are kept is Σ_s 4^-4 · 1 = 4 / 256: shuffled weights would never all be the same.
    kept, all_kept = sum((s / 4) ** 3 for s in range(1, 5)) / 4, 4 / 256
    for share, expected in [*((one, kept) for one in kept_DN.mean(dim=0)), (kept_DN.prod(dim=1).mean(), all_kept)]:
        assert share.item() == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / draws))


@search
@given(scores(), st.integers(1, 50))
def test_a_smoothed_score_is_the_mean_over_the_valid_neighbours_of_its_sequence(case, reach):
    score_BT, mask_BT = case
    found_BT = smooth_scores(score_BT, mask_BT, reach)
    for b, row in enumerate(mask_BT.tolist()):
        for t, valid in enumerate(row):
            near = [float(score_BT[b, j]) for j in range(max(0, t - reach), min(len(row), t + reach + 1)) if row[j]]
            size = sum(map(abs, near))
            expected = pytest.approx(math.fsum(near) / len(near), abs=len(near) * size * 2**-52) if valid else 0.0
            assert found_BT[b, t].item() == expected


def test_smoothing_lets_a_bad_span_fall_together():
    score_BT = torch.tensor([[1.0, 1.0, 1.0, -5.0, 0.0, -5.0, 1.0, 1.0, 1.0]])
    mask_BT = torch.ones_like(score_BT, dtype=torch.bool)
    plain, smooth = (SoftWeighting(smooth=reach)(score_BT, mask_BT)[0] for reach in (0, 1))
    assert plain[4] > plain[3] and smooth[4] <= smooth[3] < smooth[0]


@pytest.mark.parametrize(("done", "lam"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)])
def test_lambda_may_follow_a_curve_along_the_training(done, lam):
    score_BT, mask_BT = torch.tensor([[0.0, 1.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    weight_BT = SoftWeighting(lam={0: 0.0, 0.5: 1.0})(score_BT, mask_BT, done=done)
    assert weight_BT.equal(SoftWeighting(lam=lam)(score_BT, mask_BT))


def test_rounding_makes_no_difference_between_many_equal_scores():
    mask_BT = torch.ones(1, 100_003, dtype=torch.bool)
    assert SoftWeighting(lam=1.0)(torch.full(mask_BT.shape, 0.1), mask_BT).eq(1).all()


def test_an_outlier_whose_square_is_no_float32_is_still_the_highest():
    weight_BT = SoftWeighting(lam=1.0)(torch.tensor([[1e30] + [0.0] * 9]), torch.ones(1, 10, dtype=torch.bool))
    assert weight_BT[0, 0] == 3.0 and weight_BT[0, 1:].max() < 1.0


def test_one_outlier_among_a_million_keeps_the_others_apart():
    # z of the outlier is 1000: in plain exponentials all others would be 0 and get one and the same weight.
    log_weight_SL = torch.cat([torch.tensor([1000.0]), torch.linspace(-2, 2, 999_999)])[None]
    weight_SL = clip_keeping_mean(log_weight_SL, torch.ones(1, 1_000_000, dtype=torch.bool), 0.05, 10.0)
    torch.testing.assert_close(weight_SL[0, -1] / weight_SL[0, 1], torch.tensor(math.exp(4.0)))


@search
@given(scores(), weightings)
def test_clipping_constant_is_the_one_that_bisection_finds(case, weighting):
    score_BT, mask_BT = case
    log_weight_BT = softmax_log_weights(standardize(score_BT, mask_BT), mask_BT, weighting.temperature)
    ours = clip_keeping_mean(log_weight_BT, mask_BT, weighting.epsilon, weighting.w_max)
    for log_weight_N, weight_N in scopes_of("sequence", log_weight_BT, ours, mask_BT):
        low, high = -1e5, 1e5
        for _ in range(80):
            middle = (low + high) / 2
            clipped_N = (log_weight_N + middle).clamp(math.log(weighting.epsilon), math.log(weighting.w_max)).exp()
            low, high = (middle, high) if clipped_N.mean() < 1 else (low, middle)
        torch.testing.assert_close(weight_N.double(), clipped_N, rtol=ROUNDED, atol=0)


def test_a_plateau_where_every_token_sits_on_a_bound_is_solved():
    # One token at 2 for every two at 1/2 has mean 1 exactly, with nobody between to move; rounding decides on which
    # side of the plateau one lands.
    generator = torch.Generator().manual_seed(42)
    for tops in [1, 2, 3] * 40:
        top = torch.rand(tops, generator=generator, dtype=torch.float64) / 10
        floor = torch.rand(2 * tops, generator=generator, dtype=torch.float64) - 20
        log_weight_SL = torch.cat([top, floor])[None]
        weight_SL = clip_keeping_mean(log_weight_SL, torch.ones_like(log_weight_SL, dtype=torch.bool), 0.5, 2.0)
        torch.testing.assert_close(weight_SL, torch.tensor([[2.0] * tops + [0.5] * 2 * tops]))


def test_hand_worked_numbers_of_every_step():
    everything = torch.ones(1, 4, dtype=torch.bool)
    z = standardize(torch.tensor([[2.0, 4.0, 6.0, 99.0]]), torch.tensor([[True, True, True, False]]))
    torch.testing.assert_close(z, torch.tensor([[-(1.5**0.5), 0.0, 1.5**0.5, 0.0]]))
    # the 1/2 quantile of 0, 1, 2, 5 is 1.5
    u = emphasize_top(torch.tensor([[5.0, 0.0, 1.0, 2.0]]), everything, percentile=0.5)
    torch.testing.assert_close(u, torch.tensor([[3.5, 0.0, 0.0, 0.5]]))
    # softmax of (0, log 2, log 2, log 3) is (1, 2, 2, 3)/8, and T = 1/2 squares the ratios
    scores = torch.tensor([[1.0, 2.0, 2.0, 3.0]]).log()
    torch.testing.assert_close(
        softmax_log_weights(scores, everything, 1.0).exp(), torch.tensor([[0.5, 1.0, 1.0, 1.5]], dtype=torch.float64)
    )
    torch.testing.assert_close(
        softmax_log_weights(scores, everything, 0.5).exp(),
        torch.tensor([[1.0, 4.0, 4.0, 9.0]], dtype=torch.float64) / 4.5,
    )
    # (0.4, 0.8, 0.8, 2.0) under W_max = 1.6: the other three share 2.4 in the ratio 1 : 2 : 2
    clipped = clip_keeping_mean(torch.tensor([[0.4, 0.8, 0.8, 2.0]]).log(), everything, 0.05, 1.6)
    torch.testing.assert_close(clipped, torch.tensor([[0.48, 0.96, 0.96, 1.6]]))
    torch.testing.assert_close(blend(clipped, everything, 0.5), torch.tensor([[0.74, 0.98, 0.98, 1.3]]))


def test_lambda_of_zero_is_the_baseline():
    mask_BT = torch.tensor([[True, False, True]])
    assert SoftWeighting(lam=0.0)(torch.tensor([[1.0, 2.0, 9.0]]), mask_BT).equal(mask_BT.float())


def test_tokens_below_the_top_fraction_share_one_floor_and_are_kept():
    score_BT = torch.arange(100.0)[None]
    weight_N = SoftWeighting(lam=1.0, percentile=0.2)(score_BT, torch.ones(1, 100, dtype=torch.bool))[0]
    assert len(weight_N[:80].unique()) == 1 and weight_N[0] > 0
    assert (weight_N[80:].diff() > 0).all() and weight_N[80] > weight_N[0]


def test_hard_selection_keeps_the_top_fraction_at_its_inverse():
    score_BT = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0], [9.0, 8.0, 7.0, 6.0, 0.0]])
    mask_BT = torch.ones(2, 5, dtype=torch.bool)
    by_batch = HardSelection(percentile=0.5)(score_BT, mask_BT)
    assert by_batch.tolist() == [[2.0, 0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0, 0.0]]
    by_sequence = HardSelection(percentile=0.2, scope="sequence")(score_BT, mask_BT)
    assert by_sequence.tolist() == [[5.0, 0.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0, 0.0]]


def test_scope_sequence_weighs_every_row_as_if_alone():
    generator = torch.Generator().manual_seed(42)
    score_BT, mask_BT = torch.randn(4, 30, generator=generator), torch.rand(4, 30, generator=generator) < 0.7
    for kind in (SoftWeighting, HardSelection):
        together = kind(scope="sequence")(score_BT, mask_BT)
        alone = torch.cat([kind()(score_BT[b : b + 1], mask_BT[b : b + 1]) for b in range(4)])
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("weighting", [SoftWeighting(), HardSelection()])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_a_non_finite_score_is_an_error_that_says_how_many_and_where(weighting, value, scope):
    score_BT = torch.zeros(3, 5, dtype=torch.bfloat16)
    score_BT[1, 2] = score_BT[2, 4] = value
    mask_BT = torch.ones(3, 5, dtype=torch.bool)
    mask_BT[0, 0] = False
    weighting = type(weighting)(**{**vars(weighting), "scope": scope})
    with pytest.raises(NonFiniteScoreError, match=r"2 of 14 token scores .* first one at sequence 1, position 2"):
        check_finite(score_BT, mask_BT)
    # And no weight is made of it, nor of any score that it was to be compared with.
    weight_BT = weighting(score_BT, mask_BT)
    assert weight_BT[0, 0] == 0 and weight_BT[1:].isnan().all()
    assert weight_BT[0, 1:].isnan().all() if scope == "batch" else weight_BT[0, 1:].eq(1).all()


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        ("lam", "abc", "algo.weighting.lam = 'abc' must be a number in [0, 1]."),
        ("lam", True, "algo.weighting.lam = True must be a number in [0, 1]."),
        ("lam", None, "algo.weighting.lam = None must be a number in [0, 1]."),
        ("lam", -0.1, "algo.weighting.lam = -0.1 must be a number in [0, 1]."),
        ("lam", math.nan, "algo.weighting.lam = nan must be a number in [0, 1]."),
        ("lam", {0: 2}, "algo.weighting.lam = {0: 2} must be a number in [0, 1], or points {share of the training: "),
        ("smooth", -1, "algo.weighting.smooth = -1 must be a whole number"),
        ("temperature", 0, "algo.weighting.temperature = 0 must be a number > 0. It divides the scores; try 0.7 "),
        ("temperature", math.inf, "algo.weighting.temperature = inf must be a number > 0"),
        ("temperature", [0.7], "algo.weighting.temperature = [0.7] must be a number > 0."),
        ("percentile", 0.0, "algo.weighting.percentile = 0.0 must be a number in (0, 1]."),
        ("percentile", 20, "algo.weighting.percentile = 20 must be a number in (0, 1]."),
        ("epsilon", 0, "algo.weighting.epsilon = 0 must be a number in (0, 1)."),
        ("epsilon", 1, "algo.weighting.epsilon = 1 must be a number in (0, 1)."),
        ("w_max", 1.0, "algo.weighting.w_max = 1.0 must be a number > 1."),
        ("w_max", "3", "algo.weighting.w_max = '3' must be a number > 1."),
        ("scope", "token", "algo.weighting.scope = 'token' must be one of batch, sequence."),
        ("control", None, "algo.weighting.control = None must be one of none, shuffle, random."),
    ],
)
def test_a_value_that_cannot_work_is_named_with_the_way_out(key, value, sentence):
    with pytest.raises(ConfigError) as caught:
        SoftWeighting(**{key: value})
    assert str(caught.value).startswith(sentence)
    if key in vars(HardSelection()):
        with pytest.raises(ConfigError) as caught:
            HardSelection(**{key: value})
        assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_weighting_takes_as_many_kernels_for_few_tokens_as_for_many(scope):
    class Count(TorchDispatchMode):
        kernels = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.kernels += 1
            return func(*args, **(kwargs or {}))

    def kernels(B: int, T: int) -> int:
        with Count() as count:
            SoftWeighting(scope=scope)(torch.randn(B, T), torch.ones(B, T, dtype=torch.bool))
        return count.kernels

    assert kernels(16, 70) == kernels(2, 5) < 200
