"""Come by the samples of a benchmark: read them from a file, or generate them with a model.

[동작] 어느 쪽이든 (task_id, sample) → completion이다. 무엇을 만들고 무엇을 이미 가졌는지는 harness.py가 안다.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wmtp.errors import DataFormatError
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.generators import Generator
from wmtp.evaluation.journal import Key
from wmtp.evaluation.sample_files import Answer, read_answers
from wmtp.models.sampling import Request, Sampling


class Given(NamedTuple):
    """Hold the text of one sample, and whether it is a whole program rather than what follows the prompt."""

    text: str
    whole: bool = False


def read_samples(path: Path, benchmark: Benchmark, suite: Sequence[Benchmark] = ()) -> dict[Key, Given]:
    """Read samples in any shape that sample_files.py knows, whoever made them, in the benchmark's order.

    [동작] task_id는 문제의 이름("mbpp/11") 또는, 벤치마크가 하나라면, 그 뒷부분(11)이다.
    대소문자와 `/`, `_`는 가리지 않는다. 여러 벤치마크가 함께 쓰는 파일에서는 자기 문제의 줄만 가져온다.
    번호가 없으면 나온 순서대로 센다. `benchmark.limit` 밖의 문제는 건너뛴다.

    Raises:
        DataFormatError: 잘못된 줄, 모르는 task_id, 두 번 나온 표본. 파일과 줄을 알려 준다.
    """
    _, answers = read_answers(Path(path))
    problems = [problem.task_id for problem in benchmark.all_problems]
    others = {problem.task_id for other in suite for problem in other.all_problems} - set(problems)
    named = _names(problems, short=not others)  # the part after the slash would not tell HumanEval/11 from mbpp/11
    named_elsewhere = _names(others)
    count: Counter[str] = Counter()
    found: dict[Key, Answer] = {}
    for answer in answers:
        written = answer.task_id
        if written in others:
            continue
        if written is None:
            if others:
                only = "the order says nothing in several benchmarks; take one"
                raise answer.row.error("task_id", f"is missing, and {only}")
            if not 0 <= answer.place < len(problems):
                only = f"{benchmark.name}, split {benchmark.split} has {len(problems)} problems only"
                raise answer.row.error("task_id", f"is missing, and {only}")
            task_id = problems[answer.place]
        elif known := named.get(written) or named.get(_plain(written)):
            task_id = known
        elif _plain(written) in named_elsewhere:
            continue
        else:
            where = ", ".join(dict.fromkeys(b.name for b in (suite or [benchmark])))
            hint = f"; an id is written like {problems[0]}"
            if benchmark.split != "all":
                hint = " (benchmark.split=all takes every row)"
            raise answer.row.error("task_id", f"= {written} is not in {where}, split {benchmark.split}{hint}")
        key = (task_id, count[task_id] if answer.sample is None else answer.sample)
        if key in found:
            first = found[key].row.where
            raise answer.row.error("sample", f"{key[1]} of {task_id} is there a second time, first at {first}")
        count[task_id] += 1
        found[key] = answer
    if not found and not others:
        raise DataFormatError(f'{path}: holds no sample. Each line is {{"task_id", "sample", "completion"}}.')
    place = {problem.task_id: i for i, problem in enumerate(benchmark.problems)}
    wanted = sorted((key for key in found if key[0] in place), key=lambda key: (place[key[0]], key[1]))
    return {key: Given(found[key].text, found[key].whole) for key in wanted}


def _names(task_ids: Collection[str], short: bool = False) -> dict[str, str]:
    """List what each problem may be called; what could be two of them is the name of neither."""
    names: dict[str, str] = {}
    for task_id in task_ids:
        for name in {_plain(task_id), *([_plain(task_id.split("/", 1)[-1])] if short else [])}:
            names[name] = "" if name in names else task_id
    return names | {task_id: task_id for task_id in task_ids}


def _plain(name: str) -> str:
    """Write a name as folders and other programs might: HumanEval/0, humaneval/0, HumanEval_0."""
    return name.casefold().replace("/", "_")


def generate_samples(
    benchmark: Benchmark, keys: list[Key], generator: Generator, sampling: Sampling
) -> Iterator[dict[str, Any]]:
    """Generate the samples that are asked for, in whatever order they finish."""

    prompts = {problem.task_id: benchmark.text(problem) for problem in benchmark.problems}
    stop = sampling.stop_strings(benchmark.prompt.stop)
    requests = [Request(task_id, prompts[task_id], sample=sample, stop=stop) for task_id, sample in keys]
    before = time.perf_counter()
    for index, written in generator.complete(requests, sampling) if requests else ():
        now = time.perf_counter()
        yield sample_row(
            keys[index],
            written.text,
            generation_seconds=round(now - before, 4),  # since the one before: they add up to the whole
            tokens=written.tokens,
            blocks=written.blocks,
            accepted=written.accepted,
        )
        before = now


def problems_too_long(benchmark: Benchmark, generator: Generator) -> dict[str, str]:
    """Find the problems that cannot be read whole, and say so.

    [동작] 답하지 못한 문제는 틀린 문제다. 빼면 pass@k가 부풀고, 멈추면 나머지도 알 수 없다. 그래서 빈 답으로 채점한다.
    """
    prompts = {problem.task_id: benchmark.text(problem) for problem in benchmark.problems}
    why = generator.too_long(prompts.values())
    return {task_id: f"no answer: {why[prompt]}" for task_id, prompt in prompts.items() if prompt in why}


def sample_row(key: Key, completion: str, whole: bool = False, **made: Any) -> dict[str, Any]:
    """Write a row of samples.jsonl, and how it was made."""
    whole_program = {"whole": True} if whole else {}
    return {"task_id": key[0], "sample": key[1], "completion": completion, **whole_program, **made}
