"""Talk with a program about its functions: what crosses, and how.

[디버깅] 판정이 이상하면 `Session.exchange`에 오가는 메시지를 출력해 보라.
"""

import builtins

from . import wire
from .remote import TWINS, Remote, RemoteContainer, number_of
from .settled import Settled

_EXCEPTIONS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and not name.endswith("Group")
}


class Session:
    """Talk with one program.

    Attributes:
        crossed: 내용만으로는 다 말할 수 없는 것이 경계를 건넜는가.
        met_object: 그 가운데 내용이 아예 없는 것, 곧 평범한 종류에서 나오지 않은 객체가 있었는가.
    """

    def __init__(self, process):
        self.process = process
        self.error = None
        self.functions = []
        self.crossed = self.met_object = False

    def export(self, value, base):
        """Let a number stand for an object of the program or for a function of the tests."""
        if (number := number_of(value)) is not None:
            return {"h": number}
        if getattr(builtins, getattr(value, "__name__", "") or "", None) is value:
            return {"b": value.__name__}
        self.crossed = True
        if base is not None:
            return wire.encode(wire.content_of(value, base), self.export)
        if callable(value):
            self.functions.append(value)
            return {"callback": len(self.functions) - 1}
        kind = type(value).__name__
        raise Settled("harness_error", f"the tests pass a {kind}, which cannot cross to the program", border=True)

    def resolve(self, tag, content):
        """Stand in for an object of the program: what it is, and whether it has plain content."""
        if tag != "h":
            raise ValueError(tag)
        number, base, plain = content
        if type(number) is not int:
            raise ValueError(number)
        self.crossed = True
        remote = Remote(self, number)
        if base is None:
            self.met_object = True
            return remote
        if (kind := TWINS.get(wire.BASES[base])) is None:
            return RemoteContainer(self, number, wire.BASES[base])
        content = wire.decode(plain, self.resolve)
        if type(content) is not wire.BASES[base]:
            raise ValueError(base)
        twin = kind(content)
        twin._remote = remote
        return twin

    def call(self, target, arguments, keywords):
        """Call a function of the program; arguments that it changed in place change here too."""
        result, changed = self.exchange("call", [target, list(arguments), keywords])
        for value, after in zip((*arguments, *keywords.values()), changed or (), strict=False):
            if type(value) is not type(after) or value == after:
                continue
            if type(value) in (list, bytearray):
                value[:] = after
            elif type(value) in (dict, set):
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
                number, arguments = rest  # a function of the tests, and values of the program
                values, _ = self.interpret("value", arguments, None)
                self.process.send(wire.pack(["result", wire.encode(self.functions[number](*values), self.export)]))
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
        self.crossed |= not exact
        kind = _EXCEPTIONS[name]
        if not issubclass(kind, Exception):
            raise Settled("error", f"raised {name}")
        self.error = kind.__new__(kind, text)
        self.error.args = (text,)
        self.error.sandbox_name = name if exact else f"an exception of its own ({name})"
        raise self.error
