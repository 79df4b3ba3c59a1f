"""What heads that no checkpoint held do to head 0, and what an algorithm takes where nothing is said."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer

from wmtp.algos.baseline import Baseline
from wmtp.algos.optimizers import NEW_HEADS_LR, adamw
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.models.loading import ModelSource


def trained(tokenizer, source: ModelSource, clip: float = 0.05, **algo) -> dict[str, torch.Tensor]:
    """Train for a few steps whose gradients are clipped, and return the weights."""
    model = source.load()
    data = MTPDataModule(
        Synthetic(train_size=30, validation_size=4, test_size=0), Synthetic0Shot(), tokenizer, token_budget=640
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=4, max_epochs=-1, logger=False, gradient_clip_val=clip, accumulate_grad_batches=2,
        limit_val_batches=0, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Baseline(model, partial(adamw, lr=1e-3), warmup=0.0, **algo), data)
    return model.state_dict()


@pytest.mark.parametrize("heads", [2, 4])  # of other numbers 1/H is rounded
def test_with_no_gradient_into_the_trunk_head_zero_learns_bit_for_bit_as_it_does_alone(tokenizer, heads):
    alone = trained(tokenizer, ModelSource("asset:tiny-base", heads=1))
    beside = trained(tokenizer, ModelSource("asset:tiny-base", heads, "copy"), trunk_gradient=0)
    assert all(torch.equal(beside[name], weight) for name, weight in alone.items())
    start = ModelSource("asset:tiny-base", heads, "copy").load().state_dict()
    assert not any(torch.equal(beside[name], start[name]) for name in beside if "proj" in name)  # all learn
    told = trained(tokenizer, ModelSource("asset:tiny-base", heads, "copy"), trunk_gradient=0.1)
    assert not all(torch.equal(told[name], weight) for name, weight in alone.items())


def test_all_heads_are_clipped_together_where_the_trunk_hears_them_whole(tokenizer):
    """As ever: what a checkpoint's heads learn does not change with this version."""
    algo = Baseline(ModelSource("asset:tiny-base").load().double(), adamw)
    assert algo.trunk_gradient == 1 and algo.head_weights is None
    algo.trainer = Trainer(accelerator="cpu", logger=False, gradient_clip_val=1.0, enable_progress_bar=False)
    optimizer = adamw(algo.model)
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}
    for parameter in algo.parameters():
        parameter.grad = torch.ones_like(parameter)
    algo.configure_gradient_clipping(optimizer, 1.0)
    norm = torch.stack([parameter.grad.norm() for parameter in algo.parameters()]).norm()
    assert float(norm) == pytest.approx(1, rel=1e-6)  # torch adds so much to the norm that it divides by


def test_new_heads_have_defaults_of_their_own_and_what_is_asked_for_wins():
    algo = Baseline(ModelSource("asset:tiny-base", 4, "copy").load(), adamw)
    assert algo.head_weights == [4.0, *[pytest.approx(1.2)] * 3] and algo.trunk_gradient == 0.1
    assert {group["lr"] for group in adamw(algo.model, lr=2e-5).param_groups} == {2e-5, NEW_HEADS_LR}
    assert {group["lr"] for group in adamw(algo.model, lr=1e-3).param_groups} == {1e-3}
    assert {group["lr"] for group in adamw(algo.model, lr=2e-5, heads_lr=3e-5).param_groups} == {2e-5, 3e-5}
    asked = Baseline(algo.model, adamw, head_weights=[1, 1, 1, 1], trunk_gradient=1)
    assert asked.head_weights == [1, 1, 1, 1] and asked.trunk_gradient == 1


def test_saved_heads_beside_new_ones_keep_their_weight(tmp_path):
    ModelSource("asset:tiny-base").load().save_pretrained(tmp_path)  # four heads
    model = ModelSource(str(tmp_path), 6, "auto").load()
    assert model.new_heads.first == 4
    assert Baseline(model, adamw).head_weights == [6.0] * 4 + [pytest.approx(1.8)] * 2
    assert ModelSource(str(tmp_path), 4, "auto").load().new_heads is None
