"""Run one program in a process of its own, and end it where it exceeds its limits.

[동작] judge 쪽의 손잡이다. 시작은 zygote에게, 죽이기·재기·치우기는 keeper에게 부탁한다: judge 자신은 아무 권한이 없다.
"""

import json
import os
import select
import signal
import socket
import tempfile
import time

from . import confinement, keeper, wire, zygote
from .settled import Settled

_TICK = 0.05
_AHEAD = 4096  # read at once where it is there: a message in one call instead of two


class Process:
    """Hold one running program."""

    def __init__(self, judge, program: dict, stdin: bytes | None = None, inside: bool = False):
        self.judge, self.limits = judge, program["limits"]
        self.channel, theirs = socket.socketpair()
        self.files = [open_nameless_file() for _ in range(3)]
        written = 0
        while stdin and written < len(stdin):
            written += os.pwrite(self.files[0], stdin[written:], written)
        texts = (program["source"], program["setup"], *program["tests"])
        packages = [name for name in judge.packages if any(name in text for text in texts)]
        kind = {"script": stdin is not None, "inside": inside, "packages": packages}
        wanted = {**self.limits, "others": judge.others, **kind}
        socket.send_fds(judge.zygote, [json.dumps(wanted).encode()], [theirs.fileno(), *self.files])
        theirs.close()
        (self.pid,) = zygote.STARTED.unpack(judge.zygote.recv(zygote.STARTED.size))
        self.started = time.monotonic()
        self.ended: tuple[int, float, int] | None = None  # once it has: status, CPU seconds, memory (zygote.ENDED)
        self.call_seconds, self.spent_before = None, 0.0  # of the call at hand: what it may use; what went before
        self.clock = (~self.pid << 3) | 2  # the CPU clock of another process, as clock_getcpuclockid() makes it
        self.channel.setblocking(False)
        self.ahead = b""
        self.most_ahead = 1 if stdin is not None else _AHEAD  # a script's files come beside a byte
        self.answer = self.poll_for(select.POLLIN)

    def begin(self, texts: list[str]) -> None:
        """Hand over the preamble and the program, once it is known to be confined."""
        self.send(wire.pack(texts))
        # Sent before any code of the program runs, so that nothing it does can look like a failure of ours.
        if self.receive() != ["confined"]:
            raise Settled("harness_error", "the program could not be confined")

    def begin_script(self, program: dict) -> None:
        """Hand over a script and the names of its files; what it writes to its file is what it prints."""
        self.begin([program[part] for part in ("preamble", "source", "input_file", "output_file")])
        if program["output_file"]:
            self.wait(select.POLLIN)
            _, descriptors, _, _ = socket.recv_fds(self.channel, 1, 1)
            if not descriptors:
                raise Settled("harness_error", "the files of the program could not be laid out")
            self.files[1:1] = descriptors

    def receive(self) -> object:
        """Read one message of the program, None where it has ended."""
        return wire.receive(self.read, self.limits["output_bytes"])

    def send(self, data: bytes) -> None:
        """Send to the program, however slowly it reads."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.channel.send(view) :]
            except BlockingIOError:
                self.wait(select.POLLOUT)
            except (BrokenPipeError, ConnectionResetError):
                return  # its end is noticed by whoever reads the answer

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes; b"" once the program has ended."""
        if not self.ahead:
            self.ahead = self.read_what_is_there(max(count, self.most_ahead))
        data, self.ahead = self.ahead[:count], self.ahead[count:]
        return data

    def read_what_is_there(self, most: int) -> bytes:
        """Wait until there is something to read, and read up to so many bytes of it; b"" once the program has ended."""
        while True:
            if self.ended is None:
                self.wait(select.POLLIN)
            try:
                data = self.channel.recv(most)
            except BlockingIOError:
                if self.ended is None:
                    continue
                return b""
            except ConnectionResetError:
                data = b""
            if not data and self.ended is None:
                self.wait(0)  # it closed the channel; whatever it does now, it has to end
                continue
            return data

    def poll_for(self, events: int) -> select.poll:
        """Watch the end of the program, and its channel for events."""
        poll = select.poll()
        if events:
            poll.register(self.channel, events)
        poll.register(self.judge.zygote, select.POLLIN)
        return poll

    def wait(self, events: int) -> None:
        """Wait until the channel is ready or the program has ended; settle where a limit is exceeded."""
        poll = self.answer if events == select.POLLIN else self.poll_for(events)
        while True:
            ready = dict(poll.poll(1000 * max(0.001, self.patience())))
            if self.judge.zygote.fileno() in ready:
                self.collect()
                return
            if ready:
                return

    def patience(self) -> float:
        """Return how long the program may go on before the next look; settle where a limit is exceeded."""
        limits, used = self.limits, self.seconds()
        if time.monotonic() - self.started > _TICK:
            used_by_children, resident_bytes, directory_bytes = self.judge.ask_keeper(keeper.MEASURE, self.pid)
            used += used_by_children
            if resident_bytes > limits["memory_bytes"]:
                raise Settled("memory", f"used more than {limits['memory_bytes'] >> 20} MiB of memory")
            self.check_output()
            if directory_bytes > confinement.DIRECTORY_BYTES:
                raise Settled("output", "filled its directory")
        if (left := limits["cpu_seconds"] - used) <= 0:
            raise Settled("timeout", f"used more than {limits['cpu_seconds']:g} s of CPU time")
        if self.call_seconds is not None:
            if used - self.spent_before > self.call_seconds:
                raise Settled("timeout", f"used more than {self.call_seconds:g} s of CPU time in one call")
            left = min(left, self.call_seconds)
        if (rest := self.started + limits["wall_seconds"] - time.monotonic()) <= 0:
            raise Settled("timeout", f"did not end within {limits['wall_seconds']:g} s")
        return min(_TICK, left, rest)

    def check_output(self) -> None:
        """Settle where the program has printed too much."""
        if max(os.fstat(descriptor).st_size for descriptor in self.files[1:]) > self.limits["output_bytes"]:
            raise Settled("output", f"printed more than {self.limits['output_bytes'] >> 10} KiB")

    def seconds(self) -> float:
        """Return the CPU time of the program: its own while it runs, that of its children too once it has ended."""
        if self.ended is not None:
            return self.ended[1]
        try:
            return time.clock_gettime(self.clock)
        except OSError:  # it has just ended, or this is no Linux: the hard limit of the process remains
            return 0.0

    def collect(self) -> tuple[int, float, int]:
        """Take the report about the end of the program, which comes after everything of it is gone."""
        if self.ended is None:
            report = b""
            while len(report) < zygote.ENDED.size:
                if not (part := self.judge.zygote.recv(zygote.ENDED.size - len(report))):
                    os._exit(1)  # the zygote is gone, and this worker with it
                report += part
            self.ended = zygote.ENDED.unpack(report)
        return self.ended

    def end(self) -> None:
        """Kill the program where it still runs, and wait until nothing of it is left."""
        if self.ended is None:
            self.judge.tell_keeper(keeper.KILL, self.pid)
            self.collect()
        self.channel.close()
        for descriptor in self.files:
            os.close(descriptor)
        if self.judge.rung.is_touched():
            self.judge.ask_keeper(keeper.CLEAN)
            self.judge.rung.remember_untouched()

    def why_it_ended(self, when: str) -> Settled:
        """Say how the program came to its own end."""
        status, seconds, _ = self.collect()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number in (signal.SIGXCPU, signal.SIGKILL) and seconds > self.limits["cpu_seconds"]:
                return Settled("timeout", f"used more than {self.limits['cpu_seconds']:g} s of CPU time")
            if number == signal.SIGXFSZ:
                return Settled("output", "wrote too much")
            return Settled("crashed", f"killed by {signal.Signals(number).name} {when}")
        return Settled("crashed", f"exited with code {os.WEXITSTATUS(status)} {when}")


def open_nameless_file() -> int:
    """Open a file that exists in memory only, or at least under no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sandbox")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor
