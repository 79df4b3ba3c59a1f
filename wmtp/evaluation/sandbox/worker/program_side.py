"""Execute the judged program, and answer for it with plain values.

[동작] fork된 자식에서, 격리된 뒤에 실행된다. 여기 있는 모든 것은 프로그램의 손안에 있다고 본다: 무엇을 위조하든
함수가 돌려줄 수 있었던 값을 돌려주는 것 이상은 못 한다. 시험의 글과 기대값은 이 프로세스에 온 적이 없다.

    ["name", 이름] / ["method", 이름] / ["call", [대상, 인자들, 키워드]] / ["call_all", {이름, 입력들}] …  ──►
                                         ◄── ["value", 값, 바뀐 인자들] | ["raise", [클래스 이름들], 문장]
                                         ◄── ["outputs", 값들]  (call_all의 값이 나오는 대로)
                                         ◄── ["callback", 번호, 인자들]   (시험이 넘긴 함수를 부를 때)
"""

import atexit
import builtins
import copy
import errno
import functools
import gc
import io
import itertools
import linecache
import math
import operator
import os
import resource
import socket
import sys
import threading
import time
import types

from . import inside, large, wire

# By the names that they have where they come from; those that are not simply passed on stand last.
_PASSED_ON = {
    builtins: "getattr setattr delattr iter next reversed bool len str repr isinstance issubclass",
    operator: "getitem setitem delitem lt le gt ge add sub mul truediv floordiv mod pow matmul and_ or_ xor neg pos "
    "abs invert",
    copy: "copy deepcopy",
}
OPERATIONS = {name: getattr(module, name) for module, names in _PASSED_ON.items() for name in names.split()} | {
    "call": lambda target, arguments, keywords: target(*arguments, **keywords),
    "content": lambda value, base: wire.content_of(value, wire.BASES[base]),
    "exit": lambda manager, kind, text: manager.__exit__(*_error(kind, text)),
    "eq": lambda left, right: bool(left == right),
}
_MUTABLE = (list, dict, set, bytearray)
_DEEP = 5000  # a value may be nested deeper than a program may recurse
_TOGETHER_BYTES, _TOGETHER_SECONDS = 1 << 16, 0.01  # of outputs that are sent together
_MOST_ITEMS = 1 << 14
_clock = time.perf_counter  # the program may put its own in the module


CHANNEL = 3


_ahead = b""


def _read(count: int) -> bytes:
    """Read from the judge, a whole message at once where it is short."""
    global _ahead
    if not _ahead:
        _ahead = os.read(CHANNEL, max(count, 4096))
    data, _ahead = _ahead[:count], _ahead[count:]
    return data


def _write(data: bytes) -> None:
    """Write all to the judge."""
    while data:
        data = data[os.write(CHANNEL, data) :]


def send(message: list) -> None:
    """Send one message to the judge."""
    _write(wire.pack(message))


class _Answering:
    """Serve requests about one executed program."""

    send = staticmethod(send)

    def __init__(self, namespace: dict):
        self.namespace = namespace
        self.objects = []
        self.numbers = {}

    def export(self, value, base):
        """Keep an object here and let a number stand for it, with its plain content where that cannot change."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # kept alive, so its id stays its own
        fixed = base is not None and base in wire.FIXED
        content = self.encode(wire.content_of(value, base)) if fixed else None
        return {"h": [self.numbers[id(value)], base and base.__name__, content]}

    def encode(self, value):
        """Make a value ready for the judge, however deep it is nested."""
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _DEEP))
        try:
            return wire.encode(value, self.export)
        finally:
            sys.setrecursionlimit(limit)

    def resolve(self, tag, content):
        """Find the object behind a number, a builtin, or a function of the tests."""
        if tag == "h":
            return self.objects[content]
        if tag == "b":
            return getattr(sys.modules["builtins"], content)
        return lambda *arguments: self.call_back(content, arguments)

    def call_back(self, number, arguments):
        """Let the tests run a function that they passed to the program."""
        send(["callback", number, self.encode(list(arguments))])
        return wire.decode(self.answer_until("result"), self.resolve)

    def answer_until(self, last):
        """Answer requests until a message of kind `last` comes; return its content."""
        while (message := wire.receive(_read)) is not None:
            if message[0] == last:
                return message[1]
            _write(self.answer(*message))
        os._exit(0)

    def find_method(self, name):
        """Find a function as LeetCode asks for it: of a new Solution, or at the top level."""
        solution = self.namespace.get("Solution")
        if hasattr(solution, name):
            return getattr(solution(), name)
        if name not in self.namespace:
            raise NameError(name)
        return self.namespace[name]

    def answer(self, operation, content):
        """Carry out one request and frame the answer."""
        try:
            if operation == "name":
                if content not in self.namespace:
                    raise NameError(content)
                return wire.pack(["value", self.encode(self.namespace[content]), None])
            if operation == "call_all":
                return self.call_all(**content)
            if operation == "inside":
                return wire.pack(["done", inside.run(self, **content), None])
            if operation == "method":
                return wire.pack(["value", self.encode(self.find_method(content)), None])
            operands = wire.decode(content, self.resolve)
            result = self.encode(OPERATIONS[operation](*operands))
            changed = None
            if operation == "call":
                passed, sent = [*operands[1], *operands[2].values()], [*content[1], *(v for _, v in content[2]["d"])]
                if any(isinstance(value, _MUTABLE) for value in passed) and (after := self.encode(passed)) != sent:
                    changed = after
            return wire.pack(["value", result, changed])
        except BaseException as error:
            return wire.pack(describe(error))

    def call_all(self, name, inputs, at_once):
        """Call a function with one input after the other, and send what it returns a few outputs at a time.

        Args:
            at_once: 앞의 이만큼은 다음 호출 전에 보낸다. 거기서 프로그램이 끝나 버려도 판정할 수 있게.
        """
        if name not in self.namespace:
            raise NameError(name)
        function = self.namespace[name]
        waiting, size, since = [], 0, _clock()
        try:
            for count, arguments in enumerate(inputs, 1):
                output = function(*wire.decode(arguments, self.resolve))
                waiting.append(wire.to_json(self.snapshot(output)))
                size += len(waiting[-1])
                if count == at_once or size > _TOGETHER_BYTES or _clock() - since > _TOGETHER_SECONDS:
                    _write_outputs(waiting)
                    waiting, size, since = [], 0, _clock()
        finally:
            _write_outputs(waiting)
        return b""

    def snapshot(self, value):
        """Make the content of a value ready for the judge, whatever the program does to it later."""
        if large.is_large(value):
            try:
                return {"large": large.digest(value)}
            except TypeError:
                return _aside(value)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _DEEP))
        try:
            return wire.encode(value, _aside)
        finally:
            sys.setrecursionlimit(limit)


def _write_outputs(outputs: list[str]) -> None:
    """Send outputs that are written as JSON already."""
    _write(wire.pack_text(f'["outputs",[{",".join(outputs)}],null]'))


def _aside(value, base=None):
    """Write the content of an object that is not plain: of a subclass, or what iterating gives; NaN equals nothing."""
    if base is not None:
        return wire.encode(wire.content_of(value, base), _aside)
    items = None
    if hasattr(type(value), "__iter__") and not isinstance(value, type):
        items = [wire.encode(item, _aside) for item in itertools.islice(value, _MOST_ITEMS)]
    return {"opaque": [math.nan, items]}


def _error(kind, text):
    """Rebuild an exception of the tests from its name."""
    if kind is None:
        return None, None, None
    error = getattr(builtins, kind, Exception)(text)
    return type(error), error, None


def describe(error: BaseException) -> list:
    """Report an exception as the names of its classes, a text and a line."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        error = MemoryError()
        resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)  # room to say so
    try:
        text = str(error)[:1000]
    except BaseException:
        text = ""
    return ["raise", [kind.__name__ for kind in type(error).__mro__[:-1]], text]


def _new_module(name: str, source: str) -> types.ModuleType:
    """Make the module of a program; its source can be had as that of any module, as a file where it asks for one."""
    module = types.ModuleType(name)
    module.__file__ = path = os.path.join(os.getcwd(), "program.py")
    sys.modules[name] = module
    linecache.cache[path] = (lambda: source,)  # the form of what is loaded on demand
    if "__file__" in source or "program.py" in source:
        with open(path, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(source)
    return module


def _execute(preamble: str, source: str, module: types.ModuleType) -> None:
    """Execute a program in its module, after what it may take for granted."""
    if preamble:
        exec(compile(preamble, "<preamble>", "exec", dont_inherit=True), vars(module))
    exec(compile(source, str(module.__file__), "exec", dont_inherit=True), vars(module))


def answer_for_program() -> None:
    """Execute a program as a module and answer requests about it, for as long as they come."""
    preamble, source = wire.receive(_read)
    module = _new_module("program", source)
    answering = _Answering(vars(module))
    try:
        _execute(preamble, source, module)
        send(["value", None, None])
    except BaseException as error:
        send(describe(error))
    answering.answer_until(None)


def run_as_script() -> None:
    """Execute a program as `python program.py` would, with real descriptors 0, 1 and 2."""
    preamble, source, input_file, output_file = wire.receive(_read)
    module = _new_module("__main__", source)
    sys.argv = ["program.py"]
    _lay_out_files(input_file, output_file)
    if "/dev/" in source or "/proc/" in source:
        builtins.open = io.open = _of_standard_files(io.open)
        os.open = _of_standard_files(os.open)
    code = 0
    try:
        _execute(preamble, source, module)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as error:
        code = 1
        send(describe(error))
    del module  # so that _finish() can let go of the program
    try:
        _finish()
    except BaseException as error:
        code = code or 1
        send(describe(error))
    os._exit(code & 0xFF)


def _lay_out_files(input_file: str, output_file: str) -> None:
    """Write what is on standard input to a file; open the file that the judge will read, and hand it over."""
    if input_file:
        with open(input_file, "wb") as file:
            file.write(os.pread(0, os.fstat(0).st_size, 0))
    if output_file:
        with open(output_file, "wb+") as file, socket.socket(fileno=os.dup(CHANNEL)) as channel:
            socket.send_fds(channel, [b"f"], [file.fileno()])


def _of_standard_files(opener):
    """Make open() know the names of the standard files, for which there is no /dev or /proc here."""
    numbers = {
        path: number
        for number, name in enumerate(("in", "out", "err"))
        for path in (
            f"/dev/std{name}",
            *(f"/{place}/fd/{number}" for place in ("dev", "proc/self", "proc/thread-self")),
        )
    }

    @functools.wraps(opener)
    def opens(file, *arguments, **keywords):
        path = os.fspath(file) if isinstance(file, os.PathLike) else file
        if not isinstance(path, str) or path not in numbers:
            return opener(file, *arguments, **keywords)
        descriptor = os.dup(numbers[path])
        if numbers[path] == 0:
            os.lseek(descriptor, 0, os.SEEK_SET)  # opening a file begins at its beginning
        return descriptor if opener.__module__ == "posix" else opener(descriptor, *arguments, **keywords)

    return opens


def _finish() -> None:
    """Do what the interpreter does at its end, in its order, short of taking itself apart."""
    threading._shutdown()  # type: ignore[attr-defined]  # not in typeshed
    atexit._run_exitfuncs()
    _flush(sys.stdout, sys.stderr)
    del sys.modules["__main__"]
    gc.collect()  # destructors run while the names that they use still exist; many write what is left in a buffer
    _flush(sys.__stdout__, sys.__stderr__)


def _flush(*streams) -> None:
    """Flush what is open of the streams."""
    for stream in streams:
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()
