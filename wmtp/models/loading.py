"""Load models and tokenizers from a folder, safely and with all heads.

[동작] 경로는 폴더, s3:// 주소, Hub의 이름, 또는 `asset:이름`(패키지에 든 자산). 가중치는 safetensors만 읽는다.
    heads_init: saved  저장된 헤드를 쓴다 (없으면 오류)
                copy   마지막 층을 복사한다
                random 새로 시작한다
    손실은 은닉상태 x unembedding을 로짓으로 여긴다. 그 뒤에 무언가를 더 하는 구조(Gemma 2의 soft cap 등)는 거절한다.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from wmtp.errors import CheckpointError, ConfigError, DataNotFoundError, TokenizerMismatchError
from wmtp.models.adapter import Lora
from wmtp.models.meta_checkpoint import convert, is_meta
from wmtp.models.mtp import MTPForCausalLM, MTPMixin, put_heads_on
from wmtp.storage import in_use

ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
# What an architecture may do to its logits after the output matrix; the value that does nothing is None or 1.
LOGIT_CHANGES = ("final_logit_softcapping", "logits_soft_cap", "logit_scale", "logits_scaling", "lm_head_multiplier")


def find_model(path: str, key: str = "model.path") -> Path:
    """Find a model's folder: `asset:name` for one that ships with wmtp, else wherever `wmtp.storage` finds it.

    [동작] Meta의 형식이면 한 번 바꾸어 캐시에 둔 폴더를 돌려준다 (`meta_checkpoint.convert`).
    """
    scheme, _, name = str(path).partition("asset:")
    place = str(resources.files("wmtp") / "assets" / name) if not scheme and name else str(path)
    folder = in_use().find_model(place, key)
    return convert(folder, in_use().cache, key) if is_meta(folder) else folder


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
    return MTPForCausalLM if base is LlamaForCausalLM else put_heads_on(base)


@dataclass(frozen=True)
class ModelSource:
    """Say where a model is and how many heads it gets; load it when asked.

    Args:
        path: 모델 폴더 또는 `asset:이름`.
        heads: H, 한 번에 예측할 토큰 수. 1이면 평범한 다음 토큰 예측.
        heads_init: 헤드의 시작값 "saved", "copy", "random".
        reference: rho1의 참조모델 폴더 (algo 설정이 읽는다).
        seed: 새 헤드를 초기화하는 씨앗.
        attn_implementation: 어텐션 구현 (`ATTENTIONS`). None이면 transformers가 고른다.
        adapter: 몸통을 통째로 배우지 않고 LoRA로 배울 때 그 모양.
    """

    path: str
    heads: int = 4
    heads_init: Literal["saved", "copy", "random"] = "saved"
    reference: str | None = None
    seed: int = 42
    attn_implementation: str | None = None
    adapter: Lora | None = None

    def __post_init__(self) -> None:
        if isinstance(self.heads, bool) or not isinstance(self.heads, int) or self.heads < 1:
            raise ConfigError(f"model.heads = {self.heads!r} must be a whole number, at least 1; try 4.")
        if self.heads_init not in ("saved", "copy", "random"):
            raise ConfigError(f"model.heads_init = {self.heads_init!r} must be saved, copy or random.")
        if self.attn_implementation not in (None, *ATTENTIONS):
            raise ConfigError(
                f"model.attn_implementation = {self.attn_implementation!r} must be one of {', '.join(ATTENTIONS)}; "
                "null lets transformers choose."
            )

    @property
    def name(self) -> str:
        """Name the model in a word, for run directories."""
        return Path(self.path.replace("asset:", "")).name

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer beside the model."""
        return load_tokenizer(find_model(self.path))

    def load(self) -> MTPMixin:
        """Load the model with its heads, in float32, and put the adapter on it."""
        model = load_model(
            find_model(self.path), self.heads, self.heads_init, self.seed, "model.path", self.attn_implementation
        )
        if self.adapter is not None:
            self.adapter.put_on(model)
        return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that has an end-of-text token and, failing its own, pads with it."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataNotFoundError(f"{folder} holds no tokenizer that transformers can load ({error}).") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path,
    heads: int | None = None,
    heads_init: str = "saved",
    seed: int = 42,
    key: str = "model.path",
    attn_implementation: str | None = None,
) -> MTPMixin:
    """Load a causal LM folder with `heads` heads (default: as many as it was saved with).

    Raises:
        ConfigError: 헤드를 달 수 없는 구조이거나, 어텐션 구현을 여기서 쓸 수 없을 때.
        CheckpointError: 가중치가 없거나, 잘렸거나, 빠진 텐서가 있을 때.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    saved = getattr(config, "mtp_heads", 1)
    config.mtp_heads = saved if heads is None else heads
    if heads_init == "saved" and config.mtp_heads > saved:
        raise ConfigError(
            f"model.heads = {config.mtp_heads}, but {folder} was saved with {saved}; set model.heads_init=copy "
            "to start new heads as copies of the last layer."
        )
    check_weights(folder, key)
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
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            output_loading_info=True,
        )
    except (ImportError, ValueError) as error:
        if attn_implementation is None:
            raise
        raise ConfigError(
            f"model.attn_implementation = {attn_implementation} cannot be used for {config.model_type} here ({error}); "
            "set model.attn_implementation=sdpa, or null to let transformers choose."
        ) from error
    new_heads = () if heads_init == "saved" else ("extra_heads.",)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(new_heads))
    if missing:
        raise CheckpointError(
            f"{key} = {folder} lacks {missing[0]} ({len(missing)} tensors in all); copy or save the model again."
        )
    if heads_init == "copy":
        model.copy_last_layer_to_heads()
    elif heads_init == "random":
        model.start_heads_at_random()
    check_logits(model)
    return model


@torch.no_grad()
def check_logits(model: MTPMixin) -> None:
    """Hold that head 0's logits are its hidden states times the output matrix, on three tokens.

    Raises:
        ConfigError: 로짓에 무언가를 더 하는 구조일 때 (편향, 배율, soft cap). 손실이 틀린 모델을 학습하게 된다.
    """
    was_training = model.training
    model.eval()
    ids_BT = torch.arange(3)[None]
    (hidden_BTD, *_), _ = model.mtp(ids_BT)
    ours_BTV, theirs_BTV = hidden_BTD @ model.unembedding_VD.T, model(ids_BT).logits
    model.train(was_training)
    if not torch.allclose(ours_BTV, theirs_BTV, rtol=1e-3, atol=1e-4 * float(theirs_BTV.abs().max())):
        raise ConfigError(
            f"model.path: the logits of {model.config.model_type} are not its final hidden states times its output "
            "matrix (a bias, a scale or a cap follows), which the loss of the heads does not compute; choose another "
            "architecture, or add it to wmtp/maths/loss.py."
        )


def load_reference(path: str, model_path: str) -> MTPMixin:
    """Load a frozen reference model, after proving that both read the same tokens."""
    return load_model(find_reference(path, model_path), heads=1, key="model.reference")


def find_reference(path: str, model_path: str) -> Path:
    """Find a reference model's folder, and prove that it reads the same tokens as the model.

    Raises:
        TokenizerMismatchError: 두 토크나이저의 내용이 다를 때. 가중치를 읽기 전에 확인한다.
    """
    reference, model = find_model(path, "model.reference"), find_model(model_path)
    ours, theirs = load_tokenizer(model), load_tokenizer(reference)
    if _reading(ours) != _reading(theirs):
        raise TokenizerMismatchError(
            f"model.reference = {path} reads other tokens than model.path = {model_path} "
            f"({len(theirs)} against {len(ours)} entries); rho1 compares losses token by token, "
            "so give a reference with the same tokenizer."
        )
    return reference


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what decides how text becomes tokens, whatever the folder is called."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.pop("truncation"), content.pop("padding")
    return content


def _reading(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
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


def check_weights(folder: Path, key: str = "ckpt") -> None:
    """Open every safetensors file's header, so that a truncated file is said before anything slow.

    Raises:
        CheckpointError: 파일이 없거나 잘렸을 때.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{key} = {folder} holds no *.safetensors; pickled weights are not loaded, because they can run code. "
            "Convert them with transformers' save_pretrained."
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise CheckpointError(f"{key}: {file} is truncated or damaged ({error}); copy or save it again.") from error
