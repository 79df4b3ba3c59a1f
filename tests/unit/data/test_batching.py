import hashlib
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.real_data import DATA, real_data
from wmtp.data.batching import StepLoader, collate, plan_epoch
from wmtp.data.prompts import BigcodeMbpp0Shot
from wmtp.data.sources import Mbpp
from wmtp.data.tokenization import TokenizedSample, TokenizedSamples, tokenize_problems
from wmtp.errors import ConfigError
from wmtp.maths.alignment import target_mask
from wmtp.models.tokenizer import load_tokenizer

TOKENIZER = Path(__file__).parents[3] / "wmtp" / "assets" / "tokenizer"


def sample(name: str, length: int, prompt_length: int = 1) -> TokenizedSample:
    return TokenizedSample(name, tuple(range(1, length + 1)), prompt_length, (False,) * length)


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60),
    accumulate=st.integers(1, 4),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_every_sample_comes_exactly_once_over_all_ranks(lengths, accumulate, world_size, epoch):
    steps = plan_epoch(
        lengths, [n - 1 for n in lengths], token_budget=64, accumulate=accumulate, world_size=world_size, epoch=epoch
    )
    assert all(len(step.micro_batches) == accumulate * world_size for step in steps)
    assert sorted(i for step in steps for batch in step.micro_batches for i in batch) == list(range(len(lengths)))
    for step in steps:
        assert step.targets == sum(lengths[i] - 1 for batch in step.micro_batches for i in batch)
        for batch in filter(None, step.micro_batches):
            assert len(batch) * max(lengths[i] for i in batch) <= 64


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60),
    accumulate=st.integers(1, 3),
    pieces=st.integers(2, 4),
    world_size=st.integers(1, 3),
)
def test_a_split_plan_has_the_steps_of_the_whole_one_in_pieces_of_about_equal_rows(
    lengths, accumulate, pieces, world_size
):
    def plan(accumulate, pieces):
        arguments = dict(token_budget=64, accumulate=accumulate, pieces=pieces, world_size=world_size)
        return plan_epoch(lengths, [n - 1 for n in lengths], **arguments)

    whole, cut = plan(accumulate, 1), plan(accumulate * pieces, pieces)
    assert [step.targets for step in cut] == [step.targets for step in whole]
    for whole_step, cut_step in zip(whole, cut, strict=True):
        for rank in range(world_size):
            mine = cut_step.micro_batches[rank::world_size]
            for number, batch in enumerate(whole_step.micro_batches[rank::world_size]):
                parts = mine[number * pieces : (number + 1) * pieces]
                assert sum(parts, ()) == batch
                assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_step_that_cannot_be_split_is_an_error_that_names_both_keys():
    with pytest.raises(ConfigError, match=r"accumulate_grad_batches = 3 must be a multiple of data\.pieces = 2"):
        plan_epoch([3, 9], [2, 8], token_budget=9, accumulate=3, pieces=2)


def test_the_same_seed_and_epoch_give_the_same_plan_and_another_epoch_another():
    lengths = [5 + i % 17 for i in range(200)]
    plans = [
        plan_epoch(lengths, lengths, token_budget=64, seed=seed, epoch=epoch)
        for seed, epoch in [(1, 0), (1, 0), (1, 1)]
    ]
    assert plans[0] == plans[1] != plans[2]


def test_a_budget_smaller_than_a_sample_is_an_error_that_names_the_key():
    with pytest.raises(ConfigError, match=r"data\.token_budget = 8 .*\(9 tokens"):
        plan_epoch([3, 9], [2, 8], token_budget=8)


def test_labels_leave_out_prompt_and_padding():
    batch = collate([sample("a", 4, 2), sample("b", 2, 1)], step_targets=3, pad_token_id=0)
    assert batch["input_ids_BT"].tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]
    assert batch["lengths"] == [4, 2]
    assert batch["labels_BT"].tolist() == [[-100, -100, 3, 4], [-100, 2, -100, -100]]


def test_a_batch_knows_its_number_of_targets():
    batch = collate([sample("a", 4, 2), sample("b", 2, 0), sample("c", 3, 1)], step_targets=9, pad_token_id=0)
    assert batch["targets"] == target_mask(batch["labels_BT"]).sum() == 2 + 1 + 2


def test_a_rank_without_samples_still_gets_a_batch_without_targets():
    batch = collate([], step_targets=5, pad_token_id=0)
    assert (batch["labels_BT"] == -100).all() and batch["targets"] == 0


@given(stop=st.integers(0, 30))
def test_a_loader_that_is_loaded_goes_on_where_the_other_stopped(stop):
    def make():
        samples = TokenizedSamples.pack(sample(str(i), 2 + i % 9) for i in range(40))
        return StepLoader(samples, token_budget=24, pad_token_id=0)

    whole = make()
    names = [batch["problem_ids"] for _ in range(3) for batch in whole]
    first, second = make(), make()
    seen = []
    iterator = iter(first)
    for _ in range(stop):
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(first)
            batch = next(iterator)
        seen.append(batch["problem_ids"])
    second.load_state_dict(first.state_dict())
    rest = [batch["problem_ids"] for batch in second]
    assert (seen + rest) == names[: len(seen) + len(rest)]


def names_from(loader):
    return [name for batch in loader for name in batch["problem_ids"]]


def test_a_place_kept_by_one_split_is_the_same_sample_in_a_finer_one(capsys):
    samples = TokenizedSamples.pack(sample(str(i), 2 + i % 9) for i in range(40))

    def make(pieces, accumulate=3):
        return StepLoader(samples, token_budget=24, pad_token_id=0, accumulate=accumulate * pieces, pieces=pieces)

    names = names_from(make(1))
    for old, new, taken in [(1, 2, 5), (2, 4, 7), (2, 4, 12), (1, 4, 0), (4, 2, 6)]:
        first, second = make(old), make(new)
        seen = [name for batch, _ in zip(first, range(taken), strict=False) for name in batch["problem_ids"]]
        told = []
        second.resumed = lambda position, finer, told=told: told.append((position, float(finer)))
        first.position = taken  # zip took one more to find out that it was enough
        second.load_state_dict(first.state_dict())
        assert told == [(taken * new // old, new / old)]
        rest = list(second)
        assert seen + [name for batch in rest for name in batch["problem_ids"]] == names
        assert "pieces" in rest[0] and len(rest[0]["pieces"]) == new
        assert rest[0]["piece"] == (told[0][0] % new, new)
    old_state = make(1).state_dict()
    del old_state["plan"]["pieces"]  # written before there was a pieces
    make(2).load_state_dict(old_state)
    assert capsys.readouterr().err == ""


def test_an_epoch_that_was_not_asked_for_its_end_is_not_followed_by_an_empty_one():
    samples = TokenizedSamples.pack(sample(str(i), 2 + i % 9) for i in range(40))
    loader = StepLoader(samples, token_budget=24, pad_token_id=0)
    for epoch in range(3):  # as Lightning does it: next() as often as the length says
        iterator = iter(loader)
        names = [name for _ in range(len(loader)) for name in next(iterator)["problem_ids"]]
        assert sorted(names) == sorted(samples.task_ids) and loader.epoch == epoch


def test_another_number_of_ranks_goes_on_at_the_same_place_and_says_what_it_changes(capsys):
    samples = TokenizedSamples.pack(sample(str(i), 2 + i % 9) for i in range(60))

    def make(world_size, accumulate=1, pieces=1, budget=24):
        return [
            StepLoader(samples, token_budget=budget, pad_token_id=0, accumulate=accumulate, pieces=pieces,
                       world_size=world_size, rank=rank) for rank in range(world_size)
        ]  # fmt: skip

    def rest(loaders):
        return sorted(name for loader in loaders for name in names_from(loader))

    def take(loaders, count):
        seen = [
            name for x in loaders for batch, _ in zip(x, range(count), strict=False) for name in batch["problem_ids"]
        ]
        for loader in loaders:
            loader.position = count
        return seen

    every = sorted(samples.task_ids)
    for then, now, count in [
        ((2,), (1, 2), 3),
        ((1, 4), (2, 2), 8),
        ((1, 4), (2, 4, 2), 8),
        ((4,), (2,), 2),
        ((4,), (1,), 2),
    ]:
        first, second = make(*then), make(*now)
        seen = take(first, count)
        for loader in second:
            loader.load_state_dict(first[0].state_dict())
        assert sorted(seen + rest(second)) == every, (then, now)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # the first three have the same steps
    assert said[0] == (
        "resume: world_size was 4 and is 2, so a step holds 2 micro-batches and not 4: going on in epoch 0, where 0 of "
        "them come again."
    )
    first, second = make(2), make(4)
    seen = take(first, 3)
    for loader in second:
        loader.load_state_dict(first[0].state_dict())
    assert "where 2 of them come again" in capsys.readouterr().err
    assert set(seen) | set(rest(second)) == set(every)
    (other,) = make(1, budget=40)
    other.load_state_dict(first[0].state_dict())
    assert (other.epoch, other.position) == (1, 0)
    said = capsys.readouterr().err
    assert "token_budget was 24 and is 40" in said and "planned anew: going on at epoch 1," in said


@real_data
def test_mbpp_batches_are_at_least_95_percent_real_tokens():
    problems = Mbpp(f"{DATA}/mbpp").problems("train")
    samples, dropped = tokenize_problems(problems, BigcodeMbpp0Shot(), load_tokenizer(TOKENIZER), max_length=1024)
    assert len(samples) + len(dropped) == 374
    loader = StepLoader(samples, token_budget=2048, pad_token_id=0)
    real = total = 0
    for batch in loader:
        real += sum(batch["lengths"])
        total += batch["input_ids_BT"].numel()
    assert real == sum(len(s.input_ids) for s in samples)
    assert real / total >= 0.95


def test_noise_marks_exactly_the_tokens_that_touch_a_corrupted_span():
    from wmtp.data.prompts import Synthetic0Shot
    from wmtp.data.synthetic import Synthetic

    tokenizer = load_tokenizer(TOKENIZER)
    problem = next(p for p in Synthetic(train_size=50, noise=1.0).problems("train") if p.noise_spans)
    (tokenized,), _ = tokenize_problems([problem], Synthetic0Shot(), tokenizer, 512)
    text = "".join(tokenizer.decode([i]) for i, bad in zip(tokenized.input_ids, tokenized.noise, strict=True) if bad)
    for start, end in problem.noise_spans:
        assert problem.solutions[0][start:end].strip() in text
    assert not any(tokenized.noise[: tokenized.prompt_length])
    assert torch.tensor(tokenized.noise).float().mean() < 1


def test_a_plan_is_what_it_was_when_older_runs_were_planned():
    """A run goes on in the middle of an epoch: another version of this project must plan the same steps."""
    drawn = random.Random(7)
    lengths = [drawn.randint(3, 90) for _ in range(1000)]
    how = dict(token_budget=256, accumulate=4, pieces=2, world_size=3, epoch=2)
    steps = plan_epoch(lengths, [length - 2 for length in lengths], **how)
    text = repr([(step.micro_batches, step.targets) for step in steps])
    assert hashlib.sha256(text.encode()).hexdigest().startswith("ca2189a9ea844a8d")
