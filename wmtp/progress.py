"""Show how far an evaluation is: a bar on a terminal, a line now and then in a log."""

import sys

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class _Lines(tqdm):
    """Write whole lines: a log file or a CI page cannot move the cursor back."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        end = "" if pos == 0 else "\n"  # pos is 0 at the very end, where tqdm ends the line itself
        self.fp.write((str(self) if msg is None else msg) + end)
        self.fp.flush()
        return True


def progress_bar(name: str, total: int | None, done: int, shown: bool, unit: str = "sample") -> tqdm:
    """Open a bar that counts samples, with samples/s and the time left.

    Args:
        name: 벤치마크 이름.
        total: 표본 수.
        done: 이미 채점한 수.
        shown: False면 아무것도 보이지 않는다.
        unit: 세는 것의 이름.
    """
    settings = dict(desc=name, total=total, initial=done, unit=unit, disable=not shown)
    if sys.stderr.isatty():
        return tqdm(**settings, dynamic_ncols=True)
    return _Lines(**settings, mininterval=SECONDS_BETWEEN_LINES, miniters=1)
