"""Hold who may import whom: data flows one way, and the slow or hostile parts stay where they are.

[연구 맥락] 순수한 수식(maths)이 학습 코드에 기대기 시작하면 손으로 검산할 수 없다. 의존의 방향을 시험으로 지킨다.
[디버깅] 실패하면 "모듈 imports 모듈"이 나온다. 규칙을 고치기 전에 그 코드가 맞는 층에 있는지 먼저 본다.
"""

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRONT_DOORS = {"wmtp.train", "wmtp.eval", "wmtp.precompute", "wmtp.compare", "wmtp.promote", "wmtp.cli"}
FREE = sys.stdlib_module_names | {"wmtp.errors"}


@cache
def imports_by_module() -> dict[str, set[str]]:
    """Read what each module of the package imports, as dotted names, `from x import y` as x.y."""
    imports = {}
    for path in sorted((ROOT / "wmtp").rglob("*.py")):
        package = list(path.relative_to(ROOT).parent.parts)
        module = ".".join(package if path.stem == "__init__" else [*package, path.stem])
        names = imports[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_nothing_below_the_algorithms_knows_them():
    below = ("wmtp.data", "wmtp.models", "wmtp.rewards", "wmtp.storage", "wmtp.tracking")
    assert offenders(below, never={"wmtp.algos"}) == []


def test_algorithms_import_maths_and_models_of_the_package():
    others = {name for name in imports_by_module() if not belongs(name, "wmtp.algos", "wmtp.maths", "wmtp.models")}
    assert offenders(("wmtp.algos",), never=others - {"wmtp", "wmtp.errors"}) == []


def test_callbacks_see_the_algorithm_only_through_its_step_outputs():
    assert offenders(("wmtp.callbacks",), never={"wmtp.algos"}) == []


def test_reporting_trains_nothing():
    assert offenders(("wmtp.reporting",), never={"wmtp.algos", "wmtp.callbacks", "pytorch_lightning"}) == []


def test_only_front_doors_import_hydra_and_nobody_imports_a_front_door():
    assert offenders(("wmtp",), never={"hydra", *FRONT_DOORS}, but=tuple(FRONT_DOORS)) == []
    assert offenders(tuple(FRONT_DOORS), never=FRONT_DOORS - {"wmtp.cli"}) == []


def test_only_tracking_talks_to_mlflow_and_only_storage_to_s3_and_the_hub():
    assert offenders(("wmtp",), never={"mlflow"}, but=("wmtp.tracking",)) == []
    assert offenders(("wmtp",), never={"boto3", "s3fs"}, but=("wmtp.storage.s3",)) == []
    assert offenders(("wmtp",), never={"huggingface_hub"}, but=("wmtp.storage.hub",)) == []


def test_storage_is_met_at_its_front_only():
    behind = {name for name in imports_by_module() if name.startswith("wmtp.storage.")}
    assert offenders(("wmtp",), never=behind, but=("wmtp.storage",)) == []
