"""Measure which share of one-place mutants fails the tests, by kind of mutation.

[연구 맥락] 시험을 통과하는 돌연변이는 critic의 재료가 되지 못하고, 다시 뽑느라 시간만 든다 (wmtp/rewards).
[동작] 통과하는 정답마다 돌연변이를 하나씩 만들어 샌드박스에서 실행한다.

    python scripts/bench/mutants.py DATA_DIR mbpp          974문제, 2코어에서 약 25초
    python scripts/bench/mutants.py DATA_DIR humaneval
    python scripts/bench/mutants.py DATA_DIR codecontests  약 5분
    python scripts/bench/mutants.py DATA_DIR synthetic     시험 문제 2000개
"""

import argparse
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

from wmtp.data.mutation import edits
from wmtp.data.problem import Problem, Source
from wmtp.data.sources import CodeContests, HumanEval, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.evaluation.benchmarks import program_of
from wmtp.evaluation.sandbox import Limits, Sandbox

LIMITS = Limits(cpu_seconds=8.0)


def sources(data: Path) -> dict[str, tuple[Source, str]]:
    """Name the data sets and the split of each to mutate."""
    return {
        "mbpp": (Mbpp(data / "mbpp"), "all"),
        "humaneval": (HumanEval(data / "humaneval"), "test"),
        "codecontests": (CodeContests(data / "codecontests"), "all"),
        "synthetic": (Synthetic(test_size=2000), "test"),
    }


def kind_of(problem: Problem, mutant: str) -> str:
    """Say by which kind of mutation a mutant was made."""
    right = problem.solutions[0]
    kinds = (edit.kind for edit in edits(right) if right[: edit.start] + edit.text + right[edit.end :] == mutant)
    return next(kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder with mbpp/, humaneval/ and codecontests/")
    parser.add_argument("name", choices=("mbpp", "humaneval", "codecontests", "synthetic"))
    arguments = parser.parse_args()
    source, split = sources(arguments.data)[arguments.name]
    problems = [problem for problem in source.stream(split) if problem.solutions]
    with Sandbox() as sandbox:
        verdicts = sandbox.judge(program_of(problem, problem.solutions[0], LIMITS) for problem in problems)
        right = [problems[n] for n in sorted(n for n, verdict in verdicts if verdict.passed)]
        started = time.perf_counter()
        drawn = [(problem, source.mutate(problem, random.Random(f"42/{problem.task_id}"))) for problem in right]
        mutating = time.perf_counter() - started
        made = [(problem, mutation[0]) for problem, mutation in drawn if mutation]
        started = time.perf_counter()
        statuses: dict[str, Counter] = defaultdict(Counter)
        for n, verdict in sandbox.judge(program_of(problem, mutant, LIMITS) for problem, mutant in made):
            kind = "grammar" if isinstance(source, Synthetic) else kind_of(*made[n])
            statuses[kind][verdict.status] += 1
        judging = time.perf_counter() - started
    for kind, counts in [*sorted(statuses.items()), ("all", sum(statuses.values(), Counter()))]:
        total = counts.total()
        print(f"{kind:12}{total:6} mutants, {1 - counts['passed'] / total:6.1%} fail  {dict(counts.most_common())}")
    print(
        f"{len(problems)} problems, {len(right)} whose solution passes, {len(made)} with a mutant; "
        f"{mutating * 1000 / max(1, len(right)):.2f} ms to make one, {judging:.0f} s to judge all"
    )


if __name__ == "__main__":
    main()
