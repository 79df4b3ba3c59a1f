"""Tell what the tokens of a program are in Python's own grammar: names, operators, literals and so on.

[연구 맥락] 토큰이 모두 같지 않다면 어떤 토큰에서 나아졌는지를 물어야 한다. 답이 보기 좋은 쪽으로 기울지 않게, 종류는
    결과를 보기 전에 정해 둔다: 파이썬의 토크나이저(표준 라이브러리 tokenize)가 나눈 대로다.
[동작] 모델의 토큰 하나는 파이썬의 토큰 여럿에 걸칠 수 있다. 그때는 공백이 아닌 첫 글자의 것이다 (" (x" → 연산자).
[디버깅] 파이썬이 아닌 글, 끝나지 않은 괄호 뒤의 글은 모두 other다.
"""

import io
import keyword
import tokenize
from collections.abc import Sequence

KINDS = ("identifier", "keyword", "operator", "literal", "layout", "other")
_KIND_OF = {
    tokenize.OP: "operator",
    tokenize.NUMBER: "literal",
    tokenize.STRING: "literal",
    getattr(tokenize, "FSTRING_START", None): "literal",  # Python 3.12 and newer cut f-strings up
    getattr(tokenize, "FSTRING_MIDDLE", None): "literal",
    getattr(tokenize, "FSTRING_END", None): "literal",
    tokenize.COMMENT: "other",
}


def kinds_of(pieces: Sequence[str]) -> list[str]:
    """Name the kind of each piece of a program.

    Args:
        pieces: 이어 붙이면 프로그램이 되는 조각들 (토큰마다 하나).

    Returns:
        조각마다 `KINDS`의 하나. 공백뿐인 조각은 layout, 글자가 없는 조각은 other.

    Example:
        >>> kinds_of(["def", " f", "(x", "):", "\\n    ", "return", " 'a'", "+", "x"])
        ['keyword', 'identifier', 'operator', 'operator', 'layout', 'keyword', 'literal', 'operator', 'identifier']
    """
    kind_at = _kinds_by_character("".join(pieces))
    kinds, place = [], 0
    for piece in pieces:
        blanks = len(piece) - len(piece.lstrip())
        if blanks < len(piece):
            kinds.append(kind_at[place + blanks])
        else:
            kinds.append("layout" if piece else "other")
        place += len(piece)
    return kinds


def _kinds_by_character(text: str) -> list[str]:
    """Name the kind of every character, as far as Python can read the text."""
    kinds = ["other"] * len(text)
    starts = [0]  # of every line; split as tokenize reads them
    for line in io.StringIO(text):
        starts.append(starts[-1] + len(line))
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = _KIND_OF.get(token.type)
            if token.type == tokenize.NAME:
                kind = "keyword" if keyword.iskeyword(token.string) else "identifier"
            if kind is not None:
                (row, column), (end_row, end_column) = token.start, token.end
                first, end = starts[row - 1] + column, starts[end_row - 1] + end_column
                kinds[first:end] = [kind] * (end - first)
    except (tokenize.TokenError, SyntaxError):  # what comes after cannot be read
        pass
    return kinds
