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


def refuse(value):
    raise AssertionError(f"{value!r} is plain")


def carry(value):
    """Bring a value through JSON and back."""
    stream = bytearray(wire.pack(wire.encode(value, refuse)))

    def read(count):
        taken, stream[:count] = bytes(stream[:count]), b""
        return taken

    return wire.decode(wire.receive(read), refuse)


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
        datetime.timedelta(days=-1), datetime.time(1, 2),
    ),
)  # fmt: skip
def test_values_of_the_standard_library_arrive(value):
    assert repr(carry(value)) == repr(value)


def test_subclasses_arrive_stripped_to_their_plain_base():
    class Everything(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    assert type(carry(Everything(5))) is int
    assert carry([Everything(5)]) != [4]


def test_other_objects_do_not_cross():
    with pytest.raises(AssertionError):
        carry(object())
    with pytest.raises((KeyError, AssertionError)):
        wire.decode({"c": "eval"}, refuse)


def test_a_message_beyond_the_limit_is_not_read():
    with pytest.raises(wire.TooLongError):
        wire.receive(lambda count: b"\xff" * count, most=1000)
