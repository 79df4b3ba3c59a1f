"""Run tests in the program's own process, for what no border lets through.

[연구 맥락] 어떤 시험은 값이 프로세스의 경계를 건너면 뜻이 달라진다: `f(a) is a`, `except MyError`, `re.compile(…)`을
넘기는 것, numpy를 import하는 것. 그런 시험만 여기서, 프로그램과 한 프로세스에서 실행한다. 여기 있는 것은 모두
프로그램의 손안에 있으므로 다음으로 버틴다.

- 비교(`==`, `<`, `in` …)는 여기서 하지 않는다. 값을 judge에게 보내 거기서 비교한다. 리터럴인 기대값은 이 프로세스에
  온 적이 없다.
- 시험은 프로그램의 글이 모두 실행된 뒤에 온다. 내장 이름과 자주 쓰는 모듈은 프로그램이 바꾸기 전의 것을 쓴다.
- 끝까지 갔다는 말은 시험과 함께 온 nonce로 한다.

[동작] judge 쪽은 `hiding.py` (시험을 고쳐 쓴다)와 `Judge.judge_inside`.
[디버깅] 그래도 프레임을 뒤져 시험의 글을 읽는 프로그램은 막지 못한다. 그래서 결과에 `tests: inside`라고 적힌다.
"""

import ast
import builtins
import operator
import sys

from . import wire

_BUILTINS = dict(vars(builtins))
_OPERATORS = {
    "Add": operator.add, "Sub": operator.sub, "Mult": operator.mul, "MatMult": operator.matmul, "Div": operator.truediv,
    "Mod": operator.mod, "LShift": operator.lshift, "RShift": operator.rshift, "BitOr": operator.or_,
    "BitXor": operator.xor, "BitAnd": operator.and_, "FloorDiv": operator.floordiv, "Pow": operator.pow,
}  # fmt: skip
COMPARISONS = {
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt,
    "GtE": operator.ge, "In": lambda item, whole: item in whole, "NotIn": lambda item, whole: item not in whole,
}  # fmt: skip
_SCALARS = frozenset({int, float, str, bool, bytes, complex, type(None)})
_MADE_BY_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE: no program can make a class without it


class CannotImportError(ImportError):
    """Say that the tests, not the program, import what is not installed here."""


class Pristine:
    """Remember modules as they are before any program has touched them, and what classes they have."""

    def __init__(self, names: list[str]):
        self.modules = {sys.modules[name]: dict(vars(sys.modules[name])) for name in names if name in sys.modules}
        self.classes = {
            value for content in self.modules.values() for value in content.values() if isinstance(value, type)
        }

    def owns(self, value) -> bool:
        """Tell whether the class of a value can be no program's own."""
        return not type(value).__flags__ & _MADE_BY_PYTHON or type(value) in self.classes

    def restore(self) -> None:
        """Undo what a program has replaced in them."""
        for module, content in self.modules.items():
            vars(module).update(content)


pristine = Pristine([])


class _Names(dict):
    """Be the global names of the tests, as names.py orders them."""

    def __init__(self, namespace: dict, tools: dict, tested: list[str], **own):
        given = _BUILTINS | {"__import__": _import}
        super().__init__(given | tools | own, __name__="tests", __builtins__=given)
        self.namespace = namespace
        for name in tested:
            self.pop(name, None)

    def __missing__(self, name):
        return self.namespace[name]


def run(
    answering, imports: str, tools: list, texts: list, nonce: str, strict: bool, entry_point: str | None, tested: list
) -> str:
    """Run tests; return the nonce where they all pass.

    Args:
        answering: judge와 이야기하는 쪽.
        imports: 도구를 들여오는 import 문들. tools: 그 가운데 시험이 도구로 쓰는 이름.
        texts: setup과 시험들. `hiding.hide`가 고쳐 쓴 것.
        nonce: 끝까지 갔을 때 돌려줄 것.
        strict: 프로그램의 객체와 평범한 값 사이의 연산을 거절하는가.
        entry_point: 시험받는 함수. tested: 내장 이름이지만 프로그램의 것일 수 있는 이름들.
    """
    sys.settrace(None)
    sys.setprofile(None)
    pristine.restore()

    def compare(number, *operands, names=None):
        if names is not None and all(map(_is_plain, operands)):  # nothing is hidden, and nothing can be forged
            return _compare(names, operands)
        answering.send(["compare", number, answering.encode(list(operands))])
        answer = answering.answer_until("result")  # and what the judge asks in between
        if isinstance(answer, list):  # the objects may answer for themselves: here is what they are compared with
            operators, places, others = answer
            others = dict(zip(places, wire.decode(others, answering.resolve), strict=True))
            rest = iter(operands)
            whole = [others[place] if place in others else next(rest) for place in range(len(operators) + 1)]
            return _compare(operators, whole)
        if answer is None:
            raise TypeError("an object of the program cannot be compared with a plain value")
        return answer

    def operate(name, left, right):
        if type(left) in _SCALARS and type(right) in _SCALARS:
            return _OPERATORS[name](left, right)
        if strict and pristine.owns(left) != pristine.owns(right):
            raise TypeError("an object of the program cannot be mixed with a plain value")
        return _OPERATORS[name](left, right)

    found = {}
    for statement in ast.parse(imports).body:
        try:
            exec(compile(ast.unparse(statement), "<imports>", "exec"), found)
        except ImportError:
            pass
    found = {name: found[name] for name in tools if name in found}
    namespace = _Names(answering.namespace, found, tested, __compare__=compare, __operate__=operate)
    for count, text in enumerate(texts):
        answering.send(["began", count, None])
        exec(compile(text, "<tests>", "exec", dont_inherit=True), namespace)
        if count == 0:
            namespace.pop(entry_point, None)
    return nonce


def _compare(operators, operands):
    """Compare as Python does: the answer to one comparison may be anything, an array for example."""
    for name, left, right in zip(operators, operands, operands[1:], strict=False):
        answer = COMPARISONS[name](left, right)
        if len(operators) > 1 and not answer:
            break
    return answer


def _is_plain(value) -> bool:
    """Tell whether a value and all that it holds are of plain types themselves, none of a class derived from them."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        return _are_plain(value) and _are_plain(value.values())
    return kind in (list, tuple, set, frozenset) and _are_plain(value)


def _are_plain(values) -> bool:
    """Tell it of many values; fast where all are scalars."""
    return set(map(type, values)) <= _SCALARS or all(map(_is_plain, values))


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    """Import for the tests, and say so where that fails."""
    try:
        return __import__(name, globals, locals, fromlist, level)
    except ImportError:
        if isinstance(globals, _Names):
            raise CannotImportError(name) from None
        raise
