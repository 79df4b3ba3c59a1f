"""Keep the promises of the sandbox: what counts as passed, and what happens when something breaks."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rungs import SAFE_RUNGS, open_rung

from wmtp.errors import HarnessError, SandboxUnavailableError
from wmtp.evaluation.sandbox import Limits, Program, Sandbox, pool

QUICK = Limits(cpu_seconds=1.0, wall_seconds=10.0, memory_bytes=256 << 20)


def judge_one(sandbox: Sandbox, *arguments, **options):
    """Judge a single program."""
    [(index, verdict)] = sandbox.judge([Program(*arguments, limits=QUICK, **options)])
    assert index == 0
    return verdict


@pytest.mark.parametrize(
    ("source", "tests"),
    (
        ("def f(x): return x * x", ("y = f(3)", "assert y == 9")),
        ("def f(xs): xs.sort()", ("xs = [3, 1, 2]\nf(xs)\nassert xs == [1, 2, 3]",)),
        ("def f(d): d['new'] = 1", ("d = {}; f(d); assert d == {'new': 1}",)),
        ("def f(g, xs): return [g(x) for x in xs]", ("assert f(lambda x: x + 1, [1, 2]) == [2, 3]",)),
        ("def f(kind): return kind('7')", ("assert f(int) == 7", "assert f(str) == '7'")),
        ("def f(n):\n    for i in range(n): yield i", ("assert list(f(3)) == [0, 1, 2]",)),
        ("class P:\n    def __init__(s, x): s.x = x\ndef f(p): return p.x", ("assert f(P(4)) == 4",)),
        ("class T:\n    kids = []\ndef n(t): return len(t.kids)", ("t = T(); t.v = 1\nassert n(t) == 0",)),
        ("import re\ndef f(s): return re.match('a', s)", ("assert f('abc')", "assert not f('b')")),
        ("from collections import *\ndef f(s): return Counter(s)", ("assert f('aab') == {'a': 2, 'b': 1}",)),
        ("from collections import *\nP = namedtuple('P', 'x')\ndef f(): return P(1)", ("assert f() == (1,)",)),
        ("def f(x): return 1 << x", ("assert f(5000) == 1 << 5000",)),
        ("def f(): return float('nan'), '\\ud800\\0'", ("r = f(); assert r[0] != r[0] and r[1] == '\\ud800\\0'",)),
        ("def f(x): raise ValueError('odd')", ("try: f(1)\nexcept ValueError as e: assert str(e) == 'odd'",)),
        ("import sys\ndef f(t): return sys.getsizeof(t)", ("assert f((1, 2)) == sys.getsizeof((1, 2))",)),
        ("def sum(a, b): return a * b", ("assert sum(2, 3) == 6",)),
        ("x = [1]\ndef f(): x.append(2)", ("f()", "assert x == [1, 2]")),
        ("import math\ndef f(r): return math.pi * r", ("assert math.isclose(f(1), 3.14159, rel_tol=1e-3)",)),
    ),
)  # fmt: skip
def test_right_programs_pass_whatever_values_they_exchange(sandbox, source, tests):
    verdict = judge_one(sandbox, source, tests)
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("source", "test"),
    (
        ("from math import gcd\ndef gcd(a, b): return 0", "assert gcd(4, 6) == 2"),
        ("from math import isclose\nisclose = lambda *a, **k: True\ndef f(): return 0", "assert isclose(f(), 1.0)"),
        ("import math\nmath.isclose = lambda *a, **k: True\ndef f(): return 0", "assert math.isclose(f(), 1.0)"),
        ("def abs(x): return 0\ndef f(): return 9", "assert abs(f() - 1) < 1e-6"),
        ("def sorted(x): return [1]\ndef f(): return [2]", "assert sorted(f()) == [1]"),
        ("class C:\n    __iter__ = lambda s: iter(())\n    __contains__ = lambda s, x: True\nf = C", "assert 3 in f()"),
        ("class C:\n    __lt__ = lambda *a: 1\n    __sub__ = __abs__ = lambda *a: a[0]\nf = C", "assert f() - 1 < 1"),
        ("class C:\n    def __eq__(s, o): return True\ndef f(): return [C(), {C: C()}]", "assert f() == [1, 2]"),
    ),
)  # fmt: skip
def test_wrong_programs_do_not_pass_by_replacing_what_tests_use(sandbox, source, test):
    assert judge_one(sandbox, source, (test,)).status == "wrong"


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_every_rung_judges_alike(rung):
    programs = [
        Program("def f(x): return 2 * x", ("assert f(2) == 4",), limits=QUICK),
        Program("def f(x): return x", ("assert f(2) == 4",), limits=QUICK),
        Program("print(int(input()) * 2)", stdio=(("2\n", "4"), ("3\n", "6.0000001")), limits=QUICK),
        Program("while True: pass", ("assert f(2) == 4",), limits=QUICK),
    ]
    with open_rung(rung) as sandbox:
        assert sandbox.isolation.startswith(rung)
        verdicts = dict(sandbox.judge(programs))
    assert [verdicts[index].status for index in range(4)] == ["passed", "wrong", "passed", "timeout"]


def test_the_reason_names_no_test_and_no_value(sandbox):
    secret = "assert f('the secret') == 'the answer'"
    for source in ("def f(x): raise ValueError(x)", "def f(x): return x", "def f(x): raise type(x, (Exception,), {})"):
        verdict = judge_one(sandbox, source, (secret,))
        assert verdict.status in ("wrong", "error")
        assert "secret" not in verdict.message and "answer" not in verdict.message


def test_a_random_program_gets_the_same_verdict_each_time(sandbox):
    source = "import random\nkept = [random.random(), hash('word')]\ndef f(): return kept"
    first = judge_one(sandbox, source + "\n", ("assert f() == 0",))
    assert first.status == "wrong"
    seen = set()
    for rerun in range(3):  # a different text each time, so that nothing comes from memory
        for digit in range(10):
            test = f"assert int(f()[0] * 10) == {digit} and f()[1] % 10 >= 0"
            if judge_one(sandbox, f"{source}\n# {rerun}", (test,)).passed:
                seen.add(digit)
    assert len(seen) == 1


def test_identical_programs_are_judged_once(sandbox):
    program = Program("import os\ndef f(): return 1  # identical", ("assert f() == 1",), limits=QUICK)
    verdicts = [verdict for _, verdict in sandbox.judge([program] * 5)]
    assert len(verdicts) == 5
    assert len({verdict.seconds for verdict in verdicts}) == 1


def test_programs_are_pulled_only_as_needed(sandbox):
    pulled = itertools.count()
    endless = (
        Program(f"def f(): return {next(pulled)}", ("assert f() >= 0",), limits=QUICK) for _ in itertools.count()
    )
    first = list(itertools.islice(sandbox.judge(endless), 5))
    assert all(verdict.passed for _, verdict in first)
    assert next(pulled) <= 5 + 3 * sandbox.workers
    assert judge_one(sandbox, "def f(): return 'after giving up'", ("assert f()",)).passed


def test_identical_programs_without_end_are_not_all_pulled(sandbox):
    pulled = itertools.count()
    same = (Program("def f(): return 1  # the same", ("assert f() == 1",), limits=QUICK) for _ in pulled)
    assert all(verdict.passed for _, verdict in itertools.islice(sandbox.judge(same), 300))
    assert next(pulled) < 300 + 70 * sandbox.workers


def test_a_judge_that_dies_is_a_harness_error_and_not_a_wrong_answer(sandbox):
    end = "import sys; sys.modules['os']._exit(1)"
    killer = Program("def f(): return 1", (end,), task_id="killer/1", limits=QUICK)
    others = [Program(f"def f(): return {n}  # not stopped", (f"assert f() == {n}",), limits=QUICK) for n in range(6)]
    verdicts = dict(sandbox.judge([killer, *others]))
    assert verdicts.pop(0).status == "harness_error"
    assert all(verdict.passed for verdict in verdicts.values()) and len(verdicts) == 6


def test_an_evaluation_stops_where_nothing_can_be_judged_any_more(monkeypatch):
    with Sandbox(workers=1) as sandbox, monkeypatch.context() as patch:
        patch.setattr(pool._Worker, "probe", lambda worker: "the probe ended")
        end = "import sys; sys.modules['os']._exit(1)"
        with pytest.raises(HarnessError, match="workers end, and the probe ended"):
            list(sandbox.judge([Program("def f(): return 1", (end,), limits=QUICK)]))


def test_a_dead_worker_is_replaced_and_its_program_judged_again(sandbox):
    programs = [
        Program(f"import time\ntime.sleep(0.3)\ndef f(): return {n}", (f"assert f() == {n}",)) for n in range(6)
    ]
    verdicts = sandbox.judge(programs)
    first = next(verdicts)
    os.kill(sandbox._pool[0].process.pid, signal.SIGKILL)
    assert all(verdict.passed for _, verdict in [first, *verdicts])


def test_the_memory_of_this_process_stays_small_whatever_programs_print(sandbox):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    floods = [Program(f"while True: print('{n}' * 10000)", ("assert 1",), limits=QUICK) for n in range(8)]
    assert {verdict.status for _, verdict in sandbox.judge(floods)} == {"output"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_scripts_are_compared_as_deepmind_does(sandbox):
    source = "print('Yes', 1.000001, '  x')"
    assert judge_one(sandbox, source, stdio=(("", "YES 1.0\nX\n"),)).passed
    assert judge_one(sandbox, source, stdio=(("", "YES 1.001 X"),)).status == "wrong"
    stopped = judge_one(sandbox, "print(input())", stdio=(("1", "1"), ("2", "3"), ("3", "3")))
    assert stopped.message == "printed something else in test 2 of 3"


def test_nothing_safe_is_refused_and_unsafe_has_to_be_allowed(monkeypatch):
    monkeypatch.setattr(pool, "_LADDER", ())
    with pytest.raises(SandboxUnavailableError, match=r"sandbox\.allow_unsafe=true"), Sandbox(workers=1):
        pass
    with Sandbox(workers=1, allow_unsafe=True) as sandbox:
        assert sandbox.isolation.startswith("unsafe")
        assert judge_one(sandbox, "def f(): return 1", ("assert f() == 1",)).passed


_VICTIM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background suite has it ignored
from wmtp.evaluation.sandbox import Limits, Program, Sandbox
source, limits = "import time\\ntime.sleep(1000 + {})", Limits(wall_seconds=300)
sleeper = [Program(source.format(n), ("pass",), limits=limits) for n in range(2)]
with Sandbox(workers=2, rung=sys.argv[1]) as sandbox:
    print(*[worker.process.pid for worker in sandbox._pool], flush=True)
    list(sandbox.judge(sleeper))
"""


def descendants(pid: int) -> set[int]:
    """List a process and everything below it."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= descendants(int(child))
    return found


@pytest.mark.parametrize("rung", SAFE_RUNGS)
@pytest.mark.parametrize("end", (signal.SIGKILL, signal.SIGINT))
def test_nothing_survives_the_end_of_the_evaluation(rung, end, untouched_machine):
    open_rung(rung)
    root = Path(__file__).parents[2]
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, rung], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, text=True
    )
    workers = [int(pid) for pid in victim.stdout.readline().split()]
    time.sleep(0.5)
    family = set().union(*map(descendants, workers))
    assert len(family) >= 6  # twice a judge, a zygote and a program
    victim.send_signal(end)
    victim.wait(timeout=10)
    victim.stdout.close()
    deadline = time.monotonic() + 5
    while (alive := {pid for pid in family if _runs(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive
    _reap_orphans()


def _runs(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _reap_orphans() -> None:
    """Take the dead that this process inherited as a subreaper: their real parent was killed on purpose."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


_LIKE_DOCKER = """
from wmtp.evaluation.sandbox import Program, Sandbox
from wmtp.evaluation.sandbox.worker import kernel
new_namespaces = [kernel.load_argument(0), (kernel.JUMP_ANY_BIT, 0, 1, kernel.CLONE_NEW_ANYTHING)]
new_namespaces += [(kernel.RETURN, 0, 0, kernel.REFUSE | kernel.EPERM), (kernel.RETURN, 0, 0, kernel.ALLOW)]
refused = dict.fromkeys(("unshare", "mount", "setns", "pivot_root"), kernel.EPERM) | {"clone3": kernel.ENOSYS}
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
kernel.seccomp(kernel.seccomp_filter(refused, {"clone": new_namespaces}))
with Sandbox(workers=1) as sandbox:
    good = Program("def f(x): return x", ("assert f(1) == 1",))
    bad = Program("import os\\ndef f(x): return os.fork()", ("assert f(1) == 1",))
    print(sandbox.isolation, *[verdict.status for _, verdict in sorted(sandbox.judge([good, bad]))])
"""


def test_where_namespaces_are_refused_as_in_docker_the_next_rung_is_used():
    open_rung("landlock")
    done = subprocess.run(
        [sys.executable, "-c", _LIKE_DOCKER], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["landlock+seccomp", "passed", "error"], done.stderr


_AS_NOBODY = """
from wmtp.evaluation.sandbox import Program, Sandbox
with Sandbox(workers=1) as sandbox:
    good = Program("import os\\ndef f(x):\\n    open('own', 'w').close()\\n    return x", ("assert f(1) == 1",))
    bad = Program("import os\\ndef f(x): return os.listdir('/root')", ("assert f(1) == 1",))
    bomb = Program("import os\\ndef f(x):\\n    while True: os.fork()", ("assert f(1) == 1",))
    print(sandbox.isolation, *[verdict.status for _, verdict in sorted(sandbox.judge([good, bad, bomb]))])
"""


@pytest.mark.parametrize("groups", ((), (65534,)))
def test_an_ordinary_user_is_served_as_well(readable_copy, groups):
    python, root = readable_copy
    done = subprocess.run(
        [python, "-c", _AS_NOBODY], cwd=root, user=65534, group=65534, extra_groups=groups,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    isolation, *statuses = done.stdout.split() or pytest.fail(done.stderr)
    assert not isolation.startswith("unsafe")
    assert statuses == ["passed", "error", "error"]


def test_a_package_that_lies_in_tmp_is_seen_behind_the_tmp_of_programs(tmp_path, monkeypatch):
    """As numpy is where the whole environment lies there."""
    open_rung("namespaces")
    (tmp_path / "lies_in_tmp").mkdir()
    (tmp_path / "lies_in_tmp/__init__.py").write_text("VALUE = 7")
    monkeypatch.syspath_prepend(tmp_path)
    if not str(tmp_path).startswith("/tmp/"):
        pytest.skip("the folders of tests are not in /tmp here")
    program = Program("import lies_in_tmp\ndef f(): return lies_in_tmp.VALUE", ("assert f() == 7",))
    with Sandbox(workers=1, rung="namespaces", packages=("lies_in_tmp",)) as sandbox:
        assert [verdict.status for _, verdict in sandbox.judge([program])] == ["passed"]
