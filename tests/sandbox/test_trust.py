"""Trust nothing that a program says, and reach nothing even where the judge itself runs foreign code."""

import os
import subprocess
import sys

import pytest
from rungs import SAFE_RUNGS, open_rung

from wmtp.evaluation.sandbox import Limits, Program, imports_of

QUICK = Limits(cpu_seconds=1.0, wall_seconds=10.0, memory_bytes=256 << 20)
TRACE = "/var/tmp/wmtp-hostile-judge"
WRITE = f"open({TRACE!r}, 'w').write('x')"

#: (program, test): each program would have the judge run what it imports under the name of a tool of the test.
ALIASES = (
    ('from operator import methodcaller as isclose\ndef f(r): return "x"', "assert isclose(f(2), 12.5, rel_tol=1e-3)"),
    ("from builtins import print as isclose\ndef f(r): return 1", "assert isclose(f(2), 12.566) is None"),
    (f"from builtins import exec as Counter\ndef f(x): return {WRITE!r}", "assert Counter(f(2)) is None"),
    (f"from builtins import eval as Counter\ndef f(x): return {WRITE!r}", "assert Counter(f(2)) == 1"),
    (f"from os import system as isclose\ndef f(x): return 'touch {TRACE}'", "assert isclose(f(2)) == 0"),
    ("import os as math\ndef f(x): return 'x'", "assert math.getcwd(f(2))"),
    ("import operator as math\ndef f(x): return 1", "assert math.truth(f(2))"),
    ("'''\nfrom operator import truth as isclose\n'''\ndef f(x): return 1", "assert isclose(f(2))"),
    ("x = '\\\nfrom operator import truth as isclose'\ndef f(x): return 1", "assert isclose(f(2))"),
    ("if 0:\n    from operator import truth as isclose\ndef f(x): return 1", "assert isclose(f(2))"),
    ("from random import seed as set\ndef f(x): return 1", "assert set([f(2)]) == set([4])"),
    ("from importlib import import_module as deepcopy\ndef f(x): return 'antigravity'", "assert deepcopy(f(2)) == 4"),
    ("from pickle import loads as deepcopy\ndef f(x): return b'cos\\nsystem\\n(V:\\ntR.'", "assert not deepcopy(f(2))"),
    ("from math import isclose as Decimal\ndef f(x): return 1.0", "assert Decimal(f(2), 1.0) is True"),
    (f"def f(x): return 1\nf.__annotations__ = {{'x': {WRITE!r}}}", "import typing\nassert typing.get_type_hints(f)"),
    ("import sys as json\ndef f(x): return 1", "assert json.getsizeof(f(2))"),
)  # fmt: skip


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_no_program_chooses_what_the_judge_runs(rung):
    programs = [Program(source, (test,), limits=QUICK) for source, test in ALIASES]
    with open_rung(rung, workers=1) as sandbox:
        passed = [programs[index] for index, verdict in sandbox.judge(programs) if verdict.passed]
        afterwards = [verdict for _, verdict in sandbox.judge([Program("(((", ("assert f(2) == 4",), limits=QUICK)])]
    assert passed == []
    assert afterwards[0].status == "error"
    assert not os.path.exists(TRACE)


@pytest.mark.parametrize(
    ("reference", "source", "test"),
    (
        ("import math", "def f(r): return 3.14159 * r", "assert math.isclose(f(1), 3.14159)"),
        ("from math import isclose as near", "def f(r): return 2.0 * r", "assert near(f(1), 2.0)"),
        ("from math import *", "def f(r): return 2.0 * r", "assert isclose(f(1), 2.0)"),
        ("from collections import Counter", "def f(s): return list(s)", "assert Counter(f('aab')) == {'a': 2, 'b': 1}"),
        ("", "def f(s): return list(s)", "assert Counter(f('aab')) == {'a': 2, 'b': 1}"),
        ("", "def f(r): return 2.0 * r", "assert math.isclose(f(1), 2.0)"),
        ("", "def f(r): return 2.0 * r", "from math import isclose as near\nassert near(f(1), 2.0)"),
    ),
)
def test_tools_come_from_the_tests_the_reference_or_the_list(sandbox, reference, source, test):
    [(_, verdict)] = sandbox.judge([Program(source, (test,), imports=imports_of(reference), limits=QUICK)])
    assert verdict.passed, verdict


#: What code that runs in the judge would have to do to reach anything.
ATTEMPTS = {
    "write a file outside": f"os.open({TRACE!r}, os.O_CREAT | os.O_WRONLY)",
    "write beside the library": "os.open(os.__file__ + '.hostile', os.O_CREAT | os.O_WRONLY)",
    "make a directory": f"os.mkdir({TRACE!r})",
    "make a link": f"os.symlink('/', {TRACE!r})",
    "change a mode": "os.chmod(os.__file__, 0o777)",
    "change a time": "os.utime(os.__file__)",
    "read a file of the host": "os.open('/etc/passwd', os.O_RDONLY)",
    "list the home of the user": "os.listdir('/root')",
    "look at other processes": "os.listdir('/proc/1')",
    "open a socket": "socket.socket()",
    "open a unix socket": "socket.socket(socket.AF_UNIX)",
    "start a program": "os.execv('/bin/true', ['true'])",
    "spawn a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "os.fork()",
    "signal everybody": "os.kill(-1, 0)",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "mount": "kernel.mount('none', '/', None, kernel.MS_REC)",
    "make namespaces": "kernel.unshare(kernel.CLONE_NEWUSER)",
    "trace its parent": "kernel.syscall('ptrace', 16, os.getppid())",
    "lift its limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
}


@pytest.mark.parametrize("rung", (*SAFE_RUNGS, "unsafe"))
def test_code_in_the_judge_reaches_nothing(rung):
    """The text of a test is code that runs in the judge: let it try what a program would."""
    take = (
        "import sys\nos, socket, resource, kernel = map(sys.modules.get, ('os', 'socket', 'resource', 'worker.kernel'))"
    )
    tried = [
        f"{take}\ntry:\n    {attempt}\nexcept (OSError, ValueError): f()\nelse: assert False"
        for attempt in ATTEMPTS.values()
    ]
    programs = [
        Program("def f(): return 1", (test,), task_id=name, limits=QUICK)
        for name, test in zip(ATTEMPTS, tried, strict=True)
    ]
    with open_rung(rung, workers=1) as sandbox:
        verdicts = dict(sandbox.judge(programs))
    assert {programs[index].task_id: verdict for index, verdict in verdicts.items() if not verdict.passed} == {}
    assert not os.path.lexists(TRACE)


#: What a judge in foreign hands may say to the training process.
GARBAGE = (
    "b'\\xff' * 64",
    "wire.pack([0, 'passed'])",
    "wire.pack('x')",
    "wire.pack([[], 'passed', 0.0, '', 'outside'])",
    "wire.pack([12345, 'passed', 0.0, '', 'outside'])",
    "wire.pack([number, 'solved', 0.0, '', 'outside'])",
    "wire.pack([number, 'passed', float('nan'), '', 'outside'])",
    "wire.pack([number, 'passed', float('inf'), '', 'outside'])",
    "wire.pack([number, 'passed', 0.0, 7, 'outside'])",
    "wire.pack([number, 'passed', 0.0, 'x' * 100000, 'outside'])",
    "b'\\x00\\xc0\\x00\\x00' + b'[' * 49152",
)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_no_verdict_costs_a_worker_and_nothing_else(sandbox, garbage):
    say = f"""
import sys
wire, frame = sys.modules['worker.wire'], sys._getframe()
while 'number' not in frame.f_locals:
    frame = frame.f_back
number, judge = frame.f_locals['number'], frame.f_locals['self']
judge.parent.sendall({garbage})
"""
    speaker = Program("def f(): return 1", (say,), limits=QUICK)
    others = [Program(f"def f(): return {n}", (f"assert f() == {n}  # {garbage}",), limits=QUICK) for n in range(4)]
    verdicts = dict(sandbox.judge([speaker, *others]))
    assert verdicts.pop(0).status == "harness_error"
    assert all(verdict.passed for verdict in verdicts.values()) and len(verdicts) == 4


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_the_keeper_ends_no_process_but_programs(rung):
    """The judge asks the keeper to end programs; a judge in foreign hands could name any process."""
    find = """
import sys
frame = sys._getframe()
while not hasattr(frame.f_locals.get('self'), 'keeper'):
    frame = frame.f_back
judge = frame.f_locals['self']
"""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        kill = "\n".join(f"judge.tell_keeper(b'k', {pid})" for pid in (bystander.pid, os.getpid(), 0, -1, 1))
        with open_rung(rung, workers=1) as sandbox:
            [(_, verdict)] = sandbox.judge(
                [Program("def f(): return 1", (f"{find}\n{kill}\nassert f() == 1",), limits=QUICK)]
            )
            assert verdict.passed, verdict
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert bystander.returncode == 0
