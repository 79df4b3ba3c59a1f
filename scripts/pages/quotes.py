"""Keep what pages quote true: a function's source, a script's output, between a comment that names it and its end.

    python scripts/pages/quotes.py                writes every quotation of docs/ again; seconds

[연구 맥락] 식 옆에 적어 둔 코드와, 본문이 말하는 숫자는 코드가 바뀌면 거짓이 된다. 그래서 손으로 적지 않는다.
[동작] 코드 칸 바로 위의 주석 하나가 무엇을 옮겼는지 말한다. 주석은 어느 화면에도 보이지 않는다.
    `<!-- source: 파일::클래스.함수 -->`   docstring을 뺀 그 함수의 코드
    `<!-- output: scripts/one_step.py 이름 -->`   그 스크립트가 내는 그 부분. 표처럼 코드 칸이 아니면 `<!-- end -->`까지
[디버깅] tests/unit/test_pages.py가 실패하면 이 명령을 다시 하고 달라진 것을 읽는다.
"""

import ast
import importlib
import re
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUOTATION = re.compile(
    r"^(?P<mark><!-- (?P<kind>source|output): (?P<named>\S+)(?: (?P<part>[\w-]+))? -->\n(?:```\w+\n|\n))"
    r".*?^(?P<end>```|<!-- end -->)$",
    re.M | re.S,
)


def quoting_pages() -> list[Path]:
    """List the pages that quote."""
    return [page for page in sorted((ROOT / "docs").rglob("*.md")) if QUOTATION.search(page.read_text("utf-8"))]


def quote_again(text: str) -> str:
    """Return a page with every quotation as it is now."""

    def quoted(match: re.Match) -> str:
        held = (source if match["kind"] == "source" else output)(match["named"], match["part"])
        gap = "" if match["end"] == "```" else "\n"
        return match["mark"] + held + gap + match["end"]

    return QUOTATION.sub(quoted, text)


def source(named: str, _part: str | None = None) -> str:
    """Return the code of a function or class, without its docstring.

    Example:
        >>> print(source("wmtp/algos/baseline.py::Baseline.token_scores"), end="")
        def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
            return target_mask(batch["labels_BT"]) * 0.0
    """
    path, _, name = named.partition("::")
    text = (ROOT / path).read_text("utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next(one for one in node.body if getattr(one, "name", None) == part)
    lines = text.splitlines()
    kept = lines[node.lineno - 1 : node.end_lineno]
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        del kept[docstring.lineno - node.lineno : docstring.end_lineno - node.lineno + 1]
    return textwrap.dedent("\n".join(kept)) + "\n"


def output(script: str, part: str | None) -> str:
    """Return what a script works out: the part of that name."""
    return _worked_out(script)[part]


@cache
def _worked_out(script: str) -> dict[str, str]:
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    return getattr(module, Path(script).stem)()


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(ROOT))
    for page in quoting_pages():
        page.write_text(quote_again(page.read_text("utf-8")), encoding="utf-8")
        print(page.relative_to(ROOT))
