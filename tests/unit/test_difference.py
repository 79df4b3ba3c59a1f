"""Hold the comparison of two evaluations to what changed, and to the right test."""

import json
from collections import Counter
from pathlib import Path

import pytest

from wmtp.errors import ConfigError
from wmtp.reporting.difference import compare_folders, find_difference
from wmtp.reporting.texts import Texts


def write(folder: Path, statuses: dict[str, list[str]], **settings) -> Path:
    """Write the files of an evaluation."""
    folder.mkdir()
    rows = [{"task_id": t, "sample": i, "status": s} for t, several in statuses.items() for i, s in enumerate(several)]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metrics.json").write_text(json.dumps({"b/pass@1": 0.5, "b/unjudgeable": ["broken"]}))
    (folder / "eval.json").write_text(json.dumps({"benchmark.prompt": "p", "ckpt": str(folder), **settings}))
    return folder


def test_every_change_is_named_with_its_direction_and_the_paired_test(tmp_path):
    same = {f"same/{i}": ["passed"] for i in range(91)}
    up = [f"up/{i}" for i in range(8)]
    before = same | {task_id: ["wrong"] for task_id in up} | {"down": ["passed"], "broken": ["error"], "a": ["wrong"]}
    after = same | {task_id: ["passed"] for task_id in up} | {"down": ["timeout"], "broken": ["passed"]}
    first = write(tmp_path / "a", before)
    second = write(tmp_path / "b", after, **{"benchmark.prompt": "q"})
    found, said = compare_folders(first, second, Texts())
    assert found.problems == 100 and found.alone == (1, 0)
    assert found.rates == (0.92, 0.99)
    # Bonett and Price: 7 / 102 ± z sqrt(11 / 102 - (7 / 102)²) / sqrt(102), since 9 of 100 differ.
    assert (found.mean, found.low, found.high) == pytest.approx((0.07, 0.0063045, 0.1309504), abs=1e-6)
    assert found.p == 20 / 512
    assert found.better == dict.fromkeys(up, ("wrong", "passed"))
    assert found.worse == {"down": ("passed", "timeout")} and found.otherwise == {}
    lines = said.splitlines()
    assert lines[0].startswith("A ") and lines[0].endswith(f"0.920   {first}")
    assert "p = 0.0391   8 better, 1 worse" in said and "benchmark.prompt         p → q" in lines
    assert "worse                    down   passed → timeout" in lines and "broken" not in said and "ckpt" not in said
    assert "나빠짐                   down   통과 → 시간 초과" in compare_folders(first, second, Texts("ko"))[1]


def test_several_samples_are_compared_by_how_many_pass():
    before = {"x": Counter(passed=1, wrong=3), "y": Counter(passed=2, wrong=2), "z": Counter(error=4)}
    after = {"x": Counter(passed=3, error=1), "y": Counter(passed=2, timeout=2), "z": Counter(error=4)}
    found = find_difference(before, after)
    assert found.better == {"x": ("1/4", "3/4")} and found.worse == {}
    assert found.otherwise == {"y": ("2/4", "2/4")}
    assert found.mean == pytest.approx(0.5 / 3, abs=1e-15) and found.p == 1


def test_folders_that_cannot_be_compared_are_named(tmp_path):
    first, other = write(tmp_path / "a", {"x": ["passed"]}), write(tmp_path / "b", {"y": ["passed"]})
    with pytest.raises(ConfigError, match=r"no problem stands in both \(x …, y …\)"):
        compare_folders(first, other, Texts())
    with pytest.raises(ConfigError, match=r"\(x …, none that can be judged …\)"):
        compare_folders(first, write(tmp_path / "c", {"broken": ["error"]}), Texts())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty holds no results\.jsonl; give the folders of two"):
        compare_folders(first, tmp_path / "empty", Texts())
