"""Hold corrupted sources to saying exactly what they changed, and to changing nothing else."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from wmtp.data.corruption import Corrupted, with_edit
from wmtp.data.leakage import guard
from wmtp.data.mixture import Mix
from wmtp.data.prompts import BigcodeMbpp0Shot
from wmtp.data.sources import HumanEval, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.evaluation.benchmarks import Benchmark

CODE = """def f_{0}(xs, n):
    total = {0}
    for i in range(n):
        if xs[i] > {0}:
            total += xs[i] * 2
    return total - n
"""


@pytest.fixture
def mbpp(tmp_path):
    def row(number):
        return {
            "task_id": number, "text": f"Write function number {number}.", "code": CODE.format(number),
            "test_list": [f"assert f_{number}([1, 2], 2) == 4"],
        }  # fmt: skip

    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in (2, 11, 511, *range(601, 801))))
    return Mbpp(tmp_path)


def outside(text, spans):
    """Cut the spans out of a text."""
    ends = [0, *(place for span in spans for place in span), len(text)]
    return [text[left:right] for left, right in zip(ends[::2], ends[1::2], strict=True)]


@pytest.mark.parametrize("mutations", (1, 2, 5, 12))
def test_everything_outside_the_spans_is_the_published_solution(mbpp, mutations):
    corrupted = 0
    for before, after in zip(mbpp.stream("train"), Corrupted(mbpp, mutations=mutations).stream("train"), strict=True):
        assert replace(after, solutions=before.solutions, noise_spans=()) == before
        if not after.noise_spans:
            assert after == before
            continue
        corrupted += 1
        assert after.solutions[0] != before.solutions[0]
        assert all(0 <= left < right for left, right in after.noise_spans)
        assert all(one[1] <= two[0] for one, two in pairwise(after.noise_spans))
        kept = outside(after.solutions[0], after.noise_spans)
        assert re.fullmatch(".*?".join(map(re.escape, kept)), before.solutions[0], re.DOTALL)
    assert 70 < corrupted < 130  # of 200: five standard deviations of a fair coin


def test_spans_follow_random_edits_of_a_text():
    rng = Random(42)
    for _ in range(500):
        text, spans = [(letter, False) for letter in "abcdefghijklmnop"], ()
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(len(text))
            replaced = rng.randint(start, min(start + 4, len(text)))
            written = rng.randint(1, 5)
            text[start:replaced] = [("X", True)] * written
            spans = with_edit(spans, (start, start + written), written - (replaced - start))
        marked = [any(left <= i < right for left, right in spans) for i in range(len(text))]
        assert all(mark for mark, (_, new) in zip(marked, text, strict=True) if new)
        assert all(not new for mark, (_, new) in zip(marked, text, strict=True) if not mark)
        touching = [letter for mark, (letter, new) in zip(marked, text, strict=True) if mark and not new]
        assert not touching  # whole spans are swallowed or moved, so nothing old is ever inside one


def test_more_noise_corrupts_more_problems_and_the_same_ones_in_the_same_way(mbpp):
    some, more = ({p.task_id: p for p in Corrupted(mbpp, noise=n).stream("train")} for n in (0.3, 0.8))
    bad = [name for name, problem in some.items() if problem.noise_spans]
    assert bad and all(some[name] == more[name] for name in bad)
    assert sum(bool(p.noise_spans) for p in more.values()) > len(bad)
    assert list(Corrupted(mbpp, noise=0).stream("train")) == mbpp.problems("train")


def test_parts_divide_the_training_problems_and_leave_other_splits_alone(mbpp):
    parts = {part: Corrupted(mbpp, part=part) for part in ("all", "clean", "corrupted")}
    names = {part: [p.task_id for p in source.stream("train")] for part, source in parts.items()}
    assert sorted(names["clean"] + names["corrupted"]) == sorted(names["all"])
    assert all(not p.noise_spans for p in parts["clean"].stream("train"))
    assert all(p.noise_spans for p in parts["corrupted"].stream("train"))
    for split in ("validation", "test", "prompt"):
        assert all(source.problems(split) == mbpp.problems(split) for source in parts.values())
    assert len({source.fingerprint("train") for source in parts.values()}) == 3
    assert len({source.fingerprint("test") for source in parts.values()}) == 1


def test_what_is_corrupted_is_decided_by_seed_and_name_alone(mbpp):
    mix = Mix({"mbpp": mbpp, "synthetic": Synthetic(train_size=5)}, {"mbpp": 1, "synthetic": 1})
    alone = {p.task_id: p for p in Corrupted(mbpp).stream("train")}
    mixed = {p.task_id: p for p in Corrupted(mix).stream("train")}
    assert all(mixed[name] == problem for name, problem in alone.items())
    assert any(p != alone[p.task_id] for p in Corrupted(mbpp, seed=7).stream("train"))


def test_leaks_are_found_by_the_published_solution(tmp_path):
    rows = [
        {"task_id": 11, "text": "Sum what exceeds.", "code": CODE.format(3), "test_list": ["assert f_3([1], 1) == 0"]},
        {"task_id": 601, "text": "Another question.", "code": CODE.format(3), "test_list": ["assert f_3([5], 1) == 9"]},
        {"task_id": 602, "text": "Say no.", "code": "def no():\n    return 1 < 0", "test_list": ["assert not no()"]},
    ]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mbpp = Mbpp(tmp_path)
    benchmark = Benchmark("mbpp", mbpp, BigcodeMbpp0Shot())
    source, leaks = guard(Corrupted(mbpp, noise=1, mutations=8), [benchmark], "drop")
    assert [(leak.task_id, leak.kind) for leak in leaks] == [("mbpp/601", "code")]
    assert [problem.task_id for problem in source.stream("train")] == ["mbpp/602"]


def test_a_source_without_training_problems_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="humaneval is for evaluation only"):
        Corrupted(HumanEval(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.part = 'dirty' must be one of all, clean, corrupted"):
        Corrupted(Synthetic(), part="dirty")
