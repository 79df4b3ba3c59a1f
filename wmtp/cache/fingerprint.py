"""Name inputs by what they are, so that a changed input is another name and the same one never is.

[연구 맥락] 캐시의 키에 사람이 올리는 번호가 있으면 언젠가 잊는다. 그래서 파일은 내용으로, 객체는 클래스의 코드와
    속성으로 부른다: 파서, 프롬프트, 문법이 하는 일이 바뀌면 새 키다. 주석이나 docstring을 고친 것은 바뀐 것이 아니다.
[동작] 여기서는 torch를 부르지 않는다 (출처와 함께 일찍 불린다).
[디버깅] 캐시가 자꾸 새로 만들어지면 `identify(객체)`를 두 번 출력해 다른 곳을 찾는다.
"""

import ast
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Collection
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from wmtp.cache.texts import remember

LARGE = 64 * 2**20  # bytes; hashing more than this at every start would be felt
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest_of(value: Any) -> str:
    """Name a value of plain types by its content.

    Example:
        >>> digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def digest_of_file(file: Path) -> str:
    """Name a file by its bytes.

    [동작] 큰 파일은 한 번만 읽고, 크기와 두 시각(mtime, ctime)이 그대로인 동안 그 값을 기억한다.
    ctime은 사용자가 되돌릴 수 없으므로, 시각을 꾸민 파일에 속지 않는다.
    """
    stat = file.stat()
    settled = time.time() - stat.st_ctime > 2  # a clock tick can hide a second write
    if stat.st_size < LARGE or not settled:
        return _read_digest(file)
    name = digest_of([str(file.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
    return remember("digests", name, lambda: _read_digest(file))


def digest_of_model(folder: Path) -> str:
    """Name a model by its config and its weights."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return digest_of([digest_of_file(file) for file in files])


def code_of(*modules: ModuleType | Path) -> str:
    """Name modules, or files of code, by what they do: comments, docstrings and layout do not count."""
    sources = (one.read_text("utf-8") if isinstance(one, Path) else inspect.getsource(one) for one in modules)
    return digest_of(sorted(map(_without_words, sources)))


@cache
def _without_words(source: str) -> str:
    """Write code down again from its syntax tree, without docstrings; the same in most versions of Python."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.unparse(tree)


def modules_of(thing: Any) -> set[ModuleType]:
    """Find the modules that define an object's class and the classes it inherits from."""
    return {sys.modules[kind.__module__] for kind in type(thing).__mro__ if kind is not object}


def identify(thing: Any, ignore: Collection[str] = ()) -> dict[str, Any]:
    """Describe an object by its class, the code of its class, and its attributes.

    Args:
        ignore: 값이 달라도 같은 것으로 볼 속성들.
    """
    return {
        "class": f"{type(thing).__module__}.{type(thing).__qualname__}",
        "code": code_of(*modules_of(thing)),
        "attributes": {name: value for name, value in vars(thing).items() if name not in ignore},
    }


def _read_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
