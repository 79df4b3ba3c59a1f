"""Find the names that the tests use, none of them by the word of the program.

[연구 맥락] 시험의 도구(`math.isclose(f(x), 1.0)`의 math)를 프로그램의 글에서 찾으면, 프로그램이 judge에서 실행될 코드를
고른다: `from builtins import exec as isclose`. 그래서 도구는 시험의 import, 참조 정답의 import, 정해진 목록에서만 온다.
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
from typing import NamedTuple

from .session import Remote, Session

#: Modules whose names a reference solution may lend to its tests: nothing in them executes or opens what it is given.
MODULES = frozenset(
    "bisect calendar cmath collections copy datetime decimal fractions functools heapq itertools json math numbers "
    "operator random re statistics string sys typing unicodedata".split()
)
#: What tests use without an import, where no reference solution says what it is.
_WELL_KNOWN = {
    "isclose": math.isclose,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": collections.defaultdict,
    "deque": collections.deque,
    "deepcopy": copy.deepcopy,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
}


class Names(dict):
    """Be the global names of the tests; see the order at the top of this file."""

    def __init__(self, session: Session, program: dict, uses: "Uses"):
        super().__init__(__name__="tests")
        self.session, self.uses = session, uses
        self.imports, self.entry_point = program["imports"], program["entry_point"]
        self.only_builtins = self.entry_point is None and all(hasattr(builtins, name) for name in uses.called)

    def __missing__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise KeyError(name)
        if hasattr(builtins, name) and name != self.entry_point and not self.only_builtins:
            raise KeyError(name)
        if name in self.uses.tools and name != self.entry_point:
            if (tool := find_tool(name, self.imports)) is not None:
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

    Args:
        name: 시험 속의 이름.
        imports: 참조 정답의 import 문들.

    Example:
        >>> find_tool("isclose", "from math import isclose") is math.isclose
        True
        >>> find_tool("isclose", "from builtins import exec as isclose") is exec
        False
    """
    if (tool := _imported(imports).get(name)) is not None:
        return tool
    return importlib.import_module(name) if name in MODULES else _WELL_KNOWN.get(name)


@functools.lru_cache(maxsize=1024)
def _imported(imports: str) -> dict:
    """Carry out import statements, as far as they keep to `MODULES`; return what they bind."""
    found = {}
    for statement in ast.parse(imports).body:
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
    """

    called: frozenset
    tools: frozenset


@functools.lru_cache(maxsize=1024)
def compile_tests(texts: tuple[str, ...]) -> tuple[list, Uses]:
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
