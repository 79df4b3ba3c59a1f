"""Hold the benchmarks to what their configs say, and their references to passing."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from tests.real_data import DATA, real_data
from wmtp.data.problem import Problem
from wmtp.data.prompts import BigcodeMbpp0Shot, CodeContestsStatement, HumanEvalRaw, MbppPaper3Shot, Synthetic0Shot
from wmtp.data.sources import CodeContests, HumanEval, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError, DataFormatError
from wmtp.evaluation.benchmarks import Benchmark, choose
from wmtp.evaluation.sandbox import Limits, Sandbox

ROOT = Path(__file__).parents[3]
SUITES = {
    "meta_mtp": ["mbpp", "humaneval", "codecontests"], "mix": ["mbpp", "codecontests"], "corrupted": ["mbpp"],
}  # fmt: skip
SPLITS = {"mbpp_plus": "all", "jsonl": "validation"}  # the first has no splits, of the second the rows kept back
CONFIGS = sorted(path.stem for path in (ROOT / "conf/benchmark").glob("*.yaml"))


def suite(name: str, *overrides: str) -> list[Benchmark]:
    """Compose one benchmark config on its own, as a front door would."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(overrides=[f"+benchmark={name}", *overrides])
    return list(instantiate(cfg.benchmark, _convert_="all")["suite"])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_makes_benchmarks_of_its_official_test_split(name):
    benchmarks = suite(name)
    assert [b.name for b in benchmarks] == SUITES.get(name, [name])
    assert {b.split for b in benchmarks} == {SPLITS.get(name, "test")}


def test_meta_mtp_runs_what_its_metrics_name():
    assert [b.name for b in suite("meta_mtp", "benchmark.metrics=[contest_pass@k,mbpp_exact]")] == [
        "codecontests",
        "mbpp",
    ]
    with pytest.raises(ConfigError, match=r"benchmark\.metrics = \[bleu\] must name at least one of mbpp_exact"):
        choose(["bleu"], {"mbpp_exact": suite("mbpp")[0]})


CONTEST = {
    "name": "sum",
    "description": "Add.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "solutions": {"language": [3], "solution": ["print(sum(map(int, input().split())))"]},
    "split": "test",
}


def contests(folder: Path, *rows: dict) -> Benchmark:
    """Write rows of CodeContests, and read them as a benchmark."""
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Benchmark("codecontests", CodeContests(folder), CodeContestsStatement())


def test_a_problem_without_a_test_is_refused_with_file_and_line(tmp_path):
    untested = CONTEST | {"name": "none", "public_tests": {"input": [], "output": []}}
    with pytest.raises(DataFormatError, match=r"test\.jsonl:2: codecontests/none has no test, so every program"):
        _ = contests(tmp_path, CONTEST, untested).problems


def test_a_program_may_use_what_its_problem_allows(tmp_path):
    generous = {"name": "big", "time_limit": {"seconds": 10}, "memory_limit_bytes": 2 << 30}
    strict = {"name": "small", "time_limit": {"seconds": 1}, "memory_limit_bytes": 64 << 20}
    files = {"name": "files", "input_file": "in.txt", "output_file": "out.txt"}
    benchmark = contests(tmp_path, CONTEST | generous, CONTEST | strict, CONTEST | files)
    big, small, files = [benchmark.program(problem, "x") for problem in benchmark.problems]
    assert (big.limits.cpu_seconds, big.limits.wall_seconds, big.limits.memory_bytes) == (10.0, 75.0, 2 << 30)
    assert small.limits == files.limits == benchmark.limits
    assert (files.input_file, files.output_file) == ("in.txt", "out.txt")


def test_an_entry_point_called_check_is_not_taken_for_the_check_of_the_tests(tmp_path):
    row = {
        "task_id": "HumanEval/check",
        "prompt": "def check(n):\n",
        "canonical_solution": "    return 1 if n == 0 else n * check(n - 1)\n",
        "entry_point": "check",
        "test": "def check(candidate):\n    assert candidate(4) == 24\n",
    }
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(row))
    benchmark = Benchmark("humaneval", HumanEval(tmp_path), HumanEvalRaw())
    (problem,) = benchmark.problems
    wrong = benchmark.program(problem, "    return 1\n")
    with Sandbox(workers=1) as sandbox:
        verdicts = dict(sandbox.judge([benchmark.reference(problem, Limits()), wrong]))
    assert verdicts[0].passed and verdicts[1].status == "wrong"


@real_data
def test_path_and_split_point_a_benchmark_at_other_rows():
    counts = {
        "mbpp": (500, 974),
        "mbpp_sanitized": (257, 427),
        "humaneval": (164, 164),
        "codecontests": (63, 300),
    }
    for name, (test, every) in counts.items():
        path = f"benchmark.path={DATA}/{name.removesuffix('_sanitized')}"
        assert len(suite(name, path)[0].problems) == test
        assert len(suite(name, path, "benchmark.split=all")[0].problems) == every
        assert len(suite(name, path, "benchmark.limit=5")[0].problems) == 5


@real_data
def test_the_paper_prompt_shows_tasks_2_3_and_4():
    benchmark = Benchmark("mbpp", Mbpp(f"{DATA}/mbpp"), MbppPaper3Shot(), limit=1)
    assert [shot.task_id for shot in benchmark.shots] == ["mbpp/2", "mbpp/3", "mbpp/4"]
    text = benchmark.text(benchmark.problems[0])
    assert text.count("[DONE]") == 3 and text.count("You are an expert") == 4 and text.endswith("[BEGIN]\n")


def test_a_source_without_the_shots_is_a_config_error():
    benchmark = Benchmark("synthetic", Synthetic(0, 0, 1), MbppPaper3Shot())
    with pytest.raises(
        ConfigError, match="mbpp_paper_3shot shows mbpp/2, mbpp/3, mbpp/4, which synthetic does not have"
    ):
        benchmark.text(benchmark.problems[0])


def test_limit_must_be_a_number_of_problems():
    with pytest.raises(ConfigError, match=r"benchmark\.limit = 0 must be a whole number, at least 1, or null"):
        Benchmark("synthetic", Synthetic(0, 0, 1), Synthetic0Shot(), limit=0)


def test_identity_changes_with_everything_that_a_result_depends_on():
    class OneProblem:
        def __init__(self, **changes):
            self.problem = Problem(
                **{"task_id": "t/1", "source": "t", "split": "test", "text": "A", "tests": ("1",)} | changes
            )

        def problems(self, split):
            return [self.problem]

    def identity(prompt=Synthetic0Shot, limits=Limits(), **changes):  # noqa: B008
        return str(Benchmark("t", OneProblem(**changes), prompt(), limits=limits).identity())

    variants = [
        identity(),
        identity(text="B"),
        identity(tests=("2",)),
        identity(setup="x"),
        identity(prompt=BigcodeMbpp0Shot),
        identity(limits=Limits(cpu_seconds=9)),
    ]
    assert len(set(variants)) == len(variants)
    assert identity() == identity()
