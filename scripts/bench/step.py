"""Compare a training step through Lightning and our module with a bare PyTorch loop of the same model and batch.

    OMP_NUM_THREADS=1 python scripts/bench/step.py            about 2 minutes; expect a ratio of at most 1.05

[연구 맥락] 틀(Lightning, 콜백, 로거)이 학습을 느리게 한다면 연구자는 틀을 버린다. 그래서 그 값을 잰다.
[동작] 같은 모델(20M 이상), 같은 배치, 같은 손실, 같은 옵티마이저로, 맨 루프와 Lightning을 번갈아 여러 번 돌린다.
    시끄러운 기계에서도 견줄 수 있도록 벽시계와 함께 CPU 시간을 재고, 짝지은 비율의 중앙값을 낸다.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from functools import partial
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning import Callback, Trainer
from transformers import LlamaConfig, get_cosine_schedule_with_warmup

from wmtp.algos.baseline import Baseline
from wmtp.algos.optimizers import adamw
from wmtp.cli import build, config_dir, quiet, quiet_libraries
from wmtp.data.batching import collate
from wmtp.data.tokenization import TokenizedSample
from wmtp.maths.loss import weighted_mtp_loss
from wmtp.models.mtp import MTPForCausalLM

WARM_UP = 2  # steps that allocate; not counted
WATCHING = ("weight_statistics", "weight_histogram", "token_ranking", "throughput")


def make_model() -> MTPForCausalLM:
    """Build a model of about 24M parameters with 4 heads."""
    torch.manual_seed(42)
    return MTPForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=9,
            num_attention_heads=6,
            mtp_heads=4,
            tie_word_embeddings=True,
        )
    )


def make_batch(rows: int, length: int) -> dict:
    """Build one batch of random tokens, the first eighth of each row a prompt."""
    random = torch.Generator().manual_seed(42)
    samples = [
        TokenizedSample(
            str(row),
            tuple(torch.randint(2, 4096, (length,), generator=random).tolist()),
            length // 8,
            (False,) * length,
        )
        for row in range(rows)
    ]
    return collate(samples, sum(sample.targets for sample in samples), 0)


class Clock(Callback):
    """Note both clocks after every step."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def tick(self, *_: object) -> None:
        """Note the time."""
        self.ticks.append((time.perf_counter(), time.process_time()))

    on_train_batch_end = tick

    def seconds(self) -> tuple[float, float]:
        """Return the mean wall and CPU seconds of a counted step."""
        (wall, cpu), (wall_end, cpu_end), steps = self.ticks[WARM_UP - 1], self.ticks[-1], len(self.ticks) - WARM_UP
        return (wall_end - wall) / steps, (cpu_end - cpu) / steps


def make_trainer(steps: int, **how: Any) -> Trainer:
    """Make a trainer, on the CPU unless told otherwise, that does nothing beside its steps but what it is given."""
    usual = dict(
        accelerator="cpu",
        max_epochs=-1,
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    return Trainer(max_steps=steps, **(usual | how))


def bare(batch: dict, steps: int) -> Clock:
    """Train in a plain loop."""
    model, clock = make_model().train(), Clock()
    optimizer = adamw(model)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, steps)
    for _ in range(steps):
        output = model.mtp(batch["input_ids_BT"])
        loss = weighted_mtp_loss(
            output.hidden, model.unembedding_VD, batch["labels_BT"], None, batch["step_targets"]
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        clock.tick()
    return clock


def through_lightning(batch: dict, steps: int, folder: str) -> Clock:
    """Train through our module, with the callbacks and the logger that a run has."""
    clock = Clock()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", [f"run_dir={folder}", "logger=csv"])
    watching = [build(cfg.callbacks[name]) for name in WATCHING]
    loggers = list(build(cfg.logger).values())
    trainer = make_trainer(steps, logger=loggers, callbacks=[*watching, clock], log_every_n_steps=10)
    algo = Baseline(make_model(), partial(adamw), warmup=0.0)
    trainer.fit(algo.train(), itertools.repeat(batch))
    return clock


def main() -> None:
    """Print both times and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    arguments = parser.parse_args()
    quiet()
    quiet_libraries()
    batch = make_batch(arguments.rows, arguments.length)
    size = sum(parameter.numel() for parameter in make_model().parameters())
    shape = f"{arguments.rows} x {arguments.length} tokens"
    print(f"{size / 1e6:.1f}M parameters, 4 heads, {shape}, {arguments.rounds} rounds")
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            parts = [partial(bare, batch, arguments.steps), partial(through_lightning, batch, arguments.steps, folder)]
            order = (0, 1) if number % 2 == 0 else (1, 0)  # neither is always the first
            times = {which: parts[which]().seconds() for which in order}
            rounds.append((times[0], times[1]))
    for name, clock in (("wall", 0), ("CPU", 1)):
        ratio = statistics.median(lightning[clock] / loop[clock] for loop, lightning in rounds)
        loop, lightning = (statistics.median(pair[which][clock] for pair in rounds) for which in (0, 1))
        print(f"{name:<5} bare loop {loop:.4f} s   Lightning + wmtp {lightning:.4f} s   ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
