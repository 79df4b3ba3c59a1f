"""Show how far something slow is: a bar on a terminal, a line now and then in a log."""

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
    """Open a bar that counts, with the speed and the time left."""
    settings = dict(desc=name, total=total, initial=done, unit=unit, disable=not shown)
    if sys.stderr.isatty():
        return tqdm(**settings, dynamic_ncols=True)
    return _Lines(**settings, mininterval=SECONDS_BETWEEN_LINES, miniters=1)
