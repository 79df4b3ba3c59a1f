"""Measure, as training goes, whether an algorithm's token scores find the place where programs are wrong.

[연구 맥락] 가중치의 좋고 나쁨은 결과(pass@1)보다 먼저 자리에서 보인다. 정답을 한 곳만 고친 프로그램에서 가장 낮은
    점수가 고친 자리에 있는가? critic의 δ도, rho1의 손실 차이도 같은 자로 잰다.
[동작] 배우지 않은 문제(validation)의 맞은 프로그램과 틀린 프로그램을 검증할 때마다 채점해 `localisation/…`으로 남긴다.
    점수가 없거나 어디서나 같으면 (baseline, 배우기 전의 critic) 남기지 않는다.
"""

#   B sequences, T positions

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from wmtp import ranges
from wmtp.critic.rewarded import RewardedSamples


class Localisation(Callback):
    """Log `localisation/on_first`, `within_two`, `in_span`, `first_token_auc` at every validation."""

    def __init__(self, rewards: Any, problems: int | None = 200) -> None:
        ranges.check(ranges.Localisation, problems=problems)
        self.rewards, self.problems = rewards, problems
        self.heldout: RewardedSamples | None = None

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the held-out programs, the same on every rank."""
        if pl_module.weighting is None:
            return
        data = trainer.datamodule
        if self.heldout is None:
            programs = self.rewards.judge(data, "validation", self.problems, pl_module.model)
            self.heldout = RewardedSamples.of(programs, data)
        batches, scores = self.heldout.batches(data.token_budget), []
        for rows in batches:
            batch = trainer.strategy.batch_to_device(self.heldout.batch(rows), pl_module.device)
            with trainer.precision_plugin.forward_context():
                scores.append(pl_module.token_scores(batch, pl_module.model.mtp(batch["input_ids_BT"])))
        if not any(score_BT.any() for score_BT in scores):
            return
        found = self.heldout.localise(batches, scores, self.rewards.binary)
        del found["programs"]
        # Where no program's wrong place is known, what is left is whether right and wrong ones are told apart.
        known = {f"localisation/{key}": number for key, number in found.items() if number == number}
        pl_module.log_dict(known, batch_size=1)
