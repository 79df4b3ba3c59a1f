"""Hold CodeContests to full batches, and to a memory that does not grow with the file."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_data import DATA, real_data
from wmtp.data.batching import StepLoader
from wmtp.data.prompts import CodeContestsStatement
from wmtp.data.sources import CodeContests
from wmtp.data.tokenization import tokenize_problems
from wmtp.models.tokenizer import load_tokenizer

TOKENIZER = Path(__file__).parents[3] / "wmtp" / "assets" / "tokenizer"


@real_data
def test_codecontests_batches_are_at_least_95_percent_real_tokens():
    problems = CodeContests(f"{DATA}/codecontests").problems("train")
    samples, dropped = tokenize_problems(problems, CodeContestsStatement(), load_tokenizer(TOKENIZER), max_length=2048)
    assert len(samples) + len(dropped) == len(problems)
    batches = list(StepLoader(samples, token_budget=4096, pad_token_id=0))
    real = sum(sum(batch["lengths"]) for batch in batches)
    assert real == sum(samples.lengths)
    assert real / sum(batch["input_ids_BT"].numel() for batch in batches) >= 0.95


def write_contests(path: Path, megabytes: int, largest_row: int = 1) -> int:
    """Write rows of about 150 kB in the Hugging Face shape until the file is so large; one row is larger."""
    rng = random.Random(42)
    program = "n = int(input())\nprint(sum(int(x) ** 2 for x in input().split()) % n)  # {}\n"
    programs = [program.format(rng.random()) * 8 for _ in range(160)]
    tests = [" ".join(str(rng.randint(0, 10**9)) for _ in range(200)) + "\n" for _ in range(20)]
    row = {
        "name": "NAME",
        "description": "DESCRIPTION " + "You are given a number n and a list. Print what is asked for. " * 10,
        "public_tests": {"input": tests[:2], "output": ["1\n", "2\n"]},
        "private_tests": {"input": tests[2:6], "output": ["1\n"] * 4},
        "generated_tests": {"input": tests[6:], "output": ["1\n"] * 14},
        "solutions": {"language": [3, 2, 1, 4] * 20, "solution": programs[:80]},
        "incorrect_solutions": {"language": [3, 2, 1, 4] * 20, "solution": programs[80:]},
    }
    template = json.dumps(row)
    rows = written = 0
    with path.open("w") as file:
        while written < megabytes * 2**20:
            line = template.replace("NAME", f"{rows}_A", 1).replace("DESCRIPTION", f"{rng.random()} {rng.random()}", 1)
            if rows == 3:
                line = line.replace('"output": ["1', '"output": ["' + "1" * (largest_row * 2**20), 1)
            written += file.write(line + "\n")
            rows += 1
    return rows


READ = """
import resource, sys
from wmtp.data.leakage import guard
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import CodeContestsStatement
from wmtp.data.sources import CodeContests
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.models.tokenizer import load_tokenizer
file, tokenizer = sys.argv[1:]
source = CodeContests(file)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
source, _ = guard(source, [Benchmark("codecontests", source, CodeContestsStatement())], "drop")
data = MTPDataModule(source, CodeContestsStatement(), load_tokenizer(tokenizer), 4096, 2048)
data.setup()
counts = sum(map(len, data.samples.values())) + sum(map(len, data.dropped.values()))
print(counts, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("megabytes", "largest_row"), [(20, 10), (2048, 100)], ids=["20MB", "2GB"])
def test_reading_guarding_and_tokenizing_take_the_memory_of_a_row_not_of_the_file(tmp_path, megabytes, largest_row):
    file = tmp_path / "train.jsonl"
    rows = write_contests(file, megabytes, largest_row)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ, file, TOKENIZER], capture_output=True, text=True, check=True, cwd=tmp_path
        )
    finally:
        file.unlink()
    read, before, peak = map(int, done.stdout.split())
    print(f"{rows} rows: {before} MB before, {peak} MB at most")
    assert read == rows
    assert peak < 1000
