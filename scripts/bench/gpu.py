"""Run every row of gpu_rows.py within a number of minutes, the most important first; print one table and keep it.

    scripts/bench/gpu                  8 minutes on a GPU
    scripts/bench/gpu --toy            a minute on a CPU

[연구 맥락] GPU를 잠깐만 빌릴 수 있을 때, 명령 하나로 맞는지 먼저, 빠른지 그다음에 안다.
[동작] 줄은 다른 프로세스가 재고, 여기서는 시계만 본다. 한 줄이 실패하면 까닭을 적고 다음 줄로 간다. 시간을 넘기거나
    프로세스가 죽으면 (CUDA 오류 뒤에는 그 프로세스를 더 쓸 수 없다) 새 프로세스가 다음 줄부터 이어 간다. 표는 한 줄마다
    파일에 다시 쓴다. GPU 시험과 앞문은 맞는지 보는 줄들과 나란히 돌고, 시간을 재는 줄이 시작되기 전에 끝난다.
[디버깅] 시험과 앞문의 출력은 FOLDER/*.log에 있다. 줄 하나만 다시: --only 이름 (gpu_rows.py의 함수).
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# Functions of gpu_rows.py and the seconds each may take; a cut loses the last ones.
CORRECT = {
    "device": 30,
    "loss_against_float64": 30,
    "weights_against_float64": 20,
    "precisions": 45,
    "sharded": 45,
    "attentions": 75,
}
FAST = {
    "mixed": 40,
    "mixed_compiled": 75,
    "heads": 60,
    "loss_chunks": 45,
    "bf16_weights": 30,
    "bf16_compiled": 75,
    "host_waits": 30,
    "decoding": 60,
    "lighter": 45,
    "sharded_speed": 40,
    "trainers": 45,
    "liger": 45,
}
TESTS_SECONDS = 170  # from the start, for what runs beside the rows of CORRECT
START = 120  # seconds for the imports of a machine where nothing is cached yet
GRACE = 15  # seconds after which a row that does not heed its alarm is ended with its process


@dataclass
class Line:
    """Hold a line of the table: what was measured, and what came out of it."""

    name: str
    verdict: str = ""  # "ok", "WRONG" or "failed"
    tokens: float | None = None  # a second
    mfu: float | None = None
    milliseconds: float | None = None
    gigabytes: float | None = None
    ratio: float | None = None
    note: str = ""

    HEAD = ("", "", "tokens/s", "MFU", "ms", "peak GB", "×", "")

    def cells(self) -> list[str]:
        """Return the cells of the line."""
        shown = [
            (self.tokens, "{:,.0f}"), (self.mfu, "{:.1%}"), (self.milliseconds, "{:,.2f}"), (self.gigabytes, "{:.2f}"),
            (self.ratio, "{:.3f}"),
        ]  # fmt: skip
        return [
            self.name,
            self.verdict,
            *("" if value is None else form.format(value) for value, form in shown),
            self.note,
        ]


@dataclass
class Table:
    """Print lines as they come, and keep them in files at once."""

    folder: Path
    title: str = ""
    lines: list[tuple[str, Line]] = field(default_factory=list)

    def add(self, row: str, line: Line) -> None:
        """Print a line, and write all of them again."""
        if not self.lines:
            self.print(Line.HEAD)
        self.lines.append((row, line))
        self.print(line.cells())
        self.write()

    @staticmethod
    def print(cells: list[str]) -> None:
        """Print one line in columns."""
        name, verdict, *numbers, note = cells
        print(f"{name:52} {verdict:6}" + "".join(f"{cell:>10}" for cell in numbers) + f"  {note}", flush=True)

    def write(self) -> None:
        """Write the table for people and for programs."""
        rows = [Line.HEAD, ["---"] * 2 + ["---:"] * 5 + ["---"], *(line.cells() for _, line in self.lines)]
        text = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |" for cells in rows)
        whole = {"title": self.title, "lines": [{"row": row, **asdict(line)} for row, line in self.lines]}
        (self.folder / "gpu.md").write_text(f"{self.title}\n\n{text}\n")
        (self.folder / "gpu.json").write_text(json.dumps(whole, indent=1))


class Beside:
    """Run a command beside the rows, its output in a file, in a session that can be ended as a whole."""

    def __init__(self, name: str, log: Path, command: list[str], **environment: str) -> None:
        self.name, self.log, self.started = name, log, time.monotonic()
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )  # fmt: skip

    def result(self, seconds: float) -> Iterator[Line]:
        """Wait no longer than so many seconds, and say how it went."""
        try:
            code = self.process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            code = None
        self.end()
        took = time.monotonic() - self.started
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        last = said[-1].strip("= ") if said else "nothing"
        if code == 0:
            yield Line(self.name, "ok", note=last)
        else:
            how = f"cut after {took:.0f} s" if code is None else f"exit code {code}"
            yield Line(self.name, "failed", note=f"{how}: {last[:200]} ({self.log.name})")
        for line in said:
            if re.match(r"(FAILED|ERROR) ", line):
                yield Line(f"  {line.split()[1]}"[:80], "failed", note=line.partition(" - ")[2][:200])

    def end(self) -> None:
        """Leave nothing of it running."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def start_beside(toy: bool, folder: Path, runs: str) -> list[Beside]:
    """Start the tests that need a GPU, each file's on their own, and a run through the front door."""
    files = sorted(
        path.relative_to(ROOT)
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^@pytest\.mark\.gpu$", path.read_text(), re.MULTILINE)
    )
    marked = ["-m", "gpu", "-p", "no:cacheprovider", "-v", "-rfE", "--tb=short"]
    pytest = [sys.executable, "-m", "pytest", *marked]
    if toy:  # no GPU: that they can be found and imported is all
        together = [*pytest, "--collect-only", *map(str, files)]
        return [Beside("tests marked gpu, collected", folder / "tests.log", together)]
    beside = [
        Beside(f"tests marked gpu: {file.name}", folder / f"{file.stem}.log", [*pytest, str(file)]) for file in files
    ]
    front_door = [
        sys.executable, "-m", "wmtp.train", "trainer=gpu", "trainer.max_steps=30", "logger=csv", "eval.limit=8",
        "data.train_size=300", "sampling.max_new_tokens=64", "~callbacks.progress", f"runs={runs}",
    ]  # fmt: skip
    return [*beside, Beside("wmtp.train trainer=gpu, rho1, judged before and after", folder / "train.log", front_door)]


class TimeIsUp(BaseException):
    """Leave a row whatever it is in: libraries turn an ordinary exception into one of their own."""


def serve(channel: Connection, toy: bool) -> None:
    """Measure the rows that are asked for in this process, and send their lines as they come."""
    from scripts.bench import gpu_rows  # here: the process that watches the clock starts others before torch is there

    def ring(*_: Any) -> None:
        raise TimeIsUp("its time was up")

    signal.signal(signal.SIGALRM, ring)
    bench = gpu_rows.Bench(toy)
    channel.send(("ready", bench.title))
    while request := channel.recv():
        name, seconds = request
        reason = None
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            for line in getattr(gpu_rows, name)(bench):
                channel.send(("line", line))
        except (Exception, TimeIsUp) as error:
            said = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {said[0] if said else ''}"
            traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        bench.clean_up()  # after an error of CUDA this fails, and so would every later row
        channel.send(("end", reason))


class Measurer:
    """Measure rows in another process; a row that hangs or kills it is lost, and the next one gets a new process."""

    def __init__(self, toy: bool, table: Table, deadline: float) -> None:
        self.toy, self.table, self.deadline = toy, table, deadline
        self.process: Any = None

    def start(self) -> None:
        """Start the process, and wait until it has imported everything."""
        context = multiprocessing.get_context("spawn")
        self.channel, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, self.toy), daemon=False)
        self.process.start()
        there.close()
        _, self.table.title = self.receive(time.monotonic() + START)
        print(self.table.title, flush=True)

    def receive(self, limit: float) -> tuple[str, Any]:
        """Return what the process says next."""
        if not self.channel.poll(max(min(limit, self.deadline) - time.monotonic(), 0)):
            raise TimeoutError("it did not end in its time")
        return self.channel.recv()

    def measure(self, name: str, seconds: float) -> None:
        """Measure one row."""
        if self.deadline - time.monotonic() < 5:
            self.table.add(name, Line(name, "failed", note="not measured: no time was left"))
            return
        started = time.monotonic()
        try:
            if self.process is None:
                self.start()
            started = time.monotonic()
            self.channel.send((name, min(seconds, self.deadline - started - 2)))
            kind, what = "", None
            while kind != "end":
                kind, what = self.receive(started + seconds + GRACE)
                if kind == "line":
                    self.table.add(name, what)
        except (EOFError, OSError, TimeoutError) as error:
            what = str(error) or "its process died"
            self.end()
        if what:
            took = time.monotonic() - started
            self.table.add(name, Line(name, "failed", note=f"{what[:240]} (after {took:.0f} s)"))

    def end(self) -> None:
        """End the process, by force if it is not waiting for a request."""
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.channel.send(None)
            self.process.join(5)
            self.process.kill()
            self.process.join()
            self.process = None


def chosen(rows: dict[str, float], only: list[str] | None) -> list[str]:
    """Return the rows that were asked for; all if none was."""
    return [name for name in rows if not only or name in only]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="for everything")
    parser.add_argument("--out", type=Path, help="folder for the table and the logs; $OUT, else runs/bench/gpu")
    parser.add_argument("--toy", action="store_true", help="smallest sizes on a CPU: that it runs, not what it says")
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=[*CORRECT, *FAST], help="these rows and no tests")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes - 5
    folder = (arguments.out or Path(os.environ.get("OUT") or ROOT / "runs/bench/gpu")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(folder)

    measurer = Measurer(arguments.toy, table, deadline)
    with tempfile.TemporaryDirectory() as runs:
        beside = [] if arguments.only else start_beside(arguments.toy, folder, runs)
        tests_end = min(time.monotonic() + TESTS_SECONDS, deadline)
        try:
            for name in chosen(CORRECT, arguments.only):
                measurer.measure(name, CORRECT[name])
            for each in beside:
                for line in each.result(tests_end - time.monotonic()):
                    table.add("tests", line)
            for name in chosen(FAST, arguments.only):
                measurer.measure(name, FAST[name])
        finally:
            measurer.end()
            for each in beside:
                each.end()
    print(f"\n{folder / 'gpu.md'}")


if __name__ == "__main__":
    main()
