"""Hold the memory profile to what a run takes, on a real, very small training run."""

from functools import partial
from importlib import resources

import pytest
import torch
from pytorch_lightning import Trainer
from transformers import AutoTokenizer

from tests.tiny import InMemory, tiny_model
from wmtp.algos.rho1 import Rho1
from wmtp.data.batching import collate
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.maths.weighting import SoftWeighting
from wmtp.run import memory_profile
from wmtp.run.memory_profile import GB, SAFE, HostMeter, fit_lines, largest_budget, predict, profile_memory

MB = 2**20
pytestmark = pytest.mark.skipif(not memory_profile.MEMINFO.exists(), reason="no /proc/meminfo")


def parts():
    tokenizer = AutoTokenizer.from_pretrained(str(resources.files("wmtp") / "assets" / "tokenizer"))
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3)
    model, reference = tiny_model(42, heads=3, **shape), tiny_model(43, heads=1, **shape)
    data = MTPDataModule(Synthetic(train_size=80, validation_size=4, test_size=0), Synthetic0Shot(), tokenizer)
    data.token_budget = 256
    data.setup()
    adamw = partial(torch.optim.AdamW, lr=1e-3)
    algo = Rho1(
        model, InMemory(reference), weighting=SoftWeighting(), optimizer=lambda model: adamw(model.parameters())
    )
    return algo, data


class Fixed(list):
    """A loader of ready-made micro-batches."""


def make_trainer(accumulate=1, **changes):
    return Trainer(
        accelerator="cpu", max_steps=2, max_epochs=-1, accumulate_grad_batches=accumulate,
        use_distributed_sampler=False, enable_model_summary=False, **changes,
    )  # fmt: skip


def test_the_meter_counts_each_storage_once_and_as_long_as_it_lives():
    with HostMeter() as meter:
        weight = torch.zeros(MB // 4, requires_grad=True)
        view = weight[1:].reshape(-1)
        assert meter.now == MB
        loss = (weight * weight + 1).sum()  # autograd keeps nothing but the weight; the sum's input dies
        assert meter.now == MB + 4 and meter.peak >= 3 * MB
        meter.reset()
        loss.backward()
        assert 2 * MB <= meter.now < 2.1 * MB and meter.peak >= 3 * MB
        del loss, view
        weight.grad = None
        assert meter.now < 1.1 * MB


def test_the_profile_predicts_a_step_larger_than_any_it_measured(monkeypatch, capsys):
    available = 64 * MB
    monkeypatch.setattr(memory_profile, "memory_there_is", lambda device, held: available)
    got = profile_memory(*parts(), make_trainer)
    printed = capsys.readouterr().out
    assert f"data.token_budget={got['token_budget']:.0f} is the largest that is safe" in printed
    for phase in memory_profile.PHASES:
        assert phase in printed
    assert got["predicted_gb"] * GB == pytest.approx(SAFE["cpu"] * available, rel=0.01)

    algo, data = parts()  # a fresh one, at the budget that was suggested
    samples = data.samples["train"]
    rows, width = [], max(samples.lengths)
    while (len(rows) + 1) * width <= got["token_budget"]:
        rows.append(samples[len(rows) % len(samples)])
    batch = collate(rows, 10**6, 0)
    with HostMeter() as meter:
        trainer = make_trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        meter.count([*algo.parameters()])
        trainer.fit(algo, Fixed([batch] * 2))
    assert batch["input_ids_BT"].numel() > 1.3 * 1024  # beyond what was measured
    # A model this small is measured where the loss has not filled its first chunk: the line is a little too steep.
    assert 0.95 * meter.peak < got["predicted_gb"] * GB < 1.25 * meter.peak


def test_a_model_that_does_not_fit_and_a_budget_that_is_too_large_are_said(monkeypatch, capsys):
    monkeypatch.setattr(memory_profile, "memory_there_is", lambda device, held: MB)
    assert profile_memory(*parts(), make_trainer)["token_budget"] == 0
    assert "No budget is safe: the longest sample has" in capsys.readouterr().out
    monkeypatch.setattr(memory_profile, "memory_there_is", lambda device, held: 16 * MB)
    algo, data = parts()
    data.token_budget = 4096
    profile_memory(algo, data, partial(make_trainer, 4))
    assert "The budget of this config, 4096, is not: data.pieces=" in capsys.readouterr().out


def test_several_devices_are_refused_in_one_sentence():
    class Two:
        world_size, strategy = 2, type("S", (), {"root_device": torch.device("cpu")})

    with pytest.raises(ConfigError, match=r"measures one device, and trainer\.devices asks for 2"):
        profile_memory(*parts(), lambda **_: Two())


def test_the_largest_budget_is_where_the_steepest_phase_meets_the_limit():
    rows = [(n, {"loss": 100 + 3 * n, "backward": 250 + 2 * n, "optimizer": 200}) for n in (10, 20, 40)]
    lines = fit_lines(rows)
    assert lines == {"loss": (100.0, 3.0), "backward": (250.0, 2.0), "optimizer": (200.0, 0.0)}
    assert [predict(lines, n) for n in (0, 100, 200)] == [250, 450, 700]
    assert largest_budget(lines, 700) == 200 and largest_budget(lines, 249) == 0
