"""Make run directories as small as a comparison can read, with a known difference between them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ALGO = {
    "baseline": "wmtp.algos.baseline.Baseline",
    "rho1": "wmtp.algos.rho1.Rho1",
    "critic": "wmtp.algos.critic.Critic",
}


def make_run(
    root: Path,
    algo: str,
    seed: int,
    share: float = 0.4,
    problems: int = 40,
    name: str = "",
    lang: str = "en",
    **more: Any,
) -> Path:
    """Write what a run leaves, its pass@1 near a share; `more` are dotted settings with `__` for the dots."""
    run = root / (name or f"{algo}-{seed}")
    after = run / "eval" / "after" / "synthetic"
    after.mkdir(parents=True)
    config = {
        "algo": {"_target_": ALGO[algo]}, "model": {"heads": 4}, "data": {"noise": 0.5, "module": {"seed": seed}},
        "trainer": {"max_steps": 300}, "seed": seed, "name": run.name, "run_dir": str(run), "lang": lang,
        "callbacks": {"histogram": {"run_dir": str(run)}},
        "made_of": {"code": {"version": "1", "commit": "abc"}, "data": f"data{seed}", "model": "m",
                    "benchmarks": {"synthetic": "b"}},
    }  # fmt: skip
    if algo != "baseline":
        config["algo"]["weighting"] = {"lam": 1.0, "control": "none"}
    for key, value in more.items():
        node = config
        *above, last = key.split("__")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    drawn = np.random.default_rng([seed, *map(ord, run.name)])
    # Hard and easy problems are the same in every run; the noise is each run's own.
    solved = (np.arange(problems) + 0.5) / problems + drawn.normal(0, 0.15, problems) < share
    rows = [{"task_id": f"synthetic/test/{i}", "sample": 0, "status": "passed" if s else "wrong", "message": ""}
            for i, s in enumerate(solved)]  # fmt: skip
    (after / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (after / "metrics.json").write_text(
        json.dumps({"synthetic/pass@1": float(solved.mean()), "synthetic/acceptance/head1": 0.9})
    )
    lines = ["step,val/ce_head0,speed/target_tokens_per_second"]
    lines += [f"{step},{0.5 - share + 10 / step + drawn.normal(0, 0.01):.4f},{2000 + seed}" for step in (99, 199, 299)]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run
