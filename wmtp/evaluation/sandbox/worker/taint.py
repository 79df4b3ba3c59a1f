"""Find out which names of the tests may hold something of the program.

[연구 맥락] 프로그램의 프로세스 안에서 실행할 시험을 고쳐 쓸 때 (`hiding.py`), 모든 비교와 계산을 고치면 느려진다.
시험이 제 정답 함수로 백만 번 도는 고리에는 지킬 것이 없다. 지킬 것은 프로그램의 값이 닿을 수 있는 곳뿐이다.
[동작] 이름만 본다. 시험이 정의하지 않은 이름은 프로그램의 것이고, 값이 흘러 들어갈 수 있는 이름도 그렇다: 대입, 순회,
호출의 인자, 돌려주는 값. 흐름의 순서는 보지 않으므로 대개 넘치게 잡는다. 다른 함수의 같은 이름은 다른 이름이다.
"""

import ast
import builtins

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Taint:
    """Know the names that may hold something of the program.

    Args:
        trees: setup과 시험들.
        tested: 시험이 정의했거나 내장 이름이더라도 프로그램의 것인 이름들 (entry_point).
    """

    def __init__(self, trees: list[ast.Module], tested: tuple[str, ...]):
        self.keys: dict[int, str] = {}
        nodes = [node for tree in trees for node in self._resolve(tree, ())]
        named = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        self.functions = {function.name: function for function in named if function.name not in tested}
        flows = [flow for node in nodes for flow in self._flows(node)]
        outside = {name for tree in trees for name in _bound(tree)} - {*tested} | vars(builtins).keys()
        used = {self.keys[id(node)] for node in nodes if isinstance(node, ast.Name)}
        self.tainted = {key for key in used if ":" not in key and key not in outside}.union(tested)
        self.tainted |= {self.keys[id(node)] for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:  # nobody knows what these are called with
            if isinstance(node, ast.Lambda):
                self.tainted |= self._parameters(node)
            elif isinstance(node, ast.Name) and node.id in self.functions and id(node) not in called:
                self.tainted |= self._parameters(self.functions[node.id])
        size = -1
        while size < len(self.tainted):
            size = len(self.tainted)
            for sources, targets in flows:
                if not sources.isdisjoint(self.tainted):
                    self.tainted |= targets

    def touches(self, node: ast.AST) -> bool:
        """Tell whether a value of the program may be in an expression."""
        return not self._names(node).isdisjoint(self.tainted)

    def _resolve(self, node: ast.AST, scopes: tuple[tuple[int, frozenset[str]], ...]):
        """Give each name the key of the scope that it belongs to; yield all nodes."""
        name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "name", None)
        if isinstance(name, str):
            inner = next((number for number, bound in reversed(scopes) if name in bound), None)
            self.keys[id(node)] = name if inner is None else f"{inner}:{name}"
        yield node
        if isinstance(node, _FUNCTIONS + _COMPREHENSIONS):
            scopes = (*scopes, (id(node), frozenset(_bound(node))))
        for child in ast.iter_child_nodes(node):
            yield from self._resolve(child, scopes)

    def _flows(self, node: ast.AST):
        """Yield (names whose values, names they flow into) for one node."""
        match node:
            case ast.Assign():
                yield self._names(node.value), self._names(*node.targets)
            case ast.AnnAssign(value=ast.expr() as value) | ast.AugAssign(value=value) | ast.NamedExpr(value=value):
                yield self._names(value), self._names(node.target)
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                yield self._names(node.iter), self._names(node.target)
            case ast.withitem(optional_vars=ast.expr() as target):
                yield self._names(node.context_expr), self._names(target)
            case ast.Match():
                yield (
                    self._names(node.subject),
                    {self.keys[id(part)] for part in ast.walk(node) if id(part) in self.keys},
                )
            case ast.Call():
                given = self._names(*node.args, *(keyword.value for keyword in node.keywords))
                yield self._names(node.func), given  # a function of the program may change what it is given
                if isinstance(node.func, ast.Attribute):
                    yield given, self._names(node.func.value)
                elif isinstance(node.func, ast.Name) and node.func.id in self.functions:
                    yield given, self._parameters(self.functions[node.func.id])
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                results = [part for part in ast.walk(node) if isinstance(part, ast.Return | ast.Yield | ast.YieldFrom)]
                yield self._names(*results), {self.keys[id(node)]}
                yield self._names(*node.decorator_list), {self.keys[id(node)]} | self._parameters(node)
            case ast.ClassDef():
                methods = [part for part in ast.walk(node) if isinstance(part, _FUNCTIONS)]
                yield self._names(node), {self.keys[id(node)]}.union(*map(self._parameters, methods))

    def _names(self, *nodes: ast.AST) -> set[str]:
        """List the keys of the names in expressions."""
        return {self.keys[id(part)] for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}

    def _parameters(self, function) -> set[str]:
        """List the keys of the parameters of a function or a lambda."""
        return {f"{id(function)}:{part.arg}" for part in ast.walk(function.args) if isinstance(part, ast.arg)}


def _bound(scope: ast.AST) -> set[str]:
    """List the names that a module, a function or a comprehension binds itself."""
    bound, elsewhere = set(), set()
    todo = [*ast.iter_child_nodes(scope)]
    while todo:
        node = todo.pop()
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                bound.add(node.id)
            case ast.arg():
                bound.add(node.arg)
            case ast.alias():
                bound.add((node.asname or node.name).partition(".")[0])
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.ExceptHandler() | ast.MatchAs():
                bound |= {node.name} if node.name else set()
            case ast.Global() | ast.Nonlocal():
                elsewhere.update(node.names)
        if not isinstance(node, _FUNCTIONS + _COMPREHENSIONS):
            todo += ast.iter_child_nodes(node)
    return bound - elsewhere
