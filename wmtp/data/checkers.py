"""Look at a checker before anything slow: is it Python, and does it define `check(input, output, answer)`.

[연구 맥락] 답이 여럿인 문제는 checker가 판정한다. 잘못된 checker를 채점하다가 알면 한 시간이 간다.
[동작] 여기서는 읽기만 하고 실행하지 않는다. 실행은 샌드박스가 한다 (`wmtp/evaluation/sandbox/worker/checking.py`).
    프로그램이 낸 것을 코드로 실행하는 checker(`eval`)는 거절한다: 무엇을 출력하든 통과하는 프로그램을 막을 수 없다.
"""

import ast
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

ARGUMENTS = ("input", "output", "answer")
_EXECUTES = ("eval", "exec")


def complaint_of(checker: str) -> tuple[int, str] | None:
    """Say in which line of a checker what is wrong, None where nothing is.

    Example:
        >>> complaint_of("def check(input, output, answer):\\n    return output == answer")
        >>> complaint_of("def check(output): return True")
        (1, 'check must take three arguments: input, output, answer')
        >>> complaint_of("def check(a, b, c):\\n    return eval(b) == c")
        (2, 'calls eval, which would run what a program printed; use ast.literal_eval or json.loads')
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a text
            tree = ast.parse(checker)
            compile(checker, "<checker>", "exec", dont_inherit=True)  # return outside of a function, for example
    except SyntaxError as error:
        return error.lineno or 1, f"is not Python ({error.msg})"
    except (ValueError, RecursionError, MemoryError) as error:
        return 1, f"is not Python ({str(error) or type(error).__name__})"
    found = next((one for one in reversed(tree.body) if isinstance(one, ast.FunctionDef) and one.name == "check"), None)
    if found is None:
        return 1, "defines no function check(input, output, answer)"
    if not _takes(found.args, len(ARGUMENTS)):
        return found.lineno, f"check must take three arguments: {', '.join(ARGUMENTS)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _EXECUTES:
            said = f"calls {node.id}, which would run what a program printed; use ast.literal_eval or json.loads"
            return node.lineno, said
    return None


def checkers_beside(files: Iterable[Path]) -> list[Path]:
    """List the checkers in the folders of data files, which their rows may name."""
    beside = sorted({code for folder in {file.parent for file in files} for code in folder.glob("*.py")})
    readable = [code for code in beside if code.is_file() and os.access(code, os.R_OK)]
    return [code for code in readable if b"def check(" in code.read_bytes()]


def _takes(arguments: ast.arguments, count: int) -> bool:
    """Tell whether a function can be called with so many positional arguments."""
    positional = len(arguments.posonlyargs) + len(arguments.args)
    needed = positional - len(arguments.defaults)
    keyword_only = [default for default in arguments.kw_defaults if default is None]
    return needed <= count and (count <= positional or arguments.vararg is not None) and not keyword_only
