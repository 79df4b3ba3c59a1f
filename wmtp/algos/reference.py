"""Ask the reference model for its loss of every training token: batch by batch, or once and for all runs.

[연구 맥락] rho1의 CE_ref는 학습 중에 변하지 않는다 (maths.md 4절). 배치마다 채점할 수도 있지만 (online), 한 번 계산해
    두면 (cached) 학습하는 동안 참조모델은 메모리에도 시간표에도 없다: rho1 한 스텝의 값이 baseline 한 스텝과 같아진다.
[동작] cached의 키는 (토큰, 참조모델의 내용, 그것을 담은 정밀도, 계산의 정밀도). 데이터를 많아야 256조각으로 나누고,
    조각마다 캐시의 항목 하나다. 조각을 잠그고 계산하므로 랭크든, 따로 띄운 프로세스든, 같은 폴더를 보는 다른 컴퓨터든
    통신 없이 나누어 계산하고, 죽었다 깨어나면 남은 조각만 한다. `python -m wmtp.precompute`가 미리 해 둔다.
    미리 해 두지 않았고 데이터의 한 바퀴도 돌지 않을 실행이라면, 전부 계산하는 것이 낭비이므로 그때그때 채점한다.
    only: true이면 학습하는 프로세스는 참조모델을 절대 읽지 않는다: 캐시에 다 있거나, 시작하지 않는다.
[디버깅] 미리 계산한 값과 그때그때 채점한 값은 배치의 모양만 다르다: 차이는 반올림(약 1e-6)뿐이다.
"""

#   B sequences, T positions

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmtp.cache.entries import build_together, entry_file
from wmtp.cache.fingerprint import digest_of_model
from wmtp.data.losses import score_samples
from wmtp.data.tokenization import TokenizedSamples
from wmtp.errors import ConfigError
from wmtp.models.frozen import find_frozen
from wmtp.progress import progress_bar

VERSION = 1  # of what is computed; another number makes all entries anew
SHARDS = 256  # at most
SMALLEST_SHARD = 2**14  # tokens


class OnlineReference:
    """Score every batch with the reference, which stays in memory: one more forward pass a step.

    Args:
        path: 참조모델 폴더 (model.reference).
        model_path: 학습할 모델 폴더. 토크나이저가 같은지 먼저 확인한다.
        weights: 참조모델을 메모리에 담는 정밀도 (`wmtp.models.loading.WEIGHTS`).

    Raises:
        TokenizerMismatchError: 두 토크나이저의 내용이 다를 때.
        ConfigError: weights가 모르는 이름이거나, 그것에 필요한 패키지가 없을 때.
    """

    def __init__(self, path: str, model_path: str, weights: str = "float32") -> None:
        self.frozen = find_frozen(path, model_path, weights)

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse a reference that cannot be loaded, before anything slow."""
        self.frozen.check_reads(data)
        self.frozen.load()

    def prepare(self, trainer: Any) -> None:
        """Do nothing: there is nothing to compute ahead."""

    def follow(self, model: Any) -> None:
        """Do nothing after a step: a reference is frozen (but see `wmtp.algos.moving_average`)."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with what `state` gave, which of a reference that stands still is nothing."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of it: nothing."""
        return {}

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return CE_ref of every target token of a batch, head 0's."""
        model = self.frozen.load().to(batch["input_ids_BT"].device)
        return model.mtp(batch["input_ids_BT"]).next_token_nll(batch)


class CachedReference(OnlineReference):
    """Hold the reference by the losses that it gives; load it only where one is missing.

    Args:
        path, model_path, weights: `OnlineReference`.
        only: 학습할 때는 미리 계산한 것만 쓸지.
    """

    def __init__(self, path: str, model_path: str, weights: str = "float32", only: bool = False) -> None:
        super().__init__(path, model_path, weights)
        self.only = only

    def check(self, trainer: Any, data: Any) -> None:
        """Refuse to start a run that may use only what is in the cache, where that is not all of it.

        Raises:
            ConfigError: only인데 캐시에 없는 조각이 있거나, 표본에 참조모델이 모르는 토큰이 있을 때.
        """
        self.frozen.check_reads(data)
        if self.only and not self.complete(data.samples["train"], str(trainer.precision)):
            raise ConfigError(
                "algo.reference.only = true, but the cache lacks losses of this reference on this data; compute them "
                "first: python -m wmtp.precompute, with the same arguments (or set algo.reference.only=false)."
            )

    def prepare(self, trainer: Any) -> None:
        """Give the losses to the training data, unless computing them all would be more work than the run.

        [동작] 모든 랭크가 부른다. Lightning의 setup에서, 데이터로더가 만들어지기 전에.
        """
        data, precision = trainer.datamodule, str(trainer.precision)
        self.check(trainer, data)
        batches = len(data.train_dataloader())
        seen = trainer.max_steps * trainer.accumulate_grad_batches / batches
        if 0 <= seen < 1 and not self.complete(data.samples["train"], precision):
            if trainer.is_global_zero:
                print(
                    f"reference: this run sees {seen:.0%} of the data, so it is scored as training goes; "
                    "python -m wmtp.precompute, with the same arguments, does it once for all runs."
                )
            return
        data.reference_losses = self.compute(
            data.samples["train"],
            precision,
            token_budget=data.token_budget,
            pad_token_id=data.tokenizer.pad_token_id,
            device=trainer.strategy.root_device,
            autocast=trainer.precision_plugin.forward_context,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return CE_ref of every target token, from the batch where it was computed ahead."""
        return batch["reference_nll_BT"] if "reference_nll_BT" in batch else super().losses(batch)

    @cached_property
    def identity(self) -> str:
        """Name the reference by its content."""
        return digest_of_model(self.frozen.folder)

    def complete(self, samples: TokenizedSamples, precision: str) -> bool:
        """Say whether the losses of all samples lie in the cache."""
        return all(file.is_file() for file in self.files(samples, precision))

    def compute(
        self,
        samples: TokenizedSamples,
        precision: str = "32-true",
        *,
        token_budget: int,
        pad_token_id: int,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        rank: int = 0,
        world_size: int = 1,
    ) -> "ReferenceLosses":
        """Return the losses of the samples; compute what is not in the cache.

        [동작] 여러 프로세스가 함께 부르면 각자 남이 잡지 않은 조각을 잡는다. 모두 끝나야 돌아온다.

        Args:
            precision: Lightning의 정밀도 이름. 그때그때 채점할 때와 같은 계산이 되도록 키에 들어간다.
            token_budget: 배치 하나의 자리 수 상한.
            autocast: precision을 켜는 컨텍스트를 만드는 함수.
            rank: 몇 번째 프로세스인지. 저마다 다른 곳에서 시작한다.
        """
        files, firsts = self.files(samples, precision), shard_firsts(samples.starts)
        work = list(zip(files, pairwise(firsts), strict=True))
        offset = rank * len(files) // world_size
        shown = rank == 0 and not self.complete(samples, precision)
        shards, in_use = {}, self.frozen.model

        def build(part: tuple[int, int]) -> dict[str, Tensor]:
            with autocast():
                return {"nll": score_samples(self.frozen.load().to(device), samples, *part, token_budget, pad_token_id)}

        with progress_bar("reference", len(samples), 0, shown) as bar:
            for file, (first, end), entry in build_together([*work[offset:], *work[:offset]], build):
                shards[file] = entry["nll"]
                bar.update(end - first)
        self.frozen.model = in_use  # training does not need it
        return ReferenceLosses(samples.starts, firsts, [shards[file] for file in files])

    def files(self, samples: TokenizedSamples, precision: str) -> list[Path]:
        """Return where the shards lie."""
        key = {"version": VERSION, "samples": samples.fingerprint, "reference": self.identity, "precision": precision}
        if self.frozen.weights != "float32":
            key["weights"] = self.frozen.weights
        folder = entry_file("reference", key).with_suffix("")
        return [folder / f"{n:03d}.safetensors" for n in range(len(shard_firsts(samples.starts)) - 1)]


@dataclass(frozen=True)
class ReferenceLosses:
    """Look up a sample's losses in the shards.

    Attributes:
        starts: 표본마다 첫 토큰의 자리 (`TokenizedSamples.starts`).
        firsts: 조각마다 첫 표본의 번호, 끝에 표본의 수.
        shards: 조각마다 그 표본들의 토큰별 손실.
    """

    starts: list[int]
    firsts: list[int]
    shards: list[Tensor]

    def __getitem__(self, i: int) -> Tensor:
        shard = bisect_right(self.firsts, i) - 1
        origin = self.starts[self.firsts[shard]]
        return self.shards[shard][self.starts[i] - origin : self.starts[i + 1] - origin]


def shard_firsts(starts: Sequence[int]) -> list[int]:
    """Cut samples into shards of about equal tokens; return the first sample of each, and their number.

    Example:
        >>> shard_firsts([0, 10_000, 20_000, 30_000, 40_000])
        [0, 2, 4]
    """
    size = max(SMALLEST_SHARD, -(-starts[-1] // SHARDS))
    shard_of = [start // size for start in starts[:-1]]
    return [i for i, shard in enumerate(shard_of) if i == 0 or shard != shard_of[i - 1]] + [len(shard_of)]
