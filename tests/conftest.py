import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory):
    """Keep the user's own cache out of the tests; within a session they share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WMTP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
