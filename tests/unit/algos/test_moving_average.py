"""Hold the moving average to its formula, and that a resumed run goes on with it."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import tiny_model
from tests.unit.test_callbacks import sgd, train
from wmtp.algos.moving_average import MovingAverage
from wmtp.algos.rho1 import Rho1
from wmtp.errors import ConfigError
from wmtp.maths.weighting import SoftWeighting


def followed(decay: float, models) -> dict:
    average = MovingAverage(decay)
    average.prepare(SimpleNamespace(lightning_module=SimpleNamespace(model=models[0])))
    for model in models:
        average.follow(model)
    return dict(average.average.module.named_parameters())


def test_every_step_moves_the_average_by_its_share():
    models = [tiny_model(seed=seed) for seed in (1, 2, 3)]
    found = followed(0.75, models)
    for name, parameter in found.items():
        first, second, third = (dict(model.named_parameters())[name].double() for model in models)
        by_hand = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        # three numbers, each rounded a few times
        torch.testing.assert_close(parameter.double(), by_hand, rtol=0, atol=8 * 2**-24 * float(by_hand.abs().max()))
        assert not parameter.requires_grad


def test_no_decay_is_the_model_itself_so_every_token_weighs_one(tmp_path, tokenizer):
    algo = Rho1(tiny_model(), MovingAverage(0.0), weighting=SoftWeighting(), optimizer=sgd)
    train(tmp_path, algo, tokenizer, [], max_steps=3)
    assert algo.last_step["weight_BT"].equal(algo.last_step["mask_BT"].float())


def test_a_resumed_run_goes_on_with_the_average(tmp_path, tokenizer):
    algo = Rho1(tiny_model(), MovingAverage(0.9), weighting=SoftWeighting(), optimizer=sgd)
    trainer = train(tmp_path, algo, tokenizer, [], max_steps=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not any(name.startswith("reference") for name in held["state_dict"])  # the model alone
    again = Rho1(tiny_model(seed=7), MovingAverage(0.9), weighting=SoftWeighting(), optimizer=sgd)
    again.reference.prepare(SimpleNamespace(lightning_module=again))
    again.on_load_checkpoint(held)
    for one, other in zip(algo.reference.state().values(), again.reference.state().values(), strict=True):
        assert one.equal(other)


def test_a_model_that_no_rank_holds_whole_is_refused():
    trainer = SimpleNamespace(strategy=SimpleNamespace(shard=None))
    with pytest.raises(ConfigError, match="algo/reference = moving_average averages a whole model"):
        MovingAverage().check(trainer, None)
