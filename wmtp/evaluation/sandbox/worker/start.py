"""Start a worker: confine, fork zygote and judge, keep house until the other side is gone.

[동작] pool.py가 `python -s -S -P`로 새로 exec한다. `parent`는 학습 프로세스와의 소켓이다.
첫 메시지는 ["ready", 단의 이름, 개인 디렉터리] 또는 ["failed", 이유].
"""

import builtins
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable

from . import confinement, judge, keeper, kernel, wire, zygote


def main(name: str, packages: dict[str, list[str]], parent: socket.socket) -> None:
    """Run one worker of the given rung."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by whoever started us, no child could be counted
    for name_of_site in ("exit", "quit"):  # the site module, which is not loaded here, would define them
        setattr(builtins, name_of_site, sys.exit)
    for module in zygote.PRELOADED:
        importlib.import_module(module)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if os.path.exists("/proc/self/stat") else None
    rung = confinement.RUNGS[name]([path for paths in packages.values() for path in paths])
    others = confinement.other_processes()
    try:
        rung.enter(proc)
    except OSError as error:
        parent.sendall(wire.pack(["failed", f"{name}: {error.strerror}", ""]))
        return
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no program may look into keeper, judge or zygote
    to_zygote, zygote_end = socket.socketpair()
    to_keeper, keeper_end = socket.socketpair()

    def run_zygote() -> None:
        zygote.Zygote(zygote_end, rung, packages, proc).serve()

    def run_judge() -> None:
        try:
            confinement.confine_judge()
        except OSError as error:
            parent.sendall(wire.pack(["failed", f"{name}: {error.strerror}", ""]))
            return
        parent.sendall(wire.pack(["ready", rung.name, rung.directory]))
        judge.Judge(parent, to_zygote, to_keeper, rung, [*packages], others).serve()

    every = {to_zygote, zygote_end, to_keeper, keeper_end, parent}
    zygote_pid = _fork(run_zygote, every - {zygote_end}, None)
    judge_pid = _fork(run_judge, every - {to_zygote, to_keeper, parent}, proc)
    for end in (to_zygote, zygote_end, to_keeper):
        end.close()
    keeper.Keeper(rung, proc, judge_pid, zygote_pid).serve(keeper_end, parent)


def _fork(run: Callable[[], None], closed: set[socket.socket], proc: int | None) -> int:
    """Start a process that dies with this one and holds none of the `closed` descriptors; return its number."""
    keeper_pid = os.getpid()
    if (pid := os.fork()) != 0:
        return pid
    try:
        for end in closed:
            end.close()
        if proc is not None:
            os.close(proc)
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper_pid:
            run()
    finally:
        os._exit(0)
