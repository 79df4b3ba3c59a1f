"""Draw the curves of a run as SVG, readable in light and dark and by the colour-blind.

[동작] 글자와 축은 두 가지 표식 색으로 그린다. 파일로 쓸 때는 흰 바탕의 검은 글자로, HTML에 넣을 때는 `currentColor`로
    바꾸므로 한 그림이 밝은 화면과 어두운 화면 모두에 맞는다. 글자는 경로가 되지 않고 남아,
    보는 사람의 글꼴로 그려진다.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wmtp.reporting.reading import STAGES, RunResults
from wmtp.reporting.texts import Texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#123457", "#654323"  # stand-ins, replaced below; nothing else has these colours

# Okabe and Ito's palette, darkened or lightened where it would vanish on white or on black.
BLUE, ORANGE, GREEN, PINK, SKY, GREY = "#2f86c9", "#e08214", "#159a74", "#c96a9e", "#52a9d9", "#8a8f98"
HEADS = (BLUE, ORANGE, GREEN, PINK, SKY, "#b0912f", "#7a6fc4", GREY)


def draw_all(run: RunResults) -> dict[str, str]:
    """Draw every plot that the run has data for.

    Returns:
        이름 → SVG (표식 색 그대로). `standalone`이나 `inline`으로 바꾸어 쓴다.
    """
    plots, series = {}, run.series

    def draw(name: str, paint: Callable[..., None], *data: Any, **size: Any) -> None:
        plots[name] = drawing(name, lambda axes: paint(axes, *data, run.texts), **size)

    if loss := series.get("train/loss"):
        draw("loss", _loss, loss)
    for split, name in (("val", "ce_per_head"), ("train", "ce_per_head_training")):
        if heads := [k for k in range(64) if f"{split}/ce_head{k}" in series]:
            draw(name, _ce_per_head, series, split, heads)
    if run.histogram:
        draw("weight_histogram", _histogram, run.histogram, over_steps=False)
    if "weight/mean" in series:
        draw("weights_over_time", _weights_over_time, series)
    if run.critic and run.critic["best"].get("auc") is not None:
        draw("critic", _critic, run.critic["curve"])
    if "localisation/in_span" in series:
        draw("localisation", _localisation, series)
    if bars := pass_at_1(run):
        draw("pass_at_1", _pass_at_1, bars, height=0.9 + 0.45 * len(bars), over_steps=False)
    return plots


def pass_at_1(run: RunResults) -> list[tuple[str, str, float, float, float]]:
    """List (benchmark, stage, pass@1, low, high) as shares, benchmark by benchmark, before and then after."""
    names = dict.fromkeys(name for stage in STAGES if stage in run.evaluations
                          for name in run.evaluations[stage].benchmarks)  # fmt: skip
    rows = []
    for name in names:
        for stage in STAGES:
            metrics = run.evaluations[stage].metrics if stage in run.evaluations else {}
            if f"{name}/pass@1" in metrics:
                value = metrics[f"{name}/pass@1"]
                low, high = (metrics.get(f"{name}/pass@1_{end}", value) for end in ("low", "high"))
                rows.append((name, stage, value, low, high))
    return rows


def standalone(svg: str) -> str:
    """Turn a drawing into a file of its own: dark ink on white."""
    svg = svg.replace(INK, "#222222").replace(GRID, "#dddddd")
    return re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', svg, count=1)


def inline(svg: str, label: str) -> str:
    """Turn a drawing into a part of a page, whose colours ink and grid follow; the label is plain words."""
    svg = svg[svg.index("<svg ") :].replace(INK, "currentColor").replace(GRID, "var(--grid)")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' id="[a-zA-Z]+\w*_\d+"', "", svg)  # figure_1, axes_1 …: the same in every drawing
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', svg, count=1)


def drawing(
    name: str, paint: Callable[["Axes"], None], width: float = 5.2, height: float = 2.9, over_steps: bool = True
) -> str:
    """Draw one plot as SVG, in the stand-in colours that `standalone` and `inline` replace."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.5, "font.family": "sans-serif",
        "text.color": INK, "axes.edgecolor": GRID, "axes.labelcolor": INK, "xtick.color": GRID,
        "ytick.color": GRID, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.grid": True,
        "grid.color": GRID, "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True, "lines.solid_capstyle": "round",
    }  # fmt: skip
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # Korean: the reader's font has it
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        paint(axes)
        if over_steps:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    svg = out.getvalue()
    return re.sub(r"font: ([\d.]+)px [^;]*;", r"font: \1px system-ui, sans-serif;", svg)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move labels up so that neighbours are at least `gap` apart; the order stays.

    Example:
        >>> spread([1.0, 0.0, 0.1], gap=0.5)
        [1.0, 0.0, 0.5]
    """
    placed, least = list(values), -float("inf")
    for i in sorted(range(len(values)), key=lambda i: values[i]):
        placed[i] = least = max(values[i], least + gap)
    return placed


def legend(axes: "Axes", columns: int = 2) -> None:
    """Put the legend above the plot, where no curve can run through it; none where nothing is drawn."""
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(
        frameon=False, fontsize=8.5, ncols=columns, loc="lower left", bbox_to_anchor=(-0.02, 1), columnspacing=1.2,
        handlelength=1.6, borderpad=0.2,
    )  # fmt: skip


def _line(axes: "Axes", points: Sequence[tuple[int, float]], smooth: bool = True, **style: Any) -> list[float]:
    """Draw a curve, smoothed or with its points; one point alone is a dot. Return what was drawn."""
    steps, values = zip(*points, strict=True)
    drawn = _smooth(values) if smooth else list(values)
    style |= {"marker": "o", "markersize": 4} if not smooth or len(drawn) == 1 else {}
    axes.plot(steps, drawn, **style)
    return drawn


def _smooth(values: Sequence[float], share: float = 0.06) -> list[float]:
    """Average exponentially, over about `share` of the points."""
    alpha, smooth = min(1.0, 2 / (1 + share * len(values))), []
    for value in values:
        smooth.append(value if not smooth else smooth[-1] + alpha * (value - smooth[-1]))
    return smooth


def _loss(axes: "Axes", loss: Sequence[tuple[int, float]], t: Texts) -> None:
    axes.plot(*zip(*loss, strict=True), color=BLUE, alpha=0.3, linewidth=1)
    _line(axes, loss, color=BLUE, linewidth=2)
    axes.set(xlabel=t("step"), ylabel=t("loss [nat per token]"))


def _ce_per_head(axes: "Axes", series: Mapping[str, Any], split: str, heads: Sequence[int], t: Texts) -> None:
    """Draw one curve a head, on a scale where halving looks the same for an easy head and a hard one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ends, lowest, highest = [], float("inf"), 0.0
    for k in heads:
        points = series[f"{split}/ce_head{k}"]
        drawn = _line(axes, points, smooth=split == "train", color=HEADS[k % len(HEADS)], linewidth=2)
        ends.append((points[-1][0], max(drawn[-1], 1e-6)))
        lowest, highest = min(lowest, *drawn), max(highest, *drawn)
    axes.set(xlabel=t("step"), ylabel=t("cross entropy [nat per token]"), yscale="log")
    axes.set_ylim(max(lowest, 1e-6) / 1.25, max(highest, 1e-6) * 1.25)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)
    low, high = map(math.log, axes.get_ylim())
    right = max(step for step, _ in ends)
    for k, y in zip(heads, spread([math.log(value) for _, value in ends], gap=0.075 * (high - low)), strict=True):
        axes.annotate(
            t("head {k}", k=k), (right, math.exp(y)), (7, 0), textcoords="offset points", va="center", weight="bold",
            color=HEADS[k % len(HEADS)], fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def _histogram(axes: "Axes", histogram: Mapping[str, Any], t: Texts) -> None:
    upper, bins = histogram["upper"], len(histogram["clean"])
    edges = [upper * i / bins for i in range(bins + 1)]
    kinds = [(t("clean tokens"), histogram["clean"], BLUE), (t("corrupted tokens"), histogram.get("corrupted"), ORANGE)]
    if not histogram.get("corrupted"):
        kinds = [(t("target tokens"), histogram["clean"], BLUE)]
    last = 1
    for label, counts, colour in kinds:
        total = max(sum(counts), 1)
        share = [100 * count / total for count in counts]
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(share, edges, color=colour, linewidth=1.4, label=f"{label} ({total:,})")
        last = max(last, *(i for i, count in enumerate(counts, 1) if count))
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    first = min(i for i in range(bins) if any(counts[i] for _, counts, _ in kinds))
    axes.set_xlim(max(0, edges[first] - 0.1), edges[last] + 0.1)
    legend(axes)
    axes.set(xlabel=t("weight (1 = as in the baseline)"), ylabel=t("share of the tokens [%]"))


def _weights_over_time(axes: "Axes", series: Mapping[str, Any], t: Texts) -> None:
    steps, low = zip(*series["weight/p25"], strict=True)
    high, top = ([value for _, value in series[key]] for key in ("weight/p75", "weight/p95"))
    axes.fill_between(steps, _smooth(low), _smooth(high), color=GREY, alpha=0.3, linewidth=0, label=t("middle half"))
    _line(
        axes, list(zip(steps, top, strict=True)), color=GREY, linewidth=1, linestyle=(0, (3, 2)),
        label=t("95th percentile"),
    )  # fmt: skip
    means = (("clean_mean", t("mean of clean"), BLUE), ("corrupted_mean", t("mean of corrupted"), ORANGE))
    for key, label, colour in means:
        if f"weight/{key}" in series:
            _line(axes, series[f"weight/{key}"], color=colour, linewidth=2, label=label)
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    legend(axes)
    axes.set(xlabel=t("step"), ylabel=t("weight"))


def _shares(axes: "Axes", points_of: Callable[[str], Any], curves: Sequence[tuple[str, str, str]], t: Texts) -> None:
    """Draw curves of shares, those of (name, label, colour) that have points."""
    for name, label, colour in curves:
        if points := points_of(name):
            _line(axes, points, smooth=False, color=colour, linewidth=2, label=label)
    legend(axes)
    axes.set(xlabel=t("step"), ylim=(0, 1.02))


def _critic(axes: "Axes", curve: Sequence[Mapping[str, Any]], t: Texts) -> None:
    points_of = lambda key: [(point["step"], point[key]) for point in curve if point.get(key) is not None]  # noqa: E731
    wanted = (("auc", t("right or wrong: AUC"), BLUE), ("first_token_auc", t("first wrong token: AUC"), GREEN))
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    _shares(axes, points_of, [*wanted, ("in_span", t("lowest change in the wrong span"), ORANGE)], t)
    axes.set_ylabel(t("held-out programs"))


def _localisation(axes: "Axes", series: Mapping[str, Any], t: Texts) -> None:
    wanted = [("in_span", t("in the wrong span"), ORANGE), ("on_first", t("on its first token"), BLUE)]
    points_of = lambda key: series.get(f"localisation/{key}")  # noqa: E731
    _shares(axes, points_of, [*wanted, ("chance", t("anywhere (chance)"), GREY)], t)
    axes.set_ylabel(t("lowest score falls"))


def _pass_at_1(axes: "Axes", rows: Sequence[tuple[str, str, float, float, float]], t: Texts) -> None:
    for i, (_name, stage, value, low, high) in enumerate(rows):
        colour = GREY if stage == "before" else BLUE
        axes.barh(i, 100 * value, height=0.62, color=colour, alpha=0.55)
        axes.plot([100 * low, 100 * high], [i, i], color=INK, linewidth=1.6)
        axes.annotate(f"{100 * value:.1f} %", (100 * high, i), (7, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [f"{name}, {t(stage)}" for name, stage, *_ in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.invert_yaxis()
    axes.set_xlabel(t("pass@1 [% of problems], with 95 % interval"))
    axes.set_xlim(0, min(110, 115 * max(row[4] for row in rows) + 4))
