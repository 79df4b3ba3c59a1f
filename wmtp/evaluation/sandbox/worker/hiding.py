"""Rewrite tests that run in the program's process so that the judge compares, and keeps what is expected.

[연구 맥락] 시험을 프로그램의 프로세스로 보내면 프로그램이 기대값을 읽고 `==`를 속일 수 있다.
그래서 비교만은 여기 남긴다.

    assert sorted(f([3, 1])) == [1, 3]      이것이
    assert __compare__(0, sorted(f([3, 1])))  이렇게 간다. [1, 3]은 가지 않는다.

[동작] `hide`가 고쳐 쓰고, 저쪽의 `__compare__`가 값을 보내오면 `Hidden.compare`가 답한다.
"""

import ast
import dataclasses
import functools

from . import inside, wire
from .session import Session
from .settled import Settled
from .taint import Taint


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Keep one comparison of the tests.

    Attributes:
        operators: 비교 연산자의 이름들. `a < b < c`면 둘.
        expected: 몇째 피연산자가 어떤 리터럴인지.
        asserted: assert문 전체가 이 비교인가. 그렇다면 거짓이 곧 판정이다.
    """

    operators: tuple[str, ...]
    expected: dict[int, object]
    asserted: bool


@dataclasses.dataclass(frozen=True)
class Hidden:
    """Hold rewritten tests.

    Attributes:
        comparisons: 거기서 빠진 비교들.
        due: 끝까지 갔다면 한 번은 왔어야 하는 비교의 번호 (맨 바깥의 assert).
    """

    texts: list[str]
    comparisons: list[Comparison]
    due: frozenset[int]

    def compare(self, session: Session, number, operands, place: str, strict: bool):
        """Compare the values that have come; return the answer for the other side.

        Returns:
            참이나 거짓. None이면 비교할 수 없다. strict가 아니고 프로그램의 객체가 끼어 있으면 기대값을 주어 저쪽에서
            비교하게 한다.
        """
        try:
            comparison = self.comparisons[number]
            session.met_object = False
            rest = iter(wire.decode(operands, session.resolve))
            expected = comparison.expected
            count = len(comparison.operators) + 1
            values = [expected[place] if place in expected else next(rest) for place in range(count)]
        except (ArithmeticError, LookupError, RecursionError, StopIteration, TypeError, ValueError, AttributeError):
            raise Settled("error", "answered with something that is no value") from None
        if session.met_object and not strict:
            return [comparison.operators, [*expected], wire.encode([*expected.values()], session.export)]
        try:
            pairs = zip(comparison.operators, values, values[1:], strict=False)
            answer = all(inside.COMPARISONS[name](left, right) for name, left, right in pairs)
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError):
            answer = None
        if comparison.asserted and not answer:
            raise Settled("wrong", f"failed {place}")
        return answer


@functools.lru_cache(maxsize=64)
def hide(texts: tuple[str, ...], tested: tuple[str, ...], strict: bool) -> Hidden:
    """Rewrite tests wherever a value of the program may be at hand.

    Args:
        tested: 언제나 프로그램의 것인 이름들 (`Uses.tested_builtins`).
        strict: 두 값의 계산(`f(x) - 1`)도 고쳐 써서, 프로그램의 객체가 평범한 값과 섞이는지 볼 것인가.

    Example:
        >>> hide(("n = 2", "assert f(n) == 4", "assert 1 < f(n) <= n * n"), (), strict=False).texts
        ['n = 2', 'assert __compare__(0, f(n))', 'assert __compare__(1, f(n), n * n)']
    """
    trees = [ast.parse(text) for text in texts]
    rewriting = _Rewriting(Taint(trees, tested), strict)
    return Hidden([rewriting.rewrite(tree) for tree in trees], rewriting.comparisons, frozenset(rewriting.due))


class _Rewriting(ast.NodeTransformer):
    """Take comparisons out of tests."""

    def __init__(self, taint: Taint, strict: bool):
        self.taint, self.strict, self.comparisons, self.due = taint, strict, [], set()

    def rewrite(self, tree: ast.Module) -> str:
        tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try | ast.TryStar)]
        caught = {id(node) for outer in tries for node in ast.walk(outer)}
        asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        self.in_asserts = {id(part) for node in asserts for part in ast.walk(node)}
        self.asserted = {id(node.test) for node in asserts if id(node) not in caught}
        self.outermost = {id(node.test) for node in tree.body if isinstance(node, ast.Assert)}
        return ast.unparse(ast.fix_missing_locations(self.visit(tree)))

    def visit_Compare(self, node):
        operands = [node.left, *node.comparators]
        operators = tuple(type(operator).__name__ for operator in node.ops)
        if not self.taint.touches(node) or not all(name in inside.COMPARISONS for name in operators):
            return self.generic_visit(node)
        number = len(self.comparisons)
        expected = {place: value for place, part in enumerate(operands) for value in _literal(part)}
        if id(node) not in self.in_asserts and not any(isinstance(part, ast.Call) for part in ast.walk(node)):
            expected = {}  # `if n == 0` gives nothing away, and may be asked a million times
        self.comparisons.append(Comparison(operators, expected, id(node) in self.asserted))
        if id(node) in self.outermost:
            self.due.add(number)
        rest = [self.visit(part) for place, part in enumerate(operands) if place not in expected]
        decided_here = expected or number in self.due
        names = [] if decided_here else [ast.keyword("names", ast.Constant(operators))]
        return ast.Call(ast.Name("__compare__", ast.Load()), [ast.Constant(number), *rest], names)

    def visit_JoinedStr(self, node):
        return node  # what is formatted is no verdict, and its quotes are hard to write again

    def visit_BinOp(self, node):
        guarded = self.strict and self.taint.touches(node)
        self.generic_visit(node)
        return _operation(node.op, node.left, node.right) if guarded else node

    def visit_AugAssign(self, node):
        guarded = self.strict and isinstance(node.target, ast.Name) and self.taint.touches(node)
        self.generic_visit(node)
        if not guarded:
            return node
        return ast.Assign([node.target], _operation(node.op, ast.Name(node.target.id, ast.Load()), node.value))


def _operation(operator: ast.operator, left: ast.expr, right: ast.expr) -> ast.Call:
    """Write an operation as a call that may refuse it."""
    return ast.Call(ast.Name("__operate__", ast.Load()), [ast.Constant(type(operator).__name__), left, right], [])


def _literal(node: ast.expr) -> list:
    """Return the value of a literal in a list, an empty list for anything else."""
    try:
        return [ast.literal_eval(node)]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []
