"""Check a number, a choice or a switch of a config, and say what is wrong with it in one sentence.

[동작] 값의 주인이 자기 값을 검사할 때 부른다. 문장에는 키, 값, 범위, 그리고 무엇을 해 볼지(`advice`)가 들어간다.
    아무것도 import하지 않으므로 torch를 부르기 전에도 쓸 수 있다.
"""

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, cast

from wmtp.errors import ConfigError


def is_whole_number(value: object, least: int | None = 1, most: int | None = None) -> bool:
    """Tell whether a value is an int, not a bool, and in a range.

    Example:
        >>> is_whole_number(1), is_whole_number(True), is_whole_number(0), is_whole_number(2.0)
        (True, False, False, False)
    """
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return (least is None or value >= least) and (most is None or value <= most)


def check_whole_number(
    key: str, value: object, least: int | None = 1, most: int | None = None, advice: str = "", null: str = ""
) -> None:
    """Refuse what is no whole number in a range.

    Args:
        advice: 덧붙일 문장. 무엇을 해 볼지.
        null: null도 된다면 그 뜻 ("all").

    Raises:
        ConfigError: 정수가 아니거나 범위 밖일 때.

    Example:
        >>> check_whole_number("data.pieces", 0, advice="Try 1.")
        Traceback (most recent call last):
        wmtp.errors.ConfigError: data.pieces = 0 must be a whole number, at least 1. Try 1.
    """
    if is_whole_number(value, least, most) or (null and value is None):
        return
    range_ = f" from {least} to {most}" if most is not None else "" if least is None else f", at least {least}"
    other = f", or null for {null}" if null else ""
    raise ConfigError(f"{key} = {value!r} must be a whole number{range_}{other}. {advice}".rstrip())


def is_number(value: object, range_: str) -> bool:
    """Tell whether a value is a finite number, not a bool, and in a range as `check_number` takes it.

    Example:
        >>> is_number(0.5, "in [0, 1)"), is_number(1, "in [0, 1)"), is_number(True, ">= 0"), is_number(math.nan, ">= 0")
        (True, False, False, False)
    """
    finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return finite and _inside(cast(float, value), range_)


def check_number(key: str, value: object, range_: str, advice: str = "") -> None:
    """Refuse what is no finite number in a range, `> 0`, `>= 0` or `in [0, 1)`.

    Raises:
        ConfigError: 유한한 수가 아니거나 범위 밖일 때.

    Example:
        >>> check_number("algo.weighting.lam", 7, "in [0, 1]", "Try 1.0.")
        Traceback (most recent call last):
        wmtp.errors.ConfigError: algo.weighting.lam = 7 must be a number in [0, 1]. Try 1.0.
    """
    if not is_number(value, range_):
        raise ConfigError(f"{key} = {value!r} must be a number {range_}. {advice}".rstrip())


def check_choice(key: str, value: object, choices: Iterable[object], advice: str = "") -> None:
    """Refuse what is none of the choices.

    Raises:
        ConfigError: 선택지에 없을 때.

    Example:
        >>> check_choice("data.leakage", "maybe", ("drop", "error", "ignore"))
        Traceback (most recent call last):
        wmtp.errors.ConfigError: data.leakage = 'maybe' must be one of drop, error, ignore.
    """
    choices = list(choices)
    if value not in choices:
        raise ConfigError(f"{key} = {value!r} must be one of {', '.join(map(str, choices))}. {advice}".rstrip())


def check_true_or_false(key: str, value: object, advice: str = "") -> None:
    """Refuse what is neither true nor false.

    Raises:
        ConfigError: true도 false도 아닐 때. 1과 0, 글자도 아니다.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{key} = {value!r} must be true or false. {advice}".rstrip())


def check_curve(key: str, curve: Any, most: float = math.inf) -> None:
    """Refuse what is neither a number nor points of a curve.

    Raises:
        ConfigError: 종류나 범위가 틀릴 때.
    """
    range_ = ">= 0" if most == math.inf else f"in [0, {most:g}]"
    points = curve if isinstance(curve, Mapping) else {0: curve}
    if points and all(is_number(at, "in [0, 1]") and is_number(value, range_) for at, value in points.items()):
        return
    shown = dict(curve) if isinstance(curve, Mapping) else curve
    raise ConfigError(
        f"{key} = {shown!r} must be a number {range_}, or points {{share of the training: number}} such as "
        "{0: 0, 0.2: 1}."
    )


def _inside(value: float, range_: str) -> bool:
    if range_.startswith(">"):
        sign, least = range_.split()
        return value >= float(least) if sign == ">=" else value > float(least)
    ((left, least, most, right),) = re.findall(r"^in ([\[(])(\S+), (\S+)([\])])$", range_)
    above = value >= float(least) if left == "[" else value > float(least)
    return above and (value <= float(most) if right == "]" else value < float(most))
