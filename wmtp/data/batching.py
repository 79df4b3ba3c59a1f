"""Plan every optimizer step of an epoch before it starts, exactly.

[연구 맥락] 손실의 분모 M은 한 스텝 전체(모든 누적 조각, 모든 랭크)의 목표 토큰 수다 (maths.md 2절).
    계획을 미리 세우면 모든 랭크가 통신 없이 M을 안다. 그래서 1×4, 2×2, 4×1로 나누어도 기울기가 같다.
[동작] 길이순으로 줄 세워 토큰 예산만큼 자르고(패딩이 거의 없다), 자른 조각을 섞어
    world × accumulate개씩 한 스텝으로 묶는다.
    계획은 (seed, epoch, world_size, accumulate)에만 달려 있으므로, 중간에 죽어도 몇 번째였는지만 알면 그대로 이어 간다.
    묶음의 순서는 랭크의 수와 무관하므로, 랭크의 수를 바꾸어도 에폭의 같은 자리에서 이어 간다.
    메모리가 모자라면 pieces = s로 묶음마다 s조각으로 자르고 accumulate도 s배 한다. 스텝의 표본과 M은 그대로다.
    가중치의 범위(scope)는 자르기 전의 묶음이므로, 첫 조각은 형제 조각들을 데리고 다닌다 (`pieces`).
"""

#   B sequences, T positions

import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from wmtp.data.tokenization import TokenizedSample, TokenizedSamples
from wmtp.errors import ConfigError
from wmtp.maths.alignment import IGNORE

LAYOUT = ("accumulate", "pieces", "world_size")  # how micro-batches are dealt out; their order does not depend on it


@dataclass(frozen=True)
class Step:
    """Hold one optimizer step.

    Attributes:
        micro_batches: 표본 번호의 묶음들. i번째 묶음은 랭크 `i % world_size`의 것이다. 빈 묶음일 수 있다.
            pieces = s이면 한 랭크의 이어진 s개가, 자르지 않은 묶음 하나를 차례대로 자른 것이다.
        targets: M, 스텝 전체의 목표 토큰 수.
    """

    micro_batches: tuple[tuple[int, ...], ...]
    targets: int


def check_pieces(accumulate: int, pieces: int) -> None:
    """Refuse pieces that do not make up whole micro-batches.

    Raises:
        ConfigError: accumulate가 pieces의 배수가 아닐 때.
    """
    if accumulate % pieces:
        raise ConfigError(
            f"trainer.accumulate_grad_batches = {accumulate} must be a multiple of data.pieces = {pieces}: every "
            f"micro-batch comes in {pieces} pieces; multiply it by data.pieces to keep the samples of a step."
        )


def plan_epoch(
    lengths: Sequence[int],
    targets: Sequence[int],
    *,
    token_budget: int,
    accumulate: int = 1,
    pieces: int = 1,
    world_size: int = 1,
    seed: int = 42,
    epoch: int = 0,
) -> list[Step]:
    """Plan an epoch: every sample exactly once over all ranks.

    [동작] (accumulate = A·s, pieces = s)의 스텝은 (accumulate = A, pieces = 1)의 스텝과 표본도 M도 같다.

    Args:
        token_budget: 자르지 않은 묶음 하나의 자리 수(행 × 가장 긴 길이)의 상한.
        accumulate: 한 스텝에 쌓는 조각의 수 (랭크마다). 자른 조각을 센다. `trainer.accumulate_grad_batches`와 같은
            수이고, pieces의 배수다.
        pieces: 묶음 하나를 몇 조각으로 자르는지. 조각의 행 수는 많아야 하나 다르고, 빈 조각일 수 있다.

    Raises:
        ConfigError: 예산이 가장 긴 표본보다 작거나, accumulate가 pieces의 배수가 아닐 때.

    Example:
        >>> steps = plan_epoch([3, 3, 4, 9], [2, 2, 3, 8], token_budget=9, accumulate=2)
        >>> sorted(i for step in steps for batch in step.micro_batches for i in batch)
        [0, 1, 2, 3]
        >>> sum(step.targets for step in steps)
        15
        >>> plan_epoch([3, 3, 3], [2, 2, 2], token_budget=9, accumulate=2, pieces=2, seed=1)
        [Step(micro_batches=((1,), (2, 0)), targets=6)]
    """
    check_pieces(accumulate, pieces)
    if lengths and max(lengths) > token_budget:
        raise ConfigError(
            f"data.token_budget = {token_budget} is smaller than the longest sample ({max(lengths)} tokens); "
            "raise it, or lower data.max_length so that such samples are left out."
        )
    rng = random.Random(f"{seed}/{epoch}")
    tie_break = [rng.random() for _ in lengths]
    # Sorted once, everything after it is read in order: a million samples at random places of memory take far longer.
    by_length = np.lexsort((tie_break, lengths))
    ascending = np.asarray(lengths, dtype=np.int64)[by_length].tolist()
    target_sums = np.cumsum([0, *np.asarray(targets, dtype=np.int64)[by_length]]).tolist()
    by_length = by_length.tolist()

    batches, start = [], 0  # runs of places in by_length
    for place, length in enumerate(ascending):  # the newest row is the longest
        if (place + 1 - start) * length > token_budget:
            batches.append((start, place))
            start = place
    if ascending:
        batches.append((start, len(ascending)))
    rng.shuffle(batches)

    per_step = accumulate // pieces * world_size
    batches += [(0, 0)] * (-len(batches) % per_step)  # every rank takes part in every step
    return [
        Step(
            _cut([by_length[start:end] for start, end in group], pieces, world_size),
            sum(target_sums[end] - target_sums[start] for start, end in group),
        )
        for group in (batches[first : first + per_step] for first in range(0, len(batches), per_step))
    ]


def _cut(batches: Sequence[Sequence[int]], pieces: int, world_size: int) -> tuple[tuple[int, ...], ...]:
    """Cut each batch into `pieces` runs of rows, the pieces of one rank still `world_size` apart."""
    return tuple(
        tuple(batch[i * len(batch) // pieces : (i + 1) * len(batch) // pieces])
        for start in range(0, len(batches), world_size)
        for i in range(pieces)
        for batch in batches[start : start + world_size]
    )


def collate(samples: Sequence[TokenizedSample], step_targets: int, pad_token_id: int) -> dict[str, Any]:
    """Pad samples on the right into one batch.

    Returns:
        `input_ids_BT, labels_BT, noise_BT` (텐서), 표본에 있으면 `reference_nll_BT`, 호스트가 아는 것으로
        `lengths` (행마다 진짜 토큰의 수), `targets` (이 배치의 목표 토큰 수), `step_targets` (M),
        `problem_ids` (이름들). 표본이 없으면 목표 토큰이 없는 한 자리짜리 배치.
    """
    shape = (max(len(samples), 1), max((len(sample.input_ids) for sample in samples), default=1))
    batch = {
        "input_ids_BT": torch.full(shape, pad_token_id),
        "labels_BT": torch.full(shape, IGNORE),
        "noise_BT": torch.zeros(shape, dtype=torch.bool),
    }
    if not samples or samples[0].reference_nll is not None:
        batch["reference_nll_BT"] = torch.zeros(shape, dtype=torch.float32)
    for row, sample in enumerate(samples):
        n = len(sample.input_ids)
        ids = torch.as_tensor(sample.input_ids)
        batch["input_ids_BT"][row, :n] = ids
        batch["labels_BT"][row, sample.prompt_length : n] = ids[sample.prompt_length :]
        batch["noise_BT"][row, :n] = torch.as_tensor(sample.noise)
        if sample.reference_nll is not None:
            batch["reference_nll_BT"][row, :n] = torch.as_tensor(sample.reference_nll, dtype=torch.float32)
    return {
        **batch,
        "lengths": [len(sample.input_ids) for sample in samples],
        "targets": sum(sample.targets for sample in samples),
        "step_targets": step_targets,
        "problem_ids": [sample.task_id for sample in samples],
    }


class StepLoader:
    """Yield this rank's micro-batches in the order of the plan, and remember the place.

    [동작] `iter()`를 새로 부를 때마다 다음 에폭이다. `state_dict`/`load_state_dict`로 에폭 안의 자리까지 이어 간다
    (Lightning이 체크포인트에 넣고 꺼낸다). pieces를 바꾸어도 바로 다음 표본에서 이어 간다.
    pieces > 1이면 배치에 `piece`(몇 번째 조각, 모두 몇 조각)가 더 있고, 묶음에서 처음 내주는 조각에는
    `pieces`(조각 모두의 배치)도 있다.

    Attributes:
        position: 이 에폭에서 이 랭크가 이미 내준 조각의 수.

    Args:
        same: 언제나 첫 에폭의 처음부터 내준다. 검증은 늘 같은 묶음을 보아야 비교할 수 있다 (limit_val_batches로 몇
            묶음만 볼 때도, 이어 한 뒤에도).
        resumed: 자리를 불러온 뒤에 `resumed(자리, 조각이 몇 배로 잘게 되었는지)`로 부른다.
    """

    def __init__(
        self,
        samples: TokenizedSamples,
        *,
        token_budget: int,
        pad_token_id: int,
        accumulate: int = 1,
        pieces: int = 1,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 42,
        same: bool = False,
        resumed: Callable[[int, Fraction], None] | None = None,
    ) -> None:
        self.samples = samples
        self.pad_token_id = pad_token_id
        self.pieces, self.world_size, self.rank = pieces, world_size, rank
        self.plan_arguments = dict(
            token_budget=token_budget, accumulate=accumulate, pieces=pieces, world_size=world_size, seed=seed
        )
        self.same, self.resumed = same, resumed
        self.epoch = 0
        self.position = 0
        self._planned: tuple[int, list[Step]] = (-1, [])
        self.plan(0)  # a budget that cannot work is said before the first step

    def plan(self, epoch: int) -> list[Step]:
        """Plan one epoch of these samples; the plan made last is remembered, for it is asked for again and again."""
        if self._planned[0] != epoch:
            steps = plan_epoch(self.samples.lengths, self.samples.targets, epoch=epoch, **self.plan_arguments)
            self._planned = epoch, steps
        return self._planned[1]

    def __len__(self) -> int:
        return sum(len(step.micro_batches) for step in self.plan(self.epoch)) // self.world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.same:
            self.epoch = self.position = 0
        elif self.position >= len(self):  # the one who asked knew the length, and never asked for more
            self.epoch, self.position = self.epoch + 1, 0
        mine = [
            (piece, step.targets)
            for step in self.plan(self.epoch)
            for piece in step.micro_batches[self.rank :: self.world_size]
        ]
        fresh = True
        for place in range(self.position, len(mine)):
            piece, step_targets = mine[place]
            batch = self._collate(piece, step_targets)
            if self.pieces > 1:
                number = place % self.pieces
                batch["piece"] = (number, self.pieces)
                if fresh or number == 0:
                    siblings = mine[place - number : place - number + self.pieces]
                    batch["pieces"] = [self._collate(*sibling) for sibling in siblings]
            fresh = False
            self.position = place + 1
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def _collate(self, piece: Sequence[int], step_targets: int) -> dict[str, Any]:
        return collate([self.samples[i] for i in piece], step_targets, self.pad_token_id)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the plan, and what the plan was made of."""
        plan = {**self.plan_arguments, "samples": len(self.samples)}
        return {"epoch": self.epoch, "position": self.position, "plan": plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader of the same samples stopped, on however many ranks; of others, at the next epoch.

        [동작] 묶음의 순서는 표본, 예산, 씨앗에만 달려 있다. 한 스텝의 묶음 수(world × accumulate ÷ pieces)가 같으면
        바로 다음 표본에서 이어 간다. 다르면 아직 밟지 않은 첫 묶음이 든 스텝에서 이어 가므로 몇 묶음을 다시 볼 수 있다.
        """
        now, then = self.state_dict()["plan"], {"pieces": state["plan"].get("split", 1), **state["plan"]}
        other = [name for name in now if name not in then or (name not in LAYOUT and now[name] != then[name])]
        finer, consequence = Fraction(1), ""
        if not other:
            finer = Fraction(now["pieces"] * then["world_size"], then["pieces"] * now["world_size"])
            self.epoch, self.position, again = state["epoch"], math.floor(state["position"] * finer), 0
            size, former = (Fraction(p["accumulate"] * p["world_size"], p["pieces"]) for p in (now, then))
            if size != former or now["world_size"] != then["world_size"]:
                place = state["position"] // then["accumulate"] * then["accumulate"] * finer
                self.position = place // now["accumulate"] * now["accumulate"]
                again = (place - self.position) * now["world_size"] / now["pieces"]
            if size != former:
                consequence = f"a step holds {size} micro-batches and not {former}: going on in epoch {self.epoch}, "
                consequence += f"where {again} of them come again"
        else:  # a place in another plan means nothing here
            self.epoch, self.position = state["epoch"] + 1, 0
            consequence = f"the steps are planned anew: going on at epoch {self.epoch}, "
            consequence += f"without the rest of epoch {state['epoch']}"
        if consequence and self.rank == 0:
            changed = [f"{name} was {then.get(name)} and is {now[name]}" for name in now if now[name] != then.get(name)]
            print(f"resume: {', '.join(changed)}, so {consequence}.", file=sys.stderr)
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        if self.resumed:
            self.resumed(self.position, finer)
