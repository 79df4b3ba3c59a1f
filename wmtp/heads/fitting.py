"""Fit new heads alone on the frozen trunk: stage 0.

[연구 맥락] 새 헤드는 ln V보다 나쁜 CE에서 시작한다. 그 기울기가 몸통으로 흐르면 head 0이 망가진다 (SmolLM2에서
    검증 CE가 1.33 → 2.46, docs/new_heads.md). 헤드가 쓸 만해질 때까지 몸통을 얼려 두면 아무것도 잃지 않고, 비싼 몸통은
    표본마다 한 번만 계산하면 된다.
[동작] 배치의 묶음은 고정이고 순서만 에폭마다 바뀐다. 그래서 몸통의 출력을 배치째 기억할 수 있다 (limit 바이트까지).
    나란한 헤드는 서로 나누어 가진 것이 없으므로 함께 맞추어도 하나씩 맞춘 것과 같다. 기울기 자르기도 헤드마다
    따로 한다.
    랭크가 여럿이면 배치의 행을 나누고 기울기를 더한다.
    autocast는 스텝마다, 잴 때마다 새로 켠다: 켜 둔 동안은 가중치의 bf16 사본을 기억하므로, 켠 채로 여러 스텝을 가면
    모든 스텝이 처음 가중치로 계산된다.
[디버깅] CE가 ln V 위에 머물면 lr를 낮춘다. 학습 CE만 내려가면 데이터가 적은 것이다.
"""

#   B sequences, T positions, H heads

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

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
        pad_token_id: 패딩 토큰.
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
        with torch.no_grad(), self.model.trunk_call() as call:
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
    """Fit the new heads of a model step by step; nothing else of it changes.

    Attributes:
        curve: 잴 때마다 {"step", "ce"}. ce는 헤드 1, 2, …의 검증 CE다. 첫 점은 시작하기 전.
        best: 평균 CE가 가장 낮았을 때의 새 헤드들, 이름 → 텐서.

    Args:
        model: 헤드를 가진 모델.
        train: 배울 배치들.
        heldout: 재는 배치들.
        lr: AdamW의 학습률. 스텝을 따라 0까지 곧게 내린다.
        seed: 배치의 순서를 정하는 씨앗.
        autocast: precision을 켜는 컨텍스트를 만드는 함수.
    """

    def __init__(
        self,
        model: MTPMixin,
        train: TrunkCalls,
        heldout: TrunkCalls,
        lr: float,
        seed: int = 42,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model, self.train, self.heldout, self.lr, self.seed = model, train, heldout, lr, seed
        self.autocast = autocast
        self.steps_taken, self.curve, self.best = 0, [], {}
        self.heads = new_heads(model)
        self.parameters = dict(self.heads.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def run(self, steps: int, check_every: int, patience: int) -> Iterator[list[float] | None]:
        """Fit until the steps are done or the mean CE stops falling, and end with the best heads.

        Args:
            steps: 스텝 수의 상한.
            check_every: 몇 스텝마다 잴지.
            patience: 이만큼 잇달아 나아지지 않으면 멈춘다.

        Yields:
            스텝마다, 쟀으면 헤드들의 CE, 아니면 None.
        """
        training = self.model.training
        self.model.eval()  # no dropout
        if not self.curve:
            self._check()
        while self.steps_taken < steps and not self._stale(patience):
            self.step(1 - self.steps_taken / steps)
            if self.steps_taken % check_every and self.steps_taken < steps:
                yield None
            else:
                yield self._check()
        put(self.best, self.parameters)
        self.model.train(training)

    def batch_of(self, step: int) -> int:
        """Say which batch a step reads; their order changes with every epoch."""
        epoch, position = divmod(step, len(self.train))
        return random.Random(f"{self.seed}/{epoch}").sample(range(len(self.train)), len(self.train))[position]

    def step(self, lr_factor: float = 1.0) -> None:
        """Take one step."""
        with self.autocast(), torch.enable_grad():
            batch, call = self.train[self.batch_of(self.steps_taken)]
            heads_loss(self.model, batch, call).loss.backward()
        for head in self.heads:
            self._add_up(head)
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor
        self.optimizer.step()
        self.model.zero_grad()
        self.steps_taken += 1

    def _add_up(self, head: Any) -> None:
        """Sum the gradients over the ranks; sharded ones come as means already."""
        for parameter in head.parameters():
            if isinstance(parameter.grad, DTensor):
                parameter.grad.mul_(self.train.world_size)
            elif self.train.world_size > 1:
                torch.distributed.all_reduce(parameter.grad)

    def _check(self) -> list[float]:
        with self.autocast():
            ce = measure(self.model, self.heldout).tolist()
        self.curve.append({"step": self.steps_taken, "ce": ce})
        if _mean(self.curve[-1]) <= min(map(_mean, self.curve)):
            self.best = whole(self.parameters)
        return ce

    def _stale(self, patience: int) -> bool:
        """Say whether the last `patience` checks were no better than the best before them."""
        if len(self.curve) <= patience:
            return False
        return min(map(_mean, self.curve[-patience:])) > min(map(_mean, self.curve[:-patience])) - 1e-3

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later process needs to go on: plain values and tensors, of all ranks together."""
        moments = [whole(self.optimizer.state[parameter]) for parameter in self.parameters.values()]
        return {
            "heads": whole(self.parameters),
            "moments": moments,
            "steps_taken": self.steps_taken,
            "curve": self.curve,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another process stopped."""
        put(state["heads"], self.parameters)
        for parameter, moments in zip(self.parameters.values(), state["moments"], strict=True):
            self.optimizer.state[parameter] = {
                name: spread(value, parameter) if value.ndim else value.to(parameter.device)
                for name, value in moments.items()
            }
        self.steps_taken, self.curve, self.best = state["steps_taken"], state["curve"], state["best"]


def new_heads(model: MTPMixin) -> torch.nn.ModuleList:
    """Return the heads that no checkpoint held."""
    return torch.nn.ModuleList() if model.new_heads is None else model.extra_heads[model.new_heads.first - 1 :]


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, those of a sharded model gathered; all ranks call it."""
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().to("cpu", copy=True)
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def put(values: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Give parameters, sharded or not, the values that `whole` returned."""
    for name, parameter in parameters.items():
        parameter.copy_(spread(values[name], parameter))


def spread(value: Tensor, like: Tensor) -> Tensor:
    """Bring a whole tensor to where another one of its shape is, in the same shards."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def _mean(point: dict[str, Any]) -> float:
    return sum(point["ce"]) / len(point["ce"])


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
        torch.distributed.broadcast(total_2H, src=0)  # a last digit that differs would let some ranks stop alone
    return total_2H[0] / total_2H[1].clamp(min=1)
