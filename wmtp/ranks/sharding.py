"""Spread one model over many processes, and bring it together again.

[연구 맥락] float32 가중치, 기울기, AdamW 상태는 매개변수 하나에 16바이트다. 7B면 112 GB라 한 장치에 들어가지 않는다.
    FSDP2는 이것을 랭크 수로 나누고, 층 하나를 계산하는 동안만 그 층을 모은다 (Zhao et al. 2023, arXiv 2304.11277).
[동작] 나누기 전에 진짜 가중치는 0번 랭크에만 있다. 나머지는 meta 장치(모양만)에 만들고 자기 조각만 받는다.
    층마다 한 묶음, 그 밖의 것(임베딩, norm, 출력층)이 뿌리(root) 묶음이다. `mtp`는 `forward`가 아니므로 따로 알린다:
    그래야 그 안에서 계산하는 손실이 모인 출력 행렬을 본다.
[디버깅] "got mixed torch.Tensor and DTensor"는 뿌리를 모으지 않고 썼다는 뜻이다: `mtp`나 `forward`로 부른다.
"""

import copy
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

Model = TypeVar("Model", bound=nn.Module)


def shard(model: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy, cpu_offload: bool = False) -> None:
    """Shard a model in place over the ranks of a mesh; only the first rank's values count.

    Args:
        model: 0번 랭크에서는 진짜 가중치, 나머지에서는 meta 장치여도 된다. 모든 랭크가 함께 부른다.
        mesh: 1차원 장치 그물. 이 위에서 나눈다.
        precision: 계산과 기울기 합산의 정밀도. 가중치 원본은 언제나 있던 그대로(float32)다.
        cpu_offload: 쓰지 않는 조각과 옵티마이저를 CPU 메모리에 둘지.
    """
    if isinstance(model, FSDPModule):
        model.reshard()  # after a forward pass without a backward one the root is whole, and no optimizer may see that
        return
    first = dist.get_rank() == 0
    values = model.state_dict() if first else {}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()} if first else {}
    tied = tied_names(model)
    model.to("meta")  # on the first rank too, so that no layer is on the device whole; `values` keeps the weights
    _tie(model, tied)
    skeleton = copy.deepcopy(model)

    layers = [*getattr(model, "decoder_layers", ()), *getattr(model, "extra_heads", ())]
    policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if cpu_offload else OffloadPolicy()
    for module in (*layers, model):  # the root last: it takes what no layer has taken
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=policy)
    for name in ("mtp", "heads_on"):
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)

    here = torch.device(mesh.device_type)
    if here.type == "cuda":
        here = torch.device("cuda", torch.cuda.current_device())
    model.to_empty(device="cpu" if cpu_offload else here)
    _tie(model, tied)
    weights = {name: values[name] for name, _ in model.named_parameters(remove_duplicate=False) if first}
    handed_out: dict[str, Any] = dict(
        full_state_dict=True, broadcast_from_rank0=True, cpu_offload=cpu_offload, strict=False
    )
    set_model_state_dict(model, weights, options=StateDictOptions(**handed_out))
    # After the weights, which torch hands out only while all that it sees is on one device, offloaded or not.
    for name, buffer in model.named_buffers():  # small, needed on the device, and partly in no state dict
        module, _, leaf = name.rpartition(".")
        whole = buffers[name].to(here) if first else torch.empty_like(buffer, device=here)
        dist.broadcast(whole, src=0)
        setattr(model.get_submodule(module), leaf, whole)
    object.__setattr__(model, "skeleton", skeleton)  # no submodule: it is not trained, moved or saved


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return the first name of every parameter that has several (embedding and output matrix)."""
    first: dict[int, str] = {}
    names = [(name, id(parameter)) for name, parameter in model.named_parameters(remove_duplicate=False)]
    return {name: first[key] for name, key in names if first.setdefault(key, name) != name}


def _tie(model: nn.Module, tied: dict[str, str]) -> None:
    """Let those names mean one parameter again: moving a model between devices makes a new one for each."""
    for name, first in tied.items():
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, model.get_parameter(first))


def whole(model: Model) -> Model | None:
    """Return an ordinary copy of a sharded model on the first rank's CPU, None on the others.

    [동작] 모든 랭크가 함께 부른다. 나누지 않은 모델이면 그것을 그대로 돌려준다.
    """
    if not isinstance(model, FSDPModule):
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() != 0:
        return None
    together: Any = copy.deepcopy(model.skeleton)
    together.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():
        module, _, leaf = name.rpartition(".")
        setattr(together.get_submodule(module), leaf, buffer.detach().cpu())
    together.tie_weights()
    left = [name for name, tensor in chain(together.named_parameters(), together.named_buffers()) if tensor.is_meta]
    assert not left, f"gathered without a value: {left[0]}"
    return together.train(model.training)
