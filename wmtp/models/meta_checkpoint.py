"""Read Meta's released multi-token prediction checkpoints, and write their format again.

[연구 맥락] 처음부터 MTP로 사전학습된 공개 모델은 Meta의 7B뿐이다 (Gloeckle et al. 2024). 그 형식은 transformers가 읽지
    못하므로 한 번 우리 형식(safetensors + config.json)으로 바꾸어 캐시에 둔다.
[동작] consolidated.pth는 메모리에 올리지 않고 mmap으로 열고, 디코더 블록 하나가 파일 하나(shard)가 된다.
    파일마다 임시 이름에 쓰고 fsync한 뒤 이름을 바꾼다. 다 되면 폴더의 이름을 바꾼다: 전부 보이거나 전혀 안 보인다.
    중간에 꺼지면 이미 쓴 블록 다음부터 이어 한다.
        Meta                                우리
        layers.{0 … n_layers - n_future}    model.layers.{…}, 마지막이 head 0
        extra_heads.{k - 1}                 extra_heads.{k - 1}, head k
    회전 위치(RoPE): Meta는 이웃한 두 차원 (2i, 2i + 1)을, transformers는 (i, i + d/2)를 짝지어 돌린다.
    그래서 wq와 wk의 행을 자리만 바꾼다. 값은 그대로이므로 `to_meta`가 비트까지 되돌린다.
[디버깅] 로짓이 다르면 `to_halves`와 rope_theta를 먼저 의심하라.
"""

#   D width, R rows of a projection

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from wmtp.checks import is_whole_number
from wmtp.errors import CheckpointError, DataNotFoundError, first_line
from wmtp.models.converted import converted
from wmtp.models.mtp import MTPForCausalLM
from wmtp.models.same_tensors import check_same_tensors
from wmtp.models.sentencepiece_model import read_pieces
from wmtp.storage import say
from wmtp.storage.files import give_usual_mode, sync, written_atomically

WEIGHTS, PARAMS, TOKENIZER = "consolidated.pth", "params.json", "tokenizer.model"
ORIGINALS = "meta"  # where a converted folder keeps the files that `to_meta` gives back
CONTEXT = 4096  # positions the released models were trained with; params.json does not say
OUTSIDE = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def is_meta(folder: Path) -> bool:
    """Say whether a folder holds Meta's format and not transformers'."""
    return (folder / PARAMS).is_file() and not (folder / "config.json").is_file()


def convert(folder: Path, cache: Path, key: str = "model.path") -> Path:
    """Convert a folder of Meta's into one of ours, once; return it from the cache ever after.

    Args:
        folder: consolidated.pth와 params.json이 있는 폴더. tokenizer.model은 그 안이나 바로 위에 있다.
        cache: 바꾼 폴더를 둘 곳.
        key: 오류 문장에 쓸 설정의 이름.

    Returns:
        `wmtp.models.loading.load_model`이 읽는 폴더.

    Raises:
        DataNotFoundError: 세 파일 가운데 없는 것이 있을 때.
        CheckpointError: 손상되었거나, params.json이나 토크나이저와 맞지 않을 때.
        StorageError: 캐시에 쓸 수 없을 때. 쓴 데까지는 남으므로 다시 하면 이어서 한다.
    """
    params = read_params(folder, key)
    tokenizer_file = _find(folder, (TOKENIZER, f"../{TOKENIZER}"), key)
    weights_file = _find(folder, (WEIGHTS,), key)
    identity = _identity(folder / PARAMS, tokenizer_file, weights_file)
    write = partial(_convert, folder, params, tokenizer_file, weights_file, key)
    return converted(folder, identity, weights_file.stat().st_size, cache, write)


def to_meta(folder: Path, out: Path) -> None:
    """Write a converted model, trained since or not, in Meta's format again: bit for bit where nothing was trained.

    [동작] 정밀도는 폴더의 것 그대로다.

    Args:
        folder: `convert`가 만든 폴더, 또는 거기서 학습하여 내보낸 폴더 (`wmtp.models.export`).
        out: 새 폴더.

    Raises:
        CheckpointError: Meta의 모델에서 오지 않은 폴더일 때.
    """
    config = LlamaConfig.from_pretrained(folder, local_files_only=True)
    params = getattr(config, "meta_params", None)
    if params is None:
        raise CheckpointError(f"{folder} was not converted from Meta's format, so its params.json is unknown.")
    config.mtp_heads = getattr(config, "mtp_heads", 1)
    heads = params.get("n_future_tokens", 1)
    if config.mtp_heads != heads:  # loaded since with model.heads of its own, or exported without them
        params |= {"n_future_tokens": config.mtp_heads, "n_layers": params["n_layers"] - heads + config.mtp_heads}
    out.mkdir(parents=True, exist_ok=True)
    (out / PARAMS).write_text(json.dumps(params), encoding="utf-8")
    if (folder / ORIGINALS / TOKENIZER).is_file():
        shutil.copyfile(folder / ORIGINALS / TOKENIZER, out / TOKENIZER)
    stored = {}
    for file in sorted(folder.glob("*.safetensors")):
        opened = safe_open(file, framework="pt")
        stored |= dict.fromkeys(opened.keys(), opened)
    weights = {}
    for ours, theirs in sorted(_names(config).items(), key=lambda pair: _meta_order(pair[1])):
        weights[theirs] = to_pairs(stored[ours].get_tensor(ours), _rotary_heads(theirs, config))
    with written_atomically(out / WEIGHTS) as temporary:
        torch.save(weights, temporary)


def to_halves(weight_RD: Tensor, heads: int) -> Tensor:
    """Reorder the rows of wq or wk from rotary pairs (2i, 2i + 1) to rotary halves (i, i + d/2).

    Example:
        >>> to_halves(torch.arange(8)[:, None], heads=2).flatten().tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
        >>> to_halves(torch.arange(2)[:, None], heads=0).flatten().tolist()     # not a rotary matrix
        [0, 1]
    """
    return weight_RD.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2) if heads else weight_RD


def to_pairs(weight_RD: Tensor, heads: int) -> Tensor:
    """Undo `to_halves`."""
    return weight_RD.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2) if heads else weight_RD


def read_params(folder: Path, key: str = "model.path") -> dict[str, Any]:
    """Read params.json; what a key may be left out for, or null, is what Meta's own code then takes.

    [동작] n_future_tokens가 없으면 헤드 하나인 모델이다 (기준 모델 7B_1T_1, 참조모델). 설정이 헤드를 더 바라면
        `load_model`이 거절한다.

    Raises:
        CheckpointError: JSON이 아니거나, 없는 것이 있거나, 수가 모델이 될 수 없을 때.
    """
    try:
        params = json.loads((folder / PARAMS).read_text(encoding="utf-8"))
        missing = {"dim", "n_layers", "n_heads", "norm_eps"} - params.keys()
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{key}: {folder / PARAMS} is not a JSON object ({error}); copy it again.") from error
    if missing:
        raise CheckpointError(f"{key}: {folder / PARAMS} lacks {', '.join(sorted(missing))}; copy it again.")
    sizes = {name: params.get(name, 1) for name in ("dim", "n_heads", "n_layers", "n_future_tokens")}
    dim, n_heads, n_layers, heads = sizes.values()
    if not all(map(is_whole_number, sizes.values())) or dim % n_heads or heads > n_layers:
        said = ", ".join(f"{name} = {value!r}" for name, value in sizes.items())
        raise CheckpointError(f"{key}: {folder / PARAMS} describes no model ({said}); copy it again.")
    return params


def make_config(params: dict[str, Any], weights: dict[str, Tensor], key: str = "model.path") -> LlamaConfig:
    """Say in transformers' words what params.json says; the widths that it implies are read from the weights."""
    embedding, gate = (weights.get(f"{name}.weight") for name in ("tok_embeddings", "layers.0.feed_forward.w1"))
    if embedding is None or gate is None:
        raise CheckpointError(f"{key}: {WEIGHTS} has no tok_embeddings.weight or no layers.0; it is not a whole model.")
    heads = params.get("n_future_tokens", 1)
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(embedding),
        hidden_size=params["dim"],
        intermediate_size=len(gate),
        num_hidden_layers=params["n_layers"] - heads + 1,
        num_attention_heads=params["n_heads"],
        num_key_value_heads=params.get("n_kv_heads") or params["n_heads"],
        rms_norm_eps=params["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": params.get("rope_theta") or 10000.0},
        max_position_embeddings=params.get("max_seq_len") or CONTEXT,
        tie_word_embeddings=False,
        dtype=embedding.dtype,
        mtp_heads=heads,
        meta_params=params,
    )


def _convert(
    folder: Path, params: dict[str, Any], tokenizer_file: Path, weights_file: Path, key: str, part: Path
) -> None:
    """Check everything, then write it."""
    tokenizer = read_pieces(tokenizer_file, CONTEXT)
    weights = _open(weights_file, key)
    config = make_config(params, weights, key)
    _check(weights, config, weights_file, key)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"{key}: {tokenizer_file} has {len(tokenizer)} pieces, but {weights_file} knows {config.vocab_size}; "
            f"put the model's own {TOKENIZER} into {folder}."
        )
    say(f"converting {folder} once, into {part.parent}")
    (part / ORIGINALS).mkdir(parents=True, exist_ok=True)
    for original in (folder / PARAMS, tokenizer_file):
        shutil.copyfile(original, part / ORIGINALS / original.name)
    config.save_pretrained(part)
    tokenizer.save_pretrained(part)
    _write_shards(weights, config, part)


def _write_shards(weights: dict[str, Tensor], config: LlamaConfig, part: Path) -> None:
    """Write a file for each block that is not there yet, and the index over all of them."""
    names = _names(config)
    shards = list(_shards(names))
    where, size = {}, 0
    for i, shard in enumerate(shards, start=1):
        file = part / f"model-{i:05}-of-{len(shards):05}.safetensors"
        where |= dict.fromkeys(shard, file.name)
        size += sum(weights[names[ours]].nbytes for ours in shard)
        if file.is_file():  # renamed after fsync, so it is whole
            continue
        # Everything but wq and wk still lies in the file that is mapped; only those two are copied.
        tensors = {ours: to_halves(weights[names[ours]], _rotary_heads(names[ours], config)) for ours in shard}
        temporary = file.with_suffix(".part")
        save_file(tensors, temporary, metadata={"format": "pt"})
        give_usual_mode(temporary)
        sync(temporary)
        temporary.rename(file)
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (part / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _names(config: LlamaConfig) -> dict[str, str]:
    """Map our name of every tensor to Meta's.

    Example:
        >>> names = _names(LlamaConfig(num_hidden_layers=29, mtp_heads=4))
        >>> len(names), names["model.layers.28.mlp.up_proj.weight"], names["extra_heads.0.input_layernorm.weight"]
        (291, 'layers.28.feed_forward.w3.weight', 'extra_heads.0.attention_norm.weight')
    """
    blocks = {f"model.layers.{i}": f"layers.{i}" for i in range(config.num_hidden_layers)}
    blocks |= {f"extra_heads.{k}": f"extra_heads.{k}" for k in range(config.mtp_heads - 1)}
    names = {ours: theirs for theirs, ours in OUTSIDE.items()}
    names |= {f"{a}.{ours}": f"{b}.{theirs}" for a, b in blocks.items() for theirs, ours in BLOCK.items()}
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}


def _shards(names: dict[str, str]) -> Iterator[list[str]]:
    """Group our names: what lies outside the blocks, then block by block."""
    ours = list(names)
    yield ours[: len(OUTSIDE)]
    for start in range(len(OUTSIDE), len(ours), len(BLOCK)):
        yield ours[start : start + len(BLOCK)]


def _meta_order(name: str) -> int:
    """Sort as Meta's model lists its modules."""
    return ("tok_embeddings", "layers", "extra_heads", "norm", "output").index(name.split(".")[0])


def _rotary_heads(theirs: str, config: LlamaConfig) -> int:
    """Return the number of heads of a projection that is rotated, 0 for every other tensor."""
    kinds = {"attention.wq.weight": config.num_attention_heads, "attention.wk.weight": config.num_key_value_heads}
    return kinds.get(theirs.split(".", 2)[-1], 0)


def _check(weights: dict[str, Tensor], config: LlamaConfig, file: Path, key: str) -> None:
    """Hold that the file has exactly the tensors that params.json describes."""
    with torch.device("meta"):
        expected = MTPForCausalLM(config).state_dict()
    names = _names(config)
    wanted = {names[ours]: tensor for ours, tensor in expected.items()}
    complaint = f"{key}: {file} is not the model of its {PARAMS}"
    check_same_tensors(weights, wanted, complaint, f"copy it and {PARAMS} again")


def _open(file: Path, key: str) -> dict[str, Tensor]:
    """Map the weights into memory without running any code from the file."""
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError here
        reason = first_line(error)
        raise CheckpointError(f"{key}: {file} is truncated, damaged or holds more than tensors ({reason}).") from error


def _find(folder: Path, names: tuple[str, ...], key: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataNotFoundError(
        f"{key} = {folder} has {PARAMS} but no {' or '.join(names)}; a model of Meta's is {WEIGHTS}, {PARAMS} and "
        f"{TOKENIZER}."
    )


def _identity(params: Path, tokenizer: Path, weights: Path) -> str:
    """Name what is converted without reading 13 GB: small files whole, of the large one its zip directory and time."""
    digest = hashlib.sha256(params.read_bytes() + tokenizer.read_bytes())
    digest.update(str(weights.stat().st_mtime_ns).encode())
    if zipfile.is_zipfile(weights):  # `_open` says what is wrong otherwise
        with zipfile.ZipFile(weights) as archive:
            records = [(record.filename, record.file_size, record.CRC) for record in archive.infolist()]
        digest.update(json.dumps(records).encode())
    return digest.hexdigest()[:16]
