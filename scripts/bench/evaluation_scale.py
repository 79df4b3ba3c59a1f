"""Measure how judging a file of samples grows: CPU and peak memory against the number of samples.

    python scripts/bench/evaluation_scale.py DATA_DIR                      328, 3280 and 32,800 samples: about 3 minutes
    python scripts/bench/evaluation_scale.py DATA_DIR --extract auto       of answers in prose
    python scripts/bench/evaluation_scale.py DATA_DIR --samples 2 6 20     fewer

[연구 맥락] pass@k의 n=200은 HumanEval에서 표본 32,800개다. 같은 명령을 다시 했을 때 (이어 하기) 드는 것도 잰다.
[동작] HumanEval의 참조 정답과 그 돌연변이(wmtp/data/mutation.py)로 표본 파일을 만들고, `python -m wmtp.eval`을 새
    프로세스로 두 번 부른다: 처음부터, 그리고 다 끝난 폴더에서 다시. CPU는 작업자까지 합친 초, 메모리는 가장 큰 프로세스
    (평가 자신)의 최대 RSS다. 문제마다 서로 다른 프로그램은 표본의 10분의 1이다 (모델의 답도 서로 같은 것이 많다).
    지수는 이웃한 두 점에서 밑값(가장 작은 점)을 뺀 것이 아니라, 그대로의 비의 로그다: 1이면 비례, 0이면 늘지 않는다.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from wmtp.data.mutation import mutate
from wmtp.data.sources import HumanEval

COPIES = 10  # samples for each distinct program


class Cost(NamedTuple):
    """Hold what one command took."""

    cpu: float
    wall: float
    megabytes: float


def write_samples(data: Path, n: int, prose: bool, file: Path) -> int:
    """Write n samples of every problem: its reference, mutants of it, and copies of these; return their number."""
    total = 0
    with file.open("w", encoding="utf-8") as opened:
        for problem in HumanEval(data / "humaneval").problems("test"):
            rng = random.Random(f"42/{problem.task_id}")
            whole = problem.solutions[0]
            mutant = mutate(whole, rng)
            # Only one mutant: some run until their time is up, and this is about everything else.
            variants = [f"{whole}\n# {number}\n" for number in range(max(1, n // COPIES))]
            programs = [mutant[0], *variants[1:]] if mutant and len(variants) > 1 else variants
            for number in range(n):
                text = programs[number % len(programs)]
                text = f"Here is my solution.\n\n```python\n{text}\n```\nIt is simple." if prose else text
                opened.write(json.dumps({"task_id": problem.task_id, "sample": number, "solution": text}) + "\n")
                total += 1
    return total


def run(command: list[str]) -> Cost:
    """Run a command to its end and return what it took, with all that it started."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - started, usage.ru_maxrss / 1024)


def main() -> None:
    """Print a line for each size and the exponents between neighbours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that holds humaneval/")
    parser.add_argument("--samples", type=int, nargs="+", default=[2, 20, 200], help="samples of each problem")
    parser.add_argument("--extract", default="none", help="none | fence | auto; answers are prose unless none")
    options = parser.parse_args()
    print(f"{'':10} {'samples':>8} {'CPU s':>8} {'wall s':>8} {'peak MB':>8}   {'CPU ~ n^':>9} {'MB ~ n^':>8}")
    last: dict[str, tuple[int, Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in options.samples:
            file, out = Path(folder) / f"{n}.jsonl", Path(folder) / f"out{n}"
            total = write_samples(options.data, n, options.extract != "none", file)
            command = [sys.executable, "-m", "wmtp.eval", f"samples={file}", "benchmark=humaneval", f"out={out}"]
            command += [f"benchmark.path={options.data / 'humaneval'}", f"extract={options.extract}", "progress=false"]
            for what in ("judge", "resume"):
                cost = run(command)
                grown = ""
                if what in last:
                    before, its = last[what]
                    cpu, memory = (
                        math.log(now / then) / math.log(total / before)
                        for now, then in ((cost.cpu, its.cpu), (cost.megabytes, its.megabytes))
                    )
                    grown = f"{cpu:9.2f} {memory:8.2f}"
                last[what] = total, cost
                print(
                    f"{what:10} {total:8} {cost.cpu:8.1f} {cost.wall:8.1f} {cost.megabytes:8.0f}   {grown}", flush=True
                )


if __name__ == "__main__":
    main()
