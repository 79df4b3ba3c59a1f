"""Hold evaluation to its promises through the front door."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integration.training import train_here
from tests.real_data import DATA, real_data
from wmtp.cli import explain
from wmtp.errors import CheckpointError, ConfigError
from wmtp.eval import benchmark_of_run, evaluate_checkpoint
from wmtp.train import train

ROOT = Path(__file__).parents[2]
TINY = [f"ckpt={ROOT / 'wmtp/assets/tiny-base'}", "sampling.max_new_tokens=64", "progress=false", "device=cpu"]
FINAL_FILES = ("eval.json", "samples.jsonl", "results.jsonl", "metrics.json", "eval_results.json", "verdicts.csv")


def test_a_model_folder_gives_results_and_a_report_in_out_itself(config, tmp_path, capsys):
    overrides = [*TINY, "benchmark=synthetic", "benchmark.limit=6", "sampling=greedy", f"out={tmp_path / 'out'}"]
    metrics = evaluate_checkpoint(config(*overrides, root="eval"))
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *FINAL_FILES, "timings.jsonl", "speed.json", "report.md", "report.html", ".lock",
    }  # fmt: skip
    assert 0 <= metrics["synthetic/pass@1"] <= 1 and metrics["synthetic/n"] == 1
    said, report = capsys.readouterr().out, (out / "report.html").read_text()
    assert f"{metrics['synthetic/pass@1']:.3f} [" in said and f"isolation: {metrics['synthetic/isolation']}" in said
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for result in results:
        assert result["task_id"] in report
    assert "expected, for example" in report and "assert solve(" in report
    for text in (report, (out / "report.md").read_text()):
        assert "Most frequent failures" in text and "judging" in text and "Every problem" in text


def test_a_model_that_was_never_trained_here_is_evaluated_by_its_name(config, tmp_path):
    named = ["ckpt=model:asset:tiny-base", *TINY[1:], "benchmark=synthetic", "benchmark.limit=2", "sampling=greedy"]
    with pytest.raises(ConfigError, match="out has no value, and results cannot go beside model:asset:tiny-base"):
        evaluate_checkpoint(config(*named, root="eval"))
    metrics = evaluate_checkpoint(config(*named, f"out={tmp_path / 'out'}", root="eval"))
    assert 0 <= metrics["synthetic/pass@1"] <= 1 and (tmp_path / "out" / "metrics.json").is_file()


@real_data
def test_a_samples_file_of_a_suite_is_scored_without_a_model(config, tmp_path, capsys):
    rows = [
        {"task_id": "HumanEval/0", "completion": "    return True\n"},
        {"task_id": "mbpp/11", "completion": "def remove_Occ(s, ch):\n    return s\n"},
        {"task_id": "mbpp/12", "completion": "def sort_matrix(M):\n    return sorted(M, key=sum)\n"},
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = ["benchmark=meta_mtp", f"benchmark.path.mbpp={DATA}/mbpp", f"benchmark.path.humaneval={DATA}/humaneval"]
    suite += ["benchmark.metrics=[mbpp_exact,humaneval_pass@k]", f"samples={file}", "progress=false"]
    metrics = evaluate_checkpoint(config(*suite, f"out={tmp_path / 'out'}", root="eval"))
    assert metrics["mbpp/pass@1"] == 0.5 and len(metrics["mbpp/missing"]) == 498
    assert metrics["humaneval/pass@1"] == 0.0 and metrics["humaneval/samples"] == 1
    # The headline says on how few of the problems it stands, and does not pretend to be sure.
    assert 0.3 < metrics["humaneval/pass@1_high"] - metrics["humaneval/pass@1_low"]
    assert re.search(r"^humaneval/pass@1 .*\]   1 of 164 problems scored$", capsys.readouterr().out, re.M)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mbpp", "humaneval"}

    file.write_text(json.dumps({"task_id": "mbpp/99999", "completion": ""}) + "\n")
    with pytest.raises(Exception, match=r"samples.jsonl:1: task_id = mbpp/99999 is not in mbpp, humaneval"):
        evaluate_checkpoint(config(*suite, root="eval"))


def test_chat_answers_are_named_for_what_they_are_and_taken_apart_when_asked(config, tmp_path, capsys):
    right = "def solve(xs):\n    xs = [x * x for x in xs]\n    return len(set(xs))\n"  # six_samples.jsonl
    answers = [f"Sure!\n```python\n{right}```\nEasy.", f"<think>x</think>{right}", right, "I cannot."]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([{"task_id": "Synthetic/test/0", "solution": answer} for answer in answers]))
    passed = {}
    for how in ("none", "fence", "auto"):
        common = [f"samples={file}", "benchmark=synthetic", f"extract={how}", "progress=false", "ks=[1,2]"]
        metrics = evaluate_checkpoint(config(*common, f"out={tmp_path / how}", root="eval"))
        passed[how], said = metrics["synthetic/verdicts/passed"], capsys.readouterr().out
        assert "samples: EvalPlus' solutions, 4 answers" in said
        assert ("1 of 4 answers hold a Markdown fence: extract=auto" in said) == (how == "none")
        kept = [json.loads(line)["completion"] for line in (tmp_path / how / "samples.jsonl").read_text().splitlines()]
        assert kept == answers
    assert passed == {"none": 1, "fence": 3, "auto": 3}
    found = evaluate_checkpoint(config(f"diff='{tmp_path / 'none'},{tmp_path / 'auto'}'", root="eval"))
    assert found["better"] == {"synthetic/test/0": ("1/4", "3/4")} and not found["worse"]
    assert "extract                  none → auto" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"holds another evaluation \(extract = auto, now none\)"):
        common = [f"samples={file}", "benchmark=synthetic", "progress=false", f"out={tmp_path / 'auto'}"]
        evaluate_checkpoint(config(*common, root="eval"))


@pytest.mark.long
def test_an_mlflow_run_id_names_its_model_and_gets_the_results(config, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(config("trainer.max_steps=1", "eval.before=false", "eval.after=false", "logger=default"))
    (run,) = (path.parent for path in (tmp_path / "runs").glob("*/mlflow.json"))
    state = json.loads((run / "mlflow.json").read_text())
    common = [f"runs={tmp_path / 'runs'}", "benchmark=synthetic", "benchmark.limit=3", *TINY[1:]]
    metrics = evaluate_checkpoint(config(f"ckpt=mlflow:{state['run_id']}", *common, root="eval"))
    (folder,) = (run / "eval").iterdir()
    client = MlflowClient(state["tracking_uri"])
    logged = client.get_run(state["run_id"]).data.metrics
    assert logged[f"eval/{folder.name}/synthetic/pass_at_1"] == metrics["synthetic/pass@1"]
    assert not any(key.endswith(("/n", "/seed", "/problems")) for key in logged)  # what is set is no curve
    assert client.get_run(state["run_id"]).data.tags[f"eval/{folder.name}/synthetic/scored"] == "3 of 3"
    artifacts = {Path(item.path).name for item in client.list_artifacts(state["run_id"], f"eval/{folder.name}")}
    assert {"report.html", "metrics.json", "results.jsonl"} <= artifacts

    with pytest.raises(Exception) as unknown:
        evaluate_checkpoint(config("ckpt=mlflow:0123", *common, root="eval"))
    assert re.match(r"CheckpointError: ckpt = 0123 cannot be looked up in MLflow", explain(unknown.value))
    with pytest.raises(Exception) as nowhere:
        evaluate_checkpoint(config("ckpt=mlflow:0123", *common, f"runs={tmp_path}", root="eval"))
    assert "no MLflow store at sqlite://" in explain(nowhere.value)


@pytest.mark.slow
def test_torchrun_leaves_the_files_of_one_process(config, tmp_path):
    overrides = [*TINY, "benchmark=synthetic", "benchmark.limit=10", "sampling=t08", "sampling.n=3"]
    evaluate_checkpoint(config(*overrides, f"out={tmp_path / 'one'}", root="eval"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "wmtp.eval"]
    command = [*launch, *overrides, f"out={tmp_path / 'two'}"]
    subprocess.run(command, check=True, cwd=ROOT, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    for name in FINAL_FILES:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train one step, for tests that only read what a run leaves."""
    runs = tmp_path_factory.mktemp("runs")
    train_here("trainer.max_steps=1", "data.train_size=60", "logger=csv", "eval.before=false", "eval.after=false",
               "eval.limit=2", f"runs={runs}", "name=run")  # fmt: skip
    return runs / "run" / "checkpoints" / "last.ckpt"


HOSTILE = {"_target_": "builtins.exec", "_args_": ["open(MARK, 'w')"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.update(suite=[HOSTILE]), "not as conf/benchmark/synthetic.yaml has it"),
        (lambda found: found["suite"][0].update(source=HOSTILE), "not as conf/benchmark/synthetic.yaml has it"),
        (lambda found: found.update(split=HOSTILE), "holds more than plain values"),
        (lambda found: found.update(limit=[{"_target_": "builtins.exec"}]), "holds more than plain values"),
        (lambda found: found.update(split="${oc.env:HOME}"), "holds more than plain values"),
        (lambda found: found.update(name="../train"), "its benchmark is '../train', which is none of"),
        (lambda found: found.update(name=HOSTILE), "which is none of"),
        (lambda found: found.pop("name"), "its benchmark is None, which is none of"),
        (lambda found: found["suite"][0].update(name="../../elsewhere"), "not as conf/benchmark/synthetic.yaml"),
    ],
)
def test_nothing_in_a_checkpoint_chooses_code_to_run(config, tmp_path, trained, change, said):
    checkpoint, mark = torch.load(trained, weights_only=True), tmp_path / "mark"
    recorded = checkpoint["wmtp"]["config"]["benchmark"]
    HOSTILE["_args_"] = [f"open({str(mark)!r}, 'w')"]
    change(recorded)
    torch.save(checkpoint, tmp_path / "strange.ckpt")
    overrides = [f"ckpt={tmp_path / 'strange.ckpt'}", *TINY[1:], f"out={tmp_path / 'out'}"]
    with pytest.raises(CheckpointError, match=re.escape(said)) as refused:
        evaluate_checkpoint(config(*overrides, root="eval"))
    assert "benchmark=" in str(refused.value)
    assert not mark.exists() and not (tmp_path / "out").exists()


def test_the_benchmark_of_a_run_is_composed_with_the_values_that_the_run_gave(trained):
    recorded = torch.load(trained, weights_only=True)["wmtp"]["config"]["benchmark"]
    composed = benchmark_of_run(recorded)
    assert composed.limit == composed.suite[0].limit == 2
