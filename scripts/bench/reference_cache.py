"""Measure what the caches save: a rho1 step against a baseline step, and starting cold against starting warm.

    OMP_NUM_THREADS=1 python scripts/bench/reference_cache.py --data DIR       about 3 minutes; expect a ratio <= 1.05
    OMP_NUM_THREADS=1 python scripts/bench/reference_cache.py model.heads=2    any override of conf/train.yaml
    OMP_NUM_THREADS=1 python scripts/bench/reference_cache.py --weights        only: how wrong fewer bits are

[연구 맥락] 참조모델의 손실을 캐시에서 읽으면 rho1이 baseline보다 더 하는 일은 head 0의 CE 한 번과 가중치 계산뿐이다.
[동작] 세 알고리즘(baseline, 캐시를 쓰는 rho1, 그때그때 채점하는 rho1)이 같은 배치로 번갈아 한 스텝씩 간다.
    시끄러운 기계에서도 견줄 수 있도록 CPU 시간으로, 배치마다 짝지은 비율의 중앙값을 낸다.
    시작 시간은 빈 캐시(cold)와 찬 캐시(warm)에서 MTPDataModule.setup의 벽시계 시간이다.
    DIR에 mbpp/와 codecontests/가 있으면 그것도 잰다.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir

from wmtp.cli import build, config_dir, quiet, quiet_libraries

WARM_UP = 3  # steps that allocate; not counted


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder that holds mbpp/ and codecontests/")
    parser.add_argument("--weights", action="store_true", help="compare algo.reference.weights, and nothing else")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("overrides", nargs="*", help="of conf/train.yaml")
    args = parser.parse_args()
    quiet()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["WMTP_CACHE"] = cache
        if args.weights:
            compare_weights(args.overrides)
            return
        print(f"{'start':34} {'samples':>8} {'tokens':>9} {'cold s':>8} {'warm s':>8}")
        start("synthetic, the default", [])
        if args.data:
            start("mbpp", ["data=mbpp", f"data.path={args.data / 'mbpp'}"])
            sample = args.data / "codecontests" / "train_sample.jsonl"
            start("codecontests, the sample", ["data=codecontests", f"data.path={sample}"])
        print()
        compare_steps(args.steps, args.overrides)


def config(*overrides: str):
    """Compose the training config."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", list(overrides))


def data_module(cfg):
    """Build the data module as training does."""
    return build(cfg.data.module, tokenizer=build(cfg.model).load_tokenizer())


def start(name: str, overrides: list[str]) -> None:
    """Time making the samples ready, twice."""
    seconds = []
    for _ in range(2):
        data = data_module(config(*overrides))
        seconds.append(timed(data.setup, time.perf_counter))
    samples = data.samples["train"]
    print(f"{name:34} {len(samples):8} {samples.starts[-1]:9} {seconds[0]:8.2f} {seconds[1]:8.3f}", flush=True)


def compare_weights(overrides: list[str]) -> None:
    """Print how far the reference's losses are from those of float32, by what it is held in."""
    import torch

    from wmtp.errors import ConfigError
    from wmtp.models.loading import WEIGHTS

    small = ["data.train_size=300", *overrides]
    data = data_module(config(*small))
    data.setup()
    samples, exact = data.samples["train"], None
    print(f"{'weights':10} {'mean CE':>9} {'mean |error|':>13} {'largest':>9} {'bias':>10}")
    for weights in WEIGHTS:
        try:
            reference = build(config("algo=rho1", f"algo.reference.weights={weights}", *small).algo.reference)
            losses = reference.compute(
                samples, token_budget=data.token_budget, pad_token_id=data.tokenizer.pad_token_id
            )
        except ConfigError as error:
            print(f"{weights:10} {error}")
            continue
        nll_N = torch.cat([nll_T[s.prompt_length :] for s, nll_T in zip(samples, losses, strict=True)])
        exact = nll_N if exact is None else exact
        error_N = nll_N - exact
        size = f"{error_N.abs().mean():13.5f} {error_N.abs().max():9.3f} {error_N.mean():10.5f}"
        print(f"{weights:10} {nll_N.mean():9.4f} {size}", flush=True)


def compare_steps(steps: int, overrides: list[str]) -> None:
    """Let the algorithms take turns on the same batches."""
    from pytorch_lightning import Trainer

    small = ["data.train_size=1500", *overrides]
    data = data_module(config(*small))
    data.setup()
    samples, reference = data.samples["train"], build(config("algo=rho1", *small).algo.reference)
    losses = reference.compute(samples, token_budget=data.token_budget, pad_token_id=data.tokenizer.pad_token_id)
    arms = {"baseline": ["algo=baseline"], "rho1, cache": ["algo=rho1"], "rho1, online": ["algo/reference=online"]}
    step_of = {}
    for name, choice in arms.items():
        cfg = config(*choice, *small)
        algo = build(cfg.algo, model=build(cfg.model).load(), optimizer=build(cfg.optimizer))
        algo.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        algo.log = algo.log_dict = lambda *_, **__: None
        step_of[name] = stepper(algo)

    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for i, batches in enumerate(paired(data, losses)):
        if i == WARM_UP + steps:
            break
        for name in sorted(
            arms, key=lambda name: (i + list(arms).index(name)) % len(arms)
        ):  # take turns at being first
            batch = batches["rho1, cache" if name == "rho1, cache" else "baseline"]
            seconds[name].append(timed(lambda name=name, batch=batch: step_of[name](batch), time.process_time))
    print(f"{'step':34} {'CPU ms':>8} {'/ baseline':>11}")
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, seconds["baseline"], strict=True)][WARM_UP:]
        print(f"{name:34} {1000 * statistics.median(taken[WARM_UP:]):8.1f} {statistics.median(ratios):11.3f}")


def paired(data, losses):
    """Yield the same batches without and with the reference's losses."""
    while True:
        data.reference_losses = None
        without = data.loader("train")
        data.reference_losses = losses
        for a, b in zip(without, data.loader("train"), strict=True):
            yield {"baseline": a, "rho1, cache": b}


def stepper(algo) -> Callable[[dict], None]:
    """Make a function that takes one optimizer step of an algorithm."""
    optimizer = algo.optimizer(algo.model)

    def step(batch: dict) -> None:
        optimizer.zero_grad()
        algo.training_step(batch, 0)["loss"].backward()
        optimizer.step()

    return step


def timed(work: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return how long `work` takes by `clock`."""
    started = clock()
    work()
    return clock() - started


if __name__ == "__main__":
    main()
