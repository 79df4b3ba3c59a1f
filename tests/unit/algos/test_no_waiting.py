"""Hold a training step to never making the host wait for the device: there it would stand still, every time.

[동작] 메타 장치의 텐서에는 값이 없다. 값을 물으면 (`.item()`, `if tensor`, `nonzero`, `.cpu()`) 어디서든 오류가 난다.
    그래서 GPU 없이도, transformers의 안까지, 기다리는 곳이 없음을 보일 수 있다.
"""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GPTNeoXConfig, MistralConfig, Qwen2Config

from tests.tiny import SHAPE, InMemory, tiny_model
from wmtp.algos.baseline import Baseline
from wmtp.algos.combined import Combined
from wmtp.algos.critic import Critic
from wmtp.algos.optimizers import adamw
from wmtp.algos.reference import CachedReference
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks.finite_guard import FiniteGuard
from wmtp.callbacks.loss_explosion import LossExplosion
from wmtp.callbacks.throughput import Throughput
from wmtp.callbacks.token_ranking import TokenRanking
from wmtp.callbacks.weight_histogram import WeightHistogram
from wmtp.callbacks.weight_statistics import WeightStatistics
from wmtp.critic.value import PolicyValue, ValueHead
from wmtp.data.batching import StepLoader
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.data.tokenization import TokenizedSample, TokenizedSamples
from wmtp.maths.weighting import HardSelection, SoftWeighting
from wmtp.models.mtp import put_heads_on

BASE = "asset:tiny-base"
LENGTHS = (9, 30, 12, 5, 21)


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The one thing that the meta device does not know."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


class Valued(PolicyValue):
    """A value that reads the model in training, with a head that nobody fitted."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.head, self.binary = ValueHead(SHAPE["hidden_size"]), True


def critic_parts():
    none = dict(rewards=None, pretraining=lambda **_: None, localisation=lambda **_: None)
    return dict(value=Valued().to("meta"), optimizer=None, weighting=SoftWeighting(scope="sequence"), **none)


def rho1(weighting):
    return Rho1(tiny_model(), InMemory(tiny_model(heads=1)), weighting=weighting, optimizer=None)


ALGORITHMS = {
    "baseline": lambda: Baseline(tiny_model(), None, head_weights=[1.0, 0.5]),
    "sequential": lambda: Baseline(tiny_model(heads=3, arrangement="sequential"), None),
    "recurrent": lambda: Baseline(tiny_model(heads=3, arrangement="recurrent"), None),
    "rho1": lambda: rho1(SoftWeighting(percentile=0.4)),
    "shuffled": lambda: rho1(SoftWeighting(control="shuffle")),
    "random": lambda: rho1(SoftWeighting(control="random")),
    "hard": lambda: rho1(HardSelection()),
    "critic": lambda: Critic(tiny_model(), **critic_parts()),
    "combined": lambda: Combined(tiny_model(), reference=InMemory(tiny_model(heads=1)), **critic_parts()),
}


def batches(pieces: int = 1, cached: bool = False, device: str = "meta"):
    """What the loader hands out, on the meta device."""
    samples = [TokenizedSample(f"p{i}", tuple(range(n)), 1 + i, (False,) * n) for i, n in enumerate(LENGTHS)]
    packed = TokenizedSamples.pack(samples)
    if cached:
        packed = TokenizedSamples(packed.tensors, [torch.zeros(n) for n in LENGTHS])

    loader = StepLoader(packed, token_budget=64, pad_token_id=0, accumulate=pieces, pieces=pieces)
    return [move_data_to_device(batch, device) for batch in loader]


def on_meta(algo):
    """The algorithm where nothing has a value, with a trainer that is only asked for its counts."""
    algo = algo.to("meta")
    algo.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, accumulate_grad_batches=2)
    algo.log = algo.log_dict = lambda *_, **__: None
    return algo


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_never_waits_for_the_device(algorithm, pieces, tmp_path):
    algo = on_meta(ALGORITHMS[algorithm]())
    loops = SimpleNamespace(_should_accumulate=lambda: True)
    trainer = SimpleNamespace(
        fit_loop=loops, current_epoch=0, train_dataloader=None, _logger_connector=SimpleNamespace(should_update_logs=1)
    )
    watching = [
        FiniteGuard(str(tmp_path)), LossExplosion(), Throughput(),
        WeightStatistics(), WeightHistogram(tmp_path), TokenRanking(tmp_path),
    ]  # fmt: skip
    for callback in watching:
        callback.on_train_start(trainer, algo)
    for i, batch in enumerate(batches(pieces)):
        algo.training_step(batch, i)["loss"].backward()
        for callback in watching:
            callback.on_after_backward(trainer, algo)
            callback.on_train_batch_end(trainer, algo, None, batch, i)
    torch.nn.utils.clip_grad_norm_(algo.model.parameters(), 1.0)
    assert all(parameter.grad.is_meta for parameter in algo.model.parameters())


class AskedValues(TorchDispatchMode):
    """Count how often a value is read out of a tensor."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten._local_scalar_dense
        return func(*args, **(kwargs or {}))


def test_nothing_around_a_step_asks_for_a_value_between_logging_steps(tmp_path):
    counts, endless = [], itertools.cycle(batches(device="cpu"))

    class Watch(Callback):
        def on_train_batch_start(self, *_):
            counts.append(asked.count)

    algo = Rho1(tiny_model(), InMemory(tiny_model(heads=1)), weighting=SoftWeighting(), optimizer=adamw)
    watching = [Throughput(), WeightStatistics(), WeightHistogram(tmp_path), FiniteGuard(str(tmp_path)), Watch()]
    trainer = Trainer(
        accelerator="cpu", max_steps=4, max_epochs=-1, gradient_clip_val=1.0, accumulate_grad_batches=2,
        log_every_n_steps=100, logger=False, callbacks=watching, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    with AskedValues() as asked:
        trainer.fit(algo.train(), endless)
        counts.append(asked.count)
        torch.ones(()).item()
    assert len(counts) == 9 and set(counts) == {0} and asked.count == 1


def test_a_step_with_a_cached_reference_never_waits():
    algo = on_meta(Rho1(tiny_model(), CachedReference(BASE, BASE), weighting=SoftWeighting(), optimizer=None))
    for i, batch in enumerate(batches(cached=True)):
        algo.training_step(batch, i)["loss"].backward()


GROUPED = SHAPE | dict(num_key_value_heads=1)
CONFIGS = [
    Qwen2Config(**GROUPED),
    MistralConfig(**GROUPED, sliding_window=8),
    Gemma2Config(**GROUPED, head_dim=8, sliding_window=8),
    GPTNeoXConfig(**SHAPE),
    GPT2Config(vocab_size=512, n_embd=16, n_layer=2, n_head=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_no_architecture_waits_for_the_device(config):
    config.mtp_heads = 2
    with torch.device("meta"):
        model = put_heads_on(type(AutoModelForCausalLM.from_config(config)))(config)
    algo = on_meta(Baseline(model, None))
    for i, batch in enumerate(batches()):
        algo.training_step(batch, i)["loss"].backward()


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ("baseline", "rho1", "shuffled", "random", "hard"))
def test_a_step_never_waits_for_a_gpu(algorithm):
    algo = ALGORITHMS[algorithm]().to("cuda")
    algo.trainer = Trainer(accelerator="gpu", devices=1, logger=False, enable_checkpointing=False)
    algo.log = algo.log_dict = lambda *_, **__: None
    data = MTPDataModule(Synthetic(train_size=8), Synthetic0Shot(), None)
    for attempt in range(2):  # the first one loads kernels
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")
        try:
            for i, batch in enumerate(batches(device="cpu")):
                batch = data.transfer_batch_to_device(batch, torch.device("cuda"), 0)
                algo.training_step(batch, i)["loss"].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_what_waits_is_found():
    algo = on_meta(rho1(SoftWeighting()))
    (batch, *_) = batches()
    with pytest.raises(RuntimeError, match="meta tensors"):
        algo.training_step({**batch, "targets": None}, 0)
