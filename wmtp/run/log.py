"""Keep what a run prints in its directory.

[동작] 표준 출력과 표준 오류에 쓰는 글을 `train.log`에도 덧붙인다. 터미널에는 그대로 나온다. 진행 막대처럼 같은 줄을
    고쳐 쓰는 글과 색은 빼고, 비밀은 가린다. 로그를 쓸 수 없어도 (가득 찬 디스크) 학습은 계속된다.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from wmtp.secrets import mask_secrets

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_REDRAWN = re.compile(r"\r(?!\n)|\x1b\[\??[0-9;]*[A-HJKlh]")


class _Tee:
    """Write to a stream as before, and to the log."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        if not _REDRAWN.search(text):
            with suppress(OSError, ValueError):  # no space, or closed already: the terminal has it
                self._log.write(mask_secrets(_COLOUR.sub("", text)))
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def keep_log(run: Path) -> Iterator[None]:
    """Append what is printed from here on to train.log, on other ranks to train-rankR.log."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    rank = getattr(rank_zero_only, "rank", 0) or 0
    file = run / ("train.log" if rank == 0 else f"train-rank{rank}.log")
    with file.open("a", encoding="utf-8", buffering=1) as log:
        with redirect_stdout(_Tee(sys.stdout, log)), redirect_stderr(_Tee(sys.stderr, log)):
            yield
