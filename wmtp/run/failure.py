"""Say what went wrong in a run, and what to do next, so that it can be read the morning after.

[연구 맥락] 밤에 죽은 학습의 까닭이 화면에만 있으면 아침에는 없다. 실행 폴더와 MLflow에 함께 남긴다.
[동작] 예외 하나를 종류(kind)로 나누고, 까닭, 스텝, 환경, 스택을 평범한 글로 적는다. 비밀은 적기 전에 가린다.
    글만 남기고 예외를 놓아주므로, 스택이 붙들던 텐서의 메모리가 풀린다.
[디버깅] 0번 랭크는 failure.json, R번은 failure-rankR.json을 쓴다. 상대가 먼저 죽었다는 오류라면 다른 파일을 본다.
"""

import errno
import json
import os
import platform
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from wmtp.errors import LossExplosionError, NonFiniteError, NonFiniteScoreError, WmtpError, chain
from wmtp.secrets import mask_secrets
from wmtp.storage.files import write_atomically

# What each kind of failure means, and what a person can do about it.
WORDS = {
    "non_finite": (
        "A NaN or Inf came up while training. The step was not taken, so the weights are those from before it.",
        "Look at the tensor and the batch in the recipe and repeat the step from there; the cause says what to try.",
    ),
    "loss_explosion": (
        "The loss left the range that it had been in. The step was not taken, but those before it had gone wrong.",
        "Lower optimizer.lr, lengthen algo.warmup, or allow such steps with callbacks.loss_explosion.factor.",
    ),
    "out_of_memory": (
        "The device or the machine ran out of memory.",
        "Compute batches in more pieces (data.pieces and trainer.accumulate_grad_batches, both times 2), or lower "
        "data.token_budget.",
    ),
    "disk_full": (
        "A file could not be written: no space is left, or a limit on files was reached. The checkpoints are whole.",
        "Free some space and go on with ckpt=last.",
    ),
    "mistake": ("Something that the run was given cannot work.", "The sentence above says which key and the way out."),
    "crash": (
        "The program ended in a way that wmtp does not know.",
        "Read the stack; go on with ckpt=last once its cause is gone.",
    ),
}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "cublas_status_alloc_failed")
_NO_SPACE = ("no space left on device", "file write failed", "disk quota exceeded", "file too large")


@dataclass(frozen=True)
class Failure:
    """Hold what is known of a failure, as plain text.

    Attributes:
        kind: `WORDS`의 키.
        cause: 예외의 이름과 문장.
        step: 그때까지 밟은 스텝의 수. 학습 전이면 None.
        rank: 실패한 랭크.
        world_size: 랭크의 수.
        stack: 추적(traceback).
        recipe: 되풀이할 배치가 있는 폴더. 없으면 None.
        time: 언제.
        environment: 판(version)과 장치.
    """

    kind: str
    cause: str
    step: int | None
    rank: int
    world_size: int
    stack: str
    recipe: str | None = None
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %z"))
    environment: dict[str, Any] = field(default_factory=lambda: environment())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, with what it means and what a person can do."""
        what_went_wrong, next_action = WORDS[self.kind]
        return {**asdict(self), "what_went_wrong": what_went_wrong, "next_action": next_action}


def describe(error: BaseException, step: int | None = None, rank: int = 0, world_size: int = 1) -> Failure:
    """Describe an exception, secrets masked."""
    text = str(error).strip() or repr(error)
    stack = "".join(traceback.format_exception(error))
    recipe = next((one.recipe for one in chain(error) if isinstance(one, NonFiniteError)), None)
    cause = mask_secrets(f"{type(error).__name__}: {text}")[:2000]
    return Failure(kind_of(error), cause, step, rank, world_size, mask_secrets(stack)[-20_000:], recipe)


def kind_of(error: BaseException) -> str:
    """Sort an exception, or what it came from, into one of the kinds.

    Example:
        >>> kind_of(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
        'out_of_memory'
        >>> kind_of(OSError(28, "No space left on device"))
        'disk_full'
        >>> kind_of(KeyError("x"))
        'crash'
    """
    for one in chain(error):
        if isinstance(one, (NonFiniteError, NonFiniteScoreError)):
            return "non_finite"
        if isinstance(one, LossExplosionError):
            return "loss_explosion"
        text = str(one).lower() if isinstance(one, RuntimeError | SafetensorError) else ""
        if isinstance(one, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in _NO_MEMORY):
            return "out_of_memory"
        if (isinstance(one, OSError) and one.errno in _FULL) or any(words in text for words in _NO_SPACE):
            return "disk_full"
        if isinstance(one, WmtpError):
            return "mistake"
    return "crash"


def environment() -> dict[str, Any]:
    """Name what the run ran on: versions and devices, no addresses and no variables that could hold a secret."""
    import pytorch_lightning
    import transformers

    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "pytorch_lightning": pytorch_lightning.__version__,
        "transformers": transformers.__version__,
        "cpus": os.cpu_count(),
        "command": mask_secrets(" ".join(sys.argv)),
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory"] = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return found


def write_failure(run: Path, failure: Failure) -> Path | None:
    """Write failure.json; None where even that cannot be written (a full disk must not hide its own cause)."""
    file = run / ("failure.json" if failure.rank == 0 else f"failure-rank{failure.rank}.json")
    try:
        write_json(file, failure.to_dict())
    except OSError as error:
        print(f"warning: {file} cannot be written ({error.strerror}).", file=sys.stderr)
        return None
    return file


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(file, json.dumps(content, indent=1, ensure_ascii=False).encode())
