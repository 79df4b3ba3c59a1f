"""Measure what a training step costs, in one table from one run: peak memory and time, each against its peer.

    OMP_NUM_THREADS=1 python scripts/bench/scale.py        CPU, about 3 minutes; with a GPU about 1B parameters on it
    python scripts/bench/scale.py --toy                    seconds: that every row can be measured, not what it says

[연구 맥락] "메모리가 헤드 수에 따라 늘지 않는다", "가중치는 공짜다", "Trainer보다 느리지 않다"는 약속을 재어 본다.
[동작] 묶음마다 첫 줄이 기준이고, ×는 그 줄에 대한 비율이다. 메모리는 한순간에 있던 텐서의 최대 크기다: GPU에서는
    할당자가, CPU에서는 torch의 프로파일러가 센다. RSS와 달리 돌릴 때마다 같다. 시간은 CPU 시간(GPU에서는 동기화한
    벽시계)이다. 묶음의 모든 줄이 한 스텝씩 번갈아 돌고, 짝지은 비율의 중앙값을 쓴다: 시끄러운 기계에서도 견줄 수 있다.
[디버깅] 비율이 흔들리면 --steps를 늘린다. 머리글의 load가 코어 수보다 크면 시간은 믿지 않는다.
"""

#   B sequences, T positions, H heads, D width, V vocabulary, N rows of one head

import argparse
import gc
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler talks

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning import Trainer as Lightning
from torch.autograd.profiler_util import MEMORY_EVENT_NAME
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback, TrainingArguments
from transformers import Trainer as HuggingFace

from wmtp.algos.baseline import Baseline
from wmtp.algos.optimizers import adamw
from wmtp.algos.reference import OnlineReference
from wmtp.algos.rho1 import Rho1
from wmtp.cli import quiet, quiet_libraries
from wmtp.data.batching import collate
from wmtp.data.module import MTPDataModule
from wmtp.data.tokenization import TokenizedSample, TokenizedSamples
from wmtp.maths.alignment import IGNORE, shift_left
from wmtp.maths.loss import MTPLoss, weighted_mtp_loss
from wmtp.maths.weighting import SoftWeighting
from wmtp.models.adapter import Lora
from wmtp.models.flops import peak_flops, step_flops
from wmtp.models.mtp import MTPForCausalLM

WARM_UP = 2  # steps that allocate; not counted
MEGABYTE = 2**20


@dataclass(frozen=True)
class Size:
    """Hold the shape of a model and of its batch."""

    width: int
    layers: int
    vocabulary: int
    rows: int
    length: int
    heads: int = 4
    head_width: int = 64

    def model(self, device: str, heads: int | None = None, base: type = MTPForCausalLM) -> Any:
        """Build the model where it will be, always with the same weights; on "meta" the shapes alone."""
        torch.manual_seed(42)
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=-(-self.width * 8 // 3 // 64) * 64,
            num_hidden_layers=self.layers,
            num_attention_heads=max(self.width // self.head_width, 1),
            tie_word_embeddings=True,
            mtp_heads=self.heads if heads is None else heads,
            use_cache=False,
        )
        with torch.device(device):
            return base(config)

    def samples(self) -> list[TokenizedSample]:
        """Draw one batch of random tokens, with a reference's losses."""
        random = torch.Generator().manual_seed(42)
        return [
            TokenizedSample(
                str(row),
                tuple(torch.randint(2, self.vocabulary, (self.length,), generator=random).tolist()),
                self.length // 8,
                (False,) * self.length,
                torch.rand(self.length, generator=random).tolist(),
            )
            for row in range(self.rows)
        ]

    def batch(self) -> dict[str, Any]:
        """Lay the samples out as the loader does."""
        samples = self.samples()
        return collate(samples, sum(sample.targets for sample in samples), 0)

    def data(self, batches: int) -> MTPDataModule:
        """Give the same samples as many times over, the way a run gets them: planned, collated, pinned."""
        data = MTPDataModule(None, None, SimpleNamespace(pad_token_id=0), self.tokens, self.length)
        data.samples = {"train": TokenizedSamples.pack(self.samples() * batches)}
        return data

    @property
    def tokens(self) -> int:
        """Return the tokens of a step."""
        return self.rows * self.length

    def flops(self, model: Any = None) -> float:
        """Return the floating-point operations that a step of the model needs, as `speed/mfu` counts them."""
        each = step_flops(model or self.model("meta"))
        predictions = self.heads * sum(sample.targets for sample in self.samples())
        return (
            each.per_token * self.tokens
            + each.per_pair * self.rows * self.length**2
            + each.per_prediction * predictions
        )


@dataclass(frozen=True)
class Scale:
    """Hold the sizes of all rows, and how often each step is taken."""

    losses: tuple[int, ...]  # vocabularies
    loss_rows: int
    loss_width: int
    wide: Size  # most of its work is the unembedding
    heads: tuple[int, ...]
    deep: Size  # most of its work is the blocks, as in a large model
    steps: int
    rounds: int  # of whole trainers


TOY = Scale((2000,), 64, 16, Size(32, 2, 512, 2, 32), (1, 2), Size(64, 3, 256, 2, 32, 2), 1, 1)
CPU = Scale((32_000, 128_000), 512, 64, Size(128, 2, 32_000, 2, 128), (1, 2, 4, 8), Size(384, 9, 4096, 4, 128), 9, 4)
GPU = Scale(
    (32_000, 128_000), 4096, 2048, Size(1024, 4, 32_000, 4, 1024), (1, 2, 4, 8), Size(2048, 16, 32_000, 8, 1024), 9, 3
)


class Naive(Baseline):
    """Compute the loss from the logits of all heads at once."""

    def _loss(self, batch, output, weight_BT=None) -> MTPLoss:
        return explicit_loss(output.hidden, output.unembedding_VD, batch["labels_BT"], batch["step_targets"])


def explicit_loss(hidden, unembedding_VD, labels_BT, step_targets) -> MTPLoss:
    """Compute the uniform loss the way it is written."""
    heads = len(hidden)
    logits_BTHV = torch.stack(list(hidden), dim=2) @ unembedding_VD.T
    target_BTH = torch.stack([shift_left(labels_BT, k + 1, IGNORE) for k in range(heads)], dim=2)
    nll_N = F.cross_entropy(
        logits_BTHV.flatten(0, 2).float(), target_BTH.flatten(), reduction="none", ignore_index=IGNORE
    )
    nll_sum_H = nll_N.detach().view(-1, heads).sum(0)
    return MTPLoss(nll_N.sum() / (heads * step_targets), nll_sum_H, (target_BTH != IGNORE).sum((0, 1)))


class Scored(OnlineReference):
    """Stand for a reference whose losses are in the data."""

    def __init__(self) -> None:
        """Have nothing to load."""

    def losses(self, batch: dict) -> torch.Tensor:
        """Read them."""
        return batch["reference_nll_BT"]


class Machine:
    """Hold the device, and how time and memory are read on it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cpu = device == "cpu"
        self.precision = "32-true" if self.cpu else "bf16-mixed"
        if not self.cpu:  # cuBLAS keeps its workspaces, one for each direction: no row shall pay for them
            leaf = torch.ones(64, 64, device=device, requires_grad=True)
            (leaf @ leaf).sum().backward()

    def clock(self) -> float:
        """Read the time: CPU seconds, or the wall clock once the GPU is done."""
        if self.cpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self, work: Callable[[], Any]) -> float:
        """Do work, and return the most megabytes of tensors that it held at once."""
        if not self.cpu:
            held = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            return (torch.cuda.max_memory_allocated() - held) / MEGABYTE
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
        # Every single allocation; `profiler.events()` has them added up by operation.
        events = (event for event in profiler.profiler.kineto_results.events() if event.name() == MEMORY_EVENT_NAME)
        changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
        return max(itertools.accumulate(changes), default=0) / MEGABYTE

    def apart(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do work where it leaves nothing behind: in a forked process; on a GPU here, once earlier work is gone."""
        if not self.cpu:
            gc.collect()
            torch.cuda.empty_cache()
            return work(*arguments)
        here, there = multiprocessing.Pipe(duplex=False)

        def child() -> None:
            there.send(work(*arguments))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        there.close()
        try:
            return here.recv()
        except EOFError:
            raise SystemExit("a measurement died; its error is above") from None
        finally:
            process.join()


Step = Callable[[], None]


def build_model(
    machine: Machine,
    size: Size,
    heads: int | None = None,
    lora: bool = False,
    checkpointing: bool = False,
    compiled: bool = False,
) -> Any:
    """Build a model to train."""
    model = size.model(machine.device, heads).train()
    if lora:
        Lora().put_on(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if compiled:
        compile_blocks(model)
    return model


def compile_blocks(model: Any) -> None:
    """Let torch compile every block, the extra heads too; they are alike, so it does so once."""
    for layer in (*model.decoder_layers, *model.extra_heads):
        layer.compile()


def step_of(machine: Machine, size: Size, model: Any, optimizer: Optimizer, algo_class: type = Baseline) -> Step:
    """Return what takes one optimizer step of a model, in autocast where its weights are float32."""
    reference = {"reference": Scored(), "weighting": SoftWeighting()} if issubclass(algo_class, Rho1) else {}
    algo = algo_class(model=model, optimizer=adamw, **reference)
    algo.trainer = Lightning(accelerator="cpu", logger=False, enable_checkpointing=False)  # only asked for its counts
    algo.log = algo.log_dict = lambda *_, **__: None
    batch = {k: v.to(machine.device) if torch.is_tensor(v) else v for k, v in size.batch().items()}
    if not reference:
        del batch["reference_nll_BT"]
    autocast = not machine.cpu and model.dtype == torch.float32

    def step() -> None:
        with torch.autocast(machine.device, torch.bfloat16, enabled=autocast):
            loss = algo.training_step(batch, 0)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        algo.last_step.clear()  # as `Baseline.optimizer_step`: the next forward pass needs the room

    return step


def stepper(machine: Machine, size: Size, algo_class: type = Baseline, heads: int | None = None, **how: Any) -> Step:
    """Build a model with its optimizer, and return what takes one optimizer step."""
    model = build_model(machine, size, heads, **how)
    return step_of(machine, size, model, adamw(model), algo_class)


def peak_of_steps(machine: Machine, make: Callable[[], Step]) -> float:
    """Return the peak memory of a model and its first steps."""

    def work() -> None:
        step = make()
        for _ in range(WARM_UP):
            step()

    return machine.peak(work)


def take_turns(machine: Machine, makes: list[Callable[[], Step]], steps: int) -> list[list[float]]:
    """Return the seconds of each step of each arm; the arms take turns, and turns at being first."""
    arms = [make() for make in makes]
    seconds: list[list[float]] = [[] for _ in arms]
    for i in range(WARM_UP + steps):
        for place in range(len(arms)):
            arm = (i + place) % len(arms)
            started = machine.clock()
            arms[arm]()
            seconds[arm].append(machine.clock() - started)
    return [taken[WARM_UP:] for taken in seconds]


def print_group(title: str, names: list[str], peaks: list[float | None], seconds: list[list[float] | None]) -> None:
    """Print the rows of a group, each against its first."""
    print(f"\n{title}")
    for name, peak, taken in zip(names, peaks, seconds, strict=True):
        memory = ("", "") if peak is None else (f"{peak:.0f}", f"{peak / peaks[0]:.3f}" if peaks[0] else "")
        clock = ("", "")
        if taken is not None:
            ratio = statistics.median(a / b for a, b in zip(taken, seconds[0], strict=True))
            clock = (f"{statistics.median(taken):.4f}", f"{ratio:.3f}")
        print(f"  {name:52} {memory[0]:>8} {memory[1]:>7} {clock[0]:>9} {clock[1]:>7}", flush=True)


def compare(machine: Machine, title: str, arms: dict[str, Callable[[], Step]], steps: int) -> None:
    """Measure and print a group of arms."""
    peaks = [machine.apart(peak_of_steps, machine, make) for make in arms.values()]
    seconds = machine.apart(take_turns, machine, list(arms.values()), steps)
    print_group(title, list(arms), peaks, seconds)


# The head losses alone.


def loss_megabytes(machine: Machine, naive: bool, heads: int, rows: int, width: int, vocabulary: int) -> float:
    """Return what the loss needs beyond the hidden states, the unembedding and the gradients of both."""
    labels_BT = torch.randint(vocabulary, (1, rows), device=machine.device)
    weight_BT = 0.5 + torch.rand(1, rows, device=machine.device)
    hidden = [torch.randn(1, rows, width, device=machine.device).requires_grad_() for _ in range(heads)]
    unembedding_VD = torch.randn(vocabulary, width, device=machine.device).requires_grad_()

    def work() -> None:
        if naive:
            loss = explicit_loss(hidden, unembedding_VD, labels_BT, rows).loss
        else:
            loss = weighted_mtp_loss(hidden, unembedding_VD, labels_BT, weight_BT, rows).loss
        loss.backward()

    peak = machine.peak(work)
    return peak - sum(leaf.grad.nbytes for leaf in (*hidden, unembedding_VD)) / MEGABYTE


def compare_losses(machine: Machine, scale: Scale) -> None:
    """Print the memory of the head losses by the number of heads."""
    most = scale.heads[-1]
    for vocabulary in scale.losses:
        names, peaks = [], []
        for naive, heads in ((False, 1), (False, most), (True, 1), (True, most)):
            names.append(f"H = {heads}, {'naive logits' if naive else 'ours'}")
            shape = (scale.loss_rows, scale.loss_width, vocabulary)
            peaks.append(machine.apart(loss_megabytes, machine, naive, heads, *shape))
        title = f"Head losses alone, beyond hidden states and gradients: V = {vocabulary}, {scale.loss_rows} rows"
        print_group(f"{title}; ours", names[:2], peaks[:2], [None, None])
        print_group(f"{title}; naive", names[2:], peaks[2:], [None, None])


# Whole trainers: nobody can stop them between two steps, so they take turns by the run.


class Ticks:
    """Note the clock after every step."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.ticks = machine, []

    def tick(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ticks.append(self.machine.clock())

    @property
    def seconds(self) -> list[float]:
        """Return the seconds of the counted steps."""
        return [after - before for before, after in itertools.pairwise(self.ticks)][WARM_UP - 1 :]


class LightningTicks(Ticks, Callback):
    """Tick in Lightning."""

    on_train_batch_end = Ticks.tick


class HuggingFaceTicks(Ticks, TrainerCallback):
    """Tick in transformers."""

    on_step_end = Ticks.tick


def ours(machine: Machine, size: Size, steps: int, **how: Any) -> list[float]:
    """Train through Lightning and our module."""
    ticks = LightningTicks(machine)
    fit(machine, size, steps, callbacks=[ticks], **how)
    return ticks.seconds


def fit(machine: Machine, size: Size, steps: int, algo: LightningModule | None = None, **how: Any) -> LightningModule:
    """Train a module through Lightning as a run does, uniform weights unless told otherwise; return it."""
    usual = dict(
        accelerator="cpu" if machine.cpu else "gpu",
        devices=1,
        precision=machine.precision,
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    algo = algo or Baseline(size.model(machine.device), adamw, warmup=0.0)
    Lightning(**(usual | how)).fit(algo.train(), size.data(steps))
    return algo


def theirs(machine: Machine, size: Size, steps: int) -> list[float]:
    """Train through transformers' Trainer as it comes, on the same sequences."""
    batch, ticks = size.batch(), HuggingFaceTicks(machine)
    rows = [
        {"input_ids": ids_T, "attention_mask": torch.ones_like(ids_T), "labels": labels_T}
        for ids_T, labels_T in zip(batch["input_ids_BT"], batch["labels_BT"], strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=size.rows,
            max_steps=steps,
            learning_rate=3e-4,
            weight_decay=0.1,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            bf16=not machine.cpu,
            use_cpu=machine.cpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # one GPU, as ours
        model = size.model(machine.device, base=LlamaForCausalLM)
        trainer = HuggingFace(model, arguments, train_dataset=rows * steps, callbacks=[ticks])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return ticks.seconds


def compare_trainers(machine: Machine, scale: Scale) -> None:
    """Print our step against the step of transformers' Trainer at H = 1."""
    for size, kind in ((replace(scale.deep, heads=1), "deep"), (replace(scale.wide, heads=1), "wide")):
        steps = WARM_UP + max(scale.steps // 2, 1)
        arms = {"transformers' Trainer": theirs, "ours: Lightning and wmtp": ours}
        peaks = [machine.apart(peak_of_run, machine, run, size) for run in arms.values()]
        seconds: list[list[float]] = [[], []]
        for number in range(scale.rounds):
            for arm in (0, 1) if number % 2 == 0 else (1, 0):
                seconds[arm] += machine.apart(list(arms.values())[arm], machine, size, steps)
        print_group(f"H = 1, the {kind} model, whole trainers", list(arms), peaks, seconds)


def peak_of_run(machine: Machine, run: Callable[..., Any], size: Size) -> float:
    """Return the peak memory of a short run."""
    return machine.peak(partial(run, machine, size, WARM_UP + 1))


def utilisation(machine: Machine, scale: Scale) -> None:
    """Print the share of the GPU's peak that a step reaches, in a bare loop and sharded through Lightning."""
    title = f"Model FLOPs utilisation, {scale.deep.heads} heads, bf16"
    if machine.cpu:
        print(f"\n{title}\n  not measured: no GPU")
        return
    from wmtp.checkpoints.strategy import ShardedStrategy

    best, size = peak_flops(torch.cuda.get_device_name()), scale.deep
    (bare,) = machine.apart(take_turns, machine, [partial(stepper, machine, size)], scale.steps)
    sharded = machine.apart(partial(ours, strategy=ShardedStrategy()), machine, size, WARM_UP + scale.steps)
    print(f"\n{title}")
    for row, taken in (("bare loop", bare), ("trainer=fsdp", sharded)):
        seconds = statistics.median(taken)
        share = f"{size.flops() / seconds / best:.1%}" if best else "peak unknown"
        print(f"  {row:52} {size.tokens / seconds:10.0f} tokens/s {size.flops() / seconds / 1e12:8.1f} TFLOP/s {share}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="smallest sizes: that it runs, not what it says")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="counted steps of each row")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks as well (a minute to compile)")
    arguments = parser.parse_args()
    quiet()
    quiet_libraries()
    machine = Machine(arguments.device)
    scale = TOY if arguments.toy else CPU if machine.cpu else GPU
    if arguments.steps:
        scale = replace(scale, steps=arguments.steps)
    if machine.cpu:
        torch.set_num_threads(1)
    name = "CPU, one thread" if machine.cpu else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}; {machine.precision}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()}")
    for label, size in (("wide", scale.wide), ("deep", scale.deep)):
        millions = sum(p.numel() for p in size.model("meta").parameters()) / 1e6
        shape = f"{size.layers} layers of {size.width}, V = {size.vocabulary}, {size.heads} heads"
        print(f"{label}: {millions:.1f}M parameters, {shape}, {size.rows} x {size.length} tokens")
    print(f"  {'':52} {'peak MB':>8} {'×':>7} {'s a step':>9} {'×':>7}")

    compare_losses(machine, scale)
    for heads in scale.heads:
        arms = {
            f"H = {heads}, naive logits": partial(stepper, machine, scale.wide, Naive, heads),
            f"H = {heads}, ours": partial(stepper, machine, scale.wide, Baseline, heads),
        }
        compare(machine, f"A step, the wide model, H = {heads}", arms, scale.steps)
    deep = partial(stepper, machine, scale.deep)
    arms = {
        "uniform weights, all parameters": deep,
        "rho1, cached reference": partial(deep, Rho1),
        "LoRA, r = 16": partial(deep, lora=True),
        "activation checkpointing": partial(deep, checkpointing=True),
        "LoRA and activation checkpointing": partial(deep, lora=True, checkpointing=True),
    }
    compare(machine, "A step, the deep model", arms, scale.steps)
    compare_trainers(machine, scale)
    utilisation(machine, scale)
    if arguments.compile:  # here and last: a compiler does not survive a fork
        names = ["as it is", "torch.compile of the blocks"]
        seconds = take_turns(machine, [deep, partial(deep, compiled=True)], scale.steps)
        print_group("A step, the deep model, compiled", names, [None, None], seconds)


if __name__ == "__main__":
    main()
