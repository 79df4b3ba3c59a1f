"""Hold HumanEval+ and MBPP+ to their promises through the front door: where they come from, and what is counted."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.integration.storage_servers import HubServer
from wmtp.eval import evaluate_checkpoint

ROOT = Path(__file__).parents[2]
FINAL_FILES = ("eval.json", "samples.jsonl", "results.jsonl", "metrics.json", "eval_results.json", "verdicts.csv")
CHECK = "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion({}(*inp), exp, 0)\n"
HUMANEVAL = {  # as the Hub's rows are: the base inputs of HumanEval/1 are the first four
    "task_id": "HumanEval/1",
    "prompt": "def double(x):\n    '''Double.'''\n",
    "canonical_solution": "    return 2 * x\n",
    "entry_point": "double",
    "test": "def check(candidate):\n    inputs = [[0], [1], [2], [3], [-5]]\n" + CHECK.format("candidate"),
}
MBPP = {
    "task_id": 11,
    "code": "def double(x):\n    return 2 * x\n",
    "prompt": "Double a number.",
    "test_imports": [],
    "test_list": ["assert double(1) == 2"],
    "test": "inputs = [[1], [-5]]\nresults = [2, -10]\n" + CHECK.format("double")[4:],
}
ROWS = {"humaneval": HUMANEVAL, "mbpp": MBPP}
NAMES = {"humaneval": "HumanEval/1", "mbpp": "Mbpp/11"}
PROGRAMS = (
    "def double(x):\n    return 2 * x\n",
    "def double(x):\n    return abs(2 * x)\n",
)  # right, and at the base only


@pytest.fixture
def samples(tmp_path):
    """Write a right program and one that only the plus inputs find wrong, for each of the two."""
    file = tmp_path / "samples.jsonl"
    rows = [{"task_id": name, "solution": program} for name in NAMES.values() for program in PROGRAMS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def chosen(samples: Path, name: str) -> Path:
    """Keep the samples of one benchmark."""
    of_name = [line for line in samples.read_text().splitlines() if NAMES[name] in line]
    file = samples.with_name(f"{name}.jsonl")
    file.write_text("\n".join(of_name))
    return file


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_a_plus_file_is_judged_by_all_its_tests_under_either_name(config, tmp_path, samples, name):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[name]) + "\n")
    for benchmark in (name, f"{name}_plus"):
        given = [f"benchmark={benchmark}", f"benchmark.path={file}", f"samples={chosen(samples, name)}"]
        metrics = evaluate_checkpoint(config(*given, f"out={tmp_path / benchmark}", "progress=false", root="eval"))
        assert metrics[f"{benchmark}/pass@1"] == 0.5 and metrics[f"{benchmark}_base/pass@1"] == 1.0


def test_plus_files_come_from_the_hub_and_then_from_the_cache(config, tmp_path, samples, monkeypatch):
    at = {"WMTP_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    with HubServer() as hub, monkeypatch.context() as patch:
        for variable, value in (at | {"HF_ENDPOINT": hub.url}).items():
            patch.setenv(variable, value)
        for name, row in ROWS.items():
            written = io.BytesIO()
            parquet.write_table(pyarrow.Table.from_pylist([row]), written)
            part = {"data/test-00000-of-00001-0123456789abcdef.parquet": written.getvalue()}
            hub.add(f"datasets/evalplus/{name}plus", part)
        both = ["benchmark=meta_mtp", "benchmark.metrics=[humaneval_plus_pass@k,mbpp_plus_pass@k]"]
        both += [f"samples={samples}", "progress=false"]
        metrics = evaluate_checkpoint(config(*both, f"out={tmp_path / 'out'}", root="eval"))
        asked = len(hub.requests)
        again = evaluate_checkpoint(config(*both, f"out={tmp_path / 'again'}", "storage=offline", root="eval"))
        assert asked and len(hub.requests) == asked
    for name in ("humaneval_plus", "mbpp_plus"):
        for found in (metrics, again):
            assert (found[f"{name}/pass@1"], found[f"{name}_base/pass@1"]) == (0.5, 1.0)


@pytest.mark.slow
def test_the_jobs_of_a_slurm_array_share_one_folder_and_leave_the_files_of_one(config, tmp_path):
    """Two processes with SLURM's variables; torchrun's are not there, and nobody meets anybody."""
    file, rows = tmp_path / "samples.jsonl", []
    for number in range(12):
        for sample in range(4):
            program = f"import time; time.sleep(0.1)\ndef solve(xs):\n    return {sample % 2}\n"
            rows.append({"task_id": f"synthetic/test/{number}", "sample": sample, "solution": program})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"samples={file}", "benchmark=synthetic", "benchmark.limit=12", "progress=false", "sandbox.workers=1"]
    evaluate_checkpoint(config(*given, f"out={tmp_path / 'one'}", root="eval"))
    jobs = []
    for task in ("0", "1"):
        slurm = {"SLURM_JOB_ID": f"10{task}", "SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": task}
        slurm |= {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
        command = [sys.executable, "-m", "wmtp.eval", *given, f"out={tmp_path / 'two'}"]
        environment = os.environ | slurm | {"OMP_NUM_THREADS": "1"}
        jobs.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    said = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sum("synthetic/pass@1" in text for text in said) >= 1  # whoever is done last sums up
    for name in FINAL_FILES:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert not list((tmp_path / "two").glob("*.*.jsonl"))
