"""Hold that what documents, configs and docstrings name is there: files, modules, classes, functions, links.

[연구 맥락] 옮긴 파일의 옛 이름이 문서에 남으면, 처음 온 사람이 가장 먼저 길을 잃는다.
[동작] 세 가지 모양을 찾는다: 방/파일.py, 방/파일.py::클래스.함수, 점으로 이은 이름. 아무것도 import하지 않는다.
[디버깅] 실패하면 "문서:줄: 이름"이 나온다. 독자에게 쓰라고 하는 파일(코드 칸 바로 위에 홀로 적힌 이름)은 세지 않는다.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.unit import test_architecture as house

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ROOMS = {"conf": "yaml"}
READ = DOCUMENTS + [file for room, kind in ROOMS.items() for file in sorted((ROOT / room).rglob(f"*.{kind}"))]
FILE = re.compile(
    r"(?<![\w./*<>-])((?:[\w-]+/)*\w+\.py|(?:wmtp|conf|docs|tests|scripts)/[\w/-]+\.(?:md|yaml)|(?:[A-Z]{2,}(?:\.ko)?|maths)\.md)"
    r"(?:::(\w+(?:\.\w+)?))?(?![\w*/])",
    re.ASCII,  # a Korean particle may follow
)
FOLDER = re.compile(r"`((?:wmtp|conf|docs|tests|scripts)/(?:[\w-]+/)*[\w-]*)`")
DOTTED = re.compile(r"(?<![\w./-])wmtp((?:\.[A-Za-z_]\w*)+)(?![\w/<*])", re.ASCII)
IMPORT = re.compile(r"from (wmtp[\w.]*) import (\w+(?:, \w+)*)")
LINK = re.compile(r"\]\(([^)\s:#]*)(#[^)\s]*)?\)")
TO_WRITE = re.compile(r"^`([\w./]+)`\n\n```", re.MULTILINE)  # a file whose text follows


def names_in(body: list[ast.stmt]) -> set[str]:
    """Collect what statements define or import."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return found


@cache
def names_of(module: Path) -> dict[str, set[str]]:
    """Read what a module holds, and what each of its classes does."""
    tree = ast.parse(module.read_text("utf-8"))
    names = {name: set() for name in names_in(tree.body)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            own = [
                one.attr
                for one in ast.walk(node)
                if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "self"
            ]
            names[node.name] = names_in(node.body) | set(own)
    return names


def holds(module: Path, name: str) -> bool:
    outer, _, inner = name.partition(".")
    return outer in names_of(module) and (not inner or inner in names_of(module)[outer])


@cache
def project_files() -> list[Path]:
    """List the files that can be named by their end: those of the folders that are not made by a command."""
    made = {"build", "dist", "runs", "outputs", "multirun"}
    folders = [one for one in ROOT.iterdir() if one.is_dir() and one.name[0] != "." and one.name not in made]
    return [file for folder in sorted(folders) for file in sorted(folder.rglob("*")) if file.is_file()]


@cache
def found(path: str) -> Path | None:
    """Find a file by its path, or by the end of it."""
    whole = ROOT / path
    return whole if whole.is_file() else next((one for one in project_files() if one.match(path)), None)


def wrong_name(dotted: str) -> bool:
    """Say whether no module, or nothing in it, has this name."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath("wmtp", *parts[:count])
        module = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if module.is_file():
            return count < len(parts) and not holds(module, ".".join(parts[count:][:2]))
    return parts[0] != "conf" and not holds(ROOT / "wmtp" / "__init__.py", parts[0])


def wrong_names(text: str, to_write: set[str]) -> list[tuple[int, str]]:
    """List what a text names and nobody has, with the line."""
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        for match in FILE.finditer(line):
            path, name = match.groups()
            if not any(one.endswith(path) for one in to_write):
                file = found(path)
                if file is None or (name and not holds(file, name)):
                    wrong.append((number, match[0]))
        wrong += [(number, m[1]) for m in FOLDER.finditer(line) if not (ROOT / m[1]).exists() and m[1] not in to_write]
        imported = [f"{source}.{name}" for source, names in IMPORT.findall(line) for name in names.split(", ")]
        modules = [one.removesuffix(".py").replace("/", ".") for one in to_write]
        for dotted in [*imported, *(match[0] for match in DOTTED.finditer(line))]:
            if not dotted.startswith(tuple(modules or ["-"])) and wrong_name(dotted.removeprefix("wmtp.")):
                wrong.append((number, dotted))
    return wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`wmtp/maths/loss.py::target_nll`, loss.py, maths/loss.py", False),
        ("`wmtp/data/problem.py::Problem.tests`, wmtp.data.problem.Problem.tests, `wmtp/data`", False),
        ("from wmtp.maths.loss import MTPLoss, target_nll", False),
        ("from wmtp.maths.loss import MTPLoss, target_nlls", True),
        ("python -m wmtp.train, conf/algo/rho1.yaml, wmtp.storage.in_use", False),
        ("wmtp/maths/losses_of_old.py", True),
        ("wmtp/maths/loss.py::target_nlls", True),
        ("wmtp/data/problem.py::Problem.testing", True),
        ("wmtp.data.problems", True),
        ("wmtp.data.problem.Problems", True),
        ("`wmtp/datum`", True),
        ("conf/algo/rho2.yaml", True),
    ],
)
def test_a_name_that_nobody_has_is_found(text, wrong):
    assert bool(wrong_names(text, set())) == wrong


@pytest.mark.parametrize("file", READ, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_named_is_there(file):
    text = file.read_text("utf-8").replace(r"\_", "_")  # as Markdown reads it
    assert wrong_names(text, set(TO_WRITE.findall(text))) == []


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file):
    dead = []
    for path, anchor in LINK.findall(file.read_text("utf-8")):
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            dead.append(path + anchor)
    assert dead == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_table_has_its_head(file):
    prose = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.M | re.S)
    tables = re.findall(r"^(?:\|.*\|\n)+", prose, re.M)
    assert [table for table in tables if not re.match(r"\|.*\|\n\|(?: *:?-+:? *\|)+\n", table)] == []


@pytest.mark.long
def test_what_the_pages_of_docs_add_write_reads_and_scores_what_they_show(tmp_path):
    blocks = {
        name: text
        for page in ROOT.glob("docs/add/*.md")
        for name, text in re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    }
    (tmp_path / "lessons.jsonl").write_text(blocks["lessons.jsonl"], "utf-8")
    made: dict = {}
    for name in ("wmtp/data/lessons.py", "wmtp/algos/surprise.py", "wmtp/data/quiz_prompt.py"):
        exec(compile(blocks[name], name, "exec"), made)
    problems = [made["Lessons"](tmp_path).problems(split) for split in ("train", "validation", "test")]
    assert [[problem.task_id for problem in part] for part in problems] == [["lessons/1"], ["lessons/2"], ["lessons/3"]]
    assert made["InAComment"]().render(problems[0][0]).startswith("# Return the double of x. For example: assert")
    assert made["Surprise"].name == "surprise"


def test_the_guide_maps_every_room_from_the_ground_up():
    _, _, chapter = (ROOT / "docs" / "guide.md").read_text("utf-8").partition("\n## 14. ")
    drawing, _, table = chapter.partition("| 방 |")
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [room for room in house.ROOMS if room]
    assert [room for room in house.ROOMS if not re.search(rf"\b{room}\b", drawing)] == []
