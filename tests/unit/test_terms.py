"""Hold that one thing has one name: the glossary's terms are used, and the words that it rules out are not.

[연구 맥락] 같은 것을 두 이름으로 부르면 읽는 사람은 둘이 다른 것인 줄 안다.
[동작] 말의 목록은 docs/glossary.md의 표에만 있다.
[디버깅] 실패하면 `파일:줄: 쓰지 않는 말 → 쓸 말`이 나온다. 조사까지 고쳐 쓴다.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
ROOMS = ("docs", "conf", "wmtp", "scripts", "tests")
KINDS = {".md", ".py", ".yaml", ".j2", ""}
# A word of the table, as it begins a word: 머리를 and 머리마다 count, 첫머리 and 머리글 are other words.
PARTICLES = (
    "(?:들|별|마다|끼리|만|짜리)*"
    "(?:으?로|에서|에|이?[다나고며]|이면|이라서|이?라는|인|과|와|을|를|이|가|은|는|의|도|부터|까지|처럼|보다)*"
)


def rows() -> list[tuple[str, list[str]]]:
    """Read the tables: the term, and what not to call it."""
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in GLOSSARY.read_text("utf-8").splitlines()]
    table = [cells for cells in table if len(cells) == 5 and cells[0] != "우리말" and not cells[0].startswith("---")]
    return [(cells[0], [word.strip() for word in cells[4].split(",") if word.strip()]) for cells in table]


def pattern(word: str) -> re.Pattern:
    return re.compile(rf"(?<![가-힣]){re.escape(word)}{PARTICLES}(?![가-힣])")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*") if file.suffix in KINDS and file.is_file()]
    files += [*ROOT.glob("*.ko.md")]
    return {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in sorted(files) if file != GLOSSARY}


def test_a_table_of_the_glossary_is_read():
    assert ("헤드", ["머리"]) in rows()
    assert len(rows()) == len({term for term, _ in rows()}) > 30


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("머리를 단다", True),
        ("(머리 4)", True),
        ("머리마다", True),
        ("머리별", True),
        ("첫머리", False),
        ("머리글", False),
    ],
)
def test_a_word_is_found_whatever_follows_it_and_not_inside_others(text, found):
    assert bool(pattern("머리").search(text)) == found


def test_no_word_that_the_glossary_rules_out_is_used(texts):
    ruled_out = [(pattern(word), word, term) for term, words in rows() for word in words]
    this = str(Path(__file__).relative_to(ROOT))
    found = [
        f"{name}:{number}: {word} → {term}"
        for name, text in texts.items()
        if name != this
        for number, line in enumerate(text.splitlines(), 1)
        for searched, word, term in ruled_out
        if word in line and searched.search(line)
    ]
    assert found == []


def test_every_term_of_the_glossary_is_used(texts):
    everything = "\n".join(texts.values())
    assert [term for term, _ in rows() if term.split("(")[0] not in everything] == []
