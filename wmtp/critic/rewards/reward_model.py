"""Reward programs with a model that was trained to judge, without running them."""

#   B programs of a batch, T positions, C classes

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from wmtp import ranges
from wmtp.cache.fingerprint import digest_of_file, identify
from wmtp.critic.rewards.base import Rewards, Row, by_problem
from wmtp.data.module import MTPDataModule
from wmtp.data.problem import Problem
from wmtp.errors import CheckpointError, ConfigError
from wmtp.models.loading import check_weights, find_model
from wmtp.models.tokenizer import load_tokenizer

KEY = "algo.rewards.path"
CONTENT = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # what decides the rewards


class RewardModel(Rewards):
    """Reward a program with the logit that a sequence-classification model gives it.

    [동작] 문제의 프롬프트와 프로그램을 보상모델의 토크나이저로 읽는다. 대화 형식(chat template)이 있으면 사용자와
    조수의 말로, 문장 쌍을 읽는 모델(BERT 등)이면 쌍으로, 아니면 이어 붙여서. num_labels가 1이면 로짓, 2면 두 로짓의
    차이다. 프로그램을 실행하지 않으므로, 돌연변이가 정말 틀렸는지는 모른다. 모델이 읽을 수 없을 만큼 긴 것은 빼고,
    몇 개인지 말한다.

    Args:
        path: 보상모델. 폴더, s3:// 주소, Hub의 이름.
        token_budget: 배치 하나의 자리 수 상한.
        **which: 어떤 프로그램을 쓸지 (`Rewards`).

    Raises:
        ConfigError: num_labels가 1이나 2가 아니거나, transformers가 모르는 구조일 때.
        CheckpointError: safetensors가 없거나, 잘렸거나, 분류층이 없을 때 (평범한 언어모델).
    """

    name = "reward_model"

    def __init__(self, path: str, token_budget: int = 8192, **which: int) -> None:
        ranges.check(ranges.RewardModel, token_budget=token_budget)
        super().__init__(**which)
        self.token_budget = token_budget
        self.folder = find_model(path, KEY)
        self.config = _classifier_config(self.folder)
        self.tokenizer = load_tokenizer(self.folder)
        own_pad = self.tokenizer.pad_token_id
        if self.config.pad_token_id is None and own_pad != self.tokenizer.eos_token_id:
            self.config.pad_token_id = own_pad

    def key(self, data: MTPDataModule, split: str, model: Any) -> dict[str, Any]:
        files = [file for ending in CONTENT for file in sorted(self.folder.glob(ending))]
        return super().key(data, split, model) | {
            "prompt": identify(data.prompt.plain),
            "model": [(file.name, digest_of_file(file)) for file in files],
        }

    @contextmanager
    def judging(self, data: MTPDataModule, model: Any) -> Iterator[Callable[[Sequence[Problem]], list[list[Row]]]]:
        device = data.trainer.strategy.root_device if data.trainer else "cpu"
        classifier = _load_classifier(self.folder, self.config).to(device)
        too_long = 0

        def rows_of(problems: Sequence[Problem]) -> list[list[Row]]:
            nonlocal too_long
            programs = self.unproven(problems, data.source)
            texts = [self.read(data.prompt.plain.render(problems[i]), program) for i, program, _ in programs]
            logits = self.score(classifier, texts)
            too_long += logits.count(None)
            return by_problem(len(problems), programs, logits)

        yield rows_of
        if too_long:
            print(
                f"rewards: {too_long} programs are longer than the {self.longest} tokens that the reward model reads; "
                "they are left out."
            )

    @cached_property
    def longest(self) -> int:
        """Count the tokens that the model can read."""
        return min(self.tokenizer.model_max_length, getattr(self.config, "max_position_embeddings", None) or 10**9)

    def read(self, prompt: str, program: str) -> list[int]:
        """Tokenize a program behind its problem, in the form that the model expects."""
        if self.tokenizer.chat_template:
            talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": program}]
            text = self.tokenizer.apply_chat_template(talk, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False).input_ids
        if self.tokenizer.sep_token:
            return self.tokenizer(prompt, program).input_ids
        return self.tokenizer(prompt + program).input_ids

    @torch.no_grad()
    def score(self, classifier: Any, texts: Sequence[list[int]]) -> list[float | None]:
        """Give each text its logit; None to those that are too long."""
        order = sorted((i for i, ids in enumerate(texts) if len(ids) <= self.longest), key=lambda i: len(texts[i]))
        rewards: list[float | None] = [None] * len(texts)
        pad = self.config.pad_token_id
        while order:
            # From the longest on; without padding, one at a time.
            rows = max(1, self.token_budget // len(texts[order[-1]])) if pad is not None else 1
            batch, order = order[-rows:], order[:-rows]
            width = len(texts[batch[-1]])
            ids_BT = torch.tensor([texts[i] + [pad] * (width - len(texts[i])) for i in batch])
            mask_BT = torch.tensor([[1] * len(texts[i]) + [0] * (width - len(texts[i])) for i in batch])
            logits_BC = classifier(
                input_ids=ids_BT.to(classifier.device), attention_mask=mask_BT.to(classifier.device)
            ).logits.float()
            logit_B = logits_BC[:, 0] if self.config.num_labels == 1 else logits_BC[:, 1] - logits_BC[:, 0]
            if not logit_B.isfinite().all():
                raise CheckpointError(f"{KEY}: the reward model gives NaN or Inf; its weights are damaged.")
            for i, logit in zip(batch, logit_B.tolist(), strict=True):
                rewards[i] = logit
        return rewards


def _classifier_config(folder: Path) -> Any:
    """Read the config of a reward model and refuse what gives no reward, before its weights are read."""
    check_weights(folder, KEY)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except ValueError as error:
        raise ConfigError(f"{KEY} = {folder} is of no architecture that transformers knows ({error}).") from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"{KEY} = {folder}: transformers has no sequence classification for {config.model_type}; choose a model "
            "that AutoModelForSequenceClassification loads."
        )
    if config.num_labels not in (1, 2):
        raise ConfigError(
            f"{KEY} = {folder} has num_labels = {config.num_labels}; a reward is the logit of 1 label, or the "
            "difference of 2 (wrong, right). Choose a reward model."
        )
    return config


def _load_classifier(folder: Path, config: Any) -> Any:
    classifier, report = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{KEY} = {folder} lacks {missing[0]}: it was never trained to give a reward. Choose a reward model."
        )
    return classifier.requires_grad_(False).eval()
