"""Measure what the statistics cost: CPU time inside their callbacks against that of the whole training step.

    OMP_NUM_THREADS=1 python scripts/bench/callbacks.py       about a minute; expect at most 1 %

[연구 맥락] 통계를 보려고 학습이 느려지면 연구자는 통계를 끈다. 그래서 한 번의 학습 안에서 둘을 함께 잰다: 따로 두 번
    돌리면 1 %는 기계의 소음에 묻힌다.
[동작] scripts/bench/step.py의 모델과 배치로 rho1을 학습한다. 참조모델의 손실은 미리 계산된 것으로 준다.
"""

import argparse
import itertools
import tempfile
import time
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule
from scale import Scored
from step import make_batch, make_model, make_trainer

from wmtp.algos.optimizers import adamw
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks.throughput import Throughput
from wmtp.callbacks.token_ranking import TokenRanking
from wmtp.callbacks.weight_histogram import WeightHistogram
from wmtp.callbacks.weight_statistics import WeightStatistics
from wmtp.cli import quiet, quiet_libraries
from wmtp.maths.weighting import SoftWeighting
from wmtp.run.metrics_csv import MetricsCSV

WARM_UP = 2  # steps that allocate; not counted


class Timed:
    """Add up the CPU time of a callback's work after every micro-batch."""

    def __init__(self, callback: Callback) -> None:
        self.seconds, self.calls, work = 0.0, 0, callback.on_train_batch_end

        def timed(*arguments: Any) -> None:
            start = time.process_time()
            work(*arguments)
            self.calls += 1
            self.seconds += (time.process_time() - start) * (self.calls > WARM_UP)

        callback.on_train_batch_end = timed


class Clock(Callback):
    """Note the CPU time after every step."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.ticks.append(time.process_time())


class Data(LightningDataModule):
    """Give one batch over and over, and the tokenizer that the ranking asks for."""

    tokenizer = type("Plain", (), {"decode": staticmethod(str)})

    def __init__(self, batch: dict) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> Any:
        """Repeat the batch."""
        return itertools.repeat(self.batch)


def train(batch: dict, steps: int, every: int) -> tuple[dict[str, float], float]:
    """Train, and return the CPU seconds a step of each callback and of everything."""
    with tempfile.TemporaryDirectory() as folder:
        watching = [WeightStatistics(), WeightHistogram(folder), TokenRanking(folder), Throughput()]
        timed, clock = {type(callback).__name__: Timed(callback) for callback in watching}, Clock()
        algo = Rho1(make_model(), Scored(), weighting=SoftWeighting(), optimizer=partial(adamw), warmup=0.0)
        loggers = [MetricsCSV(folder)]
        trainer = make_trainer(steps, logger=loggers, callbacks=[*watching, clock], log_every_n_steps=every)
        trainer.fit(algo.train(), Data(batch))
    counted = steps - WARM_UP
    whole = (clock.ticks[-1] - clock.ticks[WARM_UP - 1]) / counted
    return {name: one.seconds / counted for name, one in timed.items()}, whole


def main() -> None:
    """Print the share of every callback."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=42)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    arguments = parser.parse_args()
    quiet()
    quiet_libraries()
    batch = make_batch(arguments.rows, arguments.length)
    batch["reference_nll_BT"] = torch.rand(batch["input_ids_BT"].shape, generator=torch.Generator().manual_seed(42)) * 9
    print(f"24M parameters, 4 heads, {arguments.rows} x {arguments.length} tokens, {arguments.steps} steps")
    for every in (10, 1):
        seconds, whole = train(batch, arguments.steps, every)
        without = whole - sum(seconds.values())
        parts = "   ".join(f"{name} {100 * value / without:.2f} %" for name, value in seconds.items())
        print(f"log_every_n_steps={every:<3} step {whole:.3f} s   ratio {whole / without:.4f}   {parts}")


if __name__ == "__main__":
    main()
