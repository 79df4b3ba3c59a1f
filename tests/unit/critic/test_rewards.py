"""Hold the rewards to their word: what runs decides, once, the same for everybody, and nothing is lost by a kill."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.tolerance import assert_same_up_to_rounding, terms_of
from wmtp.cache.fingerprint import digest_of
from wmtp.critic import rewards
from wmtp.critic.rewards import base
from wmtp.data.module import MTPDataModule
from wmtp.data.problem import Problem, Source
from wmtp.data.prompts import BigcodeMbpp0Shot, CodeContestsStatement, Synthetic0Shot
from wmtp.data.sources import CodeContests, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.errors import CheckpointError, ConfigError, SandboxUnavailableError
from wmtp.evaluation.sandbox import Limits, Sandbox
from wmtp.models.loading import find_model, load_model
from wmtp.models.tokenizer import load_tokenizer

BASE = "asset:tiny-base"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base, "SHARD", 4)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_model(BASE))


@cache
def rung() -> str:
    """Find once how programs can be isolated here."""
    try:
        with Sandbox(workers=1) as opened:
            return opened.rung
    except SandboxUnavailableError as error:
        pytest.skip(str(error))


def sandbox(workers: int = 1) -> Sandbox:
    return Sandbox(workers=workers, rung=rung())


@dataclass
class Given(Source):
    """Give problems that a test has written."""

    train: tuple[Problem, ...]
    name = "given"
    licence = "MIT"

    def stream(self, split):
        yield from self.train if split == "train" else ()

    def fingerprint(self, split="all"):
        return digest_of([vars(problem) for problem in self.train])[:16]


def problem(name: str, *solutions: str, wrong: tuple[str, ...] = (), **fields) -> Problem:
    fields = {"tests": ("assert f(2) == 3", "assert f(0) == 1"), **fields}
    return Problem(f"given/{name}", "given", "train", "Add one.", solutions, wrong, **fields)


RIGHT, ALSO, WRONG = "def f(x):\n    return x + 1\n", "def f(x):\n    return 1 + x\n", "def f(x):\n    return x\n"


def data_of(source: Source, tokenizer, prompt=None) -> MTPDataModule:
    return MTPDataModule(source, prompt or Synthetic0Shot(), tokenizer, token_budget=512, max_length=256)


def shown(judged) -> list[tuple[str, str, float]]:
    return [(one.problem.task_id, one.problem.solutions[0], one.reward) for one in judged]


def test_what_runs_decides_whatever_the_data_say(tokenizer):
    source = Given(
        (
            problem("both", RIGHT, wrong=(WRONG,)),
            problem("said to be right", WRONG, RIGHT, wrong=(ALSO, "def f(x):\n    while True: pass\n")),
            problem("no solution"),
            problem("no tests", RIGHT, tests=(), wrong=(WRONG,)),
            problem("by standard input", "print(int(input()) + 1)", tests=(), stdio=(("2\n", "3"), ("0\n", "1"))),
        )
    )
    reward = rewards.Tests(solutions=2, incorrect=2, sandbox=sandbox(), limits=Limits(cpu_seconds=0.5))
    judged = reward.judge(data_of(source, tokenizer), "train")
    assert shown(judged)[:-1] == [
        ("given/both", RIGHT, 1.0),
        ("given/both", WRONG, 0.0),
        ("given/said to be right", RIGHT, 1.0),
        ("given/said to be right", WRONG, 0.0),
        ("given/said to be right", "def f(x):\n    while True: pass\n", 0.0),
        ("given/by standard input", "print(int(input()) + 1)", 1.0),
    ]
    mutant = judged[-1]
    assert mutant.problem.task_id == "given/by standard input" and mutant.reward == 0.0
    assert all(one.problem.incorrect_solutions == () and one.problem.stdio == () for one in judged)
    assert [bool(one.problem.noise_spans) for one in judged] == [False] * 6 + [True]


def test_a_slow_reference_gets_the_longer_limits_that_the_evaluation_gives_it(tokenizer):
    spin = "import time\ndef f(x):\n    while time.process_time() < {}: pass\n    return x + 1\n"
    source = Given((problem("slow", spin.format(0.2), wrong=(WRONG,)), problem("endless", spin.format(60))))
    reward = rewards.Tests(sandbox=sandbox(), limits=Limits(cpu_seconds=0.1))
    assert [one.reward for one in reward.judge(data_of(source, tokenizer), "train")] == [1.0, 0.0, 0.0]


def test_mutants_differ_in_one_place_and_fail_and_no_known_corruption_is_used(tokenizer):
    source = Synthetic(train_size=60, noise=0.5)
    problems = {p.task_id: p for p in source.problems("train")}
    judged = rewards.Tests(mutants=2, sandbox=sandbox()).judge(data_of(source, tokenizer), "train", 24)
    by_problem = {}
    for one in judged:
        by_problem.setdefault(one.problem.task_id, []).append(one)
    assert list(by_problem) == list(problems)[:24]
    for task_id, (first, *others) in by_problem.items():
        assert first.problem.solutions == problems[task_id].solutions and first.problem.noise_spans == ()
        assert first.problem.text == problems[task_id].text and first.problem.tests == problems[task_id].tests
        assert len(others) == (2 if first.reward else 0)
        for other in others:
            [(start, end)] = other.problem.noise_spans
            right, mutant = first.problem.solutions[0], other.problem.solutions[0]
            assert other.reward == 0 and right.startswith(mutant[:start]) and right.endswith(mutant[end:])
    garbage = [t for t, ones in by_problem.items() if ones[0].reward and "#" in ones[0].problem.solutions[0]]
    failing = [t for t, ones in by_problem.items() if not ones[0].reward]
    assert garbage and failing and {t for t in by_problem if not problems[t].noise_spans}.isdisjoint(failing)


def test_rewards_do_not_depend_on_the_number_of_workers(tokenizer, tmp_path, monkeypatch):
    found = []
    for workers in (1, 4):
        monkeypatch.setenv("WMTP_CACHE", str(tmp_path / str(workers)))
        data = data_of(Synthetic(train_size=10, noise=0.5), tokenizer)
        found.append(rewards.Tests(mutants=2, sandbox=sandbox(workers)).judge(data, "train"))
    assert found[0] == found[1]


def test_the_second_time_nothing_runs_and_a_larger_limit_judges_only_what_is_new(tokenizer, monkeypatch):
    data = data_of(Synthetic(train_size=14), tokenizer)
    reward = rewards.Tests(sandbox=sandbox())
    first, ran = reward.judge(data, "train", 8), []
    real = reward._rows
    monkeypatch.setattr(reward, "_rows", lambda problems, source: ran.append(len(problems)) or real(problems, source))
    assert reward.judge(data, "train", 8) == first and ran == []
    assert reward.judge(data, "train", 4) == first[:8] and ran == []
    everything = reward.judge(data, "train")
    assert ran == [4, 2] and everything[:16] == first and len(everything) == 28
    assert reward.judge(data, "train", 14) == everything and ran == [4, 2, 2]  # the last shard has another end
    assert reward.judge(data, "train", 100) == everything


def test_a_shard_that_ends_with_the_split_is_known_to_be_the_last(tokenizer):
    reward, data = rewards.Tests(sandbox=sandbox()), data_of(Synthetic(train_size=8), tokenizer)
    assert reward.judge(data, "train") == reward.judge(data, "train")
    reward.sandbox = None  # nothing may run any more
    assert len(reward.judge(data, "train")) == 16


def test_another_seed_source_limit_or_count_is_another_entry(tokenizer):
    data = data_of(Synthetic(train_size=4), tokenizer)
    keys = [
        rewards.Tests().key(data, "train", None),
        rewards.Tests().key(data, "validation", None),
        rewards.Tests(seed=1).key(data, "train", None),
        rewards.Tests(solutions=2).key(data, "train", None),
        rewards.Tests(mutants=2).key(data, "train", None),
        rewards.Tests(limits=Limits(cpu_seconds=1)).key(data, "train", None),
        rewards.Tests().key(data_of(Synthetic(train_size=4, seed=1), tokenizer), "train", None),
        rewards.Rewards.key(rewards.NegCE(), data, "train", None),
    ]
    assert len({digest_of(key) for key in keys}) == len(keys)
    assert rewards.Tests(sandbox=Sandbox(workers=3)).key(data, "train", None) == keys[0]


def test_a_changed_judge_is_another_entry(tokenizer, tmp_path, monkeypatch):
    data = data_of(Synthetic(train_size=4), tokenizer)
    before = rewards.Tests().key(data, "train", None)
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "__init__.py").write_text("# another judge")
    monkeypatch.setattr(rewards.tests, "sandbox_package", SimpleNamespace(__file__=tmp_path / "sandbox/__init__.py"))
    assert rewards.Tests().key(data, "train", None) != before


def watched(monkeypatch, log: Path) -> None:
    """Write down which problems are judged, and by whom; take a little time over it."""
    real = rewards.Tests._rows

    def slow(self, problems, source):
        with log.open("a") as journal:
            journal.write(f"{multiprocessing.current_process().name} {problems[0].task_id}\n")
        time.sleep(0.05)
        return real(self, problems, source)

    monkeypatch.setattr(rewards.Tests, "_rows", slow)


def test_two_ranks_share_the_work_and_a_killed_one_is_replaced(tokenizer, tmp_path, monkeypatch):
    data, log, opened = data_of(Synthetic(train_size=40), tokenizer), tmp_path / "log", sandbox(1)
    watched(monkeypatch, log)
    fork = multiprocessing.get_context("fork")

    def rank(n):
        torch.set_num_threads(1)  # a forked child lost its parent's pool, and two threads may not replace it at once
        rewards.Tests(sandbox=opened).judge(data, "train")

    ranks = [fork.Process(target=rank, args=(n,), name=f"rank{n}") for n in range(2)]
    for process in ranks:
        process.start()
    while not (log.exists() and "rank1" in log.read_text()) and ranks[0].is_alive():
        time.sleep(0.005)
    os.kill(ranks[1].pid, signal.SIGKILL)
    ranks[0].join(timeout=60)
    ranks[1].join(timeout=60)
    assert ranks[0].exitcode == 0
    said = [line.split() for line in log.read_text().splitlines()]
    assert {name for name, _ in said} == {"rank0", "rank1"}
    assert len({first for _, first in said}) == 10
    assert len(said) <= 11  # at most the shard that was in the killed hands is judged twice
    log.write_text("")
    judged = rewards.Tests(sandbox=opened).judge(data, "train")
    assert log.read_text() == "" and len(judged) == 80


def test_a_damaged_shard_alone_is_judged_again(tokenizer, tmp_path, monkeypatch, capsys):
    reward, data = rewards.Tests(sandbox=sandbox()), data_of(Synthetic(train_size=12), tokenizer)
    first = reward.judge(data, "train", 12)
    file = sorted((tmp_path / "cache" / "rewards").rglob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    watched(monkeypatch, tmp_path / "log")
    assert reward.judge(data, "train", 12) == first
    assert (tmp_path / "log").read_text() == "MainProcess synthetic/train/4\n"
    assert f"{file} is damaged; making it again" in capsys.readouterr().err


@pytest.mark.parametrize("count", ({"solutions": 0}, {"incorrect": -1}, {"mutants": 1.5}, {"mutants": True}))
def test_a_count_that_is_none_is_one_sentence_that_names_the_key(count):
    with pytest.raises(ConfigError, match=rf"algo\.rewards\.{next(iter(count))} = .* must be a whole number"):
        rewards.Tests(**count)


# Reward models


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory, tokenizer):
    """Save a tiny reward model of each shape."""
    torch.manual_seed(42)
    small = dict(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    llama = dict(**small, max_position_embeddings=160, pad_token_id=tokenizer.pad_token_id)
    folders = {}
    for name, config in {
        "logit": LlamaConfig(**llama, num_labels=1),
        "difference": LlamaConfig(**llama, num_labels=2),
        "encoder": BertConfig(**small, num_labels=1, max_position_embeddings=512),
        "three": LlamaConfig(**llama, num_labels=3),
    }.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.mark.parametrize("kind", ("logit", "difference", "encoder"))
def test_a_reward_model_gives_each_program_its_own_logit(classifiers, tokenizer, kind):
    source = Synthetic(train_size=8)
    reward = rewards.RewardModel(str(classifiers[kind]))
    judged = reward.judge(data_of(source, tokenizer), "train", 8)
    assert [bool(one.problem.noise_spans) for one in judged] == [False, True] * 8
    plain, expected = AutoModelForSequenceClassification.from_pretrained(classifiers[kind]).eval(), []
    for one in judged:
        text = Synthetic0Shot().render(one.problem) + one.problem.solutions[0]
        with torch.no_grad():
            [logits] = plain(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits
        expected.append(logits[0] if kind != "difference" else logits[1] - logits[0])
    terms = terms_of(plain, positions=512)
    found = torch.tensor([one.reward for one in judged])
    assert_same_up_to_rounding(found, torch.stack(expected), terms)
    small = rewards.RewardModel(str(classifiers[kind]), token_budget=1)
    texts = [small.read(Synthetic0Shot().render(one.problem), one.problem.solutions[0]) for one in judged]
    assert_same_up_to_rounding(torch.tensor(small.score(plain, texts)), found, terms)


def test_the_form_is_the_reward_model_s_own(classifiers, tokenizer):
    reward = rewards.RewardModel(str(classifiers["logit"]))
    assert tokenizer.decode(reward.read("ask ", "answer")) == "ask answer"
    reward.tokenizer.sep_token = reward.tokenizer.eos_token
    assert reward.read("ask ", "answer") == reward.tokenizer("ask ", "answer").input_ids
    reward.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
    assert tokenizer.decode(reward.read("ask ", "answer")) == "user: ask ;assistant: answer;"


def test_a_reward_model_without_padding_reads_one_program_at_a_time(classifiers, tokenizer):
    data = data_of(Synthetic(train_size=4), tokenizer)
    reward, padded = (rewards.RewardModel(str(classifiers["logit"])) for _ in range(2))
    reward.config.pad_token_id = None
    terms = terms_of(AutoModelForSequenceClassification.from_pretrained(classifiers["logit"]), positions=512)
    with reward.judging(data, None) as rows_of, padded.judging(data, None) as expected_of:
        problems = data.source.problems("train")
        for one, other in zip(rows_of(problems), expected_of(problems), strict=True):
            ours, theirs = (torch.tensor([row[1] for row in each]) for each in (one, other))
            assert_same_up_to_rounding(ours, theirs, terms)


def test_programs_too_long_for_the_reward_model_are_left_out_and_said(classifiers, tokenizer, capsys):
    long = RIGHT + "# " + " ".join("abcdefgh" * 20)
    judged = rewards.RewardModel(str(classifiers["logit"])).judge(
        data_of(Given((problem("long", long, wrong=(WRONG,)),)), tokenizer), "train"
    )
    assert shown(judged) == [("given/long", WRONG, judged[0].reward)]
    assert "1 programs are longer than the 160 tokens" in capsys.readouterr().out


def test_a_cached_reward_model_is_not_loaded_and_another_content_is_another_entry(
    classifiers, tokenizer, tmp_path, monkeypatch
):
    data = data_of(Synthetic(train_size=6), tokenizer)
    first = rewards.RewardModel(str(classifiers["logit"])).judge(data, "train")
    copy = tmp_path / "copy"
    AutoModelForSequenceClassification.from_pretrained(classifiers["logit"]).save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    keys = [rewards.RewardModel(str(folder)).key(data, "train", None) for folder in (classifiers["logit"], copy)]
    assert keys[0] == keys[1]  # wherever it lies
    assert rewards.RewardModel(str(classifiers["difference"])).key(data, "train", None) != keys[0]
    other = replace_prompt(data)
    assert rewards.RewardModel(str(copy)).key(other, "train", None) != keys[0]
    monkeypatch.setattr(rewards.reward_model, "_load_classifier", lambda *_: pytest.fail("the model was loaded"))
    assert rewards.RewardModel(str(copy)).judge(data, "train") == first


def replace_prompt(data: MTPDataModule) -> MTPDataModule:
    return data_of(data.source, data.tokenizer, BigcodeMbpp0Shot())


def test_what_gives_no_reward_is_refused_with_a_way_out(classifiers, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"num_labels = 3; a reward is the logit of 1 label"):
        rewards.RewardModel(str(classifiers["three"]))
    config = LlamaConfig.from_pretrained(classifiers["logit"])
    LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"lacks score\.weight: it was never trained to give a reward"):
        rewards.RewardModel(str(tmp_path / "plain")).judge(data_of(Synthetic(train_size=1), tokenizer), "train")
    (tmp_path / "plain" / "model.safetensors").rename(tmp_path / "plain" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no \\*\\.safetensors"):
        rewards.RewardModel(str(tmp_path / "plain"))
    config = json.loads((classifiers["logit"] / "config.json").read_text()) | {"model_type": "unheard-of"}
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "config.json").write_text(json.dumps(config))
    (tmp_path / "unknown" / "model.safetensors").write_bytes((classifiers["logit"] / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"algo\.rewards\.path .* no architecture that transformers knows"):
        rewards.RewardModel(str(tmp_path / "unknown"))


# The fallback


def test_neg_ce_is_minus_the_mean_ce_of_the_target_tokens_and_says_what_it_is_worth(tokenizer, capsys):
    data, model = data_of(Synthetic(train_size=6), tokenizer), load_model(find_model(BASE), heads=4).train()
    judged = rewards.NegCE().judge(data, "train", model=model)
    assert model.training and len(judged) == 12
    assert "fallback" in capsys.readouterr().out
    expected = []
    for one in judged:
        prompt = tokenizer(Synthetic0Shot().render(one.problem)).input_ids
        target = [*tokenizer(one.problem.solutions[0] + "\n").input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        expected.append(-torch.nn.functional.cross_entropy(logits, torch.tensor(target)))
    found = torch.tensor([one.reward for one in judged])
    assert_same_up_to_rounding(found, torch.stack(expected), terms_of(model, positions=512))
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] += 1
    assert rewards.NegCE().key(data, "train", model) != rewards.NegCE().key(data, "train", load_model(find_model(BASE)))


# Real data


@pytest.fixture
def real() -> Path:
    if "WMTP_TEST_DATA" not in os.environ:
        pytest.skip("WMTP_TEST_DATA is not set: it names the folder with mbpp/ and codecontests/")
    return Path(os.environ["WMTP_TEST_DATA"])


@pytest.mark.slow
def test_every_mbpp_problem_has_a_right_program_and_a_failing_mutant(real, tokenizer, monkeypatch):
    monkeypatch.setattr(base, "SHARD", 64)
    data = data_of(Mbpp(real / "mbpp"), tokenizer, BigcodeMbpp0Shot())
    judged = rewards.Tests(sandbox=sandbox()).judge(data, "train")
    assert sum(one.reward for one in judged) == 374
    assert len(judged) >= 2 * 374 - 4


@pytest.mark.slow
def test_codecontests_programs_are_judged_by_standard_input(real, tokenizer):
    data = data_of(CodeContests(real / "codecontests"), tokenizer, CodeContestsStatement())
    judged = rewards.Tests(sandbox=sandbox()).judge(data, "train", 12)
    rewarded: dict[str, list[float]] = {}
    for one in judged:
        rewarded.setdefault(one.problem.task_id, []).append(one.reward)
    # Three of the twelve allow several answers, which a comparison of outputs cannot know: their solutions fail.
    solved = [values for values in rewarded.values() if 1.0 in values]
    assert len(rewarded) == 12 and len(solved) == 9
    assert all(values == [1.0, 0.0] for values in solved)
