"""Read out of a run what can be compared: pass@k problem by problem, and numbers that a run has one of.

[동작] 학습 뒤의 평가(eval/after)와 나중에 따로 한 평가(eval/<이름>)를 읽는다. 학습 전의 것은 조건을 말하지 않는다.
    없는 것은 없는 대로 둔다: baseline에는 가중치의 통계가 없다.
"""

import re
from collections import defaultdict
from pathlib import Path
from statistics import median

from wmtp.comparison.arms import Run
from wmtp.maths.pass_at_k import pass_at_k
from wmtp.reporting.reading import read_evaluation

# What a run logs of its errors on the tokens that matter (the share of them that it gets wrong).
IMPORTANT_ERRORS = "val/important_error"
# Of these series the last value is what a run came to.
_ENDS = re.compile(rf"val/ce_head\d+|{IMPORTANT_ERRORS}|tokens/.+|weight/.+|localisation/.+")
_PEAKS = re.compile(r"memory/.+")
_SPEED = "speed/target_tokens_per_second"

Scores = dict[str, dict[str, float]]  # pass@k of a benchmark → problem → value


def scores_of(run: Run) -> Scores:
    """Estimate pass@k of every problem, for the k that the evaluation was asked for."""
    found: Scores = {}
    for name, folder in _evaluations(run.folder):
        evaluation = read_evaluation(folder, run.results.missing, run.results.texts)
        passed: dict[str, list[bool]] = defaultdict(list)
        for row in evaluation.results:
            passed[str(row.get("task_id"))].append(row.get("status") == "passed")
        asked = {int(match[1]) for key in evaluation.metrics if (match := re.search(r"/pass@(\d+)$", key))}
        for k in sorted(asked):
            if passed and all(len(samples) >= k for samples in passed.values()):
                found[f"{name}/pass@{k}"] = {
                    task: pass_at_k(len(samples), sum(samples), k) for task, samples in sorted(passed.items())
                }
    return found


def numbers_of(run: Run) -> dict[str, float]:
    """Collect the numbers that a run has one of: CE of each head, acceptance, speed, memory, weights."""
    series = run.results.series
    found = {key: points[-1][1] for key, points in series.items() if points and _ENDS.fullmatch(key)}
    if points := series.get(_SPEED):
        found[_SPEED] = median(value for _, value in points)
    found |= {key: max(value for _, value in points) for key, points in series.items() if _PEAKS.fullmatch(key)}
    for name, folder in _evaluations(run.folder):
        metrics = read_evaluation(folder, [], run.results.texts).metrics
        found |= {f"{name}/{key.split('/', 1)[1]}": value for key, value in metrics.items() if "/acceptance/" in key}
    return found


def _evaluations(run: Path) -> list[tuple[str, Path]]:
    """Find the evaluations of a run that is trained: what to call each, and where it lies."""
    folders = sorted(file.parent for file in (run / "eval").rglob("metrics.json"))
    parts = [(folder.relative_to(run / "eval").parts, folder) for folder in folders]
    return [("/".join(names[names[0] == "after" :]), folder) for names, folder in parts if names[0] != "before"]
