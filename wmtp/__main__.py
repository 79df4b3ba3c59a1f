"""Choose a command: `wmtp train …` is `python -m wmtp.train …`.

    wmtp train algo=baseline
    python -m wmtp eval ckpt=runs/<name>

[동작] 앞문의 모듈을 그대로 실행한다 (runpy). 그래서 다시 시작할 명령도, Lightning이 띄우는 랭크도 `-m wmtp.train`이다.
"""

import ast
import runpy
import sys
from pathlib import Path

from wmtp import completion

COMMANDS = ("train", "eval", "compare", "promote", "precompute")


def main() -> None:
    """Run from the command line."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in completion.FLAGS:
        if (asked := completion.answer(sys.argv[2:], COMMANDS)) is None:
            return
        command, sys.argv[1:] = asked[0], asked
    if command in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"wmtp.{command}", run_name="__main__", alter_sys=True)
    elif command in ("-h", "--help"):
        print(overview())
    else:
        print(f"ConfigError: {command} is no command of wmtp; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)


def overview() -> str:
    """List the commands with what each does, without importing any of them."""
    lines = []
    for command in COMMANDS:
        source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
        lines.append(f"  {command:<12}{ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    return "\n".join(["wmtp COMMAND …, or python -m wmtp.COMMAND …; wmtp COMMAND --help says more.", "", *lines])


if __name__ == "__main__":
    main()
