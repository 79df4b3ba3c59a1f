"""Take the program out of an answer: after the thoughts, out of a Markdown fence, out of prose.

[연구 맥락] 대화 모델은 프로그램만 쓰지 않는다. 맞은 프로그램이 설명 사이에 있으면 그대로는 문법 오류이고, 모델이 아니라
    답의 겉모양을 잰 숫자가 된다. EvalPlus의 sanitizer와 bigcode의 후처리가 하는 일이다.
[동작] 방법은 셋이다.
    none   그대로 채점한다.
    fence  `</think>` 뒤에서, 시험받는 함수를 정의하는 첫 코드 블록을 꺼낸다. 블록이 없으면 남은 글 그대로.
    auto   거기에 더해, 그래도 파이썬이 아니면 파이썬 문장만 고른다. 그리고 함수에 필요 없는 최상위 문장(예시 호출,
           assert, `if __name__ == "__main__"`)을 뺀다. 표준 입출력 문제의 프로그램에서는 빼지 않는다.
    HumanEval처럼 프롬프트에 이어 쓰는 문제에서는, 꺼낸 글이 함수를 정의하면 프롬프트의 import와 보조 함수 뒤에 두고,
    정의하지 않으면 함수의 본문으로 보고 프롬프트에 이어 붙인다.
    EvalPlus와 다른 점: 장식자가 붙은 정의와 return이 없는 함수(yield, 제자리 정렬)를 버리지 않고, 같은 이름이 둘이면
    파이썬처럼 뒤의 것이 이긴다.
[디버깅] 무엇을 채점했는지는 eval_results.json의 solution에 있다.
"""

import ast
import builtins
import re
import symtable
import warnings
from codeop import compile_command
from collections.abc import Iterator, Sequence

HOW = ("none", "fence", "auto")
THOUGHT = "</think>"  # what stands before it was thought, and is no answer
_PYTHON = {"", "python", "python3", "py", "py3"}
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)")
_GOES_ON = re.compile(r"(?:else|elif|except|finally)\b")
_SETS = re.compile(r"\.(?:set\w*|seed)$")  # sys.setrecursionlimit, random.seed
_UNREADABLE = (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)
_MOST_UNFINISHED = 20  # statements without an end: each is read to the end of the answer, and so many are no program


def holds_fence(answer: str) -> bool:
    """Tell whether an answer holds a Markdown fence.

    Example:
        >>> holds_fence("Sure!\\n```python\\nx = 1\\n```"), holds_fence("x = '```'")
        (True, False)
    """
    return any(map(_FENCE.fullmatch, answer.splitlines()))


def extract(answer: str, how: str, entry_point: str | None = None, prompt: str = "", tests: str = "") -> str:
    """Return the program to judge.

    Args:
        how: "fence" 또는 "auto".
        entry_point: 시험받는 함수. 없으면 (표준 입출력) 최상위 문장을 빼지 않는다.
        prompt: 답이 이어 쓰는 프롬프트. 답만으로 프로그램인 문제에서는 "".
        tests: 시험의 글. 시험이 부르는 다른 이름(MBPP 601의 클래스 Pair)도 남긴다.

    Example:
        >>> print(extract("Here you go:\\n\\ndef f(x):\\n    return x\\n\\nprint(f(1))\\nEnjoy!", "auto", "f").rstrip())
        def f(x):
            return x
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "is" with a literal, "\d" in a text
        return _extract(answer, how, entry_point, prompt, tests)


def _extract(answer: str, how: str, entry_point: str | None, prompt: str, tests: str) -> str:
    answer = _after_thoughts(answer.replace("\r\n", "\n"))
    # A fence inside of a program stands in one of its texts.
    code = answer if _parsed(answer) or _parsed(prompt + answer) else _fenced(answer, entry_point)
    program = _with_prompt(code, entry_point, prompt)
    if how == "fence":
        return program
    if _parsed(program) is None:
        found = [code for code in map(_statements, (code, answer)) if entry_point in _bound(code)]
        program = _with_prompt(found[0], entry_point, prompt) if found else _statements(program) or program
    return _needed(program, {entry_point, *_used(tests)}) if entry_point in _bound(program) else program


def _after_thoughts(answer: str) -> str:
    """Leave out what was thought; thoughts that never end hold no answer."""
    _, thought, said = answer.rpartition(THOUGHT)
    return said if thought else answer.partition("<think>")[0]


def _fenced(answer: str, entry_point: str | None) -> str:
    """Choose the fence, the first that defines the function, else the longest in Python; all of it without one."""
    fences = [code for language, code in _fences(answer) if language in _PYTHON]
    defining = (code for code in fences if entry_point in _bound(code))
    return next(defining, max(fences, key=len, default=answer))


def _fences(answer: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the content of each fence; one that is never closed ends with the answer.

    [동작] CommonMark의 규칙: 여는 것만큼 긴 같은 글자가 홀로 있고, 여는 것보다 네 칸 이상 들어가지 않은 줄이 닫는다.
    그래서 docstring 속의 것은 닫지 않는다.
    """
    lines = answer.split("\n")
    opened, start = None, 0
    for number, line in enumerate([*lines, "end"]):
        found = _FENCE.fullmatch(line)
        if opened and (number == len(lines) or (found and _closes(found, opened))):
            language = (opened["info"].split() or [""])[0].lower()
            if number == len(lines) and not language and not "".join(lines[start:]).strip():
                yield "", "\n".join(lines[: start - 1]) + "\n"  # the prompt of the chat had opened it
            else:
                yield language, "\n".join(one.removeprefix(opened["indent"]) for one in lines[start:number]) + "\n"
            opened = None
        elif found and not opened:
            opened, start = found, number + 1


def _closes(found: re.Match, opened: re.Match) -> bool:
    alike = found["fence"].startswith(opened["fence"]) and not found["info"].strip()
    return alike and len(found["indent"]) - len(opened["indent"]) < 4


def _with_prompt(code: str, entry_point: str | None, prompt: str) -> str:
    """Put the prompt before what continues it, and before a whole function for its imports, where that is Python."""
    if not prompt or entry_point not in _bound(code):
        return prompt + code
    both = f"{prompt}\n\n{code}"
    return both if _parsed(both) else code


def _statements(text: str) -> str:
    """Join the statements that stand in a text at the top level; the other lines are prose."""
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if line[:1].strip()] + [len(lines)]
    kept: list[str] = []
    at, unfinished = 0, 0
    while at < len(starts) - 1 and unfinished < _MOST_UNFINISHED:
        end = _end_of_statement(lines, starts, at)
        unfinished += end is None
        if end:
            kept.append("\n".join(lines[starts[at] : starts[end]]).rstrip())
        at = end or at + 1
    code = "\n".join(kept)
    tree = _parsed(code)
    if tree is None:
        return ""
    known = {*dir(builtins), "__name__", "__file__", *_bound(code)}
    # A line of one word, or "- a list", is an expression to Python.
    prose = [
        node
        for node in tree.body
        if isinstance(node, ast.Expr | ast.AnnAssign) and not _used(ast.unparse(node)) <= known
    ]
    return _keep(code, tree, [node for node in tree.body if node not in prose])


def _end_of_statement(lines: Sequence[str], starts: Sequence[int], at: int) -> int | None:
    """Find which start ends the statement that begins at another; 0 where none does, None where it never ends."""
    end = 0
    for after in range(at + 1, len(starts)):
        try:
            if compile_command("\n".join(lines[starts[at] : starts[after]]) + "\n", symbol="exec") is None:
                continue
        except _UNREADABLE:
            return end
        end = after
        if after == len(starts) - 1 or not _GOES_ON.match(lines[starts[after]]):
            return end
    return end or None


def _needed(program: str, needed: set[str]) -> str:
    """Leave out the statements at the top level that nothing needed uses: examples, tests, main programs."""
    tree = _parsed(program)
    if tree is None:
        return program
    used = {node: _used(ast.unparse(node)) for node in tree.body}
    imports = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    imported = set().union(*(_bound(ast.unparse(node)) for node in imports))  # sys.exit() does not change what sys is
    made = {node: _bound(ast.unparse(node)) | (_changed(node) - imported) for node in tree.body}
    kept = imports | set(filter(_sets_something, tree.body))
    needed = needed.union(*(used[node] for node in kept - imports))
    # What a kept statement uses is needed too, until nothing new comes up.
    while more := {
        node for node in tree.body if node not in kept and made[node] & needed and "__name__" not in used[node]
    }:
        kept |= more
        needed = needed.union(*(used[node] for node in more))
    return _keep(program, tree, [node for node in tree.body if node in kept])


def _sets_something(node: ast.stmt) -> bool:
    """Tell whether a statement sets up a library: `sys.setrecursionlimit(10**6)`, `getcontext().prec = 50`."""
    if isinstance(node, ast.Assign) and all(isinstance(target, ast.Attribute) for target in node.targets):
        return True
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.func
    return isinstance(call, ast.Attribute) and bool(_SETS.search(ast.unparse(call)))


def _changed(node: ast.stmt) -> set[str]:
    """Name what a statement changes without binding it: `memo[0] = 1`, `primes.append(2)`, in a loop too."""
    changed = set()
    for inner in ast.walk(node):
        called = isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Call) and inner.value.func
        target = called if isinstance(called, ast.Attribute) else inner
        if isinstance(target, ast.Attribute | ast.Subscript) and (called or isinstance(target.ctx, ast.Store)):
            while isinstance(target, ast.Attribute | ast.Subscript | ast.Call):
                target = target.func if isinstance(target, ast.Call) else target.value
            changed |= {target.id} if isinstance(target, ast.Name) else set()
    return changed


def _keep(program: str, tree: ast.Module, kept: Sequence[ast.stmt]) -> str:
    """Take the other statements at the top level away, and leave these as they are written."""
    lines_of = {node: range(_first_line(node), (node.end_lineno or node.lineno) + 1) for node in tree.body}
    gone = {line for node in tree.body if node not in kept for line in lines_of[node]}
    if not gone:
        return program
    if any(line in gone for node in kept for line in lines_of[node]):  # a; b
        return ast.unparse(ast.Module(list(kept), [])) + "\n"
    lines = [line for number, line in enumerate(program.split("\n"), start=1) if number not in gone]
    return "\n".join(lines).strip("\n") + "\n"


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def _parsed(program: str) -> ast.Module | None:
    """Parse what Python would run, None if it would not."""
    try:
        compile(program, "<answer>", "exec", dont_inherit=True)
        return ast.parse(program)
    except _UNREADABLE:
        return None


def _bound(code: str) -> set[str]:
    """Name what a program binds at its top level, nothing if it is none."""
    table = _names(code)
    return {one.get_name() for one in table.get_symbols() if _binds(one)} if table else set()


def _binds(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()


def _used(code: str) -> set[str]:
    """Name what code uses of the top level, now or when its functions are called; nothing if it is none."""
    tables = [table for table in [_names(code)] if table]
    for table in tables:
        tables += table.get_children()
    return {one.get_name() for table in tables for one in table.get_symbols() if one.is_global()}


def _names(code: str) -> symtable.SymbolTable | None:
    try:
        return symtable.symtable(code, "<answer>", "exec")
    except _UNREADABLE:
        return None
