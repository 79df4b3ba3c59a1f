"""Read a GGUF, the one-file format of llama.cpp: dequantised once into a folder of ours.

[연구 맥락] 작은 진짜 모델은 GGUF로 돌아다닌다. 대개 4비트나 8비트라서, 되돌린 값은 원래 모델의 것이 아니다. 그래서
    무엇에서 되돌렸는지를 config.json에 적고(stored_as) 한 줄로 말한다.
[동작] transformers의 판독기로 읽는다. 빈 폴더에서 읽으므로 파일 곁의 설정이나 코드는 보지 않는다. float32로 되돌려
    캐시에 두고(`converted`), 다음부터는 그 폴더를 쓴다. 판독기가 조용히 틀리는 것은 여기서 막는다:
        글을 자르는 법(tokenizer.ggml.pre)을 모르면 GPT-2처럼 자른다    아는 것은 고치고, 모르면 거절한다
        모르는 텐서(rope_freqs)는 빼고, 없는 텐서는 무작위로 채운다       수가 하나라도 다르면 거절한다
[디버깅] 다시 바꾸려면 캐시의 converted 폴더를 지운다. 값이 다르면 파일의 토크나이저부터 의심하라.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache as cache_of_process
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from wmtp.cache.fingerprint import digest_of_file
from wmtp.errors import CheckpointError, ConfigError, first_line
from wmtp.models.converted import converted
from wmtp.storage import say
from wmtp.storage.files import remove

ENDING = ".gguf"
GROWTH = 8  # a number takes 4 bytes here, and at least half a byte there
INSTEAD = "give the model as a folder with safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")
CUT = ("tokenizer.ggml.model", "tokenizer.ggml.pre")
# What `tokenizer.ggml.pre` may be called where text is cut as GPT-2 cuts it, and where digits stand alone besides.
LIKE_GPT2 = (None, "default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "mellum", "roberta-bpe", "exaone4")
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell")


def is_gguf(path: Path) -> bool:
    """Say whether what was found is a GGUF file and not a folder."""
    return path.suffix == ENDING and path.is_file()


def convert(file: Path, cache: Path, key: str, check: Callable[[Any], Any]) -> Path:
    """Convert a GGUF file into a folder of ours, once; return it from the cache ever after.

    Args:
        file: .gguf 파일.
        cache: 바꾼 폴더를 둘 곳.
        key: 오류 문장에 쓸 설정의 이름.
        check: 모델의 설정을 받아, 쓸 수 없는 구조이면 오류를 내는 함수. 가중치를 읽기 전에 부른다.

    Raises:
        ConfigError: gguf 패키지가 없거나, 글을 자르는 법을 모를 때.
        CheckpointError: 잘렸거나, 손상되었거나, 판독기가 다 읽지 못할 때.
        StorageError: 캐시에 쓸 수 없을 때.
    """
    write = partial(_convert, file, key, check)
    folder = converted(file, digest_of_file(file)[:16], GROWTH * file.stat().st_size, cache, write)
    _say_origin(f"{key} = {file}", folder)
    return folder


@cache_of_process
def _say_origin(model: str, folder: Path) -> None:
    origin = json.loads((folder / "config.json").read_text(encoding="utf-8"))["stored_as"]
    rank_zero_only(print)(f"{model}: {origin}.")


def _convert(file: Path, key: str, check: Callable[[Any], Any], part: Path) -> None:
    """Check everything, then read the weights and write the folder."""
    if find_spec("gguf") is None:
        raise ConfigError(f"{key} = {file} needs the package gguf to be read; pip install 'wmtp[gguf]'.")
    import gguf

    remove(part)  # of a killed process
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / file.name).symlink_to(file.resolve())
        options = dict(gguf_file=file.name, local_files_only=True, trust_remote_code=False)
        with _damage_is_said(file, key):
            reader = gguf.GGUFReader(file)
            kind, rule = (field.contents() if (field := reader.fields.get(name)) else None for name in CUT)
            config = AutoConfig.from_pretrained(alone, **options)
        check(config)
        with _damage_is_said(file, key):
            tokenizer = AutoTokenizer.from_pretrained(alone, **options)
        _cut_as_it_says(tokenizer, kind, rule, file, key)
        _check_all_is_read({tensor.name: int(tensor.n_elements) for tensor in reader.tensors}, config, file, key)
        origin = origin_of(reader.tensors)
        say(f"converting {file}, {origin}, once, into {part.parent}")
        with _damage_is_said(file, key):
            read, report = AutoModelForCausalLM.from_pretrained(
                alone,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **options,
            )
    weights = read.state_dict()
    broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if broken or report["missing_keys"] or report["mismatched_keys"]:
        name = min([*broken, *report["missing_keys"], *report["mismatched_keys"]], key=str)
        raise CheckpointError(f"{key} = {file} is damaged: {name} is missing, or holds NaN or Inf; copy it again.")
    # It refuses to save what it read from a GGUF, so the tensors go into a model that came from nowhere.
    if torch.equal(*(matrix.weight for matrix in (read.get_input_embeddings(), read.get_output_embeddings()))):
        config.tie_word_embeddings = True  # some files hold the one matrix twice
    config.stored_as, config.dtype = origin, torch.float32
    model = _empty(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)


def _empty(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def origin_of(tensors: list[Any]) -> str:
    """Say what the numbers of a file were stored as, the kind that most of them are first."""
    numbers = Counter()
    for tensor in tensors:
        numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    kinds = [kind for kind, _ in numbers.most_common()]
    quantised = [kind for kind in kinds if kind not in FLOATS]
    return f"dequantised from {', '.join(quantised)}" if quantised else f"read from {kinds[0]}"


@contextmanager
def _damage_is_said(file: Path, key: str) -> Iterator[None]:
    """Turn whatever the readers raise into one sentence."""
    try:
        yield
    except Exception as error:  # struct.error, KeyError, ValueError, MemoryError … of numpy, gguf and transformers
        reason = first_line(error)
        raise CheckpointError(
            f"{key} = {file} is truncated, damaged or of a kind that transformers cannot read ({reason}); copy "
            f"it again, or {INSTEAD}."
        ) from error


def _cut_as_it_says(
    tokenizer: PreTrainedTokenizerBase, kind: str | None, rule: str | None, file: Path, key: str
) -> None:
    """Cut text as the file says; transformers cuts as GPT-2 does where it does not know the rule."""
    backend = tokenizer.backend_tokenizer
    if kind != "gpt2" or not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return
    if rule in DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    elif rule not in LIKE_GPT2:
        raise ConfigError(
            f"{key} = {file} has its text cut as {rule!r} (tokenizer.ggml.pre), which transformers does not know and "
            f"would cut otherwise; {INSTEAD}."
        )


def _check_all_is_read(there: dict[str, int], config: Any, file: Path, key: str) -> None:
    """Hold that the file has as many numbers as the model that transformers will make of it."""
    if config.tie_word_embeddings:
        there.pop("output.weight", None)
    numbers, wanted = sum(there.values()), sum(parameter.numel() for parameter in _empty(config).parameters())
    what = f"{key} = {file} holds {numbers} numbers, and the {config.model_type} that transformers makes of it {wanted}"
    if numbers < wanted:
        raise CheckpointError(
            f"{what}: a part of it is not here; join the parts of a split model first (llama-gguf-split --merge)."
        )
    if numbers > wanted:
        rope = [name for name in there if name.startswith("rope_f")]
        raise CheckpointError(f"{what}: it would be another model{f', without {rope[0]}' if rope else ''}; {INSTEAD}.")
