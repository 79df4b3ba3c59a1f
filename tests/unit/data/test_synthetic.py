"""Hold the synthetic problems to their promises: deterministic, disjoint, right, and wrong exactly where they say."""

import hashlib
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from importlib import resources

import pytest
from transformers import AutoTokenizer

from wmtp.data.grammar import AGGREGATIONS, OPERATIONS, STEP_OF_STATEMENT
from wmtp.data.problem import Problem
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError

SPLITS = ("train", "validation", "test")


def composition(source: str) -> tuple[str, ...]:
    """Read the operation names, in order, out of a clean solution."""
    return tuple(STEP_OF_STATEMENT[line].operation for line in source.splitlines()[1:])


def test_the_composition_of_a_solution_is_its_operations_in_order():
    assert composition("def solve(xs):\n    xs = [x + 3 for x in xs]\n    return sum(xs)") == ("add", "sum")


# Worked out by hand, one value an operation; a step with several constants is tried at the constant given.
NUMBERS, WORDS = [5, -2, 4, 4, 9, -3], ["tea", "apple", "sea", "tea", "star"]
BY_HAND = {
    "add 3": [8, 1, 7, 7, 12, 0],
    "subtract 3": [2, -5, 1, 1, 6, -6],
    "multiply 3": [15, -6, 12, 12, 27, -9],
    "modulo 3": [2, 1, 1, 1, 0, 0],
    "divide 3": [1, -1, 1, 1, 3, -1],
    "square": [25, 4, 16, 16, 81, 9],
    "negate": [-5, 2, -4, -4, -9, 3],
    "absolute": [5, 2, 4, 4, 9, 3],
    "even": [-2, 4, 4],
    "odd": [5, 9, -3],
    "positive": [5, 4, 4, 9],
    "negative": [-2, -3],
    "above 4": [5, 9],
    "below 4": [-2, -3],
    "multiples 3": [9, -3],
    "sort": [-3, -2, 4, 4, 5, 9],
    "sort_down": [9, 5, 4, 4, -2, -3],
    "reverse": [-3, 9, 4, 4, -2, 5],
    "first 2": [5, -2],
    "last 2": [9, -3],
    "skip 2": [4, 4, 9, -3],
    "trim 2": [5, -2, 4, 4],
    "alternate": [5, 4, 9],
    "unique": [5, -2, 4, 9, -3],
    "gaps": [-7, 6, 0, 5, -12],
    "list": [5, -2, 4, 4, 9, -3],
    "sum": 17,
    "max": 9,
    "min": -3,
    "count": 6,
    "distinct": 5,
    "squares": 151,
    "final": -3,
    "upper": ["TEA", "APPLE", "SEA", "TEA", "STAR"],
    "title": ["Tea", "Apple", "Sea", "Tea", "Star"],
    "mirror": ["aet", "elppa", "aes", "aet", "rats"],
    "repeat 2": ["teatea", "appleapple", "seasea", "teatea", "starstar"],
    "prefix 2": ["te", "ap", "se", "te", "st"],
    "behead 2": ["a", "ple", "a", "a", "ar"],
    "plural": ["teas", "apples", "seas", "teas", "stars"],
    "long 3": ["apple", "star"],
    "short 4": ["tea", "sea", "tea"],
    "with t": ["tea", "tea", "star"],
    "without t": ["apple", "sea"],
    "sort_words": ["apple", "sea", "star", "tea", "tea"],
    "sort_length": ["tea", "sea", "tea", "star", "apple"],
    "reverse_words": ["star", "tea", "sea", "apple", "tea"],
    "first_words 2": ["tea", "apple"],
    "last_words 2": ["tea", "star"],
    "skip_words 2": ["sea", "tea", "star"],
    "unique_words": ["tea", "apple", "sea", "star"],
    "lengths": [3, 5, 3, 3, 4],
    "letters t": [1, 0, 0, 1, 1],
    "list_words": ["tea", "apple", "sea", "tea", "star"],
    "join": "teaappleseateastar",
    "dashes": "tea-apple-sea-tea-star",
    "longest": "apple",
    "earliest": "apple",
    "count_words": 5,
    "size": 18,
    "final_word": "star",
}


def every_step():
    for table in (*OPERATIONS.values(), *AGGREGATIONS.values()):
        for steps in table:
            yield from steps


def passes(source: str, tests: tuple[str, ...]) -> bool:
    """Run a program of our own grammar (it cannot hang or harm) and its tests."""
    scope = {}
    try:
        exec(source + "\n" + "\n".join(tests), scope)
    except Exception:
        return False
    return True


@pytest.fixture(scope="module")
def clean() -> list[Problem]:
    return Synthetic(train_size=2000).problems("train")


@pytest.fixture(scope="module")
def noisy() -> list[Problem]:
    return Synthetic(train_size=2000, noise=0.5).problems("train")


@pytest.mark.parametrize("key", BY_HAND)
def test_every_operation_computes_what_was_worked_out_by_hand(key):
    name, _, constant = key.partition(" ")
    [step] = [
        step
        for step in every_step()
        if step.operation == name and (not constant or re.search(rf"\b{constant}\b", step.phrases[0]))
    ]
    assert step.run(list(NUMBERS if step.takes == "xs" else WORDS)) == BY_HAND[key]


def test_no_operation_escapes_the_check_by_hand():
    assert {key.partition(" ")[0] for key in BY_HAND} == {step.operation for step in every_step()}


def test_phrases_tell_operations_of_one_variable_apart():
    for variable, tables in OPERATIONS.items():
        for table in (tables, AGGREGATIONS[variable]):
            phrases = [phrase for steps in table for step in steps for phrase in step.phrases]
            assert len(phrases) == len(set(phrases))


def fingerprint(problems: list[Problem]) -> str:
    return hashlib.sha256(repr(problems).encode()).hexdigest()


def test_same_seed_gives_same_problems_in_a_process_with_another_hash_seed():
    code = (
        "from wmtp.data.synthetic import Synthetic; import hashlib\n"
        "problems = Synthetic(train_size=200, noise=0.5).problems('train')\n"
        "print(hashlib.sha256(repr(problems).encode()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {fingerprint(Synthetic(train_size=200, noise=0.5).problems("train"))}


def test_another_seed_gives_other_problems():
    assert Synthetic(test_size=20, seed=1).problems("test") != Synthetic(test_size=20, seed=2).problems("test")


def test_a_smaller_size_is_the_beginning_of_a_larger_one(clean):
    assert Synthetic(train_size=50).problems("train") == clean[:50]


def test_no_composition_of_a_split_occurs_in_another_whatever_the_seed(clean):
    compositions = {split: set() for split in SPLITS}
    for seed in (42, 43):
        source = Synthetic(train_size=1000, validation_size=300, test_size=300, seed=seed)
        for split in SPLITS:
            compositions[split] |= {composition(problem.solutions[0]) for problem in source.problems(split)}
    assert not compositions["train"] & compositions["validation"]
    assert not compositions["train"] & compositions["test"]
    assert not compositions["validation"] & compositions["test"]


def test_train_shows_every_operation_that_the_other_splits_ask_for(clean):
    seen = {operation for problem in clean for operation in composition(problem.solutions[0])}
    assert seen == {step.operation for step in every_step()}


def test_no_program_occurs_twice_in_a_split(clean):
    assert len({problem.solutions[0] for problem in clean}) == len(clean)


def test_skipped_training_problems_leave_those_that_come_after_and_share_no_program():
    first = Synthetic(train_size=30, validation_size=9, test_size=9)
    later = Synthetic(train_size=20, validation_size=9, test_size=9, train_skip=10)
    assert later.problems("train") == first.problems("train")[10:]
    assert later.problems("test") == first.problems("test")
    assert later.fingerprint("train") != Synthetic(train_size=20, validation_size=9, test_size=9).fingerprint("train")
    programs = [
        {problem.solutions[0] for problem in Synthetic(train_size=2000, train_skip=skip).problems("train")}
        for skip in (0, 2000)
    ]
    assert not programs[0] & programs[1]  # the hidden clean solutions of the one are not in the other


def test_reference_solutions_pass_their_own_six_tests():
    problems = Synthetic(train_size=100, validation_size=100, test_size=100, noise=0.0)
    batch = [problem for split in SPLITS for problem in problems.problems(split)]
    assert len(batch) == 300
    assert all(len(problem.tests) == 6 and problem.entry_point == "solve" for problem in batch)
    programs = "\n".join("\n".join((problem.solutions[0], *problem.tests)) for problem in batch)
    done = subprocess.run([sys.executable, "-I", "-"], input=programs, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_wrong_operation_or_constant_fails_the_tests_nearly_always():
    rng = random.Random(42)
    source = Synthetic(test_size=500)
    problems = source.problems("test")
    surviving = sum(passes(source.mutate(problem, rng)[0], problem.tests) for problem in problems)
    assert surviving / len(problems) < 0.04  # measured: about 1 %


def test_a_mutant_differs_from_its_problem_inside_its_span_only(clean):
    rng = random.Random(42)
    for problem in clean[:300]:
        source, (start, end) = Synthetic().mutate(problem, rng)
        reference = problem.solutions[0]
        assert source != reference and start < end
        assert reference.startswith(source[:start]) and reference.endswith(source[end:])
        assert source.count("\n") == reference.count("\n")
        assert "\n" not in source[start:end]


def test_noise_changes_solutions_and_nothing_else(clean, noisy):
    for before, after in zip(clean, noisy, strict=True):
        assert replace(after, solutions=before.solutions, noise_spans=()) == before
        assert (after.solutions == before.solutions) == (not after.noise_spans)
        assert after.incorrect_solutions == ()


def test_noise_spans_are_where_the_text_differs_from_its_clean_twin(clean, noisy):
    for before, after in zip(clean, noisy, strict=True):
        text, clean_lines = after.solutions[0], before.solutions[0].split("\n")
        spans = {text.count("\n", 0, start): (start, end) for start, end in after.noise_spans}
        assert len(spans) == len(after.noise_spans)  # one a line
        offset = 0
        for number, (line, reference) in enumerate(zip(text.split("\n"), clean_lines, strict=True)):
            if line == reference:
                assert number not in spans
            else:
                start, end = (position - offset for position in spans[number])
                assert 0 <= start < end <= len(line)
                assert reference.startswith(line[:start]) and reference.endswith(line[end:])
                # No longer than need be: the first marked word or sign is not the reference's.
                first = re.compile(r"\w+|\s+|.")
                assert first.match(line, start)[0] != (first.match(reference, start) or [""])[0]
            offset += len(line) + 1


def test_half_noise_corrupts_half_the_problems_and_about_a_quarter_of_the_code(noisy):
    assert 0.45 < sum(bool(problem.noise_spans) for problem in noisy) / len(noisy) < 0.55
    tokenizer = AutoTokenizer.from_pretrained(resources.files("wmtp") / "assets" / "tokenizer")
    corrupted = total = 0
    for problem in noisy:
        for start, end in tokenizer(problem.solutions[0], return_offsets_mapping=True).offset_mapping:
            total += 1
            corrupted += any(start < stop and begin < end for begin, stop in problem.noise_spans)
    assert 0.2 < corrupted / total < 0.3


def test_corrupted_programs_are_wrong_unless_only_a_comment_was_added(noisy):
    wrong = [problem for problem in noisy if problem.noise_spans and "#" not in problem.solutions[0]]
    assert sum(passes(problem.solutions[0], problem.tests) for problem in wrong) / len(wrong) < 0.05


def test_more_noise_only_adds_corrupted_problems(noisy):
    fewer = Synthetic(train_size=2000, noise=0.2).problems("train")
    assert all(a == b for a, b in zip(fewer, noisy, strict=True) if a.noise_spans)


def test_validation_and_test_stay_clean():
    source = Synthetic(validation_size=50, test_size=50, noise=1.0)
    assert not any(problem.noise_spans for split in ("validation", "test") for problem in source.problems(split))
    assert source.problems("test") == Synthetic(test_size=50).problems("test")


@pytest.mark.parametrize("noise", [-0.1, 1.5, float("nan"), "half", True])
def test_noise_out_of_range_is_one_sentence_that_names_the_key(noise):
    with pytest.raises(ConfigError, match=r"data\.noise = .* must be a number in \[0, 1\]"):
        Synthetic(noise=noise)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("size", [-1, 2.5, "many", True])
def test_a_bad_size_is_one_sentence_that_names_the_key(split, size):
    with pytest.raises(ConfigError, match=rf"data\.{split}_size"):
        Synthetic(**{f"{split}_size": size})


def test_an_unknown_split_is_named():
    with pytest.raises(ConfigError, match="dev"):
        Synthetic().problems("dev")
