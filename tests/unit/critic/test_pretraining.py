"""Hold stage 1 of the critic to its promises: it learns, is kept, goes on after a kill, says when it knows little."""

import gc
import json
import random
from dataclasses import replace
from itertools import islice

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything

from tests.tiny import InMemory, tiny_model
from tests.tolerance import assert_same_up_to_rounding, relative_rounding, terms_of
from wmtp.algos.combined import Combined
from wmtp.algos.critic import Critic
from wmtp.algos.rho1 import Rho1
from wmtp.cache.value_heads import read_head
from wmtp.critic.fitting import TrunkStates, ValueFitting
from wmtp.critic.localisation import Localisation
from wmtp.critic.pretraining import CriticPretraining
from wmtp.critic.rewarded import RewardedSamples
from wmtp.critic.rewards import RewardedProgram
from wmtp.critic.value import PolicyValue, ValueNetwork
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError, DataNotFoundError
from wmtp.maths.alignment import target_mask
from wmtp.maths.weighting import SoftWeighting
from wmtp.models.loading import find_model
from wmtp.models.tokenizer import load_tokenizer

# A head of the model in training reads the smallest model there is; only its name is that of one that ships.
BASE, REFERENCE = "asset:tiny-base", "asset:tiny-reference"


class Known:
    """Reward programs whose correctness is known without running them: solutions, and grammar mutants of them."""

    name, binary = "known", True

    def __init__(self, upside_down=False, heldout=slice(None)):
        self.upside_down, self.heldout = upside_down, heldout

    def judge(self, data, split, limit=None, model=None):
        rng, programs = random.Random(f"42/{split}"), []
        for i, problem in enumerate(islice(data.source.stream(split), limit)):
            mutant, span = data.source.mutate(problem, rng)
            good, bad = (0.0, 1.0) if self.upside_down and i % 2 else (1.0, 0.0)
            programs.append(RewardedProgram(problem, good))
            programs.append(RewardedProgram(replace(problem, solutions=(mutant,), noise_spans=(span,)), bad))
        return programs[self.heldout] if split == "validation" else programs


class StopAfter(Callback):
    """Save at a step and stop there, as if the run had been stopped on its way."""

    def __init__(self, step, file):
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)
            trainer.should_stop = True


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_model(BASE))


@pytest.fixture(scope="module")
def data_module(tokenizer):
    source = Synthetic(train_size=40, validation_size=24, test_size=0, noise=0.0)
    return lambda: MTPDataModule(source, Synthetic0Shot(), tokenizer, token_budget=640, max_length=256)


@pytest.fixture(scope="module")
def train(data_module):
    """Train a critic in a run directory of its own and return the module."""

    def run_it(
        run, value=None, rewards=None, algo_class=Critic, stop=None, ckpt=None, max_steps=1, heldout=8, parts=None,
        **changes,
    ):  # fmt: skip
        run.mkdir(exist_ok=True)
        seed_everything(42, verbose=False)
        stage_1 = dict(problems=8, heldout_problems=heldout, steps=6, check_every=2, token_budget=512, lr=0.003)
        algo = algo_class(
            tiny_model(),
            value=value or PolicyValue(BASE),
            rewards=rewards or Known(),
            pretraining=lambda rewards: CriticPretraining(rewards, **(stage_1 | changes)),
            localisation=lambda rewards: Localisation(rewards, problems=heldout),
            weighting=SoftWeighting(lam=1.0),
            optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
            **(parts or {}),
        )
        algo.run_dir = run
        trainer = Trainer(
            accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, limit_val_batches=1,
            val_check_interval=max_steps, check_val_every_n_epoch=None, num_sanity_val_steps=0,
            enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
            use_distributed_sampler=False, callbacks=[StopAfter(stop, run / "last.ckpt")] if stop else [],
        )  # fmt: skip
        trainer.fit(algo, data_module(), ckpt_path=ckpt, weights_only=True)
        return algo

    return run_it


@pytest.fixture(scope="module")
def well_trained(train, tmp_path_factory):
    """Teach a critic enough to know something: the run directory and the module."""
    run = tmp_path_factory.mktemp("well")
    network = ValueNetwork(REFERENCE, BASE)
    return run, train(run, network, problems=40, heldout=24, steps=120, check_every=60, token_budget=1024, lr=0.006)


def head_of(run):
    return read_head(run)["head"]


def known_by(run):
    return json.loads((run / "critic.json").read_text())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fitted_critic_knows_right_from_wrong_and_where(well_trained):
    run, algo = well_trained
    found = known_by(run)
    assert found["best"]["auc"] > 0.8
    assert found["best"]["in_span"] > 0.8 > 4 * found["best"]["chance"]
    assert found["best"]["first_token_auc"] > 0.9
    assert found["near_chance"] is False
    assert [point["step"] for point in found["curve"]] == [60, 120]
    # What stage 2 measures at the end is what stage 1 found: V is frozen and reads a model of its own.
    measured = algo.trainer.callback_metrics
    assert float(measured["localisation/in_span"]) == pytest.approx(found["best"]["in_span"])
    assert float(measured["localisation/sequence_auc"]) == pytest.approx(found["best"]["auc"])
    assert sorted(path.name for path in run.iterdir()) == ["critic.json", "value_head.safetensors"]


def test_the_token_that_breaks_a_program_weighs_less(well_trained, data_module):
    _, algo = well_trained
    data = data_module()
    wrong = [program for program in Known().judge(data, "validation", 24) if not program.reward]
    samples = RewardedSamples.of(wrong, data)
    batch = samples.batch(range(len(samples)))
    mask_BT = target_mask(batch["labels_BT"])
    with torch.no_grad():
        score_BT = algo.token_scores(batch, algo.model.mtp(batch["input_ids_BT"]))
    weight_BT = algo.weighting(score_BT, mask_BT)
    first_BT = batch["noise_BT"] & (batch["noise_BT"].cumsum(dim=1) == 1)
    assert weight_BT[first_BT].mean() < 0.4 < 0.9 < weight_BT[mask_BT & ~batch["noise_BT"]].mean()


def test_a_second_run_finds_the_head_and_another_setting_does_not(train, tmp_path, monkeypatch):
    train(tmp_path / "a")
    with monkeypatch.context() as patched:
        patched.setattr(ValueFitting, "step", lambda *_: pytest.fail("fitted again"))
        train(tmp_path / "b")
    assert equal(head_of(tmp_path / "a"), head_of(tmp_path / "b"))
    assert known_by(tmp_path / "a") == known_by(tmp_path / "b")
    train(tmp_path / "c", lr=0.001)
    assert not equal(head_of(tmp_path / "a"), head_of(tmp_path / "c"))


def test_programs_are_named_by_tokens_rewards_places_and_grouping(data_module):
    programs = Known().judge(data_module(), "train", 4)

    def name(changed):
        return RewardedSamples.of(changed, data_module()).fingerprint

    first, *rest = programs
    assert name(programs) == name(list(programs))
    others = [
        programs[1:],
        [replace(first, reward=0.0), *rest],
        [replace(first, problem=replace(first.problem, noise_spans=((0, 3),))), *rest],
        [replace(first, problem=replace(first.problem, task_id="another")), *rest],
    ]
    assert len({name(programs), *map(name, others)}) == 5


def test_a_killed_stage_1_goes_on_to_the_same_head(train, tmp_path, monkeypatch):
    step, taken = ValueFitting.step, []

    def killed(self, *args):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(ValueFitting, "step", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(tmp_path / "killed", lr=0.0021)
    assert list((tmp_path / "killed").iterdir()) == []
    taken.clear()
    monkeypatch.setattr(ValueFitting, "step", lambda self, *args: taken.append(1) or step(self, *args))
    train(tmp_path / "on", lr=0.0021)
    assert len(taken) == 4, "the first 2 of 6 steps were kept"
    # The same from the start, under another name in the cache: patience plays no part in three checks.
    train(tmp_path / "whole", lr=0.0021, patience=50)
    assert equal(head_of(tmp_path / "on"), head_of(tmp_path / "whole"))
    assert known_by(tmp_path / "on") == known_by(tmp_path / "whole")


def test_a_resumed_run_keeps_its_head_though_the_model_has_moved(train, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(run, max_steps=2, stop=1)
    before = head_of(run)
    monkeypatch.setattr(ValueFitting, "step", lambda *_: pytest.fail("fitted again"))
    resumed = train(run, max_steps=2, ckpt=run / "last.ckpt")
    assert equal(dict(resumed.value.state_dict()), before)
    # A run that is kept in S3 goes on in another directory: V comes with the checkpoint.
    elsewhere = train(tmp_path / "elsewhere", max_steps=2, ckpt=run / "last.ckpt")
    assert equal(dict(elsewhere.value.state_dict()), before)
    with pytest.raises(ConfigError, match=r"algo\.value: .*run has a value head that reads something else"):
        train(run, PolicyValue(BASE, surprise=False), max_steps=2, ckpt=run / "last.ckpt")


def test_a_model_that_has_moved_is_not_kept_under_the_name_of_the_one_it_was(train, tmp_path):
    train(tmp_path / "run", max_steps=2, stop=1)
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    del checkpoint["callbacks"]["CriticPretraining"]  # as another algorithm would have left it
    for tensor in checkpoint["state_dict"].values():
        tensor += 0.1
    torch.save(checkpoint, tmp_path / "moved.ckpt")
    train(tmp_path / "moved", max_steps=2, ckpt=tmp_path / "moved.ckpt", lr=0.0022)
    train(tmp_path / "fresh", lr=0.0022)
    train(tmp_path / "whole", lr=0.0022, patience=50)
    assert not equal(head_of(tmp_path / "moved"), head_of(tmp_path / "fresh"))
    assert equal(head_of(tmp_path / "fresh"), head_of(tmp_path / "whole"))


def test_stage_1_stops_when_the_auc_stops_rising(train, tmp_path):
    algo = train(tmp_path / "run", steps=20, patience=2, lr=1e-9)
    assert len(known_by(tmp_path / "run")["curve"]) < 10
    gc.collect()
    kept = [one for one in gc.get_objects() if isinstance(one, TrunkStates) and one.value is algo.value]
    assert not kept, "the states of the trunk would stay in memory for all of stage 2"


def test_a_critic_near_chance_warns_and_says_so(train, tmp_path, capsys):
    train(tmp_path / "run", rewards=Known(upside_down=True), heldout=24)
    assert known_by(tmp_path / "run")["near_chance"] is True
    assert "near chance (0.5)" in capsys.readouterr().err


@pytest.mark.parametrize("heldout", [slice(0), slice(None, None, 2)], ids=["none", "right ones only"])
def test_a_critic_that_cannot_be_measured_takes_all_steps_and_says_so(train, tmp_path, capsys, heldout):
    train(tmp_path / "run", rewards=Known(heldout=heldout), steps=12, patience=1)
    found = known_by(tmp_path / "run")
    assert found["near_chance"] is None and found["best"]["auc"] is None
    assert [point["step"] for point in found["curve"]] == [2, 4, 6, 8, 10, 12]
    assert "what it knows could not be measured: the validation split has" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bce", "mse", "pairwise"])
def test_ranks_share_a_batch_and_their_gradients_add_up_to_its_own(data_module, monkeypatch, kind):
    data, model = data_module(), tiny_model()
    programs = RewardedSamples.of(Known().judge(data, "train", 4), data)

    def first_step(rank, world):
        value, gradients = PolicyValue(BASE), []
        value.prepare(model)
        torch.nn.init.constant_(value.head.out.weight, 0.1)
        shared = {"rank": rank, "world_size": world}
        fitting = ValueFitting(value, model, programs, token_budget=4096, lr=0.1, kind=kind, **shared)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient: None)  # seen below instead
        monkeypatch.setattr(
            torch.nn.utils, "clip_grad_norm_", lambda own, _: gradients.extend(p.grad.clone() for p in own)
        )
        return float(fitting.step()), gradients

    loss, alone = first_step(0, 1)
    losses, gradients = zip(*(first_step(rank, 3) for rank in range(3)), strict=True)
    terms = terms_of(model, positions=4096)
    assert sum(losses) == pytest.approx(loss, rel=relative_rounding(terms, torch.float32))
    assert_same_up_to_rounding([sum(parts) for parts in zip(*gradients, strict=True)], alone, terms)
    loss, nothing = first_step(8, 9)  # more ranks than problems
    assert loss == 0 and all(bool((gradient == 0).all()) for gradient in nothing)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({}, r"no programs of different rewards among 8"), ({"value_loss": "pairwise"}, "rewards to one problem among 8")],
)
def test_rewards_that_teach_nothing_are_refused(train, tmp_path, changes, sentence):
    class Apart(Known):
        def judge(self, *args, **kwargs):
            programs = super().judge(*args, **kwargs)
            return [p for i, p in enumerate(programs) if (i // 2 + i) % 2] if changes else programs[::2]

    with pytest.raises(DataNotFoundError, match=sentence + r".* raise algo\.pretraining\.problems"):
        train(tmp_path / "run", rewards=Apart(), **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gamma": 1.5}, r"algo\.pretraining\.gamma = 1\.5 must be a number in \[0, 1\]"),
        ({"value_loss": "l1"}, r"algo\.pretraining\.value_loss = 'l1' must be one of bce, mse, pairwise"),
        ({"steps": 0}, r"algo\.pretraining\.steps = 0 must be a whole number, at least 1"),
        ({"heldout_problems": 0}, r"algo\.pretraining\.heldout_problems = 0 must be a whole number, .* or null"),
    ],
)
def test_mistakes_are_one_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        CriticPretraining(Known(), **changes)


def test_rewards_that_are_no_probability_get_a_loss_that_fits_them():
    rewards = Known()
    rewards.binary = False
    assert CriticPretraining(rewards).loss["kind"] == "mse"
    with pytest.raises(ConfigError, match="bce needs rewards of 0 and 1"):
        CriticPretraining(rewards, value_loss="bce")


def test_combined_is_rho1_at_0_and_critic_at_1(train, tmp_path):
    def step_of(mix=None, algo_class=Combined):
        parts = {} if mix is None else {"mix": mix, "reference": InMemory(tiny_model(seed=1))}
        algo = train(tmp_path / f"{algo_class.name}-{mix}", algo_class=algo_class, parts=parts)
        return algo.last_step

    def order_of(step):
        return [step["score_BT"][row][step["mask_BT"][row]].argsort(stable=True).tolist() for row in range(3)]

    assert order_of(step_of(1.0)) == order_of(step_of(algo_class=Critic))
    step = step_of(0.0)
    rho1 = Rho1(tiny_model(), reference=InMemory(tiny_model(seed=1)), weighting=SoftWeighting(), optimizer=None)
    batch, mask_BT = step["batch"], step["mask_BT"]
    with torch.no_grad():
        gap_BT = rho1.token_scores(batch, rho1.model.mtp(batch["input_ids_BT"]))
    for row in range(3):
        mine, theirs = step["score_BT"][row][mask_BT[row]], gap_BT[row][mask_BT[row]]
        torch.testing.assert_close((theirs - theirs.mean()) / theirs.std(correction=0), mine, rtol=1e-3, atol=1e-3)
