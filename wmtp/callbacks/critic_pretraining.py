"""Teach the critic's value head what makes programs fail, before training starts (stage 1).

[연구 맥락] 가중치를 주려면 V가 먼저 무언가를 알아야 한다 (MATHS.md 5절). 그래서 학습 전에 보상이 있는 프로그램으로
    V를 맞추고, 배우지 않은 문제에서 무엇을 아는지 잰다: 맞은 프로그램을 알아보는지(AUC), 틀린 자리를 찾는지
    (localisation).
[동작] 프로그램 채점(rewards) → 머리 학습 → 배우지 않은 문제의 AUC가 오르지 않으면 멈추고, 가장 좋았던 머리를 쓴다.
    머리는 내용으로 이름 지어 캐시에 두므로, 같은 조건의 다음 실행은 읽기만 한다. 중간에 죽어도 이어서 한다.
    실행 폴더: value_head.safetensors, value_head.pt (같은 것), critic.json (곡선과 마지막 숫자).
[디버깅] AUC가 우연(0.5) 근처면 경고하고 보고서에 적는다. 그 가중치에는 뜻이 없다.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor

from wmtp.data.fingerprint import code_of, digest_of
from wmtp.data.rewarded import RewardedSamples
from wmtp.data.token_cache import alone, entry_file, read_entry, write_entry
from wmtp.errors import ConfigError, DataNotFoundError
from wmtp.evaluation.progress import progress_bar
from wmtp.maths import credit
from wmtp.models import value as value_models
from wmtp.models import value_fitting
from wmtp.models.value_fitting import TrunkStates, ValueFitting, check_value_loss, measure

LEAST_AUC = 0.6  # below this a critic knows next to nothing


class CriticPretraining(Callback):
    """Fit the value head of `algo=critic` before the first step, and keep it fresh after that where asked.

    Args:
        rewards: 프로그램에 보상을 주는 것 (`wmtp.rewards`).
        problems: 배우는 데 쓸 학습 문제의 수. None이면 모두.
        heldout_problems: 재는 데 쓸 검증 문제의 수. None이면 모두.
        steps: 스텝 수의 상한.
        token_budget: 배치 하나의 자리 수 상한.
        lr: AdamW의 학습률.
        value_loss: "bce", "mse", "pairwise".
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
        value_loss: str = "bce",
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
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ConfigError(f"algo.pretraining.{key} = {number!r} must be a whole number, at least {least}.")
        for key, number, inside, range_ in (
            ("gamma", gamma, lambda v: 0 <= v <= 1, "in [0, 1]; 1 is no decay"),
            ("gae_lambda", gae_lambda, lambda v: 0 <= v <= 1, "in [0, 1]; 1 is no decay"),
            ("sparsity", sparsity, lambda v: v >= 0, ">= 0; 0 lets V move everywhere, try 1.0"),
            ("lr", lr, lambda v: v > 0, "> 0; try 0.002"),
            ("coefficient", coefficient, lambda v: v > 0, "> 0; try 1.0, and refresh=0 to freeze V"),
        ):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not inside(number):
                raise ConfigError(f"algo.pretraining.{key} = {number!r} must be a number {range_}.")
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
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge programs, fit the head or find it, and say what it knows."""
        run, value = Path(pl_module.run_config["run_dir"]), pl_module.value
        value.binary = self.rewards.binary
        value.prepare(pl_module.model)
        value.to(pl_module.device)
        kept = run / "value_head.safetensors"
        if kept.is_file() and not self.refresh:  # a resumed run: the model is not what V was fitted on any more
            value.load_state_dict(load_file(kept))
            return
        train = self._programs(trainer, pl_module, "train", self.problems)
        heldout = self._programs(trainer, pl_module, "validation", self.heldout_problems)
        self.fitting = ValueFitting(
            value,
            pl_module.model,
            train,
            token_budget=self.token_budget,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            **self.loss,
        )
        if self._restored is not None:
            self.fitting.load_state_dict(self._restored)
            return
        file = entry_file("value_head", self._key(value, train, heldout))
        # The first rank holds the entry's lock for all; two runs that start together fit it once.
        with alone(file) if trainer.is_global_zero else nullcontext():
            entry = trainer.strategy.broadcast(read_entry(file) if trainer.is_global_zero else None)
            if entry is None:
                with trainer.precision_plugin.forward_context():
                    entry = self._fit(trainer, value, pl_module.model, heldout, file)
                if trainer.is_global_zero:
                    write_entry(file, entry)
                    _partial(file).unlink(missing_ok=True)
        head = {name: tensor for name, tensor in entry.items() if name != "curve"}
        value.load_state_dict(head)
        self.fitting.steps_taken = self.steps
        if trainer.is_global_zero:
            save_file(head, kept)
            torch.save(head, run / "value_head.pt")
            self._tell(trainer, run, json.loads(bytes(entry["curve"].tolist())), train, heldout, value.name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Fit V to the model as it is by now, every `refresh` steps."""
        step, between = trainer.global_step, batch_idx % trainer.accumulate_grad_batches
        if self.refresh and step and step % self.refresh == 0 and not between:
            self.fitting.states.forget()
            for _ in range(self.refresh_steps):
                self.fitting.step(self.coefficient)

    def state_dict(self) -> dict[str, Any]:
        """Keep V in the checkpoint only where it changes along the way."""
        return self.fitting.state_dict() if self.refresh and self.fitting else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember V for the start of the fit."""
        self._restored = state_dict or None

    def _programs(self, trainer: Trainer, pl_module: LightningModule, split: str, limit: int | None) -> RewardedSamples:
        data = trainer.datamodule
        samples = RewardedSamples.of(self.rewards.judge(data, split, limit, pl_module.model), data)
        if split == "train" and len(set(samples.reward_S.tolist())) < 2:
            raise DataNotFoundError(
                f"algo=critic found no programs of different rewards among {limit or 'all'} problems of "
                f"{data.source.name} ({len(samples)} programs); raise algo.pretraining.problems, or choose another "
                "algo/rewards."
            )
        if not self.rewards.binary:
            reward_S = samples.reward_S.double()
            samples.reward_S.copy_((reward_S - reward_S.mean()) / reward_S.std().clamp(min=1e-6))
        return samples

    def _key(self, value: Any, train: RewardedSamples, heldout: RewardedSamples) -> dict[str, Any]:
        """Return everything that decides the fitted head."""
        programs = [[part.samples.fingerprint, digest_of(part.reward_S.tolist())] for part in (train, heldout)]
        limits = [self.steps, self.token_budget, self.check_every, self.patience]
        return {
            "value": value.identity,
            "programs": programs,
            "limits": limits,
            "loss": self.loss,
            "code": code_of(value_fitting, value_models, credit),
        }

    def _fit(self, trainer: Trainer, value: Any, model: Any, heldout: RewardedSamples, file: Path) -> dict[str, Tensor]:
        """Fit until the steps are done or the AUC stops rising; return the best head and the curve."""
        fitting, curve, best = self.fitting, [], {name: t.clone() for name, t in value.state_dict().items()}
        partial = trainer.strategy.broadcast(_read_partial(file) if trainer.is_global_zero else None)
        if partial is not None:
            fitting.load_state_dict(partial["fitting"])
            curve, best = partial["curve"], partial["best"]
        model_was_training = model.training
        model.eval()
        loss_sum, unseen = 0.0, TrunkStates(value, model, heldout, heldout.batches(self.token_budget))
        with progress_bar("critic: stage 1", self.steps, fitting.steps_taken, trainer.is_global_zero, "step") as bar:
            while fitting.steps_taken < self.steps and not self._stale(curve):
                loss_sum += fitting.step(1 - fitting.steps_taken / self.steps)
                bar.update()
                if fitting.steps_taken % self.check_every and fitting.steps_taken < self.steps:
                    continue
                since = fitting.steps_taken - (curve[-1]["step"] if curve else 0)
                found = measure(unseen)
                curve.append({"step": fitting.steps_taken, "loss": float(loss_sum) / since, **found})
                loss_sum = 0.0
                if _auc(curve[-1]) >= max(map(_auc, curve)):
                    best = {name: tensor.clone() for name, tensor in value.state_dict().items()}
                bar.set_postfix(auc=f"{found['auc']:.3f}", in_span=f"{found.get('in_span', torch.nan):.2f}")
                if trainer.is_global_zero:
                    _write_partial(file, {"fitting": fitting.state_dict(), "curve": curve, "best": best})
        model.train(model_was_training)
        text = torch.tensor(list(json.dumps(curve).encode()), dtype=torch.uint8)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in best.items()} | {"curve": text}

    def _stale(self, curve: list[dict[str, float]]) -> bool:
        """Say whether the last `patience` checks were no better than the best before them."""
        if len(curve) <= self.patience:
            return False
        return max(map(_auc, curve[-self.patience :])) <= max(map(_auc, curve[: -self.patience])) + 1e-3

    def _tell(
        self,
        trainer: Trainer,
        run: Path,
        curve: list[dict[str, float]],
        train: RewardedSamples,
        heldout: RewardedSamples,
        value: str,
    ) -> None:
        """Write critic.json, log the numbers, and warn of a critic that knows next to nothing."""
        best = max(reversed(curve), key=_auc)
        near_chance = not _auc(best) >= LEAST_AUC
        found = {
            "rewards": self.rewards.name,
            "value": value,
            "programs": {"train": len(train), "heldout": len(heldout)},
            "near_chance": near_chance,
            "best": {key: _plain(number) for key, number in best.items()},
            "curve": [{key: _plain(number) for key, number in point.items()} for point in curve],
        }
        (run / "critic.json").write_text(json.dumps(found, indent=1) + "\n")
        numbers = {f"critic/{key}": number for key, number in best.items() if number == number and key != "step"}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
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


def _auc(point: dict[str, float]) -> float:
    """Return the AUC; one that is not defined counts as chance."""
    return point["auc"] if point["auc"] == point["auc"] else 0.5


def _plain(number: float) -> float | None:
    """JSON knows no NaN."""
    return number if number == number else None


def _partial(file: Path) -> Path:
    return file.with_suffix(".partial.pt")


def _read_partial(file: Path) -> dict[str, Any] | None:
    """Read what a killed process left; None if there is nothing, or it is damaged."""
    try:
        return torch.load(_partial(file), weights_only=True)
    except Exception:  # torch raises anything from EOFError to UnpicklingError; the steps are taken again
        return None


def _write_partial(file: Path, state: dict[str, Any]) -> None:
    temporary = _partial(file).with_suffix(".tmp")
    try:
        torch.save(state, temporary)
        temporary.replace(_partial(file))
    except (OSError, RuntimeError):  # a full disk: a kill would cost the steps, nothing else
        temporary.unlink(missing_ok=True)
