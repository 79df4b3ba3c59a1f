"""Write a file in the shape of CodeContests, as large as asked, and measure what is done with it before training.

    python scripts/bench/contests.py                       a hundredth, a tenth and all of it: about 20 minutes, 6 GB
    python scripts/bench/contests.py --problems 133 1333   only these sizes

[연구 맥락] CodeContests의 train은 문제 13,328개이고, 문제마다 파이썬 정답이 130개쯤, 오답이 150개쯤이다.
    학습을 시작하기 전에 그것을 읽고, 같은 이름을 찾고, 시험 문제와 겹치는 것을 빼고, 토큰으로 바꾼다.
[동작] 크기마다 새 프로세스에서 `guard`와 `MTPDataModule.setup`을 부른다: 처음에는 빈 캐시로, 한 번 더는 찬 캐시로.
    프로그램들은 줄 틀에서 지어낸 것이고 서로 다르다. 다른 언어의 정답은 읽지 않고 버리므로 조금만 넣는다.
    한 프로세스의 CPU 초와 최대 RSS를 적는다. 지수는 앞 줄과의 비의 로그다.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TOKENIZER = Path(__file__).resolve().parents[2] / "wmtp" / "assets" / "tokenizer"
PROBLEMS, SOLUTIONS = 13_328, 150  # of the train split; right programs of each in Python 3, and as many wrong ones
LINES = (
    "{a} = int(input())",
    "{a}, {b} = map(int, input().split())",
    "{a} = list(map(int, input().split()))",
    "for {a} in range({n}, len({b})):",
    "    {a} = ({a} * {n} + {b}) % {m}",
    "    if {a}[{n}] > {b} and {b} != {n}:",
    "        {b}.append(({a} - {n}, {b} // {n}))",
    "    while {a} < {b}:  # {m}",
    "        {a} += {n}",
    "def {a}({b}, {c}):",
    "    return max({b}, key=lambda {c}: -{c}[{n}]) if {c} else {m}",
    "{a}.sort(reverse=True)",
    'print("YES" if {a}[{n}] == {b} else "NO")',
    "{c} = [[{n}] * ({a} + 1) for _ in range({b} + {n})]",
)
NAMES = "a b c n m k x y s t ans res dp cnt arr tmp left right graph total best cur idx val queue visited".split()


def program(rng: random.Random, lines: int) -> str:
    """Write one program of so many lines."""
    return "".join(
        line.format(a=a, b=b, c=c, n=rng.randrange(10), m=rng.randrange(10**9)) + "\n"
        for line in rng.choices(LINES, k=lines)
        for a, b, c in (rng.choices(NAMES, k=3),)
    )


def rows(problems: int, solutions: int, seed: int = 42) -> Iterator[str]:
    """Write the rows one at a time; a program is a stretch of one of many texts, and a number of its own."""
    rng = random.Random(seed)
    stock = [program(rng, 120).splitlines(keepends=True) for _ in range(2000)]
    words = [f"w{i}" for i in range(3000)]

    def one(number: int) -> str:
        lines, start, count = rng.choice(stock), rng.randrange(60), rng.randint(20, 60)
        return f"seed{number} = {rng.randrange(10**9)}\n" + "".join(lines[start : start + count])

    for i in range(problems):
        tests = [
            (f"{rng.randrange(10**9)} {rng.randrange(10**9)}\n" * 5, f"{rng.randrange(10**9)}\n") for _ in range(80)
        ]
        kinds = {"public_tests": tests[:2], "private_tests": tests[2:20], "generated_tests": tests[20:]}
        right, wrong = ([one(j) for j in range(solutions)] for _ in range(2))
        split = {0: "test", 1: "validation"}.get(i % 50, "train")
        if split == "test":
            asked = right[0]
        elif i % 50 == 10:  # a training problem whose solution a test problem has
            right[-1] = asked.replace("seed0", "seed1")
        row = {"name": f"{i}_A. Problem", "description": " ".join(rng.choices(words, k=220))}
        row |= {kind: {"input": [t[0] for t in some], "output": [t[1] for t in some]} for kind, some in kinds.items()}
        row["solutions"] = {"language": [3] * len(right) + [2] * len(right[:10]), "solution": right + right[:10]}
        row["incorrect_solutions"] = {
            "language": [3] * len(wrong) + [2] * len(wrong[:10]),
            "solution": wrong + wrong[:10],
        }
        yield json.dumps(row | {"source": 2, "split": split})


PREPARE = """
import json, resource, sys, time
from pathlib import Path
from wmtp.data.leakage import guard
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import CodeContestsStatement
from wmtp.data.sources import CodeContests
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.models.tokenizer import load_tokenizer
file, tokenizer = sys.argv[1:]
took, then = {}, time.process_time()
def lap(name):
    global then
    took[name], then = time.process_time() - then, time.process_time()
source = CodeContests(file)
lap("import")
source.fingerprint()
lap("fingerprint")
for problem in source.stream("train"):
    pass
lap("read")
source, leaks = guard(source, [Benchmark("codecontests", source, CodeContestsStatement())], "drop")
lap("guard")
data = MTPDataModule(source, CodeContestsStatement(), load_tokenizer(Path(tokenizer)), 4096, 2048)
data.setup()
lap("tokens")
plan = data.loader("train").plan(0)
lap("plan")
took["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
took["found"] = len(leaks), len(data.samples["train"]), len(data.dropped["train"]), len(plan)
print(json.dumps(took))
"""


def main() -> None:
    """Print a line for each size, with an empty cache and with a full one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, nargs="+", default=[PROBLEMS // 100, PROBLEMS // 10, PROBLEMS])
    parser.add_argument(
        "--solutions", type=int, default=SOLUTIONS, help="right ones of each problem; as many wrong ones"
    )
    parser.add_argument("--folder", type=Path, help="where the file is written (6 GB); else a temporary folder")
    options = parser.parse_args()
    steps = ("fingerprint", "read", "guard", "tokens", "plan")
    print(
        f"{'problems':>8} {'solutions':>9} {'MB':>6} {'cache':>6} {' '.join(f'{s:>11}' for s in steps)} {'peak MB':>8}"
    )
    last: dict[str, tuple[int, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for problems in options.problems:
            home = Path(folder) / str(problems)
            home.mkdir()
            file = home / "contests.jsonl"
            with file.open("w") as opened:
                opened.writelines(f"{row}\n" for row in rows(problems, options.solutions))
            for cache in ("empty", "full"):
                command = [sys.executable, "-c", PREPARE, str(file), str(TOKENIZER)]
                here = {**os.environ, "WMTP_CACHE": str(home / "cache")}
                done = subprocess.run(command, env=here, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                took = json.loads(done.stdout.splitlines()[-1])
                total = sum(took[step] for step in steps)
                grown = ""
                if cache in last:
                    grown = f"n^{math.log(total / last[cache][1]) / math.log(problems / last[cache][0]):.2f}"
                last[cache] = problems, total
                size = file.stat().st_size / 2**20
                seconds = " ".join(f"{took[step]:11.2f}" for step in steps)
                print(
                    f"{problems:8} {problems * options.solutions:9} {size:6.0f} {cache:>6} {seconds} "
                    f"{took['megabytes']:8} {grown} {took['found']}",
                    flush=True,
                )
            file.unlink()


if __name__ == "__main__":
    main()
