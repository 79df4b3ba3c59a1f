"""The gradient of a step is the same number however the step is pieces (maths.md, 2)."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

from tests.tiny import InMemory, tiny_model
from tests.tolerance import assert_same_up_to_rounding, distance, in_float64, relative_rounding, terms_of
from wmtp.algos.baseline import Baseline
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks.finite_guard import bad_of
from wmtp.data.batching import StepLoader, collate
from wmtp.data.tokenization import TokenizedSample, TokenizedSamples
from wmtp.maths.weighting import HardSelection, SoftWeighting, check_finite
from wmtp.models.mtp import MTPMixin

VOCABULARY = 48
POSITIONS = 24 * 24  # at most so many samples of so many tokens
aten = torch.ops.aten


def make_model(heads: int = 4, seed: int = 42, arrangement: str = "parallel") -> MTPMixin:
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    return tiny_model(seed, heads, arrangement, vocab_size=VOCABULARY, initializer_range=0.2, **shape)


def make_samples(count: int = 16) -> list[TokenizedSample]:
    random = torch.Generator().manual_seed(42)
    samples = []
    for i in range(count):
        n = int(torch.randint(6, 24, (), generator=random))
        ids = torch.randint(2, VOCABULARY, (n,), generator=random).tolist()
        samples.append(TokenizedSample(f"p{i}", tuple(ids), 1 + i % 4, (False,) * n))
    return samples


def sgd(model, lr=0.1):
    return SGD(model.parameters(), lr=lr)


class Loaders:
    """Give Lightning a StepLoader that knows the trainer's accumulation and rank."""

    def __init__(self, samples, budget):
        self.samples, self.budget = TokenizedSamples.pack(samples), budget

    def __call__(self, accumulate, world_size=1, rank=0, pieces=1):
        return StepLoader(
            self.samples,
            token_budget=self.budget,
            pad_token_id=0,
            accumulate=accumulate * pieces,
            pieces=pieces,
            world_size=world_size,
            rank=rank,
        )


def fit(algo, loader, accumulate=1, steps=1, **trainer):
    Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, accumulate_grad_batches=accumulate, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False, **trainer,
    ).fit(algo, loader)  # fmt: skip
    return algo.model


class Fixed(list):
    """A loader of ready-made micro-batches."""


def gradients_of_one_step(groups: list[list[TokenizedSample]], arrangement: str) -> list[torch.Tensor]:
    """Train one SGD step of rate 1 on one step pieces into `groups`; the change of the weights is the gradient."""
    model = make_model(arrangement=arrangement).double()
    start = copy.deepcopy(model.state_dict())
    targets = sum(sample.targets for group in groups for sample in group)
    loader = Fixed(collate(group, targets, 0) for group in groups)
    algo = Baseline(model, partial(sgd, lr=1.0), warmup=0.0)
    with in_float64():
        fit(algo, loader, accumulate=len(groups), precision="64-true")
    return [start[name] - value for name, value in model.state_dict().items()]


@pytest.mark.parametrize("arrangement", ["parallel", "sequential", "recurrent"])
def test_gradient_is_the_same_however_the_step_is_split(arrangement):
    samples = make_samples()
    whole, halves, quarters = (
        gradients_of_one_step([samples[i :: parts] for i in range(parts)], arrangement) for parts in (1, 2, 4)
    )  # fmt: skip
    for parts in (halves, quarters):
        assert_same_up_to_rounding(parts, whole, terms_of(make_model(), POSITIONS))


def weighted(arrangement="parallel", **weighting):
    weighting = SoftWeighting(lam=1.0, **weighting)
    return Rho1(
        make_model(arrangement=arrangement), InMemory(make_model(heads=1, seed=7)), weighting=weighting, optimizer=sgd
    )


@pytest.mark.parametrize(
    "make, precision",
    [
        pytest.param(lambda: Baseline(make_model(), sgd), "64-true", id="baseline"),
        pytest.param(lambda: weighted(scope="batch"), "64-true", id="batch"),
        pytest.param(lambda: weighted(scope="sequence"), "64-true", id="sequence"),
        pytest.param(lambda: weighted("sequential"), "64-true", id="sequential heads"),
        pytest.param(lambda: weighted(control="shuffle", percentile=0.5), "64-true", id="shuffle"),
        pytest.param(lambda: weighted(control="random", percentile=0.5), "64-true", id="random"),
        pytest.param(lambda: weighted(scope="batch"), "32-true", id="float32"),
    ],
)
def test_cutting_micro_batches_into_pieces_changes_no_step(make, precision):
    exact = precision == "64-true"
    samples = make_samples(11)  # micro-batches of 1 to 4 rows: cut into 4, some pieces are empty

    def train(pieces):
        algo = make()
        if exact and isinstance(algo, Rho1):
            algo.reference.frozen.model.double()  # Lightning does not know it
        with in_float64() if exact else nullcontext():
            fit(algo, Loaders(samples, 40)(2, pieces=pieces), accumulate=2 * pieces, steps=2, precision=precision)
        return algo.model.state_dict()

    model = make().model
    whole, start = train(1), model.state_dict()
    bound = relative_rounding(terms_of(model, POSITIONS), torch.float64 if exact else torch.float32)
    for pieces in (2, 4):
        assert distance(train(pieces), whole, start) <= bound


def test_pieces_are_scored_once_a_micro_batch_and_a_whole_one_as_before():
    def forwards(algo, pieces):
        calls, mtp = [], algo.model.mtp
        algo.model.mtp = lambda *args, **kwargs: calls.append(torch.is_grad_enabled()) or mtp(*args, **kwargs)
        fit(algo, Loaders(make_samples(11), 40)(1, pieces=pieces), accumulate=pieces)
        return calls

    assert forwards(weighted(), 1) == [True]
    assert forwards(weighted(), 2) == [False, False, True, True]
    assert forwards(Baseline(make_model(), sgd), 2) == [True, True]


def attention_mask(batch):
    """Mark the real tokens, as transformers wants it."""
    lengths_B1 = torch.tensor(batch["lengths"])[:, None]
    return (torch.arange(batch["input_ids_BT"].shape[1]) < lengths_B1).long()


def one_training_step(algo):
    """Loss and gradients of one micro-batch, outside any Trainer."""
    algo.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    algo.log = algo.log_dict = lambda *args, **kwargs: None
    samples = make_samples()
    batch = collate(samples, sum(sample.targets for sample in samples), 0)
    loss = algo.training_step(batch, 0)["loss"]
    loss.backward()
    return batch, loss.detach(), [parameter.grad for parameter in algo.model.parameters()]


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_score_that_is_not_finite_is_told_on_the_device_and_trains_nothing_silently(pieces):
    algo, seen = weighted(), []
    clean_scores = algo.token_scores

    def token_scores(batch, *args):
        score_BT = clean_scores(batch, *args)
        score_BT[batch["labels_BT"] == poisoned] = torch.nan
        return score_BT

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(pl_module.last_step)

    samples = make_samples(8)
    poisoned = samples[3].input_ids[-1]
    algo.token_scores = token_scores
    fit(algo, Loaders(samples, 200)(1, pieces=pieces), accumulate=pieces, callbacks=[Watch()])
    assert len(seen) == pieces
    assert any(step["score_BT"].isnan().any() for step in seen)
    for step in seen:  # the weights of a piece depend on the scores of the others
        assert step["loss"].isnan() and step["weight_BT"][step["mask_BT"]].isnan().all()
    assert torch.stack([bad_of(step) for step in seen]).any(0).tolist() == [True, True, True]
    assert algo.model.unembedding_VD.isnan().any()  # without a guard it is loud, not silent
    for algo in (weighted(), Baseline(make_model(), sgd)):
        _, loss, _ = one_training_step(algo)
        assert loss.isfinite() and not bad_of(algo.last_step).any()


class NoWaiting(TorchDispatchMode):
    """Refuse whatever makes the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        boolean = any(torch.is_tensor(i) and i.dtype == torch.bool for i in (args[1] if "index" in str(func) else ()))
        if boolean or func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.masked_select):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "weighting", [SoftWeighting(percentile=0.4), SoftWeighting(scope="sequence", control="shuffle"), HardSelection()]
)
def test_weighing_does_not_wait_for_the_device(weighting):
    score_BT, mask_BT = torch.randn(3, 9, generator=torch.Generator().manual_seed(42)), torch.ones(3, 9).bool()
    with NoWaiting():
        weight_BT = weighting(score_BT, mask_BT, draw=1)
        with pytest.raises(AssertionError, match="waits for the device"):
            check_finite(score_BT, mask_BT)
    assert weight_BT.isfinite().all()


def test_lambda_zero_is_the_baseline_bit_for_bit():
    reference = make_model(heads=1, seed=7)
    _, loss, gradients = one_training_step(Baseline(make_model(), sgd))
    weighted = Rho1(make_model(), InMemory(reference), weighting=SoftWeighting(lam=0.0), optimizer=sgd)
    _, loss_of_ones, gradients_of_ones = one_training_step(weighted)
    assert torch.equal(loss, loss_of_ones)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_of_ones, strict=True))


@in_float64()
def test_one_head_with_uniform_weights_is_the_hugging_face_loss():
    model = make_model(heads=1).double()
    batch, loss, gradients = one_training_step(Baseline(model, sgd))
    plain = LlamaForCausalLM(model.config).double()
    plain.load_state_dict(model.state_dict())
    theirs = plain(batch["input_ids_BT"], attention_mask=attention_mask(batch), labels=batch["labels_BT"]).loss
    theirs.backward()
    terms = terms_of(model, POSITIONS)
    assert_same_up_to_rounding(loss, theirs.detach(), terms)
    assert_same_up_to_rounding(gradients, [parameter.grad for parameter in plain.parameters()], terms)


def test_the_reference_is_neither_trained_nor_saved():
    reference = make_model(heads=1, seed=7)
    before = copy.deepcopy(reference.state_dict())
    algo = Rho1(make_model(), InMemory(reference), weighting=SoftWeighting(), optimizer=sgd)
    fit(algo, Loaders(make_samples(), 64)(accumulate=1), steps=3)
    assert not any("reference" in name for name in algo.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())


@pytest.mark.parametrize("score", ["excess", "absolute"])
@in_float64()
def test_rho1_scores_are_the_gap_of_the_two_losses(score):
    reference, model = make_model(heads=1, seed=7).double(), make_model().double()
    algo = Rho1(model, InMemory(reference), weighting=SoftWeighting(), score=score, optimizer=sgd)
    batch, _, _ = one_training_step(algo)

    def ce(of):
        logits_BTV = of(batch["input_ids_BT"], attention_mask=attention_mask(batch)).logits
        return torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].transpose(1, 2), batch["labels_BT"][:, 1:], reduction="none", ignore_index=-100
        )

    with torch.no_grad():
        gap_BT = ce(model) - ce(reference)
    expected = gap_BT if score == "excess" else gap_BT.abs()
    got = algo.last_step["score_BT"][:, 1:]
    assert_same_up_to_rounding(got, expected, terms_of(model, POSITIONS))


def test_an_empty_validation_batch_is_logged_too_and_counts_for_nothing():
    # Lightning averages over the ranks by name: one that has only empty batches must name what the others do.
    samples, logged = make_samples(4), []
    full, empty = (collate(part, sum(sample.targets for sample in samples), 0) for part in (samples, []))
    algo = Baseline(make_model(), sgd)
    algo.log = lambda name, value, batch_size, **_: logged.append((name, bool(value.isfinite()), batch_size))
    algo.validation_step(empty, 0)
    assert logged == [(f"val/ce_head{k}", True, 0) for k in range(4)]

    def validated(batches):
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        return trainer.validate(Baseline(make_model(), sgd), Fixed(batches), verbose=False)

    assert validated([empty, full, empty]) == validated([full])


@pytest.mark.slow  # the default suite has two ranks in tests/integration/test_fsdp.py
def test_two_gloo_ranks_take_the_steps_of_one_rank_that_accumulates_twice(tmp_path):
    samples = make_samples(24)
    loader = Loaders(samples, 64)(accumulate=2)
    alone = fit(Baseline(make_model(), sgd), loader, accumulate=2, steps=3, precision="64-true")
    import subprocess
    import sys

    script = (
        "import sys, torch\n"
        "from tests.unit.algos.test_exact_steps import *\n"
        "from pytorch_lightning import LightningDataModule\n"
        "class Data(LightningDataModule):\n"
        "    def train_dataloader(self):\n"
        "        return Loaders(make_samples(24), 64)(1, self.trainer.world_size, self.trainer.global_rank)\n"
        "algo = Baseline(make_model(), sgd)\n"
        "model = fit(algo, Data(), steps=3, strategy='ddp', devices=2, precision='64-true')\n"
        "if algo.global_rank == 0: torch.save(model.state_dict(), sys.argv[1])\n"
    )
    (tmp_path / "two_ranks.py").write_text(script)
    subprocess.run(
        [sys.executable, str(tmp_path / "two_ranks.py"), str(tmp_path / "weights.pt")],
        check=True, timeout=120, capture_output=True, env={**__import__("os").environ, "PYTHONPATH": "."},
    )  # fmt: skip
    together = torch.load(tmp_path / "weights.pt", weights_only=True)
    bound = relative_rounding(terms_of(alone, POSITIONS), torch.float64)
    assert distance(together, alone.state_dict(), make_model().state_dict()) <= bound
