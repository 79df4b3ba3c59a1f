"""Start a real server on loopback, in an environment of its own, and end it whatever happens."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 300  # seconds that a server may take to start


@contextmanager
def listening(command: Sequence[Any], log: Path, **variables: str) -> Iterator[str]:
    """Run a command that takes --host and --port; yield the address once it names its models."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | variables
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    try:
        for _ in range(5 * PATIENCE):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # vLLM's has workers
        process.wait()
