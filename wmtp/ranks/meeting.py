"""Meet the processes that a launcher started, before anything is decided that all of them must agree on.

[연구 맥락] Lightning이 스스로 띄운 랭크는 첫 프로세스의 환경 변수를 물려받는다. torchrun과 srun이 띄운 랭크는 저마다
    처음부터 시작하므로, 그대로 두면 실행 폴더도 저마다 만든다.
[동작] torchrun이나 srun이 띄웠으면 여기서 프로세스 그룹을 만든다. Lightning은 나중에 그것을 그대로 쓴다.
[디버깅] 여기서 멈춰 있으면 다른 노드의 프로세스가 아직 없거나 MASTER_ADDR에 닿지 못하는 것이다 (docs/cluster.md).
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from omegaconf import OmegaConf

T = TypeVar("T")


def join(trainer: Any) -> None:
    """Join the processes of torchrun or srun; do nothing where Lightning starts them itself.

    Args:
        trainer: 설정의 trainer. accelerator, devices, num_nodes, strategy.timeout을 본다.

    Raises:
        ConfigError: 설정의 랭크 수와 띄운 프로세스의 수가 다르거나, 있어야 할 GPU가 없을 때.
    """
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from wmtp.errors import ConfigError

    if trainer.accelerator in ("gpu", "cuda") and not torch.accelerator.is_available():
        raise ConfigError(
            f"trainer.accelerator = {trainer.accelerator}, but torch {torch.__version__} sees no GPU here; set "
            "trainer=cpu, or install a torch that is built for the GPU and its driver."
        )
    outside = TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
    if not outside or torch.distributed.is_initialized():
        return
    # With gloo beside it for what is on the CPU: objects, and the gradients of an offloaded model.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and trainer.accelerator != "cpu" else "gloo"
    minutes = OmegaConf.select(trainer, "strategy.timeout", default=30)  # the group is made here once and for all
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=DDPStrategy(process_group_backend=backend, timeout=timedelta(minutes=minutes)),
        )
        ddp: Any = fabric.strategy  # what was given, now that it knows of its cluster
        ddp.cluster_environment.validate_settings(num_devices=ddp.num_processes, num_nodes=ddp.num_nodes)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(
            f"trainer.devices = {trainer.devices} and trainer.num_nodes = {trainer.num_nodes} must be the processes "
            f"of a machine and the number of machines, as torchrun or srun started them ({error})."
        ) from error
    fabric.launch()


def agree(choose: Callable[[], T]) -> T:
    """Return what the first rank chooses, or raise its error, on all ranks that have joined."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return choose()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = choose()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


def is_first() -> bool:
    """Say whether this process is the first rank, as far as is known yet."""
    import torch.distributed as dist
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    joined = dist.is_available() and dist.is_initialized()
    return dist.get_rank() == 0 if joined else (getattr(rank_zero_only, "rank", 0) or 0) == 0


def holds_weights(trainer: Any) -> bool:
    """Say whether this process needs the weights before training: with fsdp the first rank hands them out."""
    return is_first() or not OmegaConf.is_dict(trainer.strategy) or not trainer.strategy.get("meta_device", False)
