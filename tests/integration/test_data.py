"""Hold the front door to what it does with data: leaks left out and listed, licences named, sources mixed."""

import json
import re

import pytest
import yaml

from wmtp.train import train

QUICK = ("trainer.max_steps=1", "eval.before=false", "eval.after=false", "data.max_length=400", "data.token_budget=800")


@pytest.fixture
def mbpp(tmp_path):
    """Write a small MBPP; its training problem 602 is its test problem 11 in other words and another formatting."""
    answer = "def secret_{0}(values):\n    total = 0\n    for v in values:\n        total += v * {0}\n    return total"
    rows = [
        {
            "task_id": number,
            "text": f"Weigh a list by {number}: add up all of its values, each of them {number} times.",
            "code": answer.format(number),
            "test_list": [f"assert secret_{number}([1, 2]) == {3 * number}"],
        }
        for number in (2, 3, 4, 11, 12, 511, 601, 602, 603)
    ]
    planted = answer.format(11).replace("    ", "  ").replace("secret_11", "mine")
    rows[7] |= {"code": planted, "test_list": ["assert mine([5]) == 55"]}
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "mbpp.jsonl"


def test_a_leak_is_left_out_and_listed_and_licences_are_named(config, mbpp, tmp_path, capsys):
    train(config("data=mbpp", f"data.path={mbpp}", *QUICK))
    run = tmp_path / "runs" / "rho1-mbpp-tiny-base"
    said = capsys.readouterr().out
    assert "2 training samples" in said and "1 training problems are in a benchmark in use" in said
    (leak,) = json.loads((run / "left_out.json").read_text())["leaks"]
    assert (leak["task_id"], leak["benchmark_task_id"], leak["kind"]) == ("mbpp/602", "mbpp/11", "code")
    for form in ("md", "html"):
        report = (run / f"report.{form}").read_text()
        assert "mbpp/602" in report and "mbpp: mbpp/11" in report and "CC-BY-4.0" in report
    used = yaml.safe_load((run / "config.yaml").read_text())["used"]
    assert used["mbpp"]["licence"] == "CC-BY-4.0"
    # The answer of the test problem is in nothing that the run wrote.
    written = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert not any(b"secret_11" in content for content in written) and "secret_11" not in said


def test_sources_are_mixed_by_weight_through_the_front_door(config, mbpp, tmp_path, capsys):
    weights = ("data.weights.mbpp=3", "data.weights.codecontests=0", "data.weights.synthetic=0.1")
    train(config("data=mix", "benchmark=synthetic", f"data.path.mbpp={mbpp}", *weights, *QUICK))
    run = tmp_path / "runs" / "rho1-mix-tiny-base"
    used = yaml.safe_load((run / "config.yaml").read_text())["used"]
    assert {name: used[name]["licence"] for name in used} == {"mbpp": "CC-BY-4.0", "synthetic": "Apache-2.0"}
    times = int(re.search(r"mix \(Apache-2\.0, CC-BY-4\.0\): (\d+) training samples", capsys.readouterr().out)[1])
    assert 9 + 10 < times < 9 + 30  # three problems three times, and about a tenth of 200
