"""What is in none of the places where it is looked for is said with every one of them."""

import pytest

from wmtp.errors import DataNotFoundError
from wmtp.storage import Storage


def test_a_data_set_that_the_hub_does_not_have_is_looked_for_where_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_DATA", str(tmp_path / "data"))
    storage = Storage(cache=tmp_path / "cache")
    with pytest.raises(DataNotFoundError) as caught:
        storage.find_data("lessons", None, ("lessons.jsonl",))
    said = str(caught.value)
    assert said.startswith("data=lessons: no lessons.jsonl in $WMTP_DATA/lessons, or in the cache (")
    assert "set data.path" in said and "Hub" not in said

    file = tmp_path / "cache" / "data" / "lessons" / "lessons.jsonl"
    file.parent.mkdir(parents=True)
    file.touch()
    assert storage.find_data("lessons", None, ("lessons.jsonl",)) == [file]
