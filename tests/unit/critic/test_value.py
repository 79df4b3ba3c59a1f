"""Hold the critic's value to what makes it a value: causal, calm before it is taught, and its trunk untouched."""

import pytest
import torch

from tests.tolerance import assert_same_up_to_rounding, terms_of
from wmtp.algos.combined import Combined
from wmtp.algos.reference import CachedReference
from wmtp.critic.fitting import value_loss
from wmtp.critic.value import PolicyValue, ValueHead, ValueNetwork
from wmtp.data.batching import collate
from wmtp.data.tokenization import TokenizedSample
from wmtp.errors import ConfigError, TokenizerMismatchError
from wmtp.maths.alignment import target_mask
from wmtp.models.loading import find_model, load_model

BASE, REFERENCE = "asset:tiny-base", "asset:tiny-reference"


def a_batch(*lengths):
    generator = torch.Generator().manual_seed(42)
    ids = [torch.randint(2, 500, (n,), generator=generator).tolist() for n in lengths]
    samples = [TokenizedSample(f"p/{i}", tuple(row), 3, (False,) * len(row)) for i, row in enumerate(ids)]
    return collate(samples, step_targets=1, pad_token_id=1)


def taught(value, model):
    """Give the head some opinion."""
    value.prepare(model)
    torch.manual_seed(0)
    torch.nn.init.normal_(value.head.out.weight)
    return value


@pytest.fixture(scope="module")
def model():
    return load_model(find_model(BASE)).eval()


@pytest.fixture(scope="module", params=["head", "network"])
def value(request, model):
    return taught(PolicyValue(BASE) if request.param == "head" else ValueNetwork(REFERENCE, BASE), model)


def values_of(value, batch, model):
    return value.scaled(value.head(*value.states(batch, model), target_mask(batch["labels_BT"])))


@torch.no_grad()
def test_a_value_depends_on_no_later_token_and_on_no_other_sequence(value, model):
    batch = a_batch(12, 9)
    whole = values_of(value, batch, model)
    alone = {key: batch[key][1:, :6] for key in ("input_ids_BT", "labels_BT")}
    alone["targets"] = int(target_mask(alone["labels_BT"]).sum())
    assert_same_up_to_rounding(values_of(value, alone, model), whole[1:, :6], terms_of(model, 24))


@torch.no_grad()
def test_reading_along_gives_the_values_that_were_fitted(value, model):
    batch = a_batch(12, 9)
    read = value.read(batch, model.mtp(batch["input_ids_BT"]))
    assert_same_up_to_rounding(read, values_of(value, batch, model), terms_of(model, 24))


@torch.no_grad()
def test_a_network_may_be_held_in_half_the_memory_and_is_shared_with_the_reference(model):
    whole, half = (taught(ValueNetwork(REFERENCE, BASE, weights=weights), model) for weights in ("float32", "bfloat16"))
    for value, shared in ((whole, True), (half, False)):
        reference = CachedReference(REFERENCE, BASE)
        none = dict(rewards=None, pretraining=lambda **_: None, localisation=lambda **_: None, optimizer=None)
        Combined(model, value, reference, **none)
        assert (reference.frozen.model is value.frozen.model) == shared
    assert {p.dtype for p in half.frozen.model.parameters()} == {torch.bfloat16}
    assert whole.identity != half.identity
    batch = a_batch(12, 9)
    near = (values_of(whole, batch, model) - values_of(half, batch, model)).abs().max()
    assert 0 < near < 0.05
    with pytest.raises(ConfigError, match=r"algo\.value\.weights = 'int2' must be one of float32, bfloat16"):
        ValueNetwork(REFERENCE, BASE, weights="int2")


def test_only_the_head_learns(value, model):
    model.zero_grad()
    batch = a_batch(8)
    values_of(value, batch, model).sum().backward()
    assert all(parameter.grad is not None for parameter in value.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name.split(".")[0] for name, _ in value.named_parameters()} == {"head"}


@pytest.mark.parametrize("cumulative", [True, False])
def test_an_untaught_value_is_the_mean_reward_everywhere(model, cumulative):
    value = PolicyValue(BASE, cumulative=cumulative)
    value.prepare(model)
    value.start_from(0.25)
    torch.testing.assert_close(values_of(value, a_batch(8, 5), model), torch.full((2, 8), 0.25))


def test_a_cumulative_value_moves_at_target_tokens_only():
    head = ValueHead(4)
    torch.nn.init.normal_(head.out.weight)
    mask = torch.tensor([[False, False, True, True, False]])
    moved = head(torch.randn(1, 5, 4), torch.rand(1, 5), mask).diff(dim=1)[0] != 0
    assert moved.tolist() == [False, True, True, False]


def test_rewards_that_are_no_probability_leave_the_value_unbounded(model):
    value = taught(PolicyValue(BASE), model)
    value.binary = False
    logit = torch.tensor([[7.0]])
    assert value.scaled(logit) is logit


def test_the_identity_follows_what_is_read_and_how():
    same = PolicyValue(BASE).identity
    assert PolicyValue(BASE).identity == same
    assert PolicyValue(REFERENCE).identity != same
    assert PolicyValue(BASE, surprise=False).identity != same
    assert ValueNetwork(BASE, BASE).identity != same


def test_mistakes_are_one_sentence(tmp_path, model):
    with pytest.raises(ConfigError, match=r"algo\.value\.path = null .* algo/value=head"):
        ValueNetwork(None, BASE)
    with pytest.raises(ConfigError, match=r"algo\.value\.cumulative = 1 must be true or false"):
        PolicyValue(BASE, cumulative=1)
    from transformers import AutoTokenizer

    load_model(find_model(REFERENCE)).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(find_model(REFERENCE))
    tokenizer.add_tokens(["<other>"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TokenizerMismatchError):
        ValueNetwork(str(tmp_path), BASE)


def test_losses_worked_out_by_hand():
    logit = torch.tensor([[9.0, 0.0, 2.0], [9.0, -1.0, 9.0]])
    mask = torch.tensor([[False, True, True], [False, True, False]])
    reward, ids = torch.tensor([1.0, 0.0]), ["p/1", "p/1"]
    log_sigmoid = lambda x: -torch.log1p(torch.exp(torch.tensor(-x)))  # noqa: E731
    bce = -(log_sigmoid(0.0) + log_sigmoid(2.0) + log_sigmoid(1.0)) / 3
    assert float(value_loss("bce", logit, logit.sigmoid(), mask, reward, ids)) == pytest.approx(float(bce))
    mse = ((0 - 1) ** 2 + (2 - 1) ** 2 + (-1 - 0) ** 2) / 3
    assert float(value_loss("mse", logit, logit, mask, reward, ids)) == pytest.approx(mse)
    pairwise = -log_sigmoid(1.0 - -1.0)  # means 1 and −1
    assert float(value_loss("pairwise", logit, logit, mask, reward, ids)) == pytest.approx(float(pairwise))
    assert float(value_loss("pairwise", logit, logit, mask, reward, ["p/1", "p/2"])) == 0.0
