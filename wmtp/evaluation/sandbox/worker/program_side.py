"""Execute the judged program, and answer for it with plain values.

[동작] fork된 자식에서, 격리된 뒤에 실행된다. 여기 있는 모든 것은 프로그램의 손안에 있다고 본다: 무엇을 위조하든
함수가 돌려줄 수 있었던 값을 돌려주는 것 이상은 못 한다. 시험의 글과 기대값은 이 프로세스에 온 적이 없다.

    ["name", 이름] / ["call", [대상, 인자들, 키워드]] …  ──►
                                         ◄── ["value", 값, 바뀐 인자들] | ["raise", [클래스 이름들], 문장]
                                         ◄── ["callback", 번호, 인자들]   (시험이 넘긴 함수를 부를 때)
"""

import atexit
import errno
import gc
import operator
import os
import resource
import sys
import threading
import types

from . import wire

OPERATIONS = {
    "call": lambda target, arguments, keywords: target(*arguments, **keywords),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "iter": iter,
    "next": next,
    "bool": bool,
    "len": len,
    "str": str,
    "repr": repr,
    "eq": lambda left, right: bool(left == right),
    "isinstance": isinstance,
}
_MUTABLE = (list, dict, set, bytearray)


CHANNEL = 3


def _read(count: int) -> bytes:
    """Read from the judge."""
    return os.read(CHANNEL, count)


def _write(data: bytes) -> None:
    """Write all to the judge."""
    while data:
        data = data[os.write(CHANNEL, data) :]


def send(message: list) -> None:
    """Send one message to the judge."""
    _write(wire.pack(message))


class _Answering:
    """Serve requests about one executed program."""

    def __init__(self):
        self.objects = []
        self.numbers = {}

    def export(self, value):
        """Keep an object here and let a number stand for it."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # kept alive, so its id stays its own
        return {"h": self.numbers[id(value)]}

    def resolve(self, tag, content):
        """Find the object behind a number, a builtin, or a function of the tests."""
        if tag == "h":
            return self.objects[content]
        if tag == "b":
            return getattr(sys.modules["builtins"], content)
        return lambda *arguments: self.call_back(content, arguments)

    def call_back(self, number, arguments):
        """Let the tests run a function that they passed to the program."""
        send(["callback", number, wire.encode(list(arguments), self.export)])
        return wire.decode(self.answer_until("result"), self.resolve)

    def answer_until(self, last):
        """Answer requests until a message of kind `last` comes; return its content."""
        while (message := wire.receive(_read)) is not None:
            if message[0] == last:
                return message[1]
            _write(self.answer(*message))
        os._exit(0)

    def answer(self, operation, content):
        """Carry out one request and frame the answer."""
        try:
            if operation == "name":
                if content not in self.namespace:
                    raise NameError(content)
                return wire.pack(["value", wire.encode(self.namespace[content], self.export), None])
            operands = wire.decode(content, self.resolve)
            result = wire.encode(OPERATIONS[operation](*operands), self.export)
            changed = None
            if operation == "call" and any(isinstance(value, _MUTABLE) for value in operands[1]):
                after = wire.encode(operands[1], self.export)
                changed = after if after != content[1] else None
            return wire.pack(["value", result, changed])
        except BaseException as error:
            return wire.pack(describe(error))


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


def answer_for_program() -> None:
    """Execute a program as a module and answer requests about it, for as long as they come."""
    source = wire.receive(_read)
    answering = _Answering()
    module = types.ModuleType("program")
    sys.modules["program"] = module
    answering.namespace = vars(module)
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), answering.namespace)
        send(["value", None, None])
    except BaseException as error:
        send(describe(error))
    answering.answer_until(None)


def run_as_script() -> None:
    """Execute a program as `python program.py` would, with real descriptors 0, 1 and 2."""
    source = wire.receive(_read)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    code = 0
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), vars(module))
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


def _finish() -> None:
    """Do what the interpreter does at its end, in its order, short of taking itself apart."""
    threading._shutdown()
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
