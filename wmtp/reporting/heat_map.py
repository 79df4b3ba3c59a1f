"""Shade the tokens of a sample by their weight.

[연구 맥락] 가중치 1은 색이 없다. 무거운 토큰은 주황, 가벼운 토큰은 파랑이고, 가장 진한 색은 보여 주는 표본들 안의
    가장 큰(작은) 가중치다. 그래서 λ가 작아 1 근처에 모여 있어도 순서가 보인다. 망가진 토큰에는 물결 밑줄이 있다.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from wmtp.reporting.texts import Texts

LEVELS = 8


class ShadedToken(NamedTuple):
    """Hold one token as the page shows it."""

    text: str  # control characters made visible
    shade: str  # a CSS class, up1 … up8 or down1 … down8; "" near 1, and where there is no weight
    corrupted: bool  # on purpose
    note: str  # shown to who points at it


def weight_range(samples: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Find the lowest and highest weight among all that is shown."""
    stages = (sample.get(stage, {}) for sample in samples for stage in ("start", "end"))
    weights = [weight for stage in stages for weight in stage.get("weight", []) if weight is not None]
    return min(weights, default=1.0), max(weights, default=1.0)


def shade_of(weight: float | None, low: float, high: float) -> str:
    """Choose the shade of a weight.

    Example:
        >>> [shade_of(w, 0.4, 3.0) for w in (0.4, 0.7, 1.0, 2.0, 3.0, None)]
        ['down8', 'down4', '', 'up4', 'up8', '']
    """
    if weight is None:
        return ""
    up = weight > 1
    reach = (high - 1 if up else 1 - low) or 1.0
    level = min(LEVELS, round(LEVELS * abs(weight - 1) / reach))
    return f"{'up' if up else 'down'}{level}" if level else ""


def shade_tokens(sample: dict[str, Any], stage: str, low: float, high: float, t: Texts) -> list[ShadedToken]:
    """Shade the target tokens of a sample, the prompt left out."""
    tokens = []
    columns = (sample["pieces"], sample["noise"], sample[stage]["weight"], sample[stage]["score"])
    for piece, corrupted, weight, score in list(zip(*columns, strict=True))[sample["prompt_length"] :]:
        parts = [] if weight is None else [t("weight {value:.2f}", value=weight)]
        parts += [] if score is None else [t("score {value:+.2f}", value=score)]
        parts += [t("corrupted on purpose")] if corrupted else []
        text = visible(piece).replace("\n", "↵\n")
        tokens.append(ShadedToken(text, shade_of(weight, low, high), bool(corrupted), " · ".join(parts)))
    return tokens


def visible(text: str) -> str:
    """Show what is there: control, formatting and broken characters become visible signs.

    [동작] 생성된 글은 믿을 수 없다. 글의 방향을 뒤집거나(U+202E) 화면을 지우는 문자가 그대로 나가면 안 된다.

    Example:
        >>> visible("a\\x1b[31m\\tb\\u202ec\\r\\n")
        'a␛[31m\\tb⟨U+202E⟩c␍\\n'
    """
    return "".join(_sign(character) for character in text)


def _sign(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or (character.isprintable() and unicodedata.category(character) != "Cf"):
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
