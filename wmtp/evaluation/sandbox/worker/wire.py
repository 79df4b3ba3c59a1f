"""Carry plain values between processes that do not trust each other.

[연구 맥락] 프로그램이 돌려준 값을 pickle로 받으면 그 순간 프로그램의 코드가 우리 프로세스에서 실행된다.
모든 것과 같다고 답하는 `__eq__`도 객체째 받으면 시험을 통과한다. 그래서 평범한 값만,
값의 내용만 건넌다. 나머지 객체는 상대편에 두고 번호만 건넨다. 하위 클래스의 객체는 둘 다다:
바뀌지 않는 것(`class Point(tuple)`)은 내용과 번호가 함께, 바뀌는 것(`class Stack(list)`)은 번호와 종류가 건넌다.
어느 쪽이든 `==`는 내용만 본다: 모든 것과 같은 `class Evil(int)`도 그냥 int다.
[동작] 메시지 = 길이 4바이트 + JSON. JSON에 없는 종류는 {"꼬리표": 내용}으로 적는다.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import json
import struct
from collections.abc import Callable

# json has one NaN for all, and a list that holds it would be equal to itself however it came about.
_decoder = json.JSONDecoder(parse_constant=float)
from_json = _decoder.decode
to_json = json.JSONEncoder(separators=(",", ":")).encode
_SAFE_INTEGER = 1 << 62
_SCALARS = (bool, int, float, complex, str, bytes)

#: Builtin classes may cross in both directions: calling one on a hostile value does no harm.
CLASSES = {
    kind.__name__: kind
    for kind in (int, float, complex, str, bool, bytes, bytearray, list, tuple, dict, set, frozenset, range, object)
}
_CLASS_NAMES = {kind: name for name, kind in CLASSES.items()}
_CONTAINERS = {"t": tuple, "s": set, "f": frozenset}
_CONTAINER_TAGS = {kind: tag for tag, kind in _CONTAINERS.items()}

#: kind: how to take it apart; calling the kind on the parts puts it together again.
_PARTS = {
    complex: lambda value: (value.real, value.imag),
    range: lambda value: (value.start, value.stop, value.step),
    slice: lambda value: (value.start, value.stop, value.step),
    decimal.Decimal: lambda value: (str(value),),
    fractions.Fraction: lambda value: (value.numerator, value.denominator),
    collections.deque: lambda value: (list(value), value.maxlen),
    collections.Counter: lambda value: (dict(value),),
    collections.OrderedDict: lambda value: (list(value.items()),),
    datetime.date: lambda value: (value.year, value.month, value.day),
    datetime.timedelta: lambda value: (value.days, value.seconds, value.microseconds),
    datetime.timezone: lambda value: (value.utcoffset(None), value.tzname(None)),
    datetime.time: lambda value: (value.hour, value.minute, value.second, value.microsecond, value.tzinfo),
    datetime.datetime: lambda value: (*value.timetuple()[:6], value.microsecond, value.tzinfo),
}
_KINDS = {kind.__name__: kind for kind in _PARTS}
FIXED = (int, float, complex, str, bytes, tuple, frozenset)
_CHANGING = (list, dict, set, bytearray, collections.deque)
#: The plain types whose subclasses are still of them: named where an object crosses by number.
BASES = {kind.__name__: kind for kind in (*FIXED, *_CHANGING)}
_CONTENT: dict[type, Callable] = {
    **{kind: lambda value, kind=kind, walk=kind.__iter__: kind(walk(value)) for kind in (*FIXED[4:], *_CHANGING)},
    int: int.__int__,
    float: float.__float__,
    complex: complex.__pos__,
    str: str.__str__,
    dict: lambda value, get=dict.__getitem__, walk=dict.__iter__: {key: get(value, key) for key in walk(value)},
}


class TooLongError(Exception):
    """Say that the other side sent more than it may."""


def encode(value, export):
    """Turn a value into what JSON can hold; `export(value, base)` stands in for anything that is not plain.

    Args:
        export: 평범하지 않은 객체를 대신하는 것을 만든다. base는 어느 평범한 종류의 하위 클래스인지, 아니면 None.
    """
    kind = type(value)
    if kind is str or kind is float or kind is bool or value is None:
        return value
    if kind is int:
        return value if -_SAFE_INTEGER < value < _SAFE_INTEGER else {"i": hex(value)}
    if kind is list:
        return [encode(item, export) for item in value]
    if kind in _CONTAINER_TAGS:
        return {_CONTAINER_TAGS[kind]: [encode(item, export) for item in value]}
    if kind is dict or kind is collections.defaultdict:
        return {"d": [[encode(key, export), encode(item, export)] for key, item in value.items()]}
    if kind is bytes or kind is bytearray:
        return {kind.__name__: value.hex()}
    if kind in _PARTS and type(getattr(value, "tzinfo", None)) in (type(None), datetime.timezone):
        return {"k": [kind.__name__, [encode(part, export) for part in _PARTS[kind](value)]]}
    if kind is type and value in _CLASS_NAMES:
        return {"c": _CLASS_NAMES[value]}
    if value is Ellipsis:
        return {"e": 0}
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray" and type(plain := _item_of(value)) in _SCALARS:
        return encode(plain, export)
    base = next((base for base in BASES.values() if isinstance(value, base)), None)
    return export(value, base)


def _item_of(value):
    """Turn a scalar of numpy into Python's own."""
    return getattr(value, "item", lambda: None)()


def content_of(value, base):
    """Reduce an instance of a subclass to its plain base, by the base's own methods."""
    return _CONTENT[base](value)


def decode(data, resolve):
    """Turn what JSON held into a value; `resolve(tag, content)` finds what stands for an object."""
    kind = type(data)
    if kind is list:
        return [decode(item, resolve) for item in data]
    if kind is not dict:
        return data
    ((tag, content),) = data.items()
    if tag in _CONTAINERS:
        return _CONTAINERS[tag](decode(item, resolve) for item in content)
    if tag == "d":
        return {decode(key, resolve): decode(item, resolve) for key, item in content}
    if tag == "i":
        return int(content, 16)
    if tag == "bytes" or tag == "bytearray":
        return getattr(builtins, tag).fromhex(content)
    if tag == "k":
        return _KINDS[content[0]](*[decode(part, resolve) for part in content[1]])
    if tag == "c":
        return CLASSES[content]
    if tag == "e":
        return ...
    return resolve(tag, content)


def pack(message) -> bytes:
    """Frame a message of JSON types."""
    return pack_text(to_json(message))


def pack_text(message: str) -> bytes:
    """Frame a message that is written as JSON already."""
    body = message.encode("ascii")
    return struct.pack("<I", len(body)) + body


def receive(read, most: int = (1 << 32) - 1):
    """Read one framed message through `read(count) -> bytes`; None at the end of the stream.

    Args:
        read: count 바이트 이하를 돌려주는 함수. 끝이면 b"".
        most: 받아들일 길이. 넘으면 읽지 않고 `TooLongError`.
    """
    if (head := _exactly(read, 4)) is None:
        return None
    (length,) = struct.unpack("<I", head)
    if length > most:
        raise TooLongError(length)
    if length == 0:
        raise ValueError("an empty message")
    if (body := _exactly(read, length)) is None:
        return None
    text = body.decode()
    message, end = _decoder.raw_decode(
        text
    )  # json.loads guesses encodings and skips spaces, for which there is no need
    if end != len(text):
        raise ValueError("more than one message")
    return message


def _exactly(read, count: int) -> bytes | None:
    """Read exactly `count` bytes, or None where the stream ends before."""
    chunk = read(count)
    if len(chunk) == count:
        return chunk
    parts = []
    while chunk:
        parts.append(chunk)
        count -= len(chunk)
        if count == 0:
            return b"".join(parts)
        chunk = read(min(count, 1 << 20))
    return None
