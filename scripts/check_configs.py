"""Check that every config under conf/ composes and that every `_target_` takes the keys it is given.

[연구 맥락] 설정의 오타는 GPU를 몇 시간 쓴 뒤에 드러나면 안 된다. 학습을 시작하지 않고도 모든 YAML을 검사할 수 있다.
[동작] 루트 설정(conf/*.yaml)마다 그 루트가 쓰는 그룹의 선택지를 하나씩 바꿔 끼워 합성한다. 어느 루트도 쓰지 않는 그룹은
    `+group=option`으로 더하고, 실험의 sweep 값도 모두 한 번씩 합성한다. 합성된 설정에서 보간(`${...}`)을 풀고,
    `_target_`을 import하여 키가 그 서명(signature)에 맞는지 본다. `_target_`이 없는 노드의 키(data.noise 등)는 서명이
    없으므로, 어떤 보간이나 wmtp의 코드(`cfg.data.leakage`)가 읽는지 본다. 코드에서 설정의 이름은 언제나 `cfg`다.
[디버깅] 출력 한 줄이 문제 하나이다. 첫머리가 `train data=mbpp`이면 `python -m wmtp.train data=mbpp`로 다시 볼 수 있다.

    ./scripts/setup scripts/check_configs.py
"""

import ast
import re
import sys
from collections import deque
from collections.abc import Iterator
from functools import cache
from inspect import Signature, signature
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from wmtp.overrides import leaves, reads_of_config

CONF = Path(__file__).resolve().parent.parent / "conf"
CODE = CONF.parent / "wmtp"


def check_configs(conf: Path = CONF) -> tuple[int, list[str]]:
    """Compose every config and bind every target.

    Args:
        conf: 설정 폴더.

    Returns:
        (합성한 횟수, 문제를 적은 문장의 목록). 같은 문제는 처음 나온 합성의 이름으로 한 번만 적는다.
    """
    roots = sorted(path.stem for path in conf.glob("*.yaml"))
    if not roots:
        return 0, [f"{conf.name}: no root config (*.yaml) in it"]
    unused = options_by_group(conf)
    found: dict[str, str] = {}
    free: dict[tuple[str, ...], str] = {}
    read: set[tuple[str, ...]] = set()
    composed = 0
    work = deque([root] for root in roots)
    with initialize_config_dir(str(conf), version_base="1.3"):
        while work or unused:
            if not work:  # groups that no root has in its defaults
                root = "train" if "train" in roots else roots[0]
                work.extend([root, f"+{group}={option}"] for group, options in unused.items() for option in options)
                unused = {}
            root, *overrides = command = work.popleft()
            composed += 1
            try:
                config = compose(root, overrides, return_hydra_config=True)
            except (HydraException, OmegaConfBaseException) as error:
                found.setdefault(one_line(error), " ".join(command))
                continue
            if not overrides:
                for choice, chosen in config.hydra.runtime.choices.items():
                    group = choice.split("@")[0]
                    unused.pop(group, None)
                    options = options_by_group(conf).get(group, [])
                    work.extend(
                        [root, f"{choice}={option}"]
                        for option in options
                        if option != chosen and made_for(conf / group / f"{option}.yaml", root)
                    )
            elif len(overrides) == 1:
                work.extend([*command, *point] for point in sweep_points(config))
            # A key of a root may be read by one option only, a key of an option only beside that option.
            names = {(root, str(choice_of(config, path)), path): path for path in leaves(config, below_targets=False)}
            free = dict.fromkeys(names, " ".join(command)) | free
            reads = reads_of_code() | reads_of_config(config)
            read |= {name for name, path in names.items() if any(f"{path}.".startswith(f"{key}.") for key in reads)}
            HydraConfig.instance().set_config(config)
            for key in config:
                if key != "hydra":
                    for problem in node_problems(config, key, str(key), complete=False):
                        found.setdefault(problem, " ".join(command))
    for name in sorted(free.keys() - read):
        found.setdefault(f"{name[-1]}: nothing reads this key", free[name])
    return composed, [f"{command}: {problem}" for problem, command in found.items()]


def options_by_group(conf: Path) -> dict[str, list[str]]:
    """List the options of each config group."""
    options: dict[str, list[str]] = {}
    for path in sorted(conf.glob("*/**/*.yaml")):
        options.setdefault(path.parent.relative_to(conf).as_posix(), []).append(path.stem)
    return options


def made_for(config: Path, root: str) -> bool:
    """Say whether a root can use a config; the command at the head of an experiment names its front door."""
    named = set(re.findall(r"^# .*-m wmtp\.(\w+)", config.read_text(encoding="utf-8"), flags=re.M))
    return config.parent.name != "experiment" or not named or root in named


def sweep_points(config: DictConfig) -> list[list[str]]:
    """Pick points of the sweep that a config asks for, so that each value occurs at least once."""
    params = config.hydra.sweeper.params or {}
    sweeps = []
    for sweep in OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()]):
        values = sweep.sweep_string_iterator() if sweep.is_sweep_override() else [sweep.get_value_element_as_str()]
        sweeps.append([f"{sweep.get_key_element()}={value}" for value in values])
    longest = max(map(len, sweeps), default=0)
    return [[values[index % len(values)] for values in sweeps] for index in range(longest)]


def choice_of(config: DictConfig, path: str) -> str | None:
    """Return which option the group of a key has, if it is in a group."""
    return config.hydra.runtime.choices.get(path.split(".")[0])


@cache
def reads_of_code() -> set[str]:
    """List the keys that the package reads: `cfg.a.b`, `cfg.a["b"]`, `cfg.a.get("b")`; `cfg.a` alone reads all of a."""
    reads = set()
    nodes: deque[ast.AST] = deque(ast.parse(file.read_text(encoding="utf-8")) for file in CODE.rglob("*.py"))
    while nodes:
        node = nodes.popleft()
        key = key_of(node)
        if key:
            reads.add(key)
        else:
            nodes.extend(ast.iter_child_nodes(node))
    return reads


def key_of(node: ast.AST) -> str | None:
    """Return the key of the config that an expression reads: "" for `cfg` itself, None for any other expression."""
    match node:
        case ast.Name(id="cfg"):
            return ""
        case ast.Call(func=ast.Attribute(value=parent, attr="get"), args=[ast.Constant(value=str(name)), *_]):
            pass
        case ast.Attribute(value=parent, attr=name) | ast.Subscript(value=parent, slice=ast.Constant(value=str(name))):
            pass
        case _:
            return None
    above = key_of(parent)
    return None if above is None else f"{above}.{name}".lstrip(".")


def node_problems(parent: DictConfig | ListConfig, key: Any, path: str, complete: bool) -> Iterator[str]:
    """Describe what is wrong at one key of a composed config and below it.

    Args:
        parent: 이 키를 가진 노드.
        key: 볼 키. 목록이면 번호.
        path: 설정의 맨 위에서부터의 이름. 예: "algo.weighting".
        complete: True이면 부를 때 더해 줄 인자가 없으므로 모든 필수 인자가 설정에 있어야 한다.
    """
    try:
        node = parent[key]
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        return  # `???`: for the user to give
    except OmegaConfBaseException as error:
        yield f"{path}: {one_line(error)}"
        return
    if isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from node_problems(node, index, f"{path}[{index}]", complete)
    elif isinstance(node, DictConfig):
        if "_target_" in node:
            yield from target_problems(node, path, complete)
            complete = node.get("_recursive_", True)  # below a target nobody is there to add arguments
        for name in node:
            yield from node_problems(node, name, f"{path}.{name}", complete)


def target_problems(node: DictConfig, path: str, complete: bool) -> Iterator[str]:
    """Describe why a `_target_` cannot be imported or called with its keys."""
    try:
        call = signature_of(node["_target_"])
        bind = call.bind if complete and not node.get("_partial_", False) else call.bind_partial
        bind(*node.get("_args_", ()), **dict.fromkeys(str(key) for key in node if not str(key).startswith("_")))
    except (ImportError, TypeError, ValueError) as error:
        yield f"{path}: {node['_target_']}: {one_line(error)}"


@cache
def signature_of(target: str) -> Signature:
    """Import a target and read what it may be called with."""
    return signature(get_object(target))


def one_line(error: Exception) -> str:
    """Give the whole message of an error on one line."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    composed, problems = check_configs()
    print(*problems, f"{composed} compositions of conf/ checked, {len(problems)} problems.", sep="\n")
    sys.exit(1 if problems or not composed else 0)
