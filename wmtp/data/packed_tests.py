"""Unpack LiveCodeBench's private tests, and nothing that a stranger may have put in their place.

[연구 맥락] LiveCodeBench는 숨은 시험을 base64 → zlib → pickle → JSON으로 싸서 낸다. pickle을 그대로 풀면 파일을 만든
    사람의 코드가 실행되고, zlib을 끝까지 풀면 몇 KB가 몇 GB가 된다.
[동작] zlib은 정해진 크기까지만 푼다. pickle은 풀지 않는다: 명령을 읽기만 하고, 글 하나를 담은 것(판 2 … 5가 글에 쓰는
    명령)이 아니면 거절한다. 클래스를 찾거나 함수를 부르는 명령은 물론, 리스트나 수도 받지 않는다.
"""

import base64
import pickletools
import zlib

MOST_BYTES = 256 << 20  # unpacked; the tests of one problem are a few megabytes
_MOST_OPERATIONS = 8  # a pickle of one text has five or six
_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}


def unpack(packed: str) -> str:
    """Return the text in base64, zlib and pickle.

    Raises:
        ValueError: 그렇게 싼 글이 아닐 때. 까닭을 말한다.

    Example:
        >>> import pickle
        >>> unpack(base64.b64encode(zlib.compress(pickle.dumps("[]"))).decode())
        '[]'
    """
    try:
        compressed = base64.b64decode(packed, validate=True)
        unpacking = zlib.decompressobj()
        pickled = unpacking.decompress(compressed, MOST_BYTES)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"neither JSON nor base64 of zlib: {error}") from None
    if unpacking.unconsumed_tail or (not unpacking.eof and len(pickled) == MOST_BYTES):
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB once unpacked")
    if not unpacking.eof:
        raise ValueError("cut off")
    return _text_in(pickled)


def _text_in(pickled: bytes) -> str:
    """Read the one text that a pickle holds, without unpickling."""
    texts: list[str] = []
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(pickled), start=1):
            if count > _MOST_OPERATIONS:
                raise ValueError(f"it holds more than {_MOST_OPERATIONS} operations")
            if operation.name in _TEXT:
                texts.append(str(argument))
            elif operation.name not in _AROUND:
                raise ValueError(f"it holds {operation.name}")
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"a pickle that is more than one text ({error}), which is never unpickled") from None
    if len(texts) != 1:
        raise ValueError(f"a pickle of {len(texts)} texts instead of one")
    return texts[0]
