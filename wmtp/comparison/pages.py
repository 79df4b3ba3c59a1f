"""Write a comparison down: compare.json, compare.md, compare.html with its plots, and a table for the screen.

[동작] 네 가지 모두 같은 `Study`에서 나온다. JSON의 수는 그대로이고 (몫은 0에서 1), 나머지는 반올림한다.
    같지 않았던 것이 숫자보다 먼저 온다. 나쁜 결과도 좋은 결과와 같은 표에, 같은 모양으로 나온다.
"""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wmtp.comparison import drawings
from wmtp.comparison.fairness import unequal
from wmtp.comparison.findings import FALL, GAIN, Comparison, Goal, Study
from wmtp.reporting import plots
from wmtp.reporting.report import render, write
from wmtp.reporting.screen import columns
from wmtp.reporting.texts import Texts

_GOALS = {
    "gain": "pass@1 at least {points:.0f} points above the baseline",
    "important": "errors on important tokens down by {percent:.0f} % or more",
    "sum": "several heads and weights together gain more than each alone, summed",
}


def write_comparison(found: Study, out: Path, t: Texts) -> Path:
    """Write compare.json, compare.md, compare.html and compare/*.svg into a folder; return the page."""
    svgs = drawings.draw_all(found, t)
    (out / "report").mkdir(parents=True, exist_ok=True)
    for name, svg in svgs.items():
        write(out / "report" / f"{name}.svg", plots.standalone(svg))
    content = collect(found, t)
    write(out / "compare.json", json.dumps(as_json(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    for form in ("md", "html"):
        write(out / f"compare.{form}", render(f"comparison.{form}.j2", content, svgs))
    return out / "compare.html"


def as_json(found: Study) -> dict[str, Any]:
    """Give every number as plain values; what is not known is null."""
    means = {}
    for measure in [*found.scores, *found.numbers]:
        for arm in found.arms:
            if (mean := found.mean(measure, arm.name)) is not None:
                low, high = mean.interval()
                seeds = found.seeds(measure, arm.name)
                means.setdefault(measure, {})[arm.name] = {
                    "value": float(mean.value), "low": float(low), "high": float(high), "over": mean.over,
                    "by_seed": {seed: float(found.mean_of_seed(measure, arm.name, seed)) for seed in seeds},
                }  # fmt: skip
    return _plain({
        "arms": [
            {"name": arm.name, "settings": arm.settings, "against": found.against.get(arm.name),
             "runs": {seed: [str(run.folder) for run in runs] for seed, runs in arm.runs.items()}}
            for arm in found.arms
        ],
        "unequal": [text.format(**values) for text, values in unequal(found)],
        "goals": [asdict(goal) for goal in found.goals],
        "comparisons": [asdict(one) for one in found.comparisons],
        "means": means,
    })  # fmt: skip


def _plain(value: Any) -> Any:
    """Turn what JSON has no word for (NaN, infinity) into null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def collect(found: Study, t: Texts) -> dict[str, Any]:
    """Work out everything that both templates show."""
    keys = list(found.arms[0].settings)
    main = [one for one in found.comparisons if one.measure == found.main_measure]
    rest = [one for one in found.comparisons if one.measure != found.main_measure and not _is_detail(one.measure)]
    details = [measure for measure in found.numbers if _is_detail(measure)]
    return {
        "t": t,
        "title": t("{runs} runs, {arms} arms", runs=len(found.runs), arms=len(found.arms)),
        "keys": keys,
        "arms": [
            (arm.name, [_value(arm.settings[key]) for key in keys], ", ".join(map(str, arm.runs)),
             found.against.get(arm.name, "")) for arm in found.arms
        ],
        "unequal": [t(text, **values) for text, values in unequal(found)],
        "goals": [_goal_row(goal, t) for goal in found.goals],
        "main_measure": found.main_measure or "",
        "differences": [_difference_row(one, t) for one in main],
        "others": [_difference_row(one, t) for one in rest],
        "measures": _means_table(found, [*found.scores, *(name for name in found.numbers if name not in details)]),
        "details": _means_table(found, details),
        "curves": bool(drawings.curves_of(found)),
        "left_out_curves": max(len(found.arms) - drawings.MOST_CURVES, 0),
        "heat": sorted(drawings.heat_maps(found)),
        "runs": [
            (run.folder.name, arm.name, seed)
            for arm in found.arms for seed, same in arm.runs.items() for run in same
        ],
    }  # fmt: skip


def summary(found: Study, page: Path, t: Texts) -> str:
    """Say on the screen what differs, what was not equal, what came of it, and where to read on."""
    parts = [t("{runs} runs, {arms} arms", runs=len(found.runs), arms=len(found.arms))]
    if said := [f"  ! {t(text, **values)}" for text, values in unequal(found)]:
        parts.append("\n".join([t("NOT EQUAL between the runs:"), *said]))
    table = _means_table(found, [name for name in [*found.scores, *found.numbers] if not _is_detail(name)])
    laid = [["", *table["names"]], *([arm, *cells] for arm, cells in table["rows"])]
    # Few arms become columns, so that every measure is seen; of many arms the first measures are.
    parts.append(columns(list(zip(*laid, strict=True)) if len(found.arms) <= 3 else [row[:4] for row in laid]))
    if main := [one for one in found.comparisons if one.measure == found.main_measure]:
        rows = [[t("difference"), "", "95 %", "p", "p, Holm", t("seeds"), ""]]
        for one in (_difference_row(one, t) for one in main):
            shown = (one[key] for key in ("value", "interval", "p", "holm", "seeds", "note"))
            rows.append([f"{one['arm']} − {one['against']}", *shown])
        parts.append(columns(rows))
    if goals := [_goal_row(goal, t) for goal in found.goals]:
        rows = [[t(row["verdict"]).upper(), row["arm"], row["goal"], row["shown"], row["why"]] for row in goals]
        parts.append(columns(rows))
    return "\n\n".join([*parts, f"{t('report')}: {page}"])


def _is_detail(measure: str) -> bool:
    """Say whether a measure belongs into the second table: what weights, scores and kinds of tokens looked like."""
    return measure.startswith(("weight/", "localisation/", "tokens/"))


def _is_share(measure: str) -> bool:
    return re.search(r"/pass@\d+$", measure) is not None


def _value(value: Any) -> str:
    return "–" if value is None else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _means_table(found: Study, measures: list[str]) -> dict[str, Any]:
    """Lay out what each arm reached: a row an arm, a column a measure."""
    rows = []
    for arm in found.arms:
        cells = []
        for measure in measures:
            mean = found.mean(measure, arm.name)
            if mean is None:
                cells.append("–")
                continue
            low, high = map(float, mean.interval())
            if _is_share(measure):
                shown = f"{100 * mean.value:.1f} %"
                ends = f" [{100 * max(0.0, low):.1f}, {100 * min(1.0, high):.1f}]"
            else:
                shown, ends = _number(float(mean.value)), f" ± {(high - low) / 2:.2g}"
            cells.append(shown + (ends if math.isfinite(low) else ""))
        rows.append((arm.name, cells))
    return {"names": measures, "rows": rows}


def _difference_row(one: Comparison, t: Texts) -> dict[str, str]:
    """Show one difference; points for shares, its own unit and percents for the rest."""
    share = _is_share(one.measure)
    show = (lambda value: f"{100 * value:+.1f}") if share else (lambda value: f"{value:+.4g}")
    known = math.isfinite(one.low)
    effect = ""
    if one.cohens_h:
        h, low, high = one.cohens_h
        effect = f"{h:+.2f} [{low:+.2f}, {high:+.2f}]"
    elif one.relative is not None:
        effect = f"{100 * one.relative:+.1f} %"
    least = "" if one.p_permutation is None else t("at best {p}", p=_p(one.p_permutation_least))
    return {
        "measure": one.measure, "arm": one.arm, "against": one.against, "value": show(one.value),
        "interval": f"[{show(one.low)}, {show(one.high)}]" if known else "–",
        "p": _p(one.p) if known else "–", "holm": _p(one.p_holm) if known else "–",
        "permutation": "–" if one.p_permutation is None else f"{_p(one.p_permutation)} ({least})",
        "bootstrap": f"[{show(one.bootstrap[0])}, {show(one.bootstrap[1])}]" if one.bootstrap else "–",
        "effect": effect, "problems": str(one.problems or "–"),
        "seeds": f"{one.seeds}" + ("" if one.paired else f" {t('(not paired)')}"),
        "note": t("one seed: of these models only, not of the methods") if one.over == "problems" else "",
    }  # fmt: skip


def _goal_row(goal: Goal, t: Texts) -> dict[str, str]:
    """Show one goal: its words, its verdict, and how far above it the arm is."""
    values = {"gain": {"points": 100 * GAIN}, "important": {"percent": 100 * FALL}}.get(goal.goal, {})
    shown = ""
    if goal.value is not None:
        # The first and the last goal are in points of pass@1, the second in those of its own rate.
        scale, unit = (100, " " + t("points")) if goal.goal != "important" else (1, "")
        ends = "" if goal.low is None or goal.high is None else f" [{scale * goal.low:+.3g}, {scale * goal.high:+.3g}]"
        shown = f"{scale * goal.value:+.3g}{ends}{unit}"
    return {"goal": t(_GOALS[goal.goal], **values), "arm": goal.arm, "verdict": goal.verdict, "shown": shown,
            "level": f"{100 * goal.level:.1f} %", "why": t(goal.why)}  # fmt: skip


def _p(value: float | None) -> str:
    """Show a p-value without false precision."""
    return "–" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.3g}" if value < 0.1 else f"{value:.2f}"
