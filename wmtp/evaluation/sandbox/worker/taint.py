"""Find out which names of the tests may hold something of the program.

[연구 맥락] 프로그램의 프로세스 안에서 실행할 시험을 고쳐 쓸 때 (`hiding.py`), 모든 비교와 계산을 고치면 느려진다.
시험이 제 정답 함수로 백만 번 도는 고리에는 지킬 것이 없다. 지킬 것은 프로그램의 값이 닿을 수 있는 곳뿐이다.
[동작] 이름만 본다. 시험이 정의하지 않은 이름은 프로그램의 것이고, 값이 흘러 들어갈 수 있는 이름도 그렇다: 대입, 순회,
호출의 인자, 돌려주는 값. 흐름의 순서와 영역은 보지 않으므로 대개 넘치게 잡는다.
"""

import ast
import builtins
import itertools


class Taint:
    """Know the names that may hold something of the program.

    Args:
        trees: setup과 시험들.
        tested: 시험이 정의했거나 내장 이름이더라도 프로그램의 것인 이름들 (entry_point).
    """

    def __init__(self, trees: list[ast.Module], tested: tuple[str, ...]):
        nodes = list(itertools.chain.from_iterable(map(ast.walk, trees)))
        self.functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        flows = [flow for node in nodes for flow in self._flows(node)]
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        bound |= {argument.arg for argument in nodes if isinstance(argument, ast.arg)}
        bound |= {node.name for node in nodes if isinstance(node, ast.ClassDef)} | self.functions.keys()
        bound |= {(one.asname or one.name).partition(".")[0] for one in nodes if isinstance(one, ast.alias)}
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        self.names = (used - bound - vars(builtins).keys()).union(tested)
        self.names |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler)}
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:  # nobody knows what these are called with
            if isinstance(node, ast.Lambda):
                self.names |= _parameters(node)
            elif isinstance(node, ast.Name) and node.id in self.functions and id(node) not in called:
                self.names |= _parameters(self.functions[node.id])
        size = -1
        while size < len(self.names):
            size = len(self.names)
            for sources, targets in flows:
                if not sources.isdisjoint(self.names):
                    self.names |= targets

    def touches(self, *nodes: ast.AST) -> bool:
        """Tell whether a value of the program may be in one of these expressions."""
        return any(not _names(node).isdisjoint(self.names) for node in nodes)

    def _flows(self, node: ast.AST):
        """Yield (names whose values, names they flow into) for one node."""
        match node:
            case ast.Assign():
                yield _names(node.value), _names(*node.targets)
            case ast.AnnAssign(value=ast.expr()) | ast.AugAssign() | ast.NamedExpr():
                yield _names(node.value), _names(node.target)
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                yield _names(node.iter), _names(node.target)
            case ast.withitem(optional_vars=ast.expr()):
                yield _names(node.context_expr), _names(node.optional_vars)
            case ast.Match():
                yield _names(node.subject), {name for part in ast.walk(node) if (name := getattr(part, "name", None))}
            case ast.Call():
                given = _names(*node.args, *(keyword.value for keyword in node.keywords))
                if isinstance(node.func, ast.Attribute):
                    yield given, _names(node.func.value)
                elif isinstance(node.func, ast.Name) and node.func.id in self.functions:
                    yield given, _parameters(self.functions[node.func.id])
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                results = [part for part in ast.walk(node) if isinstance(part, ast.Return | ast.Yield | ast.YieldFrom)]
                yield _names(*results), {node.name}
                yield _names(*node.decorator_list), {node.name} | _parameters(node)
            case ast.ClassDef():
                methods = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
                yield _names(node), {node.name}.union(*map(_parameters, methods))


def _names(*nodes: ast.AST) -> set[str]:
    """List the names in expressions."""
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _parameters(function) -> set[str]:
    """List the parameters of a function or a lambda."""
    return {part.arg for part in ast.walk(function.args) if isinstance(part, ast.arg)}
