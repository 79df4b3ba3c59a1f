"""Hold the rows of HumanEval+ and MBPP+ to one meaning, whichever of their two formats they come in."""

import ast
import json
from pathlib import Path

import pytest

from tests.real_data import DATA, real_data
from wmtp.data.evalplus import as_python
from wmtp.data.prompts import BigcodeMbpp0Shot
from wmtp.data.sources import HumanEval, HumanEvalPlus, Mbpp, MbppPlus

HUMANEVAL = {
    "task_id": "HumanEval/1",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
}
OWN_HUMANEVAL = HUMANEVAL | {"base_input": [[1], [2], [[3]], [4.5]], "plus_input": [["a"]], "atol": 1e-06}
ORIGINAL_HUMANEVAL = HUMANEVAL | {
    "test": "import numpy as np\n\ndef check(candidate):\n    inputs = [[1], [2], [[3]], [4.5], ['a']]\n"
    "    results = [1, 2, [3], 4.5, 'a']\n    for i, (inp, exp) in enumerate(zip(inputs, results)):\n"
    "        assertion(candidate(*inp), exp, 1e-06)\n"
}
OWN_MBPP = {
    "task_id": "Mbpp/106",
    "prompt": '"""\nAdd the list to the tuple.\nassert add([1, 2], (3,)) == (3, 1, 2)\n"""\n',
    "entry_point": "add",
    "canonical_solution": "def add(a, b):\n    return b + tuple(a)\n",
    "base_input": [[[1, 2], [3]], [[4], [5]]],
    "plus_input": [[[], [float("inf")]]],
    "atol": 0,
    "assertion": "\nassert add([1, 2], (3,)) == (3, 1, 2)\nassert add([4], (5,)) == (5, 4)\n",
}
ORIGINAL_MBPP = {
    "task_id": 106,
    "prompt": "Add the list to the tuple.",
    "code": OWN_MBPP["canonical_solution"],
    "test_imports": [],
    "test_list": ["assert add([1, 2], (3,)) == (3, 1, 2)", "assert add([4], (5,)) == (5, 4)"],
    "test": "import numpy as np\nfrom math import inf\n\ninputs = [[[1, 2], (3,)], [[4], (5,)], [[], (inf,)]]\n"
    "results = [(3, 1, 2), (5, 4), (inf,)]\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n"
    "    assertion(add(*inp), exp, 0)\n",
}


def written(folder: Path, row: dict) -> Path:
    file = folder / f"{len(list(folder.iterdir()))}.jsonl"
    file.write_text(json.dumps(row) + "\n")
    return file


@pytest.mark.parametrize("source", [HumanEvalPlus, HumanEval])
def test_both_formats_of_humaneval_plus_are_one_problem(tmp_path, source):
    own, original = (source(written(tmp_path, row)).problems("test")[0] for row in (OWN_HUMANEVAL, ORIGINAL_HUMANEVAL))
    assert own == original
    assert own.inputs == "[[1], [2], [[3]], [4.5], ['a']]" and own.base_inputs == 4 and own.tolerance == 1e-6
    assert (own.tests, own.agreement, own.solutions) == ((), "", ("def f(x):\n    return x\n",))


@pytest.mark.parametrize("source", [MbppPlus, Mbpp])
def test_both_formats_of_mbpp_plus_are_one_problem(tmp_path, source):
    own, original = (source(written(tmp_path, row)).problems("all")[0] for row in (OWN_MBPP, ORIGINAL_MBPP))
    assert own == original
    assert own.inputs == "[[[1, 2], (3,)], [[4], (5,)], [[], (inf,)]]" and own.base_inputs == 2
    assert (own.task_id, own.split, own.entry_point) == ("mbpp/106", "test", "add")
    assert BigcodeMbpp0Shot().render(own) == OWN_MBPP["prompt"]


def test_json_becomes_the_types_that_programs_expect():
    assert as_python(2, [[[1], [2]]]) == [[(1,), (2,)]]
    assert as_python(63, [[[[1, 2], [3]]]]) == [[[(1, 2), (3,)]]]
    assert as_python(307, [[[1], 2, 3]]) == [[(1,), 2, 3]]
    assert as_python(115, [[[[1, 1], [], 2]]]) == [[[{1}, {}, {}]]]
    assert as_python(124, [["1", "2j"]]) == [[1.0, 2j]]
    assert as_python(259, [[[[1, 2]], [[3, 4]]]]) == [[((1, 2),), ((3, 4),)]]
    assert as_python(580, [[[1, [2, [3]]]]]) == [[(1, (2, (3,)))]]
    assert as_python(722, [[{"a": [1]}, 2, 3]]) == [[{"a": (1,)}, 2, 3]]
    assert as_python(3, [[[1]]]) == [[[1]]]


@real_data
@pytest.mark.parametrize(("source", "rows"), [(HumanEvalPlus, 164), (MbppPlus, 378)])
def test_every_row_of_evalplus_says_the_same_in_both_formats(source, rows):
    """The files in the format of the original data sets leave out inputs that are there twice, and nothing else."""
    folder = Path(DATA) / "evalplus"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    own, original = (source(folder / f"{source.__name__}{end}.jsonl.gz").problems("all") for end in ("", "-OriginFmt"))
    assert len(own) == len(original) == rows
    for one, other in zip(own, original, strict=True):
        assert (one.task_id, one.entry_point, one.agreement) == (other.task_id, other.entry_point, other.agreement)
        assert one.agreement or one.tolerance == other.tolerance, one.task_id
        if len(one.inputs) < 3000 and "inf" not in one.inputs + other.inputs:  # the long ones take half a minute
            inputs, fewer = (list(map(list, ast.literal_eval(problem.inputs))) for problem in (one, other))
            once = {repr(arguments): None for arguments in inputs}
            assert once.keys() == {repr(arguments) for arguments in fewer}, one.task_id
            base = {repr(arguments): None for arguments in inputs[: one.base_inputs]}
            assert list(base) == [repr(arguments) for arguments in fewer[: other.base_inputs]], one.task_id
