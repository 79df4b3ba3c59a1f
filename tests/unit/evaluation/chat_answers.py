"""Hold answers as chat models write them, each with the ways of extraction under which it passes.

[동작] 손으로 쓴 것이다. `passes`의 글자는 n (none), f (fence), a (auto). 세 가지 문제가 있다 (test_extraction.py):
    squares  함수 하나를 답하는 문제. squares([1, 2, 3]) == 14.
    total    프롬프트에 이어 쓰는 문제. 프롬프트에 import와 보조 함수 offset이 있다. total([1, 2]) == 4.
    sum      표준 입력의 수를 더해 출력하는 문제.
"""

from textwrap import dedent, indent
from typing import NamedTuple


class Written(NamedTuple):
    """Hold one answer."""

    problem: str
    passes: str
    text: str


def fenced(code: str, language: str = "python", fence: str = "```") -> str:
    return f"{fence}{language}\n{dedent(code).strip()}\n{fence}\n"


SQUARES = "def squares(xs):\n    return sum(x * x for x in xs)\n"
WRONG = "def squares(xs):\n    return sum(xs)\n"
TOTAL = "def total(xs: List[int]) -> int:\n    return offset(sum(xs))\n"
BODY = "    return offset(sum(xs))\n"
SUM = "print(sum(map(int, input().split())))\n"
MAIN = "def main():\n    print(sum(map(int, input().split())))\n\n\nmain()\n"
GENERATOR = (
    "def squared(xs):\n    for x in xs:\n        yield x * x\n\n\ndef squares(xs):\n    return sum(squared(xs))\n"
)
UNIT_TESTS = f"""
import unittest

{SQUARES}

class Tests(unittest.TestCase):
    def test(self):
        pass


unittest.main()
"""
TABLE = """
table = {}
for i in range(9):
    table[i] = i * i


def squares(xs):
    return sum(table[x] for x in xs)
"""
CACHED = """
from functools import lru_cache


@lru_cache(maxsize=None)
def square(x):
    return x * x


def squares(xs):
    return sum(map(square, xs))
"""
IN_DOCSTRING = '''
def squares(xs):
    """Sum the squares.

    ```
    squares([1]) == 1
    ```
    """
    return sum(x * x for x in xs)
'''

ANSWERS: dict[str, Written] = {
    # what needs nothing
    "plain": Written("squares", "nfa", SQUARES),
    "plain, wrong": Written("squares", "", WRONG),
    "plain, with blank lines around it": Written("squares", "nfa", f"\n\n{SQUARES}\n\n"),
    "plain, with a docstring that holds a fence": Written("squares", "nfa", IN_DOCSTRING),
    "plain, with CRLF": Written("squares", "nfa", SQUARES.replace("\n", "\r\n")),
    "nothing": Written("squares", "", ""),
    "a refusal": Written("squares", "", "I'm sorry, but I can't help with that."),
    # one fence
    "a fence": Written("squares", "fa", fenced(SQUARES)),
    "a fence in prose": Written("squares", "fa", f"Sure! Here you go:\n\n{fenced(SQUARES)}\nIt's O(n).\n"),
    "a fence, wrong": Written("squares", "", f"Sure!\n{fenced(WRONG)}"),
    "a fence without a language": Written("squares", "fa", f"Here:\n{fenced(SQUARES, '')}"),
    "a fence in py": Written("squares", "fa", fenced(SQUARES, "py")),
    "a fence in Python 3": Written("squares", "fa", fenced(SQUARES, "Python3")),
    "a fence with attributes": Written("squares", "fa", fenced(SQUARES, "python title='squares.py'")),
    "a fence of tildes": Written("squares", "fa", fenced(SQUARES, fence="~~~")),
    "a fence of four": Written("squares", "fa", fenced(SQUARES, fence="````")),
    "a fence with CRLF": Written("squares", "fa", fenced(SQUARES).replace("\n", "\r\n")),
    "a fence in a list": Written("squares", "fa", f"1. Like this:\n\n{indent(fenced(SQUARES), '   ')}\n2. Done.\n"),
    "a fence that is never closed": Written("squares", "fa", f"Sure!\n```python\n{SQUARES}"),
    "a fence that the prompt opened": Written("squares", "fa", f"{SQUARES}```"),
    "a fence that the prompt opened, then prose": Written("squares", "a", f"{SQUARES}```\n\nThis squares each.\n"),
    "a fence with a fence in a docstring": Written("squares", "fa", f"See:\n{fenced(IN_DOCSTRING)}\n"),
    "a fence with a generator": Written("squares", "fa", fenced(GENERATOR)),
    "a fence with a decorated helper": Written("squares", "fa", fenced(CACHED)),
    "a fence under a heading": Written("squares", "fa", f"### Solution\n\n{fenced(SQUARES)}\n### Explanation\nEasy.\n"),
    # several fences
    "the call in a second fence": Written(
        "squares", "fa", f"{fenced(SQUARES)}\nUse it so:\n{fenced('print(squares([1, 2]))')}"
    ),
    "the call in a first fence": Written(
        "squares", "fa", f"For\n{fenced('print(squares([1, 2]))')}\nwrite\n{fenced(SQUARES)}"
    ),
    "a shell before": Written(
        "squares", "fa", f"{fenced('pip install nothing-at-all-of-use', 'bash')}\n{fenced(SQUARES)}"
    ),
    "an output after": Written("squares", "fa", f"{fenced(SQUARES)}\nOutput:\n{fenced('14', 'text')}"),
    "an output after, without a language": Written(
        "squares", "fa", f"{fenced(SQUARES)}\nOutput:\n{fenced('14 is it', '')}"
    ),
    "the right one first": Written("squares", "fa", f"{fenced(SQUARES)}\nor, wrongly,\n{fenced(WRONG)}"),
    "the wrong one first": Written("squares", "", f"{fenced(WRONG)}\nBetter:\n{fenced(SQUARES)}"),
    "another language": Written(
        "squares", "fa", f"{fenced('function squares(xs) { return 14 }', 'javascript')}\n{fenced(SQUARES)}"
    ),
    # what is beside the function
    "a fence with a right call": Written("squares", "fa", fenced(f"{SQUARES}\nprint(squares([1, 2]))")),
    "a fence with a wrong assert": Written("squares", "a", fenced(f"{SQUARES}\nassert squares([1, 2]) == 4")),
    "a fence with a call that fails": Written("squares", "a", fenced(f"{SQUARES}\nprint(squares(None))")),
    "a fence that waits for input": Written(
        "squares", "a", fenced(f"{SQUARES}\nxs = list(map(int, input().split()))\nprint(squares(xs))")
    ),
    "a fence with a loop of wrong asserts": Written(
        "squares", "a", fenced(f"{SQUARES}\nfor x, y in [(1, 2)]:\n    assert squares([x]) == y")
    ),
    "a fence with unit tests that exit": Written(
        "squares",
        "a",
        fenced(UNIT_TESTS),
    ),
    "a fence that exits": Written("squares", "a", fenced(f"import sys\n\n{SQUARES}\nsys.exit(1)")),
    "a fence with a main program": Written(
        "squares", "fa", fenced(f"{SQUARES}\nif __name__ == '__main__':\n    squares(None)")
    ),
    "a plain program with a wrong assert": Written("squares", "a", f"{SQUARES}\nassert squares([1, 2]) == 4\n"),
    "a constant that it needs": Written(
        "squares", "fa", fenced("POWER = 2\n\ndef squares(xs):\n    return sum(x ** POWER for x in xs)")
    ),
    "a table that a loop fills": Written(
        "squares",
        "fa",
        fenced(TABLE),
    ),
    "an import that may fail": Written(
        "squares",
        "fa",
        fenced(
            "try:\n    import nothing_at_all as m\nexcept ImportError:\n    m = None\n\n"
            "def squares(xs):\n    return sum(x * x for x in xs) if m is None else 0"
        ),
    ),
    "a lambda": Written("squares", "fa", fenced("squares = lambda xs: sum(x * x for x in xs)")),
    "a deep recursion that it allows": Written(
        "squares",
        "fa",
        fenced(
            "import sys\nsys.setrecursionlimit(10**5)\n\ndef depth(n):\n    return n and 1 + depth(n - 1)\n\n"
            "def squares(xs):\n    return sum(x * x for x in xs) + depth(3000) - 3000"
        ),
    ),
    "two statements on a line": Written("squares", "a", fenced(f"{SQUARES}\nn = 2; assert squares([n]) == 5")),
    "defined twice": Written("squares", "fa", fenced(f"{WRONG}\n\n{SQUARES}")),
    "another name": Written("squares", "", fenced("def sum_of_squares(xs):\n    return sum(x * x for x in xs)")),
    # prose without a fence
    "prose before": Written("squares", "a", f"Here is the function:\n\n{SQUARES}"),
    "prose after": Written("squares", "a", f"{SQUARES}\nThis squares each number and adds them up.\n"),
    "prose around, with an apostrophe": Written("squares", "a", f"Here's it:\n\n{SQUARES}\nThat's all!\n"),
    "prose in single words": Written("squares", "a", f"Solution\n\n{SQUARES}\nDone\n- item\nO(n)\nNote: important\n"),
    "prose with a list": Written("squares", "a", f"Steps:\n1. Square.\n2. Add.\n\n{SQUARES}\n* simple\n"),
    "prose between helper and function": Written(
        "squares",
        "a",
        "First a helper:\n\ndef square(x):\n    return x * x\n\nNow the rest:\n\n"
        "def squares(xs):\n    return sum(map(square, xs))\n",
    ),
    "prose that begins with finally": Written("squares", "a", f"{SQUARES}\nfinally we are done\n"),
    "an if with its else, in prose": Written(
        "squares",
        "a",
        f"Either way:\n\nif True:\n    n = 2\nelse:\n    n = 3\n\n{SQUARES.replace('x * x', 'x ** n')}\nOK?\n",
    ),
    "a last function that is cut off": Written("squares", "a", f"{SQUARES}\ndef test():\n    assert squares([1"),
    "a fence whose last function is cut off": Written(
        "squares", "a", f"```python\n{SQUARES}\ndef test():\n    assert (1"
    ),
    "text that never ends a bracket": Written("squares", "", "x = (\n" + "a = [\n" * 60),
    # thoughts
    "a thought": Written("squares", "fa", f"<think>\nLet me see, sum of xs?\n</think>\n\n{SQUARES}"),
    "a thought with another program": Written("squares", "fa", f"<think>\n{fenced(WRONG)}</think>\n{fenced(SQUARES)}"),
    "a thought that the prompt opened": Written(
        "squares", "fa", f"Maybe\n{fenced(WRONG)}\n</think>\n{fenced(SQUARES)}"
    ),
    "a thought that never ends": Written("squares", "", f"<think>\nMaybe\n{fenced(SQUARES)}"),
    # what follows a prompt
    "the body": Written("total", "nfa", BODY),
    "the body, wrong": Written("total", "", "    return sum(xs)\n"),
    "the body, then prose": Written("total", "a", f"{BODY}\nThis adds one.\n"),
    "the body in a fence": Written("total", "fa", f"```python\n{BODY}```\n"),
    "the body, then a wrong assert": Written("total", "a", f"{BODY}\nassert total([1]) == 1\n"),
    "the whole function": Written("total", "nfa", TOTAL),
    "the whole function in a fence, without its imports": Written("total", "fa", f"Sure:\n{fenced(TOTAL)}"),
    "the whole function in prose": Written("total", "a", f"Here it is:\n\n{TOTAL}\nIt uses offset.\n"),
    "the whole function from the future": Written(
        "total",
        "fa",
        fenced("from __future__ import annotations\n\ndef total(xs: list[int]) -> int:\n    return sum(xs) + 1"),
    ),
    "the prompt repeated in a fence": Written(
        "total",
        "fa",
        fenced("from typing import List\n\ndef offset(x):\n    return x + 1\n\n" + TOTAL),
    ),
    # scripts
    "a script": Written("sum", "nfa", SUM),
    "a script in a fence": Written("sum", "fa", f"Read and add:\n{fenced(SUM)}"),
    "a script with a main function in a fence": Written(
        "sum", "fa", f"Try\n{fenced(MAIN)}\nsample:\n{fenced('1 2', '')}"
    ),
    "a script with a main function in prose": Written("sum", "a", f"Here it is:\n\n{MAIN}\nDone\n"),
    "a script under its name": Written(
        "sum",
        "fa",
        fenced("def main():\n    print(sum(map(int, input().split())))\n\nif __name__ == '__main__':\n    main()"),
    ),
    "a script, wrong": Written("sum", "", fenced("print(input())")),
}
