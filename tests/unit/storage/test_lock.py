"""Hold the one lock to its word: one process at a time, none left behind by a kill, no end where there are no locks."""

import multiprocessing
import time
from pathlib import Path

import pytest

from wmtp.storage import Storage, in_use, using
from wmtp.storage.lock import Taken, alone


def hold(file: Path, held: Path) -> None:
    with alone(file):
        held.touch()
        time.sleep(600)


def test_a_lock_is_refused_or_waited_for_and_a_kill_lets_go_of_it(tmp_path, capsys):
    file, held = tmp_path / "new" / "x.lock", tmp_path / "held"
    process = multiprocessing.get_context("fork").Process(target=hold, args=(file, held))
    process.start()
    while not held.exists():
        time.sleep(0.01)
    with pytest.raises(Taken), alone(file, wait=False):
        pytest.fail("two at a time")
    process.kill()
    with alone(file, waiting_for="waiting for the other") as locked:
        assert locked
    process.join()
    with alone(file, wait=False) as locked:  # and it was given back
        assert locked


def test_where_there_are_no_locks_everybody_goes_on(tmp_path):
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / "x.lock") as locked:
        assert not locked


def test_a_run_looks_in_its_own_storage_and_the_next_one_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "default"))
    outer, inner = Storage(cache=tmp_path / "outer"), Storage(cache=tmp_path / "inner")
    with using(outer):
        with pytest.raises(KeyError), using(inner):
            assert in_use() is inner
            raise KeyError
        assert in_use() is outer
    assert in_use().cache == tmp_path / "default"
