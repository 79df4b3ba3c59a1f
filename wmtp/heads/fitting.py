"""Fit new heads alone on the frozen trunk: stage 0.

[연구 맥락] 새 헤드는 ln V보다 나쁜 CE에서 시작한다. 그 기울기가 몸통으로 흐르면 head 0이 망가진다 (SmolLM2에서 검증 CE가
    1.33 → 2.46, docs/new_heads.md). 헤드가 쓸 만해질 때까지 몸통을 얼려 두면 아무것도 잃지 않고, 비싼 몸통은 표본마다
    한 번만 계산하면 된다.
[동작] 배치의 묶음은 고정이고 순서만 에폭마다 바뀐다. 그래서 몸통의 출력을 배치째 기억할 수 있다 (limit 바이트까지).
    헤드 k는 서로 나누어 가진 것이 없으므로 함께 맞추어도 하나씩 맞춘 것과 같다. 기울기 자르기도 헤드마다 따로 한다.
    랭크가 여럿이면 배치의 행을 나누고 기울기를 더한다.
[디버깅] CE가 ln V 위에 머물면 lr를 낮춘다. 학습 CE만 내려가면 데이터가 적은 것이다.
"""

#   B sequences, T positions, H heads

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor
from torch.distributed.tensor import DTensor

from wmtp.data.batching import collate, plan_epoch
from wmtp.data.tokenization import TokenizedSamples
from wmtp.maths.alignment import IGNORE, shift_left
from wmtp.maths.loss import MTPLoss, weighted_mtp_loss
from wmtp.models.mtp import MTPMixin


class TrunkCalls:
    """Give what the heads read of every batch, remembered as far as memory allows: the trunk is what costs time.

    Args:
        model: 헤드를 가진 모델. 몸통은 그동안 바뀌지 않는다.
        samples: 표본들.
        token_budget: 배치 하나의 자리 수 상한.
        pad_token_id: 채움 토큰.
        prompts: 프롬프트의 토큰도 맞힐지. 정답 프로그램만 맞히면 False.
        limit: 기억할 바이트 수의 상한. 넘는 것은 다시 계산한다.
        rank, world_size: 배치마다 이 랭크의 몫만 읽는다.
    """

    def __init__(
        self,
        model: MTPMixin,
        samples: TokenizedSamples,
        token_budget: int,
        pad_token_id: int,
        prompts: bool = False,
        limit: int = 2**30,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.model, self.samples, self.pad_token_id, self.prompts = model, samples, pad_token_id, prompts
        self.limit, self.rank, self.world_size = limit, rank, world_size
        steps = plan_epoch(samples.lengths, samples.targets, token_budget=token_budget)
        self.batches = [rows for step in steps for rows in step.micro_batches]
        self._remembered: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._bytes = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the i-th batch and what its heads read."""
        if i in self._remembered:
            return self._remembered[i]
        rows = [self.samples[row] for row in self.batches[i]]
        if self.prompts:
            rows = [replace(row, prompt_length=0) for row in rows]
        mine = collate(rows[self.rank :: self.world_size], sum(row.targets for row in rows), self.pad_token_id)
        batch = move_data_to_device(mine, self.model.device)
        with torch.no_grad(), self.model.last_layer_call() as call:
            output = self.model.mtp(batch["input_ids_BT"])
        # By the whole batch, so that all ranks remember the same ones: those of a sharded model wait for each other.
        positions = len(rows) * max(len(row.input_ids) for row in rows) / self.world_size
        self._bytes += positions * output.hidden[0].shape[-1] * 4
        if self._bytes <= self.limit:
            self._remembered[i] = batch, dict(call)
        return batch, dict(call)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        return (self[i] for i in range(len(self)))


class HeadFitting:
    """Fit the extra heads of a model step by step; nothing else of it changes.

    Args:
        model: 헤드를 가진 모델.
        train: 배울 배치들.
        lr: AdamW의 학습률.
        seed: 배치의 순서를 정하는 씨앗.
    """

    def __init__(self, model: MTPMixin, train: TrunkCalls, lr: float, seed: int = 42) -> None:
        self.model, self.train, self.lr, self.seed = model, train, lr, seed
        self.steps_taken = 0
        self.optimizer = torch.optim.AdamW(
            model.extra_heads.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def batch_of(self, step: int) -> int:
        """Say which batch a step reads; their order changes with every epoch."""
        epoch, position = divmod(step, len(self.train))
        return random.Random(f"{self.seed}/{epoch}").sample(range(len(self.train)), len(self.train))[position]

    def step(self, lr_factor: float = 1.0) -> Tensor:
        """Take one step; return this rank's share of the loss, which stays on the device."""
        batch, call = self.train[self.batch_of(self.steps_taken)]
        with torch.enable_grad():
            loss = heads_loss(self.model, batch, call).loss
            loss.backward()
        for head in self.model.extra_heads:
            self._add_up(head)
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor
        self.optimizer.step()
        self.model.zero_grad()
        self.steps_taken += 1
        return loss.detach()

    def _add_up(self, head: torch.nn.Module) -> None:
        """Sum the gradients over the ranks; sharded ones come as means already."""
        for parameter in head.parameters():
            if isinstance(parameter, DTensor):
                parameter.grad *= self.train.world_size
            elif self.train.world_size > 1:
                torch.distributed.all_reduce(parameter.grad)


def heads_loss(model: MTPMixin, batch: dict[str, Any], call: dict[str, Any]) -> MTPLoss:
    """Compute the unweighted loss of heads 1, 2, … on remembered trunk states; only they learn from it."""
    output = model.heads_on(call)
    # Head 1 is the first here: its targets lie one place further to the right than those of head 0.
    return weighted_mtp_loss(
        output.hidden,
        output.unembedding_VD.detach(),
        shift_left(batch["labels_BT"], 1, IGNORE),
        None,
        batch["step_targets"],
        targets=batch["targets"],
    )


@torch.no_grad()
def measure(model: MTPMixin, heldout: TrunkCalls) -> Tensor:
    """Measure the CE of heads 1, 2, … on batches that they were not fitted to.

    Returns:
        nll_H, 헤드 1부터. 모든 랭크의 표본에 대한 평균.
    """
    sums = [(loss.nll_sum_H, loss.target_count_H) for loss in (heads_loss(model, *pair) for pair in heldout)]
    total_2H = torch.stack([torch.stack([part.double() for part in pair]) for pair in sums]).sum(dim=0)
    if heldout.world_size > 1:
        torch.distributed.all_reduce(total_2H)
    return total_2H[0] / total_2H[1].clamp(min=1)
