"""Find and hold the models that only score: rho1's reference, the critic's network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmtp import ranges
from wmtp.errors import ConfigError, TokenizerMismatchError
from wmtp.models.encoding import check_embedded
from wmtp.models.loading import check_weights, find_model, load_model, read_config
from wmtp.models.mtp import MTPMixin
from wmtp.models.tokenizer import check_rows, load_tokenizer, reading_of


@dataclass
class FrozenModel:
    """Know where a model is that only scores, and load it when first asked: one head, no gradient, few bits.

    [동작] 폴더와 정밀도가 같으면 같은(==) 모델이다. 그래서 combined는 참조모델과 critic의 몸통을 하나만 읽는다.

    Attributes:
        folder: 모델의 폴더.
        weights: 메모리에 담는 정밀도 (`WEIGHTS`).
        key: 오류 문장에 쓸 설정의 이름.
        model: 읽은 모델. 아직이거나 이제 필요 없으면 None.
    """

    folder: Path
    weights: str = "float32"
    key: str = field(default="model.reference", compare=False)
    model: MTPMixin | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()  # however it was spelt

    def load(self) -> MTPMixin:
        """Return the model."""
        if self.model is None:
            model = load_model(self.folder, heads=1, key=self.key, weights=self.weights)
            self.model = model.requires_grad_(False).eval()
        return self.model

    def check_reads(self, data: Any) -> None:
        """Refuse samples with a token that this model has no embedding for, though the model in training has."""
        config = self.model.config if self.model else read_config(self.folder, self.key)
        rows = getattr(config, "vocab_size", None)
        for split, samples in data.samples.items():
            held = samples.tensors["input_ids"]
            check_embedded(held, rows, data.tokenizer, f"{self.key} ({self.folder})", f"the {split} samples hold")


def find_frozen(path: str, model_path: str, weights: str = "float32") -> FrozenModel:
    """Find a reference model, after proving that both models read the same tokens and that it can be held so.

    Args:
        path: 참조모델 폴더 (model.reference).
        model_path: 학습할 모델 폴더.
        weights: 메모리에 담는 정밀도 (`WEIGHTS`).
    """
    ranges.check(ranges.OnlineReference, weights=weights)
    folder = find_reference(path, model_path)
    check_weights(folder, "model.reference")
    return FrozenModel(folder, weights)


def find_reference(path: str | None, model_path: str) -> Path:
    """Find a reference model's folder, and prove that it reads the same tokens as the model.

    Raises:
        ConfigError: 참조모델을 주지 않았거나, 표본에 든 특수 토큰이 그 임베딩에 없을 때.
        TokenizerMismatchError: 두 토크나이저의 내용이 다를 때. 가중치를 읽기 전에 확인한다.
    """
    if path is None:
        raise ConfigError(
            "model.reference = null names no model to compare with; set model.reference to a model with the same "
            "tokenizer, or algo=baseline to do without."
        )
    reference, model = find_model(path, "model.reference"), find_model(model_path)
    ours, theirs = load_tokenizer(model), load_tokenizer(reference)
    if reading_of(ours) != reading_of(theirs):
        raise TokenizerMismatchError(
            f"model.reference = {path} reads other tokens than model.path = {model_path} "
            f"({len(theirs)} against {len(ours)} entries); rho1 compares losses token by token, "
            "so give a reference with the same tokenizer."
        )
    check_rows(ours, getattr(read_config(reference, "model.reference"), "vocab_size", None), "model.reference", path)
    return reference
