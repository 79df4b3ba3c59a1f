"""Hold the rows of scripts/bench/gpu: each a function that yields lines, correctness first, then speed.

[동작] 모델 FLOPs 이용률(MFU)의 식은 wmtp/models/flops.py에 있다. 토큰마다 6·N, 토큰 짝마다 12·L·A, 예측마다 6·D·V를
    세고, 장치의 밀집 bf16 최고 속도(H100, H200은 989 TFLOP/s)로 나눈다. 시간은 CUDA 이벤트로 스텝마다 재어 중앙값을
    쓴다. 처음 몇 스텝은 세지 않는다. ×는 같은 줄 묶음의 첫 줄(메모에 적은 상대)에 대한 시간의 비율이다.
[디버깅] 메모리가 모자라면 행을 반으로 줄여 다시 잰다. 줄 이름에 적힌 행 수를 보라.
"""

#   B sequences, T positions, H heads, D width, V vocabulary, N rows of one head

import gc
import importlib.util
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from scripts.bench.gpu import Line
from scripts.bench.scale import Machine, Size, build_model, explicit_loss, fit, step_of, theirs
from wmtp.algos.baseline import Baseline
from wmtp.algos.optimizers import adamw
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks.throughput import Throughput
from wmtp.callbacks.weight_statistics import WeightStatistics
from wmtp.checkpoints.strategy import ShardedStrategy
from wmtp.cli import quiet, quiet_libraries
from wmtp.maths.alignment import IGNORE, shift_left, target_mask
from wmtp.maths.loss import weighted_mtp_loss
from wmtp.maths.weighting import HardSelection, SoftWeighting
from wmtp.models.flops import peak_flops
from wmtp.models.generation import generate
from wmtp.models.loading import find_model
from wmtp.models.sampling import Request, Sampling, acceptance
from wmtp.models.tokenizer import load_tokenizer
from wmtp.run.memory_profile import PHASES, CudaMeter, HostMeter, PhaseMeter

GIGABYTE = 2**30
WARM_UP = 3  # steps that allocate and choose kernels; not counted


class Bench:
    """Hold the machine and the sizes of the rows."""

    def __init__(self, toy: bool) -> None:
        quiet()
        quiet_libraries()
        self.toy, self.environment = toy, dict(os.environ)
        self.seconds_per_token: float | None = None  # of the big model in bf16-mixed, once measured
        self.machine = Machine("cpu" if toy else "cuda")
        self.cpu = self.machine.cpu
        self.device = self.machine.device
        if self.cpu:
            torch.set_num_threads(1)
        # About 1e9 parameters at 4 heads, in heads of attention as wide as those of the large Llamas.
        self.big = Size(64, 3, 256, 2, 32, 2) if toy else Size(2048, 16, 32_000, 8, 2048, 4, 128)
        self.small = Size(32, 2, 128, 2, 32, 2) if toy else Size(768, 8, 32_000, 8, 512, 4)
        self.steps = 2 if toy else 8  # counted ones
        self.peak = None if self.cpu else peak_flops(torch.cuda.get_device_name())
        name = "CPU, one thread" if self.cpu else torch.cuda.get_device_name()
        parameters = sum(p.numel() for p in self.big.model("meta").parameters()) / 1e9
        shape = f"{self.big.layers} layers of {self.big.width}, V = {self.big.vocabulary}, {self.big.heads} heads"
        self.title = (
            f"{name}; torch {torch.__version__}; the big model: {parameters:.2f}e9 parameters, {shape}, "
            f"{self.big.rows} x {self.big.length} tokens a step; MFU against {(self.peak or 0) / 1e12:.0f} TFLOP/s"
        )

    def clean_up(self) -> None:
        """Give back what a row has left, and fail if the device has failed."""
        if dist.is_initialized():  # of a sharded run; others would take themselves for its ranks
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(self.environment)
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()
        gc.collect()
        if not self.cpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], Any], times: int, warm_up: int = WARM_UP) -> list[float]:
        """Do work over and over; return the seconds of each time but the first ones, without waiting in between."""
        clock = Ticks(self.device)
        for i in range(warm_up + times):
            if i == warm_up:
                clock.tick()
            work()
            if i >= warm_up:
                clock.tick()
        return clock.seconds()

    def peak_gigabytes(self) -> float | None:
        """Return the peak since the last reset; nothing is known of a CPU."""
        return None if self.cpu else torch.cuda.max_memory_allocated() / GIGABYTE

    def reset_peak(self) -> None:
        """Start a new peak."""
        if not self.cpu:
            torch.cuda.reset_peak_memory_stats()

    def line(self, name: str, size: Size, seconds: Sequence[float], model: Any = None, **more: Any) -> Line:
        """Make a line of what a step took."""
        each = statistics.median(seconds)
        mfu = size.flops(model) / each / self.peak if self.peak else None
        return Line(name, tokens=size.tokens / each, mfu=mfu, milliseconds=1e3 * each, **more)

    def fitting(self, work: Callable[[Size], Any], size: Size) -> Any:
        """Do work with as many rows as fit: half of them, where memory is short."""
        while True:
            try:
                return work(size)
            except torch.OutOfMemoryError:
                if size.rows == 1:
                    raise
            size = replace(size, rows=size.rows // 2)
            gc.collect()
            torch.cuda.empty_cache()

    @cached_property
    def float32_losses(self) -> list[float]:
        """Train the small model in float32, the peer of every other precision."""
        return losses_of(self, precision="32-true")


class Ticks(Callback):
    """Note the time of the device after every step, without waiting for it."""

    def __init__(self, device: str) -> None:
        self.cpu, self.ticks = device == "cpu", []

    def tick(self, *_: Any) -> None:
        """Note the time."""
        if self.cpu:
            self.ticks.append(time.perf_counter())
        else:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.ticks.append(event)

    on_train_batch_end = tick

    def seconds(self, skip: int = 0) -> list[float]:
        """Return the seconds between one tick and the next, the first ones skipped."""
        ticks = self.ticks[skip:]
        if not self.cpu:
            torch.cuda.synchronize()
        between = (lambda a, b: b - a) if self.cpu else (lambda a, b: a.elapsed_time(b) / 1e3)
        return [between(a, b) for a, b in itertools.pairwise(ticks)]


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative error of a tensor, by norms, in float64."""
    exact = exact.double().cpu()
    return float((found.detach().double().cpu() - exact).norm() / exact.norm().clamp(min=1e-300))


def failed(name: str, reason: Exception) -> Line:
    """Make a line of what could not be measured."""
    said = str(reason).strip().splitlines() or [""]
    return Line(name, "failed", note=f"{type(reason).__name__}: {said[0]}"[:240])


def judged(name: str, errors: dict[str, float], bounds: dict[str, float], note: str = "") -> Line:
    """Make a line of errors, each within its bound or not."""
    good = all(errors[key] <= bounds[key] for key in errors)  # NaN is not
    said = ", ".join(f"{key} {value:.1e} (≤ {bounds[key]:.0e})" for key, value in errors.items())
    return Line(name, "ok" if good else "WRONG", note=f"{said}{'; ' if note else ''}{note}")


# Correctness.


def device(bench: Bench) -> Iterator[Line]:
    """Measure what the device reaches at best: a large product in bf16, and a copy."""
    edge = 256 if bench.toy else 8192
    a, b = (torch.randn(edge, edge, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    each = statistics.median(bench.seconds(lambda: a @ b, 5 if bench.toy else 30))
    reached = 2 * edge**3 / each
    mfu = reached / bench.peak if bench.peak else None
    yield Line(
        f"bf16 product of {edge} x {edge}", mfu=mfu, milliseconds=1e3 * each, note=f"{reached / 1e12:.1f} TFLOP/s"
    )
    source = torch.empty(2**20 if bench.toy else 2**31, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    each = statistics.median(bench.seconds(lambda: target.copy_(source), 5 if bench.toy else 20))
    note = f"{2 * source.nbytes / each / 1e12:.2f} TB/s, read and written"
    yield Line(f"copy of {source.nbytes / GIGABYTE:.1f} GB", milliseconds=1e3 * each, note=note)


def exact_loss(
    hidden: Sequence[torch.Tensor], unembedding_VD: torch.Tensor, labels_BT: torch.Tensor, weight_BT: torch.Tensor
) -> torch.Tensor:
    """Compute the weighted loss as it is written, from all logits of one head at a time."""
    total = 0.0
    for k, hidden_BTD in enumerate(hidden):
        log_p_NV = (hidden_BTD @ unembedding_VD.T).flatten(0, 1).log_softmax(-1)
        target_N = shift_left(labels_BT, k + 1, IGNORE).flatten()
        weight_N = shift_left(weight_BT, k + 1, 0).flatten().to(log_p_NV.dtype) * (target_N != IGNORE)
        total = total - (weight_N * log_p_NV.gather(1, target_N.clamp(min=0)[:, None])[:, 0]).sum()
    return total / (len(hidden) * target_mask(labels_BT).sum())


def loss_against_float64(bench: Bench) -> Iterator[Line]:
    """Compare the fused loss and its gradients, in every precision, with float64."""
    torch.manual_seed(42)
    heads, rows, length, width, vocabulary = (2, 2, 16, 8, 64) if bench.toy else (4, 4, 256, 512, 32_000)
    hidden = [torch.randn(rows, length, width, device=bench.device) for _ in range(heads)]
    unembedding_VD = torch.randn(vocabulary, width, device=bench.device) / width**0.5
    labels_BT = torch.randint(vocabulary, (rows, length), device=bench.device)
    labels_BT[:, : length // 8] = IGNORE
    weight_BT = 3 * torch.rand(rows, length, device=bench.device)
    targets = int(target_mask(labels_BT).sum())

    def fused(*leaves: torch.Tensor) -> torch.Tensor:
        chunk = targets // 3  # the last one is not full
        return weighted_mtp_loss(
            leaves[1:], leaves[0], labels_BT, weight_BT, targets, targets=targets, chunk_size=chunk
        ).loss

    def exact(*leaves: torch.Tensor) -> torch.Tensor:
        return exact_loss(leaves[1:], leaves[0], labels_BT, weight_BT)

    def gradients(
        loss: Callable[..., torch.Tensor], given: Sequence[torch.Tensor], autocast: bool = False
    ) -> list[torch.Tensor]:
        leaves = [leaf.detach().clone().requires_grad_() for leaf in given]
        with torch.autocast(bench.device, torch.bfloat16, enabled=autocast):
            value = loss(*leaves)
        value.backward()
        return [value.detach(), leaves[0].grad, torch.stack([leaf.grad for leaf in leaves[1:]])]

    names = ("loss", "d unembedding", "d hidden")
    for name, dtype, autocast, eps in (
        ("float64", torch.float64, False, 1e-12),
        ("float32", torch.float32, False, 1e-5),
        ("float32 in bf16 autocast", torch.float32, True, 1e-2),
        ("bfloat16", torch.bfloat16, False, 1e-2),
    ):
        given = [leaf.to(dtype) for leaf in (unembedding_VD, *hidden)]
        # Of the very numbers that it got: their own rounding is no error of the loss.
        truth = gradients(exact, [leaf.double() for leaf in given])
        found = gradients(fused, given, autocast)
        errors = {key: error(value, right) for key, value, right in zip(names, found, truth, strict=True)}
        yield judged(f"loss in {name} against float64", errors, dict(zip(names, (eps, 2 * eps, 2 * eps), strict=True)))


def weights_against_float64(bench: Bench) -> Iterator[Line]:
    """Compare the weights that the device computes with those of the same scores on a CPU in float64."""
    torch.manual_seed(42)
    score_BT = torch.randn(8, 64 if bench.toy else 2048)
    mask_BT = torch.rand(score_BT.shape) < 0.8
    for name, weighting in (
        ("soft, batch", SoftWeighting(percentile=0.4)),
        ("soft, sequence", SoftWeighting(scope="sequence", lam=1.0)),
        ("soft, shuffled", SoftWeighting(control="shuffle")),
        ("hard", HardSelection()),
    ):
        right_BT = weighting(score_BT.double(), mask_BT, draw=7)
        found_BT = weighting(score_BT.to(bench.device), mask_BT.to(bench.device), draw=7)
        mean = abs(float(found_BT.double().sum()) / int(mask_BT.sum()) - 1)
        errors = {"weights": error(found_BT, right_BT), "mean - 1": mean}
        yield judged(f"weights, {name}, against float64", errors, {"weights": 1e-5, "mean - 1": 1e-4})


class Losses(Callback):
    """Keep the loss of every step on the device, and what the scaler of float16 says in the end."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.scale: float | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Note the loss."""
        self.losses.append(pl_module.last_step["loss_display"])
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scale = scaler and scaler.get_scale()


def losses_of(bench: Bench, watch: Losses | None = None, **how: Any) -> list[float]:
    """Train the small model for some steps on the same batch; return the losses."""
    watch = watch or Losses()
    fit(bench.machine, bench.small, 4 if bench.toy else 16, callbacks=[watch], **how)
    return [float(loss) for loss in watch.losses]


def follows(bench: Bench, name: str, losses: list[float], bound: float, note: str = "") -> Line:
    """Make a line of how closely losses follow those of float32; training must have lowered them."""
    right = bench.float32_losses
    far = max(abs(a / b - 1) for a, b in zip(losses, right, strict=True))
    fell = math.isfinite(losses[-1]) and losses[-1] < losses[0]
    line = judged(name, {"losses": far}, {"losses": bound}, f"{losses[0]:.3f} → {losses[-1]:.3f}{note}")
    return line if fell else replace(line, verdict="WRONG")


def precisions(bench: Bench) -> Iterator[Line]:
    """Train in bf16 and in float16 with its scaler, through Lightning; the losses must follow those of float32."""
    yield follows(bench, "training in bf16-mixed against float32", losses_of(bench, precision="bf16-mixed"), 2e-2)
    watch = Losses()
    losses = losses_of(bench, watch, precision="16-mixed")
    note = "" if watch.scale is None else f"; the scaler ends at {watch.scale:.0f}"
    # A step that overflows is skipped and the scale halved: the losses come later, so the last is held, not each.
    first, fell = abs(losses[0] / bench.float32_losses[0] - 1), losses[-1] < losses[0]
    note = f"{losses[0]:.3f} → {losses[-1]:.3f}{note}"
    line = judged("training in 16-mixed against float32", {"first loss": first}, {"first loss": 1e-2}, note)
    yield line if fell and (watch.scale is None or watch.scale > 1) else replace(line, verdict="WRONG")


def sharded(bench: Bench) -> Iterator[Line]:
    """Train through FSDP2 on one rank."""
    for name, bound, precision, more in (
        ("trainer=fsdp, 32-true, one rank", 1e-3, "32-true", {}),
        ("trainer=fsdp, bf16-mixed, one rank", 2e-2, "bf16-mixed", {}),
        ("trainer=fsdp, bf16-mixed, offloaded", 2e-2, "bf16-mixed", {"cpu_offload": True}),
    ):
        bench.clean_up()  # each makes the group of ranks that it needs
        strategy = ShardedStrategy(precision=precision, **more)
        backend = "gloo" if bench.cpu else "nccl"
        losses = losses_of(bench, precision=precision, strategy=strategy)
        yield follows(bench, name, losses, bound, f"; {backend}")


def attentions(bench: Bench) -> Iterator[Line]:
    """Compare every implementation of attention, in bf16, with the written-out one in float32."""
    size = replace(bench.small, rows=2)
    ids_BT = size.batch()["input_ids_BT"].to(bench.device)

    def run(model: Any, backend: SDPBackend | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with sdpa_kernel(backend) if backend else nullcontext():
            hidden = torch.stack(model.mtp(ids_BT).hidden)
            (hidden.float() * probe.reshape(hidden.shape[-1])).sum().backward()
        return hidden.detach(), model.decoder_layers[0].self_attn.q_proj.weight.grad.clone()

    probe = torch.randn(size.width, device=bench.device)
    model = size.model(bench.device)
    model.set_attn_implementation("eager")
    right = run(model)
    ways: list[tuple[str, str, torch.dtype, SDPBackend | None]] = [("sdpa in float32", "sdpa", torch.float32, None)]
    model_bf16 = size.model(bench.device).to(torch.bfloat16)
    model_bf16.set_attn_implementation("eager")
    floor = [error(a, b) for a, b in zip(run(model_bf16), right, strict=True)]
    if bench.cpu:
        ways.append(("sdpa in bf16", "sdpa", torch.bfloat16, None))
    else:
        ways += [
            ("sdpa, as torch chooses", "sdpa", torch.bfloat16, None),
            ("sdpa, flash", "sdpa", torch.bfloat16, SDPBackend.FLASH_ATTENTION),
            ("sdpa, cuDNN", "sdpa", torch.bfloat16, SDPBackend.CUDNN_ATTENTION),
            ("sdpa, memory-efficient", "sdpa", torch.bfloat16, SDPBackend.EFFICIENT_ATTENTION),
            ("flex_attention", "flex_attention", torch.bfloat16, None),
        ]
        if importlib.util.find_spec("flash_attn"):
            ways.append(("flash_attention_2", "flash_attention_2", torch.bfloat16, None))
    for name, implementation, dtype, backend in ways:
        one = model if dtype == torch.float32 else model_bf16
        try:
            one.set_attn_implementation(implementation)
            errors = [error(a, b) for a, b in zip(run(one, backend), right, strict=True)]
        except (ImportError, RuntimeError, ValueError) as reason:
            yield failed(f"attention: {name}", reason)
            continue
        # Half as far again from the truth as the written-out one in the same precision.
        bounds = (1e-4, 1e-3) if dtype == torch.float32 else [1.5 * each for each in floor]
        keys = ("hidden", "d q_proj")
        yield judged(f"attention: {name}", dict(zip(keys, errors, strict=True)), dict(zip(keys, bounds, strict=True)))


# Speed.


def timed(bench: Bench, size: Size, model: Any, algos: Sequence[type] = (Baseline,)) -> list[tuple[list[float], float]]:
    """Return the seconds of the steps and the peak, of each algorithm on the same model."""
    optimizer, found = adamw(model), []
    for algo in algos:
        step = step_of(bench.machine, size, model, optimizer, algo)
        bench.reset_peak()
        found.append((bench.seconds(step, bench.steps), bench.peak_gigabytes()))
    return found


def mixed(bench: Bench) -> Iterator[Line]:
    """Measure a step of the big model in bf16-mixed, uniform and weighted."""

    def work(size: Size) -> list[Line]:
        model = build_model(bench.machine, size)
        (uniform, peak), (weighted, other), (again, _) = timed(bench, size, model, (Baseline, Rho1, Baseline))
        each = statistics.median([*uniform, *again])
        bench.seconds_per_token = each / size.tokens
        name, note = f"bf16-mixed, {size.rows} x {size.length}", "× against uniform, measured before and after it"
        ratio = statistics.median(weighted) / each
        return [
            bench.line(f"{name}, uniform", size, [each], gigabytes=peak, ratio=1.0),
            bench.line(f"{name}, rho1 weights", size, weighted, gigabytes=other, ratio=ratio, note=note),
        ]

    yield from bench.fitting(work, bench.big)


def other_step(bench: Bench, name: str, dtype: torch.dtype, compiled: bool = False) -> Iterator[Line]:
    """Measure a step of the big model, against the one in bf16-mixed as it is."""
    if compiled and bench.cpu:
        yield Line(name, note="not measured: no GPU")
        return

    def work(size: Size) -> Line:
        model = build_model(bench.machine, size, compiled=compiled).to(dtype)
        started = time.monotonic()
        ((seconds, peak),) = timed(bench, size, model)
        note = f"{time.monotonic() - started:.0f} s with compiling" if compiled else ""
        peer = bench.seconds_per_token
        return bench.line(
            f"{name}, {size.rows} x {size.length}", size, seconds, gigabytes=peak,
            ratio=statistics.median(seconds) / size.tokens / peer if peer else None, note=note,
        )  # fmt: skip

    yield bench.fitting(work, bench.big)


def mixed_compiled(bench: Bench) -> Iterator[Line]:
    """Measure the compiled step over float32 weights."""
    yield from other_step(bench, "bf16-mixed, blocks compiled", torch.float32, compiled=True)


def bf16_weights(bench: Bench) -> Iterator[Line]:
    """Measure the step over bf16 weights."""
    yield from other_step(bench, "bf16-true", torch.bfloat16)


def bf16_compiled(bench: Bench) -> Iterator[Line]:
    """Measure the compiled step over bf16 weights."""
    yield from other_step(bench, "bf16-true, blocks compiled", torch.bfloat16, compiled=True)


def heads(bench: Bench) -> Iterator[Line]:
    """Measure the peak of every phase of a step, and its time, by the number of heads, through Lightning."""
    first = None
    for count in (1, 2) if bench.toy else (1, 2, 4, 8):
        size = replace(bench.big, heads=count, rows=max(bench.big.rows // 2, 1))
        meter = HostMeter() if bench.cpu else CudaMeter()
        phases, ticks = PhaseMeter(meter, lambda: False), Ticks(bench.device)
        with meter:
            algo = Baseline(size.model(bench.device), adamw, warmup=0.0)
            steps = 2 * (-(-(WARM_UP + bench.steps) // 2))
            fit(bench.machine, size, steps, algo, callbacks=[phases, ticks])
        peaks = {phase: max(row[phase] for _, row in phases.rows[1:]) / GIGABYTE for phase in PHASES}
        seconds = ticks.seconds(WARM_UP)
        first = first or statistics.median(seconds)
        note = "GB by phase: " + ", ".join(f"{phase} {peaks[phase]:.2f}" for phase in PHASES)
        yield bench.line(
            f"H = {count}, {size.rows} x {size.length}, through Lightning", size, seconds, algo.model,
            gigabytes=max(peaks.values()), ratio=statistics.median(seconds) / first, note=note,
        )  # fmt: skip
        del algo, phases
        bench.clean_up()


class LossAlone:
    """Hold the hidden states, the output matrix and the labels of a large step, and ways to its loss."""

    def __init__(self, bench: Bench, vocabulary: int) -> None:
        torch.manual_seed(42)
        size = bench.big
        self.bench, self.vocabulary, self.heads, self.width = bench, vocabulary, size.heads, size.width
        self.hidden = [
            torch.randn(size.rows, size.length, size.width, device=bench.device, dtype=torch.bfloat16).requires_grad_()
            for _ in range(size.heads)
        ]
        unembedding_VD = torch.randn(vocabulary, size.width, device=bench.device) / size.width**0.5
        self.unembedding_VD = unembedding_VD.requires_grad_()
        self.labels_BT = torch.randint(vocabulary, (size.rows, size.length), device=bench.device)
        self.targets = size.rows * (size.length - 1)

    def chunked(self, chunk: int) -> torch.Tensor:
        """Compute it as we do."""
        return weighted_mtp_loss(
            self.hidden, self.unembedding_VD, self.labels_BT, None, self.targets,
            targets=self.targets, chunk_size=chunk,
        ).loss  # fmt: skip

    def naive(self) -> torch.Tensor:
        """Compute it from the logits of all heads."""
        return explicit_loss(self.hidden, self.unembedding_VD, self.labels_BT, self.targets).loss

    def liger(self) -> torch.Tensor:
        """Compute it by liger's fused kernel, a head at a time."""
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="sum", accum_dtype=torch.float32)
        return sum(
            fused(self.unembedding_VD, h.flatten(0, 1), shift_left(self.labels_BT, k + 1, IGNORE).flatten())
            for k, h in enumerate(self.hidden)
        )

    def line(self, how: str, loss: Callable[[], torch.Tensor], peer: float | None) -> Line:
        """Measure forward and backward in bf16 autocast."""
        bench = self.bench

        def work() -> None:
            with torch.autocast(bench.device, torch.bfloat16):
                value = loss()
            value.backward()
            for leaf in (*self.hidden, self.unembedding_VD):
                leaf.grad = None

        held = 0.0 if bench.cpu else torch.cuda.memory_allocated() / GIGABYTE
        bench.reset_peak()
        each = statistics.median(bench.seconds(work, 2 if bench.toy else 5, warm_up=2))
        flops = 6 * self.width * self.vocabulary * self.heads * self.targets
        return Line(
            f"loss alone, {self.heads} heads, V = {self.vocabulary}, {how}",
            tokens=self.labels_BT.numel() / each,
            mfu=flops / each / bench.peak if bench.peak else None,
            milliseconds=1e3 * each,
            gigabytes=None if bench.cpu else bench.peak_gigabytes() - held,
            ratio=1e3 * each / peer if peer else 1.0,
        )


def loss_chunks(bench: Bench) -> Iterator[Line]:
    """Measure the loss alone, forward and backward, by the rows of logits that it makes at a time."""
    for vocabulary in (64,) if bench.toy else (32_000, 128_256):
        alone, peer = LossAlone(bench, vocabulary), None
        for chunk in (16, 32) if bench.toy else (512, 1024, 2048, 4096, 8192, 16384):
            line = alone.line(f"chunks of {chunk}", partial(alone.chunked, chunk), peer)
            peer = peer or line.milliseconds
            yield line
        others = {"naive logits": alone.naive}
        if not bench.cpu and importlib.util.find_spec("liger_kernel"):
            others["liger's fused kernel"] = alone.liger
        for name, loss in others.items():
            try:
                yield alone.line(name, loss, peer)
            except Exception as reason:  # out of memory, or whatever a compiler of kernels says
                yield failed(f"loss alone, {alone.heads} heads, V = {vocabulary}, {name}", reason)
            bench.clean_up()


def host_waits(bench: Bench) -> Iterator[Line]:
    """Count how often the host waits for the device in a step with the callbacks of a run, between logging steps."""
    # A CPU never waits for itself: there it is counted how often a value is read out of a tensor.
    waiting = ("_local_scalar_dense",) if bench.cpu else ("Synchronize", "cudaMemcpy ")

    class Profiler(Callback):
        def __init__(self, first: int, last: int) -> None:
            self.first, self.last, self.counts = first, last, {}

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == self.first:
                activities = [ProfilerActivity.CPU] + ([] if bench.cpu else [ProfilerActivity.CUDA])
                self.profile = profile(activities=activities)
                self.profile.start()
            elif trainer.global_step == self.last:
                self.profile.stop()
                for event in self.profile.key_averages():
                    if any(word in f"{event.key} " for word in waiting):
                        self.counts[event.key] = self.counts.get(event.key, 0) + event.count

    def count(steps: int) -> dict[str, int]:
        watch = Profiler(3, 3 + steps)
        fit(bench.machine, bench.small, 12, callbacks=[Throughput(), WeightStatistics(), watch], log_every_n_steps=100)
        return watch.counts

    few, many = 2, 6  # their difference: what starting and stopping the profiler waits for is in both
    fewer, more = count(few), count(many)
    each = {key: (more[key] - fewer.get(key, 0)) / (many - few) for key in more}
    waits = sum(value for value in each.values())
    said = ", ".join(f"{key} {value:.2f}" for key, value in each.items() if value) or "none"
    verdict = "" if bench.cpu else "ok" if waits == 0 else "WRONG"
    yield Line("host waits a step, through Lightning", verdict, ratio=waits, note=f"{said}; × is their number")


def decoding(bench: Bench) -> Iterator[Line]:
    """Measure tokens a second, ordinary and speculative, against transformers' generate."""
    size, new = bench.big, 8 if bench.toy else 96
    tokenizer = load_tokenizer(find_model("asset:tiny-base"))
    size = replace(size, vocabulary=512)
    model = size.model(bench.device).eval()
    # Every token says itself again, by far, and every head agrees: the most that drafts can bring.
    with torch.no_grad():
        model.unembedding_VD.mul_(50)
    model = model.to(torch.float32 if bench.cpu else torch.bfloat16)
    prompt = "def f(x):\n    return x" * (1 if bench.toy else 12)
    ids_1T = torch.tensor(tokenizer([prompt]).input_ids, device=bench.device)
    for batch in (1, 16):
        speed = {}
        for name in ("ordinary", "speculative", "auto"):
            settings = dict(temperature=0.0, top_p=1.0, max_new_tokens=new, batch_size=batch, decoding=name)
            requests = [Request(str(i), prompt) for i in range(batch)]

            def work(settings: dict = settings, requests: list = requests) -> list:
                return [done for _, done in generate(model, tokenizer, requests, Sampling(**settings))]

            work()
            bench.reset_peak()
            started = bench.machine.clock()
            done = work()
            seconds = bench.machine.clock() - started
            speed[name] = sum(len(each.tokens) for each in done) / seconds
            rates = ", ".join(f"{rate:.2f}" for rate in acceptance(done)) if any(c.blocks for c in done) else ""
            ties = sum(each.near_ties for each in done)
            note = f"accepted {rates}; " if rates else ""
            yield Line(
                f"decoding, batch {batch}, {name}", tokens=speed[name], gigabytes=bench.peak_gigabytes(),
                ratio=speed[name] / speed["ordinary"], note=f"{note}{ties} near-ties; × is speed against ordinary",
            )  # fmt: skip
        inputs = dict(input_ids=ids_1T.expand(batch, -1), attention_mask=torch.ones_like(ids_1T.expand(batch, -1)))

        def peer(inputs: dict = inputs) -> int:
            with torch.inference_mode():
                out = model.generate(**inputs, do_sample=False, max_new_tokens=new, min_new_tokens=new, pad_token_id=0)
            return out[:, ids_1T.shape[1] :].numel()

        peer()
        started = bench.machine.clock()
        tokens = peer() / (bench.machine.clock() - started)
        yield Line(
            f"decoding, batch {batch}, transformers' generate", tokens=tokens, ratio=tokens / speed["ordinary"],
            note="× is speed against our ordinary",
        )  # fmt: skip


def lighter(bench: Bench) -> Iterator[Line]:
    """Measure LoRA and activation checkpointing."""
    before = None
    for name, how in (
        ("all parameters", {}),
        ("LoRA, r = 16", {"lora": True}),
        ("activation checkpointing", {"checkpointing": True}),
        ("LoRA and activation checkpointing", {"lora": True, "checkpointing": True}),
    ):
        size = replace(bench.big, rows=max(bench.big.rows // 2, 1))
        model = build_model(bench.machine, size, **how)
        ((seconds, peak),) = timed(bench, size, model)
        each = statistics.median(seconds)
        before = before or each
        yield bench.line(
            f"bf16-mixed, {size.rows} x {size.length}, {name}",
            size,
            seconds,
            model,
            gigabytes=peak,
            ratio=each / before,
        )
        del model
        bench.clean_up()


def through_lightning(bench: Bench, name: str, size: Size, peer: float | None = None, **how: Any) -> Line:
    """Measure the steps of a whole run, without waiting after any of them."""
    ticks = Ticks(bench.device)
    bench.reset_peak()
    algo = Baseline(size.model(bench.device), adamw, warmup=0.0)
    fit(bench.machine, size, WARM_UP + bench.steps + 1, algo, callbacks=[ticks], **how)
    seconds, peak = ticks.seconds(WARM_UP), bench.peak_gigabytes()
    each = statistics.median(seconds)
    return bench.line(
        f"{name}, {size.rows} x {size.length}", size, seconds, gigabytes=peak, ratio=each / (peer or each)
    )


def sharded_speed(bench: Bench) -> Iterator[Line]:
    """Measure trainer=fsdp on one rank: bf16 arithmetic throughout over float32 weights."""

    def work(size: Size) -> Line:
        return through_lightning(bench, "trainer=fsdp, bf16-mixed", size, strategy=ShardedStrategy())

    yield bench.fitting(work, bench.big)


def trainers(bench: Bench) -> Iterator[Line]:
    """Measure our whole trainer against transformers' at one head."""
    size = replace(bench.big, heads=1, rows=max(bench.big.rows // 2, 1))
    seconds = theirs(bench.machine, size, WARM_UP + bench.steps)
    peer = statistics.median(seconds)
    yield bench.line(f"H = 1, transformers' Trainer, {size.rows} x {size.length}", size, seconds, ratio=1.0)
    bench.clean_up()
    yield through_lightning(bench, "H = 1, Lightning and wmtp", size, peer)


def liger(bench: Bench) -> Iterator[Line]:
    """Measure a step with liger's kernels for norms, rotations and gates; last, for they stay in place."""
    if bench.cpu or not importlib.util.find_spec("liger_kernel"):
        yield Line("liger's kernels in the blocks", note="not measured: no GPU" if bench.cpu else "not installed")
        return
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(
        rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False
    )
    yield from other_step(bench, "bf16-mixed, liger's kernels", torch.float32)
    yield from other_step(bench, "bf16-true, liger's kernels", torch.bfloat16)
