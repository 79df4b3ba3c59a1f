"""Read the rows of EvalPlus' HumanEval+ and MBPP+, in their own format or in that of the data sets they extend.

[연구 맥락] 사람들이 인용하는 HumanEval+와 MBPP+는 (Liu et al. 2023, EvalPlus) 시험이 수십 배인 같은 문제들이다.
    비교하는 법은 `evalplus` 0.3.1을 따른다: 소수의 오차, 집합으로 비교하는 문제, 옳은 값이 여럿인 문제.
    계약(contract)은 입력을 고르는 데 쓰인 것이고, 프로그램에는 강요하지 않는다.
[동작] 어느 형식이든 같은 Problem이 된다. 옳은 값은 파일의 것이 아니라 참조 정답이 돌려주는 것이다. 원래의 형식에는
    겹치는 입력이 빠져 있고 base와 plus의 경계가 없다: 앞에 있는 base 입력의 수를 여기서 안다.
[디버깅] 한 문제의 입력은 `Problem.inputs`에 파이썬 글로 있다.
"""

import re
from collections.abc import Callable
from typing import Any

from wmtp.data.problem import Problem
from wmtp.data.rows import Row

# EvalPlus gives a program that long for all inputs, and that much memory.
SECONDS, BYTES = 60.0, 4 << 30
_INPUTS = re.compile(r"^[ \t]*inputs = (\[.*\])$", re.MULTILINE)
_TOLERANCE = re.compile(r"\bexp, ([\d.e+-]+)\)\s*$")

# How many inputs of HumanEval's own the file in HumanEval's format has of each problem: they come first.
HUMANEVAL_BASE = (
    7, 4, 3, 6, 3, 3, 3, 4, 5, 4, 5, 3, 3, 4, 3, 3, 5, 5, 4, 5, 5, 5, 3, 3, 5, 8, 3, 3, 3, 2, 4, 12, 99, 7, 1, 2, 8,
    3, 100, 10, 9, 5, 3, 9, 12, 3, 4, 5, 7, 7, 100, 7, 6, 105, 7, 5, 12, 8, 4, 5, 5, 12, 5, 7, 7, 5, 8, 7, 8, 25, 9,
    9, 6, 8, 9, 4, 10, 9, 7, 4, 8, 6, 16, 5, 5, 4, 7, 6, 7, 8, 6, 6, 10, 5, 9, 7, 10, 8, 7, 5, 5, 6, 8, 12, 4, 5, 4,
    8, 8, 5, 7, 7, 9, 3, 12, 5, 7, 7, 13, 12, 11, 7, 5, 4, 16, 8, 13, 8, 8, 10, 10, 7, 14, 12, 10, 5, 11, 8, 8, 4,
    5, 26, 11, 7, 12, 6, 7, 4, 7, 7, 10, 7, 4, 9, 6, 8, 14, 11, 10, 6, 3, 8, 4, 4,
)  # fmt: skip
MBPP_BASE = {3: 5, 162: 4, 223: 3, 780: 4, 799: 6}  # in MBPP's format; of the others, as many as there are tests

# What the values of a few problems mean, where equal is not what was asked for.
_AS_SETS = "def agree(input, output, answer):\n    return set(output) == set(answer)\n"
_THERE_OR_NOT = """
def agree(input, output, answer):
    found = answer is not None
    return output == found if isinstance(output, bool) else found == (output is not None)
"""
HUMANEVAL_AGREEMENTS = {
    32: """
import math
def agree(input, output, answer):  # any root of the polynomial
    [coefficients] = input
    return abs(sum(factor * math.pow(output, power) for power, factor in enumerate(coefficients))) <= 1e-4
"""
}
MBPP_AGREEMENTS = {
    **dict.fromkeys((2, 7, 111, 140, 232, 249, 579, 769), _AS_SETS),
    **dict.fromkeys((737, 787, 794), _THERE_OR_NOT),
    164: "def agree(input, output, answer):\n    return True\n",  # the statement does not say what is asked
    295: "def agree(input, output, answer):\n    return output == answer or output == 0\n",
    558: """
def agree(input, output, answer):  # of numbers of different lengths, the shorter may be padded with zeros
    one, other = map(str, input)
    length = max(len(one), len(other))
    pairs = zip(one.zfill(length), other.zfill(length))
    return output == answer or output == sum(abs(int(left) - int(right)) for left, right in pairs)
""",
    581: """
import math
def agree(input, output, answer):  # the height may be that of the pyramid or that of its sides
    base, height = input
    return output == answer or output == round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))
""",
}


def is_plus(row: Row) -> bool:
    """Tell whether a row is one of EvalPlus', whichever the format."""
    return _is_own(row) or bool(_INPUTS.search(str(row.values.get("test"))))


def humaneval_plus(row: Row, licence: str) -> Problem:
    """Read a row of HumanEval+."""
    prompt, task_id = row.text("prompt"), row.text("task_id")
    number = _number(row, task_id, "HumanEval", len(HUMANEVAL_BASE))
    return Problem(
        task_id=task_id,
        source="humaneval",
        split="test",
        text=prompt,
        solutions=(prompt + row.text("canonical_solution"),),
        entry_point=row.text("entry_point"),
        agreement=HUMANEVAL_AGREEMENTS.get(number, ""),
        licence=licence,
        **_calls(row, lambda _, inputs: inputs, number, HUMANEVAL_BASE[number]),
    )


def mbpp_plus(row: Row, split: Callable[[int, Row], str], called: Callable, licence: str) -> Problem:
    """Read a row of MBPP+; the tests that a prompt may show are those of MBPP."""
    if _is_own(row):
        number = _number(row, row.text("task_id"), "Mbpp", 975)
        docstring = row.text("prompt").strip().removeprefix('"""').removesuffix('"""').strip("\n")
        text, _, shown = docstring.rpartition("\nassert ")
        tests = (f"assert {shown}", *row.text("assertion").strip().split("\n")[1:])
        code, entry_point = row.text("canonical_solution"), row.text("entry_point")
    else:
        number = row.get("task_id", int)
        text, tests, code = row.text("prompt"), row.texts("test_list"), row.text("code")
        asked = re.findall(r"assertion\((\w+)\(\*inp\)", row.text("test"))
        entry_point = asked[-1] if asked else called("\n".join(tests), code)
    return Problem(
        task_id=f"mbpp/{number}",
        source="mbpp",
        split=split(number, row),
        text=text,
        solutions=(code,),
        tests=tests,
        entry_point=entry_point,
        agreement=MBPP_AGREEMENTS.get(number, ""),
        licence=licence,
        **_calls(row, as_python, number, MBPP_BASE.get(number, len(tests))),
    )


def _calls(row: Row, read: Callable[[int, list], list], number: int, base: int) -> dict[str, Any]:
    """Read the inputs and how many of them are the base ones, the tolerance, and the limits."""
    allowed = {"time_limit": SECONDS, "memory_limit": BYTES}
    if _is_own(row):
        inputs = {key: row.values.get(key) or [] for key in ("base_input", "plus_input")}  # MBPP+ 793 has {} for none
        for key, values in inputs.items():
            if not isinstance(values, list) or not all(isinstance(arguments, list) for arguments in values):
                raise row.error(key, "must be a list of lists of arguments")
            inputs[key] = read(number, values)
        text, base = repr([one for values in inputs.values() for one in values]), len(inputs["base_input"])
        return {"inputs": text, "base_inputs": base, "tolerance": float(row.get("atol", int | float, 0)), **allowed}
    test = row.text("test")
    tolerance = _TOLERANCE.search(test)
    known = {"tolerance": float(tolerance[1])} if tolerance else {}
    return {"inputs": _INPUTS.findall(test)[0], "base_inputs": base, **known, **allowed}


def _is_own(row: Row) -> bool:
    """Tell whether a row is in EvalPlus' own format."""
    return row.values.get("plus_input") is not None


def _number(row: Row, task_id: str, name: str, end: int) -> int:
    found = re.fullmatch(rf"{name}/(\d+)", task_id)
    if not found or int(found[1]) >= end:
        raise row.error("task_id", f"= {task_id} must be {name}/0 to {name}/{end - 1}")
    return int(found[1])


def _keep(value: Any) -> Any:
    return value


def _of_tuples(values: list) -> list[tuple]:
    return [tuple(value) for value in values]


def _all_tuples(value: Any) -> Any:
    return tuple(map(_all_tuples, value)) if isinstance(value, list) else value


# JSON has no tuples: what the arguments of these problems are made of, one after the other; the last goes for the rest.
_FORMS: dict[tuple[int, ...], tuple[Callable, ...]] = {
    (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809):
        (tuple,),
    (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780): (_of_tuples,),
    (75, 413, 444, 753): (_of_tuples, _keep),
    (106, 750): (_keep, tuple),
    (115,): (lambda values: [set(value) if isinstance(value, list) and value else {} for value in values],),
    (124,): (float, complex),
    (250, 307, 405, 446, 617, 720, 763, 808): (tuple, _keep),
    (252,): (complex,),
    (259, 401, 445): (lambda values: tuple(_of_tuples(values)),),
    (278,): (lambda values: tuple(tuple(value) if isinstance(value, list) else value for value in values),),
    (580, 615, 791): (_all_tuples,),
    (722,): (lambda values: {key: tuple(value) for key, value in values.items()}, _keep),
}  # fmt: skip
_FORM = {number: forms for numbers, forms in _FORMS.items() for number in numbers}


def as_python(number: int, inputs: list[list]) -> list[list]:
    """Give the arguments of an MBPP+ problem, as JSON has them, the types that its programs expect.

    Example:
        >>> as_python(106, [[[1, 2], [3]]])
        [[[1, 2], (3,)]]
    """
    forms = _FORM.get(number, (_keep,))
    return [[forms[min(place, len(forms) - 1)](value) for place, value in enumerate(one)] for one in inputs]
