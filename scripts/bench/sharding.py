"""Measure the memory that each rank needs to begin an FSDP run: weights read by every rank, or by the first one only.

[연구 맥락] 랭크마다 모델을 통째로 읽은 뒤 나누면, 나눈 모델은 들어가도 시작할 때 메모리가 모자란다.
[동작] 작은 폭의 Llama를 임시 폴더에 저장하고, gloo 랭크들이 `trainer=fsdp`와 같은 함수로 읽고 나눈다. CPU만 쓴다.
    "peak"은 읽기 전보다 더 쓴 최대 RSS (VmHWM - VmRSS, 파일을 비춘 쪽도 센다), "after"는 나눈 뒤에 더 남은 것이다.

    python scripts/bench/sharding.py                       # 200M parameters on 4 ranks: about 2 minutes, 5 GB of memory
    python scripts/bench/sharding.py --layers 2 --ranks 2
"""

import argparse
import gc
import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

from transformers import LlamaConfig

WAYS = {"every rank reads": False, "first rank reads": True}
WIDTH, VOCABULARY = 1024, 16_000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ranks", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = make_model(Path(folder), args.layers)
        print(f"{size / 4:.0f}M parameters = {size:.0f} MB in float32, {args.ranks} ranks.")
        print("MB over what a rank had before.\n")
        print(f"{'':18} {'peak of each rank':36} {'sum':>6}   {'after, each rank':30} {'sum':>6}")
        for way, empty in WAYS.items():
            peaks, afters = zip(*measure(Path(folder), args.ranks, empty), strict=True)
            each, left = (" ".join(f"{value:6.0f}" for value in values) for values in (peaks, afters))
            print(f"{way:18} {each:36} {sum(peaks):6.0f}   {left:30} {sum(afters):6.0f}", flush=True)


def make_model(folder: Path, layers: int) -> float:
    """Save a random Llama; return its size in MB."""
    from wmtp.models.mtp import MTPForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=layers,
        num_attention_heads=16, tie_word_embeddings=False, mtp_heads=1,
    )  # fmt: skip
    model = MTPForCausalLM(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters()) * 4 / 1e6


def measure(folder: Path, ranks: int, empty: bool) -> list[tuple[float, float]]:
    """Return peak and rest of every rank, in MB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=begin, args=(rank, ranks, port, folder, empty, results)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    return [(peak, after) for _, peak, after in found]


def begin(rank: int, ranks: int, port: int, folder: Path, empty: bool, results: multiprocessing.Queue) -> None:
    """Load and shard as one rank."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

    from wmtp.models.loading import ModelSource
    from wmtp.ranks.sharding import shard

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    ModelSource(path="asset:tiny-base").load()  # all that is imported late is imported now
    dist.barrier()
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is in use
    model = ModelSource(path=str(folder), heads=1).load(empty=empty and rank > 0)
    shard(model, mesh, MixedPrecisionPolicy())
    dist.barrier()
    gc.collect()
    results.put((rank, megabytes("VmHWM") - before, megabytes("VmRSS") - before))
    dist.destroy_process_group()


def megabytes(name: str) -> float:
    """Read a line of this process' status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


if __name__ == "__main__":
    main()
