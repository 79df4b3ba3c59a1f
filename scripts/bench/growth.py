"""Measure how what this project does grows with its size: CPU seconds and peak memory, and the exponent of each.

    OMP_NUM_THREADS=1 python scripts/bench/growth.py          about 4 minutes
    python scripts/bench/growth.py --only plan compare        some rows
    python scripts/bench/growth.py --toy                      seconds: that every row can be measured

[연구 맥락] 작은 데이터에서 빠른 것이 큰 데이터에서 몇 시간이 되는지는 지수가 말한다. n log n보다 빠르게 느는 것은
    고치거나 까닭을 적는다 (docs/benchmarks.md).
[동작] 줄마다 크기 셋, 서로 열 배. 점마다 fork한 새 프로세스에서 재료를 만든 뒤부터 재고, 메모리는 그때 쥐고 있던 것
    위로 더 쓴 최대 RSS다. 지수는 가운데와 큰 점의 비의 로그다: 작은 점에는 늘 드는 값이 섞인다. 다 합친 예산이 아니라
    모양을 본다. CodeContests 크기의 파일은 contests.py, 평가의 표본 수는 evaluation_scale.py가 잰다.
"""

#   B sequences, T positions, D width, V vocabulary

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from wmtp.cache.entries import read_entry, write_entry
from wmtp.comparison.arms import find_runs
from wmtp.comparison.findings import study
from wmtp.data.batching import StepLoader, plan_epoch
from wmtp.data.leakage import find_leaks
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.data.tokenization import TokenizedSample, TokenizedSamples, tokenize_problems
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.journal import Journal
from wmtp.maths.loss import weighted_mtp_loss
from wmtp.maths.pass_at_k import paired_difference
from wmtp.maths.weighting import HardSelection, SoftWeighting
from wmtp.models.tokenizer import load_tokenizer

TOKENIZER = Path(__file__).resolve().parents[2] / "wmtp" / "assets" / "tokenizer"
Work = Callable[[], Any]


class Row(NamedTuple):
    """Hold one thing that grows: its sizes, and what makes the work of a size."""

    unit: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Work]


def guarding(problems: int, asked: int) -> Work:
    """Look for generated problems among those of a benchmark, as many of each as said."""
    benchmark = Benchmark("synthetic", Synthetic(test_size=asked), Synthetic0Shot())
    given = Synthetic(train_size=problems).problems("train")
    return lambda: sum(leak is not None for leak in find_leaks(given, [benchmark]))


def tokenizing(samples: int) -> Work:
    """Turn problems into tokens."""
    problems = Synthetic(train_size=samples).problems("train")
    return lambda: tokenize_problems(problems, Synthetic0Shot(), load_tokenizer(TOKENIZER), 1024)


def samples_of(number: int) -> TokenizedSamples:
    """Make samples of 10 to 90 tokens."""
    rng = random.Random(42)
    length = partial(rng.randint, 10, 90)
    return TokenizedSamples.pack(
        TokenizedSample(f"s{i}", (n := length()) * (5,), 4, n * (False,)) for i in range(number)
    )


def caching(samples: int) -> Work:
    """Write the tokens of samples to the cache and map them again."""
    tensors = samples_of(samples).tensors

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "entry.safetensors"
            assert write_entry(file, tensors) and read_entry(file)

    return work


def planning(samples: int, ranks: int) -> Work:
    """Plan an epoch of samples for so many ranks."""
    rng = random.Random(42)
    lengths = [rng.randint(10, 900) for _ in range(samples)]
    targets = [length // 2 for length in lengths]
    return lambda: plan_epoch(lengths, targets, token_budget=4096, world_size=ranks)


def loading(ranks: int) -> Work:
    """Begin an epoch on one of so many ranks: plan, and take the first batch."""
    samples = samples_of(100_000)
    return lambda: next(iter(StepLoader(samples, token_budget=256, pad_token_id=0, world_size=ranks)))


def weighing(weighting: Callable[..., Any], tokens: int) -> Work:
    """Weigh the tokens of one batch."""
    generator = torch.Generator().manual_seed(42)
    score_BT = torch.randn(8, tokens // 8, generator=generator)
    return lambda: weighting(score_BT, torch.ones_like(score_BT, dtype=torch.bool))


def losing(heads: int, vocabulary: int) -> Work:
    """Compute the loss and its gradients of 512 tokens."""
    generator = torch.Generator().manual_seed(42)
    hidden = [torch.randn(1, 512, 64, generator=generator).requires_grad_() for _ in range(heads)]
    unembedding_VD = torch.randn(vocabulary, 64, generator=generator).requires_grad_()
    labels_BT = torch.randint(vocabulary, (1, 512), generator=generator)
    return lambda: weighted_mtp_loss(hidden, unembedding_VD, labels_BT, None, 511).loss.backward()


def resuming(results: int) -> Work:
    """Read the rows of an evaluation that was stopped, and where each lies."""
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "results.jsonl"
    with file.open("w") as opened:
        for i in range(results):
            row = {"task_id": f"HumanEval/{i // 200}", "sample": i % 200, "status": "passed", "message": "", "ms": 3}
            opened.write(json.dumps(row) + "\n")

    def work() -> None:
        with folder:
            assert sum(row["status"] == "passed" for row in Journal(file, status=str).rows.values()) == results

    return work


def bootstrapping(problems: int) -> Work:
    """Pair two runs problem by problem."""
    rng = random.Random(42)
    a, b = ([float(rng.random() < 0.5) for _ in range(problems)] for _ in range(2))
    return lambda: paired_difference(a, b)


def comparing(runs: int) -> Work:
    """Read and compare runs of two algorithms, each seed twice."""
    folder = tempfile.TemporaryDirectory()
    for i in range(runs):
        write_run(Path(folder.name) / f"run-{i}", ("baseline.Baseline", "rho1.Rho1")[i % 2], seed=i // 2)

    def work() -> None:
        with folder:
            study(find_runs([folder.name]))

    return work


def write_run(run: Path, algo: str, seed: int) -> None:
    """Write what a run leaves that a comparison reads."""
    rng = random.Random(f"{algo}/{seed}")
    after = run / "eval" / "after" / "synthetic"
    after.mkdir(parents=True)
    config = {"algo": {"_target_": f"wmtp.algos.{algo}"}, "data": {"module": {"seed": seed}}, "seed": seed}
    config |= {"name": run.name, "run_dir": str(run), "lang": "en", "trainer": {f"key{i}": i for i in range(100)}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    solved = [rng.random() < 0.5 for _ in range(300)]
    rows = ({"task_id": f"t/{i}", "sample": 0, "status": "passed" if s else "wrong"} for i, s in enumerate(solved))
    (after / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (after / "metrics.json").write_text(json.dumps({"synthetic/pass@1": sum(solved) / 300}))


ROWS = {
    "leak guard, by training problems": Row("problems", (200, 2_000, 20_000), partial(guarding, asked=500)),
    "leak guard, by benchmark problems": Row("problems", (50, 500, 5_000), partial(guarding, 2_000)),
    "tokenizing": Row("samples", (200, 2_000, 20_000), tokenizing),
    "token cache, write and map": Row("samples", (10_000, 100_000, 1_000_000), caching),
    "batch plan, by samples": Row("samples", (10_000, 100_000, 1_000_000), partial(planning, ranks=8)),
    "batch plan, by ranks, 100,000 samples": Row("ranks", (1, 64, 4096), partial(planning, 100_000)),
    "first batch of a rank, 100,000 samples": Row("ranks", (1, 64, 4096), loading),
    "weights, soft": Row("tokens", (8_000, 80_000, 800_000), partial(weighing, SoftWeighting(percentile=0.5))),
    "weights, soft, shuffled": Row(
        "tokens", (8_000, 80_000, 800_000), partial(weighing, SoftWeighting(control="shuffle"))
    ),
    "weights, hard": Row("tokens", (8_000, 80_000, 800_000), partial(weighing, HardSelection())),
    "loss, by heads": Row("heads", (1, 10, 100), partial(losing, vocabulary=4_000)),
    "loss, by vocabulary": Row("V", (2_000, 20_000, 200_000), partial(losing, 2)),
    "reading the rows of a stopped evaluation": Row("results", (330, 3_300, 33_000), resuming),
    "paired difference of two runs": Row("problems", (160, 1_600, 16_000), bootstrapping),
    "compare": Row("runs", (4, 40, 400), comparing),
}
TOY = 10  # the smallest size divided by this


def measure(prepare: Callable[[int], Work], size: int) -> tuple[float, float]:
    """Return CPU seconds and the megabytes that were needed on top, in a process of its own."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()

    def child() -> None:
        work = prepare(size)
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        held, started = status_megabytes("VmRSS"), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            work()
        theirs.send((time.process_time() - started, max(status_megabytes("VmHWM") - held, 0.0)))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def status_megabytes(key: str) -> float:
    """Read a line of /proc/self/status."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name holds one of these words")
    parser.add_argument("--toy", action="store_true", help="smallest sizes only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()}; torch {torch.__version__}; one thread\n")
    print("| what | sizes | CPU s | n^ | MB | n^ |\n|---|---|---|---:|---|---:|")
    for name, row in ROWS.items():
        if not any(word in name for word in options.only):
            continue
        sizes = (max(row.sizes[0] // TOY, 4),) * 2 if options.toy else row.sizes
        points = [measure(row.prepare, size) for size in sizes]
        cells = [" / ".join(f"{size:,}" for size in sizes) + f" {row.unit}"]
        for values in zip(*points, strict=True):
            cells += [" / ".join(f"{value:.3g}" for value in values), exponent(sizes, values)]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


def exponent(sizes: tuple[int, ...], values: tuple[float, ...]) -> str:
    """Fit a power of the size to the two larger points."""
    if sizes[-1] == sizes[-2] or min(values[-2:]) <= 0:
        return ""
    return f"{math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}"


if __name__ == "__main__":
    main()
