"""Hold what kind of token each piece of a program is."""

import pytest

from wmtp.data.token_kinds import KINDS, kinds_of


def kinds_by_piece(*pieces):
    return list(zip(pieces, kinds_of(pieces), strict=True))


def test_every_kind_by_hand():
    assert kinds_by_piece("def", " f", "(", "xs", "):", "\n    ", "return", " len", "(xs", ")", " +", " 12", "\n") == [
        ("def", "keyword"), (" f", "identifier"), ("(", "operator"), ("xs", "identifier"), ("):", "operator"),
        ("\n    ", "layout"), ("return", "keyword"), (" len", "identifier"), ("(xs", "operator"), (")", "operator"),
        (" +", "operator"), (" 12", "literal"), ("\n", "layout"),
    ]  # fmt: skip


def test_a_string_is_a_literal_from_quote_to_quote_whatever_it_holds():
    pieces = ("s", " = '", "if", " 한", " 1", "'", "\nt", " = ", '"""a', "\nb", '"""', "\n")
    assert [kind for _, kind in kinds_by_piece(*pieces)] == [
        "identifier", "operator", "literal", "literal", "literal", "literal", "identifier", "operator", "literal",
        "literal", "literal", "layout",
    ]  # fmt: skip


def test_comments_pieces_without_text_and_what_python_cannot_read_are_other():
    assert [kind for _, kind in kinds_by_piece("x", "  # if", " 3", "\n", "", "y")] == [
        "identifier", "other", "other", "layout", "other", "identifier",
    ]  # fmt: skip
    assert kinds_of(["x", " = ", "'''", "never", " closed"])[:2] == ["identifier", "operator"]
    assert kinds_of(["if", " x", ":\n", "  a", "\n b"])[-1] == "other"  # an indent that fits none
    assert set(kinds_of(["물음", "표", " ?", " $"])) <= set(KINDS)
    assert kinds_of([]) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\f\n"])
def test_lines_are_counted_as_python_counts_them(end):
    assert kinds_of([f"a = 1{end}", "b", " = ", "2"])[1:] == ["identifier", "operator", "literal"]


def test_pieces_may_cut_a_python_token_anywhere():
    assert kinds_of(["de", "f sol", "ve(", "number", "s_1)", ":\n    pass"]) == [
        "keyword", "keyword", "identifier", "identifier", "identifier", "operator",
    ]  # fmt: skip
