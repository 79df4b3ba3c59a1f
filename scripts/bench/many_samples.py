"""Judge 200 samples of every problem of HumanEval+ or MBPP+ through the front door: how fast, in how much memory.

    python scripts/bench/many_samples.py DATA_DIR/evalplus/MbppPlus.jsonl.gz          378 x 200, 3 minutes of CPU
    python scripts/bench/many_samples.py DATA_DIR/evalplus/HumanEvalPlus.jsonl.gz     164 x 200, 2 minutes of CPU

[연구 맥락] n=200의 pass@k가 하룻밤 일인지 몇 분의 일인지는 채점이 정한다. 메모리는 표본을 따라 늘지 않아야 한다.
[동작] 문제마다 참조 정답과 그것을 한 곳씩 고친 프로그램을 만들고, 표본이 다 찰 때까지 되풀이해 적는다: 진짜 표본도
    서로 같은 것이 많다. `python -m wmtp.eval samples=…`을 새 프로세스로 불러, 모든 프로세스의 CPU 시간과, 실행을 넷으로
    나눈 때마다의 PSS를 잰다 (평가하는 프로세스 하나와, 작업자까지의 나무). 기대값이 캐시에 없으면 더 걸린다.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from plus import cpu_seconds, proportional_bytes, references_and_mutants, source_of, tree

_PARTS = 4


def write_samples(file: Path, samples: int, distinct: int, out: Path) -> tuple[int, int, int]:
    """Write the samples; return the number of problems, of samples, and of distinct programs."""
    source = source_of(file)
    problems, programs = source.problems("all"), 0
    with out.open("w", encoding="utf-8") as rows:
        for problem in problems:
            made = [*references_and_mutants(source, problem, distinct - 1)]
            programs += len(made)
            for number in range(samples):
                row = {"task_id": problem.task_id, "sample": number, "solution": made[number % len(made)]}
                rows.write(json.dumps(row) + "\n")
    return len(problems), len(problems) * samples, programs


class Watch:
    """Note every half second how much memory a process has, alone and with all below it."""

    def __init__(self, pid: int):
        self.pid, self.seen, self.over = pid, [], threading.Event()
        self.thread = threading.Thread(target=self.look)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def look(self) -> None:
        while not self.over.wait(0.5):
            alone, *others = map(proportional_bytes, tree(self.pid))
            self.seen.append((alone, alone + sum(others)))

    def by_part(self, which: int) -> str:
        """Write the median of each part of the run, and the largest of all, in MiB."""
        values = [seen[which] >> 20 for seen in self.seen]
        size = max(1, -(-len(values) // _PARTS))
        medians = [round(statistics.median(values[start : start + size])) for start in range(0, len(values), size)]
        return f"{', '.join(map(str, medians))}; at most {max(values)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="HumanEvalPlus.jsonl.gz or MbppPlus.jsonl.gz")
    parser.add_argument("--samples", type=int, default=200, help="of each problem")
    parser.add_argument("--distinct", type=int, default=10, help="programs of each problem")
    arguments = parser.parse_args()
    name = "humaneval_plus" if arguments.file.name.startswith("HumanEval") else "mbpp_plus"
    with tempfile.TemporaryDirectory() as folder:
        file, out, said = (Path(folder) / part for part in ("samples.jsonl", "out", "said"))
        problems, samples, programs = write_samples(arguments.file, arguments.samples, arguments.distinct, file)
        print(f"{name}: {problems} problems, {samples} samples, {programs} programs, {file.stat().st_size >> 20} MiB")
        command = [sys.executable, "-m", "wmtp.eval", f"samples={file}", f"benchmark={name}", f"out={out}"]
        before, started = cpu_seconds(), time.perf_counter()
        with said.open("wb") as lines:
            process = subprocess.Popen(
                [*command, f"benchmark.path={arguments.file}"], stderr=lines, stdout=subprocess.DEVNULL
            )
            with Watch(process.pid) as watch:
                process.wait()
        cpu, wall = cpu_seconds() - before, time.perf_counter() - started
        shown = said.read_text(errors="replace").splitlines()
        if process.returncode:
            raise SystemExit("\n".join(shown[-5:]))
        print(f"half way: {shown[len(shown) // 2].strip()}")
        metrics = json.loads((out / "metrics.json").read_text())
        print(f"pass@1 {metrics[f'{name}/pass@1']:.4f}, base {metrics[f'{name}_base/pass@1']:.4f}", end="; ")
        print(f"timeouts {metrics[f'{name}/verdicts/timeout']}")
        print(f"CPU {cpu:.0f} s, wall {wall:.0f} s", end="; ")
        print(f"a core-second: {samples / cpu:.0f} samples, {programs / cpu:.1f} programs")
        for what, which in (("wmtp.eval itself", 0), ("with its workers", 1)):
            print(f"{what}: MiB in each quarter of the run {watch.by_part(which)}")


if __name__ == "__main__":
    main()
