"""Let the docstrings of this house be read as Markdown: `Example:` is a doctest, `[동작]` begins a paragraph.

[동작] mkdocstrings가 읽은 docstring을 보여 주기 전에 고쳐 쓴다. 코드의 docstring은 그대로다.
"""

import re
from typing import Any

import griffe

PARTS = re.compile(r"^\[(연구 맥락|동작|디버깅)\] ", re.M)


class Docstrings(griffe.Extension):
    """Rewrite every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Write one docstring so that Markdown's reader keeps its paragraphs.

    Example:
        >>> as_markdown("Do it.\\n\\n[동작] 한다.\\n[디버깅] 본다.\\n\\nExample:\\n    >>> 1\\n    1")
        'Do it.\\n\\n\\n**동작** 한다.\\n\\n**디버깅** 본다.\\n\\nExamples:\\n    >>> 1\\n    1'
    """
    return re.sub(r"^Example:$", "Examples:", PARTS.sub(r"\n**\1** ", text), flags=re.M)
