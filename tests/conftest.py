import signal
from pathlib import Path

import pytest

TOKENIZER = Path(__file__).parents[1] / "wmtp/assets/tokenizer"


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory):
    """Keep the user's own cache out of the tests; within a session they share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WMTP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def ctrl_c():
    """Give Ctrl-C its meaning back: a Lightning trainer that is interrupted leaves it ignored."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="session")
def tokenizer():
    """Load the tokenizer that ships with wmtp."""
    from wmtp.models.tokenizer import load_tokenizer  # here, because the sandbox's tests need no torch

    return load_tokenizer(TOKENIZER)
