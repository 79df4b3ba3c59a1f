"""Break a run at a chosen place: callbacks for the tests of recovery, added with `+callbacks.fault._target_=faults.…`.

A fault leaves a mark in a file each time its place is reached, so that it strikes as often as asked over all attempts
of a run, also when they are processes of their own.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import torch
from pytorch_lightning import Callback


class Fault(Callback):
    """Strike when a step is reached, on one rank or on all: `times` times, after letting it pass `skip` times."""

    def __init__(self, marks: str, step: int, times: int = 1, rank: int | None = None, skip: int = 0) -> None:
        self.marks, self.step, self.times, self.rank, self.skip = Path(marks), step, times, rank, skip

    def due(self, trainer) -> bool:
        if trainer.global_step != self.step or self.rank not in (None, trainer.global_rank):
            return False
        file = self.marks.with_name(f"{self.marks.name}-{trainer.global_rank}")
        reached = len(file.read_bytes()) if file.exists() else 0
        if reached >= self.skip + self.times:
            return False
        with file.open("ab") as opened:
            opened.write(b"x")
            os.fsync(opened.fileno())
        return reached >= self.skip


class BadValue(Fault):
    """Put a value into the loss, the scores, the weights or a gradient of a step; or into a parameter after it."""

    def __init__(self, place: str, value: float = float("nan"), **where) -> None:
        super().__init__(**where)
        self.place, self.value = place, value

    def on_train_batch_start(self, trainer, algo, batch, batch_idx) -> None:
        names = {"loss": "_loss", "score": "token_scores", "weight": "weighting"}
        if self.place not in names or not self.due(trainer):
            return
        name = names[self.place]
        right = getattr(algo, name)

        def wrong(*args, **kwargs):
            setattr(algo, name, right)
            answer = right(*args, **kwargs)
            if self.place == "loss":
                return answer._replace(loss=answer.loss * self.value)
            return torch.full_like(answer, self.value)

        setattr(algo, name, wrong)

    def on_after_backward(self, trainer, algo) -> None:
        if self.place == "gradient" and self.due(trainer):
            next(p for p in algo.parameters() if p.grad is not None).grad.view(-1)[7] = self.value

    def on_train_batch_end(self, trainer, algo, *_) -> None:
        if self.place == "parameter" and self.due(trainer):
            with torch.no_grad():
                next(algo.parameters()).view(-1)[7] = self.value


class OutOfMemory(Fault):
    """Run out of memory, in the words of the GPU or of the CPU, before or after the backward pass."""

    WORDS = {
        "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        "python": MemoryError(),
    }

    def __init__(self, words: str = "cuda", hook: str = "on_before_backward", **where) -> None:
        super().__init__(**where)
        self.words = words
        setattr(self, hook, self.strike)

    def strike(self, trainer, *_) -> None:
        if self.due(trainer):
            raise type(self.WORDS[self.words])(*self.WORDS[self.words].args)


class Signal(Fault):
    """Send a signal to this process."""

    def __init__(self, name: str, hook: str = "on_before_backward", **where) -> None:
        super().__init__(**where)
        self.number = signal.Signals[name]
        setattr(self, hook, self.strike)

    def strike(self, trainer, *_) -> None:
        if self.due(trainer):
            os.kill(os.getpid(), self.number)


class Slow(Callback):
    """Let every step take a while, so that there is time to do something to the run."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_) -> None:
        time.sleep(self.seconds)


class RemoveRun(Fault):
    """Delete the run's directory, as somebody does who takes the run for an old one."""

    def __init__(self, run: str, **where) -> None:
        super().__init__(**where)
        self.run = run

    def on_before_backward(self, trainer, *_) -> None:
        if self.due(trainer):
            shutil.rmtree(self.run)


class Crash(Fault):
    """Raise what nobody expects, with a secret in its message."""

    def on_before_backward(self, trainer, *_) -> None:
        if self.due(trainer):
            raise KeyError(f"no such thing, asked with {os.environ['MY_API_TOKEN']}")


class KeepGradient(Callback):
    """Write down the gradient of one step, as it is before clipping."""

    def __init__(self, file: str, step: int) -> None:
        self.file, self.step = file, step

    def on_before_optimizer_step(self, trainer, algo, optimizer) -> None:
        if trainer.global_step == self.step:
            torch.save({name: p.grad.clone() for name, p in algo.named_parameters()}, self.file)


class KillInSave(Callback):
    """Kill this process at the nth checkpoint file, before it or when half of it is written."""

    def __init__(self, times: int, half: bool = False) -> None:
        self.left, self.half = times, half

    def on_save_checkpoint(self, trainer, algo, checkpoint) -> None:
        self.left -= 1
        if self.left == 0 and not self.half:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.left == 0:
            save = torch.save

            def half(content, file) -> None:
                save(content, file)
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)

            torch.save = half
