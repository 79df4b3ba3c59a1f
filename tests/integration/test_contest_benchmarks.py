"""Judge contest problems of every shape through the front door, and train on those that have solutions."""

import base64
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from wmtp.checkpoints.saved_model import SavedModel
from wmtp.errors import DataFormatError
from wmtp.eval import evaluate_checkpoint
from wmtp.train import train

ROOT = Path(__file__).parents[2]


def case(given: str, expected: str, kind: str) -> dict:
    return {"input": given, "output": expected, "testtype": kind}


HIDDEN = json.dumps([case("2 2\n", "4.0", "stdin"), case("7 1", "8", "stdin")])
LIVECODEBENCH = [
    {
        "question_content": "Add two numbers.",
        "question_id": "abc301_a",
        "contest_date": "2024-09-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([case("1 2\n", "3\n", "stdin")]),
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(HIDDEN))).decode(),
        "metadata": "{}",
    },
    {
        "question_content": "Move a list by k.",
        "question_id": "2727",
        "contest_date": "2023-08-21T00:00:00",
        "starter_code": "class Solution:\n    def move(self, xs: List[int], k: int) -> List[int]:\n        ",
        "difficulty": "hard",
        "public_test_cases": json.dumps([case("[1, 2]\n3", "[4, 5]", "functional")]),
        "private_test_cases": json.dumps([case("[]\n1", "[]", "functional")]),
        "metadata": json.dumps({"func_name": "move"}),
    },
]
MOVES = "class Solution:\n    def move(self, xs: List[int], k: int) -> List[int]:\n        return [x + k for x in xs]\n"
SUMS = "print(sum(map(int, input().split())))\n"
SCRIPTS = {"inputs": ["1 2\n", "2 2\n"], "outputs": ["3\n", "4\n"]}
CALLS = {"fn_name": "move", "inputs": [[[1, 2], 3], [[], 1]], "outputs": [[[4, 5]], [[]]]}
APPS = [
    {"problem_id": 7, "question": "Add.", "solutions": [SUMS], "input_output": json.dumps(SCRIPTS)},
    {
        "problem_id": 8,
        "question": "Move a list by k.",
        "solutions": json.dumps([MOVES]),
        "input_output": CALLS,
        "starter_code": LIVECODEBENCH[1]["starter_code"],
    },
]
APPS = [row | {"difficulty": "interview"} for row in APPS]
TACO = [{key: value for key, value in row.items() if key != "problem_id"} | {"difficulty": "EASY"} for row in APPS]
#: benchmark: (rows, answers by task, of which those at even places are right)
SHAPES = {
    "livecodebench": (
        LIVECODEBENCH,
        {
            "livecodebench/abc301_a": [SUMS, "print(4)", "print(gcd(0, sum(map(int, input().split()))))", "("],
            "livecodebench/2727": [
                *(MOVES, "def move(xs, k): return xs", "def move(xs, k): return tuple(x + k for x in xs)"),
                "class Solution:\n    def move(self, xs, k): return (x + k for x in xs)",
            ],
        },
    ),
    "apps": (APPS, {"apps/7": [SUMS, "print(3)"], "apps/8": [MOVES, "def move(xs, k): return xs"]}),
    "taco": (TACO, {"taco/test/1": [SUMS, "print(3)"], "taco/test/2": [MOVES, "def move(xs, k): return xs"]}),
}


def lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_right_programs_of_every_shape_pass_and_wrong_ones_do_not(config, tmp_path, name):
    rows, answers = SHAPES[name]
    file = lines(tmp_path / "test.jsonl", rows)
    given = [{"task_id": task, "completion": answer} for task, each in answers.items() for answer in each]
    samples = lines(tmp_path / "samples.jsonl", given)
    asked = [f"samples={samples}", f"benchmark={name}", f"benchmark.path={file}", "progress=false"]
    metrics = evaluate_checkpoint(config(*asked, f"out={tmp_path / 'out'}", root="eval"))
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    passed = {(row["task_id"], row["sample"]): row["status"] == "passed" for row in results}
    assert passed == {(task, i): i % 2 == 0 for task, each in answers.items() for i in range(len(each))}
    assert metrics[f"{name}/pass@1"] == 0.5 and metrics[f"{name}/unjudgeable"] == []
    report = (tmp_path / "out/report.md").read_text()
    assert "expected output" in report


def test_answers_of_a_chat_are_taken_out_and_days_choose_the_problems(config, tmp_path):
    file = lines(tmp_path / "test.jsonl", LIVECODEBENCH)
    said = f"Here it is:\n```python\n{MOVES}```\nFor example:\n```python\nprint(Solution().move([1], 2))\n```\n"
    samples = lines(tmp_path / "samples.jsonl", [{"task_id": "livecodebench/2727", "completion": said}])
    asked = [f"samples={samples}", "benchmark=livecodebench", f"benchmark.path={file}", "progress=false"]
    asked += ["extract=auto", "benchmark.until=2023-12-31", f"out={tmp_path / 'out'}"]
    metrics = evaluate_checkpoint(config(*asked, root="eval"))
    assert (metrics["livecodebench/pass@1"], metrics["livecodebench/problems"]) == (1.0, 1)


def test_a_pickle_that_would_run_code_stops_the_evaluation_in_one_sentence(config, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Runs()))).decode()
    file = lines(tmp_path / "test.jsonl", [LIVECODEBENCH[0] | {"private_test_cases": packed}])
    samples = lines(tmp_path / "samples.jsonl", [{"task_id": "livecodebench/abc301_a", "completion": SUMS}])
    asked = [f"samples={samples}", "benchmark=livecodebench", f"benchmark.path={file}", f"out={tmp_path / 'out'}"]
    with pytest.raises(DataFormatError, match=r"test\.jsonl:1: private_test_cases is a pickle that is more than one"):
        evaluate_checkpoint(config(*asked, root="eval"))
    assert not (tmp_path / "trace").exists()


@pytest.mark.long
def test_the_checker_of_the_documentation_does_what_it_says(tmp_path):
    _, _, chapter = (ROOT / "docs/evaluation.md").read_text("utf-8").partition("checker\n")
    for name, text in re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```", chapter, re.M | re.S):
        (tmp_path / name).write_text(text)
    command = shlex.split(re.search(r"^python (-m wmtp\.eval samples=answers\.jsonl .*)$", chapter, re.M)[1])
    allow = f"sandbox.allow_unsafe={sys.platform != 'linux'}"
    done = subprocess.run(
        [sys.executable, *command, allow], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^apps/pass@1 +0\.500 ", done.stdout, re.M), done.stdout
    assert "**0.500**" in chapter


def test_a_checker_that_fails_is_said_and_one_that_cannot_be_is_refused(config, tmp_path, capsys):
    pair = {"id": 1, "question": "Any pair.", "input_output": {"inputs": ["6\n"], "outputs": ["1 5"]}}
    careless = "def check(input, output, answer):\n    return sum(map(int, output.split())) == int(input)\n"
    broken = "def check(input, output, answer):\n    return output.split().sum() == 6\n"
    file = lines(tmp_path / "pairs.jsonl", [pair | {"checker": careless}, pair | {"id": 2, "checker": broken}])
    answers = ["print(2, 4)", "print('two four')", "print(3, 4)"]
    given = [{"task_id": f"apps/{task}", "completion": answer} for task in (1, 2) for answer in answers]
    samples = lines(tmp_path / "answers.jsonl", given)
    asked = [f"samples={samples}", "benchmark=apps", f"benchmark.path={file}", "benchmark.split=all", "progress=false"]
    metrics = evaluate_checkpoint(config(*asked, f"out={tmp_path / 'out'}", root="eval"))
    assert metrics["apps/unjudgeable"] == ["apps/2"] and metrics["apps/not_judged"] == ["apps/1"]
    assert metrics["apps/pass@1"] == pytest.approx(1 / 3) and metrics["apps/verdicts/harness_error"] == 1
    assert "1 problems whose checker or tests failed on a sample" in capsys.readouterr().out
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert results[1]["message"] == "the checker raised ValueError"

    lines(tmp_path / "pairs.jsonl", [pair | {"checker": "any_pair.py"}])
    (tmp_path / "any_pair.py").write_text("def check(input, output):\n    return True\n")
    with pytest.raises(DataFormatError, match=r"any_pair\.py:1: check must take three arguments"):
        evaluate_checkpoint(config(*asked, f"out={tmp_path / 'other'}", root="eval"))


def test_a_wrong_checker_is_said_before_a_model_is_loaded(config, tmp_path, monkeypatch):
    monkeypatch.setattr(SavedModel, "load", lambda model: pytest.fail("the model was loaded first"))
    file = lines(tmp_path / "test.jsonl", [APPS[0] | {"checker": "def verify(a, b, c): return True"}])
    asked = [f"ckpt={ROOT / 'wmtp/assets/tiny-base'}", "benchmark=apps", f"benchmark.path={file}"]
    with pytest.raises(
        DataFormatError, match=r"test\.jsonl:1: checker defines no function check\(input, output, answer"
    ):
        evaluate_checkpoint(config(*asked, f"out={tmp_path / 'out'}", root="eval"))


def test_apps_is_trained_on_and_what_the_benchmark_asks_is_left_out(config, tmp_path, capsys):
    texts = ("Read one line of numbers and print them in the opposite order.", "Print one.", "Print the number two.")
    own = [
        {
            "problem_id": number,
            "question": text,
            "solutions": [f"print({number})\n"],
            "input_output": {"inputs": [f"{number}\n"], "outputs": [f"{number}\n"]},
            "split": split,
        }
        for number, (text, split) in enumerate(zip(texts, ("train", "train", "valid"), strict=True))
    ]
    file = lines(tmp_path / "rows.jsonl", [*own, APPS[1] | {"split": "train"}])
    asked = lines(tmp_path / "test.jsonl", LIVECODEBENCH)
    quick = ("trainer.max_steps=1", "eval.before=false", "eval.after=false", "data.max_length=400")
    data = ("data=apps", f"data.path={file}", "data.token_budget=800")
    train(config(*data, "benchmark=livecodebench", f"benchmark.path={asked}", *quick))
    (listed,) = (tmp_path / "runs").glob("*/left_out.json")
    leaks = json.loads(listed.read_text())["leaks"]
    assert [(leak["task_id"], leak["benchmark_task_id"]) for leak in leaks] == [("apps/8", "livecodebench/2727")]
    assert "apps (MIT): 2 training samples" in capsys.readouterr().out
