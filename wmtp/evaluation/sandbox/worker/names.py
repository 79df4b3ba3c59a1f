"""Find the names that the tests use, none of them by the word of the program.

[연구 맥락] 시험의 도구(`math.isclose(f(x), 1.0)`의 math)를 프로그램의 글에서 찾으면, 프로그램이 judge에서 실행될 코드를
고른다: `from builtins import exec as isclose`. 그래서 도구는 시험의 import, 참조 정답의 import, 정해진 목록에서만 온다.
시험 자신도 judge에서는 받은 값을 코드로 실행하거나(`eval`, `pickle`) 파일로 여는(`open`) 것을 쓸 수 없다. 그런 시험은
프로그램의 프로세스 안에서 실행된다 (`inside.py`).
[동작] 이름은 이 순서로 찾는다.

1. 시험과 setup이 정의한 것 (시험의 import 포함)
2. 내장 이름
3. 도구로 쓰인 이름: 참조 정답이 `MODULES`의 모듈에서 import한 것, 그 다음 `_WELL_KNOWN`과 `MODULES`
4. 나머지는 프로그램에게 묻는다. entry_point는 언제나 여기다
"""

import ast
import builtins
import collections
import copy
import decimal
import fractions
import functools
import importlib
import itertools
import math
from typing import Any, NamedTuple

from .remote import Remote
from .session import Session
from .settled import Settled

#: Modules that tests may import here, and of which references may lend names: nothing in them executes, unpickles or
#: looks into what it is given. (typing.get_type_hints does; Judge takes it away.)
MODULES = frozenset(
    "__future__ abc array base64 binascii bisect calendar cmath collections contextlib copy dataclasses datetime "
    "decimal enum fractions functools hashlib heapq itertools json math numbers operator random re statistics string "
    "struct sys textwrap time typing unicodedata uuid warnings zlib zoneinfo".split()
)
#: What tests use without an import, where no reference solution says what it is.
_WELL_KNOWN = {
    tool.__name__: tool
    for tool in (
        *(math.isclose, copy.deepcopy, decimal.Decimal, fractions.Fraction),
        *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    )
}


def refuse(what: str):
    """Leave a test to the program's own process: what it does here would need the border to be open."""
    raise Settled("harness_error", f"the tests use {what}, which the judge does not", border=True)


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    """Import for the tests, out of `MODULES`."""
    if name.partition(".")[0] not in MODULES:
        refuse(name)
    return __import__(name, globals, locals, fromlist, level)


_REFUSED = "eval exec compile open input breakpoint help globals locals vars dir memoryview".split()
_BUILTINS = {
    **vars(builtins),
    "__import__": _import,
    **{name: lambda *_, name=name, **__: refuse(name) for name in _REFUSED},
}


def tests_namespace() -> dict:
    """Make global names for trusted code that is given the values of a program."""
    return {**_BUILTINS, "__name__": "tests", "__builtins__": _BUILTINS}


class Names(dict):
    """Be the global names of the tests; see the order at the top of this file."""

    def __init__(self, session: Session, program: dict, uses: "Uses"):
        super().__init__(tests_namespace())
        self.session, self.uses = session, uses
        self.imports, self.entry_point = program["imports"], program["entry_point"]
        for name in uses.tested_builtins(self.entry_point):
            self.pop(name, None)

    def __missing__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise KeyError(name)
        wanted = name in self.uses.tools and name != self.entry_point
        if wanted and (tool := find_tool(name, self.imports)) is not None:
            self[name] = tool
            return tool
        try:
            value = self.session.request("name", name)
        except NameError:
            if hasattr(builtins, name):
                raise KeyError(name) from None
            raise
        if isinstance(value, Remote):
            self[name] = value
        return value


def find_tool(name: str, imports: str):
    """Return the tool that a name means, None where it means none.

    Example:
        >>> find_tool("isclose", "from math import isclose") is math.isclose
        True
        >>> find_tool("isclose", "from builtins import exec as isclose") is exec
        False
    """
    if (tool := _imported(imports).get(name)) is not None:
        return tool
    return importlib.import_module(name) if name in MODULES else _WELL_KNOWN.get(name)


def imports_inside(imports: str, uses: "Uses") -> str:
    """Write the import statements that bind the tools of tests in the program's own process."""
    known = [
        f"import {name}" if name in MODULES else f"from {_WELL_KNOWN[name].__module__} import {name}"
        for name in sorted(uses.tools)
        if name in MODULES or name in _WELL_KNOWN
    ]
    return "\n".join([*known, imports])


@functools.lru_cache(maxsize=1024)
def _imported(imports: str) -> dict:
    """Carry out import statements, as far as they keep to `MODULES`; return what they bind."""
    found: dict[str, Any] = {}
    statements = [one for one in ast.parse(imports).body if isinstance(one, ast.Import | ast.ImportFrom)]
    for statement in statements:
        for alias in statement.names:
            module = alias.name if isinstance(statement, ast.Import) else statement.module or ""
            top = module.partition(".")[0]
            if top not in MODULES:
                continue
            try:
                loaded = importlib.import_module(module)
            except ImportError:
                continue
            if isinstance(statement, ast.Import):
                found[alias.asname or top] = loaded if alias.asname else importlib.import_module(top)
            elif alias.name == "*":
                found |= {name: value for name, value in vars(loaded).items() if not name.startswith("_")}
            else:
                found[alias.asname or alias.name] = getattr(loaded, alias.name, None)
    return found


class Uses(NamedTuple):
    """Say how tests use the names that they find outside.

    Attributes:
        called: 부르는 이름.
        tools: 시험의 도구로 쓰는 이름: `math.isclose`의 math, `isclose(f(x), 1.0)`의 isclose처럼 점 앞에 있거나
            다른 함수의 결과를 받는 것. 이런 이름만 진짜 표준 라이브러리에서 찾는다: `gcd(4, 6)`의 gcd는 시험받는
            함수이므로, 프로그램이 gcd를 import하고 나서 새로 정의했을 수 있다.
        identity: `is`로 같은 객체인지를 묻는가 (None, True, False인지를 묻는 것은 빼고).
    """

    called: frozenset
    tools: frozenset
    identity: bool

    def tested_builtins(self, entry_point: str | None) -> tuple[str, ...]:
        """List the builtins that may be the function under test: all where the tests call no other function."""
        if entry_point is not None:
            return (entry_point,)
        return () if any(name not in _BUILTINS for name in self.called) else tuple(sorted(self.called))


@functools.lru_cache(maxsize=1024)
def compile_tests(texts: tuple[str, ...]) -> tuple[list, Uses]:
    """Compile tests and see how they use names; samples of one problem share the work."""
    trees = [ast.parse(text, "<tests>") for text in texts]
    called, tools, identity = set(), set(), False
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            tools.add(node.value.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
            inner = [part for argument in node.args for part in ast.walk(argument) if isinstance(part, ast.Call)]
            if any(isinstance(part.func, ast.Name) and not hasattr(builtins, part.func.id) for part in inner):
                tools.add(node.func.id)
        elif isinstance(node, ast.Compare) and any(isinstance(one, ast.Is | ast.IsNot) for one in node.ops):
            identity |= not any(isinstance(part, ast.Constant) for part in (node.left, *node.comparators))
    codes = [compile(tree, "<tests>", "exec", dont_inherit=True) for tree in trees]
    return codes, Uses(frozenset(called), frozenset(tools), identity)
