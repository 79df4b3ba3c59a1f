"""Lend programs the packages that benchmarks expect, read-only, and never blame a program for a test's import."""

import gzip
import json

import numpy
import pytest
from rungs import SAFE_RUNGS, open_rung

from wmtp.evaluation.sandbox import Limits, Program, Sandbox, places_by_references

QUICK = Limits(cpu_seconds=2.0, wall_seconds=30.0, memory_bytes=256 << 20)

#: (program, test, status)
PROGRAMS = (
    ("import numpy as np\ndef f(x): return np.array(x).sum()",
     "assert f([1, 2]) == 3", "passed"),
    ("import numpy as np\ndef f(x): return np.array(x) * 2",
     "assert f([1, 2]).tolist() == [2, 4]", "passed"),
    ("import numpy as np\ndef f(x): return np.array(x) * 2",
     "assert list(f([1, 2])) == [2, 4]", "passed"),
    ("import numpy as np\ndef f(x): return np.sqrt(x)",
     "assert abs(f(4.0) - 2) < 1e-9", "passed"),
    ("import numpy as np\ndef f(x): return np.array(x) > 1",
     "assert f([1, 2]).any() and not f([1, 2]).all()", "passed"),
    ("import numpy as np\ndef f(): return {'a': np.int64(1), 'b': (np.bool_(True),)}",
     "assert f() == {'a': 1, 'b': (True,)}", "passed"),
    ("import numpy as np\ndef f(): return np.linalg.det(np.eye(3))",
     "assert f() == 1.0", "passed"),
    ("import numpy.fft\ndef f(): return float(abs(numpy.fft.fft([1, 1])[0]))",
     "assert f() == 2.0", "passed"),
    ("import numpy as np\na = np.ones((300, 300)) @ np.ones((300, 300))\ndef f(): return a[0, 0]",
     "assert f() == 300", "passed"),
    ("def f(x): return x",
     "import numpy as np\nassert np.allclose(f([1.0]), [1.0])", "passed"),
    ("def f(x): return x",
     "import numpy as np\nassert np.array_equal(f(np.arange(2)), np.arange(2))", "passed"),
    ("def f(x): return [y + 1 for y in x]",
     "import numpy as np\nassert np.allclose(f([1.0]), [1.0])", "wrong"),
    ("import numpy as np\nnp.allclose = lambda *a, **k: True\ndef f(x): return 7",
     "import numpy as np\nassert np.allclose(f(1), 2)", "wrong"),
    ("import numpy\ndef f(): return open(numpy.__file__, 'a')",
     "assert f()", "error"),
    ("import numpy\nimport torch\ndef f(): return 1",
     "assert f() == 1", "error"),
    ("import numpy, os\ndef f(): return os.listdir(os.path.dirname(numpy.__file__) + '/../torch')",
     "assert f()", "error"),
    ("import numpy as np\ndef f(): return np.zeros(1 << 30)",
     "assert len(f()) == 1 << 30", "memory"),
    ("import numpy as np\ndef f(): return np.ones(1 << 20)",
     "assert f().sum() == 1 << 20", "passed"),
)  # fmt: skip


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_numpy_is_there_to_read_and_nothing_else_of_the_environment(rung):
    programs = [Program(source, (test,), limits=QUICK) for source, test, _ in PROGRAMS]
    programs.append(
        Program("import numpy as np\nprint(np.arange(int(input())).sum())", stdio=(("4", "6"),), limits=QUICK)
    )
    with open_rung(rung, workers=1) as sandbox:
        assert sandbox.packages == {"numpy": numpy.__version__}
        verdicts = [verdict for _, verdict in sorted(sandbox.judge(programs), key=lambda pair: pair[0])]
    wanted = [*(status for _, _, status in PROGRAMS), "passed"]
    assert [
        (one.source, v) for one, v, status in zip(programs, verdicts, wanted, strict=True) if v.status != status
    ] == []


def test_it_makes_no_difference_whether_numpy_is_loaded_already(sandbox):
    secret = "def f():\n    __import__('num' + 'py')\n    return 1\n#{}"
    random = "import random\ndef f(): return random.random()\n#{}"
    loads = Program("import numpy as np\ndef f(): return float(np.random.rand())", ("assert f() < 1",), limits=QUICK)
    seen = []
    with Sandbox(workers=1) as fresh:
        for run in range(2):
            asked = [Program(secret.format(run), ("assert f() == 1",), limits=QUICK)]
            asked += [Program(random.format(run), (f"assert int(f() * 10) == {n}",), limits=QUICK) for n in range(10)]
            seen.append([verdict.status for _, verdict in sorted(fresh.judge(asked), key=lambda pair: pair[0])])
            assert [verdict.passed for _, verdict in fresh.judge([loads])] == [True]
    assert seen[0] == seen[1]
    assert seen[0].count("passed") == 1 and seen[0][0] == "error"


def test_a_package_that_is_not_installed_is_the_fault_of_no_program(sandbox):
    with Sandbox(workers=1, packages=("numpy", "no_such_package")) as opened:
        assert set(opened.packages) == {"numpy"}
    with Sandbox(workers=1, packages=()) as bare:
        reference = Program("def f(x): return x", ("import numpy as np\nassert np.allclose(f(1), 1)",), limits=QUICK)
        assert places_by_references(bare, [reference]) == ["unjudgeable"]


@pytest.mark.slow
def test_the_references_of_humaneval_plus_pass(sandbox, data):
    """All but 32, whose test unpacks the number that it asks for."""
    packed = data / "evalplus" / "HumanEvalPlus-OriginFmt.jsonl.gz"
    if not packed.exists():
        pytest.skip(f"{packed} is not there")
    with gzip.open(packed, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    references = [
        Program(
            row["prompt"] + row["canonical_solution"],
            (row["test"], f"check({row['entry_point']})"),
            row["prompt"],
            entry_point=row["entry_point"],
            task_id=row["task_id"],
        )
        for row in rows
    ]
    places = places_by_references(sandbox, references)
    placed = {row["task_id"]: place for row, place in zip(rows, places, strict=True)}
    assert placed.pop("HumanEval/32") == "unjudgeable"
    assert set(placed.values()) <= {"inside", "trusting"}  # the slow ones may not end in time where all is guarded
