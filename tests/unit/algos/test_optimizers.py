import copy

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LambdaCallback

from tests.unit.algos.test_exact_steps import Loaders, make_model, make_samples
from wmtp.algos.baseline import Baseline
from wmtp.algos.optimizers import adamw, muon
from wmtp.errors import ConfigError


def take_steps(model, optimizer, steps):
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizer.step()


@pytest.mark.parametrize("build", [adamw, muon])
def test_a_loaded_optimizer_goes_on_bit_for_bit(build):
    model = make_model()
    optimizer = build(model)
    take_steps(model, optimizer, 2)
    other = make_model()
    other.load_state_dict(model.state_dict())
    resumed = build(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(model, optimizer, 2)
    take_steps(other, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_muon_takes_the_matrices_of_layers_and_adamw_the_rest():
    model = make_model()
    blocks, rest = muon(model).parts
    layers = [*model.decoder_layers, *model.extra_heads]
    matrices = {id(p) for layer in layers for p in layer.parameters() if p.ndim == 2}
    assert {id(p) for group in blocks.param_groups for p in group["params"]} == matrices
    everything = {id(p) for p in model.parameters()}
    assert {id(p) for group in rest.param_groups for p in group["params"]} == everything - matrices


def test_a_schedule_reaches_every_part_also_after_loading():
    optimizer = muon(make_model())
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = 0.123
    assert all(group["lr"] == 0.123 for part in optimizer.parts for group in part.param_groups)


@pytest.mark.parametrize("build", [adamw, muon])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(build, precision):
    algo = Baseline(make_model(), build)
    before = copy.deepcopy(algo.model.state_dict())
    Trainer(
        accelerator="cpu", max_steps=2, max_epochs=-1, gradient_clip_val=1.0, precision=precision, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(algo.train(), Loaders(make_samples(), 64)(accumulate=1))  # fmt: skip
    assert any(not torch.equal(value, before[name]) for name, value in algo.model.state_dict().items())
    assert all(value.isfinite().all() for value in algo.model.state_dict().values())


def test_nothing_of_a_step_takes_room_in_the_next_forward_pass():
    algo, held = Baseline(make_model(), adamw), []

    def look(*_) -> None:
        held.extend(p.grad for p in algo.model.parameters() if p.grad is not None)
        held.extend(step["loss"].grad_fn for step in [getattr(algo, "last_step", None)] if step)

    Trainer(
        accelerator="cpu", max_steps=3, max_epochs=-1, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[LambdaCallback(on_train_batch_start=look)],
    ).fit(algo.train(), Loaders(make_samples(), 64)(accumulate=1))  # fmt: skip
    assert set(held) == {None}


@pytest.mark.parametrize("lr", [0, -1, "fast", True])
def test_a_rate_that_cannot_work_is_an_error_that_names_it(lr):
    with pytest.raises(ConfigError, match=r"optimizer\.lr = "):
        adamw(make_model(), lr=lr)
