"""Hold the weighted multi-token loss to maths.md 2, against explicit logits that share no line with it."""

#   B sequences, T positions, H heads, D width, V vocabulary

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tolerance import assert_same_up_to_rounding, distance, in_float64, relative_rounding
from wmtp.errors import ConfigError
from wmtp.maths.alignment import IGNORE, shift_left, target_mask
from wmtp.maths.loss import target_nll, weighted_mtp_loss


@dataclass
class Case:
    """Hold the inputs of one loss."""

    hidden: list[Tensor]
    unembedding_VD: Tensor
    labels_BT: Tensor
    weight_BT: Tensor

    @property
    def step_targets(self) -> int:
        return int(target_mask(self.labels_BT).sum())

    @property
    def leaves(self) -> list[Tensor]:
        return [self.unembedding_VD, *self.hidden]

    @property
    def terms(self) -> int:
        """Count what is added up: a row of hidden states, the vocabulary, and all targets of all heads."""
        return sum(self.unembedding_VD.shape) + len(self.hidden) * self.labels_BT.numel()

    def low_precision(self, dtype: torch.dtype) -> float:
        """Bound the relative error where logits are rounded: by half an eps of themselves, as are their gradients.

        The loss is their mean, in which independent errors shrink with the root of their number.
        """
        logits = torch.stack(self.hidden).detach().double() @ self.unembedding_VD.detach().double().T
        return torch.finfo(dtype).eps * max(1.0, float(logits.square().mean().sqrt()))

    def loss(self, **changes) -> Tensor:
        return weighted_mtp_loss(
            **{
                "hidden": self.hidden,
                "unembedding_VD": self.unembedding_VD,
                "labels_BT": self.labels_BT,
                "weight_BT": self.weight_BT,
                "step_targets": self.step_targets,
                **changes,
            }
        )

    def loss_and_gradients(self, **changes) -> tuple[Tensor, list[Tensor]]:
        loss = self.loss(**changes).loss
        return loss.detach(), list(torch.autograd.grad(loss, self.leaves))


def make_case(B=3, T=11, H=4, D=6, V=13, dtype=torch.float64, seed=42, ignored=0.3) -> Case:
    generator = torch.Generator().manual_seed(seed)
    labels_BT = torch.randint(0, V, (B, T), generator=generator)
    labels_BT[torch.rand(B, T, generator=generator) < ignored] = IGNORE
    return Case(
        [torch.randn(B, T, D, generator=generator, dtype=dtype).requires_grad_() for _ in range(H)],
        torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_(),
        labels_BT,
        torch.rand(B, T, generator=generator),
    )


def explicit_loss(case: Case, head_weights=None) -> Tensor:
    """Spell out maths.md 2, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    B, T = case.labels_BT.shape
    for k, hidden_BTD in enumerate(case.hidden):
        log_prob_BTV = (hidden_BTD.double() @ case.unembedding_VD.double().T).log_softmax(-1)
        for b in range(B):
            for j in range(1 + k, T):
                if case.labels_BT[b, j] != IGNORE:
                    alpha = 1.0 if head_weights is None else head_weights[k]
                    weight = case.weight_BT[b, j].double()
                    total = total - alpha * weight * log_prob_BTV[b, j - 1 - k, case.labels_BT[b, j]]
    return total / (len(case.hidden) * max(case.step_targets, 1))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 9),
    H=st.integers(1, 4),
    chunk_size=st.integers(1, 40),
    ignored=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_loss_and_gradients_are_those_of_explicit_logits(B, T, H, chunk_size, ignored, seed):
    case = make_case(B, T, H, seed=seed, ignored=ignored)
    case.weight_BT[case.weight_BT < 0.3] = 0.0
    head_weights = [1.0, 0.5, 0.0, 2.0][:H]
    loss, gradients = case.loss_and_gradients(chunk_size=chunk_size, head_weights=head_weights)
    expected = explicit_loss(case, head_weights)
    # Where nothing is to be predicted the explicit loss has no graph: its gradients are zero.
    expected = expected + 0.0 * sum(leaf.sum() for leaf in case.leaves)
    assert_same_up_to_rounding(loss, expected.detach(), case.terms)
    assert_same_up_to_rounding(gradients, torch.autograd.grad(expected, case.leaves), case.terms)


def test_gradients_are_the_slopes_of_the_loss_in_float64():
    case = make_case()
    _, gradients = case.loss_and_gradients()
    generator = torch.Generator().manual_seed(42)
    for leaf, gradient in zip(case.leaves, gradients, strict=True):
        direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            leaf += 1e-5 * direction
            above = case.loss().loss
            leaf -= 2e-5 * direction
            below = case.loss().loss
            leaf += 1e-5 * direction
        # h = 1e-5 leaves h² = 1e-10 of the curvature and eps/h = 2e-11 of rounding.
        assert ((above - below) / 2e-5).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-7)


@in_float64()
def test_one_head_of_weight_one_is_the_causal_lm_loss_of_hugging_face():
    torch.manual_seed(42)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).double()
    input_ids_BT = torch.randint(64, (3, 17))
    labels_BT = input_ids_BT.clone()
    labels_BT[0, :6] = IGNORE
    labels_BT[1, 12:] = IGNORE

    theirs = model(input_ids_BT, labels=labels_BT).loss
    their_gradients = torch.autograd.grad(theirs, list(model.parameters()))
    hidden_BTD = model.model(input_ids_BT).last_hidden_state
    step_targets = int(target_mask(labels_BT).sum())
    ours = weighted_mtp_loss([hidden_BTD], model.lm_head.weight, labels_BT, None, step_targets, chunk_size=7).loss
    our_gradients = torch.autograd.grad(ours, list(model.parameters()))

    terms = 3 * sum(max(parameter.shape) for parameter in model.parameters()) + input_ids_BT.numel()
    assert_same_up_to_rounding(ours, theirs, terms)
    assert_same_up_to_rounding(our_gradients, their_gradients, terms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_one_are_bit_for_bit_the_baseline(dtype):
    case = make_case(dtype=dtype)
    baseline, baseline_gradients = case.loss_and_gradients(weight_BT=None, chunk_size=5)
    ones, ones_gradients = case.loss_and_gradients(weight_BT=torch.ones_like(case.weight_BT), chunk_size=5)
    assert ones.equal(baseline)
    assert all(a.equal(b) for a, b in zip(ones_gradients, baseline_gradients, strict=True))


def test_a_head_learns_from_as_much_of_the_weights_as_it_is_given():
    # Linear in λ_k: the loss with λ is that of weights 1 + λ·(w - 1), head by head.
    case = make_case(H=3)
    lam = [1.0, 0.25, 0.0]
    alone = lambda k: [float(k == other) for other in range(3)]  # noqa: E731
    for k in range(3):
        blended_BT = 1 + lam[k] * (case.weight_BT.double() - 1)
        expected = case.loss_and_gradients(weight_BT=blended_BT, head_weights=alone(k))
        found = case.loss_and_gradients(head_lam=lam, head_weights=alone(k))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)  # float64
    with pytest.raises(ConfigError, match=r"algo\.head_lam = .* must hold one number for each of the 3 heads"):
        case.loss(head_lam=[1.0])


def test_prompt_and_padding_receive_no_gradient_from_any_head():
    case = make_case(B=1, T=12)
    case.labels_BT[:] = torch.tensor([[IGNORE] * 5 + [1, 2, 3] + [IGNORE] * 4])
    _, (_, *hidden_gradients) = case.loss_and_gradients()
    for k, gradient_BTD in enumerate(hidden_gradients):
        touched = gradient_BTD.abs().sum(-1).nonzero()[:, 1].tolist()
        assert touched == [5 - 1 - k, 6 - 1 - k, 7 - 1 - k]


def test_weight_belongs_to_the_target_token_for_every_head():
    case = make_case(B=1, T=10, ignored=0.0)
    weight_BT = torch.zeros(1, 10)
    weight_BT[0, 6] = 1.0
    _, (_, *hidden_gradients) = case.loss_and_gradients(weight_BT=weight_BT)
    assert [g.abs().sum(-1).nonzero()[:, 1].tolist() for g in hidden_gradients] == [[5], [4], [3], [2]]


def test_step_without_any_target_has_loss_zero_and_zero_gradients():
    case = make_case(dtype=torch.float32)
    case.labels_BT[:] = IGNORE
    out = case.loss(step_targets=0)
    assert out.loss.item() == 0.0
    assert out.nll_sum_H.tolist() == [0.0] * 4 and out.target_count_H.tolist() == [0] * 4
    assert all(gradient.eq(0).all() for gradient in torch.autograd.grad(out.loss, case.leaves))


@pytest.mark.parametrize("parts", [[4], [2, 2], [1, 1, 1, 1], [1, 3]])
def test_gradient_is_the_same_however_the_step_is_split(parts):
    case = make_case(B=4, T=23, D=16, V=50)
    case.labels_BT[1, 3:] = IGNORE  # uneven: a mean of means would show
    _, whole = case.loss_and_gradients()
    start = 0
    for size in parts:
        part = slice(start, start + size)
        weighted_mtp_loss(
            [h[part] for h in case.hidden],
            case.unembedding_VD,
            case.labels_BT[part],
            case.weight_BT[part],
            case.step_targets,
            chunk_size=16,
        ).loss.backward()
        start += size
    assert_same_up_to_rounding([leaf.grad for leaf in case.leaves], whole, case.terms)


def test_gradient_does_not_depend_on_padding():
    case = make_case(dtype=torch.float32)
    padded = Case(
        [F.pad(h.detach(), (0, 0, 0, 5), value=9.9).requires_grad_() for h in case.hidden],
        case.unembedding_VD,
        F.pad(case.labels_BT, (0, 5), value=IGNORE),
        F.pad(case.weight_BT, (0, 5), value=7.0),
    )
    loss, gradients = case.loss_and_gradients()
    padded_loss, padded_gradients = padded.loss_and_gradients()
    assert padded_loss.equal(loss)
    assert padded_gradients[0].equal(gradients[0])
    for ours, theirs in zip(padded_gradients[1:], gradients[1:], strict=True):
        assert ours.equal(F.pad(theirs, (0, 0, 0, 5)))


def test_weight_of_zero_gives_no_gradient_and_is_still_reported():
    case = make_case()
    kept_BT = case.weight_BT > 0.5
    out = case.loss(weight_BT=kept_BT.float())
    everything = case.loss(weight_BT=None)
    assert_same_up_to_rounding(out.nll_sum_H, everything.nll_sum_H, case.terms)
    assert out.target_count_H.equal(everything.target_count_H)
    # A token that is not trained on may be infinitely surprising without spoiling the others.
    case = make_case(B=1, T=4, H=1, D=1, V=2, ignored=0.0)
    case.labels_BT[:] = torch.tensor([[0, 0, 1, 1]])
    case.hidden[0] = torch.tensor([[[1e300], [1.0], [1.0], [1.0]]], dtype=torch.float64).requires_grad_()
    case.unembedding_VD = torch.tensor([[-1e300], [1.0]], dtype=torch.float64).requires_grad_()
    loss, gradients = case.loss_and_gradients(weight_BT=torch.tensor([[1.0, 0.0, 1.0, 1.0]]))
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


def test_reported_nll_is_unweighted_and_by_head():
    case = make_case()
    out = case.loss(head_weights=[1.0, 0.5, 0.0, 2.0])
    for k, hidden_BTD in enumerate(case.hidden):
        nll_BT = target_nll(hidden_BTD, case.unembedding_VD, case.labels_BT, k)
        assert_same_up_to_rounding(out.nll_sum_H[k], nll_BT.sum(), case.terms)
        assert out.target_count_H[k] == target_mask(case.labels_BT, k).sum()
    assert not out.nll_sum_H.requires_grad and not out.target_count_H.requires_grad


@pytest.mark.parametrize("k", [0, 2])
def test_target_nll_lies_on_the_target_token(k):
    case = make_case()
    nll_BT = target_nll(case.hidden[0], case.unembedding_VD, case.labels_BT, k, chunk_size=4)
    log_prob_BTV = (case.hidden[0] @ case.unembedding_VD.T).log_softmax(-1)
    mask_BT = target_mask(case.labels_BT, k)
    for b in range(3):
        for j in range(11):
            expected = -log_prob_BTV[b, j - 1 - k, case.labels_BT[b, j]].item() if mask_BT[b, j] else 0.0
            assert nll_BT[b, j].item() == pytest.approx(expected, abs=1e-12)
    assert not nll_BT.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_reduced_in_float32_and_gradients_keep_their_size(dtype):
    case = make_case(B=4, T=64, D=32, V=97, dtype=dtype)
    loss, gradients = case.loss_and_gradients(chunk_size=32)
    assert (
        loss.dtype == torch.float32 and target_nll(case.hidden[0], *case.leaves[:1], case.labels_BT).dtype == loss.dtype
    )
    exact = explicit_loss(case)
    assert distance(loss, exact.detach()) <= case.low_precision(dtype) / math.sqrt(case.step_targets)
    for ours, theirs in zip(gradients, torch.autograd.grad(exact, case.leaves), strict=True):
        assert ours.dtype == dtype and distance(ours, theirs) <= case.low_precision(dtype)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch 2.13 is the first that has it")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_own_chunked_loss_says_the_same(dtype):
    case = make_case(B=2, T=40, H=3, D=16, V=50, dtype=dtype)
    loss, gradients = case.loss_and_gradients(chunk_size=16)
    total = 0.0
    for k, hidden_BTD in enumerate(case.hidden):
        nll_N = F.linear_cross_entropy(
            hidden_BTD.flatten(0, 1), case.unembedding_VD, shift_left(case.labels_BT, k + 1, IGNORE).flatten(),
            reduction="none", ignore_index=IGNORE, options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=16),
        )  # fmt: skip
        total = total + (shift_left(case.weight_BT, k + 1, 0).flatten() * nll_N.to(loss.dtype)).sum()
    theirs = total / (len(case.hidden) * case.step_targets)
    bound = case.low_precision(dtype) if dtype == torch.bfloat16 else relative_rounding(case.terms, dtype)
    assert distance(loss, theirs.detach()) <= bound
    for a, b in zip(gradients, torch.autograd.grad(theirs, case.leaves), strict=True):
        assert distance(a, b) <= bound


def test_enormous_logits_stay_finite():
    case = make_case(dtype=torch.float32)
    case.hidden = [(1e4 * h.detach()).requires_grad_() for h in case.hidden]
    loss, gradients = case.loss_and_gradients()
    assert_same_up_to_rounding(loss.double(), explicit_loss(case).detach(), case.terms, torch.float32)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_gradients_of_float16_do_not_vanish_in_a_large_step():
    # 1/(H·M) = 2.5e-7 alone is near the smallest float16; a loss scaler's factor must come in time.
    case = make_case(dtype=torch.float16)
    scaled = case.loss(step_targets=1_000_000).loss * 65536
    exact = explicit_loss(case) * case.step_targets / 1_000_000 * 65536
    for ours, theirs in zip(
        torch.autograd.grad(scaled, case.leaves), torch.autograd.grad(exact, case.leaves), strict=True
    ):
        assert distance(ours, theirs) <= case.low_precision(torch.float16)


def test_unembedding_gradient_is_summed_in_float32_whatever_the_precision():
    # 4096 chunks contribute 1/2 each; a bfloat16 sum of halves stops growing at 128.
    hidden_BTD = torch.ones(1, 4097, 1, dtype=torch.bfloat16)
    unembedding_VD = torch.zeros(2, 1, dtype=torch.bfloat16).requires_grad_()
    labels_BT = torch.zeros(1, 4097, dtype=torch.long)
    weighted_mtp_loss([hidden_BTD], unembedding_VD, labels_BT, None, 4096, chunk_size=1).loss.backward()
    assert unembedding_VD.grad.flatten().tolist() == [-0.5, 0.5]


def test_autocast_multiplies_in_its_precision_and_returns_float32_gradients():
    case = make_case(B=4, T=32, D=32, V=97, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = case.loss_and_gradients(chunk_size=16)
        low = target_nll(case.hidden[0].detach().bfloat16(), case.unembedding_VD, case.labels_BT)
    explicit, exact = explicit_loss(case), torch.autograd.grad(explicit_loss(case), case.leaves)
    assert loss.dtype == low.dtype == torch.float32
    bound = case.low_precision(torch.bfloat16)
    assert distance(loss, explicit.detach()) <= bound / math.sqrt(case.step_targets) and loss != case.loss().loss
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.float32 and distance(ours, theirs) <= bound


class CountMatrixProducts(torch.utils._python_dispatch.TorchDispatchMode):
    """Count the matrix products, and the largest tensor anything returns."""

    def __init__(self):
        super().__init__()
        self.products, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_")
        result = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, result.numel() if isinstance(result, Tensor) else 0)
        return result


def test_evaluation_and_frozen_parts_cost_no_gradient_products():
    case = make_case(B=2, T=9, H=2, ignored=0.0)

    def products(**changes) -> int:
        with CountMatrixProducts() as count:
            case.loss(chunk_size=100, **changes)
        return count.products

    frozen = [h.detach() for h in case.hidden]
    assert products() == 3 * 2
    assert products(unembedding_VD=case.unembedding_VD.detach()) == 2 * 2
    assert products(hidden=frozen) == 2 * 2
    assert products(hidden=[case.hidden[0], frozen[1]], unembedding_VD=case.unembedding_VD.detach()) == 2 + 1
    assert products(head_weights=[1.0, 0.0]) == 3 + 1
    with torch.no_grad():
        assert products() == 2


def test_there_are_never_logits_of_more_than_one_chunk():
    B, T, V, chunk_size = 4, 64, 512, 16
    case = make_case(B, T, V=V, dtype=torch.float32)
    with CountMatrixProducts() as count:
        case.loss(chunk_size=chunk_size).loss.backward()
        target_nll(case.hidden[0], case.unembedding_VD, case.labels_BT, chunk_size=chunk_size)
    assert count.largest == chunk_size * V


def test_gradients_reach_hidden_states_of_any_memory_layout():
    case = make_case()
    swapped = [h.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for h in case.hidden]
    _, expected = case.loss_and_gradients()
    case.hidden = swapped
    _, gradients = case.loss_and_gradients()
    assert all(a.equal(b) for a, b in zip(gradients, expected, strict=True))


def test_second_backward_says_that_the_gradients_are_gone():
    loss = make_case().loss().loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already handed out"):
        loss.backward()


@pytest.mark.parametrize("ignored", [0.0, 0.5, 1.0])
def test_a_count_of_the_targets_spares_counting_and_changes_nothing(ignored):
    case = make_case(ignored=ignored)
    for told, counted in zip(case.loss(targets=case.step_targets), case.loss(), strict=True):
        assert told.equal(counted)
    for k, hidden_BTD in enumerate(case.hidden):
        nll_BT = target_nll(hidden_BTD, case.unembedding_VD, case.labels_BT, k, targets=case.step_targets)
        assert nll_BT.equal(target_nll(hidden_BTD, case.unembedding_VD, case.labels_BT, k))


@pytest.mark.parametrize("missing", [1, 7])
def test_a_count_that_would_leave_targets_out_is_refused(missing):
    case = make_case(ignored=0.5)
    with pytest.raises(RuntimeError, match="is less than there are"):
        case.loss(targets=case.step_targets - missing)
    with pytest.raises(RuntimeError, match="is less than there are"):
        target_nll(case.hidden[0], case.unembedding_VD, case.labels_BT, targets=case.step_targets - missing)


def test_rows_without_a_target_spoil_nothing_whatever_they_hold():
    # Head 2 has fewer targets than head 0, so its chunks are filled up with the first rows that have none.
    case = make_case(B=1, T=8, H=3, dtype=torch.float16)
    case.labels_BT[:] = torch.tensor([[IGNORE, 2, IGNORE, IGNORE, 3, 4, IGNORE, 5]])
    loss, gradients = case.loss_and_gradients()
    with torch.no_grad():
        case.hidden[2][0, 0], case.hidden[2][0, 6:] = 60_000, torch.nan
    spoilt, others = case.loss_and_gradients()
    assert spoilt.equal(loss) and all(a.equal(b) for a, b in zip(others, gradients, strict=True))


def test_mistakes_are_said_aloud():
    case = make_case()
    with pytest.raises(
        ConfigError, match=r"algo\.head_weights = \[1\.0, 2\.0\] must hold one number for each of the 4"
    ):
        case.loss(head_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="step_targets = 1, but this batch alone has"):
        case.loss(step_targets=1)


def test_hand_worked_number():
    # Two tokens of probability 1/2 and 1/4, weights 3 and 1, one head: (3·log 2 + log 4) / 2.
    unembedding_VD = torch.eye(3).double()
    hidden_BTD = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]]).double())
    out = weighted_mtp_loss(
        [hidden_BTD], unembedding_VD, torch.tensor([[2, 0, 1]]), torch.tensor([[9.0, 3.0, 1.0]]), step_targets=2
    )
    assert out.loss.item() == pytest.approx((3 * math.log(2) + math.log(4)) / 2)
    assert out.nll_sum_H.item() == pytest.approx(math.log(2) + math.log(4))
