"""Teach the critic's value head what makes programs fail, before training starts (stage 1).

[연구 맥락] 가중치를 주려면 V가 먼저 무언가를 알아야 한다 (maths.md 5절). 그래서 학습 전에 보상이 있는 프로그램으로
    V를 맞추고, 배우지 않은 문제에서 무엇을 아는지 잰다: 맞은 프로그램을 알아보는지(AUC), 틀린 자리를 찾는지
    (localisation).
[동작] 프로그램 채점(rewards) → 가치헤드 학습 → 배우지 않은 문제의 AUC가 오르지 않으면 멈추고, 가장 좋았던 것을 쓴다.
    가치헤드는 내용으로 이름 지어 캐시에 두므로, 같은 조건의 다음 실행은 읽기만 한다. 중간에 죽어도 이어서 한다.
    그 뒤로 V는 얼어 있다. 실행 폴더에 value_head.safetensors와 critic.json(known.py)이 남고, 체크포인트에도
    V가 있다. 이어서 하는 실행은 그것을 쓴다: 그때의 모델은 V를 맞춘 모델이 아니다.
[디버깅] critic.json의 곡선에서 loss와 auc를 본다. 캐시의 가치헤드가 자꾸 새로 만들어지면 `_key`를 본다.
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp import ranges
from wmtp.cache.entries import entry_file, pack, unpack
from wmtp.cache.fingerprint import code_of, digest_of
from wmtp.cache.fits import fit_once, read_partial, write_partial
from wmtp.cache.value_heads import read_head, write_head
from wmtp.critic import fitting, known, rewarded
from wmtp.critic import value as value_models
from wmtp.critic.fitting import TrunkStates, ValueFitting, measure
from wmtp.critic.known import Curve, auc_of, is_stale, tell
from wmtp.critic.rewarded import RewardedSamples
from wmtp.errors import ConfigError, DataNotFoundError
from wmtp.maths import credit
from wmtp.progress import progress_bar


class CriticPretraining(Callback):
    """Fit the value head of `algo=critic` before the first step, and keep it.

    Args:
        rewards: 프로그램에 보상을 주는 것 (`wmtp.critic.rewards`).
        problems: 배우는 데 쓸 학습 문제의 수. None이면 모두.
        heldout_problems: 재는 데 쓸 검증 문제의 수. None이면 모두.
        token_budget: 배치 하나의 자리 수 상한.
        value_loss: "bce", "mse", "pairwise". None이면 보상이 0과 1일 때 bce, 아니면 mse.
        gamma: 할인율 γ, [0, 1].
        gae_lambda: GAE의 λ, [0, 1].
        sparsity: V의 움직임 mean |δ|에 붙는 계수, 0 이상. 클수록 V가 드물게 움직인다.
        check_every: 몇 스텝마다 잴지.
        patience: AUC가 이만큼 잇달아 오르지 않으면 멈춘다.
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
        seed: int = 42,
    ) -> None:
        counts: dict[str, Any] = dict(
            steps=steps, token_budget=token_budget, check_every=check_every, patience=patience
        )
        counts |= dict(problems=problems, heldout_problems=heldout_problems)
        how = dict(lr=lr, value_loss=value_loss, gamma=gamma, gae_lambda=gae_lambda, sparsity=sparsity)
        ranges.check(ranges.CriticPretraining, **counts, **how)
        value_loss = value_loss or ("bce" if rewards.binary else "mse")
        if value_loss == "bce" and not rewards.binary:
            raise ConfigError(
                "algo.pretraining.value_loss = bce needs rewards of 0 and 1; set algo.pretraining.value_loss=mse "
                "or algo/rewards=tests."
            )
        self.rewards, self.problems, self.heldout_problems = rewards, problems, heldout_problems
        self.steps, self.token_budget, self.check_every, self.patience = steps, token_budget, check_every, patience
        self.loss: dict[str, Any] = dict(
            kind=value_loss, lr=lr, gamma=gamma, gae_lambda=gae_lambda, sparsity=sparsity, seed=seed
        )
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
        if earlier:
            value.load_state_dict(earlier["head"])
            return
        train = self._programs(trainer, pl_module, "train", self.problems)
        heldout = self._programs(trainer, pl_module, "validation", self.heldout_problems)
        head, curve = self._fit_or_find(trainer, pl_module.model, train, heldout)
        value.load_state_dict(head)
        if trainer.is_global_zero:
            counts = {"train": len(train), "heldout": len(heldout)}
            tell(run, curve, trainer, rewards=self.rewards.name, value=value.name, programs=counts)
            write_head(run, head, self._identity)

    def state_dict(self) -> dict[str, Any]:
        """Keep V in the checkpoint."""
        return {"head": self._value.state_dict(), "value": self._identity} if self._identity else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with V as it was; a sharded model and its callbacks are restored only after the start of the fit."""
        self._restored = state_dict or None
        if self._value is not None and self._restored:
            self._value.load_state_dict(self._restored["head"])

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
        self, trainer: Trainer, model: Any, train: RewardedSamples, heldout: RewardedSamples
    ) -> tuple[dict[str, Tensor], Curve]:
        """Return the fitted head and its curve, from the cache where they are there."""
        file = None
        # What is not the model that the key names (a checkpoint was loaded into it) has no place in the cache.
        moved = trainer.ckpt_path and not trainer.strategy.restore_checkpoint_after_setup
        if trainer.is_global_zero and not (moved and self._value.trunk(model) is model):
            file = entry_file("value_head", self._key(trainer, train, heldout))

        def fit() -> dict[str, Tensor]:
            with trainer.precision_plugin.forward_context():
                head, curve = self._fit(trainer, model, train, heldout, file)
            return {name: tensor.cpu().contiguous() for name, tensor in head.items()} | {"curve": pack(curve)}

        entry = fit_once(file, trainer.strategy.broadcast, fit)
        return {name: tensor for name, tensor in entry.items() if name != "curve"}, unpack(entry["curve"])

    def _key(self, trainer: Trainer, train: RewardedSamples, heldout: RewardedSamples) -> dict[str, Any]:
        """Return everything that decides the fitted head; the number of ranks does not."""
        return {
            "value": self._identity,
            "precision": str(trainer.precision),
            "binary": self.rewards.binary,
            "programs": [train.fingerprint, heldout.fingerprint],
            "limits": [self.steps, self.token_budget, self.check_every, self.patience],
            "loss": self.loss,
            "code": code_of(fitting, known, value_models, credit, rewarded, sys.modules[__name__]),
        }

    def _fit(
        self, trainer: Trainer, model: Any, train: RewardedSamples, heldout: RewardedSamples, file: Path | None
    ) -> tuple[dict[str, Tensor], Curve]:
        """Fit until the steps are done or the AUC stops rising; return the best head and the curve."""
        value, curve, best = self._value, [], {}
        budget = self.token_budget
        ranks: dict[str, Any] = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        fitting = ValueFitting(value, model, train, token_budget=budget, **ranks, **self.loss)
        partial = trainer.strategy.broadcast(read_partial(file) if file else None)
        if partial is not None:
            fitting.load_state_dict(partial["fitting"])
            curve, best = partial["curve"], partial["best"]
        loss_sum = torch.zeros(1, device=value.head.bias.device)
        unseen = TrunkStates(value, model, heldout, heldout.batches(budget))
        with progress_bar("critic: stage 1", self.steps, fitting.steps_taken, trainer.is_global_zero, "step") as bar:
            while fitting.steps_taken < self.steps and not is_stale(curve, self.patience):
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
                if auc_of(curve[-1]) >= max(map(auc_of, curve)):
                    best = {name: tensor.clone() for name, tensor in value.state_dict().items()}
                bar.set_postfix(auc=f"{found['auc']:.3f}", in_span=f"{found.get('in_span', math.nan):.2f}")
                if file:
                    write_partial(file, {"fitting": fitting.state_dict(), "curve": curve, "best": best})
        return best, curve
