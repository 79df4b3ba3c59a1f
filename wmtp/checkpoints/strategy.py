"""Train a model that no single device can hold: FSDP2, with checkpoints that a kill cannot damage.

[연구 맥락] 프로세스와 장치 그물은 Lightning의 ModelParallelStrategy가, 모델을 나누는 일은 `wmtp.ranks.sharding`이,
    체크포인트의 모양은 `wmtp.checkpoints.io`가 맡는다. 여기서는 셋을 잇는다.
[동작] 옵티마이저 상태의 키는 torch의 보통 번호(그룹 순서)다. 그래서 ddp, 한 장치, fsdp의 체크포인트를 서로 이어 쓴다.
    Lightning은 번호를 named_parameters의 순서로 옮기는데, 그룹을 나눈 옵티마이저에서는 그 둘이 다르다.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from wmtp.checkpoints.io import load_shards, read_meta, save_shards, shard_shapes
from wmtp.checkpoints.kinds import is_sharded
from wmtp.checkpoints.saved_model import read_checkpoint
from wmtp.errors import ConfigError
from wmtp.ranks.meeting import agree
from wmtp.ranks.sharding import shard, tied_names

PRECISIONS = {
    "32-true": MixedPrecisionPolicy(),
    "bf16-mixed": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
}


class ShardedStrategy(ModelParallelStrategy):
    """Shard the children of a LightningModule over all ranks.

    Args:
        precision: "bf16-mixed" 또는 "32-true". Trainer의 것과 같아야 한다. 원본은 언제나 float32다.
        sharded_checkpoints: True면 랭크마다 자기 조각을 쓰고 체크포인트는 폴더다. False면 0번이 모아 파일 하나로 쓴다.
        meta_device: True면 0번 말고는 가중치를 읽지 않는다. 앞문이 모델을 만들 때 본다 (`ranks.meeting.holds_weights`).
        cpu_offload: 쓰지 않는 조각과 옵티마이저를 CPU 메모리에 둘지.
        timeout: 랭크가 서로를 기다리는 시간의 한도 (분).
    """

    def __init__(
        self,
        precision: str = "bf16-mixed",
        sharded_checkpoints: bool = True,
        meta_device: bool = True,
        cpu_offload: bool = False,
        timeout: float = 30,
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(
                f"trainer.precision = {precision} cannot be used with trainer=fsdp; set bf16-mixed (bfloat16 "
                "arithmetic over float32 weights) or 32-true."
            )
        # Two backends, because offloaded gradients are clipped on the CPU.
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=sharded_checkpoints,
            process_group_backend="cpu:gloo,cuda:nccl" if cpu_offload and torch.cuda.is_available() else None,
            timeout=timedelta(minutes=timeout),
        )
        self.policy = PRECISIONS[precision]
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """Take all ranks for one mesh; left to itself Lightning takes the number of nodes, and replicates."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, module: LightningModule) -> None:
        """Shard every child that has parameters; `configure_model` calls it."""
        for child in module.children():
            if next(child.parameters(), None) is not None:
                shard(child, self.device_mesh["data_parallel"], self.policy, self.cpu_offload)

    def model_to_device(self) -> None:
        """Leave offloaded weights where they are; `shard` has put the rest on the device."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this rank's shards, each under one name only, or everything on the first rank."""
        if not self._save_distributed_checkpoint:
            return super().lightning_module_state_dict()
        tied = tied_names(self.model)
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in tied}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state by torch's own numbers: this rank's shards, or all of it on the first rank."""
        state = getattr(optimizer, "_optimizer", optimizer).state_dict()
        if self._save_distributed_checkpoint:
            return state
        whole = {}
        for number, values in state["state"].items():
            gathered = {name: _gathered(value, self.is_global_zero) for name, value in values.items()}
            if self.is_global_zero:
                whole[number] = gathered
        return {**state, "state": whole}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write beside, and rename when every rank's part is on the disk."""
        path = Path(self.broadcast(str(filepath)))
        if not self._save_distributed_checkpoint:
            agree(lambda: self.checkpoint_io.save_checkpoint(checkpoint, path))
            return
        checkpoint["tied"] = tied_names(self.model)
        save_shards(checkpoint, path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = True) -> dict[str, Any]:
        """Load this rank's shards out of either kind of checkpoint, and return what else is in it."""
        path = Path(self.broadcast(str(checkpoint_path)))
        tied = tied_names(self.model)
        # What the tensors in it get, the model gets.
        model = {name: tensor for name, tensor in self.model.state_dict().items() if name not in tied}
        optimizers = [getattr(optimizer, "_optimizer", optimizer) for optimizer in self.optimizers]
        if is_sharded(path):
            checkpoint = read_meta(path)
            load_shards(model, path / "model")
            for n, optimizer in enumerate(optimizers):
                folder, saved = path / f"optimizer_{n}", checkpoint["optimizer_states"][n]
                state, plain = _empty_state(optimizer, shard_shapes(folder)), saved["state"]
                load_shards({f"{i}.{name}": t for i, values in state.items() for name, t in values.items()}, folder)
                merged = {i: {**plain.get(i, {}), **state.get(i, {})} for i in plain.keys() | state.keys()}
                optimizer.load_state_dict({**saved, "state": merged})
            return checkpoint
        checkpoint = read_checkpoint(path)  # mapped: only what is used is read
        with torch.no_grad():
            for name, tensor in model.items():
                tensor.copy_(_like(tensor, checkpoint["state_dict"][name]))
        for optimizer, saved in zip(optimizers, checkpoint["optimizer_states"], strict=bool(optimizers)):
            parameters = _numbered(optimizer)
            state = {}
            for i, values in saved["state"].items():
                state[i] = {name: _like(parameters[i], value) for name, value in values.items()}
            optimizer.load_state_dict({**saved, "state": state})
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Do nothing: `load_checkpoint` has loaded it."""


def _numbered(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters in the order of torch's numbers."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _gathered(value: Any, keep: bool) -> Any:
    """Bring a tensor together on the CPU; every rank takes part, and only those that keep it hold it."""
    if not isinstance(value, DTensor):
        return value.cpu() if keep and isinstance(value, Tensor) else value
    on_device: Any = value.to(value.device_mesh.device_type)  # where an offloaded one is gathered; still a DTensor
    whole = on_device.full_tensor()
    return whole.cpu() if keep else None


def _like(sharded: Tensor, value: Any) -> Any:
    """Cut out of a whole tensor what belongs to this rank; leave what is not of the parameter's shape as it is."""
    if not isinstance(sharded, DTensor) or not isinstance(value, Tensor) or value.shape != sharded.shape:
        return value
    part = distribute_tensor(value, sharded.device_mesh, sharded.placements, src_data_rank=None)
    return part.to(sharded.device)  # an offloaded one goes back from the device


def _empty_state(optimizer: Optimizer, shapes: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Make room for an optimizer's saved tensors, sharded like the parameters that they belong to."""
    parameters, state = _numbered(optimizer), {}
    for key, saved in shapes.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        room = torch.empty_like(saved, device="cpu")
        if saved.shape == parameter.shape and isinstance(parameter, DTensor):
            room = torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False)
        state.setdefault(int(number), {})[name] = room
    return state
