"""Judge a program: run its tests here, its functions there.

[연구 맥락] 프로그램과 같은 프로세스에서 assert를 실행하면 프로그램이 시험을 읽고, 건너뛰고, 위조할 수 있다. 여기서는
시험이 이쪽(신뢰하는 프로세스)에서 실행되고, 프로그램의 함수만 저쪽에서 실행된다. 시험이 보는 프로그램의 이름은
`Remote`, 곧 저쪽 객체를 가리키는 번호다. 넘어오는 값은 평범한 값뿐이므로 `==`는 언제나 이쪽의 `==`다.
[동작] 시험 속의 이름은 이렇게 찾는다: (1) 시험과 setup이 정의한 것, (2) 내장 이름, (3) 프로그램이 표준 라이브러리에서
import한 것은 이쪽의 진짜 모듈, (4) 나머지는 프로그램에게 묻는다. entry_point만은 언제나 (4)다.
[디버깅] 판정이 이상하면 `Session.request`에 오가는 메시지를 출력해 보라.
"""

import ast
import builtins
import contextlib
import functools
import importlib
import itertools
import json
import os
import random
import re
import select
import signal
import socket
import sys
import tempfile
import time
from typing import NamedTuple

from . import confinement, wire, zygote

_TICK = 0.05
_TICKS_PER_SECOND, _PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_EXCEPTIONS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and not name.endswith("Group")
}


class Settled(BaseException):
    """Carry a verdict out of whatever is running; tests cannot catch it by `except Exception`."""

    def __init__(self, status: str, message: str):
        super().__init__(status, message)
        self.status, self.message = status, message


class Remote:
    """Stand for an object of the program; only plain values ever come from it.

    `in`은 넘기지 않는다: 무엇이든 들어 있다고 답하는 객체가 시험을 속일 수 있다. `==`는 둘 다 프로그램의 객체일 때만
    프로그램에게 묻고, 평범한 값과는 결코 같지 않다.
    """

    __slots__ = ("_number", "_session")

    def __init__(self, session, number):
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments, **keywords):
        return self._session.call(self, arguments, keywords)

    def __getattr__(self, name):
        return self._session.request("getattr", [self, name])

    def __setattr__(self, name, value):
        self._session.request("setattr", [self, name, value])

    def __getitem__(self, key):
        return self._session.request("getitem", [self, key])

    def __setitem__(self, key, value):
        self._session.request("setitem", [self, key, value])

    def __iter__(self):
        return self._session.request("iter", [self])

    def __next__(self):
        return self._session.request("next", [self])

    def __bool__(self):
        return bool(self._session.request("bool", [self]))

    def __len__(self):
        return self._session.request("len", [self])

    def __str__(self):
        return self._session.request("str", [self])

    def __repr__(self):
        return self._session.request("repr", [self])

    def __eq__(self, other):
        return isinstance(other, Remote) and bool(self._session.request("eq", [self, other]))

    def __hash__(self):
        return hash(self._number)

    def __instancecheck__(self, value):
        return isinstance(value, Remote) and bool(self._session.request("isinstance", [value, self]))


class Process:
    """Hold one running program, and end it where it exceeds its limits."""

    def __init__(self, judge, program: dict, stdin: bytes | None = None):
        self.judge, self.limits = judge, program["limits"]
        self.channel, theirs = socket.socketpair()
        self.files = [open_nameless_file() for _ in range(3)]
        written = 0
        while stdin and written < len(stdin):
            written += os.pwrite(self.files[0], stdin[written:], written)
        wanted = {**self.limits, **judge.circumstances, "script": stdin is not None}
        socket.send_fds(judge.zygote, [json.dumps(wanted).encode()], [theirs.fileno(), *self.files])
        theirs.close()
        (self.pid,) = zygote.STARTED.unpack(judge.zygote.recv(zygote.STARTED.size))
        self.started = time.monotonic()
        self.ended = None
        self.clock = (~self.pid << 3) | 2  # the CPU clock of another process, as clock_getcpuclockid() makes it
        self.channel.setblocking(False)

    def begin(self, source: str) -> None:
        """Hand over the program, once it is known to be confined."""
        self.send(wire.pack(source))
        # Sent before any code of the program runs, so that nothing it does can look like a failure of ours.
        if self.receive() != ["confined"]:
            raise Settled("harness_error", "the program could not be confined")

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
        while True:
            try:
                data = self.channel.recv(count)
            except BlockingIOError:
                if self.ended is None:
                    self.wait(select.POLLIN)
                    continue
                return b""
            except ConnectionResetError:
                data = b""
            if not data and self.ended is None:
                self.wait(0)  # it closed the channel; whatever it does now, it has to end
                continue
            return data

    def wait(self, events: int) -> None:
        """Wait until the channel is ready or the program has ended; settle where a limit is exceeded."""
        poll = select.poll()
        if events:
            poll.register(self.channel, events)
        poll.register(self.judge.zygote, select.POLLIN)
        poll.register(self.judge.parent, 0)  # reports a hang-up whatever is asked
        while True:
            ready = dict(poll.poll(1000 * max(0.001, self.patience())))
            if self.judge.parent.fileno() in ready:
                self.judge.leave()
            if self.judge.zygote.fileno() in ready:
                self.collect()
                return
            if ready:
                return

    def patience(self) -> float:
        """Return how long the program may go on before the next look; settle where a limit is exceeded."""
        limits, used = self.limits, self.seconds()
        if (left := limits["cpu_seconds"] - used) <= 0:
            raise Settled("timeout", f"used more than {limits['cpu_seconds']:g} s of CPU time")
        if (rest := self.started + limits["wall_seconds"] - time.monotonic()) <= 0:
            raise Settled("timeout", f"did not end within {limits['wall_seconds']:g} s")
        if time.monotonic() - self.started > _TICK:
            if self.resident_bytes() > limits["memory_bytes"]:
                raise Settled("memory", f"used more than {limits['memory_bytes'] >> 20} MiB of memory")
            self.check_output()
            if self.judge.rung.used_bytes() > confinement.DIRECTORY_BYTES:
                raise Settled("output", "filled its directory")
        return min(_TICK, left, rest)

    def check_output(self) -> None:
        """Settle where the program has printed too much."""
        if max(os.fstat(descriptor).st_size for descriptor in self.files[1:]) > self.limits["output_bytes"]:
            raise Settled("output", f"printed more than {self.limits['output_bytes'] >> 10} KiB")

    def seconds(self) -> float:
        """Return the CPU time of the program and its descendants."""
        if self.ended is not None:
            return self.ended[1]
        try:
            used = time.clock_gettime(self.clock)
        except OSError:  # it has just ended, or this is no Linux: the hard limit of the process remains
            used = 0.0
        if time.monotonic() - self.started > _TICK:
            used += sum(map(int, self.stat(self.pid, 16, 17))) / _TICKS_PER_SECOND  # of children already gone
            for pid in self.descendants():
                used += sum(map(int, self.stat(pid, 14, 15, 16, 17))) / _TICKS_PER_SECOND
        return used

    def resident_bytes(self) -> int:
        """Return the memory of the program and its descendants."""
        return sum(int(*self.stat(pid, 24)) for pid in [self.pid, *self.descendants()]) * _PAGE_BYTES

    def descendants(self) -> list[int]:
        """List the processes below the program."""
        found, todo = [], [self.pid]
        while todo and self.judge.proc is not None and len(found) < 4096:
            pid = todo.pop()
            try:
                children = self.judge.read_proc(f"{pid}/task/{pid}/children").split()
            except OSError:
                continue
            todo += (new := [int(child) for child in children])
            found += new
        return found

    def stat(self, pid: int, *fields: int) -> list[str]:
        """Read fields of /proc/PID/stat, counted as proc(5) does; zeros where the process is gone."""
        try:
            values = self.judge.read_proc(f"{pid}/stat").rpartition(")")[2].split()
            return [values[field - 3] for field in fields]
        except (OSError, IndexError):
            return ["0"] * len(fields)

    def collect(self) -> None:
        """Take the report about the end of the program, which comes after everything of it is gone."""
        if self.ended is None:
            report = b""
            while len(report) < zygote.ENDED.size:
                if not (part := self.judge.zygote.recv(zygote.ENDED.size - len(report))):
                    self.judge.leave()
                report += part
            self.ended = zygote.ENDED.unpack(report)

    def end(self) -> None:
        """Kill the program where it still runs, and wait until nothing of it is left."""
        if self.ended is None:
            self.judge.rung.kill(self.pid)
            self.collect()
        self.channel.close()
        for descriptor in self.files:
            os.close(descriptor)
        self.judge.rung.clean()

    def why_it_ended(self, when: str) -> Settled:
        """Say how the program came to its own end."""
        status, seconds, _ = self.ended
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number in (signal.SIGXCPU, signal.SIGKILL) and seconds > self.limits["cpu_seconds"]:
                return Settled("timeout", f"used more than {self.limits['cpu_seconds']:g} s of CPU time")
            if number == signal.SIGXFSZ:
                return Settled("output", "wrote too much")
            return Settled("crashed", f"killed by {signal.Signals(number).name} {when}")
        return Settled("crashed", f"exited with code {os.WEXITSTATUS(status)} {when}")


class Session:
    """Talk with one program about its functions."""

    def __init__(self, process: Process):
        self.process = process
        self.error = None
        self.functions = []

    def export(self, value):
        """Let a number stand for a remote object or for a function of the tests."""
        if isinstance(value, Remote):
            return {"h": value._number}
        if getattr(builtins, getattr(value, "__name__", "") or "", None) is value:
            return {"b": value.__name__}
        if callable(value):
            self.functions.append(value)
            return {"callback": len(self.functions) - 1}
        raise Settled("harness_error", f"the tests pass a {type(value).__name__}, which cannot cross to the program")

    def resolve(self, tag, content):
        """Stand in for an object of the program."""
        if tag != "h" or type(content) is not int:
            raise ValueError(tag)
        return Remote(self, content)

    def call(self, target, arguments, keywords):
        """Call a function of the program; arguments that it changed in place change here too."""
        result, changed = self.exchange("call", [target, list(arguments), keywords])
        for value, after in zip(arguments, changed or (), strict=False):
            if isinstance(value, list) and isinstance(after, list) and value != after:
                value[:] = after
            elif isinstance(value, dict | set) and type(value) is type(after) and value != after:
                value.clear()
                value.update(after)
        return result

    def request(self, operation, operands):
        """Ask the program for one operation."""
        return self.exchange(operation, operands)[0]

    def exchange(self, operation, operands):
        """Send one request and follow the answers up to the value."""
        content = operands if operation == "name" else wire.encode(operands, self.export)
        self.process.send(wire.pack([operation, content]))
        while True:
            kind, *rest = self.receive()
            if kind == "callback":
                self.process.send(wire.pack(["result", self.run_callback(*rest)]))
            else:
                break
        return self.interpret(kind, *rest)

    def receive(self) -> list:
        """Read one message of the program; whatever is no message settles the verdict."""
        try:
            message = self.process.receive()
        except wire.TooLongError as error:
            limit = self.process.limits["output_bytes"]
            raise Settled("output", f"returned {error} bytes, more than {limit >> 10} KiB") from None
        except (ValueError, RecursionError):
            raise Settled("error", "answered with something that is no value") from None
        if message is None:
            raise self.process.why_it_ended("before the tests were over")
        if not isinstance(message, list) or len(message) != 3:
            raise Settled("error", "answered with something that is no value")
        return message

    def interpret(self, kind, *rest):
        """Turn an answer into a value, or raise what it reports."""
        try:
            if kind == "value":
                return [wire.decode(part, self.resolve) for part in rest]
            if kind != "raise":
                raise ValueError(kind)
            name = next((name for name in rest[0] if name in _EXCEPTIONS), "RuntimeError")
            exact, text = rest[0][0] == name, str(rest[1])
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError, AttributeError):
            raise Settled("error", "answered with something that is no value") from None
        kind = _EXCEPTIONS[name]
        if not issubclass(kind, Exception):
            raise Settled("error", f"raised {name}")
        self.error = kind.__new__(kind, text)
        self.error.args = (text,)
        self.error.sandbox_name = name if exact else f"an exception of its own ({name})"
        raise self.error

    def run_callback(self, number, arguments):
        """Run a function of the tests on values of the program."""
        values, _ = self.interpret("value", arguments, None)
        return wire.encode(self.functions[number](*values), self.export)


class Names(dict):
    """Find the names that the tests use; see the order at the top of this file."""

    def __init__(self, session: Session, program: dict, uses: "Uses"):
        super().__init__(__name__="tests")
        self.session, self.program, self.uses = session, program, uses
        self.entry_point = program["entry_point"]
        self.only_builtins = self.entry_point is None and all(hasattr(builtins, name) for name in uses.called)

    def __missing__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise KeyError(name)
        if hasattr(builtins, name) and name != self.entry_point and not self.only_builtins:
            raise KeyError(name)
        if name in self.uses.tools and name != self.entry_point:
            if (found := _import_of(name, self.program["source"])) is not None:
                self[name] = found
                return found
        try:
            value = self.session.request("name", name)
        except NameError:
            if hasattr(builtins, name):
                raise KeyError(name) from None
            raise
        if isinstance(value, Remote):
            self[name] = value
        return value


def _import_of(name: str, source: str):
    """Return what a program's import of the standard library binds to a name, None where there is none."""
    if "import" not in source:
        return None
    for line in re.findall(rf"^[ \t]*((?:import|from)[ \t][^\r\n]{{0,400}}\b{name}\b[^\r\n]{{0,400}})", source, re.M):
        try:
            (statement,) = ast.parse(line).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for alias in getattr(statement, "names", ()):
            if (alias.asname or alias.name) != name:
                continue
            module = statement.module if isinstance(statement, ast.ImportFrom) else alias.name
            if module in sys.modules and module.partition(".")[0] in sys.stdlib_module_names:
                found = importlib.import_module(module)
                return getattr(found, alias.name, None) if isinstance(statement, ast.ImportFrom) else found
    return None


class Uses(NamedTuple):
    """Say how tests use the names that they find outside.

    Attributes:
        called: 부르는 이름.
        tools: 시험의 도구로 쓰는 이름: `math.isclose`의 math, `isclose(f(x), 1.0)`의 isclose처럼 점 앞에 있거나
            다른 함수의 결과를 받는 것. 이런 이름만 진짜 표준 라이브러리에서 찾는다: `gcd(4, 6)`의 gcd는 시험받는
            함수이므로, 프로그램이 gcd를 import하고 나서 새로 정의했을 수 있다.
    """

    called: frozenset
    tools: frozenset


@functools.lru_cache(maxsize=1024)
def _compile_tests(texts: tuple[str, ...]) -> tuple[list, Uses]:
    """Compile tests and see how they use names; samples of one problem share the work."""
    trees = [ast.parse(text, "<tests>") for text in texts]
    called, tools = set(), set()
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            tools.add(node.value.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
            inner = [part for argument in node.args for part in ast.walk(argument) if isinstance(part, ast.Call)]
            if any(isinstance(part.func, ast.Name) and not hasattr(builtins, part.func.id) for part in inner):
                tools.add(node.func.id)
    codes = [compile(tree, "<tests>", "exec", dont_inherit=True) for tree in trees]
    return codes, Uses(frozenset(called), frozenset(tools))


class Judge:
    """Judge one program after the other."""

    def __init__(
        self, parent: socket.socket, zygote_channel: socket.socket, rung, proc: int | None, circumstances: dict
    ):
        self.parent, self.zygote, self.rung, self.proc = parent, zygote_channel, rung, proc
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
            codes, uses = _compile_tests((program["setup"], *program["tests"]))
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

    def read_proc(self, path: str) -> str:
        """Read a small file of the /proc that this worker started with."""
        if self.proc is None:
            raise FileNotFoundError(path)
        descriptor = os.open(path, os.O_RDONLY, dir_fd=self.proc)
        try:
            return os.read(descriptor, 65536).decode("ascii", "replace")
        finally:
            os.close(descriptor)

    def leave(self) -> None:
        """End this worker where the other side or the zygote is gone: the kernel ends the rest with it."""
        self.rung.leave()
        os._exit(0)


def open_nameless_file() -> int:
    """Open a file that exists in memory only, or at least under no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sandbox")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor


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
