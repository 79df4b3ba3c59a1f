"""Turn text into the tokens that a model reads: one way for what it is asked, one for what it is to write.

[연구 맥락] 토크나이저마다 글의 앞뒤에 붙이는 것이 다르다. 프롬프트 끝에 EOS를 붙이는 토크나이저를 그대로 쓰면 모델은
    끝난 글을 이어 써야 하고, pass@1이 말없이 떨어진다. 그래서 특수 토큰은 여기서만 붙인다.
[동작] 글의 시작(BOS)은 토크나이저가 스스로 붙일 때만, 한 번. 프롬프트의 끝에는 아무것도 붙이지 않는다. 정답은 EOS
    하나로, 대화의 답은 형식이 답을 닫는 토큰 하나로 끝난다. 대화 형식이 이미 BOS를 적었으면 더하지 않는다. 패딩은 토큰
    번호가 아니라 자리로 가리므로 (`wmtp.data.batching.collate`) 패딩이 EOS와 같은 토큰이어도 EOS는 학습한다.
[디버깅] `tokenizer.decode(encode_prompt(tokenizer, text))`를 눈으로 본다.
"""

from collections.abc import Collection
from itertools import groupby, takewhile

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wmtp.errors import ConfigError


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode what a model is asked to continue: the start of text once, and no end.

    [동작] 빈 글은 글의 시작이다. BOS도 없는 토크나이저라면 빈 목록이다.
    """
    start, ids = start_of_text(tokenizer), tokenizer(text, add_special_tokens=False).input_ids
    if ids[: len(start)] != start:  # a chat template writes it too
        ids = start + ids
    return ids or ([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id])


def start_of_text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what a tokenizer puts before every text by itself, each token once."""
    probe = tokenizer("x", return_special_tokens_mask=True)
    added = takewhile(lambda pair: pair[1], zip(probe.input_ids, probe.special_tokens_mask, strict=True))
    return [token for token, _ in groupby(token for token, _ in added)]


def encode_solution(
    tokenizer: PreTrainedTokenizerBase, text: str, end: int | None = None
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode what a model is to write, and the end of it; return the tokens and the characters of each.

    [동작] 글 속의 끝 토큰의 철자는 글일 뿐이다. 프로그램의 한가운데에서 끝내기를 배우면 안 된다.

    Args:
        end: 끝 토큰. None이면 EOS. 대화에서는 형식이 답을 닫는 토큰이다 (`wmtp.data.chat`).

    Example:
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained("wmtp/assets/tokenizer")
        >>> ids, places = encode_solution(tokenizer, "return x")
        >>> tokenizer.convert_ids_to_tokens(ids), places
        (['return', 'Ġx', '<|endoftext|>'], [(0, 6), (6, 8), (8, 8)])
    """
    end = tokenizer.eos_token_id if end is None else end
    written = text.removesuffix(tokenizer.eos_token)  # a prompt mode may write it
    ids, places = encode_continuation(tokenizer, written)
    if {end, tokenizer.eos_token_id} & {*ids}:
        ids, places = encode_continuation(tokenizer, written, split_special_tokens=True)
    return [*ids, end], [*places, (len(written), len(text))]


def encode_continuation(
    tokenizer: PreTrainedTokenizerBase, text: str, **how: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode a text that follows another one, and nothing around it.

    [연구 맥락] SentencePiece(Llama 2, CodeLlama, Mistral, Meta의 MTP)는 글의 첫머리에 빈칸을 하나 붙인다. 정답만 따로
        토큰으로 바꾸면 모델은 ` def`를 배우고, 쓰는 프로그램마다 IndentationError가 난다. 그래서 줄바꿈을 앞에 붙여
        토큰으로 바꾼 뒤 줄바꿈의 토큰을 뗀다.
    """
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    mark = "\n" if len(newline) > 1 else ""  # one token: nothing is put before a text
    whole = tokenizer(mark + text, add_special_tokens=False, return_offsets_mapping=True, **how)
    skipped = len(newline) * len(mark)
    places = [(start - len(mark), end - len(mark)) for start, end in whole["offset_mapping"][skipped:]]
    return whole["input_ids"][skipped:], places


def check_embedded(
    ids: Collection[int] | Tensor, rows: int | None, tokenizer: PreTrainedTokenizerBase, key: str, where: str
) -> None:
    """Refuse tokens that a model has no embedding for: added to its tokenizer, but not to the model.

    [동작] 안 쓰이는 토큰은 해가 없으므로, 실제로 나온 토큰만 본다. 그대로 두면 CPU에서는 IndexError로, GPU에서는
        알아보기 어려운 오류로 죽는다.

    Args:
        ids: 모델이 읽을 토큰들.
        rows: 모델의 임베딩이 몇 줄인지. 모르면 None.
        tokenizer: 그 번호를 붙인 토크나이저.
        key: 모델을 정하는 설정과 값.
        where: 무엇에 나왔는지.

    Raises:
        ConfigError: 임베딩에 없는 토큰이 나왔을 때. 가장 큰 번호의 것을 알려 준다.
    """
    most = int(ids.max() if isinstance(ids, Tensor) else max(ids)) if len(ids) else 0
    if rows is not None and most >= rows:
        raise ConfigError(
            f"{key} has embeddings for {rows} tokens, and {tokenizer.convert_ids_to_tokens(most)!r}, which {where}, is "
            f"number {most}: resize the model's embeddings (resize_token_embeddings, save_pretrained), or take "
            "the token out of its tokenizer.json."
        )
