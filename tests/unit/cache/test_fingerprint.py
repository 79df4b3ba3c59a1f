"""Hold names to their word: code that does the same has the same name, code that does another thing has another."""

import pytest

from wmtp.cache.fingerprint import code_of

CODE = '''"""Say what this is."""

LEAST = 0.5  # of everything


class Judge:
    """Judge."""

    def judge(self, x):
        """Judge one.

        Example:
            >>> Judge().judge(1)
        """
        return x + 1 > LEAST


async def nothing():
    """Do nothing."""
'''


def name_of(tmp_path, code: str) -> str:
    file = tmp_path / "code.py"
    file.write_text(code)
    return code_of(file)


@pytest.mark.parametrize(
    "before, after",
    [
        ("  # of everything", ""),
        ("Say what this is.", "Say it better,\nin two lines."),
        ("Judge().judge(1)", "Judge().judge(2)"),
        ('    """Judge."""\n', "    # Judge.\n"),
        ("x + 1 > LEAST", "(x\n            + 1) > LEAST"),
    ],
)
def test_words_and_layout_keep_the_name(tmp_path, before, after):
    assert before in CODE
    assert name_of(tmp_path, CODE.replace(before, after)) == name_of(tmp_path, CODE)


@pytest.mark.parametrize(
    "before, after",
    [
        ("0.5", "0.25"),
        ("x + 1", "x - 1"),
        ("> LEAST", ">= LEAST"),
        ("self, x", "self, x=0"),
        ("async def", "def"),
        ("return x", "return '''x''' and x"),
        ("        return", "        x += 1\n        return"),
    ],
)
def test_whatever_code_does_changes_the_name(tmp_path, before, after):
    assert before in CODE
    assert name_of(tmp_path, CODE.replace(before, after)) != name_of(tmp_path, CODE)


def test_the_order_of_files_does_not_count_but_each_of_them_does(tmp_path):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("x = 1")
    other.write_text("y = 2")
    assert code_of(one, other) == code_of(other, one) != code_of(one)
