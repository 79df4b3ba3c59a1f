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
    """Give Ctrl-C its meaning: a shell's background job ignores it, and so does a Lightning trainer that heard one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tokenizer():
    """Load the tokenizer that ships with wmtp."""
    from wmtp.models.tokenizer import load_tokenizer  # here, because the sandbox's tests need no torch

    return load_tokenizer(TOKENIZER)
