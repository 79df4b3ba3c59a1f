#!/usr/bin/env python3
"""All algorithms on the same data, seeds and measure: does it weigh the right tokens, and does that help?

    python scripts/bench/algorithms.py            baseline, rho1, critic, combined; 8 minutes on 2 idle cores
    python scripts/bench/algorithms.py seed=43,44  other seeds, a row each
    python scripts/bench/algorithms.py trainer.max_steps=50 eval.limit=50   any override of conf/train.yaml

Peer: baseline (w = 1). Each row is a whole run through the front door, its report in runs/algorithms/.
sequence AUC, 1st token AUC and in span are of the token scores on held-out programs (right, and changed in one place).
"""

import itertools
import subprocess
import sys
from pathlib import Path

ALGORITHMS = ("baseline", "rho1", "critic", "combined")
MEASURED = {  # what critic and combined bring along by themselves
    "_target_": "wmtp.critic.localisation.Localisation",
    "rewards._target_": "wmtp.critic.rewards.Tests",
}
COLUMNS = ("sequence_auc", "first_token_auc", "on_first", "within_two", "in_span")


def main(*overrides: str) -> None:
    seeds = next((o.removeprefix("seed=").split(",") for o in overrides if o.startswith("seed=")), ["42"])
    wanted = [o for o in overrides if not o.startswith("seed=")]
    rows = []
    for algo, seed in itertools.product(ALGORITHMS, seeds):
        measured = [f"+callbacks.localisation.{key}={value}" for key, value in MEASURED.items()]
        measured = measured if algo in ("baseline", "rho1") else []
        name = f"{algo}-{seed}"
        command = [sys.executable, "-m", "wmtp.train", f"algo={algo}", f"seed={seed}", f"name={name}"]
        defaults = ["runs=runs/algorithms", "eval.before=false", "eval.limit=500", "logger=csv"]
        subprocess.run([*command, *defaults, *measured, *wanted], check=True, stdout=sys.stderr)
        run = max(Path("runs/algorithms").glob(f"{name}*"), key=lambda run: run.stat().st_mtime)
        rows.append((algo, seed, numbers_of(run)))
    print(table(rows))


def numbers_of(run: Path) -> dict[str, float]:
    """Read the last value of every metric, and pass@1."""
    from wmtp.reporting.reading import read_run

    results = read_run(run)
    evaluation = results.evaluations["after"].metrics
    benchmark = next(iter(results.evaluations["after"].benchmarks))
    last = {key: points[-1][1] for key, points in results.series.items()}
    # The mixed scores of a sequence add up to 0; what combined knows of whole programs is its critic's V.
    last.setdefault("localisation/sequence_auc", last.get("critic/auc"))
    last = {key: value for key, value in last.items() if value is not None}
    return last | {f"pass{end}": evaluation[f"{benchmark}/pass@1{end}"] for end in ("", "_low", "_high")}


def table(rows: list[tuple[str, str, dict[str, float]]]) -> str:
    """Lay the rows out in Markdown."""
    heads = sorted(key for key in rows[0][2] if key.startswith("val/ce_head"))
    titles = ["algo", "seed", "pass@1 [95 %]", *(f"CE {key[-5:]}" for key in heads)]
    titles += ["sequence AUC", "1st token AUC", "on 1st", "within 2", "in span"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for algo, seed, found in rows:
        cells = [algo, seed, f"{found['pass']:.3f} [{found['pass_low']:.3f}, {found['pass_high']:.3f}]"]
        cells += [f"{found[key]:.4f}" for key in heads]
        cells += [f"{found[f'localisation/{key}']:.3f}" if f"localisation/{key}" in found else "–" for key in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
