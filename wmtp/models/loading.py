"""Load models from a folder, safely and with all heads.

[동작] 경로는 폴더, GGUF 파일, s3:// 주소, Hub의 이름, 또는 `asset:이름`(패키지에 든 자산). pickle은 읽지 않는다.
    heads_init: saved   wmtp가 저장한 헤드를 쓴다 (없으면 오류)
                native  모델이 품고 나온 층을 헤드로 쓴다 (없으면 오류)
                auto    저장된 헤드나 품고 나온 층이 있으면 쓰고, 없는 것은 마지막 층을 복사한다
                copy, random, identity  새로 시작한다 (`wmtp.models.head_start`)
    무엇을 쓸지는 무게를 읽기 전에 정해진다 (`wmtp.models.head_plan`).
    손실은 은닉상태 x unembedding을 로짓으로 여긴다. 그 뒤에 무언가를 더 하는 구조(Gemma 2의 soft cap 등)는 거절한다.
"""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from wmtp import ranges
from wmtp.errors import CheckpointError, ConfigError, first_line
from wmtp.models import gguf_file
from wmtp.models.adapter import Lora
from wmtp.models.export import Export, Exported
from wmtp.models.gguf_file import is_gguf
from wmtp.models.head_plan import HeadPlan, check_saved, plan_heads
from wmtp.models.head_start import STARTS, NewHeads
from wmtp.models.meta_checkpoint import convert, is_meta, read_params
from wmtp.models.mtp import MTPMixin, ParallelHeads, put_heads_on
from wmtp.models.native_layout import KEYS, SAME_AS
from wmtp.models.sequential import SequentialHeads
from wmtp.models.tokenizer import check_rows, load_tokenizer
from wmtp.private_names import attention_of
from wmtp.storage import in_use

# How a frozen model may be held, and what it computes in. int8 and int4 are bitsandbytes'; embeddings stay bfloat16.
WEIGHTS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
    "int4": torch.bfloat16,
}
# By what a config says of its heads; one that says nothing is of Meta's arrangement.
ARRANGED = {"parallel": ParallelHeads, "sequential": SequentialHeads}
# What an architecture may do to its logits after the output matrix; the value that does nothing is None or 1.
LOGIT_CHANGES = ("final_logit_softcapping", "logits_soft_cap", "logit_scale", "logits_scaling", "lm_head_multiplier")


def find_model(path: str, key: str = "model.path", heads: int | None = None) -> Path:
    """Find a model's folder: `asset:name` for one that ships with wmtp, else wherever `wmtp.storage` finds it.

    [동작] Meta의 형식이나 GGUF이면 한 번 바꾸어 캐시에 둔 폴더를 돌려준다 (`meta_checkpoint`, `gguf_file`). 몇 분이
        걸리므로 있어야 하는 헤드(heads)가 없으면 그 전에 오류를 낸다.
    """
    scheme, _, name = str(path).partition("asset:")
    place = str(resources.files("wmtp") / "assets" / name) if not scheme and name else str(path)
    folder = in_use().find_model(place, key)
    if is_gguf(folder):
        if heads is not None:
            check_saved(heads, 1, folder)
        return gguf_file.convert(folder, in_use().cache, key, check=mtp_class)
    if not is_meta(folder):
        return folder
    if heads is not None:
        check_saved(heads, read_params(folder, key).get("n_future_tokens", 1), folder)
    return convert(folder, in_use().cache, key)


def mtp_class(config: Any) -> type[MTPMixin]:
    """Return the transformers class of a config, with heads put on it."""
    base = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if base is None:
        raise ConfigError(
            f"model.path: {config.model_type} is not a decoder-only language model of transformers; choose one that "
            "AutoModelForCausalLM loads."
        )
    for key in LOGIT_CHANGES:
        if getattr(config, key, None) not in (None, 1):
            raise ConfigError(
                f"model.path: {config.model_type} changes its logits after the output matrix ({key} = "
                f"{getattr(config, key)}), which the loss of the heads does not compute; set {key} to "
                "null or 1 in its config.json to go without, or add it to wmtp/maths/loss.py."
            )
    return put_heads_on(base, ARRANGED[getattr(config, "mtp_arrangement", "parallel")])


@dataclass(frozen=True)
class ModelSource:
    """Say where a model is and how many heads it gets; load it when asked.

    Args:
        path: 모델 폴더 또는 `asset:이름`.
        heads: H, 한 번에 예측할 토큰 수. 1이면 평범한 다음 토큰 예측. None이면 모델이 가진 만큼 (`head_plan`).
        heads_init: 헤드의 시작값 (`wmtp.ranges.HEADS_INIT`).
        heads_arrangement: 헤드의 짜임. parallel은 저마다 몸통을 읽고, sequential은 앞 헤드를 읽고, recurrent는 층
            하나를 되풀이해 쓴다. None이면 모델이 가진 것의 짜임, 없으면 parallel.
        reference: rho1의 참조모델 폴더 (algo 설정이 읽는다).
        seed: 새 헤드를 초기화하는 씨앗.
        attn_implementation: 어텐션 구현 (`wmtp.ranges.ATTENTIONS`). None이면 transformers가 고른다.
        adapter: 몸통을 통째로 배우지 않고 LoRA로 배울 때 그 모양.
        activation_checkpointing: 층 안의 중간값을 버리고 역전파 때 다시 계산할지. 헤드도 층이므로 함께 한다.
        export: 학습한 모델을 어떤 폴더로 쓸지.
    """

    path: str
    heads: int | None = 4
    heads_init: Literal["saved", "native", "auto", "copy", "random", "identity"] = "saved"
    reference: str | None = None
    seed: int = 42
    attn_implementation: str | None = None
    adapter: Lora | None = None
    activation_checkpointing: bool = False
    heads_arrangement: Literal["parallel", "sequential", "recurrent"] | None = None
    export: Export = field(default_factory=Export)

    def __post_init__(self) -> None:
        own = ("heads", "heads_init", "heads_arrangement", "attn_implementation")
        ranges.check(ranges.ModelSource, **{name: getattr(self, name) for name in own})
        self.export.check(self.heads, self.adapter)

    @property
    def name(self) -> str:
        """Name the model in a word, for run directories."""
        return Path(self.path.replace("asset:", "")).name.removesuffix(".gguf")

    def find(self) -> Path:
        """Find the model's folder, the same one from loading to exporting."""
        return self._folder

    @cached_property
    def _folder(self) -> Path:
        return find_model(self.path, heads=self.heads if self.heads_init == "saved" else None)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer beside the model."""
        folder = self.find()
        tokenizer = load_tokenizer(folder)
        check_rows(tokenizer, getattr(read_config(folder, "model.path"), "vocab_size", None), "model.path", self.path)
        return tokenizer

    def load(self, empty: bool = False) -> MTPMixin:
        """Load the model with its heads, in float32, and put the adapter on it.

        Args:
            empty: 가중치를 읽지 않고 모양만 만들지 (meta 장치). 값을 다른 랭크에게서 받을 때 쓴다.
        """
        folder = self.find()
        config = read_config(folder, "model.path")
        if quantized := getattr(config, "quantization_config", None):
            raise ConfigError(
                f"model.path = {self.path} holds quantised weights ({quantized.get('quant_method')}), which cannot be "
                "trained; give the model that they were made from."
            )
        how = (self.heads, self.heads_init, self.heads_arrangement)
        check_weights(folder, "model.path")
        plan = plan_heads(folder, config, *how)
        with torch.device("meta") if empty else nullcontext():
            if empty:
                model = empty_model(plan, self.attn_implementation)
            else:
                model = load_planned(folder, plan, self.heads_init, self.seed, "model.path", self.attn_implementation)
            if plan.kept < plan.heads:
                model.new_heads = NewHeads(folder, self.heads_init, self.seed, plan.kept)
            if self.adapter is not None:
                self.adapter.put_on(model)
        if self.activation_checkpointing:  # not reentrant: the last layer's inputs reach the other heads with gradients
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def write(self, model: MTPMixin, target: Path, card: Callable[[Exported], str] | None = None) -> Exported:
        """Write a model that was loaded here, trained since, as a folder like its own (`Export.write`)."""
        base = self.name if Path(self.path).expanduser().exists() else self.path
        return self.export.write(model, self.find(), target, card, base)


def load_model(
    folder: Path,
    heads: int | None = None,
    heads_init: str = "saved",
    seed: int = 42,
    key: str = "model.path",
    attn_implementation: str | None = None,
    weights: str = "float32",
    arrangement: str | None = None,
) -> MTPMixin:
    """Load a causal LM folder with `heads` heads (default: as many as it was saved with).

    [동작] weights는 `WEIGHTS`의 이름. 학습할 모델은 언제나 float32이고, 얼린 모델만 더 작게 담을 수 있다.

    Raises:
        ConfigError: 헤드를 달 수 없는 구조이거나, 어텐션 구현을 여기서 쓸 수 없을 때.
        CheckpointError: 가중치가 없거나, 잘렸거나, 빠졌거나 모양이 다른 텐서가 있을 때.
    """
    config = read_config(folder, key)
    check_weights(folder, key)
    plan = plan_heads(folder, config, heads, heads_init, arrangement, key)
    return load_planned(folder, plan, heads_init, seed, key, attn_implementation, weights)


def load_planned(
    folder: Path,
    plan: HeadPlan,
    heads_init: str,
    seed: int = 42,
    key: str = "model.path",
    attn_implementation: str | None = None,
    weights: str = "float32",
) -> MTPMixin:
    """Load a folder with the heads that were planned (`load_model`)."""
    config, kept, wanted = plan.config, plan.kept, plan.heads
    torch.manual_seed(seed)
    if attn_implementation == "flex_attention" and not torch.accelerator.is_available():
        raise ConfigError(
            "model.attn_implementation = flex_attention has no backward pass on a CPU; "
            "set model.attn_implementation=sdpa."
        )
    try:
        model, report = mtp_class(config).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            dtype=WEIGHTS[weights],
            attn_implementation=attn_implementation,
            **_quantization(weights),
            ignore_mismatched_sizes=True,  # they are in the report, with their names
            output_loading_info=True,
            **({"key_mapping": plan.mapping} if plan.mapping else {}),
        )
    except (ImportError, ValueError) as error:
        if attn_implementation is None or "attention" not in str(error).lower():
            raise ConfigError(f"{key} = {folder} cannot be loaded here: {error}") from error
        other = "" if attn_implementation == "sdpa" else "model.attn_implementation=sdpa, or "
        raise ConfigError(
            f"model.attn_implementation = {attn_implementation} cannot be used for {config.model_type} here ({error}); "
            f"set {other}model.attn_implementation=null to let transformers choose."
        ) from error
    # On a CPU bitsandbytes packs rows of whole blocks only.
    odd = [m.in_features for m in model.modules() if type(m).__name__ == "Linear4bit" and m.in_features % 64]
    if odd and model.device.type == "cpu":
        raise ConfigError(
            f"weights = int4 needs layers whose inputs are multiples of 64 on a CPU, and {key} = {folder} has "
            f"one of {odd[0]}; set weights=int8."
        )
    if report["mismatched_keys"]:
        name, saved_shape, shape = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{key} = {folder}: {name} is {tuple(saved_shape)} in the weights and {tuple(shape)} by config.json "
            f"({len(report['mismatched_keys'])} tensors differ); copy or save the model again."
        )
    new_heads = "extra_heads." if kept == 1 else tuple(f"extra_heads.{k - 1}." for k in range(kept, wanted))
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(new_heads))
    if missing:
        raise CheckpointError(
            f"{key} = {folder} lacks {missing[0]} ({len(missing)} tensors in all); copy or save the model again."
        )
    lost = sorted(name for name in report["unexpected_keys"] if name.startswith("extra_heads.")) if kept > 1 else []
    if lost and plan.mapping:
        raise CheckpointError(
            f"{key} = {folder} holds {lost[0]}, which the multi-token layers of {config.model_type} do not have "
            f"({len(lost)} tensors in all); set model.heads_init=copy to leave them as they are."
        )
    if kept < wanted:
        STARTS[heads_init](model, kept)
    if plan.said and key == "model.path":
        rank_zero_only(print)(plan.said)
    check_logits(model)
    return model


def _quantization(weights: str) -> dict[str, Any]:
    """Return what from_pretrained needs in order to quantise while it reads, straight onto this process' device."""
    if weights not in ("int8", "int4"):
        return {}
    settings = BitsAndBytesConfig(
        load_in_8bit=weights == "int8",
        load_in_4bit=weights == "int4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=WEIGHTS[weights],
    )
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = f"{accelerator.type}:{os.environ.get('LOCAL_RANK', 0)}" if accelerator else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def empty_model(plan: HeadPlan, attn_implementation: str | None = None) -> MTPMixin:
    """Build the shapes of a model as `load_planned` would, without reading a weight."""
    model = mtp_class(plan.config)(plan.config)
    if attn_implementation is not None:
        model.set_attn_implementation(attn_implementation)
    model.tie_weights()
    return model


@torch.no_grad()
def check_logits(model: MTPMixin) -> None:
    """Hold that head 0's logits are its hidden states times the output matrix, on three tokens.

    Raises:
        ConfigError: 로짓에 무언가를 더 하는 구조일 때 (편향, 배율, soft cap). 손실이 틀린 모델을 학습하게 된다.
    """
    was_training, attention = model.training, attention_of(model)
    model.eval()
    # The weights are still on the CPU, where flash attention has no kernel.
    model.set_attn_implementation(attention if attention in ("sdpa", "eager") else "eager")
    ids_BT = torch.arange(3, device=model.device)[None]
    output = model.mtp(ids_BT)
    hidden_BTD, unembedding_VD = output.hidden[0], output.unembedding_VD
    ours_BTV, theirs_BTV = hidden_BTD @ unembedding_VD.T, model(ids_BT).logits
    model.set_attn_implementation(attention)
    model.train(was_training)
    # A sum of D products in float32, in any order, is off by a few √D roundings of the vectors' lengths (Higham and
    # Mary 2019), and what is multiplied is rounded to the model's precision.
    length_BTV = hidden_BTD.norm(dim=-1, keepdim=True).float() * unembedding_VD.norm(dim=-1).float()
    low, full = torch.finfo(theirs_BTV.dtype).eps, torch.finfo(torch.float32).eps
    rounding_BTV = (2 * low + 8 * hidden_BTD.shape[-1] ** 0.5 * full) * length_BTV
    if not ((ours_BTV - theirs_BTV).abs() <= rounding_BTV).all():
        raise ConfigError(
            f"model.path: the logits of {model.config.model_type} are not its final hidden states times its output "
            "matrix (a bias, a scale or a cap follows), which the loss of the heads does not compute; choose another "
            "architecture, or add it to wmtp/maths/loss.py."
        )


def read_config(folder: Path, key: str) -> Any:
    """Read what config.json says of the language model, and run no code that lies beside it.

    Raises:
        ConfigError: transformers가 모르는 구조일 때.
    """
    try:
        content = json.loads((folder / "config.json").read_text())
        if alike := SAME_AS.get(content.get("model_type")):
            others = {name: value for name, value in content.items() if name not in ("model_type", "auto_map")}
            return AutoConfig.for_model(alike, **others)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"{key} = {folder} is of no architecture that this version of transformers has ({reason}); choose one that "
            "AutoModelForCausalLM loads without code of its own."
        ) from error
    # The language model of one that also sees, as AutoModelForCausalLM takes it (Qwen3.5).
    text = config.get_text_config()
    base = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if text is config or base is None or base.config_class is not type(text):
        return config
    for key in ("mtp_heads", "mtp_arrangement", *KEYS):
        if hasattr(config, key):
            setattr(text, key, getattr(config, key))
    return text


def check_weights(folder: Path, key: str = "ckpt") -> None:
    """Open every safetensors file's header, so that a missing or truncated file is said before anything slow.

    Raises:
        CheckpointError: 파일이 없거나 잘렸을 때.
    """
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    listed = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    if not files:
        raise CheckpointError(
            f"{key} = {folder} holds no *.safetensors; pickled weights are not loaded, because they can run code. "
            "Convert them with transformers' save_pretrained."
        )
    if absent := sorted(listed - {file.name for file in files}):
        raise CheckpointError(
            f"{key} = {folder} lacks {absent[0]} ({len(absent)} of {len(listed)} files); copy or save the model again."
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise CheckpointError(f"{key}: {file} is truncated or damaged ({error}); copy or save it again.") from error
