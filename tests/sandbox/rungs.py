"""Open a sandbox of a chosen rung, where this machine offers it."""

import pytest

from wmtp.errors import SandboxUnavailableError
from wmtp.evaluation.sandbox import Sandbox

SAFE_RUNGS = ("namespaces", "bubblewrap", "landlock")


def open_rung(rung: str, workers: int = 2) -> Sandbox:
    """Make a sandbox of one rung, or skip the test where this machine does not offer it."""
    try:
        with Sandbox(workers=1, rung=rung):
            pass
    except SandboxUnavailableError as error:
        pytest.skip(f"{rung} does not work here: {error}")
    return Sandbox(workers=workers, rung=rung)
