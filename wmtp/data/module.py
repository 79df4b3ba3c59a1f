"""Give Lightning the batches of one data source.

[동작] 문제를 읽고 토큰으로 바꾼 뒤(setup), 스텝 계획을 따라 배치를 내준다. 학습은 train, 검증은 validation 분할만 쓴다.
"""

from typing import Any

from pytorch_lightning import LightningDataModule
from transformers import PreTrainedTokenizerBase

from wmtp.data.batching import StepLoader
from wmtp.data.tokenization import TokenizedSample, tokenize_problems
from wmtp.errors import ConfigError


class MTPDataModule(LightningDataModule):
    """Hold the tokenized training and validation samples of one source.

    Args:
        source: `.problems(split)`를 가진 출처 (`wmtp.data.sources`, `wmtp.data.synthetic`).
        prompt: 프롬프트 방식 (`wmtp.data.prompts`).
        tokenizer: 모델의 토크나이저.
        token_budget: 배치 하나의 자리 수 상한 (행 × 길이).
        max_length: 이보다 긴 표본은 자르지 않고 버리고, 몇 개인지 `dropped`에 남긴다.
        seed: 순서를 정하는 씨앗.
    """

    def __init__(
        self,
        source: Any,
        prompt: Any,
        tokenizer: PreTrainedTokenizerBase,
        token_budget: int = 2048,
        max_length: int = 1024,
        seed: int = 42,
    ) -> None:
        super().__init__()
        for key, value in (("token_budget", token_budget), ("max_length", max_length)):
            if not isinstance(value, int) or value < 2:
                raise ConfigError(f"data.{key} = {value!r} must be a whole number of tokens, at least 2; try 2048.")
        self.source, self.prompt, self.tokenizer = source, prompt, tokenizer
        self.token_budget, self.max_length, self.seed = token_budget, max_length, seed
        self.samples: dict[str, list[TokenizedSample]] = {}
        self.dropped: dict[str, list[str]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Tokenize both splits once."""
        if self.samples:
            return
        wanted = self.prompt.shot_task_ids
        shots = [problem for problem in self.source.problems("prompt") if problem.task_id in wanted] if wanted else []
        for split in ("train", "validation"):
            self.samples[split], self.dropped[split] = tokenize_problems(
                self.source.problems(split), self.prompt, self.tokenizer, min(self.max_length, self.token_budget), shots
            )
        if not self.samples["train"]:
            raise ConfigError(
                f"data.max_length = {self.max_length} leaves no training sample of {self.source.name} "
                f"({len(self.dropped['train'])} are longer or have no solution); raise it and data.token_budget."
            )

    def loader(self, split: str, accumulate: int = 1) -> StepLoader:
        """Return this rank's loader of a split."""
        trainer = self.trainer
        return StepLoader(
            self.samples[split],
            token_budget=self.token_budget,
            pad_token_id=self.tokenizer.pad_token_id,
            accumulate=accumulate,
            world_size=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            seed=self.seed,
        )

    def train_dataloader(self) -> StepLoader:
        """Return the training batches, grouped into optimizer steps."""
        return self.loader("train", self.trainer.accumulate_grad_batches if self.trainer else 1)

    def val_dataloader(self) -> StepLoader:
        """Return the validation batches."""
        return self.loader("validation")
