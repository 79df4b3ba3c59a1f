"""Hold processes that judge one file of samples in one folder to doing everything once, whoever of them is killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.harness import evaluate
from wmtp.evaluation.sandbox import Limits, Sandbox
from wmtp.evaluation.shares import Shares

ROOT = Path(__file__).parents[3]
FINAL_FILES = ("eval.json", "samples.jsonl", "results.jsonl", "metrics.json", "eval_results.json", "verdicts.csv")
PROBLEMS, SAMPLES, DISTINCT = 12, 12, 4
FORK = multiprocessing.get_context("fork")


class Counting(Sandbox):
    """Write down every program that is judged, the reference solutions aside."""

    def __init__(self, file: Path, benchmark: Benchmark):
        super().__init__(workers=1)
        self.file, self.references = file, {problem.solutions[0] for problem in benchmark.problems}

    def judge(self, programs):
        def noted():
            for program in programs:
                if program.source not in self.references:
                    with self.file.open("a") as file:
                        file.write(json.dumps([program.task_id, program.source]) + "\n")
                yield program

        return super().judge(noted())


@pytest.fixture(scope="module")
def benchmark():
    return Benchmark("synthetic", Synthetic(0, 0, PROBLEMS, seed=42), Synthetic0Shot(), limits=Limits(cpu_seconds=1))


@pytest.fixture
def samples(tmp_path, benchmark):
    """Every problem has DISTINCT programs, one of them right, as often as they go into SAMPLES."""
    file = tmp_path / "samples.jsonl"
    with file.open("w") as opened:
        for problem in benchmark.problems:
            for number in range(SAMPLES):
                kind = number % DISTINCT
                wait = f"import time; time.sleep(0.02)  # {kind}\n"  # so that nobody is done before the others begin
                right = problem.solutions[0]
                text = wait + (right if kind == 0 else f"def solve(xs): return 'no {kind}'\n")
                opened.write(json.dumps({"task_id": problem.task_id, "sample": number, "solution": text}) + "\n")
    return file


def judge_in(out: Path, benchmark: Benchmark, samples: Path, log: Path) -> None:
    with Counting(log, benchmark) as sandbox:
        evaluate(benchmark, out, sandbox=sandbox, samples=samples, progress=False)


def start(*arguments) -> multiprocessing.Process:
    process = FORK.Process(target=judge_in, args=arguments)
    process.start()
    return process


def final_files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FINAL_FILES}


def judged(log: Path) -> list[str]:
    return log.read_text().splitlines()


def lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("results*.jsonl"))


def test_identical_programs_of_a_problem_are_judged_once_and_share_the_verdict(tmp_path, benchmark, samples):
    judge_in(tmp_path / "out", benchmark, samples, tmp_path / "log")
    assert len(judged(tmp_path / "log")) == len(set(judged(tmp_path / "log"))) == PROBLEMS * DISTINCT
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert len(results) == PROBLEMS * SAMPLES
    assert all((row["status"] == "passed") == (row["sample"] % DISTINCT == 0) for row in results)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["synthetic/samples"] == PROBLEMS * SAMPLES and metrics["synthetic/distinct"] == PROBLEMS * DISTINCT
    assert metrics["synthetic/pass@1"] == 1 / DISTINCT


def test_three_processes_share_one_folder_and_leave_the_files_of_one(tmp_path, benchmark, samples):
    judge_in(tmp_path / "one", benchmark, samples, tmp_path / "log")
    log = tmp_path / "shared"
    processes = [start(tmp_path / "three", benchmark, samples, log) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert final_files(tmp_path / "three") == final_files(tmp_path / "one")
    assert sorted(judged(log)) == sorted(judged(tmp_path / "log"))  # nothing twice
    assert not list((tmp_path / "three").glob("*.*.jsonl"))


def test_a_killed_process_loses_only_what_it_was_at_and_another_takes_its_share(tmp_path, benchmark, samples):
    judge_in(tmp_path / "one", benchmark, samples, tmp_path / "log")
    out, log = tmp_path / "two", tmp_path / "shared"
    victim, survivor = (start(out, benchmark, samples, log) for _ in range(2))
    while lines(out) < PROBLEMS * SAMPLES // 4:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    survivor.join()
    assert survivor.exitcode == 0
    judge_in(out, benchmark, samples, log)  # a later start does what is left, or finds everything done
    assert final_files(out) == final_files(tmp_path / "one")
    twice = len(judged(log)) - len(set(judged(log)))
    assert twice <= 2  # what the killed one was at: its one worker's program and the next


def test_copies_of_what_was_judged_before_a_kill_are_not_judged_again(tmp_path, benchmark, samples):
    judge_in(tmp_path / "one", benchmark, samples, tmp_path / "log")
    out = tmp_path / "again"
    judge_in(out, benchmark, samples, tmp_path / "first")
    kept = (out / "results.jsonl").read_text().splitlines(keepends=True)[:DISTINCT]
    (out / "results.jsonl").write_text("".join(kept) + '{"task_id": "synth')
    judge_in(out, benchmark, samples, tmp_path / "second")
    assert final_files(out) == final_files(tmp_path / "one")
    assert len(judged(tmp_path / "second")) == (PROBLEMS - 1) * DISTINCT


def test_an_extracted_program_is_kept_and_not_looked_for_again(tmp_path, benchmark, monkeypatch):
    right = benchmark.problems[0].solutions[0]
    answers = [f"Sure!\n```python\n{right}\n```\n", f"Of course.\n```python\n{right}\n```\n", "I cannot."]
    file = tmp_path / "answers.jsonl"
    rows = [{"task_id": benchmark.problems[0].task_id, "solution": answer} for answer in answers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run() -> dict:
        with Sandbox(workers=1) as sandbox:
            return evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=file, extract="auto", progress=False)

    found = run()
    assert found["synthetic/distinct"] == 2 and found["synthetic/verdicts/passed"] == 2
    files = final_files(tmp_path / "out")
    solutions = [row["solution"] for row in json.loads(files["eval_results.json"])["eval"]["synthetic/test/0"]]
    assert solutions[0] == solutions[1] and "```" not in solutions[0]
    monkeypatch.setattr("wmtp.evaluation.benchmarks.extract", None)  # called, it would be a TypeError
    run()
    assert final_files(tmp_path / "out") == files


def _hold(file: Path, ready) -> None:
    with Shares(file) as shares:
        assert shares.take(3)
        ready.set()
        time.sleep(60)


def test_another_evaluation_is_not_written_over_while_someone_judges(tmp_path, benchmark, samples):
    out, ready = tmp_path / "out", FORK.Event()
    judge_in(out, benchmark, samples, tmp_path / "log")
    before = final_files(out)
    holder = FORK.Process(target=_hold, args=(out / ".lock", ready))
    holder.start()
    ready.wait()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text(samples.read_text().splitlines()[0] + "\n")
    with Sandbox(workers=1) as sandbox:
        with pytest.raises(ConfigError, match="another evaluation is writing there"):
            evaluate(benchmark, out, sandbox=sandbox, samples=fewer, progress=False, overwrite=True)
        assert final_files(out) == before
        # The same evaluation: everything is judged, but one lives who may be writing, and sums up later.
        assert evaluate(benchmark, out, sandbox=sandbox, samples=samples, progress=False) == {}
        holder.kill()
        holder.join()
        assert evaluate(benchmark, out, sandbox=sandbox, samples=samples, progress=False)["synthetic/pass@1"] == 0.25


def test_a_share_belongs_to_one_process_until_it_ends(tmp_path):
    ready = FORK.Event()
    with Shares(tmp_path / "lock") as shares:
        assert shares.take_all() and shares.take_first_place()
        shares.let_go()
        holder = FORK.Process(target=_hold, args=(tmp_path / "lock", ready))
        holder.start()
        ready.wait()
        assert not shares.take(3) and not shares.take_all()
        assert shares.take(2) and shares.take_first_place()
        holder.kill()
        holder.join()
        assert shares.take(3) and shares.take_all()


@pytest.mark.slow
def test_torchrun_shares_the_judging_of_a_file(tmp_path, benchmark, samples):
    command = ["-m", "wmtp.eval", f"samples={samples}", "benchmark=synthetic", "progress=false"]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for launcher, name in (([], "one"), (several, "two")):
        subprocess.run([sys.executable, *launcher, *command, f"out={tmp_path / name}"], check=True, cwd=ROOT)
    assert final_files(tmp_path / "two") == final_files(tmp_path / "one")
