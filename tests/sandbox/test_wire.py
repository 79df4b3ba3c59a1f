"""Bring plain values across unchanged, and nothing else."""

import collections
import datetime
import decimal
import fractions

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.evaluation.sandbox.worker import wire

hashable = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
        st.complex_numbers(allow_nan=False),
    ),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
)  # fmt: skip
plain = st.recursive(
    hashable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4) | st.sets(hashable),
)  # fmt: skip


def refuse(*value):
    raise AssertionError(f"{value!r} is plain")


def carry(value, export=refuse, resolve=refuse):
    """Bring a value through JSON and back."""
    stream = bytearray(wire.pack(wire.encode(value, export)))

    def read(count):
        taken, stream[:count] = bytes(stream[:count]), b""
        return taken

    return wire.decode(wire.receive(read), resolve)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@settings(max_examples=100, deadline=None, derandomize=True)
@given(plain)
def test_plain_values_arrive_equal_and_of_the_same_type(value):
    arrived = carry(value)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(
    "value",
    (
        10**100, -(1 << 62), -0.0, ..., range(1, 9, 2), bytearray(b"x"), int, [str, dict], slice(1, None),
        decimal.Decimal("0.10"), fractions.Fraction(1, 3), collections.deque([1, 2], 5), collections.Counter("aab"),
        collections.OrderedDict(b=1, a=2), datetime.date(2020, 2, 29), datetime.datetime(2020, 2, 29, 1, 2, 3, 4),
        datetime.timedelta(days=-1), datetime.time(1, 2), datetime.time(1, 2, tzinfo=datetime.UTC),
        datetime.datetime(2020, 2, 29, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=9), "KST")),
    ),
)  # fmt: skip
def test_values_of_the_standard_library_arrive(value):
    arrived = carry(value)
    assert arrived == value and type(arrived) is type(value)
    assert getattr(arrived, "tzinfo", None) == getattr(value, "tzinfo", None)


@pytest.mark.parametrize("value", (5, 0.5, 1j, "x", b"x", (1, 2), frozenset({1}), [1], {1: 2}, {1}, bytearray(b"x")))
def test_of_a_subclass_the_plain_content_can_always_be_had(value):
    methods = ("__eq__", "__iter__", "__getitem__", "__int__", "__float__", "__str__", "__len__", "__pos__")
    forged = type("Forged", (type(value),), {name: lambda *_: True for name in methods} | {"__hash__": lambda _: 0})
    content = wire.content_of(forged(value), type(value))
    assert content == value and type(content) is type(value)


def test_other_objects_do_not_cross():
    with pytest.raises(AssertionError):
        carry(object())
    with pytest.raises((KeyError, AssertionError)):
        wire.decode({"c": "eval"}, refuse)


def test_a_message_beyond_the_limit_is_not_read():
    with pytest.raises(wire.TooLongError):
        wire.receive(lambda count: b"\xff" * count, most=1000)
