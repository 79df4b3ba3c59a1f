"""Measure a training step of a real model on this CPU: float32 against bf16, 4 heads against transformers' Trainer.

    OMP_NUM_THREADS=1 python scripts/bench/real_model.py FOLDER           a folder as on the Hub: SmolLM2-135M
    python scripts/bench/real_model.py FOLDER --length 256 --steps 3 --threads 2

[연구 맥락] 작은 진짜 모델(매개변수 1억쯤)은 CPU에서도 미세조정한다. bf16의 곱셈기가 있는 프로세서(AVX512-BF16, AMX)에서
    얼마나 빨라지는지, 그리고 틀이 transformers의 Trainer보다 느리지 않은지 잰다.
[동작] 같은 폴더, 같은 토큰, 팔마다 새 프로세스. 한 스텝의 CPU 초의 중앙값과 CPU 초당 자리를 적는다. ×는 Trainer에 대한
    비율이고, 헤드가 넷이면 하는 일이 더 많다: 헤드마다 층 하나와 로짓이 더 있다.
"""

import argparse
import os
import statistics
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from scale import WARM_UP, Machine, Size, ours, theirs
from transformers import AutoConfig, AutoModelForCausalLM

from wmtp.cli import quiet, quiet_libraries
from wmtp.models.loading import ModelSource
from wmtp.models.mtp import MTPForCausalLM


@dataclass(frozen=True)
class Folder(Size):
    """Hold a model that lies in a folder, and the shape of its batch."""

    folder: Path = Path()

    def model(self, device: str, heads: int | None = None, base: type = MTPForCausalLM) -> Any:
        """Load the model, ours with extra heads or transformers' own, in float32."""
        if base is not MTPForCausalLM:
            return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, use_cache=False).train()
        return ModelSource(str(self.folder), heads=self.heads, heads_init="auto").load()


def main() -> None:
    """Print a row for each arm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--length", type=int, default=1024, help="positions of a step")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of each arm")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    quiet()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    machine = Machine("cpu")
    vocabulary = AutoConfig.from_pretrained(options.folder).vocab_size
    four = Folder(0, 0, vocabulary, rows=1, length=options.length, folder=options.folder)
    one = replace(four, heads=1)
    arms = {
        "H = 1, transformers' Trainer": partial(theirs, machine, one),
        "H = 1, ours": partial(ours, machine, one),
        "H = 1, ours, bf16-mixed": partial(ours, machine, one, precision="bf16-mixed"),
        "H = 4, ours": partial(ours, machine, four),
        "H = 4, ours, bf16-mixed": partial(ours, machine, four, precision="bf16-mixed"),
    }
    how = f"{options.length} positions a step, {options.threads} threads; torch {torch.__version__}"
    print(f"{options.folder.name}, {how}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()}\n")
    print("| | CPU s a step | positions a CPU second | × |\n|---|---:|---:|---:|")
    first = None
    for name, arm in arms.items():
        seconds = statistics.median(machine.apart(arm, WARM_UP + options.steps))
        first = first or seconds
        print(f"| {name} | {seconds:.2f} | {options.length / seconds:.0f} | {seconds / first:.3f} |", flush=True)


if __name__ == "__main__":
    main()
