"""Hold who may import whom: data flows one way, and the slow or hostile parts stay where they are.

[연구 맥락] 순수한 수식(maths)이 학습 코드에 기대기 시작하면 손으로 검산할 수 없다. 의존의 방향을 시험으로 지킨다.
[디버깅] 실패하면 "모듈 imports 모듈"이 나온다. 규칙을 고치기 전에 그 코드가 맞는 층에 있는지 먼저 본다.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
# From the ground up: a room knows those before it, never those after it. docs/guide.md draws it.
ROOMS = (
    "errors", "checks", "ranges", "flat_keys", "secrets", "progress", "private_names", "maths", "storage", "cache",
    "models", "data",
    "ranks", "checkpoints", "evaluation", "heads", "critic", "algos", "callbacks", "reporting", "comparison", "run",
    "launch", "overrides", "usage", "completion", "cli",
)  # fmt: skip
DOORS = ("train", "eval", "precompute", "compare", "promote", "sweep", "cli", "overrides", "__main__")
FRONT_DOORS = {f"wmtp.{door}" for door in DOORS}
FREE = sys.stdlib_module_names | {"wmtp.errors", "wmtp.checks", "wmtp.ranges"}


def nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a module, leaving out what is there for type checkers only."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for inner in ast.iter_child_nodes(node):
        yield from nodes_that_run(inner)


@cache
def imports_by_module() -> dict[str, set[str]]:
    """Read what each module of the package imports, as dotted names, `from x import y` as x.y."""
    imports = {}
    for path in sorted((ROOT / "wmtp").rglob("*.py")):
        package = list(path.relative_to(ROOT).parent.parts)
        module = ".".join(package if path.stem == "__init__" else [*package, path.stem])
        names = imports[module] = set()
        for node in nodes_that_run(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) + 1 - node.level] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                names |= {f"{source}.{alias.name}" for alias in node.names}
    return imports


def belongs(name: str, *roots: str) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def offenders(who: tuple[str, ...], only=None, never=(), but: tuple[str, ...] = ()) -> list[str]:
    """List what the modules under `who` (those under `but` aside) import that is not in `only`, or is in `never`."""
    return [
        f"{module} imports {name}"
        for module, names in imports_by_module().items()
        if belongs(module, *who) and not belongs(module, *but)
        for name in sorted(names)
        if (only is not None and not belongs(name, *only)) or belongs(name, *never)
    ]


def test_maths_imports_torch_only():
    assert offenders(("wmtp.maths",), only={*FREE, "torch", "wmtp.maths"}) == []


def test_sandbox_workers_import_the_standard_library_only():
    assert offenders(("wmtp.evaluation.sandbox",), only={*FREE, "wmtp.evaluation.sandbox"}) == []
    # Importing a submodule runs the packages above it as well.
    assert {name: imports_by_module()[name] - FREE for name in ("wmtp", "wmtp.evaluation")} == {
        "wmtp": set(),
        "wmtp.evaluation": set(),
    }


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def reached_through_configs() -> dict[str, set[str]]:
    """Read what each class of a config is given: the `_target_`s inside a node are as good as its imports."""
    reached: dict[str, set[str]] = {}

    def walk(node: object, outer: str | None) -> None:
        target = node.get("_target_") if isinstance(node, dict) else None
        if target and outer:
            reached.setdefault(outer, set()).add(target)
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(inner, target or outer)

    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
        group = file.relative_to(ROOT / "conf").parts
        # algo/weighting/soft.yaml is composed into the algorithms, whichever of them.
        inside = "wmtp.algos.weighted_mtp.WeightedMTP" if group[0] == "algo" and len(group) > 2 else None
        walk(node, inside)
    return reached


def test_no_import_runs_up_and_every_room_has_its_place():
    rank = {room: place for place, room in enumerate(("", *ROOMS))}  # under all of them wmtp/__init__.py: the version
    imports = {module: names for module, names in imports_by_module().items() if module not in FRONT_DOORS | {"wmtp"}}
    strange = {room_of(module) for module in imports} - rank.keys() - {"assets"}
    assert strange == set(), "give it a place in ROOMS"
    up = [
        f"{module} imports {name}"
        for module, names in [*imports.items(), *reached_through_configs().items()]
        for name in sorted(names)
        if belongs(name, "wmtp") and belongs(module, "wmtp") and rank.get(room_of(name), 99) > rank[room_of(module)]
    ]
    assert up == []


def test_no_modules_import_each_other_in_a_circle():
    modules = imports_by_module()
    graph = {
        module: {one for name in names for one in (name, name.rpartition(".")[0]) if one in modules and one != module}
        for module, names in modules.items()
    }
    for package in [module for module in modules if any(other.startswith(f"{module}.") for other in modules)]:
        graph[package] = {one for one in graph[package] if not one.startswith(f"{package}.")}  # an index of its parts
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_reporting_trains_nothing():
    assert offenders(("wmtp.reporting",), never={"pytorch_lightning"}) == []


def test_only_front_doors_import_hydra_and_nobody_imports_a_front_door():
    assert offenders(("wmtp",), never={"hydra", *FRONT_DOORS}, but=tuple(FRONT_DOORS)) == []
    assert offenders(tuple(FRONT_DOORS), never=FRONT_DOORS - {"wmtp.cli", "wmtp.overrides"}) == []


def test_only_tracking_talks_to_mlflow_and_only_storage_to_s3_and_the_hub():
    stores = ("wmtp.run.tracking", "wmtp.run.mlflow_store", "wmtp.run.registry")
    cards = "wmtp.reporting.model_card"  # the Hub's format of a card, and no network
    assert offenders(("wmtp",), never={"mlflow"}, but=stores) == []
    assert offenders(("wmtp",), never={"boto3", "s3fs"}, but=("wmtp.storage.s3",)) == []
    assert offenders(("wmtp",), never={"huggingface_hub"}, but=("wmtp.storage.hub", cards)) == []


def test_storage_is_met_at_its_front_only():
    for_everyone = {"wmtp.storage.files", "wmtp.storage.lock"}
    behind = {name for name in imports_by_module() if name.startswith("wmtp.storage.")} - for_everyone
    assert offenders(("wmtp",), never=behind, but=("wmtp.storage",)) == []
