"""The bounds of tests/tolerance.py: rounding stays within them whatever the order, and a fault does not."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny import tiny_model
from tests.tolerance import (
    adaptive_rounding,
    assert_same_up_to_rounding,
    distance,
    in_float64,
    relative_rounding,
    terms_of,
)

PRECISIONS = [torch.float64, torch.float32, torch.bfloat16]


def added_in_order(terms: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), dtype=terms.dtype)
    for term in terms:
        total = total + term
    return total


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_worst_order_of_a_sum_is_half_the_bound_from_the_exact_one(dtype):
    """1 + u + u + … loses every u: the bound cannot be smaller."""
    n, half = 128, torch.finfo(dtype).eps / 2
    terms = torch.tensor([1.0] + [half] * (n - 1), dtype=dtype)
    rounded = added_in_order(terms)
    exact = (1 + (n - 1) * half) * torch.ones((), dtype=torch.float64)
    assert rounded == 1
    assert_same_up_to_rounding(exact, rounded.double(), n, dtype)
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(exact, rounded.double(), n // 2 - 1, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_any_order_is_within_the_bound_and_a_lost_term_is_not(dtype):
    terms = torch.rand(10 if dtype == torch.bfloat16 else 1000, generator=torch.Generator().manual_seed(42)).to(dtype)
    whole = added_in_order(terms)
    for order in (terms.flip(0), terms.sort().values, terms.sort(descending=True).values):
        assert_same_up_to_rounding(added_in_order(order), whole, len(terms))
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(added_in_order(terms[terms < terms.max()]), whole, len(terms))


def test_what_is_computed_together_shares_its_scale():
    """The gradient of a key's bias is zero but for rounding: its own size says nothing."""
    rounding = 1e-15 * torch.ones(3, dtype=torch.float64)
    together = [torch.ones(3, dtype=torch.float64), rounding]
    assert_same_up_to_rounding([together[0], -rounding], together, 100)
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(-rounding, rounding, 100)


def test_other_shapes_precisions_names_and_what_is_not_finite_are_no_rounding():
    ones = torch.ones(3)
    for other in (torch.ones(2), ones.double(), ones / 0, ones * torch.nan):
        with pytest.raises(AssertionError):
            assert_same_up_to_rounding(other, ones, 10)
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(ones, ones / 0, 10)
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding({"a": ones}, {"b": ones}, 10)


def test_a_distance_is_a_share_of_the_way_or_of_the_size():
    start, end, other = ({"a": torch.tensor([x]), "b": torch.tensor([y])} for x, y in ((1, 1), (4, 5), (4, 4)))
    assert distance(other, end, start) == 1 / 5
    assert distance([torch.tensor([3.0, 3.0])], [torch.tensor([3.0, 4.0])]) == 1 / 5


def test_everything_is_computed_in_float64():
    torch.manual_seed(42)
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(**shape)).double()
    ids_BT, seen = torch.arange(12).view(2, 6), set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if torch.is_tensor(result) and result.is_floating_point():
                seen.add(result.dtype)
            return result

    with Watch():
        model(ids_BT).logits.sum().backward()
    assert torch.float32 in seen
    seen.clear()
    with Watch(), in_float64():
        model(ids_BT).logits.sum().backward()
    assert seen == {torch.float64}


def test_a_model_of_two_layers_is_the_same_up_to_rounding_in_any_precision_and_a_shaken_weight_is_seen():
    model, ids_BT = tiny_model(initializer_range=0.2).eval(), torch.arange(24).view(2, 12)
    terms = terms_of(model, ids_BT.numel())
    with torch.no_grad():
        low = model(ids_BT).logits
        with in_float64():
            exact = model.double()(ids_BT).logits
            assert_same_up_to_rounding(low.double(), exact, terms, torch.float32)
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 0.01
            with pytest.raises(AssertionError):
                assert_same_up_to_rounding(model(ids_BT).logits, exact, terms)


def test_rounding_moves_a_run_of_adamw_no_further_than_said():
    """Gradients of every size, some near to zero, where rounding decides on the whole step."""
    generator = torch.Generator().manual_seed(42)
    gradient_N = torch.randn(100_000, generator=generator, dtype=torch.float64)
    bound = relative_rounding(10, torch.float16)

    def run(error: float) -> torch.Tensor:
        weight_N = torch.nn.Parameter(torch.zeros_like(gradient_N))
        optimizer = torch.optim.AdamW([weight_N], lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
        for _ in range(4):
            weight_N.grad = gradient_N + error * torch.randn(100_000, generator=generator, dtype=torch.float64)
            optimizer.step()
        return weight_N.detach()

    apart = distance(run(bound / 8), run(0.0))  # a bound is eight standard deviations
    assert adaptive_rounding(10, torch.float16) / 10 < apart < adaptive_rounding(10, torch.float16)
