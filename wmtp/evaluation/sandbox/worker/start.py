"""Start a worker: confine, fork the zygote, judge until the other side is gone.

[동작] pool.py가 `python -s -S -P`로 새로 exec한다. `parent`는 학습 프로세스와의 소켓이다.
첫 메시지는 ["ready", 단의 이름, 개인 디렉터리] 또는 ["failed", 이유].
"""

import builtins
import importlib
import os
import resource
import signal
import socket
import sys

from . import confinement, judge, kernel, wire, zygote

_JUDGE_BYTES = 2 << 30


def main(name: str, parent: socket.socket) -> None:
    """Run one worker of the given rung."""
    builtins.exit = builtins.quit = sys.exit  # the site module, which is not loaded here, would define them
    for module in zygote.PRELOADED:
        importlib.import_module(module)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if os.path.exists("/proc/self/stat") else None
    rung = confinement.RUNGS[name]()
    circumstances = {"baseline_bytes": _virtual_bytes(), "others": confinement.other_processes()}
    try:
        rung.enter(proc)
    except OSError as error:
        parent.sendall(wire.pack(["failed", f"{name}: {error.strerror}", ""]))
        return
    ours, theirs = socket.socketpair()
    judge_pid = os.getpid()
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no program may look into judge or zygote
    if os.fork() == 0:
        ours.close()
        parent.close()
        if proc is not None:
            os.close(proc)
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != judge_pid:
                os._exit(0)
        zygote.serve(theirs, rung)
        os._exit(0)
    theirs.close()
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_JUDGE_BYTES, _JUDGE_BYTES))  # tests can be fed with hostile values
    parent.sendall(wire.pack(["ready", rung.name, rung.directory]))
    judge.Judge(parent, ours, rung, proc, circumstances).serve()
    ours.close()
    os.wait()  # for the zygote, so that its CPU time is counted and no zombie stays
    rung.leave()


def _virtual_bytes() -> int:
    """Return the address space that this process takes before any program runs."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
