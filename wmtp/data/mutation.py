"""Change a program in one place."""

import random
import re


def mutate(source: str, rng: random.Random) -> tuple[str, tuple[int, int]] | None:
    return None


def difference(before: str, after: str) -> tuple[int, int]:
    """Find the characters of `after` that differ from `before`, whole words and signs at a time.

    Example:
        >>> difference("return sum(xs)", "return max(xs, default=0)")
        (7, 24)
    """
    old, new = (re.findall(r"\w+|\s+|.", line) for line in (before, after))
    left = 0
    while left < min(len(old), len(new)) and old[left] == new[left]:
        left += 1
    right = 0
    while right < min(len(old), len(new)) - left and old[-1 - right] == new[-1 - right]:
        right += 1
    # Where something is only missing, the fault shows at whatever stands there instead.
    stop = max(len(new) - right, left + 1)
    return len("".join(new[:left])), len("".join(new[:stop]))
