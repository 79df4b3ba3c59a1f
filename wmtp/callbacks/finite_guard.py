"""Stop every rank before a step with NaN or Inf in it is taken, and keep the batch so that it can be repeated.

[연구 맥락] NaN 하나가 옵티마이저를 지나면 모든 가중치가 NaN이 되고, 그 뒤의 체크포인트도 모두 못 쓴다.
    그래서 스텝을 밟기 직전에 점수, 가중치, 손실, 기울기를 차례로 본다.
[동작] 조각마다 장치 위에서 깃발만 세운다. 스텝마다 모든 랭크의 깃발 넷을 더한다 (step_check.py).
    그래서 모든 랭크가 같은 스텝에서 같은 텐서의 이름으로 멈춘다. 기울기는 자르기(clipping) 전의 것이다.
[디버깅] `<run>/failures/step-N/rank-R.json`에 텐서의 이름, 문제 번호, 통계, 씨앗이, 그 옆 safetensors에 배치가 있다.
    되풀이하는 법은 docs/recovery.md.
"""

#   B sequences, T positions

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import get_total_norm

from wmtp.callbacks.step_check import StepCheck
from wmtp.errors import NonFiniteError
from wmtp.storage.files import write_atomically, written_atomically

CHECKED = ("score", "weight", "loss", "gradient")


class FiniteGuard(StepCheck):
    """Raise NonFiniteError on all ranks before a step that would poison the weights.

    Args:
        run_dir: 실행 폴더. 그 안의 `failures/`에 배치를 남긴다.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self._micro_batches: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted step left."""
        self._micro_batches = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at one micro-batch, without making the host wait for the device."""
        step = pl_module.last_step
        kept = {name: step[name] for name in ("batch", "score_BT", "weight_BT")} | {"loss": step["loss"].detach()}
        self._micro_batches.append({**kept, "bad_3": bad_of(step)})

    def ask(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """Tell for score, weight, loss and gradient of this rank's step whether something is not finite."""
        bad_3 = torch.stack([micro_batch["bad_3"] for micro_batch in self._micro_batches]).any(0)
        self._bad_4 = torch.cat([bad_3, self._bad_gradient(trainer, pl_module, bad_3.device)])
        return self._bad_4.float()

    def answer(self, trainer: Trainer, pl_module: LightningModule, sums: list[float]) -> None:
        """Stop if anything is bad anywhere.

        Raises:
            NonFiniteError: 어느 랭크에서든 유한하지 않은 값이 있을 때, 모든 랭크에서.
        """
        micro_batches, self._micro_batches = self._micro_batches, []
        if any(sums):
            self._stop(trainer, pl_module, micro_batches, self._bad_4.tolist())

    def _bad_gradient(self, trainer: Trainer, pl_module: LightningModule, device: torch.device) -> Tensor:
        # The norm that clipping takes: one pass, 20 times as fast on a CPU as looking for the largest element.
        gradients = [
            shard.float() if shard.dtype == torch.float16 else shard for _, shard in gradient_shards(pl_module)
        ]
        bad = ~torch.isfinite(get_total_norm(gradients)).to(device).reshape(1)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # In float16 an overflow is the scaler's own business, as long as it can still lower the scale.
        return bad & (scaler.get_scale() <= 1) if scaler is not None else bad

    def _stop(self, trainer: Trainer, pl_module: LightningModule, micro_batches: list[Any], bad_4: list[bool]) -> None:
        """Keep the batch on the ranks that have a bad value, and raise on all of them."""
        tensor, place = None, bad_4.index(True) if any(bad_4) else len(CHECKED)
        folder = Path(trainer.strategy.broadcast(str(self._free_folder(trainer.global_step))))
        if any(bad_4):
            bad = bad_gradients(pl_module) if CHECKED[place] == "gradient" else []
            tensor = f"gradient of {bad[0]}" if bad else CHECKED[place]
            write_recipe(folder, tensor, trainer, pl_module, micro_batches)
        found: list[Any] = [(place, trainer.global_rank, tensor)]
        if trainer.world_size > 1:
            found = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, (place, trainer.global_rank, tensor))
        _, rank, tensor = min(found, key=lambda one: one[:2])
        ids = sum(len(micro_batch["batch"].get("problem_ids", ())) for micro_batch in micro_batches)
        higher = "" if str(trainer.precision).startswith(("32", "64")) else ", or trainer.precision=32-true"
        raise NonFiniteError(
            f"{tensor} is not finite at step {trainer.global_step} on rank {rank}; the step was not taken, and its "
            f"{ids} problems are kept in {folder}. Try a smaller optimizer.lr{higher}.",
            recipe=str(folder),
        )

    def _free_folder(self, step: int) -> Path:
        """Name the folder of this failure; an earlier one at the same step stays."""
        folder, number = self.run_dir / "failures" / f"step-{step}", 1
        while folder.exists():
            number += 1
            folder = folder.with_name(f"step-{step}-{number}")
        return folder


def bad_of(step: dict[str, Any]) -> Tensor:
    """Tell for score, weight and loss of a micro-batch whether something is not finite, on the device.

    Example:
        >>> mask, one = torch.tensor([[True, False]]), torch.ones(1, 2)
        >>> bad_of({"score_BT": one / 0, "weight_BT": one, "mask_BT": mask, "loss": torch.tensor(float("nan"))})
        tensor([ True, False,  True])
    """
    never = torch.zeros((), dtype=torch.bool, device=step["loss"].device)

    def bad(value_BT: Tensor | None) -> Tensor:
        return never if value_BT is None else (~torch.isfinite(value_BT) & step["mask_BT"]).any()

    return torch.stack([bad(step["score_BT"]), bad(step["weight_BT"]), ~torch.isfinite(step["loss"].detach()).all()])


def gradient_shards(module: LightningModule) -> list[tuple[str, Tensor]]:
    """List the gradients by name; of a sharded one the part that this rank holds."""
    named = ((name, p.grad) for name, p in module.named_parameters() if p.grad is not None)
    local = ((name, grad.to_local() if hasattr(grad, "to_local") else grad) for name, grad in named)
    return [(name, grad) for name, grad in local if grad.numel()]


def bad_gradients(module: LightningModule) -> list[str]:
    """Name the parameters whose gradient is not finite, in the order of the model."""
    return [name for name, grad in gradient_shards(module) if not bool(torch.isfinite(grad).all())]


def statistics(tensor: Tensor) -> dict[str, Any]:
    """Describe a tensor by a few plain numbers.

    Example:
        >>> statistics(torch.tensor([1.0, float("nan"), 3.0]))
        {'shape': [3], 'dtype': 'float32', 'nan': 1, 'inf': 0, 'min': 1.0, 'max': 3.0, 'mean': 2.0}
    """
    value = tensor.detach().double()
    finite = value[torch.isfinite(value)]
    numbers = [finite.min(), finite.max(), finite.mean()] if finite.numel() else []
    described: dict[str, Any] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    described |= {"nan": int(torch.isnan(value).sum()), "inf": int(torch.isinf(value).sum())}
    return described | dict(zip(("min", "max", "mean"), map(float, numbers), strict=False))


def write_recipe(
    folder: Path, tensor: str, trainer: Trainer, pl_module: LightningModule, micro_batches: list[dict[str, Any]]
) -> None:
    """Write what this rank needs to repeat the step: names and numbers as JSON, tensors as safetensors."""
    name, tensors, described = f"rank-{trainer.global_rank}", {}, []
    for i, micro_batch in enumerate(micro_batches):
        batch = micro_batch["batch"]
        every = {**batch, **{key: micro_batch[key] for key in ("score_BT", "weight_BT", "loss")}}
        found = {key: value.detach() for key, value in every.items() if isinstance(value, Tensor)}
        tensors |= {f"{i}/{key}": value.cpu().contiguous() for key, value in found.items()}
        plain = {key: value for key, value in batch.items() if not isinstance(value, Tensor) and key != "pieces"}
        described.append({**plain, "statistics": {key: statistics(value) for key, value in found.items()}})
    bad = bad_gradients(pl_module)
    shards = dict(gradient_shards(pl_module))
    loader = trainer.train_dataloader
    recipe = {
        "tensor": tensor,
        "step": trainer.global_step,
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
        "place": loader.state_dict() if hasattr(loader, "state_dict") else None,
        "seed": torch.initial_seed(),
        "precision": str(trainer.precision),
        "micro_batches": described,
        "bad_gradients": {key: statistics(shards[key]) for key in bad[:20]},
        "tensors": f"{name}.safetensors",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with written_atomically(folder / f"{name}.safetensors") as temporary:
        save_file({**tensors, "rng/torch": torch.get_rng_state()}, temporary)
    write_atomically(folder / f"{name}.json", json.dumps(recipe, indent=1, ensure_ascii=False, default=str).encode())
