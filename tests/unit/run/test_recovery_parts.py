"""Hold the promises of the guards and of recovery on a real, very small training run."""

import json
import math
import os
import re
import struct
import sys
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer
from safetensors.torch import load_file

from tests.tiny import InMemory, tiny_model
from wmtp.algos.optimizers import adamw
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks.finite_guard import FiniteGuard
from wmtp.callbacks.graceful_stop import GracefulStop
from wmtp.callbacks.learning_rate_scale import LearningRateScale
from wmtp.callbacks.loss_explosion import LossExplosion
from wmtp.callbacks.step_check import StepCheck
from wmtp.checkpoints.integrity import check_bits
from wmtp.checkpoints.last_good import last_good, replace_by_link
from wmtp.cli import build, config_dir, explain
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import CheckpointError, ConfigError, LossExplosionError, NonFiniteError
from wmtp.maths.weighting import SoftWeighting
from wmtp.run.attempts import read_attempts, with_changes, write_attempt
from wmtp.run.directory import unfinished_run
from wmtp.run.failure import describe
from wmtp.run.log import keep_log
from wmtp.run.recovery import Recovery
from wmtp.run.start import Start, find_start


def rho1():
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # noqa: E731
    model, reference = (tiny_model(seed, num_hidden_layers=1) for seed in (42, 43))
    return Rho1(model, InMemory(reference), weighting=SoftWeighting(lam=1.0), optimizer=sgd)


class Break(Callback):
    """Put a bad value into one place at one step."""

    def __init__(self, place: str, step: int = 2, micro_batch: int = 0, value: float = math.nan) -> None:
        self.place, self.step, self.micro_batch, self.value = place, step, micro_batch, value
        self.before = None

    def on_train_batch_start(self, trainer, algo, batch, batch_idx):
        self.now = trainer.global_step == self.step and batch_idx % trainer.accumulate_grad_batches == self.micro_batch
        if not self.now or self.place in ("gradient", "nothing"):
            return
        name, right = {
            "loss": ("_loss", algo._loss),
            "score": ("token_scores", algo.token_scores),
            "weight": ("weighting", algo.weighting),
        }[self.place]

        def wrong(*args, **kwargs):
            setattr(algo, name, right)
            answer = right(*args, **kwargs)
            if self.place == "loss":
                return answer._replace(loss=answer.loss * self.value)
            answer = answer.clone()
            answer[0] = self.value
            return answer

        setattr(algo, name, wrong)

    def on_after_backward(self, trainer, algo):
        if self.now and self.place == "gradient":
            algo.model.lm_head.weight.grad[3, 5] = self.value

    def on_before_optimizer_step(self, trainer, algo, optimizer):
        if trainer.global_step == self.step:
            self.before = [p.detach().clone() for p in algo.parameters()]


def train(run_dir, algo, tokenizer, callbacks, ckpt_path=None, **kwargs):
    source = Synthetic(train_size=60, validation_size=4, test_size=0, noise=0.5)
    data = MTPDataModule(source, Synthetic0Shot(), tokenizer, token_budget=1024)
    trainer = Trainer(
        accelerator="cpu", default_root_dir=run_dir, logger=False, callbacks=callbacks, limit_val_batches=0,
        enable_model_summary=False, enable_progress_bar=False, log_every_n_steps=1, use_distributed_sampler=False,
        **{"max_steps": 4, "gradient_clip_val": 1.0, "enable_checkpointing": False, **kwargs},
    )  # fmt: skip
    trainer.fit(algo, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("score", math.inf, "score is not finite at step 2"),
        ("weight", math.nan, "weight is not finite at step 2"),
        ("loss", math.nan, "loss is not finite at step 2"),
        ("gradient", math.nan, "gradient of model.lm_head.weight is not finite at step 2"),
        ("gradient", -math.inf, "gradient of model.lm_head.weight is not finite at step 2"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_with_a_value_that_is_not_finite_is_not_taken_and_is_kept(
    tmp_path, tokenizer, place, value, said, accumulate
):
    algo, fault = rho1(), Break(place, micro_batch=0, value=value)
    with pytest.raises(NonFiniteError, match=said) as raised:
        train(tmp_path, algo, tokenizer, [fault, FiniteGuard(tmp_path)], accumulate_grad_batches=accumulate)
    assert all(torch.equal(a, b) for a, b in zip(fault.before, algo.parameters(), strict=True))
    folder = tmp_path / "failures" / "step-2"
    assert raised.value.recipe == str(folder)
    recipe = json.loads((folder / "rank-0.json").read_text())
    assert recipe["tensor"].startswith(place)
    assert len(recipe["micro_batches"]) == accumulate
    assert all(ids for batch in recipe["micro_batches"] for ids in batch["problem_ids"])
    tensors = load_file(folder / "rank-0.safetensors")
    shape = recipe["micro_batches"][0]["statistics"]["input_ids_BT"]["shape"]
    assert list(tensors["0/input_ids_BT"].shape) == shape == list(tensors["0/labels_BT"].shape)
    assert (recipe["place"]["epoch"], recipe["place"]["position"]) == (0, 3 * accumulate)


class CountReductions(Callback):
    """Count what is added up over the ranks between the backward pass and the step."""

    def __init__(self):
        self.asked = []

    def on_train_start(self, trainer, algo):
        reduce = trainer.strategy.reduce

        def counted(tensor, *args, **kwargs):
            self.asked.append(len(tensor))
            return reduce(tensor, *args, **kwargs)

        trainer.strategy.reduce = counted


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_whole_run_passes_the_guards_with_one_reduction_a_step(tmp_path, tokenizer, accumulate):
    counted = CountReductions()
    guards = [FiniteGuard(tmp_path), LossExplosion(window=2), GracefulStop(tmp_path)]
    trainer = train(
        tmp_path, rho1(), tokenizer, [counted, *guards], accumulate_grad_batches=accumulate, enable_checkpointing=True
    )
    assert trainer.global_step == 4
    assert counted.asked == [4 + 1 + 2] * 4 + [2]  # the last: a signal after the last step was decided on
    assert not (tmp_path / "failures").exists()


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_any_one_of_the_guards_can_be_left_out(tmp_path, tokenizer, left_out):
    counted = CountReductions()
    guards = [FiniteGuard(tmp_path), LossExplosion(window=2), GracefulStop(tmp_path)]
    del guards[left_out]
    train(tmp_path, rho1(), tokenizer, [counted, *guards], max_steps=1, enable_checkpointing=True)
    assert counted.asked[0] == 7 - (4, 1, 2)[left_out]


def test_what_is_not_finite_is_said_before_what_explodes_and_both_before_a_wish_to_stop(tmp_path, tokenizer):
    guards = [FiniteGuard(tmp_path), LossExplosion(factor=3, window=2), GracefulStop(tmp_path)]
    fault = Break("loss", step=3, value=math.inf)
    with pytest.raises(NonFiniteError, match="loss is not finite at step 3"):
        train(tmp_path, rho1(), tokenizer, [fault, *guards], enable_checkpointing=True)


def test_callbacks_are_called_in_the_order_in_which_the_config_names_them(tmp_path):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", [f"run_dir={tmp_path}"])
    callbacks = build(cfg.callbacks)
    trainer = build(cfg.trainer, callbacks=list(callbacks.values()), logger=False)
    assert trainer.callbacks == list(callbacks.values())
    checks = [callback for callback in trainer.callbacks if isinstance(callback, StepCheck)]
    assert [type(check) for check in checks] == [FiniteGuard, LossExplosion, GracefulStop]


def test_float32_is_no_advice_where_it_is_set_already(tmp_path, tokenizer):
    for precision, advice in (("32-true", r"smaller optimizer\.lr\."), ("bf16-mixed", "or trainer.precision=32-true")):
        with pytest.raises(NonFiniteError, match=advice):
            train(tmp_path, rho1(), tokenizer, [Break("loss"), FiniteGuard(tmp_path)], precision=precision)


def test_a_loss_far_above_the_recent_ones_stops_the_run(tmp_path, tokenizer):
    guard = LossExplosion(factor=3, window=4)
    with pytest.raises(LossExplosionError, match="at step 3 is more than 3 times the usual"):
        train(tmp_path, rho1(), tokenizer, [Break("loss", step=3, value=10.0), guard])
    assert len(guard.recent) == 3
    again = LossExplosion(factor=3, window=4)
    again.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert again.recent == guard.recent
    with pytest.raises(ConfigError, match=r"loss_explosion\.factor = 1 must be"):
        LossExplosion(factor=1)


def test_the_scaled_learning_rate_is_the_one_that_is_used_also_after_a_resume(tmp_path, tokenizer):
    def rates(scale, ckpt_path=None, save=None):
        seen = []

        class Watch(Callback):
            def on_before_optimizer_step(self, trainer, algo, optimizer):
                seen.append(optimizer.param_groups[0]["lr"])

            def on_train_batch_end(self, trainer, *_):
                if save and trainer.global_step == save:
                    trainer.save_checkpoint(tmp_path / f"{save}.ckpt")

        callbacks = [Watch(), *([LearningRateScale(scale)] if scale else [])]
        train(tmp_path, rho1(), tokenizer, callbacks, ckpt_path=ckpt_path, max_steps=6)
        return seen

    whole = rates(None, save=2)
    halved = rates(0.5, tmp_path / "2.ckpt", save=4)
    assert halved == pytest.approx([rate / 2 for rate in whole[2:]])
    assert rates(0.25, tmp_path / "4.ckpt") == pytest.approx([rate / 4 for rate in whole[4:]])
    assert rates(0.5, tmp_path / "4.ckpt") == halved[2:]
    assert rates(0.5) == pytest.approx([rate / 2 for rate in whole])
    assert rates(1.0, tmp_path / "2.ckpt") == whole[2:]


def test_a_run_that_goes_on_has_the_optimizer_of_its_config_and_not_of_its_checkpoint(tmp_path, tokenizer):
    def trained(steps, ckpt_path=None, **optimizer):
        seen = []

        class Watch(Callback):
            def on_before_optimizer_step(self, trainer, algo, optimizer):
                seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]))

        algo = rho1()
        algo.optimizer = partial(adamw, **optimizer)
        trainer = train(tmp_path, algo, tokenizer, [Watch(), LearningRateScale()], ckpt_path=ckpt_path, max_steps=steps)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return seen

    trained(3, lr=0.1, weight_decay=0.5)
    longer = trained(6, tmp_path / "end.ckpt", lr=0.01, weight_decay=0.25)
    whole = trained(6, lr=0.01, weight_decay=0.25)
    assert longer == whole[3:] and all(rate > 0 for rate, _ in longer)


def save(file, step, value=1.0):
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {"wmtp": {}, "global_step": step, "state_dict": {"w": torch.tensor([value])}, "optimizer_states": []}
    torch.save(state, file)
    os.utime(file, (step, step))


def test_the_newest_checkpoint_that_is_whole_and_finite_is_good_and_bad_ones_are_set_aside(tmp_path):
    save(tmp_path / "0001.ckpt", 1)
    save(tmp_path / "best.ckpt", 2)
    save(tmp_path / "last.ckpt", 4, math.nan)
    save(tmp_path / "0003.ckpt", 3)
    (tmp_path / "0003.ckpt").write_bytes((tmp_path / "0003.ckpt").read_bytes()[:300])
    assert last_good(tmp_path) == (tmp_path / "best.ckpt", 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "0001.ckpt", "0003.ckpt.bad", "best.ckpt", "last.ckpt.bad"
    ]  # fmt: skip
    assert last_good(tmp_path, before_step=2) == (tmp_path / "0001.ckpt", 1)
    replace_by_link(tmp_path / "0001.ckpt", tmp_path / "last.ckpt")
    save(tmp_path / "new", 9)
    (tmp_path / "new").replace(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "0001.ckpt")["global_step"] == 1
    assert last_good(tmp_path / "none") is None


def flip_a_bit(file, bit=0):
    """Flip one bit of the value that `save` has written."""
    content = bytearray(file.read_bytes())
    content[content.index(struct.pack("<f", 1.0)) + bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def test_auto_takes_the_newest_checkpoint_that_is_as_it_was_written(tmp_path, capsys):
    folder = tmp_path / "run" / "checkpoints"
    save(folder / "0002.ckpt", 2)
    save(folder / "0001.ckpt", 1)
    save(folder / "last.ckpt", 3)
    auto = lambda **more: find_start("auto", tmp_path, "run", **more)  # noqa: E731
    assert auto() == Start(tmp_path / "run", folder / "last.ckpt") and capsys.readouterr().err == ""
    flip_a_bit(folder / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged: .* is not as it was written"):
        find_start("last", tmp_path, "run")
    names = sorted(file.name for file in folder.iterdir())
    assert auto(touch=False) == Start(tmp_path / "run", folder / "0002.ckpt")
    assert sorted(file.name for file in folder.iterdir()) == names
    assert auto() == Start(tmp_path / "run", folder / "last.ckpt")
    assert torch.load(folder / "last.ckpt")["global_step"] == 2 and (folder / "last.ckpt.bad").exists()
    assert "last.ckpt is damaged, or holds NaN; going on from 0002.ckpt at step 2" in capsys.readouterr().err
    for name in ("0002.ckpt", "0001.ckpt"):  # last.ckpt is a second name of the first
        flip_a_bit(folder / name)
    assert auto() == Start(tmp_path / "run", None)
    assert "going on from the beginning" in capsys.readouterr().err


def test_every_single_bit_of_a_tensor_counts(tmp_path):
    save(tmp_path / "last.ckpt", 1)
    check_bits(tmp_path / "last.ckpt")
    whole = (tmp_path / "last.ckpt").read_bytes()
    for bit in range(32):
        (tmp_path / "last.ckpt").write_bytes(whole)
        flip_a_bit(tmp_path / "last.ckpt", bit)
        with pytest.raises(CheckpointError, match="is damaged"):
            check_bits(tmp_path / "last.ckpt")


def test_what_was_changed_is_kept_once_and_applied_again(tmp_path):
    cfg = OmegaConf.create(
        {
            "callbacks": {"learning_rate": {"scale": 1.0}},
            "data": {"token_budget": 512, "max_length": 256, "pieces": 1},
            "trainer": {"accumulate_grad_batches": 3, "precision": "bf16-mixed"},
        }
    )  # fmt: skip
    failure, recovery = describe(NonFiniteError("loss"), step=5), Recovery(max_attempts=5)
    for number, name in enumerate(["lower rate", "smaller batch", "higher precision", "lower rate"]):
        before = read_attempts(tmp_path)
        remedy = recovery.remedy("non_finite", with_changes(cfg, before), before)
        assert remedy[0] == name
        write_attempt(tmp_path, failure, remedy, known=number)
        write_attempt(tmp_path, failure, remedy, known=number)  # another rank, a moment later
    before = read_attempts(tmp_path)
    write_attempt(tmp_path, failure, recovery.remedy("out_of_memory", with_changes(cfg, before), before))
    before = read_attempts(tmp_path)
    changed = with_changes(cfg, before)
    assert changed.callbacks.learning_rate.scale == 0.25
    assert (changed.data.token_budget, changed.trainer.precision) == (256, "32-true")
    assert (changed.data.pieces, changed.trainer.accumulate_grad_batches) == (2, 6)
    assert recovery.remedy("out_of_memory", changed, before) is None  # enough
    assert Recovery(max_attempts=9).remedy("crash", changed, before) is None
    with pytest.raises(ConfigError, match=r"recovery\.max_attempts = -1 must be a whole number"):
        Recovery(max_attempts=-1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"changes": {"callbacks.x._target_": "os.system"}}]', "changes callbacks.x._target_ to 'os.system'"),
        ('[{"changes": {"trainer.precision": {"_target_": "os.system"}}}]', "changes trainer.precision to {"),
        ('[{"changes": {"trainer.precision": "${oc.env:HOME}"}}]', "changes trainer.precision to "),
        ('[{"changes": {"data.pieces": 2', "is damaged"),
        ('{"changes": 1}', "is damaged"),
        ("[[]]", "is damaged"),
    ],
)
def test_nothing_but_what_recovery_changes_is_taken_from_a_file(tmp_path, text, said):
    (tmp_path / "attempts.json").write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        read_attempts(tmp_path)


def test_the_log_has_what_was_printed_without_secrets_and_progress_bars(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "hush-hush")
    with keep_log(tmp_path):
        print("\x1b[1mhello\x1b[0m hush-hush")
        print("\r 10 %", end="")
        print("oh", file=sys.stderr)
    print("after")
    assert (tmp_path / "train.log").read_text() == "hello ***\noh\n"
    assert "10 %" in capsys.readouterr().out


def test_no_memory_that_no_change_helps_is_one_sentence():
    said = explain(RuntimeError("CUDA out of memory. Tried to allocate 20 GiB.\nAnd more."))
    assert said.startswith(
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB. Compute batches in more pieces"
    )
    assert "\n" not in said and explain(RuntimeError("something else")) is None


def test_auto_goes_on_with_what_has_not_come_to_its_end(tmp_path):
    assert unfinished_run(tmp_path, "run") is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2" / "model").mkdir(parents=True)
    assert unfinished_run(tmp_path, "run") == tmp_path / "run-2"
    (tmp_path / "run-2" / "model" / "config.json").touch()
    assert unfinished_run(tmp_path, "run") is None
