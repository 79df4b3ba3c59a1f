"""Write SentencePiece models, and cut text as SentencePiece's description of BPE says: the check of our reader."""

from itertools import pairwise
from pathlib import Path

from transformers.convert_slow_tokenizer import import_protobuf

BYTES = [f"<0x{i:02X}>" for i in range(256)]
SCORED = ["▁f", "or", "▁for", "in", "▁in", "▁x", "re", "▁re", "▁ret", "urn", "▁return", "▁▁", "▁▁▁▁", "+1", "def"]
LETTERS = ["▁", *"abcdefghijklmnopqrstuvwxyz+1():\n"]


def write_tokenizer(file: Path, model_type: int = 2) -> None:
    """Write a SentencePiece model like Llama's: controls, bytes, then merged pieces by score, then letters."""
    proto = import_protobuf().ModelProto()
    kinds = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((byte, 6) for byte in BYTES)]
    extra = ["ur", "urn", "de", "def", "▁r", "et"]
    for i, (piece, kind) in enumerate([*kinds, *((piece, 1) for piece in dict.fromkeys([*SCORED, *extra, *LETTERS]))]):
        proto.pieces.add(piece=piece, score=float(-i) if kind == 1 else 0.0, type=kind)
    spec = proto.trainer_spec
    spec.model_type, spec.unk_id, spec.bos_id, spec.eos_id, spec.byte_fallback = model_type, 0, 1, 2, True
    file.write_bytes(proto.SerializeToString())


def pieces_of(file: Path) -> dict[str, tuple[int, float]]:
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(file.read_bytes())
    return {piece.piece: (i, piece.score) for i, piece in enumerate(proto.pieces)}


def sentencepiece_bpe(text: str, pieces: dict[str, tuple[int, float]]) -> list[int]:
    """Merge the best-scored neighbours until none is a piece; what no piece covers goes by bytes."""
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        scores = [pieces[a + b][1] if a + b in pieces else None for a, b in pairwise(symbols)]
        pairs = [(score, -i) for i, score in enumerate(scores) if score is not None]
        if not pairs:
            break
        i = -max(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    ids = [[pieces[s][0]] if s in pieces else [pieces[BYTES[byte]][0] for byte in s.encode()] for s in symbols]
    return [i for group in ids for i in group]
