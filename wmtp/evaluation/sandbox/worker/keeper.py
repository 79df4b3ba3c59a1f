"""Do for the judge what the judge itself may not: end programs, clean up after them, measure them.

[연구 맥락] judge는 프로그램이 지은 값을 만지는 프로세스다. 그래서 judge에게는 파일, 네트워크, 남의 프로세스에 닿는
권한을 하나도 주지 않고 (`confinement.confine_judge`), 권한이 드는 세 가지 일만 여기서 대신한다. 이 프로세스에는 시험도,
프로그램의 글도, 프로그램이 지은 값도 오지 않는다: 오는 것은 언제나 다섯 바이트다.
[동작] 작업자로 exec된 첫 프로세스다. judge와 zygote는 그 자식이고, 프로그램은 언제나 zygote의 자식이다. judge가 말한
pid는 믿지 않고 커널에 확인한다. 학습 프로세스나 judge가 사라지면 남은 것을 모두 끝내고 따라 끝난다.
"""

import contextlib
import os
import select
import signal
import socket
import struct

REQUEST, ANSWER = struct.Struct("<ci"), struct.Struct("<dqq")
KILL, MEASURE, CLEAN = b"k", b"m", b"c"
_TICKS_PER_SECOND, _PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_MOST_PROCESSES = 4096


class Keeper:
    """Serve one judge.

    Args:
        proc: /proc의 디스크립터. 없는 기계에서는 (macOS) None이고, 그때는 아무것도 재지 못한다.
    """

    def __init__(self, rung, proc: int | None, judge: int, zygote: int):
        self.rung, self.proc, self.judge, self.zygote = rung, proc, judge, zygote

    def serve(self, channel: socket.socket, parent: socket.socket) -> None:
        """Carry out requests until the judge or the training process is gone, then end what is left."""
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        poll.register(parent, 0)  # reports a hang-up whatever is asked
        while True:
            ready = dict(poll.poll())
            if parent.fileno() in ready:
                break
            request = channel.recv(REQUEST.size, socket.MSG_WAITALL)
            if len(request) < REQUEST.size:
                break
            operation, pid = REQUEST.unpack(request)
            if operation == KILL and self.is_program(pid):
                self.rung.kill(pid)
            elif operation == MEASURE:
                channel.sendall(ANSWER.pack(*self.measure(pid)))
            elif operation == CLEAN:
                self.rung.clean()
                channel.sendall(ANSWER.pack(0.0, 0, 0))
        for child in (self.judge, self.zygote):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)  # so that its CPU time is counted and no zombie stays
        self.rung.leave()

    def is_program(self, pid: int) -> bool:
        """Ask the kernel whether a process is the zygote's child."""
        return pid > 0 and (self.proc is None or self.stat(pid, 4) == [self.zygote])

    def measure(self, pid: int) -> tuple[float, int, int]:
        """Return what a program uses beside its own CPU clock.

        Returns:
            (자식들의 CPU 초, 자식까지 합친 메모리, 개인 디렉터리의 크기).
        """
        if self.proc is None or not self.is_program(pid):
            return 0.0, 0, self.rung.used_bytes()
        below = self.descendants(pid)
        ticks = sum(self.stat(pid, 16, 17)) + sum(sum(self.stat(child, 14, 15, 16, 17)) for child in below)
        pages = sum(sum(self.stat(process, 24)) for process in (pid, *below))
        return ticks / _TICKS_PER_SECOND, pages * _PAGE_BYTES, self.rung.used_bytes()

    def descendants(self, pid: int) -> list[int]:
        """List the processes below one, the dead that nobody has waited for included."""
        found, todo = [], [pid]
        while todo and len(found) < _MOST_PROCESSES:
            parent = todo.pop()
            with contextlib.suppress(OSError):
                for thread in self.list(f"{parent}/task"):  # a child belongs to the thread that made it
                    children = [int(child) for child in self.read(f"{parent}/task/{thread}/children").split()]
                    todo += children
                    found += children
        return found

    def stat(self, pid: int, *fields: int) -> list[int]:
        """Read fields of /proc/PID/stat, counted as proc(5) does; zeros where the process is gone."""
        try:
            values = self.read(f"{pid}/stat").rpartition(")")[2].split()
            return [int(values[field - 3]) for field in fields]
        except (OSError, IndexError):
            return [0] * len(fields)

    def read(self, path: str) -> str:
        """Read a small file of the /proc that this worker started with."""
        descriptor = os.open(path, os.O_RDONLY, dir_fd=self.proc)
        try:
            return os.read(descriptor, 65536).decode("ascii", "replace")
        finally:
            os.close(descriptor)

    def list(self, path: str) -> list[str]:
        """List a directory of that /proc."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.proc)
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)
