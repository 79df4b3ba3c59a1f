"""Judge a program: run its tests here, its functions there.

[연구 맥락] 프로그램과 같은 프로세스에서 assert를 실행하면 프로그램이 시험을 읽고, 건너뛰고, 위조할 수 있다. 여기서는
시험이 이쪽(신뢰하는 프로세스)에서 실행되고, 프로그램의 함수만 저쪽에서 실행된다.
[동작] 시험 속의 이름은 `names.py`, 오가는 값은 `session.py`, 저쪽 프로세스는 `process.py`.
"""

import contextlib
import os
import random
import signal
import socket

from . import keeper, wire
from .names import Names, compile_tests
from .process import Process
from .session import Session
from .settled import Settled


class Judge:
    """Judge one program after the other."""

    def __init__(
        self,
        parent: socket.socket,
        zygote_channel: socket.socket,
        keeper_channel: socket.socket,
        rung,
        circumstances: dict,
    ):
        self.parent, self.zygote, self.keeper, self.rung = parent, zygote_channel, keeper_channel, rung
        self.circumstances = circumstances
        signal.signal(signal.SIGALRM, self.interrupt_tests)

    def serve(self) -> None:
        """Answer each program with a verdict until the other side is gone."""
        while (job := wire.receive(self.parent.recv)) is not None:
            number, program = job
            self.parent.sendall(wire.pack([number, *self.judge(program)]))

    def judge(self, program: dict) -> tuple[str, float, str]:
        """Return status, CPU seconds and message for one program."""
        self.spent = 0.0
        try:
            (self.judge_stdio if program["stdio"] else self.judge_tests)(program)
        except Settled as settled:
            return settled.status, self.spent, settled.message
        return "passed", self.spent, ""

    def judge_tests(self, program: dict) -> None:
        """Run the setup and the tests here against the functions there; raise Settled unless all is well."""
        try:
            codes, uses = compile_tests((program["setup"], *program["tests"]))
        except (SyntaxError, ValueError) as error:
            raise Settled("harness_error", f"the tests are no Python ({type(error).__name__})") from None
        with self.running(program) as process:
            session = Session(process)
            names = Names(session, program, uses)
            random.seed(0)  # the same program gets the same verdict each time
            place = "while it was loaded"
            signal.setitimer(signal.ITIMER_REAL, program["limits"]["wall_seconds"] + 1)
            try:
                session.interpret(*session.receive())
                for count, code in enumerate(codes):
                    place = f"in test {count} of {len(codes) - 1}" if count else "in the setup"
                    exec(code, names)
                    if count == 0:
                        names.pop(program["entry_point"], None)
            except Settled:
                raise
            except BaseException as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                process.check_output()
                raise _explain(error, session.error, place) from None
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            process.check_output()

    def judge_stdio(self, program: dict) -> None:
        """Run the program once per test with real standard input and output; raise Settled at the first failure."""
        total = len(program["stdio"])
        for count, (stdin, expected) in enumerate(program["stdio"], 1):
            place = f"in test {count} of {total}"
            with self.running(program, stdin.encode("utf-8", "surrogateescape")) as process:
                while process.ended is None:
                    process.wait(0)
                self.check_end(process, place)
                printed = os.pread(process.files[1], program["limits"]["output_bytes"] + 1, 0)
            if not outputs_match(printed, expected.encode("utf-8", "surrogateescape")):
                raise Settled("wrong", f"printed something else {place}")

    @contextlib.contextmanager
    def running(self, program: dict, stdin: bytes | None = None):
        """Start a program, and whatever happens end it and count the time it took."""
        process = Process(self, program, stdin)
        try:
            process.begin(program["source"])
            yield process
        finally:
            process.end()
            self.spent += process.seconds()

    def check_end(self, process: Process, place: str) -> None:
        """Settle where a script did not end well."""
        status, seconds, _ = process.ended
        process.check_output()
        if seconds > process.limits["cpu_seconds"]:
            raise Settled("timeout", f"used more than {process.limits['cpu_seconds']:g} s of CPU time {place}")
        if not os.WIFEXITED(status):
            raise process.why_it_ended(place)
        if status:
            session = Session(process)
            try:
                session.interpret(*session.receive())
            except Settled as settled:
                if settled.status != "crashed":
                    raise Settled(settled.status, f"{settled.message} {place}") from None
            except Exception as error:
                raise _explain(error, session.error, place) from None
            raise Settled("error", f"exited with code {os.WEXITSTATUS(status)} {place}")

    def interrupt_tests(self, *_) -> None:
        """End tests that do not come to an end on the values they got."""
        raise Settled("timeout", "the tests did not end on the values that the program returned")

    def tell_keeper(self, operation: bytes, pid: int = 0) -> None:
        """Send the keeper a request that has no answer."""
        self.keeper.sendall(keeper.REQUEST.pack(operation, pid))

    def ask_keeper(self, operation: bytes, pid: int = 0) -> tuple[float, int, int]:
        """Send the keeper a request and wait for its answer."""
        self.tell_keeper(operation, pid)
        return keeper.ANSWER.unpack(self.keeper.recv(keeper.ANSWER.size, socket.MSG_WAITALL))


def _explain(error: BaseException, remote_error: BaseException | None, place: str) -> Settled:
    """Say what an exception that ended the tests means, without a word of the tests or the program."""
    if error is remote_error:
        if isinstance(error, MemoryError):
            return Settled("memory", f"ran out of memory {place}")
        return Settled("error", f"raised {error.sandbox_name} {place}")
    if isinstance(error, AssertionError):
        return Settled("wrong", f"failed {place}")
    if isinstance(error, MemoryError):
        return Settled("memory", f"returned more than the tests can hold {place}")
    return Settled("wrong", f"returned what the test cannot use ({type(error).__name__}) {place}")


def outputs_match(printed: bytes, expected: bytes) -> bool:
    """Compare outputs as DeepMind's code_contests does: tokens, case ignored, numbers within 1e-5.

    Example:
        >>> outputs_match(b"YES\\n0.3333333 7", b" yes 0.33333\\r\\n7.0")
        True
        >>> outputs_match(b"1 2", b"1 2 3")
        False
    """
    left, right = printed.lower().split(), expected.lower().split()
    return left == right or (len(left) == len(right) and all(map(_tokens_match, left, right)))


def _tokens_match(left: bytes, right: bytes) -> bool:
    """Compare two tokens as text, or as numbers where both are numbers."""
    if left == right:
        return True
    if b"_" in left or b"_" in right:
        return False  # Python reads 1_000 as a number; nobody else does
    try:
        return abs(float(left) - float(right)) < 1e-5
    except ValueError:
        return False
