"""Write a trained model as the folder that it came from: the same names, and nothing changed but what was trained.

[연구 맥락] 서버와 다른 연구실의 코드는 config.json의 architectures와 텐서의 이름을 글자 그대로 믿는다. 이름 하나가 바뀐
    폴더는 거기서 열리지 않거나, 더 나쁘게는 그 텐서만 조용히 새 값으로 시작한다.
[동작] 본보기는 언제나 원본 폴더다.
    텐서          원본의 이름마다 하나. 모델이 내는 값(`MTPMixin.exported_tensors`)을 원본의 정밀도로 쓴다. 모델이 읽지
                  않은 것(회전 위치의 표, 쓰지 않는 MTP 층)은 바이트 그대로 복사하고, 이름을 알린다. 그 뒤에 extra_heads
    config.json   원본에서 architectures, dtype, 헤드에 대한 것(`exported_config`) 가운데 달라진 것만
    나머지        토크나이저, 대화 형식(chat template), generation_config.json, 라이선스는 그대로 복사한다. 대화로
                  가르쳤으면 generation_config.json의 끝 토큰에 답을 닫는 토큰을 더한다
    다른 이름의 폴더에 다 쓰고 디스크에 내린 뒤 이름을 바꾼다: 전부 보이거나 전혀 안 보인다.
[디버깅] 학습하지 않고 내보낸 텐서는 원본과 비트까지 같다 (tests/unit/models/test_export.py). 학습하는 동안의 float32는
    bfloat16과 float16의 모든 값을 담기 때문이다. 다르면 `MTPMixin.exported_tensors`부터 본다.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from wmtp import ranges
from wmtp.errors import CheckpointError, ConfigError
from wmtp.models.adapter import Lora, as_peft
from wmtp.models.mtp import EXTRA_HEADS, MTPMixin
from wmtp.storage import MANIFEST
from wmtp.storage.files import remove, swap_in, sync_all

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
# What lies beside the weights and belongs to the model; `meta` is what `wmtp.models.meta_checkpoint` keeps there.
BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "additional_chat_templates/*.jinja", "LICENSE*", "NOTICE*", "meta/*")
WRITTEN_ANEW = {CONFIG, MANIFEST, "adapter_config.json"}
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NO_ARCHITECTURE = "MTPForCausalLM"  # what wmtp once wrote, and nothing else knows


class Exported(NamedTuple):
    """Say what an exported folder holds beside what was trained.

    Attributes:
        heads: 폴더에 든 헤드의 수. head 0도 센다.
        copied: 모델이 읽지 않아서 원본 그대로 복사한 텐서의 이름.
        left_out: 쓰지 않은 헤드의 이름 (extra_heads.0).
        adapter: 바탕 모델 없이 LoRA만 썼는지.
    """

    heads: int
    copied: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    adapter: bool = False


def in_short(names: Iterable[str]) -> str:
    """Write names that differ by numbers only once, with how many there are.

    Example:
        >>> in_short(["mtp.fc.weight", "h.0.attn.bias", "h.1.attn.bias"])
        'h.*.attn.bias (2), mtp.fc.weight'
    """
    kinds = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
    return ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in sorted(kinds.items()))


class _Place(NamedTuple):
    """Say where the source holds a tensor, and what its header says of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None: not a float that we write


@dataclass(frozen=True)
class Export:
    """Hold how a model is written, and write it.

    Args:
        dtype: 실수 텐서의 정밀도. source면 텐서마다 원본의 것, 원본에 없는 헤드는 원본에 가장 많은 것.
        heads: 헤드 1, 2, …를 함께 쓸지(keep), 원본의 구조만 남길지(drop).
        adapter: LoRA를 합칠지(merged), 바탕 모델 없이 peft의 폴더로 쓸지(only).
    """

    dtype: Literal["source", "float32", "bfloat16"] = "source"
    heads: Literal["keep", "drop"] = "keep"
    adapter: Literal["merged", "only"] = "merged"

    def __post_init__(self) -> None:
        ranges.check(ranges.Export, dtype=self.dtype, heads=self.heads, adapter=self.adapter)

    def check(self, heads: int | None, adapter: Lora | None) -> None:
        """Refuse, before anything slow, what no folder can hold.

        Raises:
            ConfigError: LoRA가 없거나, peft의 폴더에 들어가지 못하는 헤드가 있을 때.
        """
        if self.adapter == "only" and adapter is None:
            raise ConfigError(
                "model.export.adapter = only, but the model is trained whole; set model/adapter=lora, or "
                "model.export.adapter=merged."
            )
        if self.adapter == "only" and heads != 1 and self.heads == "keep":
            raise ConfigError(
                f"model.export.adapter = only cannot keep the heads of model.heads = {heads}, for which the base model "
                "of a peft folder has no place; set model.export.heads=drop, or model.export.adapter=merged."
            )

    def write(
        self,
        model: MTPMixin,
        source: Path,
        target: Path,
        card: Callable[[Exported], str] | None = None,
        base: str | None = None,
    ) -> Exported:
        """Write the folder, all of it or nothing.

        Args:
            model: 통째로 있는 모델. 바꾸지 않는다.
            source: 모델이 온 폴더.
            target: 쓸 폴더. 있으면 갈아 끼운다.
            card: 무엇을 썼는지 받아 README.md의 글을 내는 함수. None이면 쓰지 않는다.
            base: peft의 폴더에 적을 바탕 모델의 이름. None이면 원본 폴더의 이름.

        Raises:
            CheckpointError: 원본이 없어졌거나 다른 모델이 되었을 때, 값이 그 정밀도에 담기지 않을 때.
            OSError: 디스크가 찼을 때. target은 있던 그대로다.
        """
        if not (source / CONFIG).is_file():
            raise _gone(source, "no config.json")
        temporary = target.with_name(f"{target.name}.tmp")
        remove(temporary)
        temporary.mkdir()
        try:
            if self.adapter == "only":
                exported = self._write_adapter(model, temporary, base or source.name)
            else:
                exported = self._write_model(model, source, temporary)
            for file in _beside(source):
                if not (exported.adapter and file.name == "generation_config.json"):
                    copy = temporary / file.relative_to(source)
                    copy.parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, copy)
            if model.closes_with is not None and not exported.adapter:
                _end_as_taught(temporary, model)
            if card is not None:
                (temporary / "README.md").write_text(card(exported), encoding="utf-8")
            sync_all(temporary)
            swap_in(temporary, target)
        except BaseException:
            remove(temporary)
            raise
        return exported

    def _write_model(self, model: MTPMixin, source: Path, folder: Path) -> Exported:
        held, state = _places(source), model.exported_tensors(model.state_dict())
        extra = {name for name in [*held, *state] if model.is_of_heads(name)}
        ours = {name: tensor for name, tensor in state.items() if self.heads == "keep" or name not in extra}
        # The model's name of each tensor that is written; None where it has none and the source's is copied.
        written = {name: _own_name(name, ours, model.base_model_prefix) for name in held}
        written = {name: own for name, own in written.items() if own or name not in extra}
        new = _without_a_place(ours, {own for own in written.values() if own}, extra, source)

        groups: dict[Path, list[str]] = {}
        for name in written:
            groups.setdefault(held[name].file, []).append(name)
        files = [*groups.values()]
        if new and len(files) > 1:
            files.append(new)
        else:
            files[0] += new
        written |= {name: name for name in new}

        usual, size = _usual_dtype(held.values()), 0
        for file, names in zip(_file_names(len(files)), files, strict=True):
            content = {}
            for name in names:
                own = written[name]
                content[name] = (
                    self._value(name, ours[own], held.get(name), usual) if own else _read(held[name].file, name)
                )
            save_file(content, folder / file, metadata={"format": "pt"})
            size += sum(tensor.nbytes for tensor in content.values())
        if len(files) > 1:
            _write_index(folder, files, size)
        heads = model.heads if self.heads == "keep" else 1
        config = self._config(model, json.loads((source / CONFIG).read_text(encoding="utf-8")), heads)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        copied = tuple(name for name, own in written.items() if own is None)
        return Exported(heads, copied, _heads(extra) - _heads(written))

    def _value(self, name: str, tensor: Tensor, place: _Place | None, usual: torch.dtype) -> Tensor:
        """Return a tensor as the file holds it: on the CPU, of its precision, with memory of its own."""
        if place is not None and place.shape != tuple(tensor.shape):
            raise _gone(place.file.parent, f"{name} is {place.shape} there and {tuple(tensor.shape)} in the model")
        dtype = tensor.dtype
        if tensor.is_floating_point():
            asked = None if self.dtype == "source" else getattr(torch, self.dtype)
            dtype = asked or (place and place.dtype) or usual
        value = tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        if not value.isfinite().all() and tensor.isfinite().all():
            raise CheckpointError(
                f"model.export.dtype = {self.dtype}: {name} holds values that {dtype} cannot; set "
                "model.export.dtype=float32 and go on with ckpt=last."
            )
        return value

    def _config(self, model: MTPMixin, config: dict[str, Any], heads: int) -> dict[str, Any]:
        """Return the source's config.json with what the folder holds otherwise."""
        if config.get("architectures") in (None, [], [NO_ARCHITECTURE]):
            config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING[type(model.config)].__name__]
        for key in ("mtp_heads", "mtp_arrangement"):
            config.pop(key, None)
        if heads > 1:
            config |= model.exported_config()
        elif model.heads > 1:
            config = model.config_without_heads(config)
        if self.dtype != "source":
            config["torch_dtype" if "torch_dtype" in config else "dtype"] = self.dtype
        return config

    def _write_adapter(self, model: MTPMixin, folder: Path, base: str) -> Exported:
        """Write what peft.PeftModel.from_pretrained(base, folder) reads, as precise as it was trained."""
        settings, tensors = as_peft(model)
        settings.base_model_name_or_path = base
        settings.save_pretrained(folder)
        dtype = torch.bfloat16 if self.dtype == "bfloat16" else torch.float32
        content = {name: self._value(name, tensor, None, dtype) for name, tensor in tensors.items()}
        save_file(content, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        return Exported(1, left_out=_heads(model.state_dict()), adapter=True)


def _end_as_taught(folder: Path, model: MTPMixin) -> None:
    """Let whoever generates with the model stop at the token that closed the answers that it learned."""
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"_from_model_config": True}
    ends = settings.get("eos_token_id", model.config.eos_token_id)
    ends = ends if isinstance(ends, list) else [ends]
    settings["eos_token_id"] = sorted({end for end in [*ends, model.closes_with] if end is not None})
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _gone(source: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"model.path = {source} is no longer what training began with ({why}), and the trained model is written in its "
        "likeness; put it back and go on with ckpt=last."
    )


def _places(source: Path) -> dict[str, _Place]:
    """Read the headers of a folder's weights, file by file as transformers chooses them."""
    try:
        files = [source / WEIGHTS]
        if not files[0].is_file():
            index = json.loads((source / INDEX).read_text(encoding="utf-8"))
            files = [source / name for name in sorted({*index["weight_map"].values()})]
        places = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    header = opened.get_slice(name)
                    places[name] = _Place(file, tuple(header.get_shape()), FLOATS.get(header.get_dtype()))
    except (OSError, SafetensorError) as error:
        raise _gone(source, error) from error
    return places


def _own_name(name: str, ours: Mapping[str, Tensor], prefix: str) -> str | None:
    """Find the model's name of a tensor: files of the bare trunk (GPT-2's) leave out the first word of it."""
    return next((own for own in (name, f"{prefix}.{name}") if own in ours), None)


def _without_a_place(ours: Mapping[str, Tensor], placed: set[str], extra: set[str], source: Path) -> list[str]:
    """List what the source has no name for: new heads; a second name of a tied tensor is none."""
    written = {ours[name].data_ptr() for name in placed}
    new = [name for name, tensor in ours.items() if name not in placed and tensor.data_ptr() not in written]
    if strange := [name for name in new if name not in extra]:
        raise CheckpointError(
            f"model.path = {source} has no tensor {strange[0]} ({len(strange)} of the trained ones), so its layout "
            "cannot be written; convert it with transformers' save_pretrained, and train from that folder."
        )
    return new


def _read(file: Path, name: str) -> Tensor:
    """Read one tensor, byte for byte."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


def _heads(names: Iterable[str]) -> frozenset[str]:
    """Name the extra heads that tensors belong to, as in extra_heads.0."""
    return frozenset(".".join(name.split(".")[:2]) for name in names if name.startswith(EXTRA_HEADS))


def _usual_dtype(places: Iterable[_Place]) -> torch.dtype:
    """Return the precision that most numbers of the source have."""
    numbers = Counter()
    for place in places:
        if place.dtype is not None:
            numbers[place.dtype] += prod(place.shape)
    return numbers.most_common(1)[0][0]


def _file_names(count: int) -> list[str]:
    """Name the files as transformers does."""
    return [WEIGHTS] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _write_index(folder: Path, files: list[list[str]], size: int) -> None:
    """Write which file holds which tensor, and how many bytes all of them have."""
    where = {name: file for file, names in zip(_file_names(len(files)), files, strict=True) for name in names}
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _beside(source: Path) -> list[Path]:
    """List what lies beside the weights and belongs to the model."""
    found = {file for pattern in BESIDE for file in source.glob(pattern) if file.is_file()}
    return sorted(file for file in found if file.name not in WRITTEN_ANEW and not file.name.endswith(".index.json"))
