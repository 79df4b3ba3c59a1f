"""Stage 0 fits new heads and nothing else, and what it measures is what the model is."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.data.tokenization import TokenizedSamples
from wmtp.heads.fitting import HeadFitting, TrunkCalls
from wmtp.models.loading import ModelSource
from wmtp.models.mtp import MTPMixin, ParallelHeads

BFLOAT16 = partial(torch.autocast, "cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def samples(tokenizer) -> tuple[TokenizedSamples, TokenizedSamples]:
    data = MTPDataModule(
        Synthetic(train_size=40, validation_size=12, test_size=0), Synthetic0Shot(), tokenizer, token_budget=640
    )
    data.setup()
    return data.samples["train"], data.samples["validation"]


@pytest.fixture(params=["parallel", "sequential", "recurrent"])
def model(request) -> MTPMixin:
    """A model whose three further heads are new."""
    return ModelSource("asset:tiny-base", heads=4, heads_init="copy", heads_arrangement=request.param).load()


def fitting_of(model, samples, lr=3e-3, **sizes) -> HeadFitting:
    train, heldout = (TrunkCalls(model, each, 512, 0, **sizes) for each in samples)
    return HeadFitting(model, train, heldout, lr, autocast=BFLOAT16)


def best_of(fitting: HeadFitting) -> list[float]:
    return min((point["ce"] for point in fitting.curve), key=sum)


def ce_of(model, samples) -> list[float]:
    """Measure heads 1, 2, … as validation does: the whole model, in a context of autocast of its own."""
    sums = []
    for batch, _ in TrunkCalls(model, samples, 512, 0):
        with torch.no_grad(), BFLOAT16():
            hidden = model.mtp(batch["input_ids_BT"]).hidden[1:]
        for k, hidden_BTD in enumerate(hidden, start=1):
            logits_BTV = hidden_BTD[:, : -k - 1].to(torch.bfloat16) @ model.unembedding_VD.T.to(torch.bfloat16)
            labels_BT = batch["labels_BT"][:, k + 1 :]
            nll = torch.nn.functional.cross_entropy(
                logits_BTV.float().flatten(0, 1), labels_BT.flatten(), reduction="sum"
            )
            sums.append((k, float(nll), int((labels_BT != -100).sum())))
    return [sum(n for j, n, _ in sums if j == k) / sum(c for j, _, c in sums if j == k) for k in (1, 2, 3)]


def test_what_is_measured_within_a_fit_in_bfloat16_is_what_the_model_is_afterwards(model, samples):
    """Autocast remembers the copies of weights while it is on: a fit inside one context computes with stale ones."""
    fitting = fitting_of(model, samples)
    for _ in fitting.run(30, 10, patience=10):
        pass
    assert all(after < before - 3 for before, after in zip(fitting.curve[0]["ce"], best_of(fitting), strict=True))
    assert ce_of(model, samples[1]) == pytest.approx(best_of(fitting), abs=0.05)


def test_only_new_heads_change(model, samples):
    new = "extra_heads."
    if isinstance(model, ParallelHeads):  # beside those that a checkpoint held; layers that read each other are all new
        model.new_heads, new = replace(model.new_heads, first=3), "extra_heads.2."
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in fitting_of(model, samples).run(3, 3, patience=1):
        pass
    changed = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
    assert changed and all(name.startswith(new) for name in changed)
    assert all(p.grad is None for p in model.parameters())


def test_a_fit_that_no_longer_learns_ends_with_its_best_heads(model, samples):
    fitting = fitting_of(model, samples, lr=3.0)
    for _ in fitting.run(200, 2, patience=2):
        pass
    assert fitting.steps_taken < 200 and sum(fitting.curve[-1]["ce"]) > sum(best_of(fitting))
    assert ce_of(model, samples[1]) == pytest.approx(best_of(fitting), abs=0.05)


def test_a_trunk_that_does_not_fit_into_memory_is_computed_again_to_the_same_heads(model, samples):
    ends = []
    start = {name: p.clone() for name, p in model.state_dict().items()}
    for limit in (0, 2**30):
        model.load_state_dict(start)
        for _ in fitting_of(model, samples, limit=limit).run(6, 3, patience=3):
            pass
        ends.append({name: p.clone() for name, p in model.state_dict().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)


def test_a_fit_goes_on_from_its_state_to_the_same_heads(model, samples):
    start = {name: p.clone() for name, p in model.state_dict().items()}
    whole = fitting_of(model, samples)
    states = [whole.state_dict() | {"curve": [*whole.curve]} for ce in whole.run(6, 2, patience=9) if ce]
    model.load_state_dict(start)
    resumed = fitting_of(model, samples)
    resumed.load_state_dict(states[0])
    for _ in resumed.run(6, 2, patience=9):
        pass
    assert states[0]["steps_taken"] == 2 and resumed.curve == whole.curve
    assert all(torch.equal(resumed.best[name], whole.best[name]) for name in whole.best)
