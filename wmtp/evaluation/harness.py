"""Generate, judge and count: one call from a checkpoint (or a samples file) to pass@k.

[연구 맥락] 이 프로젝트는 평가가 모든 것을 정한다. 그래서 아무것도 잃지 않고, 같은 것은 언제나 같은 숫자가 되어야 한다.
[동작] 표본은 samples.jsonl에, 채점은 results.jsonl에, 나오는 대로 한 줄씩 쓴다. 꺼졌다가 같은 명령으로 다시 시작하면
    있는 것은 다시 하지 않는다. 끝나면 정해진 순서로 다시 써서, 한 번에 끝낸 것과 바이트까지 같다.

    out/eval.json       무엇을 평가하는지 (다르면 이어 하지 않는다)
        samples.jsonl   task_id, sample, completion, 프롬프트를 앞에 붙이지 않을 프로그램이면 whole: true
        results.jsonl   task_id, sample, status, message, cpu_limit, completion (채점한 글의 해시)
                        프로그램의 프로세스 안에서 시험했다면 tests: inside, 답에서 꺼냈다면 program (extraction.py),
                        HumanEval+와 MBPP+면 base: passed 등
        metrics.json    <benchmark>/pass@1 …
        eval_results.json, verdicts.csv   같은 판정을 남의 모양으로 (for_others.py)
        timings.jsonl   task_id, sample, seconds, generation_seconds, tokens, blocks, accepted
        speed.json      <benchmark>/acceptance/head1 …

    앞의 여섯 파일은 언제나 같고, 뒤의 두 파일은 잴 때마다 다르다. 초안을 쓸지는 시간을 재어 정하므로 (generation.py)
    헤드별 수락률도 뒤의 것이다. 여러 프로세스가 나누어 만들면 (ranks.py) 각자 samples.rank<번호>.jsonl에 쓰고,
    0번이 모은다. 표본 파일은 여러 프로세스가 나누어 채점하고 (shares.py), 각자 results.<이름>.jsonl에 쓰고, 마지막에
    끝난 프로세스가 모은다.
    한 문제의 같은 프로그램은 한 번만 채점하고 판정을 나눈다. 글이 같으므로 어느 것을 채점하든 같다.
    판정은 이름이 아니라 채점한 글에 딸린다: samples.jsonl을 손으로 고치면 고친 줄만 다시 채점한다.
[디버깅] 정답과 시험의 글은 어느 파일에도 쓰지 않는다. 프로그램이 왜 틀렸는지는 results.jsonl의 message를 본다.
"""

import hashlib
import json
import queue
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from wmtp.errors import ConfigError, HarnessError
from wmtp.evaluation.answers import Answers, answers_of
from wmtp.evaluation.benchmarks import Benchmark, program_of
from wmtp.evaluation.extraction import THOUGHT, holds_fence
from wmtp.evaluation.for_others import evalplus_results, verdict_table
from wmtp.evaluation.generators import Generator
from wmtp.evaluation.journal import Journal, Key
from wmtp.evaluation.metrics import PassAtK, require_samples
from wmtp.evaluation.ranks import Ranks
from wmtp.evaluation.same import check_same_evaluation, fingerprint_of
from wmtp.evaluation.samples import generate_samples, problems_too_long, read_samples, sample_row
from wmtp.evaluation.sandbox import (
    STATUSES,
    UNJUDGEABLE,
    Limits,
    Program,
    Sandbox,
    Verdict,
    limits_from_references,
    places_by_references,
)
from wmtp.evaluation.shares import Shares
from wmtp.models.sampling import Completion, Sampling, acceptance
from wmtp.progress import progress_bar
from wmtp.storage.files import write_atomically, written_atomically

ALONE = Ranks()
Verdicts = dict[Key, tuple[str, str | None]]  # by sample: its status, and that of the base inputs where there are some
DRAWN = ("temperature", "top_p", "seed", "max_new_tokens", "stop")  # of a Sampling
# What stands in metrics.json to say how the numbers came about and on what: it is set, not measured.
CHAT = ("chat_template", "instruction", "system")  # of a prompt mode that asks in a conversation
SETTINGS = ("problems", "scored", "samples", "prompt", *CHAT, "split", "shots", "n", *DRAWN, "extract", "isolation")


def evaluate(
    benchmark: Benchmark,
    out: Path,
    *,
    sandbox: Sandbox,
    generator: Generator | None = None,
    sampling: Sampling | None = None,
    checkpoint: str = "",
    samples: Path | None = None,
    suite: Sequence[Benchmark] = (),
    extract: str = "none",
    ks: Sequence[int] = (1,),
    progress: bool = True,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Evaluate a model, or samples made elsewhere, on one benchmark.

    Args:
        out: 결과 폴더. 같은 평가가 들어 있으면 이어서 한다.
        sandbox: 프로그램을 돌릴 곳 (열린 것).
        generator: 표본을 쓸 것: 모델이나 서버 (generators.py). `samples`가 있으면 쓰지 않는다.
        sampling: 표본을 어떻게 뽑는지. samples 파일이면 기록만 한다 (모르면 None).
        checkpoint: 모델의 내용에서 나온 이름 (`wmtp.cache.fingerprint`). 이어 할 수 있는지를 이것으로 판단한다.
        samples: 다른 프로그램이 만든 표본 (sample_files.py의 모양 중 하나). 정지 문자열로 자르지 않고 그대로 채점한다.
        suite: samples 파일을 함께 쓰는 벤치마크들. 서로의 표본은 건너뛴다.
        extract: 답에서 프로그램을 어떻게 꺼내는지 (extraction.py). samples.jsonl에는 꺼내기 전의 답이 남는다.
        overwrite: out에 다른 평가가 있으면 지우고 새로 시작할지.
        ranks: 표본을 나누어 만들 프로세스들. 여기는 0번이고, 나머지는 `assist`를 부른다.

    Returns:
        metrics.json과 speed.json에 쓴 것. `<benchmark>/pass@1`, `…/pass@1_low`, `…/problems`, `…/missing` 등.
        표본 파일을 나누어 채점하는 다른 프로세스가 아직 일하고 있으면 비어 있다: 마지막에 끝난 프로세스가 쓴다.

    Raises:
        ConfigError: out에 다른 평가가 있을 때, k보다 표본이 적을 때.
        DataFormatError: samples 파일의 줄이 잘못됐거나 모르는 task_id가 있을 때.
        HarnessError: 채점 자체가 거듭 실패할 때, 채점할 수 있는 문제가 하나도 없을 때. 그때까지의 결과는 남아 있다.
    """
    if (generator is None) == (samples is None) or (samples is None and sampling is None):
        raise ConfigError("an evaluation needs either a model or a samples file. Give ckpt=… or samples=FILE.")
    if samples is not None and Path(samples).resolve() == (out / "samples.jsonl").resolve():
        raise ConfigError(f"samples = {samples} lies where its own results would go. Choose another out=DIR.")
    given = {} if samples is None else read_samples(samples, benchmark, suite)
    n = 0 if sampling is None else sampling.n
    keys = list(given) or [(problem.task_id, i) for problem in benchmark.problems for i in range(n)]
    for k in ks:
        require_samples(list(Counter(task_id for task_id, _ in keys).values()), k)
    fingerprint = fingerprint_of(benchmark, sandbox, sampling, checkpoint, given, extract)
    with ExitStack() as stack:
        shares = stack.enter_context(Shares(out / ".lock"))
        with shares.in_turn():
            alone = shares.take_all()
            if samples is None and not alone:
                raise ConfigError(
                    f"out = {out}: another evaluation is writing there. Let it end, or choose another out."
                )
            check_same_evaluation(out, fingerprint, overwrite, alone)
            if samples is not None:
                shares.let_go()
            unanswerable = {} if generator is None else problems_too_long(benchmark, generator)
            evaluation = _Evaluation(benchmark, out, sandbox, keys, unanswerable, extract, progress, shares)
            stack.enter_context(evaluation)
            for row in evaluation.written_by_others():  # before a kill
                evaluation.keep(row)
            missing = [key for key in keys if key not in evaluation.samples.rows]
            if samples is not None:
                for key in missing:
                    evaluation.keep(sample_row(key, *given[key]))
                given.clear()  # from here on the texts are on the disk
        evaluation.find_places()
        if generator is not None and sampling is not None:
            share = ranks.share([key for key in missing if key[0] not in unanswerable])
            evaluation.judge_as_they_come(
                chain(
                    (sample_row(key, "") for key in missing if key[0] in unanswerable),
                    generate_samples(benchmark, share, generator, sampling),
                    evaluation.written_by_others(ranks),
                ),
                generator.abandon,
            )
        else:
            evaluation.judge_share()
        with shares.in_turn():
            if not shares.take_all():
                return {}  # whoever still judges ends after this process, and does the rest
            evaluation.finish()
            verdicts = evaluation.verdicts()
            metrics, speed = evaluation.metrics(verdicts, sampling, ks), evaluation.speed()
            evaluation.write_for_others(verdicts, metrics)
            for name, values in (("speed.json", speed), ("metrics.json", metrics)):
                write_atomically(out / name, json.dumps(values, indent=2).encode() + b"\n")
    return metrics | speed


def assist(benchmark: Benchmark, out: Path, generator: Generator, sampling: Sampling, ranks: Ranks) -> None:
    """Generate this rank's share of the samples, for the first rank to judge.

    [동작] 0번의 `evaluate`와 짝이다. 자기 파일에 한 줄씩 쓰므로 꺼져도 만든 것은 남는다.
    """
    share = ranks.share([])
    journal = Journal(out / f"samples.rank{ranks.rank}.jsonl")
    for row in generate_samples(benchmark, share, generator, sampling):
        journal.append(row)
    journal.close()
    ranks.wait()


class _Evaluation:
    """Keep one evaluation's files and carry it through."""

    def __init__(
        self,
        benchmark: Benchmark,
        out: Path,
        sandbox: Sandbox,
        keys: list[Key],
        unanswerable: dict[str, str],
        extract: str,
        progress: bool,
        shares: Shares,
    ):
        self.benchmark, self.out, self.sandbox, self.keys = benchmark, out, sandbox, keys
        self.unanswerable, self.extract, self.shares = unanswerable, extract, shares
        self.problems = {problem.task_id: problem for problem in benchmark.problems}
        self.keys_of = {task_id: list(group) for task_id, group in groupby(keys, key=itemgetter(0))}
        self.places: dict[str, str] = {}
        self.answers: dict[str, Answers] = {}
        self.judged: dict[tuple[str, bytes], Key] = {}  # by problem and program: a sample whose verdict is known
        self.looked_at: set[str] = set()  # problems whose earlier verdicts are in `judged`
        part = "" if shares.take_first_place() else secrets.token_hex(4)
        self.passed = 0
        self.samples = Journal(out / "samples.jsonl", completion=str)
        columns: dict[str, Any] = {"status": str, "message": str, "cpu_limit": (int, float)}
        self.results = Journal(out / "results.jsonl", part, self.is_verdict, **columns)
        self.timings = Journal(out / "timings.jsonl", part)
        self.bar = progress_bar(benchmark.name, len(keys), len(self.results.rows), shown=progress)

    def __enter__(self) -> "_Evaluation":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        for journal in (self.samples, self.results, self.timings):
            journal.close()

    def is_verdict(self, key: Key, row: dict[str, Any]) -> bool:
        """Tell a verdict from one of another version, or on a text that has been changed since."""
        sample = self.samples.rows.get(key)
        ours = row["status"] in STATUSES and ("program" in row) == (self.extract != "none")
        found = bool(ours and sample and row.get("completion") == _hash(sample["completion"]))
        self.passed += found and row["status"] == "passed"
        return found

    def find_places(self) -> None:
        """Ask the reference solutions where the tests of each problem run, and which cannot be judged at all."""
        self.answers = answers_of(self.sandbox, self.benchmark.problems, self.benchmark.limits)
        places = {one.task_id: "outside" for one in self.problems.values() if one.inputs}
        places |= {task_id: UNJUDGEABLE for task_id in places.keys() - self.answers.keys()}
        tested = [problem for problem in self.problems.values() if not problem.inputs]
        found = places_by_references(
            self.sandbox, [self.benchmark.reference(problem, self.benchmark.limits) for problem in tested]
        )
        places |= {problem.task_id: place for problem, place in zip(tested, found, strict=True)}
        self.places = {task_id: places[task_id] for task_id in self.problems}
        if set(self.places.values()) == {UNJUDGEABLE}:
            raise HarnessError(
                f"{self.benchmark.name}: no problem can be judged: every reference solution fails its own tests. "
                "Correct the tests, or install the packages that they import."
            )

    def judge_as_they_come(self, fresh: Iterable[dict[str, Any]], abandon: Callable[[], None]) -> None:
        """Judge the samples that wait and those that come.

        Args:
            abandon: `fresh`를 만드는 일을 그만두게 하는 것. 채점이 실패하거나 Ctrl-C이면 부른다.
        """
        waiting = [key for key in self.keys if key in self.samples.rows and key not in self.results.rows]
        with _ahead((self.keep(row) for row in fresh), abandon) as coming:
            self.judge((key, self.benchmark.limits) for key in chain(waiting, coming))

    def judge_share(self) -> None:
        """Judge the problems that no other process has, among them those of a process that ends before its time."""
        mine: list[Key] = []
        while taken := list(self.judge_problems_nobody_has()):
            mine += taken
        self.judge(self.longer_limits(mine))
        for journal in (self.results, self.timings):
            journal.sync()
        self.shares.let_go()

    def judge_problems_nobody_has(self) -> Iterator[Key]:
        """Take one problem after the other, judge what is missing of it, and yield the samples of those taken."""
        taken: list[Key] = []

        def work() -> Iterator[tuple[Key, Limits]]:
            for number, keys in enumerate(self.keys_of.values()):
                if all(key in self.results.rows for key in keys) or not self.shares.take(number):
                    continue
                self.results.refresh()  # it may have been judged by a process that has ended since
                missing = [key for key in keys if key not in self.results.rows]
                taken.extend(missing)
                yield from ((key, self.benchmark.limits) for key in missing)

        self.judge(work())
        yield from taken

    def finish(self) -> None:
        """Judge what nobody has judged, then put the files in order."""
        for journal in (self.results, self.timings):
            journal.refresh()
        self.judge((key, self.benchmark.limits) for key in self.keys if key not in self.results.rows)
        self.judge(self.longer_limits(self.keys))
        for journal in (self.samples, self.results, self.timings):
            journal.finish(self.keys)

    def keep(self, row: dict[str, Any]) -> Key:
        """Write down a new sample before it is judged, and apart from it how it was made."""
        made = dict(row)
        columns = [name for name in ("task_id", "sample", "completion", "whole") if name in made]
        sample: dict[str, Any] = {name: made.pop(name) for name in columns}
        key = sample["task_id"], sample["sample"]
        if made:
            self.timings.append({"task_id": key[0], "sample": key[1], **made})
        # The sample last: it alone says that nothing is left to generate.
        self.samples.append(sample)
        return key

    def written_by_others(self, ranks: Ranks = ALONE) -> Iterator[dict[str, Any]]:
        """Wait for the other ranks and take over their samples; a file goes when its last row has been kept."""
        ranks.wait()
        for path in sorted(self.out.glob("samples.rank*.jsonl")):
            journal = Journal(path)
            yield from journal.rows.values()
            journal.close()
            path.unlink()

    def judge(self, work: Iterable[tuple[Key, Limits]]) -> None:
        """Judge every program once, and write down the verdict of every sample as soon as it is known."""
        asked: list[tuple[str, bytes]] = []
        waiting: dict[tuple[str, bytes], tuple[Limits, str, list[Key]]] = {}

        def programs() -> Iterator[Program]:
            for key, limits in work:
                problem, place = self.problems[key[0]], self.places[key[0]].replace(UNJUDGEABLE, "outside")
                self.look_at_earlier_verdicts(key[0])
                source = self.source(key)
                name = key[0], _digest(source)
                if name in waiting:
                    waiting[name][2].append(key)
                elif (earlier := self.verdict_on(name)) and (
                    earlier["status"] != "timeout" or earlier["cpu_limit"] >= limits.cpu_seconds
                ):
                    self.copy(key, earlier)
                else:
                    program = program_of(problem, source, limits, place, self.answers.get(key[0]))
                    waiting[name] = program.limits, source, [key]
                    asked.append(name)
                    yield program

        for index, verdict in self.sandbox.judge(programs()):
            limits, source, (first, *copies) = waiting.pop(asked[index])
            self.record(first, limits, verdict, source)
            self.judged[asked[index]] = first
            for key in copies:
                self.copy(key, self.results.rows[first])

    def look_at_earlier_verdicts(self, task_id: str) -> None:
        """Remember once which programs of a problem were judged before this process began."""
        if task_id not in self.looked_at:
            self.looked_at.add(task_id)
            for key in self.keys_of[task_id]:
                if key in self.results.rows:
                    self.judged[task_id, _digest(self.source(key))] = key

    def verdict_on(self, name: tuple[str, bytes]) -> dict[str, Any] | None:
        """Return the result of a sample with the same program."""
        return self.results.rows[self.judged[name]] if name in self.judged else None

    def source(self, key: Key) -> str:
        """Return the program of a sample; what had to be found in an answer stands in its result."""
        if self.extract != "none" and key in self.results.rows:
            return self.results.rows[key]["program"]
        row, problem = self.samples.rows[key], self.problems[key[0]]
        return self.benchmark.source_of(problem, row["completion"], whole=row.get("whole", False), how=self.extract)

    def record(self, key: Key, limits: Limits, verdict: Verdict, source: str) -> None:
        """Write down one verdict and move the bar."""
        # Addresses in error texts change from run to run.
        message = re.sub(r"\b0x[0-9a-f]{6,}", "0x…", " ".join(verdict.message.split()))
        message = message if verdict.passed else self.unanswerable.get(key[0], message)
        result = {"status": verdict.status, "message": message, "cpu_limit": limits.cpu_seconds}
        result |= {} if self.extract == "none" else {"program": source}
        if base := self.problems[key[0]].base_inputs:
            result["base"] = "passed" if verdict.right >= base else verdict.status
        self.write(key, result if verdict.place == "outside" else result | {"tests": verdict.place}, verdict.seconds)

    def copy(self, key: Key, earlier: dict[str, Any]) -> None:
        """Write down for a sample what came out for another with the same program."""
        of_program = {name: value for name, value in earlier.items() if name not in ("task_id", "sample")}
        self.write(key, of_program, 0.0)

    def write(self, key: Key, result: dict[str, Any], seconds: float) -> None:
        """Write down a result, last of all: it alone says that the sample is done."""
        name = {"task_id": key[0], "sample": key[1]}
        self.timings.append(self.timings.rows.get(key, name) | {"seconds": round(seconds, 4)})
        # A sample judged again had not passed before.
        self.passed += result["status"] == "passed"
        self.results.append(name | result | {"completion": _hash(self.samples.rows[key]["completion"])})
        self.bar.set_postfix_str(f"pass@1 {self.passed / len(self.results.rows):.3f}", refresh=False)
        self.bar.update(len(self.results.rows) - self.bar.n)

    def longer_limits(self, keys: list[Key]) -> Iterator[tuple[Key, Limits]]:
        """Find the timeouts to judge again: those of problems whose own reference solution is slow."""
        base = self.benchmark.limits
        timeouts = [key for key in keys if self.results.rows[key]["status"] == "timeout"]
        slow = [self.problems[task_id] for task_id in dict.fromkeys(task_id for task_id, _ in timeouts)]
        slow = [one for one in slow if one.solutions and self.places[one.task_id] != UNJUDGEABLE]
        slow = [one for one in slow if not one.inputs]  # of those it has been measured when their answers were made
        references = [self.benchmark.reference(problem, base, self.places[problem.task_id]) for problem in slow]
        found = limits_from_references(self.sandbox, references)
        longer = {problem.task_id: limits for problem, limits in zip(slow, found, strict=True)}
        for key in timeouts:
            limits = longer.get(key[0], base)
            if self.results.rows[key]["cpu_limit"] < limits.cpu_seconds:
                yield key, limits

    def metrics(self, found: Verdicts, sampling: Sampling | None, ks: Sequence[int]) -> dict[str, Any]:
        """Sum the verdicts up, with everything that the numbers depend on beside them."""
        judgeable = [task_id for task_id, place in self.places.items() if place != UNJUDGEABLE]
        number = {task_id: i for i, task_id in enumerate(judgeable)}
        if not found:
            raise HarnessError(
                f"{self.benchmark.name}: all samples are of problems whose own reference solutions fail their tests "
                f"({', '.join(dict.fromkeys(task_id for task_id, _ in self.keys))}). Correct those tests."
            )
        metric = PassAtK(len(number), ks, sync_on_compute=False)  # one process has them all
        metric.update(
            torch.tensor([number[task_id] for task_id, _ in found]),
            torch.tensor([status == "passed" for status, _ in found.values()]),
        )
        base = self.base_metrics(found, number, ks)
        counts = Counter(task_id for task_id, _ in found)
        verdicts = Counter(status for status, _ in found.values())
        values = {
            **{name: value.item() for name, value in metric.compute().items()},
            "problems": len(number),
            "scored": f"{len(counts)} of {len(self.places)}",
            "samples": len(found),
            "distinct": sum(len({self.source(key) for key in self.keys_of[task_id]}) for task_id in counts),
            "missing": [task_id for task_id in number if task_id not in counts],
            "too_long": list(self.unanswerable),
            "unjudgeable": [task_id for task_id in self.places if task_id not in number],
            "not_judged": list(dict.fromkeys(key[0] for key, (one, _) in found.items() if one == "harness_error")),
            "inside": [task_id for task_id, place in self.places.items() if place in ("inside", "trusting")],
            **{f"verdicts/{status}": verdicts[status] for status in STATUSES},
            "prompt": self.benchmark.prompt.name,
            **self.benchmark.prompt.conversation,
            "split": self.benchmark.split,
            "shots": len(self.benchmark.prompt.shot_task_ids),
            "n": counts.most_common(1)[0][1],
            **{name: getattr(sampling, name, None) for name in DRAWN},
            "extract": self.extract,
            "fenced": sum(holds_fence(self.samples.rows[key]["completion"]) for key in found),
            "thought": sum(THOUGHT in self.samples.rows[key]["completion"] for key in found),
            "isolation": self.sandbox.isolation,
            "packages": self.sandbox.packages,
        }
        return self.named(values) | base

    def base_metrics(self, found: Verdicts, number: dict[str, int], ks: Sequence[int]) -> dict[str, Any]:
        """Count what passed the base inputs, where each problem has some beside the others: `…_base/pass@1`."""
        base = [one for _, one in found.values()]
        if None in base:
            return {}
        metric = PassAtK(len(number), ks, sync_on_compute=False)
        metric.update(
            torch.tensor([number[task_id] for task_id, _ in found]), torch.tensor([one == "passed" for one in base])
        )
        return {f"{self.benchmark.name}_base/{name}": value.item() for name, value in metric.compute().items()}

    def verdicts(self) -> Verdicts:
        """List the verdicts on all samples of judgeable problems, in order: their rows are read once for all sums."""
        keys = (key for key in self.keys if self.places[key[0]] != UNJUDGEABLE)
        rows = ((key, self.results.rows[key]) for key in keys)
        few: dict[Any, Any] = {}  # of the pairs, so that many samples share one
        return {key: few.setdefault(pair := (row["status"], row.get("base")), pair) for key, row in rows}

    def write_for_others(self, found: Verdicts, metrics: dict[str, Any]) -> None:
        """Write the verdicts on the judgeable problems in the shapes that other programs read."""
        programs = ((key, self.source(key), status, base) for key, (status, base) in found.items())
        rates = {name: value for name, value in metrics.items() if re.search(r"/pass@\d+$", name)}
        results = evalplus_results(programs, rates, self.benchmark.identity()["problems"])
        with written_atomically(self.out / "eval_results.json") as temporary, temporary.open("wb") as file:
            file.writelines(results)
        write_atomically(self.out / "verdicts.csv", verdict_table({key: status for key, (status, _) in found.items()}))

    def speed(self) -> dict[str, Any]:
        """Sum up what it took: measured, so never twice the same."""
        values: dict[str, Any] = {"judging_seconds": sum(self.timings.rows[key]["seconds"] for key in self.keys)}
        made = [row for row in map(self.timings.rows.__getitem__, self.keys) if row.get("tokens")]
        if made:
            values["tokens"] = sum(row["tokens"] for row in made)
            values["generation_seconds"] = sum(row["generation_seconds"] for row in made)
            drafted = [
                Completion(row["task_id"], row["sample"], "", (), "eos", 0, row["blocks"], tuple(row["accepted"]))
                for row in made
            ]
            values |= {f"acceptance/head{k}": rate for k, rate in enumerate(acceptance(drafted), start=1)}
        return self.named(values)

    def named(self, values: dict[str, Any]) -> dict[str, Any]:
        """Put the benchmark's name before each value's."""
        return {f"{self.benchmark.name}/{name}": value for name, value in values.items()}


def _digest(source: str) -> bytes:
    return hashlib.sha256(source.encode(errors="surrogatepass")).digest()[:16]


def _hash(completion: str) -> str:
    return _digest(completion).hex()[:16]


@contextmanager
def _ahead(items: Iterable[Key], abandon: Callable[[], None]) -> Iterator[Iterator[Key]]:
    """Let generation run ahead in a thread of its own: neither it nor the judging waits for the other."""
    done: queue.Queue[Key | None] = queue.Queue()
    stop = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                done.put(item)
                if stop.is_set():
                    return
        finally:
            done.put(None)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="generation") as pool:
        producing = pool.submit(copy_context().run, produce)  # it looks in the same storage (wmtp.storage.current)
        try:
            yield iter(done.get, None)
        except BaseException:
            abandon()
            raise
        finally:
            stop.set()  # after an error or Ctrl-C: the sample at hand is the last
        producing.result()
