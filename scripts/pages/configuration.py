"""Write the page of every key of conf/: where it lies, its default, its range, what it means.

    python -m scripts.pages.configuration         prints the page

[연구 맥락] 손으로 적은 설정 목록은 키 하나가 바뀌는 날 거짓이 된다. 그래서 목록을 두지 않고, 쪽을 만들 때마다 읽는다.
[동작] 키와 기본값은 YAML에서 온다. 범위는 `wmtp.ranges`의 규칙에 틀린 값을 주고 받은 문장 그대로다.
    뜻은 그 줄의 주석에서, 없으면 `_target_`이 가리키는 것의 docstring `Args:`에서 온다. 클래스를 import하지는 않는다.
[디버깅] 뜻이 없는 키는 tests/unit/test_pages.py가 이름을 말한다. YAML에 주석 한 줄을 더한다.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from wmtp import ranges
from wmtp.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
INTRODUCTION = """# 설정의 모든 키

이 쪽은 `conf/`의 YAML과 코드에서 만들어진다 (`scripts/pages/configuration.py`).
설정은 명령줄에서 `키=값`으로 바꾸고,
그룹의 파일은 `그룹=이름`으로 고른다 ([안내서](guide.md#5-설정-바꾸기)). 범위는 틀린 값에 나오는 오류 문장의 말
그대로다. 뜻은 YAML의 주석이고, 주석이 없는 키는 그 값을 받는 클래스의 설명이다. 표 아래의 `_target_`이 그 클래스다.

"""
# Keys that a library's class takes; what they mean is written in its own documentation.
LIBRARIES = {"pytorch_lightning": "Lightning", "hydra": "Hydra"}


@dataclass(frozen=True)
class Key:
    """Hold one key of a YAML file: its full name, its value as written, its comment, the class that takes it."""

    name: str
    value: str
    kind: type
    comment: str
    target: str


def configuration_page() -> str:
    """Write the page."""
    parts = [INTRODUCTION]
    for file in sorted(CONF.glob("*.yaml")):
        parts.append(f"## {file.stem}.yaml\n\n`python -m wmtp.{file.stem}`의 맨 위 설정.\n\n{_section(file)}")
    for folder in sorted({file.parent for file in CONF.glob("*/**/*.yaml")}):
        group = folder.relative_to(CONF).as_posix()
        parts.append(f"## {group}\n\n")
        parts += [f"### {group}={file.stem}\n\n{_section(file)}" for file in sorted(folder.glob("*.yaml"))]
    return "".join(parts)


def keys_of(file: Path) -> list[Key]:
    """Read the keys of one file, in order; hydra's own and the list of defaults are left out."""
    text = file.read_text("utf-8")
    package = re.search(r"^# @package (\S+)", text, re.M)
    group = "" if file.parent == CONF else file.parent.relative_to(CONF).as_posix().replace("/", ".")
    prefix = {None: group, "_global_": ""}.get(package and package[1], package and package[1])
    node = yaml.compose(text)
    return list(_keys(node, prefix, "", "", text)) if node else []


def _keys(node: yaml.MappingNode, prefix: str, target: str, said: str, text: str) -> Iterator[Key]:
    """Read the keys below a node; `said` is the comment of the key above them."""
    target = next((value.value for key, value in node.value if key.value == "_target_"), target)
    for key, value in node.value:
        name = f"{prefix}.{key.value}".lstrip(".")
        if key.value.startswith("_") or key.value in ("defaults", "hydra"):
            continue
        comment = _comment(key, value, text.splitlines()) or said
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _keys(value, name, target, comment, text)
        elif not _holds_targets(value):  # what is in a list has no name on the command line
            written = text[value.start_mark.index : value.end_mark.index].strip()
            plain = yaml.constructor.SafeConstructor().construct_object(value, deep=True)
            yield Key(name, _shown(written, plain), type(plain), comment, target)


def _holds_targets(node: yaml.Node) -> bool:
    held = node.value if isinstance(node, yaml.SequenceNode) else []
    return bool(held) and all(isinstance(item, yaml.MappingNode) for item in held)


def _shown(written: str, plain: Any) -> str:
    """Show a value as it is written, in one line."""
    if isinstance(plain, str) and "\n" in plain:
        return f"{plain.splitlines()[0]} …"
    return re.sub(r"\s+", " ", written)


def _comment(key: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """Return what is said of a key on its line and on the indented comment lines after it."""
    first = key.start_mark.line
    end = value.end_mark if value.end_mark.line == first else None
    rest = lines[first][end.column :] if end else lines[first].partition(": ")[2]
    said = [rest.partition("#")[2].strip()] if "#" in rest else []
    above, head = first - 1, len(_head(lines))  # the head of the file is about all of it
    while not said and above >= head and lines[above].startswith("#"):
        said.insert(0, lines[above].strip("# "))
        above -= 1
    for line in lines[first + 1 :]:
        if not re.match(r"\s{8,}#", line):
            break
        said.append(line.strip().lstrip("# "))
    return " ".join(said)


def range_of(key: Key) -> str:
    """Say what a key may hold, in the words of the error that another value gets."""
    rules = getattr(ranges, key.target.rpartition(".")[2], None) if key.target.startswith("wmtp.") else None
    own = {ranges.name_of(name): (name, rule) for name, rule in rules.items()} if isinstance(rules, dict) else {}
    name, rule = own.get(ranges.name_of(key.name), (key.name, _all_rules().get(key.name)))
    if rule is None or key.value.startswith("${"):
        return ""
    for wrong in ("no such value", {"one": -1}):
        try:
            rule(name, wrong)
        except ConfigError as error:
            said = re.search(r"must be (.+?)(?:\. |\.$|;|, such as)", str(error)) or re.search(
                r"(is no .+?)(?:;|\.$)", str(error)
            )
            return said[1] + (" | null" if "null" not in said[1] and _takes_null(name, rule) else "")
        except AttributeError:
            continue
    raise AssertionError(f"{key.name}: every wrong value is taken")


def _takes_null(name: str, rule: ranges.Rule) -> bool:
    try:
        rule(name, None)
    except (ConfigError, AttributeError, TypeError):
        return False
    return True


@cache
def _all_rules() -> dict[str, ranges.Rule]:
    tables = [table for name, table in vars(ranges).items() if isinstance(table, dict) and not name.startswith("_")]
    return {key: rule for table in tables for key, rule in table.items()}


def meaning_of(key: Key) -> str:
    """Say what a key means: in its file, or else the class that takes it, or another file that has the key."""
    if follows := re.fullmatch(r"\$\{(?:oc\.select:)?([\w.]+)(?:,\w+)?\}", key.value):
        return key.comment or f"`{follows[1]}`와 같다"
    return key.comment or _of_class(key) or _elsewhere().get(key.name, "")


def _of_class(key: Key) -> str:
    """Return what the docstring of the class that takes a key says of it, or the class that the key holds of itself."""
    if built := re.match(r"\{_target_: ([\w.]+)", key.value):
        return (ast.get_docstring(_find(built[1])[1]) or "").partition("\n")[0]
    library = LIBRARIES.get(key.target.split(".")[0], "")
    own = arguments_of(key.target).get(ranges.name_of(key.name), "") if key.target else ""
    return own or (library and f"{library}의 `{key.target.rpartition('.')[2]}`가 받는 값")


@cache
def _elsewhere() -> dict[str, str]:
    """Return what the first file that says something of a key says."""
    keys = [key for file in sorted(CONF.rglob("*.yaml")) for key in keys_of(file)]
    return {key.name: key.comment or _of_class(key) for key in reversed(keys) if key.comment or _of_class(key)}


@cache
def arguments_of(dotted: str) -> dict[str, str]:
    """Read what a class or function, and the classes it inherits from, say of their arguments."""
    found = _find(dotted)
    if found is None:
        return {}
    module, node = found
    said: dict[str, str] = {}
    for base in getattr(node, "bases", []):
        if isinstance(base, ast.Name):
            said = arguments_of(f"{module}.{base.id}") | said
    for body in [node, *(one for one in getattr(node, "body", []) if getattr(one, "name", "") == "__init__")]:
        said |= _arguments(ast.get_docstring(body) or "")
    return {name: text for name, text in said.items() if not re.fullmatch(r"`\w+`(?:의 것)?\.", text)}


def _arguments(docstring: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", docstring, re.M):
        names: list[str] = []
        for line in section.splitlines():
            if entry := re.match(r"    ([\w, ]+): (.*)", line):
                names = re.findall(r"\w+", entry[1])
                said |= dict.fromkeys(names, entry[2])
            elif line.strip():
                said |= {name: f"{said[name]} {line.strip()}" for name in names}
    return said


def _find(dotted: str) -> tuple[str, ast.AST] | None:
    """Find a definition by its dotted name, through modules that hand it on."""
    module, _, name = dotted.rpartition(".")
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    if not module or not file.is_file():
        return None
    for node in ast.parse(file.read_text("utf-8")).body:
        if getattr(node, "name", None) == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _find(f"{node.module}.{name}")
    return None


def _section(file: Path) -> str:
    """Write what one file holds: its head, and a table of its keys."""
    text = file.read_text("utf-8")
    head = [line.removeprefix("#").removeprefix(" ") for line in _head(text.splitlines())]
    commands = [line for line in head if line.startswith("  ")]
    prose = " ".join(line for line in head if not line.startswith("  ") and not line.startswith("@"))
    keys, out = keys_of(file), [f"{_cell(prose)}\n\n" if prose else ""]
    if commands:
        out.append("".join(f"    {line.strip()}\n" for line in commands) + "\n")
    if keys:
        out.append("| 키 | 기본값 | 범위 | 뜻 |\n|---|---|---|---|\n")
    for key in keys:
        allowed = range_of(key) or {bool: "true, false"}.get(key.kind, "")
        out.append(f"| `{key.name}` | `{_cell(key.value)}` | {_cell(allowed)} | {_cell(meaning_of(key))} |\n")
    if targets := sorted({key.target for key in keys if key.target}):
        out.append("\n`_target_`: " + ", ".join(f"`{target}`" for target in targets) + "\n")
    return "".join(out) + "\n"


def _head(lines: list[str]) -> list[str]:
    return list(takewhile(lambda line: line.startswith("#"), lines))


def _cell(text: str) -> str:
    """Write text so that neither a table nor HTML takes a part of it for its own."""
    return text.replace("|", "&#124;").replace("<", "&lt;") if "`" not in text else text.replace("|", "&#124;")


if __name__ == "__main__":
    print(configuration_page())
