"""Draw the pictures of docs/why.md from a run of the demo.

    ./scripts/demo logger=csv lang=ko                           the run, about 2 minutes
    python scripts/pictures.py runs/rho1-synthetic-tiny-base    the pictures, seconds

[연구 맥락] 그림은 말보다 오래 믿긴다. 그래서 손으로 그리지 않고, 누구나 다시 해 볼 수 있는 실행에서 그린다.
[동작] 실행 폴더만 읽는다. 곡선은 보고서와 같은 함수가 그리고 (`wmtp.reporting.plots`), 토큰의 그림과 종류마다의 막대만
    여기 있다. 파일은 docs/images/why/에 쓴다.
"""

import sys
from pathlib import Path
from xml.sax.saxutils import escape

from wmtp.reporting.heat_map import LEVELS, shade_tokens, weight_range
from wmtp.reporting.plots import BLUE, GREY, INK, draw_all, drawing, legend, standalone
from wmtp.reporting.reading import RunResults, read_run

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "images" / "why"
CURVES = ("weight_histogram", "weights_over_time", "ce_per_head", "pass_at_1")
SHOWN = (
    "synthetic/train/0",
    "synthetic/train/1",
    "synthetic/train/2",
)  # lines in the wrong order, garbage, wrong steps
UP, DOWN = "224,130,20", "47,134,201"  # of the report
KINDS = {
    "keyword": "예약어", "layout": "줄바꿈과 들여쓰기", "identifier": "이름", "operator": "연산자와 괄호",
    "literal": "숫자와 글자열", "choice": "갈림길",
}  # fmt: skip
CHARACTER, LINE = 7.8, 22  # a monospaced character is 0.6 of its size wide: 13 pixels


def pictures(run: RunResults) -> dict[str, str]:
    """Draw every picture: name → SVG."""
    drawn = {name: standalone(svg) for name, svg in draw_all(run).items() if name in CURVES}
    return drawn | {"tokens": tokens(run), "kinds": standalone(kinds(run))}


def kinds(run: RunResults) -> str:
    """Draw the CE of every kind of token, before and after."""
    by_kind = _by_kind(run)
    found = {name: by_kind[name] for name in KINDS if name in by_kind}

    def paint(axes) -> None:
        for offset, (stage, label, colour) in enumerate((("start", "학습 전", GREY), ("end", "학습 후", BLUE))):
            values = [found[name][stage]["ce"] for name in found]
            places = [i + 0.36 * offset for i in range(len(found))]
            axes.barh(places, values, height=0.34, color=colour, label=label)
        axes.set_yticks([i + 0.18 for i in range(len(found))], [KINDS[name] for name in found])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        axes.set_xlabel("교차엔트로피 [토큰마다 nat]", color=INK)
        legend(axes)

    return drawing("kinds", paint, height=3.1, over_steps=False)


def _by_kind(run: RunResults) -> dict[str, dict]:
    """Turn token_errors.json round: kind → stage → numbers."""
    errors = run.token_errors
    return {name: {stage: errors[stage][name] for stage in ("start", "end")} for name in errors["start"]}


def tokens(run: RunResults) -> str:
    """Draw programs with every token shaded by its weight, corrupted ones underlined."""
    low, high = weight_range(run.token_weights)
    samples = [sample for sample in run.token_weights if sample["problem_id"] in SHOWN]
    shapes, x, y, widest = [], 0.0, 0, 0.0
    for sample in samples:
        asked = "".join(sample["pieces"][: sample["prompt_length"]]).strip().strip('"')
        shapes.append(
            f'<text x="0" y="{y + 15}" fill="#777" font-family="system-ui, sans-serif">{escape(asked)}</text>'
        )
        x, y = 0.0, y + LINE
        for token in shade_tokens(sample, "end", low, high, run.texts):
            lines = token.text.replace("↵\n", "\n").split("\n")
            for i, text in enumerate(lines):
                if i:
                    x, y = 0.0, y + LINE
                width = CHARACTER * len(text)
                if text.strip() and token.shade:
                    shapes.append(_rectangle(x, y, width, token.shade))
                if text.strip() and token.corrupted:
                    shapes.append(
                        f'<path d="M{x:.1f} {y + 19}h{width:.1f}" stroke="#c2403a" stroke-width="2" '
                        'stroke-dasharray="3 2"/>'
                    )
                if text.strip():
                    shapes.append(_text(x, y, f'textLength="{width:.1f}" xml:space="preserve">{escape(text)}'))
                x += width
                widest = max(widest, x, 6.5 * len(asked))
        y += 2 * LINE
    y -= 2 * LINE  # no gap after the last
    size = f'width="{widest + 16:.0f}" height="{y + LINE + 12}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="-8 -6 {widest + 16:.0f} {y + LINE + 12}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13" fill="#222">'
        f'<rect x="-8" y="-6" width="100%" height="100%" fill="white"/>{"".join(shapes)}</svg>\n'
    )


def _text(x: float, y: int, rest: str) -> str:
    return f'<text x="{x:.1f}" y="{y + 15}" {rest}</text>'


def _rectangle(x: float, y: int, width: float, shade: str) -> str:
    colour, level = (UP if shade.startswith("up") else DOWN), int(shade.removeprefix("up").removeprefix("down"))
    place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="20"'
    return f'<rect {place} fill="rgb({colour})" opacity="{0.68 * level / LEVELS:.2f}"/>'


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the run directory of a demo: python scripts/pictures.py runs/rho1-synthetic-tiny-base")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures(read_run(Path(sys.argv[1]))).items():
        (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")
        print(f"docs/images/why/{name}.svg  {len(svg) // 1024} kB")
