#!/usr/bin/env python3
"""Simulated studies with a known answer: how often does `wmtp.compare` see what is not there, or miss what is?

    python scripts/bench/compare.py              about a minute on one core
    python scripts/bench/compare.py 5 1000 0.03  seeds, problems, and how much a seed moves each arm

Peers: the two-level percentile bootstrap over seeds and problems (the first 100 studies), and problems alone, which is
what one run against one run amounts to. A seed moves pass@1 of each arm by itself (normal, 1 point unless said: the
differences of docs/benchmarks.md vary by no more than their verdicts would anyway), and the gain differs from problem
to problem (by up to 8 points).
"""

import sys
from typing import NamedTuple

import numpy as np

from wmtp.comparison.statistics import bootstrap_interval, estimate

#   N studies, S seeds, P problems


class Rates(NamedTuple):
    """Hold shares of the studies."""

    found: float
    covered: float
    bootstrap_covered: float
    problems_alone_covered: float


def simulate(studies: int, seeds: int, problems: int, gain: float, by_seed: float, paired: bool = True, seed: int = 42):
    """Draw the tables that `estimate` takes: one of paired differences, or two of arms that share no seed."""
    drawn = np.random.default_rng(seed)
    difficulty = drawn.uniform(0.15, 0.6, (studies, 1, problems))
    own_gain = gain + drawn.uniform(-0.08, 0.08, (studies, 1, problems))
    base = drawn.normal(0, 0.02, (2, studies, seeds, 1))  # a base model of each seed, which both arms start from
    arms = []
    for arm in (1, 0):
        share = difficulty + arm * own_gain + base[0 if paired else arm] + drawn.normal(0, by_seed, (studies, seeds, 1))
        arms.append((drawn.random((studies, seeds, problems)) < share).astype(np.float32))
    return [arms[0] - arms[1]] if paired else [arms[0], -arms[1]]


def rates(studies: int, seeds: int, problems: int, gain: float, by_seed: float, paired: bool = True) -> Rates:
    """Count how many studies find a difference, and how many intervals hold the true one."""
    parts = simulate(studies, seeds, problems, gain, by_seed, paired)
    found = estimate(parts)
    low, high = found.interval()
    few = min(studies, 100)
    ends = [bootstrap_interval([part[i] for part in parts], resamples=500) for i in range(few)]
    alone = estimate([sum(part.mean(-2, keepdims=True) for part in parts)]).interval()
    return Rates(
        float((found.p() < 0.05).mean()),
        float(((low <= gain) & (gain <= high)).mean()),
        sum(a <= gain <= b for a, b in ends) / few,
        float(((alone[0] <= gain) & (gain <= alone[1])).mean()),
    )


def main(seeds: int | None = None, problems: int = 1000, by_seed: float = 0.01) -> None:
    print(
        "| seeds | problems | a seed moves | pairs | found, no gain | found, 5 points | covers | bootstrap | problems |"
    )
    print("|---:|---:|---:|---|---:|---:|---:|---:|---:|")
    plans = [(S, problems, by_seed, True) for S in ([seeds] if seeds else [2, 3, 5, 10])]
    if not seeds:
        plans += [
            (5, problems, 0.0, True),
            (5, problems, 0.015, True),
            (5, problems, 0.03, True),
            (5, 200, by_seed, True),
        ]
        plans += [(5, problems, by_seed, False)]
    for S, P, moved, paired in plans:
        none, five = rates(1000, S, P, 0.0, moved, paired), rates(1000, S, P, 0.05, moved, paired)
        covers = (none.covered + five.covered) / 2
        cells = [S, P, f"{100 * moved:.1f} points", "yes" if paired else "no"]
        shares = (none.found, five.found, covers, five.bootstrap_covered, five.problems_alone_covered)
        print("| " + " | ".join(map(str, [*cells, *(f"{share:.1%}" for share in shares)])) + " |", flush=True)


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, int, float), sys.argv[1:], strict=False)))
