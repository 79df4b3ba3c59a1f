"""Name large values by their content, so that two of them can be compared where neither has room for both.

[연구 맥락] MBPP+ 255의 출력 하나는 튜플 이백만 개, 글로 쓰면 900 MB다. 프로그램 쪽이 내용의 지문을 만들어 보낸다.
    옳은 지문은 옳은 값을 만들지 않고는 알 수 없으므로, 값을 보내는 것과 똑같이 믿을 수 있다.
[동작] `==`인 두 값은 언제나 함께 크거나 작고, 지문이 같다: 1과 1.0과 True, 0.0과 -0.0, 순서가 다른 dict와 set.
    지문으로 비교하는 값에는 오차가 허락되지 않는다.
"""

import array
import hashlib
import itertools
import marshal
from collections.abc import Iterable

_LARGE = 1 << 13
_EXACT = 1 << 53  # floats hold every whole number below this
_LONGEST_FLOAT = 1024  # bits of the largest float, written as a whole number
_BY_CONTENT = 2  # the last version of marshal that does not say which strings are one object
_PART = 4096
_NUMBERS = {int, float, bool}


def is_large(value) -> bool:
    """Tell whether a value holds more than 8 thousand elements or characters; of numbers in a row, 16 times that."""
    return _left(value, _LARGE) < 0


def _left(value, budget: int) -> int:
    """Return what is left of the budget."""
    if isinstance(value, str | bytes | bytearray):
        return budget - len(value)
    if isinstance(value, int):
        bits = value.bit_length()
        return budget - (bits >> 3 if bits > _LONGEST_FLOAT else 0)
    if isinstance(value, dict):
        parts: Iterable = itertools.chain(value, value.values())
    elif isinstance(value, list | tuple):
        if len(value) > 16 and set(map(type, value)) <= _NUMBERS and _all_exact(value):
            return budget - len(value) // 16
        parts = value
    elif isinstance(value, set | frozenset):
        parts = value
    else:
        return budget
    budget -= len(value)
    for part in parts:
        if budget < 0:
            break
        budget = _left(part, budget)
    return budget


def _all_exact(numbers) -> bool:
    """Tell whether a float holds each of the numbers; no where one is NaN."""
    return max(numbers) < _EXACT and min(numbers) > -_EXACT


def digest(value) -> str:
    """Name a value by its content.

    Raises:
        TypeError: 내용을 다 말할 수 없는 객체가 들어 있을 때.

    Example:
        >>> digest([1, 0.0, {"a": 1, "b": 2}]) == digest([1.0, -0.0, {"b": 2.0, "a": True}])
        True
        >>> digest([1, 2]) == digest((1, 2))
        False
    """
    sha = hashlib.sha256()
    _feed(value, sha.update)
    return sha.hexdigest()


def _feed(value, update) -> None:
    if isinstance(value, list | tuple):
        update(b"%c%d:" % (b"["[0] if isinstance(value, list) else b"("[0], len(value)))
        for start in range(0, len(value), _PART):
            _feed_part(value[start : start + _PART], update)
    elif isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        update(b"s%d:" % len(text))
        update(text)
    elif isinstance(value, float) and not value.is_integer():
        update(b"f%s," % repr(float(value)).encode())
    elif isinstance(value, int | float):
        update(b"i%x," % int(value))
    elif value is None:
        update(b"N")
    elif isinstance(value, bytes | bytearray):
        update(b"b%d:" % len(value))
        update(value)
    elif isinstance(value, complex):
        _feed(value.real if value.imag == 0 else ["complex", value.real, value.imag], update)
    elif isinstance(value, dict):
        update(b"d%d:" % len(value))
        update("".join(sorted(digest(key) + digest(item) for key, item in value.items())).encode())
    elif isinstance(value, set | frozenset):
        update(b"{%d:" % len(value))
        update("".join(sorted(map(digest, value))).encode())
    else:
        raise TypeError(type(value))


def _feed_part(part, update) -> None:
    """Feed a stretch of a sequence, at the speed of C where all is of one kind."""
    kinds = set(map(type, part))
    if kinds <= _NUMBERS and _all_exact(part):
        update(b"n")
        update(array.array("d", [number or 0 for number in part] if 0 in part else part).tobytes())
    elif kinds == {str}:
        update(b"t%b" % marshal.dumps(part, _BY_CONTENT))
    elif kinds in ({tuple}, {list}) and set(map(type, itertools.chain.from_iterable(part))) == {str}:
        update(b"r%b" % marshal.dumps(part, _BY_CONTENT))
    else:
        for item in part:
            _feed(item, update)
