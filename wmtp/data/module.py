"""Give Lightning the batches of one data source.

[동작] 문제를 읽고 토큰으로 바꾼 뒤(setup), 스텝 계획을 따라 배치를 내준다. 학습은 train, 검증은 validation 분할만 쓴다.
    토큰은 캐시(wmtp.cache.entries)에 남는다. 두 번째 시작부터는 문제를 읽거나 만들지도 않는다.
"""

from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import LightningDataModule
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wmtp import ranges
from wmtp.cache.entries import entry_file, pack, read_or_build, unpack
from wmtp.cache.fingerprint import code_of, identify
from wmtp.data import tokenization
from wmtp.data.batching import StepLoader
from wmtp.data.problem import Problem
from wmtp.data.tokenization import LossesBySample, TokenizedSamples, tokenize_problems
from wmtp.errors import ConfigError
from wmtp.models import encoding
from wmtp.models.tokenizer import tokenizer_content
from wmtp.private_names import count_again


class MTPDataModule(LightningDataModule):
    """Hold the tokenized training and validation samples of one source.

    Attributes:
        reference_losses: 학습 표본마다 참조모델의 토큰별 손실. 알고리즘이 넣어 준다 (`wmtp.algos.reference`).

    Args:
        source: 문제의 출처 (`wmtp.data.problem.Source`).
        prompt: 프롬프트 방식 (`wmtp.data.prompts`).
        token_budget: 배치 하나의 자리 수 상한 (행 × 길이).
        max_length: 이보다 긴 표본은 자르지 않고 버리고, 몇 개인지 `dropped`에 남긴다.
        pieces: 배치 하나를 몇 조각으로 나누어 계산하는지. `trainer.accumulate_grad_batches`도 같은 배로 늘리면 한
            스텝의 표본과 기울기가 그대로이면서 메모리는 준다 (docs/operations.md).
    """

    def __init__(
        self,
        source: Any,
        prompt: Any,
        tokenizer: PreTrainedTokenizerBase,
        token_budget: int = 2048,
        max_length: int = 1024,
        seed: int = 42,
        pieces: int = 1,
    ) -> None:
        super().__init__()
        ranges.check(ranges.MTPDataModule, token_budget=token_budget, max_length=max_length, pieces=pieces)
        self.source, self.prompt, self.tokenizer = source, prompt, tokenizer
        self.token_budget, self.max_length, self.seed, self.pieces = token_budget, max_length, seed, pieces
        self.samples: dict[str, TokenizedSamples] = {}
        self.reference_losses: LossesBySample | None = None
        self.dropped: dict[str, list[str]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Tokenize both splits once."""
        if self.samples:
            return
        for split in ("train", "validation"):
            entry = read_or_build(entry_file("tokens", self.key(split)), partial(self.tokenize, split))
            self.dropped[split] = unpack(entry.pop("dropped"))
            self.samples[split] = TokenizedSamples(entry)
        if not self.samples["train"]:
            raise ConfigError(
                f"data.max_length = {self.max_length} leaves no training sample of {self.source.name} "
                f"({len(self.dropped['train'])} are longer or have no solution); raise it and data.token_budget."
            )

    def key(self, split: str) -> dict[str, Any]:
        """Return everything that decides the tokens of a split."""
        return {
            "split": split,
            "source": self.source.fingerprint(split),
            "shots": self.source.fingerprint("prompt") if self.prompt.shot_task_ids else None,
            "prompt": identify(self.prompt),
            "tokenizer": tokenizer_content(self.tokenizer),
            "end": self.prompt.end(self.tokenizer),
            "length": self.length,
            "code": code_of(tokenization, encoding),
        }

    def tokenize(self, split: str) -> dict[str, Tensor]:
        """Read and tokenize a split."""
        problems, shots = self.source.stream(split), self.shots()
        samples, dropped = tokenize_problems(problems, self.prompt, self.tokenizer, self.length, shots)
        return {**samples.tensors, "dropped": pack(dropped)}

    def shots(self) -> list[Problem]:
        """Read the example problems that the prompt shows."""
        wanted = self.prompt.shot_task_ids
        return [problem for problem in self.source.stream("prompt") if problem.task_id in wanted] if wanted else []

    @property
    def length(self) -> int:
        """Return how many tokens a sample may have."""
        return min(self.max_length, self.token_budget)

    @property
    def training_samples(self) -> TokenizedSamples:
        """Return the training samples, with a reference's losses where an algorithm has brought them."""
        return self.samples["train"].with_reference(self.reference_losses)

    def loader(self, part: str, accumulate: int = 1, **more: Any) -> StepLoader:
        """Return this rank's loader of a part of the data, train or validation."""
        trainer = self.trainer
        return StepLoader(
            self.training_samples if part == "train" else self.samples[part],
            token_budget=self.token_budget,
            pad_token_id=self.tokenizer.pad_token_id,
            accumulate=accumulate,
            world_size=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            seed=self.seed,
            **more,
        )

    def train_dataloader(self) -> StepLoader:
        """Return the training batches, grouped into optimizer steps."""
        accumulate, resumed = self.trainer.accumulate_grad_batches, partial(count_again, self.trainer)
        return self.loader("train", accumulate, pieces=self.pieces, resumed=resumed)

    def val_dataloader(self) -> StepLoader:
        """Return the validation batches, the same every time, and whole: without gradients they need less memory."""
        return self.loader("validation", same=True)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copy to a GPU out of pinned memory: out of other memory the host would wait until the GPU gets to it."""
        if device.type == "cuda":
            batch = apply_to_collection(batch, Tensor, Tensor.pin_memory)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)
