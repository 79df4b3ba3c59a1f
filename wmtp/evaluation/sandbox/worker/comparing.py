"""Tell whether what a program printed or returned is what was expected, by the rule of whoever published the problem.

[연구 맥락] 같은 출력도 규칙에 따라 맞거나 틀린다. 남의 숫자와 견주려면 그 문제를 낸 쪽의 규칙이어야 한다.
[동작] 규칙의 이름은 낸 쪽의 이름이다 (`Program.comparison`).
    deepmind        토큰, 대소문자 무시, 수는 1e-5 이내 (CodeContests)
    livecodebench   줄마다 앞뒤 공백을 떼고, 글이 다르면 십진수로 정확히. 돌려준 값은 맨 바깥의 튜플만 리스트로 본다
    apps            글은 deepmind와 같다. 돌려준 값은 기대값이거나, 기대값을 싼 리스트의 첫째여도 된다
"""

import decimal


def tokens_match(printed: bytes, expected: bytes) -> bool:
    """Compare outputs as DeepMind's code_contests does: tokens, case ignored, numbers within 1e-5.

    Example:
        >>> tokens_match(b"YES\\n0.3333333 7", b" yes 0.33333\\r\\n7.0")
        True
        >>> tokens_match(b"1 2", b"1 2 3")
        False
    """
    left, right = printed.lower().split(), expected.lower().split()
    return left == right or (len(left) == len(right) and all(map(_token_matches, left, right)))


def lines_match(printed: bytes, expected: bytes) -> bool:
    """Compare outputs as LiveCodeBench does: stripped lines, equal as texts or, number by number, as decimals.

    Example:
        >>> lines_match(b" 1.50 2 \\nYes\\n\\n", b"1.5 2.0\\nYes")
        True
        >>> lines_match(b"yes", b"Yes"), lines_match(b"0.3333333", b"0.33333333"), lines_match(b"1\\n\\n2", b"1\\n2")
        (False, False, False)
    """
    left, right = (text.decode("utf-8", "surrogateescape").strip().split("\n") for text in (printed, expected))
    return len(left) == len(right) and all(map(_line_matches, left, right))


def value_matches(returned, expected) -> bool:
    """Compare a returned value as LiveCodeBench does.

    Example:
        >>> value_matches((1, 2), [1, 2]), value_matches([(1, 2)], [[1, 2]])
        (True, False)
    """
    return _listed(returned) == expected


def value_or_first_matches(returned, expected) -> bool:
    """Compare a returned value as APPS does, where most expected values come wrapped in a list.

    Example:
        >>> value_or_first_matches("ab", ["ab"]), value_or_first_matches(((1, 2),), [[[1, 2]]])
        (True, True)
    """
    returned = _listed(returned)
    if returned == expected:
        return True
    if not isinstance(expected, list) or not expected:
        return False
    return returned == expected[0] or (type(returned) is list and [*map(_listed, returned)] == expected[0])


#: The rules by name: for what is printed, and for what is returned.
TEXTS = {"deepmind": tokens_match, "livecodebench": lines_match, "apps": tokens_match}
VALUES = {"deepmind": value_matches, "livecodebench": value_matches, "apps": value_or_first_matches}


def _token_matches(left: bytes, right: bytes) -> bool:
    """Compare two tokens as text, or as numbers where both are numbers."""
    if left == right:
        return True
    if b"_" in left or b"_" in right:
        return False  # Python reads 1_000 as a number; nobody else does
    try:
        return abs(float(left) - float(right)) < 1e-5
    except ValueError:
        return False


def _line_matches(left: str, right: str) -> bool:
    """Compare two lines as text, or as decimals where all of both are decimals."""
    if left.strip() == right.strip():
        return True
    try:
        return [*map(decimal.Decimal, left.split())] == [*map(decimal.Decimal, right.split())]
    except ArithmeticError:
        return False


def _listed(value):
    return list(value) if isinstance(value, tuple) else value
