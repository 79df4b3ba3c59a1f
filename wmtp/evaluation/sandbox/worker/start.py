"""Start a worker: confine, fork the zygote, judge until the other side is gone.

[동작] `python -s -S -P start.py RUNG`으로 새로 exec된다 (pool.py). 디스크립터 3이 학습 프로세스와의 소켓이다.
첫 메시지는 ["ready", 단의 이름, 개인 디렉터리] 또는 ["failed", 이유].
"""

import builtins
import importlib
import os
import signal
import socket
import sys
import tempfile

from . import confinement, judge, kernel, wire, zygote


def main(name: str, parent: socket.socket) -> None:
    """Run one worker of the given rung."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other side, which then ends this one
    builtins.exit = builtins.quit = sys.exit  # the site module, which is not loaded here, would define them
    for module in zygote.PRELOADED:
        importlib.import_module(module)
    files = [_open_memory_file() for _ in range(3)]
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if os.path.exists("/proc/self/stat") else None
    baseline_bytes = _virtual_bytes()
    rung = confinement.RUNGS[name]()
    try:
        others = confinement.other_processes() if proc is not None else 2
        rung.enter(proc)
    except OSError as error:
        parent.sendall(wire.pack(["failed", f"{name}: {error.strerror}", ""]))
        return
    ours, theirs = socket.socketpair()
    judge_pid = os.getpid()
    if os.fork() == 0:
        ours.close()
        parent.close()
        if proc is not None:
            os.close(proc)
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != judge_pid:
                os._exit(0)
        zygote.serve(theirs, rung, files)
        os._exit(0)
    theirs.close()
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody may look into the process that holds the tests
    parent.sendall(wire.pack(["ready", rung.name, rung.directory]))
    directory_bytes = confinement._DIRECTORY_BYTES
    judging = judge.Judge(parent, ours, rung, files, proc, others, baseline_bytes, directory_bytes)
    judging.serve()
    rung.leave()


def _open_memory_file() -> int:
    """Open a file that exists in memory only, or at least under no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sandbox")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor


def _virtual_bytes() -> int:
    """Return the address space that this process takes before any program runs."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
