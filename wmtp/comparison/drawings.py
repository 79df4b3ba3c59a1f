"""Draw what a comparison found: differences with their intervals, learning curves with bands, heat maps of a sweep."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wmtp.comparison.findings import GAIN, Comparison, Study
from wmtp.reporting.plots import GREY, HEADS, INK, drawing, legend
from wmtp.reporting.texts import Texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES = "val/ce_head0"
MOST_CURVES = len(HEADS)  # as many as there are colours
_SWEPT = ("algo.weighting.lam", "algo.weighting.temperature", "algo.weighting.percentile")


def draw_all(found: Study, t: Texts) -> dict[str, str]:
    """Draw every plot that there is data for: name → SVG, as `wmtp.reporting.plots` makes them."""
    plots = {}
    if rows := [one for one in found.comparisons if one.measure == found.main_measure and np.isfinite(one.low)]:
        height = 1.1 + 0.36 * len(rows)
        plots["differences"] = drawing(
            "differences", lambda axes: _forest(axes, rows, t), 6.4, height, over_steps=False
        )
    if curves := curves_of(found):
        height = 2.9 + 0.12 * len(curves)
        plots["learning_curves"] = drawing("learning_curves", lambda axes: _bands(axes, curves, t), height=height)
    for name, table in heat_maps(found).items():
        plots[name] = drawing(name, partial(_heat, table=table, t=t), 4.6, 3.0, over_steps=False)
    return plots


def curves_of(found: Study) -> dict[str, tuple[list[int], list[float], list[float], list[float]]]:
    """Give each arm's validation CE of head 0: steps, mean, lowest and highest over its seeds."""
    curves = {}
    for arm in found.arms[:MOST_CURVES]:
        by_step: dict[int, list[float]] = {}
        runs = [run for same in arm.runs.values() for run in same]
        for run in runs:
            for step, value in run.results.series.get(_CURVES, []):
                by_step.setdefault(step, []).append(value)
        steps = sorted(step for step, values in by_step.items() if len(values) == len(runs))
        if steps:
            values = [by_step[step] for step in steps]
            curves[arm.name] = (
                steps,
                [float(np.mean(v)) for v in values],
                list(map(min, values)),
                list(map(max, values)),
            )
    return curves


class HeatMap(NamedTuple):
    """Hold what a sweep over two keys reached: a row of means for each of `ys`, NaN where there is none."""

    across: str
    down: str
    xs: list[Any]
    ys: list[Any]
    means: list[list[float]]


def heat_maps(found: Study) -> dict[str, HeatMap]:
    """Average pass@1 over each pair of λ, T and percentile that a sweep went through."""
    maps, measure = {}, found.main_measure
    swept = {key: sorted({arm.settings[key] for arm in found.arms if isinstance(arm.settings.get(key), int | float)})
             for key in _SWEPT}  # fmt: skip
    keys = [key for key, values in swept.items() if len(values) > 1]
    for i, across in enumerate(keys):
        for down in keys[i + 1 :]:
            cells: dict[tuple[Any, Any], list[float]] = {}
            for arm in found.arms:
                mean = found.mean(measure, arm.name) if measure else None
                if mean is not None and not arm.is_control:
                    where = (arm.settings.get(down), arm.settings.get(across))
                    cells.setdefault(where, []).append(float(mean.value))
            means = [[float(np.mean(cells.get((y, x), [np.nan]))) for x in swept[across]] for y in swept[down]]
            if np.isfinite(means).sum() > 1:
                x, y = (key.rsplit(".", 1)[-1] for key in (across, down))
                maps[f"heat_{x}_{y}"] = HeatMap(x, y, swept[across], swept[down], means)
    return maps


def _forest(axes: "Axes", rows: Sequence[Comparison], t: Texts) -> None:
    for i, one in enumerate(rows):
        colour = GREY if one.low <= 0 <= one.high else HEADS[0] if one.value > 0 else HEADS[1]
        axes.plot([100 * one.low, 100 * one.high], [i, i], color=colour, linewidth=2.2)
        axes.plot([100 * one.value], [i], "o", color=colour, markersize=6)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(100 * GAIN, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    others = {one.against for one in rows}
    axes.set_yticks(range(len(rows)), [one.arm if len(others) == 1 else f"{one.arm} − {one.against}" for one in rows])
    if len(others) == 1:
        axes.set_title(t("against {arm}", arm=rows[0].against), fontsize=9.5, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(t("difference of pass@1 [points]; dashed: the goal"))


def _bands(axes: "Axes", curves: Mapping[str, Any], t: Texts) -> None:
    for (name, (steps, mean, low, high)), colour in zip(curves.items(), HEADS, strict=False):
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, mean, color=colour, linewidth=2, marker="o", markersize=3, label=name)
    legend(axes, columns=1 if max(map(len, curves)) > 24 else 2)
    axes.set(xlabel=t("step"), ylabel=t("cross entropy [nat per token]"))


def _heat(axes: "Axes", table: HeatMap, t: Texts) -> None:
    values = np.array(table.means)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if np.isfinite(value):
                share = (value - low) / (high - low) if high > low else 0.5
                axes.bar(x, 1, bottom=y - 0.5, width=1, color=HEADS[0], alpha=0.08 + 0.55 * share, linewidth=0)
                axes.text(x, y, f"{100 * value:.1f} %", ha="center", va="center", color=INK)
    axes.set_xticks(range(len(table.xs)), map(str, table.xs))
    axes.set_yticks(range(len(table.ys)), map(str, table.ys))
    axes.set(xlabel=table.across, ylabel=table.down, xlim=(-0.5, len(table.xs) - 0.5), ylim=(-0.5, len(table.ys) - 0.5))
    axes.grid(visible=False)
    axes.set_title(t("mean pass@1"), fontsize=9.5, color=INK)
