"""Write report.md and report.html beside the results of one evaluation.

[연구 맥락] 숫자 하나만으로는 무엇을 고쳐야 할지 모른다. 문제마다 무엇이 나왔는지, 무엇이 자주 틀리는지,
    틀린 프로그램이 무엇을 내놓아야 했는지를 한 쪽에서 본다.
[동작] 평가 폴더의 파일을 읽는다. 기대하는 출력만 문제에서 가져온다: 시험 하나, 또는 입력과 출력 한 쌍.
    참조 정답은 어디에도 쓰지 않는다.
[디버깅] 생성된 프로그램은 적대적이다. 모든 값은 `report.render`가 이스케이프한다.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmtp.reporting.reading import LEFT_OUT, Evaluation, read_evaluation, scored
from wmtp.reporting.report import VERDICTS, Tile, cut, failures_by_kind, render, write
from wmtp.reporting.texts import Texts

if TYPE_CHECKING:
    from wmtp.data.problem import Problem

_SHOWN = {False: 6, True: 2}  # samples side by side: failing ones, passing ones
_SLOWEST = 5


def write_evaluation_report(folder: Path, problems: Iterable["Problem"], t: Texts) -> Path:
    """Write the report of one evaluation.

    Args:
        folder: 평가의 결과 폴더 (metrics.json, results.jsonl, samples.jsonl, timings.jsonl, speed.json).
    """
    missing: list[str] = []
    evaluation = read_evaluation(folder, missing, t)
    content = collect(folder.resolve().name, evaluation, {problem.task_id: problem for problem in problems}, t)
    for form in ("md", "html"):
        write(folder / f"report.{form}", render(f"evaluation.{form}.j2", content | {"missing": missing}, {}))
    return folder / "report.md"


def collect(title: str, evaluation: Evaluation, problems: dict[str, "Problem"], t: Texts) -> dict[str, Any]:
    """Work out everything that both templates show."""
    names = [name.removesuffix("/problems") for name in evaluation.metrics if name.endswith("/problems")]
    split = {key: key.split("/", 1) for key in evaluation.metrics}
    metrics = {name: evaluation.metrics[key] for key, (benchmark, name) in split.items() if benchmark in names}
    base = {name: evaluation.metrics[key] for key, (benchmark, name) in split.items() if benchmark not in names}
    known = ("prompt", "chat_template", "system", "split", "shots", "n", "temperature", "top_p", "seed", "extract")
    known += ("isolation",)
    facts = [(t(name), metrics[name]) for name in known if metrics.get(name) is not None]
    for name, said in (("fenced", "answers in a Markdown fence"), ("thought", "answers after </think>")):
        if metrics.get(name) or (name == "fenced" and metrics.get("extract", "none") != "none"):
            facts.append((t(said), f"{metrics.get(name, 0)} / {metrics['samples']}"))
    counts, on = evaluation.verdicts, [scored(evaluation.metrics, name, t) for name in names]
    return {
        "t": t,
        "title": title,
        "facts": facts,
        "tiles": tiles(metrics, t, "; ".join(filter(None, on)), base),
        "verdicts": [(name, counts[name], counts[name] / max(1, counts.total())) for name in VERDICTS if counts[name]],
        "failures": failures_by_kind(evaluation),
        "pairs": side_by_side(evaluation, problems, t),
        "timing": timing(evaluation, metrics, t),
        "problems": by_problem(evaluation, metrics, t),
    }


def tiles(metrics: dict[str, Any], t: Texts, on: str, base: dict[str, Any]) -> list[Tile]:
    """Choose the headline numbers; `base` has those that count a part of the tests only."""
    found = []
    for said, numbers in (("pass@{k}", metrics), ("pass@{k} of the base inputs", base)):
        for name, value in numbers.items():
            if name.startswith("pass@") and f"{name}_low" in numbers:
                ends = {end: 100 * numbers[f"{name}_{end}"] for end in ("low", "high")}
                note = "; ".join(filter(None, (t("95 % interval {low:.1f} to {high:.1f}", **ends), on)))
                found.append(Tile.of(t, said, f"{100 * value:.1f} %", note, k=name.removeprefix("pass@")))
    samples = t("{count} samples", count=f"{metrics.get('samples', 0):,}")
    said = {**LEFT_OUT, "inside": "{count} problems judged in the program's process"}
    samples = "; ".join([samples, *(t(said[key], count=len(metrics[key])) for key in said if metrics.get(key))])
    return [*found, Tile.of(t, "Problems", f"{metrics.get('problems', 0):,}", samples)]


def side_by_side(evaluation: Evaluation, problems: dict[str, "Problem"], t: Texts) -> list[dict[str, Any]]:
    """Choose a few samples, failures of different problems first, and say what was expected of them."""
    chosen: dict[bool, dict[str, dict[str, Any]]] = {False: {}, True: {}}
    for result in evaluation.results:
        passed = result.get("status") == "passed"
        task_id = str(result.get("task_id"))
        if task_id in problems and task_id not in chosen[passed] and len(chosen[passed]) < _SHOWN[passed]:
            chosen[passed][task_id] = {
                "task_id": task_id,
                "sample": result.get("sample", 0),
                "status": str(result.get("status")),
                "message": str(result.get("message") or ""),
                "completion": cut(evaluation.completions.get((task_id, result.get("sample", 0))), t),
                "asked": cut(problems[task_id].text, t),
                "expected": cut(expected(problems[task_id], t, str(result.get("message") or "")), t),
            }
    return [*chosen[False].values(), *chosen[True].values()]


def expected(problem: "Problem", t: Texts, message: str = "") -> str:
    """Show one thing that a right program does: the test that failed, or an input with its output."""
    if problem.inputs:
        return problem.tests[0] if problem.tests else ""  # HumanEval shows its examples in the prompt
    if problem.tests:
        failed = re.search(r"test (\d+) of \d+", message)
        return problem.tests[min(int(failed[1]), len(problem.tests)) - 1 if failed else 0]
    given, wanted = problem.pairs[0] if problem.pairs else ("", "")
    return f"{t('input')}:\n{given.rstrip()}\n\n{t('expected output')}:\n{wanted.rstrip()}"


def timing(evaluation: Evaluation, metrics: dict[str, Any], t: Texts) -> dict[str, Any]:
    """Sum up how long generating and judging took, and which programs took longest."""
    judged = sorted(row.get("seconds", 0.0) for row in evaluation.timings)
    longest: dict[str, float] = {}
    for row in evaluation.timings:
        task_id = str(row.get("task_id"))
        longest[task_id] = max(row.get("seconds", 0.0), longest.get(task_id, 0.0))
    rows = []
    seconds = lambda value: t("{seconds:,.1f} s", seconds=value)  # noqa: E731
    if metrics.get("generation_seconds"):
        tokens, spent = metrics["tokens"], metrics["generation_seconds"]
        said = t("{tokens:,} tokens, {rate:,.0f} a second", tokens=tokens, rate=tokens / spent)
        rows.append((t("generating"), seconds(spent), said))
    heads = [k for k in range(64) if f"acceptance/head{k}" in metrics]
    if heads:
        rates = (t("head {k}: {rate:.2f}", k=k, rate=metrics[f"acceptance/head{k}"]) for k in heads)
        rows.append((t("drafts accepted"), "", ", ".join(rates)))
    if judged:
        median = t("median {seconds:.3f} s a program", seconds=judged[len(judged) // 2])
        rows.append((t("judging"), seconds(sum(judged)), median))
    slowest = sorted(longest.items(), key=lambda item: -item[1])[:_SLOWEST]
    return {"rows": rows, "slowest": [(task_id, t("{seconds:.3f} s", seconds=value)) for task_id, value in slowest]}


def by_problem(evaluation: Evaluation, metrics: dict[str, Any], t: Texts) -> list[tuple[str, int, int, str]]:
    """List every problem: (task, samples, passed, the other verdicts)."""
    verdicts: dict[str, Counter[str]] = {}
    for result in evaluation.results:
        verdicts.setdefault(str(result.get("task_id")), Counter())[str(result.get("status"))] += 1
    rows = []
    for task_id, counts in verdicts.items():
        others = [t(name) + (f" {count}" if count > 1 else "") for name, count in counts.items() if name != "passed"]
        rows.append((task_id, counts.total(), counts["passed"], ", ".join(others)))
    return [*rows, *((task_id, 0, 0, t("missing")) for task_id in metrics.get("missing", ()))]
