"""Hold what a sweep says at its end when its own comparison fails."""

from omegaconf import OmegaConf

from wmtp.run.sweep import FOLDER, Point, remember
from wmtp.sweep import SweepAnswer


def test_a_comparison_that_fails_is_shown_and_hides_neither_the_points_nor_the_way_to_repeat_it(
    tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise TypeError("two kinds of values")

    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(SweepAnswer, "_answer", fail)
    for name in ("a", "b"):
        remember(Point(name, "done", str(tmp_path / f"run {name}")))
    SweepAnswer().on_multirun_end(OmegaConf.create({"lang": "en"}))
    out, err = capsys.readouterr()
    assert f"sweep: 2 of 2 points are done, in {tmp_path}" in out
    assert "TypeError: two kinds of values" in err
    assert f"python -m wmtp.compare '{tmp_path / 'run a'}' '{tmp_path / 'run b'}'" in err
