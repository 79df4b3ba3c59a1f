"""Fit a value head to rewarded programs: stage 1 of the critic.

[연구 맥락] value_loss가 무엇을 배울지 정한다 (maths.md 5절).
    bce       V의 확률과 G의 교차엔트로피. 보상이 0과 1일 때 (기본값)
    mse       (V − G)². 보상이 실수일 때
    pairwise  −log σ(mean V(더 나은 것) − mean V(더 못한 것)), 한 문제의 프로그램끼리
    여기에 sparsity · mean |δ|를 더한다. 이상적인 V는 한 번만 움직이는데, 이것이 없으면 모든 프로그램에 똑같이 있는
    토큰("def", "solve")끼리 증거를 주고받아 δ가 지저분하다.
[동작] 몸통은 얼어 있고 가치헤드만 배운다. 랭크가 여럿이면 배치 하나를 문제 단위로 나누고 기울기를 더한다. 그래서 랭크가
    몇이든 같은 가치헤드다 (반올림 말고는).
    순서는 (seed, 에폭)에만 달려 있으므로, 멈췄다가 몇 번째 스텝이었는지만 알면 그대로 이어 간다.
[디버깅] AUC가 0.5 근처면 보상이 한쪽뿐인지, 몸통이 이 언어를 아는지부터 본다.
"""

#   B sequences, T positions

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor
from torch.nn import functional as F

from wmtp.critic.value import PolicyValue
from wmtp.maths.alignment import target_mask
from wmtp.maths.credit import auc, gae_returns, value_deltas

if TYPE_CHECKING:
    from wmtp.critic.rewarded import RewardedSamples


def value_loss(
    kind: str,
    logit_BT: Tensor,
    value_BT: Tensor,
    mask_BT: Tensor,
    reward_B: Tensor,
    problem_ids: list[str],
    gamma: float = 1.0,
    gae_lambda: float = 1.0,
    count: int | None = None,
) -> Tensor:
    """Compute the loss of a batch of values.

    Args:
        kind: "bce", "mse", "pairwise".
        value_BT: V. 확률이거나 로짓 그대로 (`PolicyValue.scaled`).
        mask_BT: 목표 토큰이면 True.
        problem_ids: 행마다 문제의 이름 (pairwise).
        gamma, gae_lambda: `gae_returns`.
        count: 목표 토큰(pairwise는 쌍)의 수. 배치의 일부만 있을 때 온전한 배치의 것. None이면 여기 있는 것을 센다.

    Returns:
        0차원. 견줄 쌍이 없는 배치의 pairwise는 0.

    Example:
        >>> mask = torch.ones(2, 1, dtype=torch.bool)
        >>> logit = torch.tensor([[1.0], [-1.0]])
        >>> value_loss("pairwise", logit, logit, mask, torch.tensor([1.0, 0.0]), ["a", "a"])
        tensor(0.1269)
    """
    if kind == "pairwise":
        mean_B = torch.where(mask_BT, logit_BT, 0.0).sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)
        better, worse = _pairs(reward_B.tolist(), problem_ids)
        return -F.logsigmoid(mean_B[better] - mean_B[worse]).sum() / max(len(better) if count is None else count, 1)
    return_BT = gae_returns(value_BT, mask_BT, reward_B, gamma, gae_lambda)
    if kind == "bce":
        error_BT = F.binary_cross_entropy_with_logits(logit_BT, return_BT.clamp(0, 1), reduction="none")
    else:
        error_BT = (value_BT - return_BT).square()
    return torch.where(mask_BT, error_BT, 0.0).sum() / (mask_BT.sum().clamp(min=1) if count is None else max(count, 1))


class ValueFitting:
    """Fit the head of a value to rewarded programs, step by step.

    Args:
        value: 배울 가치 (`wmtp.critic.value`), prepare를 마친 것.
        model: 학습할 모델. value=head가 읽는다.
        kind: `wmtp.ranges.VALUE_LOSSES` 가운데 하나.
        rank, world_size: 이 프로세스의 번호와 프로세스의 수.
        token_budget, lr, gamma, gae_lambda, sparsity, seed: `CriticPretraining`.
    """

    def __init__(
        self,
        value: PolicyValue,
        model: Any,
        train: "RewardedSamples",
        *,
        token_budget: int,
        lr: float,
        kind: str = "bce",
        gamma: float = 1.0,
        gae_lambda: float = 1.0,
        sparsity: float = 1.0,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.value = value
        value.start_from(float(train.reward_S.mean()))
        self.lr, self.kind, self.seed = lr, kind, seed
        self.gamma, self.gae_lambda, self.sparsity = gamma, gae_lambda, sparsity
        self.rank, self.world_size = rank, world_size
        self.parameters = [p for p in value.parameters() if p.requires_grad]
        batches = train.batches(token_budget, shuffled_by=str(seed))
        self.states = TrunkStates(value, model, train, batches, rank=rank, world_size=world_size)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.steps_taken = 0

    def batch_of(self, step: int) -> int:
        """Say which batch a step reads, on all ranks together; their order changes with every epoch."""
        count = len(self.states.batches)
        epoch, position = divmod(step, count)
        return random.Random(f"{self.seed}/{epoch}").sample(range(count), count)[position]

    def step(self, lr_factor: float = 1.0) -> Tensor:
        """Take one step; return this rank's share of the loss, which stays on the device."""
        number = self.batch_of(self.steps_taken)
        batch, hidden_BTD, nll_BT, mask_BT = self.states[number]
        # Of the whole batch, so that the shares of all ranks add up to its loss.
        programs, rows = self.states.programs, self.states.batches[number]
        targets = max(sum(programs.samples.targets[row] for row in rows), 1)
        ids = [programs.samples.task_ids[row] for row in rows]
        count = len(_pairs(programs.reward_S[rows].tolist(), ids)[0]) if self.kind == "pairwise" else targets
        with torch.enable_grad():
            logit_BT = self.value.head(hidden_BTD, nll_BT, mask_BT)
            value_BT = self.value.scaled(logit_BT)
            loss = value_loss(
                self.kind, logit_BT, value_BT, mask_BT, batch["reward_B"], batch["problem_ids"],
                self.gamma, self.gae_lambda, count,
            )  # fmt: skip
            loss = loss + self.sparsity * value_deltas(value_BT, mask_BT).abs().sum() / targets
            self.optimizer.zero_grad()
            loss.backward()
        if self.world_size > 1:
            for parameter in self.parameters:
                torch.distributed.all_reduce(parameter.grad)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor
        self.optimizer.step()
        self.steps_taken += 1
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later process needs to go on: plain values and tensors."""
        parts = {"head": self.value.state_dict(), "optimizer": self.optimizer.state_dict()}
        return parts | {"steps_taken": self.steps_taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another process stopped."""
        self.value.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_taken = state["steps_taken"]


@dataclass(eq=False)
class TrunkStates:
    """Give the frozen trunk's states of a batch, remembered as far as memory allows: the trunk is what costs time.

    Args:
        value, model: `ValueFitting`.
        batches: 배치마다 프로그램의 번호들.
        limit: 기억할 바이트 수의 상한. 넘는 것은 다시 계산한다.
        rank, world_size: 배치마다 이 랭크의 몫(문제 단위)만 읽는다.
    """

    value: PolicyValue
    model: Any
    programs: "RewardedSamples"
    batches: list[list[int]]
    limit: int = 2**30
    rank: int = 0
    world_size: int = 1
    _remembered: dict[int, Any] = field(default_factory=dict)
    _bytes: float = 0.0

    def __getitem__(self, i: int) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
        """Return batch, hidden_BTD, nll_BT and mask_BT of the i-th batch."""
        if i in self._remembered:
            return self._remembered[i]
        samples, rows = self.programs.samples, self.batches[i]
        problems = [list(group) for _, group in groupby(rows, key=samples.task_ids.__getitem__)]
        mine = [row for problem in problems[self.rank :: self.world_size] for row in problem]
        batch = move_data_to_device(self.programs.batch(mine), self.value.head.bias.device)
        hidden_BTD, nll_BT = self.value.states(batch, self.model)
        states = (batch, hidden_BTD, nll_BT, target_mask(batch["labels_BT"]))
        # Counted by the whole batch, so that all ranks remember the same ones: with a sharded model those that
        # compute wait for each other.
        positions = len(rows) * max(samples.lengths[row] for row in rows) / self.world_size
        self._bytes += positions * hidden_BTD.shape[-1] * hidden_BTD.element_size()
        if self._bytes <= self.limit:
            self._remembered[i] = states
        return states

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Tensor, Tensor, Tensor]]:
        return (self[i] for i in range(len(self.batches)))


@torch.no_grad()
def measure(states: TrunkStates) -> dict[str, float]:
    """Measure what a value knows about programs that it was not fitted to.

    Returns:
        auc: P(맞은 프로그램의 마지막 V > 틀린 프로그램의 마지막 V). 보상이 실수면 중앙값을 넘는지로 나눈다.
        on_first, within_two, in_span, first_token_auc, chance: `localisation`. 달라진 자리를 아는 것이 없으면 NaN.
    """
    value, heldout, batches = states.value, states.programs, states.batches
    if not batches:
        return {"auc": torch.nan}
    last, deltas = [], []
    for _batch, hidden_BTD, nll_BT, mask_BT in states:
        value_BT = value.scaled(value.head(hidden_BTD, nll_BT, mask_BT))
        places_BT = torch.where(mask_BT, torch.arange(mask_BT.shape[1], device=mask_BT.device), -1)
        last.append(value_BT.gather(1, places_BT.amax(dim=1, keepdim=True).clamp(min=0)).squeeze(1).cpu())
        deltas.append(value_deltas(value_BT, mask_BT))
    reward_B, last_B = heldout.reward_S[[row for rows in batches for row in rows]], torch.cat(last)
    good_B = reward_B == 1 if value.binary else reward_B > reward_B.median()
    return {"auc": float(auc(last_B[good_B], last_B[~good_B]))} | heldout.localise(batches, deltas, value.binary)


def _pairs(rewards: list[float], problem_ids: list[str]) -> tuple[list[int], list[int]]:
    """List the rows of one problem of which the first has the higher reward."""
    rows = range(len(problem_ids))
    pairs = [(i, j) for i in rows for j in rows if problem_ids[i] == problem_ids[j] and rewards[i] > rewards[j]]
    return [i for i, _ in pairs], [j for _, j in pairs]
