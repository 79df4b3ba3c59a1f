"""Change any Python program in one place, the way people get programs wrong.

[연구 맥락] 오답이 없는 데이터(MBPP)에서 critic의 재료는 정답과 한 곳만 다른 프로그램이다. 나머지는 글자까지 같아야
    틀린 자리를 글자 구간으로 말할 수 있다. 그래서 ast로 자리만 찾고, 글은 원래 글에서 그 자리만 바꾼다.
[동작] `edits`가 바꿀 수 있는 자리를 모두 찾고, `mutate`가 종류 → 자리를 고르게 뽑는다. 바뀐 글은 컴파일되고 뜻이 다르다
    (구문 나무가 다르다). 정말 틀렸는지는 실행해 보아야 안다: wmtp/critic/rewards.py.
[근거] 돌연변이 시험 도구는 쓰지 않는다. mutmut 3.8은 변이를 모두 담은 파일을 쓰고 pytest를 돌리는 프로그램이지
    글 하나를 바꾸는 함수가 아니다. cosmic-ray 8.7은 파일과 sqlite 세션 위에서 돌고 (의존 13개), min/max, 슬라이스,
    순서 바꾸기, 아는 이름끼리의 바꾸기가 없다. 둘 다 달라진 글자 구간을 주지 않는다.
[디버깅] 어떤 자리가 있는지는 `edits(source)`를 출력한다. 종류마다 시험에 걸리는 비율은 docs/data.md.
"""

import ast
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

COMPARISONS = {
    "<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",),
    "is": ("is not",), "is not": ("is",), "in": ("not in",), "not in": ("in",),
}  # fmt: skip
ARITHMETIC = {
    "+": ("-", "*"), "-": ("+",), "*": ("+", "//"), "/": ("//", "*"), "//": ("/", "%"), "%": ("//", "*"), "**": ("*",),
    "<<": (">>",), ">>": ("<<",), "&": ("|",), "|": ("&", "^"), "^": ("|", "&"),
}  # fmt: skip
JUNCTIONS = {"and": ("or",), "or": ("and",)}
OPERATOR = {
    "comparison": re.compile(r"#.*|not\s+in\b|is\s+not\b|[<>=!]=|[<>]|\bin\b|\bis\b"),
    "arithmetic": re.compile(r"#.*|\*\*|//|<<|>>|[-+*/%@&|^]"),
    "junction": re.compile(r"#.*|\band\b|\bor\b"),
}
# Names that are mistaken for each other, as functions and as methods.
PAIRS = (
    "min max", "sum max", "any all", "sorted list", "sorted reversed", "list set", "int float", "int round",
    "ceil floor", "abs int", "upper lower", "isupper islower", "isdigit isalpha", "startswith endswith",
    "lstrip rstrip", "strip lstrip", "find rfind", "append extend", "keys values", "union intersection",
    "add discard", "sqrt int", "gcd lcm", "heappush heappop", "appendleft append", "popleft pop", "ljust rjust",
    "most_common elements", "permutations combinations",
)  # fmt: skip
CONFUSED: dict[str, list[str]] = {}
for _one, _other in map(str.split, PAIRS):
    CONFUSED.setdefault(_one, []).append(_other)
    CONFUSED.setdefault(_other, []).append(_one)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PLAIN = (ast.Name, ast.Call, ast.Attribute, ast.Subscript)


class Edit(NamedTuple):
    """Hold one possible change.

    Attributes:
        kind: 무엇을 바꾸는지. 예: "comparison".
        start, end: 바꿀 글자 구간 [start, end).
    """

    kind: str
    start: int
    end: int
    text: str


def mutate(source: str, rng: random.Random) -> tuple[str, tuple[int, int]] | None:
    """Change a program in one place.

    Returns:
        (바뀐 프로그램, 달라진 글자 구간 [시작, 끝)). 파이썬이 아니거나 바꿀 곳이 없으면 None.

    Example:
        >>> mutate("def f(a):\\n    return a < 3  # small\\n", random.Random(4))
        ('def f(a):\\n    return a > 3  # small\\n', (23, 24))
    """
    original = _parsed(source)
    kinds: dict[str, list[Edit]] = {}
    for edit in edits(source) if original else ():
        kinds.setdefault(edit.kind, []).append(edit)
    while kinds:
        kind = rng.choice(sorted(kinds))
        edit = kinds[kind].pop(rng.randrange(len(kinds[kind])))
        if not kinds[kind]:
            del kinds[kind]
        mutant = source[: edit.start] + edit.text + source[edit.end :]
        start, end = difference(source, mutant)
        if start < end and _parsed(mutant) not in (None, original):
            return mutant, (start, end)
    return None


def difference(before: str, after: str) -> tuple[int, int]:
    """Find the characters of `after` that differ from `before`, whole words and signs at a time.

    Example:
        >>> difference("return sum(xs)", "return max(xs, default=0)")
        (7, 24)
    """
    old, new = (re.findall(r"\w+|\s+|.", text) for text in (before, after))
    left = 0
    while left < min(len(old), len(new)) and old[left] == new[left]:
        left += 1
    right = 0
    while right < min(len(old), len(new)) - left and old[-1 - right] == new[-1 - right]:
        right += 1
    # Where something is only missing, the fault shows at whatever stands there instead.
    stop = max(len(new) - right, left + 1)
    return len("".join(new[:left])), len("".join(new[:stop]))


def edits(source: str) -> list[Edit]:
    """List every change that can be made to a program, in the order of the text; none if it is no Python."""
    try:
        finder = _Finder(source)
        finder.visit_all(finder.tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return sorted(set(finder.found), key=lambda edit: (edit.start, edit.end, edit.kind, edit.text))


def _parsed(source: str) -> str | None:
    """Compile a program and write its syntax tree; None if it is no Python, or nested too deep."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "is" with a literal, "\d" in a text
            compile(source, "<program>", "exec", dont_inherit=True)
            return ast.dump(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Finder(ast.NodeVisitor):
    """Walk over a program and note what can be changed where."""

    def __init__(self, source: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tree = ast.parse(source)
        self.source = source
        self.lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", source)  # as Python counts them
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Edit] = []
        self.scope = self.variables(self.tree.body)  # variable → the place after which it has a value

    # Places

    def place(self, line: int, column: int) -> int:
        """Count characters up to where the parser, which counts bytes, says that something stands."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: Any) -> tuple[int, int]:
        return self.place(node.lineno, node.col_offset), self.place(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.AST) -> str:
        return self.source[slice(*self.span(node))]

    def change(self, kind: str, node: ast.AST, *texts: str) -> None:
        """Note that a node may be written in other ways."""
        self.found += [Edit(kind, *self.span(node), text) for text in texts if text != self.text(node)]

    def operator(self, kind: str, left: ast.AST, right: ast.AST, others: Mapping[str, tuple[str, ...]]) -> None:
        """Note the rivals of the operator between two operands; nothing else but brackets and comments is there."""
        start, end = self.span(left)[1], self.span(right)[0]
        for match in OPERATOR[kind].finditer(self.source[start:end]):
            if not match[0].startswith("#"):
                for other in others.get(" ".join(match[0].split()), ()):
                    self.found.append(Edit(kind, start + match.start(), start + match.end(), other))
                return

    def swap(self, left: ast.AST, right: ast.AST) -> None:
        """Note that two expressions may be in the wrong order."""
        (start, middle), (rest, end) = self.span(left), self.span(right)
        text = self.source[rest:end] + self.source[middle:rest] + self.source[start:middle]
        if text != self.source[start:end]:
            self.found.append(Edit("order", start, end, text))

    def bound(self, node: ast.AST | None) -> None:
        """Note that an index or a bound may be off by one; a number is changed as a number."""
        if isinstance(node, PLAIN) or (isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))):
            self.change("bound", node, f"{self.text(node)} + 1", f"{self.text(node)} - 1")

    # Variables

    def variables(self, body: Sequence[ast.stmt], arguments: ast.arguments | None = None) -> dict[str, int]:
        """List the variables of a function or module and the places after which each has a value."""
        names = dict.fromkeys((arg.arg for arg in _arguments(arguments)), 0) if arguments else {}
        for statement in _statements(body):
            if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                place = self.span(statement)[1]
            elif isinstance(statement, (ast.For, ast.AsyncFor)):
                targets, place = [statement.target], self.span(statement.iter)[1]
            else:
                continue
            for name in _stored(targets):
                names.setdefault(name, place)
        return names

    def others(self, name: str, place: int) -> list[str]:
        return [other for other, since in self.scope.items() if since < place and other != name]

    def inside(self, scope: dict[str, int], *parts: ast.AST | Sequence[ast.AST]) -> None:
        """Visit what has variables of its own."""
        outer, self.scope = self.scope, scope
        for part in parts:
            self.visit_all([part] if isinstance(part, ast.AST) else part)
        self.scope = outer

    def visit_all(self, nodes: Sequence[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.visit_all([*node.args.defaults, *node.args.kw_defaults])  # no decorators, no annotations
        self.inside(self.variables(node.body, node.args), node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        own = dict.fromkeys((arg.arg for arg in _arguments(node.args)), 0)
        self.inside(self.scope | own, node.body)

    def comprehension(self, node: Any) -> None:
        first, *rest = node.generators
        self.visit(first.iter)
        own = dict.fromkeys(_stored([generator.target for generator in node.generators]), 0)
        conditions = [condition for generator in node.generators for condition in generator.ifs]
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for condition in conditions:
            self.condition(condition)
        self.inside(self.scope | own, results, conditions, [generator.iter for generator in rest])

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = comprehension

    # What can be wrong

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right in pairwise(operands):
            self.operator("comparison", left, right, COMPARISONS)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self.operator("junction", left, right, JUNCTIONS)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        formatting = isinstance(node.op, ast.Mod) and isinstance(getattr(node.left, "value", None), str)
        if not formatting:
            self.operator("arithmetic", node.left, node.right, ARITHMETIC)
            if isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)):
                self.swap(node.left, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.operator("arithmetic", node.target, node.value, ARITHMETIC)
        self.change("statement", node, "pass")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self.change("sign" if isinstance(node.op, ast.USub) else "condition", node, self.text(node.operand))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value, text = node.value, self.text(node)
        if isinstance(value, bool):
            self.change("boolean", node, str(not value))
        elif isinstance(value, int) and text == str(value):
            self.change("number", node, str(value + 1), *([str(value - 1)] if value else []))
        elif isinstance(value, float) and re.fullmatch(r"\d+\.\d+", text):
            self.change("number", node, text + "1", text.replace(".", "1.", 1))
        elif isinstance(value, str) and text[1:-1] == value and text[0] in "'\"" and len(value) < 20:
            rivals = [value[:-1], value.swapcase(), value + (value[-1:] or " ")]
            self.change("text", node, *(text[0] + rival + text[0] for rival in rivals if rival != value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass  # before 3.12 the places inside are wrong

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id in self.scope:
            self.change("name", node, *self.others(node.id, self.span(node)[0]))

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = getattr(function, "id", getattr(function, "attr", ""))
        end = self.span(function)[1]
        self.found += [Edit("call", end - len(name), end, rival) for rival in CONFUSED.get(name, ())]
        if name in ("sorted", "sort") and not any(keyword.arg == "reverse" for keyword in node.keywords):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if given:
                self.change("flag", given[-1], f"{self.text(given[-1])}, reverse=True")
            else:
                self.change("flag", node, f"{self.text(function)}(reverse=True)")
        if isinstance(function, ast.Name) and name == "range":
            for argument in node.args:
                self.bound(argument)
        positional = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        for left, right in pairwise(positional):
            self.swap(left, right)
        if isinstance(function, ast.Attribute):
            self.visit(function.value)
        self.visit_all([*node.args, *(keyword.value for keyword in node.keywords)])

    def visit_Subscript(self, node: ast.Subscript) -> None:
        index = node.slice
        if isinstance(index, ast.Slice):
            self.bound(index.lower)
            self.bound(index.upper)
            start, end = self.span(index)
            if index.lower:
                self.found.append(Edit("slice", *self.span(index.lower), ""))
            if index.upper:
                self.found.append(Edit("slice", *self.span(index.upper), ""))
            if index.step:
                before = self.span(index.upper or index.lower)[1] if index.upper or index.lower else start
                self.found.append(Edit("slice", before, end, ":" if not index.upper else ""))
        else:
            self.bound(index)
        self.generic_visit(node)

    def condition(self, test: ast.expr) -> None:
        if isinstance(test, PLAIN):
            self.change("condition", test, f"not {self.text(test)}")

    def visit_If(self, node: ast.If) -> None:
        if "__name__" not in self.text(node.test):
            self.condition(node.test)
            self.visit(node.test)
        self.visit_all([*node.body, *node.orelse])

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self.change("return", node.value, *(self.others("", self.span(node)[0]) or ["None"]))
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.change("statement", node, "pass")
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self.change("jump", node, "continue", "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.change("jump", node, "break", "pass")


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument for argument in listed if argument is not None]


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Walk over the statements of one scope, those in its loops and branches included."""
    for statement in body:
        yield statement
        if not isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, ()))


def _stored(targets: Sequence[ast.expr]) -> list[str]:
    """List the names that targets bind, `x` and `y` of `x, y[0] = …` giving x."""
    nodes = (node for target in targets for node in ast.walk(target))
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
