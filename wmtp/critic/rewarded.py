"""Tokenize rewarded programs and batch them, the programs of one problem always together.

[연구 맥락] critic의 1단계(stage 1)는 프로그램 하나에 보상 하나인 데이터를 읽는다. 한 문제의 맞은 프로그램과 틀린
    프로그램이 한 배치에 있어야 둘을 견줄 수 있다 (value_loss=pairwise).
[동작] 프롬프트와 토큰은 학습 데이터와 똑같이 만든다. 달라진 자리(noise)는 재는 데만 쓰고 배우는 데는 쓰지 않는다.
"""

#   B sequences, T positions, S samples

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from wmtp.cache.fingerprint import digest_of
from wmtp.critic.rewards import RewardedProgram
from wmtp.data.batching import collate
from wmtp.data.module import MTPDataModule
from wmtp.data.tokenization import TokenizedSamples, tokenize_problem
from wmtp.maths.alignment import target_mask
from wmtp.maths.credit import localisation


@dataclass(frozen=True, eq=False)
class RewardedSamples:
    """Hold tokenized programs, their rewards, and which of them belong to one problem.

    Attributes:
        samples: 토큰으로 바꾼 프로그램들. noise는 맞은 프로그램과 다른 토큰.
        problems: 문제마다 그 프로그램들의 번호.
    """

    samples: TokenizedSamples
    reward_S: Tensor
    problems: list[list[int]]
    pad_token_id: int

    @classmethod
    def of(cls, programs: Sequence[RewardedProgram], data: MTPDataModule) -> "RewardedSamples":
        """Tokenize programs as the training data is; leave out what is too long."""
        shots, samples, rewards = data.shots(), [], []
        for program in programs:
            sample = tokenize_problem(program.problem, data.prompt, data.tokenizer, shots)
            if len(sample.input_ids) <= data.length:
                samples.append(sample)
                rewards.append(program.reward)
        numbered = groupby(range(len(samples)), key=lambda i: samples[i].task_id)
        problems = [list(group) for _, group in numbered]
        reward_S = torch.tensor(rewards, dtype=torch.float32)
        return cls(TokenizedSamples.pack(samples), reward_S, problems, data.tokenizer.pad_token_id)

    def batches(self, token_budget: int, shuffled_by: str | None = None) -> list[list[int]]:
        """Put whole problems together until the next one would exceed the budget of positions.

        Args:
            token_budget: 배치 하나의 자리 수 상한. 한 문제가 넘으면 그 문제 하나가 배치가 된다.
            shuffled_by: 문제의 순서를 정하는 씨앗. None이면 있는 순서대로.
        """
        order = list(self.problems)
        if shuffled_by is not None:
            random.Random(shuffled_by).shuffle(order)
        lengths, batches = self.samples.lengths, []
        for problem in order:
            together = [*batches[-1], *problem] if batches else problem
            if batches and len(together) * max(lengths[i] for i in together) <= token_budget:
                batches[-1] = together
            else:
                batches.append(problem)
        return batches

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Collate some samples, as for training, with `reward_B`; no sample is a row without targets."""
        batch = collate([self.samples[i] for i in rows], step_targets=1, pad_token_id=self.pad_token_id)
        return batch | {"reward_B": self.reward_S[list(rows)] if rows else self.reward_S.new_zeros(1)}

    def localise(self, batches: Sequence[Sequence[int]], scores: Sequence[Tensor], binary: bool) -> dict[str, float]:
        """Tell whether token scores find what is wrong (`wmtp.maths.credit.localisation`).

        Args:
            binary: 보상이 0과 1뿐인지. 아니면 달라진 자리가 없는 프로그램을 맞은 것으로 본다.
        """
        batch = self.batch([row for rows in batches for row in rows])
        mask_BT, changed_BT = target_mask(batch["labels_BT"]), batch["noise_BT"]
        width = mask_BT.shape[1]
        score_BT = torch.cat([pad(score_BT.cpu(), (0, width - score_BT.shape[1])) for score_BT in scores])
        correct_B = batch["reward_B"] == 1 if binary else ~changed_BT.any(dim=1)
        return localisation(score_BT, mask_BT, changed_BT, correct_B)

    @cached_property
    def fingerprint(self) -> str:
        """Name the programs, what is known of them and their grouping by content."""
        noise = hashlib.sha256(self.samples.tensors["noise"].numpy().data).hexdigest()
        return digest_of([self.samples.fingerprint, noise, self.reward_S.tolist(), self.problems])

    def __len__(self) -> int:
        return len(self.samples)
