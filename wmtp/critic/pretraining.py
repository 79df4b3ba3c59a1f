"""Teach the critic's value head what makes programs fail, before training starts (stage 1).

[연구 맥락] 가중치를 주려면 V가 먼저 무언가를 알아야 한다 (MATHS.md 5절). 그래서 학습 전에 보상이 있는 프로그램으로
    V를 맞추고, 배우지 않은 문제에서 무엇을 아는지 잰다: 맞은 프로그램을 알아보는지(AUC), 틀린 자리를 찾는지
    (localisation).
[동작] 프로그램 채점(rewards) → 머리 학습 → 배우지 않은 문제의 AUC가 오르지 않으면 멈추고, 가장 좋았던 머리를 쓴다.
    머리는 내용으로 이름 지어 캐시에 두므로, 같은 조건의 다음 실행은 읽기만 한다. 중간에 죽어도 이어서 한다.
    실행 폴더: value_head.safetensors, value_head.pt (같은 것), critic.json (곡선과 마지막 숫자).
    체크포인트에도 V가 있다. 이어서 하는 실행은 그것을 쓴다: 그때의 모델은 V를 맞춘 모델이 아니다.
[디버깅] AUC가 우연(0.5) 근처면 경고하고 보고서에 적는다. 그 가중치에는 뜻이 없다.
"""

import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp.cache.entries import alone, entry_file, read_entry, write_entry
from wmtp.cache.fingerprint import code_of, digest_of
from wmtp.cache.value_heads import partial_of, read_head, read_partial, write_head, write_partial
from wmtp.critic import fitting, rewarded
from wmtp.critic import value as value_models
from wmtp.critic.fitting import TrunkStates, ValueFitting, check_value_loss, measure
from wmtp.critic.rewarded import RewardedSamples
from wmtp.errors import ConfigError, DataNotFoundError, is_whole_number
from wmtp.maths import credit
from wmtp.progress import progress_bar
from wmtp.storage.files import write_atomically

LEAST_AUC = 0.6  # below this a critic knows next to nothing


class CriticPretraining(Callback):
    """Fit the value head of `algo=critic` before the first step, and keep it fresh after that where asked.

    Args:
        rewards: 프로그램에 보상을 주는 것 (`wmtp.critic.rewards`).
        problems: 배우는 데 쓸 학습 문제의 수. None이면 모두.
        heldout_problems: 재는 데 쓸 검증 문제의 수. None이면 모두.
        steps: 스텝 수의 상한.
        token_budget: 배치 하나의 자리 수 상한.
        lr: AdamW의 학습률.
        value_loss: "bce", "mse", "pairwise". None이면 보상이 0과 1일 때 bce, 아니면 mse.
        gamma: 할인율 γ, [0, 1].
        gae_lambda: GAE의 λ, [0, 1].
        sparsity: V의 움직임 mean |δ|에 붙는 계수, 0 이상. 클수록 V가 드물게 움직인다.
        check_every: 몇 스텝마다 잴지.
        patience: AUC가 이만큼 잇달아 오르지 않으면 멈춘다.
        refresh: 학습 중에 몇 스텝마다 V를 다시 맞출지. 0이면 얼려 둔다. 1이면 함께 학습한다.
        refresh_steps: 다시 맞출 때의 스텝 수.
        coefficient: 다시 맞출 때의 학습률 배수. 함께 학습할 때 V의 손실에 붙는 계수와 같은 일을 한다.
        seed: 순서를 정하는 씨앗.
    """

    def __init__(
        self,
        rewards: Any,
        problems: int | None = 1000,
        heldout_problems: int | None = 200,
        steps: int = 2000,
        token_budget: int = 2048,
        lr: float = 2e-3,
        value_loss: str | None = None,
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        sparsity: float = 1.0,
        check_every: int = 200,
        patience: int = 3,
        refresh: int = 0,
        refresh_steps: int = 1,
        coefficient: float = 1.0,
        seed: int = 42,
    ) -> None:
        for key, number, least in (
            ("steps", steps, 1),
            ("token_budget", token_budget, 2),
            ("check_every", check_every, 1),
            ("patience", patience, 1),
            ("refresh", refresh, 0),
            ("refresh_steps", refresh_steps, 1),
        ):
            if not is_whole_number(number, least):
                raise ConfigError(f"algo.pretraining.{key} = {number!r} must be a whole number, at least {least}.")
        for key, number in (("problems", problems), ("heldout_problems", heldout_problems)):
            if number is not None and not is_whole_number(number):
                raise ConfigError(
                    f"algo.pretraining.{key} = {number!r} must be a whole number, at least 1, or null for all."
                )
        for key, number, inside, range_ in (
            ("gamma", gamma, lambda v: 0 <= v <= 1, "in [0, 1]; 1 is no decay"),
            ("gae_lambda", gae_lambda, lambda v: 0 <= v <= 1, "in [0, 1]; 1 is no decay"),
            ("sparsity", sparsity, lambda v: v >= 0, ">= 0; 0 lets V move everywhere, try 1.0"),
            ("lr", lr, lambda v: v > 0, "> 0; try 0.002"),
            ("coefficient", coefficient, lambda v: v > 0, "> 0; try 1.0, and refresh=0 to freeze V"),
        ):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not inside(number):
                raise ConfigError(f"algo.pretraining.{key} = {number!r} must be a number {range_}.")
        value_loss = value_loss or ("bce" if rewards.binary else "mse")
        check_value_loss(value_loss, rewards.binary)
        self.rewards, self.problems, self.heldout_problems = rewards, problems, heldout_problems
        self.steps, self.token_budget, self.check_every, self.patience = steps, token_budget, check_every, patience
        self.loss = {
            "kind": value_loss,
            "lr": lr,
            "gamma": gamma,
            "gae_lambda": gae_lambda,
            "sparsity": sparsity,
            "seed": seed,
        }
        self.refresh, self.refresh_steps, self.coefficient = refresh, refresh_steps, coefficient
        self.fitting: ValueFitting | None = None
        self._value: Any = None
        self._identity = ""  # of what V reads
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge programs, fit the head or find it, and say what it knows."""
        value = self._value = pl_module.value
        value.binary = self.rewards.binary
        value.prepare(pl_module.model)
        value.to(pl_module.device)
        run = pl_module.run_dir
        if run is None:  # profile_memory=true: a head that knows nothing is as large
            return
        earlier = self._earlier(trainer, run)
        if earlier and not self.refresh:
            value.load_state_dict(earlier["head"])
            return
        train = self._programs(trainer, pl_module, "train", self.problems)
        self.fitting = ValueFitting(
            value,
            pl_module.model,
            train,
            token_budget=self.token_budget,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            **self.loss,
        )
        if self._restored:
            self._go_on(self._restored)
            return
        heldout = self._programs(trainer, pl_module, "validation", self.heldout_problems)
        head, curve = self._fit_or_find(trainer, pl_module, train, heldout)
        value.load_state_dict(head)
        self.fitting.restart(self.steps)
        if not self.refresh:
            self.fitting = None  # and the memory that it holds
        if trainer.is_global_zero:
            self._tell(trainer, run, curve, train, heldout)
            write_head(run, head, self._identity)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Fit V to the model as it is by now, every `refresh` steps."""
        step, between = trainer.global_step, batch_idx % trainer.accumulate_grad_batches
        if self.fitting and step and step % self.refresh == 0 and not between:
            with trainer.precision_plugin.forward_context():
                for _ in range(self.refresh_steps):
                    self.fitting.step(self.coefficient)
            self.fitting.states.forget()  # the model moves on

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave V in the run directory as it is in the end."""
        if self.fitting and trainer.is_global_zero:
            write_head(pl_module.run_dir, self._value.state_dict(), self._identity)

    def state_dict(self) -> dict[str, Any]:
        """Keep V in the checkpoint, and how to go on with it where it changes along the way."""
        if not self._identity:
            return {}
        state = self.fitting.state_dict() if self.fitting else {"head": self._value.state_dict()}
        return {**state, "value": self._identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with V as it was; a sharded model and its callbacks are restored only after the start of the fit."""
        self._restored = state_dict or None
        if self._value is not None and self._restored:
            self._go_on(self._restored)

    def _go_on(self, state: dict[str, Any]) -> None:
        if self.fitting and "optimizer" in state:
            self.fitting.load_state_dict(state)
        else:
            self._value.load_state_dict(state["head"])

    def _earlier(self, trainer: Trainer, run: Path) -> dict[str, Any] | None:
        """Find V as this run had it, in its checkpoint or its directory: what the first rank finds holds for all.

        Raises:
            ConfigError: 다른 것을 읽는 V일 때.
        """
        identity, earlier = "", None
        if trainer.is_global_zero:
            identity, earlier = digest_of(self._value.identity), self._restored or read_head(run)
        self._identity, earlier = trainer.strategy.broadcast((identity, earlier))
        if earlier and earlier["value"] != self._identity:
            raise ConfigError(
                f"algo.value: {run} has a value head that reads something else; go on with the algo.value (and its "
                "model) that the run began with, or start a new run without ckpt."
            )
        return earlier

    def _programs(self, trainer: Trainer, pl_module: LightningModule, split: str, limit: int | None) -> RewardedSamples:
        data = trainer.datamodule
        samples = RewardedSamples.of(self.rewards.judge(data, split, limit, pl_module.model), data)
        if split == "train":
            together = [samples.reward_S[rows] for rows in samples.problems]
            alike = [reward_S.min() == reward_S.max() for reward_S in together]
            pairwise = self.loss["kind"] == "pairwise"
            if all(alike) if pairwise else len(samples.reward_S.unique()) < 2:
                raise DataNotFoundError(
                    f"algo={pl_module.name} found no programs of different rewards {'to one problem ' * pairwise}among "
                    f"{limit or 'all'} problems of {data.source.name} ({len(samples)} programs of at most "
                    f"{data.length} tokens); raise algo.pretraining.problems, or data.max_length and "
                    "data.token_budget, or choose another algo/rewards."
                )
        if not self.rewards.binary and len(samples) > 1:
            reward_S = samples.reward_S.double()
            samples.reward_S.copy_((reward_S - reward_S.mean()) / reward_S.std().clamp(min=1e-6))
        return samples

    def _fit_or_find(
        self, trainer: Trainer, pl_module: LightningModule, train: RewardedSamples, heldout: RewardedSamples
    ) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        """Return the fitted head and its curve, from the cache where they are there."""
        file = None
        # What is not the model that the key names (a checkpoint was loaded into it) has no place in the cache.
        moved = trainer.ckpt_path and not trainer.strategy.restore_checkpoint_after_setup
        if trainer.is_global_zero and not (moved and self._value.trunk(pl_module.model) is pl_module.model):
            file = entry_file("value_head", self._key(trainer, train, heldout))
        # The first rank holds the entry's lock for all; two runs that start together fit it once.
        with alone(file) if file else nullcontext():
            entry = trainer.strategy.broadcast(read_entry(file) if file else None)
            if entry is None:
                with trainer.precision_plugin.forward_context():
                    entry = self._fit(trainer, pl_module.model, heldout, file)
                if file:
                    write_entry(file, entry)
                    partial_of(file).unlink(missing_ok=True)
        head = {name: tensor for name, tensor in entry.items() if name != "curve"}
        return head, json.loads(bytes(entry["curve"].tolist()))

    def _key(self, trainer: Trainer, train: RewardedSamples, heldout: RewardedSamples) -> dict[str, Any]:
        """Return everything that decides the fitted head; the number of ranks does not."""
        return {
            "value": self._identity,
            "precision": str(trainer.precision),
            "binary": self.rewards.binary,
            "programs": [train.fingerprint, heldout.fingerprint],
            "limits": [self.steps, self.token_budget, self.check_every, self.patience],
            "loss": self.loss,
            "code": code_of(fitting, value_models, credit, rewarded, sys.modules[__name__]),
        }

    def _fit(self, trainer: Trainer, model: Any, heldout: RewardedSamples, file: Path | None) -> dict[str, Tensor]:
        """Fit until the steps are done or the AUC stops rising; return the best head and the curve."""
        fitting, value, curve, best = self.fitting, self._value, [], None
        partial = trainer.strategy.broadcast(read_partial(file) if file else None)
        if partial is not None:
            fitting.load_state_dict(partial["fitting"])
            curve, best = partial["curve"], partial["best"]
        loss_sum = torch.zeros(1, device=value.head.bias.device)
        unseen = TrunkStates(value, model, heldout, heldout.batches(self.token_budget))
        with progress_bar("critic: stage 1", self.steps, fitting.steps_taken, trainer.is_global_zero, "step") as bar:
            while fitting.steps_taken < self.steps and not self._stale(curve):
                loss_sum += fitting.step(1 - fitting.steps_taken / self.steps)
                bar.update()
                if fitting.steps_taken % self.check_every and fitting.steps_taken < self.steps:
                    continue
                since = fitting.steps_taken - (curve[-1]["step"] if curve else 0)
                loss = float(trainer.strategy.reduce(loss_sum, reduce_op="sum")) / since
                if not math.isfinite(loss):
                    raise ConfigError(
                        f"algo.pretraining: the loss of V is {loss} after {fitting.steps_taken} steps; lower "
                        f"algo.pretraining.lr = {self.loss['lr']}, or give algo.value a model whose weights are finite."
                    )
                # One rank's numbers for all: a last digit that differs would let some stop while others wait.
                found = trainer.strategy.broadcast(measure(unseen))
                curve.append({"step": fitting.steps_taken, "loss": loss, **found})
                loss_sum.zero_()
                if _auc(curve[-1]) >= max(map(_auc, curve)):
                    best = {name: tensor.clone() for name, tensor in value.state_dict().items()}
                bar.set_postfix(auc=f"{found['auc']:.3f}", in_span=f"{found.get('in_span', math.nan):.2f}")
                if file:
                    write_partial(file, {"fitting": fitting.state_dict(), "curve": curve, "best": best})
        text = torch.tensor(list(json.dumps(curve).encode()), dtype=torch.uint8)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in best.items()} | {"curve": text}

    def _stale(self, curve: list[dict[str, float]]) -> bool:
        """Say whether the last `patience` checks were no better than the best before them."""
        if len(curve) <= self.patience or not _measured(curve[-1]):
            return False
        return max(map(_auc, curve[-self.patience :])) <= max(map(_auc, curve[: -self.patience])) + 1e-3

    def _tell(
        self,
        trainer: Trainer,
        run: Path,
        curve: list[dict[str, float]],
        train: RewardedSamples,
        heldout: RewardedSamples,
    ) -> None:
        """Write critic.json, log the numbers, and warn of a critic that knows next to nothing."""
        best = max(reversed(curve), key=_auc)
        near_chance = _auc(best) < LEAST_AUC if _measured(best) else None
        found = {
            "rewards": self.rewards.name,
            "value": self._value.name,
            "programs": {"train": len(train), "heldout": len(heldout)},
            "near_chance": near_chance,
            "best": {key: _plain(number) for key, number in best.items()},
            "curve": [{key: _plain(number) for key, number in point.items()} for point in curve],
        }
        write_atomically(run / "critic.json", (json.dumps(found, indent=1) + "\n").encode())
        numbers = {f"critic/{key}": number for key, number in best.items() if number == number and key != "step"}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
        if near_chance is None:
            print(
                f"critic: WARNING: what it knows could not be measured: the validation split has {len(heldout)} "
                "programs, not both right and wrong ones, so its weights may mean anything. Give the data a validation "
                "split, or raise algo.pretraining.heldout_problems.",
                file=sys.stderr,
            )
            return
        place = (
            f", lowest value change inside the wrong span {best['in_span']:.0%}" if "critic/in_span" in numbers else ""
        )
        print(f"critic: sequence AUC {best['auc']:.3f} on {len(heldout)} held-out programs{place}")
        if near_chance:
            print(
                f"critic: WARNING: an AUC of {best['auc']:.3f} is near chance (0.5), so its weights say little about "
                "the tokens. Give it more algo.pretraining.problems, a better algo.value.path, or use algo=rho1.",
                file=sys.stderr,
            )


def _measured(point: dict[str, float]) -> bool:
    """Say whether there were right and wrong programs to measure on."""
    return point["auc"] == point["auc"]


def _auc(point: dict[str, float]) -> float:
    """Return the AUC; one that is not defined counts as chance."""
    return point["auc"] if _measured(point) else 0.5


def _plain(number: float) -> float | None:
    """JSON knows no NaN."""
    return number if number == number else None
