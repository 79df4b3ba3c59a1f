"""Judge HumanEval+ or MBPP+ here and with EvalPlus: the same verdicts, how fast, in how much memory.

[연구 맥락] 사람들은 EvalPlus의 점수를 인용한다. 여기서 잰 점수가 다르다면, 어느 쪽이 왜 옳은지 말할 수 있어야 한다.
[동작] 참조 정답과, 그것을 한 곳씩 고친 프로그램 몇 개씩을 두 채점기에 차례로 맡긴다. 둘 다 작업자 하나, 새 프로세스다.
    기대값을 만드는 시간은 빼고, CPU 시간(자식 모두 포함)과 프로세스 나무의 가장 큰 PSS를 잰다. 판정이 다른 프로그램은
    EvalPlus에게 열 배의 시간을 주고 다시 물어, 시간 탓인지 본다 (EvalPlus의 시계는 벽시계다).
    EvalPlus는 의존성이 아니므로 따로 설치한다:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install --no-deps evalplus==0.3.1
    /tmp/peers/bin/pip install numpy psutil appdirs tempdir wget datasets
    python scripts/bench/plus.py DATA_DIR/evalplus/HumanEvalPlus.jsonl.gz --peer /tmp/peers/bin/python

HumanEval+ 164문제 × 4는 코어 하나로 약 4분, MBPP+ 378문제 × 4는 약 15분. `--first`, `--last`로 나누어 잴 수 있다.
고칠 곳이 모자란 문제는 `--fill`로 따로 잰다.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PLENTY = 10  # times EvalPlus' own limits, to see whether a verdict was about time


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def source_of(file: Path) -> Any:
    """Read a file of EvalPlus' as what its name says."""
    from wmtp.data.sources import HumanEvalPlus, MbppPlus

    return (HumanEvalPlus if file.name.startswith("HumanEval") else MbppPlus)(file)


def references_and_mutants(source: Any, problem: Any, mutants: int) -> dict[str, str]:
    """Make a reference solution and as many different mutants of it, each with its name; some have fewer."""
    made = {problem.solutions[0]: "reference"}
    for attempt in range(20 * mutants):
        if len(made) > mutants:
            break
        if mutation := source.mutate(problem, random.Random(f"42/{problem.task_id}/{attempt}")):
            made.setdefault(mutation[0], f"mutant {len(made)}")
    return made


def fill_up(made: dict[str, str], problem: Any, mutants: int) -> None:
    """Add programs that spoil what the reference returns, where it has too few places to mutate."""
    for spoilt in ("None", "[right(*given)]", "repr(right(*given))"):
        if len(made) <= mutants:
            name = problem.entry_point
            text = f"{problem.solutions[0]}\nright = {name}\n\ndef {name}(*given):\n    return {spoilt}\n"
            made.setdefault(text, f"mutant {len(made)}, {spoilt}")


def write_programs(file: Path, arguments: argparse.Namespace, programs: Path) -> None:
    """Write the references and their mutants, one a line; leave out the problems whose reference is slow."""
    from wmtp.evaluation.answers import answers_of
    from wmtp.evaluation.sandbox import Limits, Sandbox

    source = source_of(file)
    problems = source.problems("all")[arguments.first : arguments.last]
    with Sandbox(workers=1) as sandbox:
        answers = answers_of(sandbox, problems, Limits())
    assert len(answers) == len(problems), "a reference solution fails"
    with programs.open("w", encoding="utf-8") as rows:
        for problem in problems:
            if answers[problem.task_id].seconds > arguments.seconds:
                continue
            made = references_and_mutants(source, problem, arguments.mutants)
            if arguments.fill:
                if len(made) > arguments.mutants:
                    continue
                fill_up(made, problem, arguments.mutants)
            for text, name in made.items():
                rows.write(json.dumps({"task_id": problem.task_id, "name": name, "solution": text}) + "\n")


def judge_here(file: Path, programs: list[dict[str, str]]) -> dict[str, Any]:
    """Judge with this sandbox, on one worker; the expected outputs are in the cache."""
    from wmtp.evaluation.answers import answers_of
    from wmtp.evaluation.benchmarks import program_of
    from wmtp.evaluation.sandbox import Limits, Sandbox

    asked = {row["task_id"] for row in programs}
    problems = {problem.task_id: problem for problem in source_of(file).stream("all") if problem.task_id in asked}
    with Sandbox(workers=1) as sandbox:
        answers = answers_of(sandbox, list(problems.values()), Limits())
        print("ready", flush=True)
        before, started, found = cpu_seconds(), time.perf_counter(), {}
        judging = (
            program_of(problems[row["task_id"]], row["solution"], Limits(), answers=answers[row["task_id"]])
            for row in programs
        )
        for index, verdict in sandbox.judge(judging):
            base = verdict.right >= problems[programs[index]["task_id"]].base_inputs
            found[index] = [
                base,
                verdict.passed,
                f"{verdict.status}: {verdict.message}" if verdict.message else "passed",
            ]
    verdicts = [found[index] for index in range(len(programs))]
    return {"verdicts": verdicts, "cpu": cpu_seconds() - before, "wall": time.perf_counter() - started}


def judge_with_evalplus(file: Path, programs: list[dict[str, str]], patience: float = 1.0) -> dict[str, Any]:
    """Judge with EvalPlus, one program after the other, as its `evaluate` does without test details."""
    from evalplus.data.mbpp import mbpp_deserialize_inputs
    from evalplus.data.utils import stream_jsonl
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    whole = "EVALPLUS_TIMEOUT_PER_TASK"  # set in the environment it would be compared with a number, and is a text
    os.getenv = lambda name, default=None: patience * 60 if name == whole else os.environ.get(name, default)
    dataset = "humaneval" if file.name.startswith("HumanEval") else "mbpp"
    asked = {row["task_id"].lower() for row in programs}
    problems = {row["task_id"].lower(): row for row in stream_jsonl(str(file)) if row["task_id"].lower() in asked}
    for problem in problems.values():
        name, reference = problem["entry_point"], problem["prompt"] + problem["canonical_solution"]
        for kind in ("base", "plus"):
            inputs = problem[f"{kind}_input"]
            problem[f"{kind}_input"] = inputs = (
                mbpp_deserialize_inputs(problem["task_id"], inputs) if dataset == "mbpp" else inputs
            )
            not_none = dataset == "mbpp" and name in MBPP_OUTPUT_NOT_NONE_TASKS
            problem[kind], problem[f"{kind}_time"] = trusted_exec(reference, inputs, name, True, not_none)
    print("ready", flush=True)
    before, started, verdicts = cpu_seconds(), time.perf_counter(), []
    for row in programs:
        problem, statuses = problems[row["task_id"].lower()], []
        for kind in ("base", "plus"):
            status, details = untrusted_check(
                *(dataset, row["solution"], problem[f"{kind}_input"], problem["entry_point"], problem[kind]),
                *(problem["atol"], problem[f"{kind}_time"], True),
                min_time_limit=patience,
                gt_time_limit_factor=4 * patience,
            )
            statuses.append(status)
        said = " and ".join(statuses) + f", {len(details)} plus inputs"
        verdicts.append([statuses[0] == "pass", statuses == ["pass", "pass"], said])
    return {"verdicts": verdicts, "cpu": cpu_seconds() - before, "wall": time.perf_counter() - started}


def measure(python: str, judge: str, file: Path, programs: Path) -> dict[str, Any]:
    """Run one judge in a process of its own, and watch the memory of all its processes."""
    command = [python, __file__, str(file), "--judge", judge, "--programs", str(programs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        peak, stop = [0], threading.Event()  # of each process, the largest first
        lines = iter(process.stdout)
        if next(lines, "").strip() != "ready":
            raise SystemExit(f"{judge} cannot be measured here.")

        def watch() -> None:
            while not stop.wait(0.1):
                parts = sorted(map(proportional_bytes, tree(process.pid)), reverse=True)
                peak[:] = max(peak, parts, key=sum)

        watching = threading.Thread(target=watch)
        watching.start()
        found = json.loads(next(lines))
        stop.set()
        watching.join()
    return found | {"peak": peak}


def tree(pid: int) -> list[int]:
    """List a process and all below it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        try:
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, with its part of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    except (OSError, StopIteration):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="HumanEvalPlus.jsonl.gz or MbppPlus.jsonl.gz, in EvalPlus' own format")
    parser.add_argument("--peer", help="the Python that has evalplus; without it only this sandbox is measured")
    parser.add_argument("--mutants", type=int, default=3, help="of each reference solution")
    parser.add_argument("--fill", action="store_true", help="only problems with fewer mutants, spoilt in other ways")
    parser.add_argument("--first", type=int, default=0, help="leave out the problems before this one")
    parser.add_argument("--last", type=int, default=None, help="and those from this one on")
    parser.add_argument("--seconds", type=float, default=1e9, help="leave out problems whose reference takes longer")
    parser.add_argument("--judge", choices=("wmtp", "evalplus", "evalplus-patient"), help=argparse.SUPPRESS)
    parser.add_argument("--programs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.judge:
        programs = [json.loads(line) for line in arguments.programs.read_text(encoding="utf-8").splitlines()]
        if arguments.judge == "wmtp":
            found = judge_here(arguments.file, programs)
        else:
            found = judge_with_evalplus(arguments.file, programs, PLENTY if "patient" in arguments.judge else 1.0)
        print(json.dumps(found), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        programs, again = Path(folder) / "programs.jsonl", Path(folder) / "again.jsonl"
        write_programs(arguments.file, arguments, programs)
        rows = [json.loads(line) for line in programs.read_text(encoding="utf-8").splitlines()]
        found = {"wmtp": measure(sys.executable, "wmtp", arguments.file, programs)}
        if arguments.peer:
            found["evalplus"] = measure(arguments.peer, "evalplus", arguments.file, programs)
        print(
            f"{'judge':10} {'references base, plus':>22} {'mutants base, plus':>20} {'CPU s':>7} {'wall s':>7} ", end=""
        )
        print(f"{'programs/core-second':>21} {'peak MiB':>9}")
        for name, one in found.items():
            print(f"{name:10}", end="")
            for wanted, width in (("reference", 23), ("mutant", 21)):
                chosen = [v for row, v in zip(rows, one["verdicts"], strict=True) if row["name"].startswith(wanted)]
                counts = [sum(verdict[place] for verdict in chosen) for place in (0, 1)]
                print(f"{f'{counts[0]}, {counts[1]} of {len(chosen)}':>{width}}", end="")
            print(f" {one['cpu']:7.1f} {one['wall']:7.1f} {len(rows) / one['cpu']:21.1f} {sum(one['peak']) >> 20:9}")
        for name, one in found.items():
            print(f"the largest processes at the peak of {name}, MiB: {[part >> 20 for part in one['peak'][:4]]}")
        if not arguments.peer:
            return
        ours, theirs = found["wmtp"]["verdicts"], found["evalplus"]["verdicts"]
        differ = [index for index in range(len(rows)) if ours[index][:2] != theirs[index][:2]]
        print(f"{len(rows) - len(differ)} of {len(rows)} programs have the same verdicts, base and plus")
        if differ:
            again.write_text("".join(json.dumps(rows[index]) + "\n" for index in differ), encoding="utf-8")
            patient = measure(arguments.peer, "evalplus-patient", arguments.file, again)["verdicts"]
        for index, later in zip(differ, patient if differ else (), strict=True):
            row = rows[index]
            print(f"{row['task_id']} {row['name']}: here {ours[index][2]}; evalplus {theirs[index][2]}", end="")
            print("; with ten times the time it agrees" if later[:2] == ours[index][:2] else f"; later {later[2]}")


if __name__ == "__main__":
    main()
