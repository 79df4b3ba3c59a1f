"""Judge a function by what it returns for many inputs, without a word between one call and the next.

[연구 맥락] EvalPlus의 문제 하나에는 입력이 천 개까지 있다. 호출마다 묻고 답하면 그 왕복이 비용의 대부분이 된다. 그래서
    입력을 한 번에 보내고, 값은 나오는 대로 받는다. 기대값과 비교는 여느 시험처럼 이쪽에만 있다.
[동작] 저쪽은 `program_side._Answering.call_all`. 값은 돌려준 순간의 내용으로 건넌다. 아주 큰 값은 지문으로 건넌다
    (`large.py`). 내용이 없는 객체는 무엇과도 같지 않고, 순회할 수 있으면 순회한 것이 함께 건넌다.
[디버깅] 판정이 이상하면 `ManyInputs.passes`에 오는 raw와 `self.raw[number]`를 출력해 보라.
"""

import functools
import json

from . import wire
from .names import tests_namespace

_RELATIVE = 1e-7  # as numpy.testing.assert_allclose has it


class Opaque:
    """Stand for an object whose content cannot cross; it is equal to nothing, and may hold what iterating it gave."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        if self.items is None:
            raise TypeError("not iterable")
        return iter(self.items)

    __hash__ = object.__hash__


class Large:
    """Stand for a value that is too large to cross; equal values have equal digests."""

    def __init__(self, digest):
        self.digest = digest

    def __eq__(self, other):  # and no hash, which Python takes away with it
        return isinstance(other, Large) and self.digest == other.digest


class ManyInputs:
    """Hold the inputs of a function, what it should return for each, and how the two are compared.

    Args:
        entry_point: 부를 함수.
        inputs: 인자 목록들의 목록, wire.py의 JSON 글.
        base_inputs: 그 가운데 앞의 몇 개는, 뒤의 것이 어떻게 끝나든 값을 받아 두어야 하는지.
        answers: 기대값들의 JSON 글. ""이면 프로그램이 돌려주는 값을 적어 둔다.
        agreement: `agree(input, output, answer)`를 정의하는 글. ""이면 여기의 `agree`로 비교한다.
        tolerance: 소수에 허락하는 절대 오차. 0이면 기대값이 소수일 때만 1e-6.
    """

    def __init__(self, entry_point: str, inputs: str, base_inputs: int, answers: str, agreement: str, tolerance: float):
        self.inputs, self.raw = wire.from_json(inputs), wire.from_json(answers) if answers else None
        name = json.dumps(entry_point)
        self.request = wire.pack_text(f'["call_all",{{"name":{name},"at_once":{base_inputs},"inputs":{inputs}}}]')
        self.agreement, self.tolerance = None, tolerance
        if agreement:
            namespace = tests_namespace()
            exec(compile(agreement, "<agreement>", "exec", dont_inherit=True), namespace)
            self.agreement = namespace["agree"]

    def __len__(self):
        return len(self.inputs)

    def passes(self, number: int, raw) -> bool:
        """Tell whether an output, as it came, is right."""
        expected = wire.from_json(wire.to_json(raw)) if self.raw is None else self.raw[number]
        if self.agreement is None and raw == expected:
            return True  # as JSON already; NaN and what stands for objects are never equal
        output, answer = wire.decode(raw, _resolve), wire.decode(expected, _resolve)
        if self.agreement is None:
            return agree(output, answer, self.tolerance)
        return bool(self.agreement(wire.decode(self.inputs[number], _resolve), output, answer))


@functools.lru_cache(maxsize=4)
def many_inputs(*content) -> ManyInputs:
    """Read the inputs of a problem; its samples come one after the other and share the work."""
    return ManyInputs(*content)


def _resolve(tag, content):
    if tag == "large" and type(content) is str:
        return Large(content)
    if tag == "opaque":
        _, items = content
        return Opaque(None if items is None else [wire.decode(item, _resolve) for item in items])
    raise ValueError(tag)


def agree(output, answer, tolerance: float) -> bool:
    """Compare as EvalPlus does: equal, or floats close to each other in values of one type and form.

    Example:
        >>> agree([1, 2.0], [1.0, 2], 0), agree(0.1 + 0.2, 0.3, 0), agree("a", "b", 1e-4)
        (True, True, False)
        >>> agree([0.5], (0.5,), 0), agree([[1.0], [1.0]], [[1.0, 1.0], [1.0, 1.0]], 1e-4)
        (False, False)
    """
    if output == answer:
        return True
    if tolerance == 0 and _is_floats(answer):
        tolerance = 1e-6
    return tolerance != 0 and type(output) is type(answer) and _close(output, answer, tolerance)


def _is_floats(value) -> bool:
    """Tell whether a value is a float, or a list or tuple of nothing but floats."""
    if isinstance(value, list | tuple) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(output, answer, tolerance: float) -> bool:
    if isinstance(answer, list | tuple):
        same_form = isinstance(output, list | tuple) and len(output) == len(answer)
        return same_form and all(_close(one, other, tolerance) for one, other in zip(output, answer, strict=True))
    if not (isinstance(output, int | float | complex) and isinstance(answer, int | float | complex)):
        return False
    try:
        return output == answer or abs(output - answer) <= tolerance + _RELATIVE * abs(answer) < float("inf")
    except OverflowError:
        return False
