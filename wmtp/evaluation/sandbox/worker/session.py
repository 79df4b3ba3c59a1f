"""Talk with a program about its functions: what the tests see of it, and what crosses.

[연구 맥락] 시험이 보는 프로그램의 이름은 `Remote`, 곧 저쪽 객체를 가리키는 번호다. 넘어오는 값은 평범한 값뿐이므로
`==`는 언제나 이쪽의 `==`다.
[디버깅] 판정이 이상하면 `Session.exchange`에 오가는 메시지를 출력해 보라.
"""

import builtins

from . import wire
from .settled import Settled

_EXCEPTIONS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and not name.endswith("Group")
}


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


class Session:
    """Talk with one program about its functions."""

    def __init__(self, process):
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
