"""Open what training left: a Lightning checkpoint or an exported folder, and rebuild the model from it.

[동작] 체크포인트에는 가중치, 설정, 모델의 모양이 평범한 값으로 들어 있다. `weights_only=True`로만
    읽으므로 코드가 실행되지 않는다.
[디버깅] 다른 모델의 체크포인트라면 처음 다른 텐서의 이름과 모양을 알려 준다.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedTokenizerBase

from wmtp.checkpoints.integrity import check_bits
from wmtp.checkpoints.io import read_meta, read_weights
from wmtp.checkpoints.kinds import is_sharded
from wmtp.errors import CheckpointError, first_line
from wmtp.models.adapter import Lora
from wmtp.models.loading import check_weights, find_model, load_model, mtp_class
from wmtp.models.mtp import MTPMixin
from wmtp.models.same_tensors import check_same_tensors
from wmtp.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class SavedModel:
    """Hold the place of a trained model: a checkpoint of either kind, or a folder that save_pretrained wrote.

    Args:
        path: .ckpt 파일이나 폴더(조각), 또는 config.json이 있는 폴더.
    """

    path: Path

    @property
    def exported(self) -> bool:
        """Say whether this is a save_pretrained folder."""
        return self.path.is_dir() and not is_sharded(self.path)

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """Read the checkpoint file."""
        return read_checkpoint(self.path)

    @property
    def description(self) -> dict[str, Any]:
        """Return what a checkpoint says of its run and its model (`wmtp.checkpoints.description`)."""
        return self.checkpoint["wmtp"]

    @property
    def config(self) -> dict[str, Any] | None:
        """Return the config of the run that wrote it; an exported folder has none."""
        return None if self.exported else self.description["config"]

    @cached_property
    def taught(self) -> bool | None:
        """Say whether wmtp taught it in conversations; None if wmtp did not, as an exported folder's card tells."""
        if not self.exported:
            return (self.description["config"].get("prompt") or {}).get("chat") is True
        card = self.path / "README.md"
        head = card.read_text(encoding="utf-8", errors="replace").partition("\n---\n")[0] if card.is_file() else ""
        tags = set(re.findall(r"^- (wmtp|conversational)$", head, re.M))
        return "conversational" in tags if "wmtp" in tags else None

    @cached_property
    def identity(self) -> str:
        """Name the weights by their content, so that results are never mixed up."""
        digest = hashlib.sha256()
        folder = self.path / "model" if is_sharded(self.path) else self.path
        for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer, quick beside the weights."""
        if self.exported:
            return load_tokenizer(self.path)
        beside = self.path.resolve().parent.parent / "model"
        return load_tokenizer(beside if beside.is_dir() else find_model(self.description["config"]["model"]["path"]))

    def load(self) -> tuple[MTPMixin, PreTrainedTokenizerBase]:
        """Rebuild the model, ready to generate, and its tokenizer."""
        if self.exported:
            check_weights(self.path)
            tokenizer = self.tokenizer  # first: it is quick to say that it will not do
            return load_model(self.path, key="ckpt").eval(), tokenizer
        settings = dict(self.description["model"])
        check_bits(self.path)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = mtp_class(config)(config)
        if adapter := self.description.get("adapter"):
            Lora(**adapter).put_on(model)
        prefix = "model."
        saved = (read_weights(self.path) if is_sharded(self.path) else self.checkpoint["state_dict"]).items()
        weights = {name.removeprefix(prefix): tensor for name, tensor in saved if name.startswith(prefix)}
        check_same_model(weights, model, self.path)
        model.load_state_dict(weights)
        return model.eval(), self.tokenizer


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint of wmtp without running any code from it.

    Returns:
        체크포인트. 조각으로 된 것이면 `state_dict`는 모양뿐이고 (meta 장치), 옵티마이저의 텐서는 없다.

    Raises:
        CheckpointError: 잘렸거나, 객체가 들어 있거나, wmtp의 것이 아닐 때.
    """
    try:
        if is_sharded(file):
            return read_meta(file) | {"state_dict": read_weights(file, shapes_only=True)}
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError here
        reason = first_line(error)
        raise CheckpointError(f"ckpt = {file} is truncated, damaged or not a plain checkpoint ({reason}).") from error
    if not isinstance(checkpoint, dict) or "wmtp" not in checkpoint:
        raise CheckpointError(f"ckpt = {file} was not written by wmtp; give a checkpoint from runs/<name>/checkpoints.")
    return checkpoint


def check_same_model(weights: dict[str, Tensor], module: nn.Module, file: Path) -> None:
    """Refuse to load a checkpoint of another model.

    Raises:
        CheckpointError: 텐서의 이름이나 모양이 다를 때. 처음 다른 것을 알려 준다.
    """
    check_same_tensors(
        weights,
        module.state_dict(),
        f"ckpt = {file} is of another model",
        "set model.path, model.heads and model/adapter as they were",
    )
