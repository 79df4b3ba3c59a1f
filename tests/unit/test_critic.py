"""Hold stage 1 of the critic to its promises: it learns, is kept, goes on after a kill, says when it knows little."""

import json

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from safetensors.torch import load_file

from wmtp.algos.baseline import Baseline
from wmtp.algos.combined import Combined
from wmtp.algos.critic import Critic
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks.critic_pretraining import CriticPretraining
from wmtp.callbacks.localisation import Localisation
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.rewarded import RewardedSamples
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError, DataNotFoundError
from wmtp.maths.alignment import target_mask
from wmtp.maths.weighting import SoftWeighting
from wmtp.models.loading import find_model, load_model, load_reference, load_tokenizer
from wmtp.models.value import PolicyValue, ValueNetwork
from wmtp.models.value_fitting import ValueFitting
from wmtp.rewards import RewardedProgram

BASE, REFERENCE = "asset:tiny-base", "asset:tiny-reference"


class Known:
    """Reward programs whose correctness is known without running them: solutions, and grammar mutants of them."""

    name, binary = "known", True

    def __init__(self, upside_down=False):
        self.upside_down = upside_down
        self.calls = 0

    def judge(self, data, split, limit=None, model=None):
        import random
        from dataclasses import replace
        from itertools import islice

        self.calls += 1
        rng, programs = random.Random(f"42/{split}"), []
        for i, problem in enumerate(islice(data.source.stream(split), limit)):
            mutant, span = data.source.mutate(problem, rng)
            good, bad = (0.0, 1.0) if self.upside_down and i % 2 else (1.0, 0.0)
            programs.append(RewardedProgram(problem, good))
            programs.append(RewardedProgram(replace(problem, solutions=(mutant,), noise_spans=(span,)), bad))
        return programs


def data_module():
    source = Synthetic(train_size=64, validation_size=40, test_size=0, noise=0.0)
    tokenizer = load_tokenizer(find_model(BASE))
    return MTPDataModule(source, Synthetic0Shot(), tokenizer, token_budget=1280, max_length=256)


def settings(**changes):
    return dict(problems=12, heldout_problems=8, steps=30, check_every=10, token_budget=1024, lr=0.003) | changes


WELL = dict(problems=64, heldout_problems=40, steps=300, check_every=100)  # enough to know something


def train(run, value=None, rewards=None, max_steps=2, ckpt=None, algo_class=Critic, parts=None, **changes):
    """Train a critic in a run directory of its own and return the module."""
    run.mkdir(exist_ok=True)
    seed_everything(42, verbose=False)
    algo = algo_class(
        load_model(find_model(BASE)),
        value=value or ValueNetwork(REFERENCE, BASE),
        rewards=rewards or Known(),
        pretraining=lambda rewards: CriticPretraining(rewards, **settings(**changes)),
        localisation=lambda rewards: Localisation(rewards, problems=changes.get("heldout_problems", 8)),
        weighting=SoftWeighting(lam=1.0),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
        **(parts or {}),
    )
    algo.run_config = {"run_dir": str(run)}
    trainer = Trainer(
        accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, limit_val_batches=1, val_check_interval=1,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(algo, data_module(), ckpt_path=ckpt, weights_only=True)
    trainer.save_checkpoint(run / "last.ckpt")
    return algo


def head_of(run):
    return load_file(run / "value_head.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fitted_critic_knows_right_from_wrong_and_where(tmp_path, capsys):
    algo = train(tmp_path / "run", **WELL)
    found = json.loads((tmp_path / "run" / "critic.json").read_text())
    assert found["best"]["auc"] > 0.8
    assert found["best"]["in_span"] > 0.8 > 4 * found["best"]["chance"]
    assert found["best"]["first_token_auc"] > 0.9
    assert not found["near_chance"]
    assert [point["step"] for point in found["curve"]] == [100, 200, 300]
    assert "critic: sequence AUC 0." in capsys.readouterr().out
    # What stage 2 measures at the end is what stage 1 found: V is frozen and reads a model of its own.
    assert float(algo.trainer.callback_metrics["localisation/in_span"]) == pytest.approx(found["best"]["in_span"])
    assert float(algo.trainer.callback_metrics["localisation/sequence_auc"]) == pytest.approx(found["best"]["auc"])
    assert equal(torch.load(tmp_path / "run" / "value_head.pt", weights_only=True), head_of(tmp_path / "run"))


def test_the_token_that_breaks_a_program_weighs_less(tmp_path):
    algo = train(tmp_path / "run", **WELL)
    data = data_module()
    wrong = [program for program in Known().judge(data, "validation", 40) if not program.reward]
    samples = RewardedSamples.of(wrong, data)
    batch = samples.batch(range(len(samples)))
    mask_BT = target_mask(batch["labels_BT"])
    with torch.no_grad():
        score_BT = algo.model.mtp(
            batch["input_ids_BT"],
            batch["attention_mask_BT"],
            then=lambda output, unembedding_VD: algo.token_scores(batch, output, unembedding_VD),
        )
    weight_BT = algo.weighting(score_BT, mask_BT)
    first_BT = batch["noise_BT"] & (batch["noise_BT"].cumsum(dim=1) == 1)
    assert weight_BT[first_BT].mean() < 0.4 < 0.9 < weight_BT[mask_BT & ~batch["noise_BT"]].mean()


def test_a_second_run_finds_the_head_and_another_setting_does_not(tmp_path, monkeypatch):
    train(tmp_path / "a")
    with monkeypatch.context() as patched:
        patched.setattr(ValueFitting, "step", lambda *_: pytest.fail("fitted again"))
        train(tmp_path / "b")
    assert equal(head_of(tmp_path / "a"), head_of(tmp_path / "b"))
    train(tmp_path / "c", lr=0.001)
    assert not equal(head_of(tmp_path / "a"), head_of(tmp_path / "c"))


@pytest.mark.parametrize("value", ["head", "network"])
def test_a_killed_stage_1_goes_on_to_the_same_head(tmp_path, monkeypatch, value):
    make = {"head": lambda: PolicyValue(BASE), "network": lambda: ValueNetwork(REFERENCE, BASE)}[value]
    step, taken = ValueFitting.step, []

    def killed(self, *args):
        taken.append(1)
        if len(taken) == 15:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(ValueFitting, "step", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(tmp_path / "killed", make(), lr=0.0021)
    taken.clear()
    monkeypatch.setattr(ValueFitting, "step", lambda self, *args: taken.append(1) or step(self, *args))
    train(tmp_path / "on", make(), lr=0.0021)
    assert len(taken) == 20, "the first 10 steps were kept"
    curve = json.loads((tmp_path / "on" / "critic.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [10, 20, 30]
    # The same from the start, under another name in the cache: patience plays no part in three checks.
    train(tmp_path / "whole", make(), lr=0.0021, patience=50)
    assert equal(head_of(tmp_path / "on"), head_of(tmp_path / "whole"))


def test_a_resumed_run_keeps_its_head_though_the_model_has_moved(tmp_path):
    train(tmp_path / "run", PolicyValue(BASE))
    before, rewards = head_of(tmp_path / "run"), Known()
    resumed = train(tmp_path / "run", PolicyValue(BASE), rewards, max_steps=4, ckpt=tmp_path / "run" / "last.ckpt")
    assert equal(dict(resumed.value.state_dict()), before)


def test_a_refreshed_value_moves_and_comes_back_from_the_checkpoint(tmp_path):
    whole = train(tmp_path / "whole", PolicyValue(BASE), max_steps=6, refresh=2)
    assert not equal(dict(whole.value.state_dict()), head_of(tmp_path / "whole"))
    train(tmp_path / "part", PolicyValue(BASE), max_steps=3, refresh=2)
    resumed = train(tmp_path / "part", PolicyValue(BASE), max_steps=6, refresh=2, ckpt=tmp_path / "part" / "last.ckpt")
    assert equal(dict(resumed.value.state_dict()), dict(whole.value.state_dict()))


def test_stage_1_stops_when_the_auc_stops_rising(tmp_path):
    train(tmp_path / "run", steps=90, check_every=10, patience=2, lr=1e-9)
    curve = json.loads((tmp_path / "run" / "critic.json").read_text())["curve"]
    assert len(curve) < 9


def test_a_critic_near_chance_warns_and_says_so(tmp_path, capsys):
    train(tmp_path / "run", rewards=Known(upside_down=True), heldout_problems=40)
    assert json.loads((tmp_path / "run" / "critic.json").read_text())["near_chance"]
    assert "near chance (0.5)" in capsys.readouterr().err


def test_rewards_that_are_all_alike_are_refused(tmp_path):
    class Alike(Known):
        def judge(self, *args, **kwargs):
            return [p for p in super().judge(*args, **kwargs) if p.reward]

    with pytest.raises(DataNotFoundError, match=r"no programs of different rewards .* algo\.pretraining\.problems"):
        train(tmp_path / "run", rewards=Alike())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gamma": 1.5}, r"algo\.pretraining\.gamma = 1\.5 must be a number in \[0, 1\]"),
        ({"value_loss": "l1"}, r"algo\.pretraining\.value_loss = 'l1' must be one of bce, mse, pairwise"),
        ({"steps": 0}, r"algo\.pretraining\.steps = 0 must be a whole number, at least 1"),
    ],
)
def test_mistakes_are_one_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        CriticPretraining(Known(), **settings(**changes))


def test_bce_is_refused_for_rewards_that_are_no_probability():
    rewards = Known()
    rewards.binary = False
    with pytest.raises(ConfigError, match="bce needs rewards of 0 and 1"):
        CriticPretraining(rewards)


def test_combined_is_rho1_at_0_and_critic_at_1(tmp_path):
    def order_of(mix=None, algo_class=Combined, parts=None):
        extra = {} if mix is None else {"mix": mix}
        run = tmp_path / f"{algo_class.name}-{mix}"
        algo = train(run, max_steps=1, algo_class=algo_class, parts=(parts or {}) | extra)
        step = algo.last_step
        return [step["score_BT"][row][step["mask_BT"][row]].argsort(stable=True).tolist() for row in range(3)]

    reference = {"reference": load_reference(REFERENCE, BASE)}
    assert order_of(1.0, parts=reference) == order_of(algo_class=Critic)
    torch.manual_seed(0)
    rho1 = Rho1(load_model(find_model(BASE)), **reference, weighting=SoftWeighting(), optimizer=None)
    algo = train(tmp_path / "zero", max_steps=1, algo_class=Combined, parts=reference | {"mix": 0.0})
    batch, mask_BT = algo.last_step["batch"], algo.last_step["mask_BT"]
    with torch.no_grad():
        gap_BT = rho1.model.mtp(
            batch["input_ids_BT"], batch["attention_mask_BT"], then=lambda o, u: rho1.token_scores(batch, o, u)
        )
    for row in range(3):
        mine, theirs = algo.last_step["score_BT"][row][mask_BT[row]], gap_BT[row][mask_BT[row]]
        torch.testing.assert_close((theirs - theirs.mean()) / theirs.std(correction=0), mine, rtol=1e-3, atol=1e-3)
    assert isinstance(algo, Baseline)
