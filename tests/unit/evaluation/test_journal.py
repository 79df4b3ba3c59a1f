"""Hold the journal to losing nothing but the line that a kill tore."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from wmtp.errors import DataFormatError
from wmtp.evaluation.journal import Journal

ROWS = [{"task_id": "t/1", "sample": i, "completion": "x = '한글\n'" * i} for i in range(3)]


def written(path) -> bytes:
    journal = Journal(path)
    for row in ROWS:
        journal.append(row)
    journal.close()
    return path.read_bytes()


def test_a_file_torn_at_any_byte_keeps_its_whole_lines_and_goes_on(tmp_path):
    whole = written(tmp_path / "whole.jsonl")
    for cut in range(len(whole) + 1):
        path = tmp_path / "torn.jsonl"
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        assert len(journal.rows) == whole[:cut].count(b"\n")
        for row in ROWS[len(journal.rows) :]:
            journal.append(row)
        journal.close()
        assert path.read_bytes() == whole


def test_finish_leaves_the_given_order_and_the_last_word_on_each_sample(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    for row in [*reversed(ROWS), {**ROWS[1], "completion": "again"}]:
        journal.append(row)
    journal.finish(("t/1", i) for i in range(3))
    rows = list(Journal(tmp_path / "a.jsonl").rows.values())
    assert rows == [ROWS[0], {**ROWS[1], "completion": "again"}, ROWS[2]]
    assert not (tmp_path / "a.jsonl.tmp").exists()


def test_a_line_that_is_not_ours_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"task_id": "t/1"}\n')
    with pytest.raises(DataFormatError, match=r"a\.jsonl:1: not a row that an evaluation wrote"):
        Journal(path)


def test_rows_of_several_threads_are_read_as_they_were_written(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl")

    def write(thread: int) -> None:
        for n in range(1000):
            row = {"task_id": f"t{thread}", "sample": n, "text": "x" * (n % 97)}
            journal.append(row)
            assert journal.rows[f"t{thread}", n] == row

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert all(journal.rows[key]["text"] == "x" * (key[1] % 97) for key in journal.rows) and len(journal.rows) == 4000
