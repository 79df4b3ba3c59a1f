"""Read SentencePiece's tokenizer.model as a tokenizer of transformers that cuts text exactly as SentencePiece does.

[동작] sentencepiece 패키지는 필요 없다: 파일은 protobuf이고, transformers가 그 정의를 가지고 있다. transformers가
    바꾼 것은 쓰지 않는다: 공백으로 시작하는 글 앞의 "▁"를 빠뜨리고, 들여쓰기를 다르게 합친다 (`▁▁▁ ▁return`이
    `▁▁▁▁ return`이 된다; 5.23). 그래서 학습한 모델이 본 적 없는 토큰을 읽는다.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

from wmtp.errors import CheckpointError

FILE = "tokenizer.model"
NORMAL, USER_DEFINED, BPE = 1, 4, 2  # kinds of pieces and of models, in sentencepiece_model.proto
ELSE = "put the tokenizer.json of its publisher beside it"


def only_pieces(folder: Path) -> bool:
    """Say whether a folder has a SentencePiece BPE model and nothing else to cut text with."""
    if not (folder / FILE).is_file() or any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return False
    try:
        return _parse(folder / FILE).trainer_spec.model_type == BPE
    except CheckpointError:  # Llama 3's has the same name, and is of another kind
        return False


def read_folder(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer.model of a folder, and what tokenizer_config.json says of special tokens and chats.

    Raises:
        CheckpointError: `read_pieces`의 것, 또는 tokenizer_config.json이 조각에 없는 토큰을 더할 때.
    """
    file, settings = folder / FILE, {}
    if (folder / "tokenizer_config.json").is_file():
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = read_pieces(file, settings.get("model_max_length"))
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        if token := _spelling(settings.get(name)):
            setattr(tokenizer, name, token)
    added = [_spelling(token) for token in settings.get("added_tokens_decoder", {}).values()]
    pieces = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    if unknown := [token for token in [*added, *tokenizer.all_special_tokens] if token not in pieces]:
        raise CheckpointError(
            f"{file} has no piece {unknown[0]!r}, which tokenizer_config.json adds ({len(unknown)} in all); {ELSE}."
        )
    if settings.get("add_bos_token") is False:
        tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    tokenizer.chat_template = settings.get("chat_template")
    return tokenizer


def _spelling(token: Any) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def read_pieces(file: Path, longest: int | None = None) -> PreTrainedTokenizerFast:
    """Turn a SentencePiece BPE model into a tokenizer that puts the start of text before every text.

    Args:
        file: tokenizer.model.
        longest: 모델이 읽을 수 있는 토큰의 수. 모르면 None.

    Raises:
        CheckpointError: SentencePiece의 BPE 모델이 아니거나, 여기서 따르지 않는 규칙을 쓸 때.
    """
    proto = _parse(file)
    spec, rules = proto.trainer_spec, proto.normalizer_spec
    if spec.model_type != BPE:
        raise CheckpointError(f"{file} is not a BPE model of SentencePiece, as Llama's tokenizers are; {ELSE}.")
    if rules.precompiled_charsmap or any(piece.type == USER_DEFINED for piece in proto.pieces):
        raise CheckpointError(f"{file} rewrites text, or has pieces of its user's, before it merges; {ELSE}.")
    vocabulary = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}  # no bytes, no controls
    unk, bos, eos = (proto.pieces[i].piece for i in (spec.unk_id, spec.bos_id, spec.eos_id))
    merges = generate_merges({piece: vocabulary[piece] for piece in scores}, scores)
    model = models.BPE(vocabulary, merges, unk_token=unk, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    begins = [normalizers.Prepend("▁")] if rules.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*begins, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(content=" ", left=1)] if begins else []  # the "▁" of the normalizer
    spaces = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), *strip])
    # Meta's own code puts the start token before every text.
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, spec.bos_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        split_special_tokens=True,  # "</s>" in a problem's text is text, and ends nothing
        **({} if longest is None else {"model_max_length": longest}),
    )


def _parse(file: Path) -> Any:
    try:
        proto = import_protobuf().ModelProto()
    except ImportError as error:
        raise CheckpointError(
            f"{file} needs the package protobuf to be read; install it: pip install protobuf."
        ) from error
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError; its class differs between implementations
        raise CheckpointError(f"{file} is not a SentencePiece model ({error}); copy it again, or {ELSE}.") from error
    return proto
