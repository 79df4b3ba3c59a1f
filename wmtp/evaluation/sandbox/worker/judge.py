"""Judge a program: run its tests here, its functions there.

[연구 맥락] 프로그램과 같은 프로세스에서 assert를 실행하면 프로그램이 시험을 읽고, 건너뛰고, 위조할 수 있다. 여기서는
시험이 이쪽(신뢰하는 프로세스)에서 실행되고, 프로그램의 함수만 저쪽에서 실행된다.
[동작] 시험 속의 이름은 `names.py`, 오가는 값은 `session.py`와 `remote.py`, 저쪽 프로세스는 `process.py`.
경계를 건너지 못하는 시험은 저쪽에서 실행한다 (`hiding.py`, `inside.py`).
"""

import contextlib
import decimal
import json
import os
import random
import secrets
import signal
import socket
import sys
import typing

from . import checking, comparing, keeper, names, wire
from .hiding import hide
from .many_inputs import many_inputs
from .names import Names, compile_tests, imports_inside
from .process import Process
from .session import Session
from .settled import Settled

_DEEP = 6000  # values may be nested as deep as program_side.py lets them


class Judge:
    """Judge one program after the other."""

    def __init__(
        self,
        parent: socket.socket,
        zygote_channel: socket.socket,
        keeper_channel: socket.socket,
        rung,
        packages: list[str],
        others: int,
    ):
        self.parent, self.zygote, self.keeper, self.rung = parent, zygote_channel, keeper_channel, rung
        self.packages, self.others = packages, others
        signal.signal(signal.SIGALRM, self.interrupt_tests)
        typing.get_type_hints = lambda *_, **__: names.refuse("typing.get_type_hints")  # it executes annotations

    def serve(self) -> None:
        """Answer each program with a verdict until the other side is gone."""
        while (job := wire.receive(self.parent.recv)) is not None:
            number, program = job
            self.parent.sendall(wire.pack([number, *self.judge(program)]))

    def judge(self, program: dict) -> tuple:
        """Return status, CPU seconds, message and the place of the tests for one program, and what its calls gave.

        The last two: how many calls were right, and where answers are to be recorded the outputs and the slowest call.
        """
        self.spent, self.right = 0.0, 0
        self.recorded: list[object] | None = None
        return *self.judge_somehow(program), self.right, self.recorded

    def judge_somehow(self, program: dict) -> tuple[str, float, str, str]:
        """Judge a program in the way that its tests ask for."""
        place = program["place"]
        if program["inputs"]:
            return self.settle(self.judge_inputs, program, "outside")
        if program["stdio"]:
            return self.settle(self.judge_stdio, program, "outside")
        if program["calls"]:
            return self.settle(self.judge_calls, program, "outside")
        if place in ("inside", "trusting"):
            return self.settle(self.judge_inside, program, "inside")
        try:
            self.judge_tests(program)
        except Settled as settled:
            if settled.border and place == "either":
                inside = self.settle(self.judge_inside, program, "inside")
                if inside[0] == "passed" or settled.status == "harness_error":
                    return inside
            if settled.border and settled.status == "harness_error":  # the reference passes: it is the program's doing
                settled.status = "wrong"
            return settled.status, self.spent, settled.message, "outside"
        return "passed", self.spent, "", "outside"

    def settle(self, run, program: dict, place: str) -> tuple[str, float, str, str]:
        """Run a program one way and return what came out."""
        try:
            run(program)
        except Settled as settled:
            return settled.status, self.spent, settled.message, place
        return "passed", self.spent, "", place

    def judge_tests(self, program: dict) -> None:
        """Run the setup and the tests here against the functions there; raise Settled unless all is well."""
        codes, uses = self.compile(program)
        with self.running(program) as process:
            process.begin([program["preamble"], program["source"]])
            session = Session(process)
            names = Names(session, program, uses)
            # The same program gets the same verdict each time, whatever tests came before.
            random.seed(0)
            sys.setrecursionlimit(_DEEP)
            decimal.setcontext(decimal.DefaultContext.copy())
            place = "while it was loaded"
            try:
                with _output_first(process), self.alarm(program):
                    session.interpret(*session.receive())
                    for count, code in enumerate(codes):
                        place = _place(count, codes)
                        exec(code, names)
                        if count == 0:
                            names.pop(program["entry_point"], None)
            except Settled:
                raise
            except BaseException as error:
                raise _explain(error, session, place, uses.identity) from None

    def judge_inputs(self, program: dict) -> None:
        """Call the function there with every input, and compare here; raise Settled unless all is well."""
        names = ("entry_point", "inputs", "base_inputs", "answers", "agreement", "tolerance")
        with _complaining_of_tests():
            calls = many_inputs(*(program[name] for name in names))
        outputs, slowest = [], 0.0
        sys.setrecursionlimit(_DEEP)
        random.seed(0)
        with self.running(program) as process:
            process.begin([program["preamble"], program["source"]])
            session = Session(process)
            place = "while it was loaded"
            try:
                with _output_first(process), self.alarm(program):
                    session.interpret(*session.receive())
                    process.spent_before, process.call_seconds = process.seconds(), program["limits"]["call_seconds"]
                    process.send(calls.request)
                    while self.right < len(calls):
                        place = f"in test {self.right + 1} of {len(calls)}"
                        kind, *rest = session.receive()
                        spent = process.seconds()
                        slowest, process.spent_before = max(slowest, spent - process.spent_before), spent
                        if kind != "outputs":
                            session.interpret(kind, *rest)
                        if kind != "outputs" or type(rest[0]) is not list or self.right + len(rest[0]) > len(calls):
                            raise Settled("error", "answered with something that is no value")
                        for output in rest[0]:
                            place = f"in test {self.right + 1} of {len(calls)}"
                            if not calls.passes(self.right, output):
                                raise AssertionError
                            self.right += 1
                        if calls.raw is None:
                            outputs += map(wire.to_json, rest[0])
            except Settled:
                raise
            except BaseException as error:
                raise _explain(error, session, place, False) from None
        if calls.raw is None:
            self.recorded = [f"[{','.join(outputs)}]", slowest]

    def judge_inside(self, program: dict) -> None:
        """Have the setup and the tests run there, and compare here; raise Settled unless all is well."""
        codes, uses = self.compile(program)
        strict = program["place"] != "trusting"
        tested = uses.tested_builtins(program["entry_point"])
        with _complaining_of_tests():
            hidden = hide((program["setup"], *program["tests"]), tested, strict)
        nonce = secrets.token_hex(16)
        request = {
            "imports": imports_inside(program["imports"], uses),
            "tools": sorted(uses.tools),
            "texts": hidden.texts,
            "nonce": nonce,
            "strict": strict,
            "entry_point": program["entry_point"],
            "tested": tested,
        }
        place, due, kind = "while it was loaded", set(hidden.due), ""
        first: typing.Any = None
        sys.setrecursionlimit(_DEEP)
        with self.running(program, inside=True) as process:
            process.begin([program["preamble"], program["source"]])
            session = Session(process)
            try:
                with _output_first(process), self.alarm(program):
                    session.interpret(*session.receive())
                    process.send(wire.pack(["inside", request]))
                    while kind != "done":
                        kind, first, second = session.receive()
                        if kind == "began" and type(first) is int:
                            place = _place(first, codes)
                        elif kind == "compare":
                            process.send(wire.pack(["result", hidden.compare(session, first, second, place, strict)]))
                            due.discard(first)
                        elif kind != "done":
                            session.interpret(kind, first, second)
                            raise Settled("error", "answered with something that is no value")
            except Settled:
                raise
            except BaseException as error:
                if kind == "raise" and first[0] == "CannotImportError":
                    raise Settled("harness_error", "the tests import what is not installed here") from None
                if error is session.error and isinstance(error, AssertionError):
                    raise Settled("wrong", f"failed {place}") from None
                raise _explain(error, session, place, False) from None
            if first != nonce or due:
                raise Settled("wrong", "claimed to have passed")

    def compile(self, program: dict):
        """Compile the tests of a program."""
        with _complaining_of_tests():
            return compile_tests((program["setup"], *program["tests"]))

    @contextlib.contextmanager
    def alarm(self, program: dict):
        """Interrupt tests that do not come to an end on the values they got."""
        signal.setitimer(signal.ITIMER_REAL, program["limits"]["wall_seconds"] + 1)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def judge_stdio(self, program: dict) -> None:
        """Run the program once per test with real standard input and output; raise Settled at the first failure."""
        total = len(program["stdio"])
        for count, (stdin, expected) in enumerate(program["stdio"], 1):
            place = f"in test {count} of {total}"
            with self.running(program, stdin.encode("utf-8", "surrogateescape")) as process:
                process.begin_script(program)
                while process.ended is None:
                    process.wait(0)
                self.check_end(process, place)
                printed = os.pread(process.files[1], program["limits"]["output_bytes"] + 1, 0)
            if program["checker"]:
                if not checking.accepts(self, program, stdin, printed.decode("utf-8", "replace"), expected):
                    raise Settled("wrong", f"printed what the checker refuses {place}")
            elif not comparing.TEXTS[program["comparison"]](printed, expected.encode("utf-8", "surrogateescape")):
                raise Settled("wrong", f"printed something else {place}")

    def judge_calls(self, program: dict) -> None:
        """Call the function once per test, each time of a new process; raise Settled at the first failure."""
        total = len(program["calls"])
        matches = comparing.VALUES[program["comparison"]]
        sys.setrecursionlimit(_DEEP)
        for count, (given, expected) in enumerate(program["calls"], 1):
            place = f"in test {count} of {total}"
            with _complaining_of_tests("JSON"):
                arguments, answer = _read_arguments(given), json.loads(expected)
            if program["checker"]:
                returned = self.call(program, arguments, place, checking.plain)
                if not checking.accepts(self, program, _read_arguments(given), returned, answer):
                    raise Settled("wrong", f"returned what the checker refuses {place}")
            elif not self.call(program, arguments, place, lambda value, answer=answer: matches(value, answer)):
                raise Settled("wrong", f"returned something else {place}")

    def call(self, program: dict, arguments: list, place: str, then):
        """Call the function in a new process; return `then(value)`, for which the program still answers."""
        with self.running(program) as process:
            process.begin([program["preamble"], program["source"]])
            session, where = Session(process), "while it was loaded"
            try:
                with _output_first(process), self.alarm(program):
                    session.interpret(*session.receive())
                    where = place
                    function = session.request("method", program["entry_point"])
                    found = then(session.call(function, arguments, {}))
            except Settled as settled:
                raise Settled(settled.status, f"{settled.message} {where}") from None
            except BaseException as error:
                raise _explain(error, session, where, False) from None
            return found

    @contextlib.contextmanager
    def running(self, program: dict, stdin: bytes | None = None, inside: bool = False):
        """Start a program, and whatever happens end it and count the time it took."""
        process = Process(self, program, stdin, inside)
        try:
            yield process
        finally:
            process.end()
            self.spent += process.seconds()

    def check_end(self, process: Process, place: str) -> None:
        """Settle where a script did not end well."""
        status, seconds, _ = process.collect()
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
                raise _explain(error, session, place, False) from None
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


def _read_arguments(given: str) -> list:
    """Read the arguments of a call, one a line."""
    return [json.loads(line) for line in given.split("\n")] if given else []


@contextlib.contextmanager
def _complaining_of_tests(language: str = "Python"):
    """Say of tests that cannot be read that it is their fault."""
    try:
        yield
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Settled("harness_error", f"the tests are no {language} ({type(error).__name__})") from None


@contextlib.contextmanager
def _output_first(process: Process):
    """Look at the output once all is over: too much of it settles a program before a wrong answer does."""
    try:
        yield
    except Settled as settled:
        if settled.status == "wrong":
            process.check_output()
        raise
    except BaseException:
        process.check_output()
        raise
    process.check_output()


def _place(count: int, codes: list) -> str:
    """Say which of the tests is meant; the first is the setup."""
    return f"in test {count} of {len(codes) - 1}" if count else "in the setup"


def _explain(error: BaseException, session: Session, place: str, identity: bool) -> Settled:
    """Say what an exception that ended the tests means, without a word of the tests or the program."""
    if isinstance(error, MemoryError):
        known = "ran out of memory" if error is session.error else "returned more than the tests can hold"
        return Settled("memory", f"{known} {place}")
    border = session.crossed or identity
    if error is session.error:
        return Settled("error", f"raised {error.sandbox_name} {place}", border)
    if isinstance(error, AssertionError):
        return Settled("wrong", f"failed {place}", border)
    return Settled("wrong", f"returned what the test cannot use ({type(error).__name__}) {place}", border)
