"""Hold that CONTRIBUTING names every hook that Lightning calls and every private name of a library, in both languages.

[연구 맥락] 남이 부르는 함수와 남의 속을 건드리는 곳은 코드를 따라 읽어서는 보이지 않는다. 그래서 한곳에 다 적는다.
[디버깅] 실패하면 표에 한 줄을 더한다: 어디, 무엇, 왜, 없으면.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import ModelParallelStrategy

from tests.unit.test_documents import FILE

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CONTRIBUTING.ko.md"]
PUBLIC = {"_asdict", "_replace", "_fields"}  # of namedtuples, in spite of the underscore
OF_LIGHTNING = {
    kind.__name__: {name for name in dir(kind) if not name.startswith("_")}
    for kind in (
        Callback, CSVLogger, LightningDataModule, LightningModule, Logger, ModelParallelStrategy, ProgressBar,
        TensorBoardLogger, TorchCheckpointIO, WandbLogger,
    )
}  # fmt: skip


@cache
def modules() -> dict[str, ast.Module]:
    """Read the package, but for the sandbox, which knows no library."""
    files = sorted((ROOT / "wmtp").rglob("*.py"))
    trees = {str(file.relative_to(ROOT)): ast.parse(file.read_text("utf-8")) for file in files}
    return {name: tree for name, tree in trees.items() if "/sandbox/" not in name}


def hooks() -> list[tuple[str, str]]:
    """List (file::class, hook): the methods that a class of ours has in place of Lightning's."""
    classes = {
        node.name: (f"{name}::{node.name}", [ast.unparse(base) for base in node.bases], node)
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def known(base: str) -> set[str]:
        if base in OF_LIGHTNING:
            return OF_LIGHTNING[base]
        return set().union(*map(known, classes[base][1])) if base in classes else set()

    return [
        (place, inner.name)
        for place, bases, node in classes.values()
        for inner in node.body
        if isinstance(inner, ast.FunctionDef) and inner.name in set().union(*map(known, bases))
    ]


def private_names() -> set[str]:
    """List the names with an underscore that are nobody's here: a library's own."""
    ours, used = set(), set()
    for node in (node for tree in modules().values() for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                ours.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                ours.add(name)
            case ast.Attribute(attr=name):
                used.add(name)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(value=name), *_]):
                used.add(str(name))
    return {name for name in used - ours - PUBLIC if re.match(r"_(?!_)", name)}


@pytest.fixture(scope="module", params=PAGES, ids=lambda page: page.name)
def page(request) -> str:
    return request.param.read_text("utf-8")


def test_every_hook_is_in_the_list(page):
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(hooks()) > 40
    assert [hook for hook in hooks() if not any(all(f"{one}`" in row for one in hook) for row in rows)] == []


def test_no_row_lists_a_hook_that_is_not_there(page):
    _, _, list_of_hooks = page.partition("|---|")
    there, gone = set(hooks()), []
    for row in list_of_hooks.partition("\n## ")[0].splitlines()[1:]:
        places, named = [re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[1:3]] if "|" in row else ([], [])
        gone += [name for name in named if not any((place, name) in there for place in places)]
    assert gone == []


def test_every_private_name_of_a_library_is_in_the_list(page):
    assert len(private_names()) > 5
    assert [name for name in sorted(private_names()) if not re.search(rf"`{name}\b", page)] == []


def test_both_languages_name_the_same():
    english, korean = (
        [match[0] for match in FILE.finditer(page.read_text("utf-8")) if match[0].endswith(".py") or match[2]]
        for page in PAGES
    )
    assert len(english) > 100
    assert english == korean
