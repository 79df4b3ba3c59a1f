"""Stand for the objects of a program in the tests; only plain values ever come from them.

[연구 맥락] 시험이 보는 프로그램의 객체는 번호다. 무엇을 물어도 답은 프로그램이 하지만, 답이 평범한 값이면 그 값의
비교는 이쪽에서 한다. 그래서 모든 것과 같다고, 무엇이든 들어 있다고, 무엇보다도 작다고 답하는 객체가 시험을
속이지 못한다.
[동작] 속성, 호출, 첨자, 순회, `len`, `with`, 문자열은 그때그때 묻는다. 연산자와 비교는 둘 다 프로그램의 객체일 때만
묻는다. 평범한 값과 섞이면 `==`는 거짓이고 나머지는 TypeError다.
[디버깅] 프로그램의 객체와 평범한 값을 섞는 시험은 프로그램의 프로세스 안에서 채점된다 (`inside.py`).
"""

from . import wire
from .settled import Settled


class Remote:
    """Stand for an object of the program."""

    __slots__ = ("_number", "_session")

    def __init__(self, session, number):
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments, **keywords):
        """Let the program call its object."""
        return self._session.call(self, arguments, keywords)

    def __bool__(self):
        return bool(self._session.request("bool", [self]))

    def __enter__(self):
        return self._session.request("getattr", [self, "__enter__"])()

    def __exit__(self, kind, error, traceback):
        # The class of the exception cannot cross, but whether there is one can.
        return self._session.request("exit", [self, None if kind is None else kind.__name__, str(error)])

    def __deepcopy__(self, memo):
        return self._session.request("deepcopy", [self])

    def __eq__(self, other):
        return isinstance(other, Remote) and bool(self._session.request("eq", [self, other]))

    def __hash__(self):
        return hash(self._number)

    def __instancecheck__(self, value):
        return number_of(value) is not None and bool(self._session.request("isinstance", [value, self]))

    def __subclasscheck__(self, kind):
        return number_of(kind) is not None and bool(self._session.request("issubclass", [kind, self]))


def _ask(operation: str):
    """Make the method that asks the program about one of its objects."""
    return lambda self, *operands: self._session.request(operation, [self, *operands])


def _ask_about_two(operation: str):
    """Make the operator that asks the program, but only about two objects of its own."""
    ask = _ask(operation)
    return lambda self, other: ask(self, other) if isinstance(other, Remote) else NotImplemented


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Remote, f"__{_name}__", _ask_about_two(_name))
for _name in ("and", "or", "xor"):
    setattr(Remote, f"__{_name}__", _ask_about_two(f"{_name}_"))
for _name in (
    *("getattr", "setattr", "delattr", "getitem", "setitem", "delitem", "iter", "next", "reversed"),
    *("len", "str", "repr", "copy", "neg", "pos", "abs", "invert"),
):
    setattr(Remote, f"__{_name}__", _ask(_name))


class RemoteContainer(Remote):
    """Stand for an object whose class derives from list, dict, set, bytearray or deque.

    Its content is fetched for every comparison, as plain values: what the program's `__eq__` says does not count.
    """

    __slots__ = ("_base",)

    def __init__(self, session, number, base):
        super().__init__(session, number)
        object.__setattr__(self, "_base", base)

    @property  # type: ignore[misc]  # of typeshed it can be set
    def __class__(self):
        return self._base

    def _content(self):
        content = self._session.request("content", [self, self._base.__name__])
        if type(content) is not self._base:
            raise Settled("error", "answered with something that is no value")
        return content

    def __eq__(self, other):  # and no hash, which Python takes away with it
        return self._content() == (other._content() if isinstance(other, RemoteContainer) else other)

    def __contains__(self, item):
        return item in self._content()


class Twin:
    """Be a plain value that cannot change, with the attributes that its class in the program has beside it."""

    def __getattr__(self, name):
        if name == "_remote" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self._remote, name)


TWINS = {
    base: type(f"Twin of {base.__name__}", (Twin, base), {})
    for base in (wire.BASES[name] for name in ("int", "float", "complex", "str", "bytes", "tuple", "frozenset"))
}


def number_of(value) -> int | None:
    """Return the number under which the program knows a value, None where it is none of its own."""
    if isinstance(value, Twin):
        value = value._remote
    return value._number if issubclass(type(value), Remote) else None
