"""Measure how much memory a step takes, phase by phase, and suggest the largest token budget that is safe.

    python -m wmtp.train profile_memory=true [whatever the run will be given]

[연구 맥락] 메모리가 모자라 죽은 긴 학습은 돌려받을 수 없고, 너무 작은 예산은 장치를 놀린다. 긴 학습 전에 몇 스텝으로
    안다.
[동작] 진짜 데이터에서 예산마다 가장 무거운 두 묶음(자리가 가장 많은 것, 행이 가장 긴 것)을 골라 진짜 스텝을 밟고,
    단계마다 가장 높았던 메모리를 잰다: trunk(몸통) → heads(헤드) → loss(점수, 가중치, 손실) → backward → optimizer.
    단계마다 자리 수에 대한 직선을 맞추고, 모든 직선이 쓸 수 있는 메모리의 SAFE 아래에 있는 가장 큰 예산을 제안한다.
    처음 한 예산은 옵티마이저 상태를 만드느라 버린다. 조각내기(data.pieces)는 끄고, 누적은 많아야 두 번만 한다.
[디버깅] CUDA에서는 할당기가 센 값(torch.cuda.max_memory_allocated)이다. CPU에서는 살아 있는 텐서 저장소의 합이다.
    커널이 안에서 잠깐 쓰는 작업 공간, 할당기의 빈틈, 파이썬 자신은 들어 있지 않다. SAFE가 그만큼을 남겨 둔다.
"""

#   B sequences, T positions

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wmtp.data.batching import collate, plan_epoch
from wmtp.errors import ConfigError
from wmtp.private_names import number_of

PHASES = ("trunk", "heads", "loss", "backward", "optimizer")
# Of the memory there is, this much may be tensors. On a CPU glibc keeps what is freed: with 0.82 and 1.70 GB of tensors
# the process grew by 1.06 and 2.38 GB (with MALLOC_MMAP_THRESHOLD_=65536 by 0.83 GB). CUDA has fragmentation.
SAFE = {"cpu": 0.6, "cuda": 0.9}
GB = 2**30
MEMINFO = Path("/proc/meminfo")


class HostMeter(TorchDispatchMode):
    """Count the bytes of all tensor storages that are alive, as they are made and freed, and their peak.

    Example:
        >>> with HostMeter() as meter:
        ...     kept = torch.zeros(1000)
        ...     view, freed = kept[10:], torch.zeros(500) + 1
        ...     del freed
        >>> meter.now, meter.peak
        (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it made."""
        made = func(*args, **(kwargs or {}))
        self.count(made)
        return made

    def count(self, tensors: Any) -> None:
        """Count the storages of tensors, those not counted before."""
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
                continue
            storage = tensor.untyped_storage()
            number = number_of(storage)
            if number not in self._known:
                self._known.add(number)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, number, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _freed(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size

    def reset(self) -> None:
        """Start a new peak."""
        self.peak = self.now


class CudaMeter(nullcontext):
    """Read the peak of CUDA's allocator."""

    @property
    def peak(self) -> int:
        """Return the peak since the last reset."""
        return torch.cuda.max_memory_allocated()

    def count(self, tensors: Any) -> None:
        """Do nothing: the allocator has counted them."""

    def reset(self) -> None:
        """Start a new peak."""
        torch.cuda.reset_peak_memory_stats()


class PhaseMeter(Callback):
    """Note the peak of every phase of every micro-batch.

    Attributes:
        rows: 두 묶음(예산 하나)마다 (자리 수, 단계마다의 바이트), 둘 중 큰 것.
    """

    def __init__(self, meter: Any, enough: Callable[[], bool]) -> None:
        self.meter, self.enough = meter, enough
        self.rows: list[tuple[int, dict[str, int]]] = []
        self._phase: str | None = None
        self._peaks: dict[str, int] = {}
        self._positions: list[int] = []

    def begin(self, phase: str | None, after: str | None = None) -> None:
        """End the phase that was, and begin another; where `after` is given, only if that is the phase now."""
        if after is None or (self._phase == after and torch.is_grad_enabled()):
            if self._phase:
                self._peaks[self._phase] = max(self._peaks.get(self._phase, 0), self.meter.peak)
            self._phase = phase
            self.meter.reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the model: its last layer begins the heads, and what follows the heads is the loss."""
        model, mtp = pl_module.model, pl_module.model.mtp
        self.meter.count([*pl_module.parameters(), *pl_module.buffers()])
        first = [*model.decoder_layers[len(model.trunk_layers) :], *model.extra_heads][:1]
        self._hooks = [m.register_forward_pre_hook(lambda *_: self.begin("heads", after="trunk")) for m in first]

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = mtp(*args, **kwargs)
            self.begin("loss", after="heads")
            return output

        model.mtp = watched

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the model be as it was."""
        for hook in self._hooks:
            hook.remove()
        del pl_module.model.mtp

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin a micro-batch."""
        self.begin("trunk")

    def on_before_backward(self, *_: Any) -> None:
        """Begin the backward pass."""
        self.begin("backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Begin the optimizer's step."""
        self.begin("optimizer")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, _: Any, batch: Any, *__: Any) -> None:
        """Note the peaks; stop when that is enough."""
        self.begin(None)
        self._positions.append(batch["input_ids_BT"].numel())
        if len(self._positions) == 2:
            self.rows.append((max(self._positions), self._peaks))
            self._positions, self._peaks = [], {}
            trainer.should_stop = self.enough()


class SampleBatches:
    """Give the heaviest micro-batches of growing budgets; as long as the real loader, for those who ask."""

    def __init__(self, data: Any, budgets: Sequence[int]) -> None:
        self.data, self.budgets = data, budgets
        self.length = len(data.loader("train"))
        self.batches = self.heaviest()  # one for all epochs: a large budget makes an epoch of few micro-batches

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.batches

    def heaviest(self) -> Iterator[dict[str, Any]]:
        """Yield two micro-batches for each budget."""
        samples, pad = self.data.training_samples, self.data.tokenizer.pad_token_id
        for budget in (self.budgets[0], *self.budgets):  # the first one twice: it makes the optimizer's state
            plan = plan_epoch(samples.lengths, samples.targets, token_budget=budget)
            batches = [batch for step in plan for batch in step.micro_batches]
            width = {batch: max(samples.lengths[i] for i in batch) for batch in batches}
            heaviest = max(batches, key=lambda batch: len(batch) * width[batch])
            longest = max(batches, key=lambda batch: (width[batch], len(batch)))
            for batch in (heaviest, longest):
                targets = sum(samples.targets[i] for i in (*heaviest, *longest))
                yield collate([samples[i] for i in batch], targets, pad)


def fit_lines(rows: Sequence[tuple[int, dict[str, int]]]) -> dict[str, tuple[float, float]]:
    """Fit bytes = fixed + slope · positions to every phase, by least squares.

    Example:
        >>> fit_lines([(10, {"loss": 120}), (20, {"loss": 140}), (40, {"loss": 180})])
        {'loss': (100.0, 2.0)}
    """
    lines = {}
    for phase in dict.fromkeys(phase for _, peaks in rows for phase in peaks):
        points = [(positions, peaks[phase]) for positions, peaks in rows if phase in peaks]
        x, y = torch.tensor(points, dtype=torch.float64).T
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum().clamp(min=1)
        lines[phase] = (round(float(y.mean() - slope * x.mean()), 3), round(float(slope), 3))
    return lines


def predict(lines: dict[str, tuple[float, float]], positions: int) -> float:
    """Predict the peak of a step.

    Example:
        >>> predict({"loss": (100.0, 2.0), "optimizer": (300.0, 0.0)}, 50), predict({"loss": (100.0, 2.0)}, 50)
        (300.0, 200.0)
    """
    return max(fixed + slope * positions for fixed, slope in lines.values())


def largest_budget(lines: dict[str, tuple[float, float]], allowed: float) -> int:
    """Find the most positions whose predicted peak stays within what is allowed; 0 where nothing fits.

    Example:
        >>> largest_budget({"loss": (100.0, 2.0), "optimizer": (300.0, 0.0)}, 500.0)
        200
        >>> largest_budget({"loss": (100.0, 2.0), "optimizer": (300.0, 0.0)}, 250.0)
        0
    """
    if any(fixed > allowed for fixed, _ in lines.values()):
        return 0
    return int(min(((allowed - fixed) / slope for fixed, slope in lines.values() if slope > 0), default=2**31))


def memory_there_is(device: torch.device, held: int) -> int:
    """Return the bytes that this process may hold in tensors: what is free, and what it holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free = [int(line.split()[1]) * 1024 for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable")]
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
            if (folder / limit).exists() and (text := (folder / limit).read_text().strip()) != "max":
                free.append(int(text) - int((folder / used).read_text()))
    return min(free) + held


def profile_memory(algo: LightningModule, data: Any, make_trainer: Callable[..., Trainer]) -> dict[str, float]:
    """Take a few steps of growing size, print what they took, and suggest a budget.

    Args:
        algo: 학습할 알고리즘. 몇 스텝을 밟으므로 다시 쓰지 않는다.
        make_trainer: `callbacks=…, logger=…`처럼 인자를 바꾸어 Trainer를 만드는 함수.

    Returns:
        token_budget (제안), predicted_gb (제안한 예산에서), available_gb.

    Raises:
        ConfigError: 장치가 여럿이거나, CPU인데 /proc/meminfo가 없거나, 가장 작은 예산도 들어가지 않을 때.
    """
    samples = data.samples["train"]
    longest, positions = max(samples.lengths), sum(samples.lengths)
    budgets = [longest, 2 * longest]
    while budgets[-1] < min(2 * data.token_budget, positions) or len(budgets) < 4:
        budgets.append(2 * budgets[-1])

    trainer = make_trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0, callbacks=[]
    )
    device = trainer.strategy.root_device
    if trainer.world_size > 1:
        raise ConfigError(
            f"profile_memory=true measures one device, and trainer.devices asks for {trainer.world_size}; "
            "add trainer.devices=1 (a sharded model then takes more than it will)."
        )
    if device.type == "cpu" and not MEMINFO.exists():
        raise ConfigError("profile_memory=true needs /proc/meminfo on a CPU, which this system lacks; use a GPU.")
    meter = CudaMeter() if device.type == "cuda" else HostMeter()
    safe = SAFE[device.type]
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*algo.parameters(), *algo.buffers()))
    available = memory_there_is(device, held)

    def enough() -> bool:
        rows = watch.rows[1:]
        if len(rows) == len(budgets):
            return True
        return len(rows) >= 2 and predict(fit_lines(rows), budgets[len(rows)]) > safe * available

    watch = PhaseMeter(meter, enough)
    trainer.callbacks.append(watch)
    trainer.accumulate_grad_batches = min(2, trainer.accumulate_grad_batches)
    trainer.fit_loop.epoch_loop.max_steps = max(trainer.max_steps, 2 * len(budgets) + 2)
    data.train_dataloader = lambda: SampleBatches(data, budgets)
    full = ""
    try:
        with meter:
            trainer.fit(algo.train(), data)
    except torch.OutOfMemoryError:
        full = f" (and more than there are at a budget of {budgets[max(len(watch.rows) - 1, 0)]})"
    rows = watch.rows[1:]
    if len(rows) < 2:
        raise ConfigError(
            f"profile_memory=true: {available / GB:.2f} GB are too little for two samples of {longest} tokens; "
            "lower data.max_length, or take a smaller model."
        )
    lines = fit_lines(rows)
    suggestion = min(largest_budget(lines, safe * available), positions)
    print(table(rows, lines, available, full))
    print(advice(suggestion, longest, positions, data.token_budget, predict(lines, suggestion), safe, rows[-1][0]))
    in_gb = {"predicted_gb": predict(lines, suggestion) / GB, "available_gb": available / GB}
    return {"token_budget": float(suggestion), **in_gb}


def table(rows: Sequence[tuple[int, dict[str, int]]], lines: dict[str, Any], available: int, full: str) -> str:
    """Show the peaks in GB, a line a budget, and the lines that were fitted."""
    text = ["", "peak memory of a step, GB", f"{'positions':>11}" + "".join(f"{phase:>11}" for phase in PHASES)]
    shown = [(f"{positions}", [peaks[phase] / GB for phase in PHASES]) for positions, peaks in rows]
    shown.append(("fixed", [lines[phase][0] / GB for phase in PHASES]))
    shown.append(("per 1000", [1000 * lines[phase][1] / GB for phase in PHASES]))
    text += [f"{name:>11}" + "".join(f"{value:>11.3f}" for value in values) for name, values in shown]
    error = max(abs(predict(lines, positions) / max(peaks.values()) - 1) for positions, peaks in rows)
    text.append(f"the lines miss these peaks by at most {error:.1%}; there are {available / GB:.2f} GB{full}")
    return "\n".join(text)


def advice(
    suggestion: int, longest: int, positions: int, budget: int, predicted: float, safe: float, measured: int
) -> str:
    """Say what to set."""
    if suggestion < longest:
        return (
            f"No budget is safe: the longest sample has {longest} tokens. Lower data.max_length, or use trainer=fsdp, "
            "model/adapter=lora or a smaller model."
        )
    said = (
        f"data.token_budget={suggestion} is the largest that is safe: {predicted / GB:.2f} GB of tensors, and they may "
        f"be {safe:.0%} of what there is"
    )
    if suggestion == positions:
        said += " (all of the data at once)"
    if suggestion > 2 * measured:
        said += f"; {suggestion / measured:.0f} times what was measured, so approach it in steps"
    if budget > suggestion:
        split = -(-budget // suggestion)
        said += (
            f".\nThe budget of this config, {budget}, is not: data.pieces={split}, and {split} times as many "
            "trainer.accumulate_grad_batches, take the same steps in pieces that fit"
        )
    return said + "."
