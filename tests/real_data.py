"""Find the published data sets, for the tests that need every row of them."""

import os

import pytest

DATA = os.environ.get("WMTP_TEST_DATA")
real_data = pytest.mark.skipif(
    DATA is None, reason="WMTP_TEST_DATA names no folder with mbpp/, humaneval/, codecontests/"
)
