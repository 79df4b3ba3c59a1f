"""Run scripts as an online judge would: with the files, names and devices that they expect."""

import pytest
from rungs import SAFE_RUNGS, open_rung

from wmtp.evaluation.sandbox import Limits, Program

QUICK = Limits(cpu_seconds=2.0, wall_seconds=30.0, memory_bytes=256 << 20)
STDIO = (("3\n1 2 3\n", "6\n"), ("1\n-5\n", "-5\n"))

#: Scripts that sum up the numbers of the second line.
HONEST = (
    "d = open('/dev/stdin').read().split()\nprint(sum(map(int, d[1:])))",
    "d = open('/proc/self/fd/0').read().split()\nprint(sum(map(int, d[1:])))",
    "import os\nd = os.read(os.open('/dev/stdin', os.O_RDONLY), 99).split()\nprint(sum(map(int, d[1:])))",
    "import io\nd = io.open('/dev/fd/0', 'rb').read().split()\nprint(sum(map(int, d[1:])))",
    "from pathlib import Path\nd = Path('/dev/stdin').read_text().split()\nprint(sum(map(int, d[1:])))",
    "import codecs\nd = codecs.open('/dev/stdin', 'r', 'utf-8').read().split()\nprint(sum(map(int, d[1:])))",
    "import sys\nsys.stdin = open('/dev/stdin')\ninput()\nprint(sum(map(int, input().split())))",
    "import sys\nn = input()\nd = open('/dev/stdin').read().split()\nprint(sum(map(int, d[1:])))",
    "import fileinput\nd = [w for l in fileinput.input('/dev/stdin') for w in l.split()]\nprint(sum(map(int, d[1:])))",
    "input()\nprint(sum(map(int, input().split())), file=open('/dev/stdout', 'w'))",
    "input()\nwith open('/proc/self/fd/1', 'w') as out: out.write(str(sum(map(int, input().split()))))",
    "import os\ninput()\nos.write(os.open('/dev/stdout', os.O_WRONLY), str(sum(map(int, input().split()))).encode())",
    "input()\nopen('/dev/stderr', 'w').write('debug')\nprint(sum(map(int, input().split())))",
    "input()\nopen('/dev/null', 'w').write('x')\nprint(sum(map(int, input().split())))",
    "import numpy as np\nd = np.fromfile('/dev/stdin', dtype=int, sep=' ')\nprint(d[1:].sum())",
    "input()\nassert 'assert' in open(__file__).read()\nprint(sum(map(int, input().split())))",
    "import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\ninput()\nprint(sum(map(int, input().split())))",
    "import inspect\ndef f(): return 1\nassert 'return 1' in inspect.getsource(f)\n"
    "input()\nprint(sum(map(int, input().split())))",
    "import inspect\nclass C:\n    x = 1\nassert 'x = 1' in inspect.getsource(C)\n"
    "input()\nprint(sum(map(int, input().split())))",
    "import sys\nassert sys.argv[0].endswith('.py') and len(sys.argv) == 1\n"
    "input()\nprint(sum(map(int, input().split())))",
)  # fmt: skip
DISHONEST = (
    "open('/dev/stdout', 'w')",
    "print(open('/dev/stdin').read())",
    "open('/proc/self/fd/3').read()",
    "open('/proc/1/environ').read()",
    "open('/proc/self/mem', 'rb+').read()",
    "open('/dev/mem').read()",
    "print(open('/dev/fd/../../etc/passwd').read())",
)


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_scripts_find_the_files_that_they_expect_and_no_others(rung):
    programs = [Program(source, stdio=STDIO, limits=QUICK) for source in HONEST + DISHONEST]
    with open_rung(rung) as sandbox:
        verdicts = dict(sandbox.judge(programs))
    failed = {programs[index].source: verdict for index, verdict in verdicts.items() if not verdict.passed}
    assert set(failed) == set(DISHONEST), failed


_READ = "a = open('input.txt').read().split()[1:]\n"
FILES = (
    (_READ + "open('output.txt', 'w').write(str(sum(map(int, a))))", "passed"),
    (_READ + "with open('output.txt', 'a') as f: print(sum(map(int, a)), file=f)", "passed"),
    ("import sys\nsys.stdin, sys.stdout = open('input.txt'), open('output.txt', 'w')\n"
     "input()\nprint(sum(map(int, input().split())))", "passed"),
    (_READ + "import os\nopen('output.txt', 'w').write(str(sum(map(int, a))))\nos._exit(0)", "passed"),
    ("input()\nopen('output.txt', 'w').write(str(sum(map(int, input().split()))))", "passed"),
    (_READ + "print(sum(map(int, a)))", "wrong"),
    ("open('output.txt', 'w').write('6')", "wrong"),
    ("import os\nos.remove('output.txt')\nos.symlink('/etc/passwd', 'output.txt')", "wrong"),
    ("f = open('output.txt', 'w')\nwhile True: f.write('6' * 10000)", "output error"),
    ("import os\nos.ftruncate(os.open('output.txt', os.O_RDWR), 1 << 40)", "output error crashed wrong"),
)  # fmt: skip


@pytest.mark.parametrize("rung", SAFE_RUNGS)
def test_scripts_read_and_write_the_files_that_their_problem_names(rung, untouched_machine):
    files = {"input_file": "input.txt", "output_file": "output.txt"}
    programs = [Program(source, stdio=STDIO, limits=QUICK, **files) for source, _ in FILES]
    with open_rung(rung) as sandbox:
        verdicts = dict(sandbox.judge(programs))
    wrong = {
        source: verdicts[index]
        for index, (source, right) in enumerate(FILES)
        if verdicts[index].status not in right.split()
    }
    assert wrong == {}
