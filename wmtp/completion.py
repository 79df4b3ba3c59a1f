"""Complete `wmtp` in bash: its commands here, groups, options and keys by Hydra.

    eval "$(wmtp -sc install=bash)"

[동작] Hydra도 완성을 하지만 프로그램 하나에 설정 하나를 뜻하고, `wmtp train`처럼 명령이 먼저 오는 것을 모른다. 그래서
    셸이 부르는 함수는 여기 것이고, 명령을 뗀 나머지를 그 명령의 `-sc query=bash`에 묻는다. `--config-dir`은 함께
    넘긴다.
"""

import os
from collections.abc import Sequence

FLAGS = ("-sc", "--shell-completion")
SCRIPT = """_wmtp() {
    local word="${COMP_LINE:0:$COMP_POINT}"
    COMPREPLY=($(compgen -W "$(COMP_LINE="$word" "${COMP_WORDS[0]}" -sc query=bash 2>/dev/null)" -- "${word##* }"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _wmtp wmtp"""


def answer(arguments: Sequence[str], commands: Sequence[str]) -> list[str] | None:
    """Answer what the shell asks of `wmtp` itself.

    Args:
        arguments: `-sc` 뒤의 것.
        commands: wmtp의 명령들.

    Returns:
        그 명령의 앞문에 이어서 물을 인자들. 여기서 답을 출력했으면 None.

    Example:
        >>> os.environ["COMP_LINE"] = "wmtp tr"
        >>> answer(["query=bash"], ["train", "eval"])
        train eval
        >>> os.environ["COMP_LINE"] = "wmtp train --config-dir own algo="
        >>> answer(["query=bash"], ["train", "eval"]), os.environ.pop("COMP_LINE")
        (['train', '--config-dir', 'own', '-sc', 'query=bash'], 'wmtp algo=')
    """
    if "query=bash" not in arguments:
        print(SCRIPT)
        return None
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        print(*commands)
        return None
    rest, own = words[2:], []
    for number, word in enumerate(words[2:-1]):
        if word in ("--config-dir", "-cd"):
            own = [word, words[number + 3]]
    own = own or [word for word in rest if word.startswith("--config-dir=")][-1:]
    asked = [word for word in rest if word not in own] + ([""] if line.endswith(" ") else [])
    os.environ["COMP_LINE"] = " ".join([words[0], *asked])
    return [words[1], *own, *FLAGS[:1], *arguments]
