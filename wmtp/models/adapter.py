"""Train the trunk by small low-rank matrices (LoRA) and every head in full; merge them again for export.

[연구 맥락] 7B 모델을 통째로 미세조정하면 옵티마이저까지 매개변수의 네 배를 메모리에 둔다. LoRA(Hu et al. 2021,
    arXiv 2106.09685)는 몸통의 행렬 W를 얼리고 W + (alpha/r)·B·A의 작은 A, B만 배운다. B는 0에서 시작하므로 학습 전의
    모델은 원래 모델과 비트까지 같다. 헤드의 층은 통째로 배운다. 나란한 헤드라면 마지막 층도 헤드(head 0)다.
[동작] peft가 층을 제자리에서 바꾼다. 모델의 클래스는 그대로라서 `mtp`, `generate`, 추측 복호가 그대로 돈다.
    체크포인트에는 얼린 가중치도 함께 넣는다: 파일 하나로 이어 가고 평가할 수 있어야 한다. 내보낼 때는
    (`wmtp.models.export`) 합치거나(`merge`), 배운 것만 peft의 폴더로 쓴다(`as_peft`).
[디버깅] 학습되는 것이 무엇인지는 `[n for n, p in model.named_parameters() if p.requires_grad]`로 본다.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wmtp import ranges
from wmtp.errors import ConfigError

if TYPE_CHECKING:
    from peft import LoraConfig

    from wmtp.models.mtp import MTPMixin


@dataclass(frozen=True)
class Lora:
    """Hold how the trunk is adapted.

    Args:
        r: A와 B의 안쪽 차원.
        alpha: B·A에 alpha/r을 곱한다.
        dropout: A에 들어가는 입력의 드롭아웃.
        target_modules: 층 안의 이름들, 예: [q_proj, v_proj]. None이면 몸통의 모든 선형층.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        ranges.check(ranges.Lora, **vars(self))

    def put_on(self, model: "MTPMixin") -> None:
        """Freeze the model, adapt the linear layers of its trunk, and let its heads learn in full.

        Raises:
            ConfigError: 몸통에 그런 이름의 선형층이 없을 때.
        """
        from peft import LoraConfig, inject_adapter_in_model

        layers = _linear_layers(model)
        there = {name for _, name in layers}
        wanted = there if self.target_modules is None else set(self.target_modules)
        if not wanted or wanted - there:
            absent = sorted(wanted - there) or self.target_modules
            raise ConfigError(
                f"model.adapter.target_modules = {absent} are not in the trunk of {model.config.model_type}, which has "
                f"{sorted(there) or 'no linear layer'}; choose among these, or null for all of them."
            )
        linear = [f"{place}.{name}" if place else name for place, name in layers if name in wanted]
        settings = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=linear,
            fan_in_fan_out=isinstance(model.get_submodule(linear[0]), Conv1D),
        )
        inject_adapter_in_model(settings, model)  # freezes everything but the new matrices
        for head in (*model.decoder_layers[len(model.trunk_layers) :], *model.extra_heads):
            head.requires_grad_(True)
        model.adapter = self


def _linear_layers(model: "MTPMixin") -> list[tuple[str, str]]:
    """List the linear layers of the trunk as (where, name)."""
    trunk = set(model.trunk_layers.modules())
    names = [n for n, module in model.named_modules() if module in trunk and isinstance(module, (nn.Linear, Conv1D))]
    return [(place, name) for place, _, name in (n.rpartition(".") for n in names)]


def merge(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the plain model whose matrices are W + (alpha/r)·B·A, under their own names.

    [동작] 합친 행렬은 CPU에 둔다. 학습이 끝난 장치에 모델 하나가 더 들어갈 자리는 없을 수 있다.

    Args:
        model: LoRA가 붙은 모델. 바꾸지 않는다.
        state: 그 모델의 상태 전체. 샤딩된 학습에서는 모은 것을 준다.

    Example:
        >>> from peft import LoraConfig, inject_adapter_in_model
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = inject_adapter_in_model(LoraConfig(r=1, target_modules=["0"]), model)
        >>> list(model.state_dict())
        ['0.base_layer.weight', '0.lora_A.default.weight', '0.lora_B.default.weight']
        >>> list(merge(model, model.state_dict()))
        ['0.weight']
    """
    from peft.tuners.lora import LoraLayer

    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    merged = {}
    for name, tensor in state.items():
        place, _, leaf = name.rpartition(".")
        owner = place.removesuffix(".base_layer")
        if owner != place and owner in adapted:
            name = f"{owner}.{leaf}"
            if leaf == "weight":
                layer = adapted[owner]
                up, down = (state[f"{owner}.lora_{side}.default.weight"].float() for side in "BA")
                change = layer.scaling["default"] * (up @ down)
                change = change.T if layer.fan_in_fan_out else change
                # Where nothing changed not even the sign of a zero does: -0.0 + 0.0 is 0.0.
                tensor = tensor.where(change == 0, (tensor.float() + change).to(tensor.dtype)).cpu()
        elif place.partition(".lora_")[0] in adapted:
            continue
        merged[name] = tensor
    return merged


def as_peft(model: "MTPMixin") -> tuple["LoraConfig", dict[str, Tensor]]:
    """Return what makes head 0 out of the base model, as peft keeps it: the config and the tensors of its folder.

    [동작] LoRA의 A와 B, 그리고 통째로 배운 마지막 층(head 0, modules_to_save). 다른 헤드는 바탕 모델에 없어서 peft의
        폴더에 들어가지 못한다.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    assert model.adapter is not None, "what is trained whole has no peft folder"
    names = {module: name for name, module in model.named_modules()}
    adapted = [name for module, name in names.items() if isinstance(module, LoraLayer)]
    head_zero = [names[layer] for layer in model.decoder_layers[len(model.trunk_layers) :]]
    one: LoraLayer = model.get_submodule(adapted[0])
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=model.adapter.r,
        lora_alpha=model.adapter.alpha,
        lora_dropout=model.adapter.dropout,
        target_modules=adapted,
        modules_to_save=head_zero or None,
        fan_in_fan_out=one.fan_in_fan_out,
        inference_mode=True,
    )
    ours = tuple(f"{name}." for name in head_zero)
    learned = {n: t for n, t in model.state_dict().items() if ".lora_" in n or n.startswith(ours)}
    return settings, {f"base_model.model.{name.replace('.default.', '.')}": t for name, t in learned.items()}
