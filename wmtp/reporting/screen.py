"""Say on the screen what a run is about to do, and what it found."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wmtp.maths.loss import METHOD
from wmtp.models.export import Exported, in_short
from wmtp.ranks.processors import multiplies_bf16
from wmtp.reporting.reading import LEFT_OUT, scored
from wmtp.reporting.texts import Texts

LARGE = 50_000_000  # parameters, from which on a step on a CPU takes seconds


def overview(algo: Any, data: Any, leaks: Sequence[Any], run: Path, t: Texts) -> str:
    """Say what is about to be trained on what."""
    parameters = sum(parameter.numel() for parameter in algo.model.parameters())
    trained = sum(parameter.numel() for parameter in algo.model.parameters() if parameter.requires_grad)
    share = t(" ({trained:.1f}M trained)", trained=trained / 1e6) if trained < parameters else ""
    samples, dropped = data.samples["train"], data.dropped["train"]
    lines = [
        t(
            "{algo}: {parameters:.1f}M parameters{share}, {heads} heads",
            algo=algo.name, parameters=parameters / 1e6, share=share, heads=algo.model.heads,
        ),
        t("loss: {method}", method=METHOD),
        t(
            "{data} ({licence}): {samples} training samples, {targets} target tokens{dropped}",
            data=data.source.name, licence=data.source.licence, samples=len(samples), targets=sum(samples.targets),
            dropped=t(", {count} left out (too long, or without a solution)", count=len(dropped)) if dropped else "",
        ),
    ]  # fmt: skip
    if leaks:
        lines.append(t("{count} training problems are in a benchmark in use: see left_out.json", count=len(leaks)))
    return "\n".join([*lines, f"{t('run directory')}: {run}"])


def advice(model: Any, accelerator: str, precision: str, t: Texts) -> str:
    """Say what would shorten a long run on this processor; nothing where there is nothing to say."""
    large = sum(parameter.numel() for parameter in model.parameters()) >= LARGE
    if not (large and accelerator == "cpu" and precision == "32-true" and multiplies_bf16()):
        return ""
    return t("this processor has bf16 units: trainer.precision=bf16-mixed is faster here, 1.2 to 1.8 times")


def evaluating(stage: str, benchmark: Any, isolation: str, t: Texts) -> str:
    """Say what is about to be evaluated."""
    return t(
        "pass@1 {stage} training: {name}, {problems} problems ({isolation})",
        stage=t(stage), name=benchmark.name, problems=len(benchmark.problems), isolation=isolation,
    )  # fmt: skip


def exported(folder: Exported, t: Texts) -> str:
    """Say what an exported folder holds untrained, and what it leaves out; nothing where there is neither."""
    lines = []
    if folder.copied:
        said = "model: {count} tensors that were not trained are copied as they were: {names}"
        lines.append(t(said, count=len(folder.copied), names=in_short(folder.copied)))
    if folder.left_out:
        said = "model: {count} heads are left out: {names}"
        lines.append(t(said, count=len(folder.left_out), names=in_short(folder.left_out)))
    return "\n".join(lines)


def summary(metrics: Mapping[str, float], run: Path, report: Path, stores: Iterable[Any], t: Texts) -> str:
    """Say in a few lines what the run found and where to look."""
    lines = [""]
    for key in (key.removeprefix("after/") for key in metrics if key.startswith("after/") and key.endswith("/pass@1")):
        numbers = [
            f"{t(when)} {_with_interval(metrics, f'{when}/{key}')}"
            for when in ("before", "after")
            if f"{when}/{key}" in metrics
        ]
        lines.append(line_of(key, "   ".join(numbers)))
    if "after/val/ce_head0" in metrics:  # the data may have no validation split
        known = [when for when in ("before", "after") if f"{when}/val/ce_head0" in metrics]
        numbers = [f"{t(when)} {metrics[f'{when}/val/ce_head0']:.4f}" for when in known]
        lines.append(line_of(t("val CE of head 0"), "   ".join(numbers)))
    lines.append(line_of(t("report"), report.with_suffix(".html")))
    lines.append(line_of(t("run directory"), run))
    for store in stores:
        lines += [line_of(t(name), line) for name, line in zip(("MLflow", "compare"), store.where(), strict=False)]
    return "\n".join(lines)


def evaluation_summary(name: str, metrics: Mapping[str, Any], report: Path, t: Texts) -> str:
    """Say pass@k with its interval, on how many of the problems, what was left out, and where the results are."""
    on = scored(metrics, name, t)
    lines = [
        line_of(key, _with_interval(metrics, key) + (f"   {on}" if on else ""))
        for key in metrics
        if key.startswith((f"{name}/pass@", f"{name}_base/pass@")) and key + "_low" in metrics
    ]
    for what, said in LEFT_OUT.items():
        if metrics.get(f"{name}/{what}"):
            lines.append(line_of(f"{name}/{what}", t(said, count=len(metrics[f"{name}/{what}"]))))
    if copies := metrics[f"{name}/samples"] - metrics[f"{name}/distinct"]:
        counts = dict(distinct=metrics[f"{name}/distinct"], copies=copies)
        lines.append(line_of(t("judged"), t("{distinct} programs; {copies} samples are copies of them", **counts)))
    if metrics[f"{name}/fenced"] and metrics[f"{name}/extract"] == "none":
        counts = dict(fenced=metrics[f"{name}/fenced"], samples=metrics[f"{name}/samples"])
        lines.append(
            line_of("extract=none", t("{fenced} of {samples} answers hold a Markdown fence: extract=auto", **counts))
        )
    rates = [f"{value:.2f}" for key, value in metrics.items() if key.startswith(f"{name}/acceptance/")]
    if rates:
        lines.append(line_of(t("drafts accepted"), f"{', '.join(rates)} {t('(heads 1, 2, …)')}"))
    lines += [line_of(t("report"), report.with_suffix(".html")), line_of(t("results"), report.parent)]
    return "\n".join(lines)


def _with_interval(metrics: Mapping[str, Any], key: str) -> str:
    return f"{metrics[key]:.3f} [{metrics[f'{key}_low']:.3f}, {metrics[f'{key}_high']:.3f}]"


def line_of(name: str, value: Any) -> str:
    """Put a name and its value into columns."""
    return f"{name}{' ' * max(1, 25 - _width(name))}{value}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out in columns as wide as their widest cell.

    Example:
        >>> print(columns([["arm", "pass@1"], ["rho1", "50.2 %"]]))
        arm   pass@1
        rho1  50.2 %
    """
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell + " " * (wide - _width(cell)) for cell, wide in zip(row, widths, strict=True)) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _width(text: str) -> int:
    """Count the columns of a text; a Korean letter is two wide."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)
