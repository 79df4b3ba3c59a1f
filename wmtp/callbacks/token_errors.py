"""Measure which tokens a run gets right, kind by kind, before and after training.

[연구 맥락] "중요한 토큰의 오류가 20 % 줄었는가"에 답하려면 무엇이 중요한지를 결과를 보기 전에 정해야 한다. 여기서
    중요한 토큰은 갈림길(choice)이다: 학습 전의 모델 또는 참조모델이 가장 망설이는, 엔트로피가 큰 20 %의 검증 토큰
    (arXiv 2506.01939). 그 밖에 파이썬 문법의 종류마다(`wmtp.data.token_kinds`), 그리고 망가진 곳을 아는 데이터라면
    학습 표본의 망가진(corrupted) 토큰과 깨끗한(clean) 토큰도 잰다. 망가진 토큰은 틀릴수록 좋다: 배우지 않은 것이다.
[동작] 두 분할의 앞쪽 표본(samples개까지)을 학습 전과 후에 한 번씩 읽는다. 갈림길은 처음에 한 번 정하고
    token_errors.json에 두어, 이어 한 실행도 같은 토큰을 잰다. 모든 랭크가 같은 표본을 읽는다: 샤드로 나눈
    모델에서는 함께 불러야 하고, 그 밖에는 몇 초다.
[디버깅] 실행끼리 비교하려면 갈림길을 정한 것(choice_by)이 같아야 한다. 씨앗마다 다른 모델에서 시작하면 갈림길도 다르다.
"""

#   N target tokens, in the order of the samples

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp.callbacks.token_weights import text_pieces
from wmtp.data.batching import collate, plan_epoch
from wmtp.data.token_kinds import KINDS, kinds_of
from wmtp.data.tokenization import TokenizedSample, TokenizedSamples
from wmtp.maths.reading import Readings, read_targets
from wmtp.models.frozen import find_frozen
from wmtp.models.mtp import MTPMixin
from wmtp.storage.files import write_atomically

Precision = Callable[[], AbstractContextManager]

CHOICE_SHARE = 0.2  # of the validation tokens
START = "the model before training"


class TokenErrors(Callback):
    """Write `token_errors.json` into the run directory, and log the errors on the tokens that matter.

    Args:
        run_dir: 실행 폴더.
        reference: 갈림길을 정할 참조모델 폴더. None이면 학습 전의 모델.
        model_path: 학습할 모델 폴더. 참조모델과 토크나이저가 같은지 확인한다.
        samples: 분할마다 많아야 이만큼의 표본을 읽는다.

    Raises:
        TokenizerMismatchError: 참조모델의 토크나이저가 다를 때.
    """

    def __init__(
        self, run_dir: str | Path, reference: str | None = None, model_path: str | None = None, samples: int = 200
    ) -> None:
        self.path = Path(run_dir) / "token_errors.json"
        self.frozen = None if reference is None else find_frozen(reference, model_path or reference)
        self.choice_by = START if reference is None else reference
        self.samples = samples

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the tokens that matter, and measure them; a run that goes on has done it."""
        if trainer.global_step == 0 and not self._is_begun(trainer):
            self._measure(trainer, pl_module, "start")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the same tokens again."""
        if self._is_begun(trainer):
            self._measure(trainer, pl_module, "end")

    def _is_begun(self, trainer: Trainer) -> bool:
        return trainer.strategy.broadcast(self.path.exists())  # reading a sharded model takes all ranks

    def _measure(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data, precision = trainer.datamodule, trainer.precision_plugin.forward_context
        first = {split: TokenizedSamples.pack(islice(data.samples[split], self.samples)) for split in data.samples}
        validation, train = first["validation"], first["train"]
        noise_N = torch.cat([torch.as_tensor(sample.noise)[-sample.targets :] for sample in train])
        if not sum(validation.targets):
            return
        pl_module.eval()
        read = read_samples(pl_module.model, validation, data, precision)
        read_train = read_samples(pl_module.model, train, data, precision) if noise_N.any() else None
        pl_module.train()
        if not trainer.is_global_zero:
            return
        found: dict[str, Any] = (
            json.loads(self.path.read_text()) if self.path.exists() else {"choice_by": self.choice_by}
        )
        if "choice_points" not in found:
            found["choice_points"] = self._choose(read, validation, data, precision, pl_module.device)
        found[stage] = {"all": _mean(read), "choice": _mean(read, torch.tensor(found["choice_points"]))}
        kinds = [kind for sample in validation for kind in kinds_of_targets(sample, data.tokenizer)]
        for kind in KINDS:
            if kind in kinds:
                found[stage][kind] = _mean(read, torch.tensor([one == kind for one in kinds]))
        if read_train is not None:
            found[stage] |= {"corrupted": _mean(read_train, noise_N), "clean": _mean(read_train, ~noise_N)}
        write_atomically(self.path, (json.dumps(found) + "\n").encode())
        numbers = {f"tokens/{kind}_{name}": row[name] for kind, row in found[stage].items() for name in ("ce", "error")}
        numbers["val/important_error"] = found[stage]["choice"]["error"]
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)

    def _choose(
        self, read: Readings, samples: TokenizedSamples, data: Any, precision: Precision, device: torch.device
    ) -> list[int]:
        """Say at which target tokens the judge hesitates most."""
        entropy_N = read.entropy_N
        if self.frozen is not None:
            entropy_N = read_samples(self.frozen.load().to(device), samples, data, precision).entropy_N
            self.frozen.model = None  # training does not need it
        count = math.ceil(CHOICE_SHARE * len(entropy_N))
        return entropy_N.argsort(descending=True, stable=True)[:count].sort().values.tolist()


def read_samples(model: MTPMixin, samples: TokenizedSamples, data: Any, precision: Precision) -> Readings:
    """Read what head 0 says of every target token, in the order of the samples, on the CPU."""
    read: list[Any] = [None] * len(samples)
    for step in plan_epoch(samples.lengths, samples.targets, token_budget=data.token_budget):
        for rows in step.micro_batches:
            batch = collate([samples[row] for row in rows], step.targets, data.tokenizer.pad_token_id)
            with torch.no_grad(), precision():
                output = model.mtp(batch["input_ids_BT"].to(model.device))
                found = read_targets(output.hidden[0], output.unembedding_VD, batch["labels_BT"].to(model.device))
            sizes = [samples.targets[row] for row in rows]
            cut = [numbers_N.cpu().split(sizes) for numbers_N in found]
            for row, *parts in zip(rows, *cut, strict=True):
                read[row] = parts
    return Readings(*(torch.cat(parts) for parts in zip(*read, strict=True)))


def kinds_of_targets(sample: TokenizedSample, tokenizer: Any) -> list[str]:
    """Name the kind of every target token of a sample; the one that ends it, and other signs, are of none."""
    target_ids = torch.as_tensor(sample.input_ids)[sample.prompt_length :].tolist()
    signs = set(tokenizer.all_special_ids)
    pieces = text_pieces(tokenizer, target_ids)
    kinds = kinds_of(["" if token in signs else piece for token, piece in zip(target_ids, pieces, strict=True)])
    return kinds[-sample.targets :]  # the first of a sample without a prompt is no target


def _mean(read: Readings, chosen_N: Tensor | slice = slice(None)) -> dict[str, float]:
    nll_N, wrong_N = read.nll_N[chosen_N], read.wrong_N[chosen_N]
    return {"tokens": len(nll_N), "ce": nll_N.double().mean().item(), "error": wrong_N.double().mean().item()}
