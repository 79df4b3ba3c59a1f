"""Load tokenizers, and tell whether two of them read the same tokens."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wmtp.errors import ConfigError, DataNotFoundError, first_line
from wmtp.models.sentencepiece_model import only_pieces, read_folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that has an end-of-text token and, failing its own, pads with it.

    [동작] tokenizer.json이 없고 SentencePiece의 tokenizer.model만 있으면 우리가 읽는다 (`sentencepiece_model`).

    Raises:
        DataNotFoundError: 토크나이저가 없을 때.
        ConfigError: EOS가 없거나, 글자 위치를 모르는 파이썬 토크나이저일 때.
        CheckpointError: tokenizer.model을 읽을 수 없을 때.
    """
    tokenizer = read_folder(folder) if only_pieces(folder) else _load(folder)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer in {folder} is {type(tokenizer).__name__}, written in Python: it cannot say which "
            "characters a token stands for; give a model with a tokenizer.json."
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer in {folder} has no end-of-text token, and a program must end with one; set eos_token in "
            "its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # classes of transformers raise TypeError where one of their files is missing
        reason = first_line(error)
        raise DataNotFoundError(
            f"{folder} holds no tokenizer that transformers can load ({reason}); put its tokenizer.json there."
        ) from error


def check_rows(tokenizer: PreTrainedTokenizerBase, rows: int | None, key: str, path: str) -> None:
    """Refuse a model without an embedding for a special token that samples hold: padding, or the end of text.

    [동작] 토크나이저에만 토큰을 더하고 모델은 늘리지 않은 경우다. GPU에서는 알아보기 어려운 오류로 죽는다.
    """
    for name in ("eos_token", "pad_token", "bos_token"):
        number = getattr(tokenizer, f"{name}_id")
        if None not in (rows, number) and number >= rows:
            raise ConfigError(
                f"{key} = {path} has embeddings for {rows} tokens, and the {name} of model.path, "
                f"{getattr(tokenizer, name)!r}, is number {number}; set {name} in model.path's tokenizer_config.json "
                "to one that it has (padding may be the eos_token), or resize the model's embeddings."
            )


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what decides how text becomes tokens, whatever the folder is called."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.pop("truncation"), content.pop("padding")
    return content


def reading_of(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """Return which number each piece has and how a text is cut: models that differ cannot be compared by token.

    Special tokens beside the pieces (CodeLlama's infilling on Llama 2's pieces) make no difference.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    added = [token["content"] for token in content["added_tokens"] if not token["special"]]
    return [
        content["model"]["vocab"],
        added,
        tokenizer("def f(x):\n    return x  # \u00bd \uac12", add_special_tokens=False).input_ids,
    ]
