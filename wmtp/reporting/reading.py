"""Read what a run left in its directory, and say what is not there.

[연구 맥락] 보고서는 실행 폴더의 파일만 본다: 학습이 끝난 뒤에도, 다른 컴퓨터에서도 다시 만들 수 있다.
[동작] 없는 파일은 오류가 아니라 한 줄의 알림이다 (baseline에는 가중치가 없고, 평가는 끌 수 있다).
    끊긴 실행의 마지막 줄처럼 읽을 수 없는 줄은 건너뛰고 몇 줄인지 적는다.
"""

import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from wmtp import ranges
from wmtp.errors import first_line
from wmtp.maths.pass_at_k import paired_difference
from wmtp.reporting.texts import Texts

STAGES = ("before", "after")


@dataclass
class Evaluation:
    """Hold one evaluation: its metrics, verdicts and completions.

    Attributes:
        metrics: `<benchmark>/pass@1` 같은 숫자들.
        results: 표본마다 한 줄: task_id, sample, status, message.
        completions: (task_id, sample) → 생성한 글. 문제마다 처음 통과한 것과 처음 통과하지 못한 것만.
        timings: 표본마다 한 줄: task_id, sample, seconds (채점).
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    completions: dict[tuple[str, int], str] = field(default_factory=dict)
    timings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdicts(self) -> Counter[str]:
        """Count the samples by verdict."""
        return Counter(str(result.get("status", "unknown")) for result in self.results)

    @property
    def benchmarks(self) -> list[str]:
        """Name the benchmarks that have a pass@1."""
        return [key.removesuffix("/pass@1") for key in self.metrics if key.endswith("/pass@1")]


@dataclass
class RunResults:
    """Hold everything that a report shows.

    Attributes:
        config: 정리된 설정. 비밀은 가려져 있다.
        series: 지표 이름 → [(스텝, 값)], 스텝 순서.
        histogram: `weight_histogram.json`, 없으면 None.
        token_weights: `token_weights.json`의 표본들.
        token_ranking: `token_ranking.json`, 없으면 빈 dict.
        token_errors: `token_errors.json`: 토큰의 종류마다 학습 전과 후의 CE와 오류율. 없으면 빈 dict.
        evaluations: "before", "after" → Evaluation.
        left_out: `left_out.json`: 학습하지 않은 문제의 이름과 까닭. 없으면 빈 dict.
        missing: 없거나 읽지 못한 것, 사람이 읽을 문장.
        attempts: `attempts.json`: 실패와 그때마다 고친 것. 없으면 빈 list.
        critic: `critic.json`: 1단계의 곡선과 배우지 않은 문제에서 잰 것. 없으면 빈 dict.
        failure: `failure.json`: 실행을 끝낸 실패. 없으면 빈 dict.
        texts: 보고서의 언어 (설정의 `lang`).
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    histogram: dict[str, Any] | None = None
    token_weights: list[dict[str, Any]] = field(default_factory=list)
    token_ranking: dict[str, Any] = field(default_factory=dict)
    token_errors: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    failure: dict[str, Any] = field(default_factory=dict)
    critic: dict[str, Any] = field(default_factory=dict)
    texts: Texts = field(default_factory=Texts)

    def ends(self, key: str) -> list[float]:
        """Give the first and the last value of a metric: one where there is no more, none where it was not logged."""
        points = self.series.get(key, [])
        return [value for _, value in (points if len(points) < 2 else (points[0], points[-1]))]


def read_run(run_dir: Path) -> RunResults:
    """Read a run directory."""
    from wmtp.secrets import mask_secrets

    run = RunResults(run_dir.resolve().name)
    config = _parsed(run_dir / "config.yaml", yaml.safe_load)
    if isinstance(config, dict):
        run.config = mask_secrets(config)
        lang = config.get("lang")
        run.texts = Texts(lang if lang in ranges.LANGUAGES else "en")
    read = partial(_read, missing=run.missing, t=run.texts)
    read(run_dir / "config.yaml", yaml.safe_load, dict, "the resolved configuration")
    run.series = read(run_dir / "metrics.csv", read_series, dict, "curves (no training was logged)") or {}
    weights = "token weights (this algorithm has none, or their callback is off)"
    run.histogram = read(run_dir / "weight_histogram.json", json.loads, dict, weights)
    kept = read(run_dir / "token_weights.json", json.loads, dict, weights) or {}
    run.token_weights = kept.get("samples", [])
    for name in ("token_ranking", "token_errors", "left_out", "attempts", "critic", "failure"):  # nothing is missing
        if (file := run_dir / f"{name}.json").exists():
            kind = type(getattr(run, name))
            setattr(run, name, read(file, json.loads, kind, name) or kind())
    run.attempts = [attempt for attempt in run.attempts if isinstance(attempt, dict)]
    for stage in STAGES:
        folder = run_dir / "eval" / stage
        files = sorted(folder.rglob("metrics.json"))
        if not files:
            run.missing.append(run.texts(_NO_EVALUATION[stage]))
        evaluation = read_evaluation(folder, run.missing, run.texts)
        if evaluation.metrics or evaluation.results:
            run.evaluations[stage] = evaluation
    return run


def paired_gain(run: RunResults) -> tuple[float, float, float, int] | None:
    """Compare after with before on the same problems: (difference, low, high, problems)."""
    if set(run.evaluations) != set(STAGES):
        return None
    passed: dict[str, dict[str, list[float]]] = {}
    for stage in STAGES:
        for result in run.evaluations[stage].results:
            task = passed.setdefault(str(result.get("task_id")), {})
            task.setdefault(stage, []).append(float(result.get("status") == "passed"))
    both = [task for _, task in sorted(passed.items()) if len(task) == 2]
    if not both:
        return None
    mean = {stage: [sum(task[stage]) / len(task[stage]) for task in both] for stage in STAGES}
    return (*paired_difference(mean["after"], mean["before"]), len(both))


_NO_EVALUATION = {
    "before": "eval/before: no evaluation before training (it is off, or did not finish)",
    "after": "eval/after: no evaluation after training (it is off, or did not finish)",
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested config into dotted keys; a curve (values by numbers) is one value.

    Example:
        >>> flatten({"algo": {"weighting": {"lam": {0: 0, 0.5: 1}}, "heads": [1, 2]}})
        {'algo.weighting.lam': {0: 0, 0.5: 1}, 'algo.heads': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value and all(isinstance(inner, str) for inner in value)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def read_evaluation(folder: Path, missing: list[str], t: Texts) -> Evaluation:
    """Read the evaluations in a folder and below it as one."""
    evaluation = Evaluation()
    for name in ("metrics.json", "speed.json"):
        for path in sorted(folder.rglob(name)):
            evaluation.metrics |= _read(path, json.loads, dict, "an evaluation", missing, t) or {}
    shown: dict[tuple[str, bool], tuple[str, int]] = {}  # of each problem one that passed and one that did not
    for path in sorted(folder.rglob("results.jsonl")):
        for row in _read_lines(path, missing, t):
            key = str(row.get("task_id")), row.get("sample", 0)
            shown.setdefault((key[0], row.get("status") == "passed"), key)
            row.pop("program", None)  # with 200 samples of each problem, texts would fill the memory
            evaluation.results.append(row)
    for path in sorted(folder.rglob("timings.jsonl")):
        evaluation.timings += _read_lines(path, missing, t)
    keys = set(shown.values())
    for path in sorted(folder.rglob("samples.jsonl")):
        for line in _read_lines(path, missing, t):
            if (key := (str(line.get("task_id")), line.get("sample", 0))) in keys:
                evaluation.completions[key] = str(line.get("completion"))
    return evaluation


def read_series(text: str) -> dict[str, list[tuple[int, float]]]:
    """Read metrics.csv into one series a metric; where a step stands twice, the later line is right.

    Example:
        >>> read_series("step,loss,val\\n1,2.0,\\n2,1.5,\\n2,,3.0\\n2,1.0,\\n")
        {'loss': [(1, 2.0), (2, 1.0)], 'val': [(2, 3.0)]}
    """
    points: dict[str, dict[int, float]] = defaultdict(dict)
    reader = csv.DictReader(text.splitlines())
    if "step" not in (reader.fieldnames or ["step"]):
        raise ValueError("no column of steps")
    for row in reader:
        for key, value in row.items():
            if key and key != "step" and isinstance(value, str) and value and row["step"]:
                number = float(value)
                if math.isfinite(number):
                    points[key][int(row["step"])] = number
    return {key: sorted(values.items()) for key, values in points.items()}


def _parsed(path: Path, parse: Any) -> Any:
    """Parse a file that may not be there, or not be what it should."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError) as error:
        return error


def _read(path: Path, parse: Any, kind: type, what: str, missing: list[str], t: Texts) -> Any:
    """Parse a file into a value of that kind; note in `missing` that it is not there, or cannot be read."""
    if not path.exists():
        missing.append(t("{name}: no {what}", name=path.name, what=t(what)))
        return None
    found = _parsed(path, parse)
    if isinstance(found, kind):
        return found
    why = first_line(found) if isinstance(found, Exception) else type(found).__name__
    missing.append(t("{name}: cannot be read ({why})", name=path.name, why=why))
    return None


def _read_lines(path: Path, missing: list[str], t: Texts) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines; note in `missing` how many are none."""
    bad = 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in filter(str.strip, lines):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                bad += 1
    if bad:
        name = f"{path.parent.name}/{path.name}"
        missing.append(t("{name}: {count} unreadable line(s), left out", name=name, count=bad))


def scored(metrics: Mapping[str, Any], name: str, t: Texts) -> str:
    """Say on how many of a benchmark's problems its pass@k stands, where it is not all of them."""
    missing, unjudgeable = (len(metrics.get(f"{name}/{what}") or ()) for what in ("missing", "unjudgeable"))
    if not missing + unjudgeable:
        return ""
    problems = metrics[f"{name}/problems"]
    return t("{scored} of {problems} problems scored", scored=problems - missing, problems=problems + unjudgeable)


# What an evaluation left out, or judged elsewhere, by the name of its list in metrics.json.
LEFT_OUT = {
    "missing": "{count} problems without a sample, not counted",
    "unjudgeable": "{count} problems whose own reference fails, not counted",
    "too_long": "{count} prompts too long for the model, counted",
    "not_judged": "{count} problems whose checker or tests failed on a sample, counted as not passed",
}
