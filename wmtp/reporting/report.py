"""Write report.md and report.html from what a run left in its directory.

[연구 맥락] 사람이 가장 먼저 보는 것이다: 나아졌는가 (pass@1 전과 후), 가중치는 무엇을 했는가, 무엇이 아직 틀리는가.
[동작] reading이 파일을 읽고, plots가 그리고, 두 템플릿(report.html.j2, report.md.j2)이 보여 준다.
    HTML은 혼자 선다: 네트워크도 스크립트도 없고, 밝은 화면과 어두운 화면에 맞춘다.
[디버깅] 생성된 프로그램은 적대적이다. 모든 값은 템플릿 환경이 이스케이프한다. `Markup`은 그림에만 쓴다.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from wmtp.evaluation.sandbox import STATUSES as VERDICTS
from wmtp.reporting import heat_map, plots
from wmtp.reporting.advice import advice
from wmtp.reporting.heat_map import visible
from wmtp.reporting.reading import STAGES, Evaluation, RunResults, flatten, paired_gain, read_run, scored
from wmtp.reporting.texts import Texts
from wmtp.storage.files import write_atomically

# What a long completion is cut to on the page; the files have it whole.
_LINES_SHOWN, _CHARACTERS_SHOWN = 40, 3000


def write_report(run_dir: Path) -> Path:
    """Write `report.md`, `report.html` and `report/*.svg` into a run directory.

    Args:
        run_dir: `runs/<name>`. 들어 있는 파일만 읽는다. 없는 것은 보고서에 한 줄로 적힌다.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    drawings = plots.draw_all(run)
    (run_dir / "report").mkdir(exist_ok=True)
    for name, svg in drawings.items():
        write(run_dir / "report" / f"{name}.svg", plots.standalone(svg))
    content = collect(run)
    write(run_dir / "report.md", render("report.md.j2", content, drawings))
    write(run_dir / "report.html", render("report.html.j2", content, drawings))
    return run_dir / "report.md"


class Tile(NamedTuple):
    """Hold one headline number with its unit, and a note below it."""

    label: str
    hint: str  # the label in Korean, for an English report
    value: str
    note: str

    @classmethod
    def of(cls, t: Texts, label: str, value: str, note: str, **values: Any) -> "Tile":
        """Make a tile with its label in the reader's language."""
        return cls(t(label, **values), t.hint(label, **values), value, note)


def collect(run: RunResults) -> dict[str, Any]:
    """Work out everything that both templates show."""
    low, high = heat_map.weight_range(run.token_weights)
    stages = [stage for stage in ("start", "end") if any(stage in sample for sample in run.token_weights)]
    counts = [run.evaluations.get(stage, Evaluation()).verdicts for stage in STAGES]
    seen = {name for count in counts for name in count}
    return {
        "run": run,
        "t": run.texts,
        "title": run.name,
        "facts": [(run.texts(name), value) for name, value in facts(run.config)],
        "tiles": tiles(run),
        "pass_at_1": plots.pass_at_1(run),
        "verdicts": [
            (name, [count[name] for count in counts])
            for name in [*VERDICTS, *sorted(seen - set(VERDICTS))]  # unknown ones last
            if name in seen
        ],
        "totals": [count.total() for count in counts],
        "failures": frequent_failures(run),
        "pairs": chosen_pairs(run),
        "heat_stages": stages,
        "heat": [
            {
                "problem_id": sample["problem_id"],
                "prompt": "".join(sample["pieces"][: sample["prompt_length"]]),
                "stages": {s: heat_map.shade_tokens(sample, s, low, high, run.texts) for s in stages if s in sample},
            }
            for sample in run.token_weights
        ],
        "heat_range": (low, high),
        "ranking": ranked_tokens(run),
        "token_errors": errors_by_kind(run),
        "advice": advice(run),
        "used": run.config.get("used") or {},
        "leaks": run.left_out.get("leaks", []),
        "leakage": run.left_out.get("leakage"),
        "too_long": {split: names for split, names in run.left_out.get("too_long_or_unsolved", {}).items() if names},
        "made_of": made_of(run),
        "settings": flatten(run.config),
        "troubles": [*run.attempts, *([run.failure] if run.failure else [])],
    }


def facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name what was run, in a line's worth of pairs; keys that are not there are left out."""
    flat = flatten(config)
    last_word = lambda value: str(value).rsplit(".", 1)[-1]  # noqa: E731
    wanted = (
        ("algo", "algo._target_", last_word), ("score", "algo.score", str), ("λ", "algo.weighting.lam", str),
        ("T", "algo.weighting.temperature", str), ("control", "algo.weighting.control", str),
        ("data", "data.module.source._target_", last_word), ("noise", "data.noise", str),
        ("model", "model.path", str), ("heads", "model.heads", str), ("steps", "trainer.max_steps", str),
        ("seed", "seed", str),
    )  # fmt: skip
    return [(name, show(flat[key])) for name, key, show in wanted if flat.get(key) not in (None, "none")]


def made_of(run: RunResults) -> list[tuple[str, str]]:
    """List the code, the data and the weights that the run was made of, by their hashes."""
    t, found = run.texts, run.config.get("made_of") or {}
    code = found.get("code") or {}
    parts = [code.get("version"), code.get("commit"), t("changed") if code.get("dirty") else None]
    rows = [(t("code"), " ".join(str(part) for part in parts if part)), (t("training problems"), found.get("data"))]
    rows += [(t("problems of {name}", name=n), digest) for n, digest in (found.get("benchmarks") or {}).items()]
    rows += [(t("weights at the start"), found.get("model"))]
    return [(name, str(digest)) for name, digest in rows if digest]


def tiles(run: RunResults) -> list[Tile]:
    """Choose the headline numbers; what is not known makes no tile."""
    t, found = run.texts, []
    rows = plots.pass_at_1(run)
    for name in dict.fromkeys(row[0] for row in rows):
        value = {stage: (v, low, high) for benchmark, stage, v, low, high in rows if benchmark == name}
        shown = " → ".join(f"{100 * v[0]:.1f}" for v in value.values()) + " %"
        interval = "95 % interval {stage}: {low:.1f} to {high:.1f}"
        notes = [t(interval, stage=t(stage), low=100 * v[1], high=100 * v[2]) for stage, v in value.items()]
        gain = paired_gain(run)
        if len(value) == 2 and gain and len({row[0] for row in rows}) == 1:
            won = "{gain:+.1f} points (95 %: {low:+.1f} to {high:+.1f}) on {problems} problems"
            notes = [t(won, gain=100 * gain[0], low=100 * gain[1], high=100 * gain[2], problems=gain[3])]
        notes += [scored(run.evaluations[stage].metrics, name, t) for stage in value][-1:]
        found.append(Tile.of(t, "pass@1 on {name}", shown, "; ".join(filter(None, notes)), name=name))
    ce = run.ends("val/ce_head0")
    if ce:
        once = len(ce) == 1
        note = "nat per token, at the start; there is no later one" if once else "nat per token; lower is better"
        found.append(Tile.of(t, "Validation CE, head 0", " → ".join(f"{value:.3f}" for value in ce), t(note)))
    curves = [run.series.get(f"weight/{key}", []) for key in ("corrupted_mean", "clean_mean", "auc")]
    if all(curves):
        # Of the last quarter: single steps are noisy.
        tails = (points[-max(len(points) // 4, 1) :] for points in curves)
        corrupted, clean, auc = (fmean(value for _, value in tail) for tail in tails)
        note = "mean of corrupted against clean ones; AUC {auc:.2f} (0.5 is chance, 1 is perfect)"
        shown = t("{corrupted:.2f} vs {clean:.2f}", corrupted=corrupted, clean=clean)
        found.append(Tile.of(t, "Corrupted-token weight", shown, t(note, auc=auc)))
    if run.critic and run.critic["best"].get("auc") is not None:
        best, heldout = run.critic["best"], run.critic["programs"]["heldout"]
        note = t(
            "P(V of a right program > V of a wrong one), {heldout} held-out programs; 0.5 is chance", heldout=heldout
        )
        if best.get("in_span") is not None:
            note += t("; largest drop inside the wrong span {share:.0%}", share=best["in_span"])
        label = "Critic's AUC (near chance!)" if run.critic["near_chance"] else "Critic's AUC"
        found.append(Tile.of(t, label, f"{best['auc']:.2f}", note))
    elif run.critic:
        note = "no right and wrong held-out programs to measure it on, so its weights may mean anything"
        found.append(Tile.of(t, "Critic's AUC (not measured!)", t("unknown"), t(note)))
    speed = run.series.get("speed/target_tokens_per_second")
    if speed:
        rate = sorted(value for _, value in speed)[len(speed) // 2]
        found.append(Tile.of(t, "Training speed", f"{rate:,.0f}", t("target tokens a second (median)")))
    return found


def ranked_tokens(run: RunResults, most: int = 15) -> dict[str, list[dict[str, Any]]]:
    """List the heaviest and the lightest tokens; spaces and line ends are made visible.

    Example:
        >>> rows = [{"text": " x\\n", "weight": 2.0, "count": 9}]
        >>> ranked_tokens(RunResults("", token_ranking={"heaviest": rows, "lightest": []}))
        {'heaviest': [{'text': '·x↵', 'weight': 2.0, 'count': 9}], 'lightest': []}
    """
    signs = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥"})
    sides = {side: run.token_ranking.get(side, [])[:most] for side in ("heaviest", "lightest")}
    return {s: [row | {"text": str(row["text"]).translate(signs)} for row in rows] for s, rows in sides.items()}


def errors_by_kind(run: RunResults) -> list[tuple[str, int, list[dict[str, float] | None]]]:
    """List the kinds of tokens with what each was at the start and at the end: (kind, tokens, [start, end])."""
    start, end = (run.token_errors.get(stage) or {} for stage in ("start", "end"))
    return [(_KINDS.get(kind, kind), row["tokens"], [row, end.get(kind)]) for kind, row in start.items()]


# What token_errors.json calls them, and what a reader does.
_KINDS = {
    "all": "all tokens", "choice": "choices", "identifier": "identifiers", "keyword": "keywords",
    "operator": "operators", "literal": "literals", "layout": "line ends and indents", "other": "other tokens",
    "corrupted": "corrupted tokens", "clean": "clean tokens",
}  # fmt: skip


def frequent_failures(run: RunResults, most: int = 8) -> list[tuple[str, str, int, str]]:
    """Count the failures of the last evaluation by kind: (verdict, pattern, count, one task that shows it)."""
    stages = [stage for stage in STAGES if stage in run.evaluations]
    return failures_by_kind(run.evaluations[stages[-1]], most) if stages else []


def failures_by_kind(evaluation: Evaluation, most: int = 8) -> list[tuple[str, str, int, str]]:
    """Count the failures of one evaluation by kind: (verdict, pattern, count, one task that shows it)."""
    counts: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for result in evaluation.results:
        if result.get("status") != "passed":
            kind = (str(result.get("status")), pattern_of(str(result.get("message") or "")))
            counts[kind] += 1
            example.setdefault(kind, str(result.get("task_id")))
    return [(*kind, count, example[kind]) for kind, count in counts.most_common(most)]


def pattern_of(message: str) -> str:
    """Make messages of one kind equal: names and numbers become `…`, but not which test failed first.

    Example:
        >>> pattern_of("NameError: name 'xs' is not defined")
        "NameError: name '…' is not defined"
        >>> pattern_of("test 3 of 6: 14 is not 15")
        'test 3: … is not …'
    """
    line = message.strip().split("\n")[-1][:200]
    line = re.sub(r"\btest (\d+) of \d+", r"test \1", re.sub(r"'[^']*'", "'…'", line))
    return re.sub(r"(?<!\btest )-?\b\d+(\.\d+)?\b", "…", line)


def chosen_pairs(run: RunResults) -> list[dict[str, Any]]:
    """Choose a few problems to show side by side: solved now, still failing, and any that got worse."""
    stages = [stage for stage in STAGES if stage in run.evaluations]
    first: dict[str, dict[str, dict[str, Any]]] = {}
    for stage in stages:
        for result in run.evaluations[stage].results:
            first.setdefault(str(result.get("task_id")), {}).setdefault(stage, result)
    groups: dict[str, list[dict[str, Any]]] = {"solved now": [], "got worse": [], "still failing": [], "solved": []}
    for task_id, results in sorted(first.items()):
        passed = {stage: result.get("status") == "passed" for stage, result in results.items()}
        if stages[-1] not in passed:
            continue
        after, before = passed[stages[-1]], passed.get("before", False)
        if len(stages) == 1:
            group = "solved" if after else "still failing"
        elif after:
            group = "solved" if before else "solved now"
        else:
            group = "got worse" if before else "still failing"
        columns = []
        for stage in stages:
            result = results.get(stage, {})
            text = run.evaluations[stage].completions.get((task_id, result.get("sample", 0)))
            status = str(result.get("status", "not judged"))
            columns.append((stage, status, str(result.get("message") or ""), cut(text, run.texts)))
        groups[group].append({"task_id": task_id, "group": group, "columns": columns})
    take = {"solved now": 3, "got worse": 1, "still failing": 2, "solved": 0 if groups["solved now"] else 2}
    return [pair for group, count in take.items() for pair in groups[group][:count]]


def cut(text: str | None, t: Texts) -> str:
    """Cut a long completion to what fits on the page."""
    if text is None:
        return t("(no completion was kept)")
    kept = "\n".join(text[:_CHARACTERS_SHOWN].split("\n")[:_LINES_SHOWN]).strip("\n")
    left = len(text.strip("\n")) - len(kept)
    more = "\n" + t("… {left:,} more characters in samples.jsonl", left=left) if left > 0 else ""
    return kept + more or t("(empty)")


def render(template: str, content: dict[str, Any], drawings: dict[str, str]) -> str:
    """Fill a template; every value is escaped for the format that its name ends in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    html = template.endswith(".html.j2")
    environment = Environment(
        loader=PackageLoader("wmtp.reporting", ""),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Every value passes here: what a model wrote cannot turn the text around or hide in it.
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["cell"] = _markdown_cell
    environment.filters["fence"] = _markdown_fence
    labels = {name: name.replace("_", " ") for name in drawings}  # for screen readers
    shown = {n: Markup(plots.inline(svg, labels[n])) if html else f"report/{n}.svg" for n, svg in drawings.items()}
    return environment.get_template(template).render(content, plots=shown)


def _markdown_cell(text: Any) -> str:
    r"""Escape what would be markup inside a Markdown table.

    Example:
        >>> _markdown_cell("a|b <script> `x`\nnext")
        'a\\|b \\<script\\> \\`x\\` next'
    """
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", str(text)).replace("\n", " ")


def _markdown_fence(text: str) -> str:
    """Fence text that may hold fences itself."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{visible(text)}\n{fence}"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_atomically(path, text.encode())
