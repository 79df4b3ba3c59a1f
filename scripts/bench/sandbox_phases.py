"""Say where the CPU time of judging one program goes, from the floor up.

    python scripts/bench/sandbox_phases.py DATA_DIR          about a minute

[연구 맥락] 프로그램마다 새 프로세스를 격리해서 띄운다. 그보다 싸게는 할 수 없다: 나머지가 남은 몫이다.
[동작] 바닥은 작업자와 같은 namespace에서, 같은 모듈을 올린 zygote가 빈 자식을 fork하고 거두는 것이다. 거기에 한 가지씩
    더한 것을 재서, 앞의 것과의 차를 그 단계의 값으로 적는다. 모든 프로세스의 CPU 시간이고, 돌아가며 재서 중앙값을 쓴다.
"""

import argparse
import importlib
import inspect
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sandbox import read_programs

from wmtp.evaluation.sandbox import Program, Sandbox, pool

_FORKS = 400


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def floor(forks: int, confined: bool) -> None:
    """Fork children that end at once, in the namespaces of a worker; print the CPU milliseconds of one."""
    from worker import confinement, zygote  # as a worker finds them, with nothing else around

    for module in zygote.PRELOADED:
        importlib.import_module(module)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    rung = confinement.Namespaces([])
    rung.enter(proc)
    mother = zygote.Zygote(socket.socketpair()[0], rung, {}, proc)
    rung.harden()
    mother.settle_down()
    limits = dict(cpu_seconds=20, memory_bytes=1 << 30, file_bytes=1 << 24, output_bytes=1 << 22, processes=32)
    limits = confinement.prepare_limits({**limits, "others": 3, "baseline_bytes": mother.virtual_bytes()}, True)
    before = _cpu_seconds()
    for _ in range(forks):
        if (pid := rung.fork()) == 0:
            if confined:
                rung.confine(limits)
            os._exit(0)
        os.waitpid(pid, 0)
    print(1000 * (_cpu_seconds() - before) / forks)


def in_fresh_interpreter(confined: bool) -> float:
    """Measure the floor in an interpreter as bare as a worker's."""
    source = "\n".join(["import importlib, os, resource, socket, sys", *map(inspect.getsource, (_cpu_seconds, floor))])
    code = f"{source}\nsys.path.insert(0, {str(Path(pool.__file__).parent)!r})\nfloor({_FORKS}, {confined})"
    python = getattr(sys, "_base_executable", None) or sys.executable
    done = subprocess.run([python, "-s", "-S", "-P", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def judged(programs: list[Program]) -> float:
    """Return the CPU milliseconds of judging one of the programs, the start of the worker not counted."""
    total = []
    for some in ([], programs):
        before = _cpu_seconds()
        with Sandbox(workers=1) as sandbox:
            for _ in sandbox.judge(some):
                pass
        total.append(_cpu_seconds() - before)
    return 1000 * (total[1] - total[0]) / len(programs)


def asleep(workers: int) -> tuple[float, float, float]:
    """Judge programs that only sleep a second, four for each worker.

    Returns:
        (초당 프로그램 수, 나누어 주는 프로세스의 프로그램당 CPU 밀리초, 1이면 작업자가 쉬지 않은 것인 비율).
    """
    programs = [Program(f"import time; time.sleep(1)  # {number}") for number in range(4 * workers)]
    with Sandbox(workers=workers) as sandbox:
        started, here = time.perf_counter(), time.process_time()
        for _ in sandbox.judge(programs):
            pass
        wall, here = time.perf_counter() - started, time.process_time() - here
    return len(programs) / wall, 1000 * here / len(programs), 4 / wall


def main() -> None:
    """Print the table for HumanEval and MBPP together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that holds humaneval/ and mbpp/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth program")
    parser.add_argument("--workers", type=int, nargs="*", default=[], help="also: so many workers, all asleep")
    options = parser.parse_args()
    for workers in options.workers:
        rate, here, busy = asleep(workers)
        print(f"{workers:3} workers asleep: {rate:6.1f} programs/s, busy {busy:.2f}, {here:.2f} ms of scheduling each")
    sets = read_programs(options.data, False)
    programs = [*sets["HumanEval"], *sets["MBPP"]][:: options.every]
    empty = [Program(f"# {number}", limits=programs[0].limits) for number in range(len(programs))]
    loaded = [replace(program, tests=(), setup="") for program in programs]
    steps: dict[str, Callable[[], float]] = {
        "an empty child: fork, exit, reap": lambda: in_fresh_interpreter(False),
        "limits, no capabilities, seccomp": lambda: in_fresh_interpreter(True),
        "an empty program through the worker": lambda: judged(empty),
        "compiling and running the program": lambda: judged(loaded),
        "the tests": lambda: judged(programs),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    started = time.perf_counter()
    for _ in range(options.rounds):  # in turn: a machine that slows down does so for all of them
        for name, measure in steps.items():
            taken[name].append(measure())
    medians = {name: statistics.median(values) for name, values in taken.items()}
    least, before = next(iter(medians.values())), 0.0
    print(f"{'':40} {'ms':>7} {'so far':>7} {'x floor':>8}")
    for name, value in medians.items():
        print(f"{name:40} {value - before:7.3f} {value:7.3f} {value / least:8.2f}")
        before = value
    print(f"{len(programs)} programs, {options.rounds} rounds, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
