"""Go on after NaN, an exploded loss or a lack of memory, without a person.

[연구 맥락] 나쁜 배치 하나, 메모리 몇 MB 때문에 밤새 한 학습을 잃지 않는다. 다만 아무것이나 고쳐 보지 않는다:
    NaN/Inf, 손실 폭발   마지막 온전한 체크포인트로 돌아가 학습률 × 0.5, 그다음 작은 배치, 그다음 높은 정밀도
    메모리 부족          조각을 두 배로 나누고 두 배로 쌓는다. 한 스텝의 표본과 M이 그대로이므로 기울기도 같다
[동작] 고친 것은 설정의 키와 값으로 `attempts.json`에 먼저 적고 나서 다시 시작한다. 그래서 회복하다가 꺼져도
    `ckpt=last`가 고친 설정으로 이어 간다. 온전하다는 것은 끝까지 읽히고 모든 텐서가 유한하다는 뜻이다.
    아닌 것은 `.bad`로 이름을 바꾼다.
    여러 랭크가 함께 멈추는 실패(콜백이 함께 정한다)는 그 자리에서 함께 회복한다. 한 랭크만의 실패는 그럴 수 없으므로,
    고칠 것을 적고 requeue_exit_code로 끝내 torchrun이나 스케줄러가 다시 시작하게 한다.
[디버깅] 무엇을 왜 고쳤는지는 attempts.json과 보고서에 있다. 처음 설정으로 되돌리려면 attempts.json을 지운다.
"""

import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from safetensors import safe_open
from torch import Tensor

from wmtp.checkpoints.kinds import is_checkpoint
from wmtp.checkpoints.saved_model import read_checkpoint
from wmtp.errors import CheckpointError, ConfigError, is_whole_number
from wmtp.ranks.meeting import is_first
from wmtp.reporting import write_report
from wmtp.run.failure import Failure, describe, write_failure, write_json
from wmtp.storage.files import swap_in
from wmtp.storage.lock import alone

JOINT = ("non_finite", "loss_explosion")  # the callbacks raise these on all ranks at once
RATE = "callbacks.learning_rate.scale"
# The keys that recovery changes. attempts.json may have come with somebody else's run: no other key is taken from it.
CHANGES = (
    RATE,
    "data.token_budget",
    "data.split",
    *(f"trainer.{key}" for key in ("precision", "accumulate_grad_batches", "val_check_interval")),
)

Attempt = dict[str, Any]


@dataclass(frozen=True)
class Recovery:
    """Decide what to change after a failure.

    Args:
        max_attempts: 한 실행에서 고쳐 볼 횟수. 0이면 고치지 않는다.
        requeue_exit_code: 다시 시작하면 이어 갈 수 있을 때의 종료 코드. 75는 EX_TEMPFAIL.
    """

    max_attempts: int = 3
    requeue_exit_code: int = 75

    def __post_init__(self) -> None:
        for key, value, least, most in (
            ("max_attempts", self.max_attempts, 0, 1000),
            ("requeue_exit_code", self.requeue_exit_code, 1, 255),
        ):
            if not is_whole_number(value, least) or value > most:
                raise ConfigError(f"recovery.{key} = {value!r} must be a whole number from {least} to {most}.")

    def attempts(self, run: Path) -> list[Attempt]:
        """Give what was changed in a run so far."""
        return read_attempts(run)

    def keep_going(
        self,
        attempt: Callable[[DictConfig, Path | None], Any],
        cfg: DictConfig,
        run: Path,
        checkpoint: Path | None,
        *,
        command: Callable[..., str],
        loggers: Iterable[Any] = (),
    ) -> Any:
        """Call `attempt(cfg, checkpoint)` until it returns, each time with what the failures so far changed.

        Args:
            attempt: 한 번의 학습. 콜백을 단 Trainer를 `watched` 안에서 돌린다.
            cfg: 처음 설정.
            run: 실행 디렉터리.
            checkpoint: 처음 시작할 체크포인트, 없으면 None.
            command: 덮어쓸 키를 받아 다시 시작할 명령을 적는 함수.
            loggers: 기록할 로거들.
        """
        start = checkpoint
        put_away_failures(run)
        while True:
            before = read_attempts(run)
            try:
                return attempt(with_changes(cfg, before), checkpoint)
            except Exception as error:
                checkpoint = self._answer(error, with_changes(cfg, before), run, before, start, command, loggers)
            release_memory()  # out of the except block: the stack has let go of the tensors that it held

    def _answer(
        self,
        error: Exception,
        cfg: DictConfig,
        run: Path,
        before: list[Attempt],
        start: Path | None,
        command: Callable[..., str],
        loggers: Iterable[Any],
    ) -> Path | None:
        """Give the checkpoint to go on from after a failure; raise where it cannot go on in this process."""
        where = getattr(error, "where", None)
        if where is None:  # before training: a mistake, which leaves nothing behind
            raise error
        failure = describe(error, where.step, where.rank, where.world_size)
        remedy = self.remedy(failure.kind, cfg, before) if where.training else None
        if remedy and (failure.kind in JOINT or where.world_size == 1):
            # All ranks do what the first one decides: files may look different a moment later.
            checkpoint = where.decide(lambda: go_back(run, failure, remedy, before, start, command))
            if where.rank == 0:
                announce(read_attempts(run)[-1], run, loggers)
            return checkpoint
        if remedy or (where.world_size > 1 and len(read_attempts(run)) > len(before)):
            leave_for_requeue(run, failure, remedy, len(before), where.strategy)
            raise SystemExit(self.requeue_exit_code) from error
        where.decide(lambda: give_up(run, failure, loggers), joint=failure.kind in JOINT)
        raise error

    def remedy(self, kind: str, cfg: DictConfig, before: list[Attempt]) -> tuple[str, dict[str, Any]] | None:
        """Choose the next change: its name and the keys that it sets; None where nothing may or can be done.

        Args:
            kind: 실패의 종류.
            cfg: 지금까지 고친 설정.
            before: 앞선 시도들.
        """
        if len(before) >= self.max_attempts:
            return None
        if kind == "out_of_memory":
            return "smaller pieces", more_pieces(cfg)
        if kind not in JOINT:
            return None
        tried = {attempt["remedy"] for attempt in before}
        for name, change in LADDER.items():
            if name not in tried and (changes := change(cfg)):
                return name, changes
        return ("lower rate", changes) if (changes := lower_rate(cfg)) else None


def lower_rate(cfg: DictConfig) -> dict[str, Any]:
    """Halve every learning rate, where the callback that does it is there."""
    scale = OmegaConf.select(cfg, RATE)
    return {} if scale is None else {RATE: scale / 2}


def smaller_batch(cfg: DictConfig) -> dict[str, Any]:
    """Halve the token budget, where the longest samples still fit into it."""
    half = cfg.data.token_budget // 2
    return {"data.token_budget": half} if half >= cfg.data.max_length else {}


def higher_precision(cfg: DictConfig) -> dict[str, Any]:
    """Compute in float32."""
    return {} if str(cfg.trainer.precision).startswith(("32", "64")) else {"trainer.precision": "32-true"}


def more_pieces(cfg: DictConfig) -> dict[str, Any]:
    """Cut every batch into twice as many pieces and accumulate twice as many: the same step in half the memory."""
    changes = {
        "data.split": 2 * OmegaConf.select(cfg, "data.split", default=1),
        "trainer.accumulate_grad_batches": 2 * cfg.trainer.accumulate_grad_batches,
    }
    interval = OmegaConf.select(cfg, "trainer.val_check_interval")
    if isinstance(interval, int):  # Lightning counts it in pieces
        changes["trainer.val_check_interval"] = 2 * interval
    return changes


LADDER = {"lower rate": lower_rate, "smaller batch": smaller_batch, "higher precision": higher_precision}


def supported_precision(precision: str) -> str:
    """Replace bfloat16 where the GPU lacks it by float16 with a scaler.

    Example:
        >>> supported_precision("32-true")
        '32-true'
    """
    if not str(precision).startswith("bf16") or not torch.cuda.is_available():
        return precision
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return precision
    print(f"trainer.precision = {precision}: this GPU has no bfloat16; going on with 16-mixed.", file=sys.stderr)
    return "16-mixed"


@dataclass(frozen=True)
class Where:
    """Hold where in a run an exception came up."""

    step: int
    rank: int
    world_size: int
    training: bool
    strategy: Any

    def decide(self, action: Callable[[], Any], joint: bool = True) -> Any:
        """Act on the first rank and tell all what came of it; each rank for itself where they are not together."""
        if self.world_size == 1 or not joint:
            return action()
        return self.strategy.broadcast(action() if self.rank == 0 else None)


@contextmanager
def watched(trainer: Trainer) -> Iterator[None]:
    """Attach to an exception where it came up, so that `keep_going` knows."""
    try:
        yield
    except Exception as error:
        training = trainer.interrupted  # inside fit or validate, not in an evaluation by generation
        error.where = Where(trainer.global_step, trainer.global_rank, trainer.world_size, training, trainer.strategy)
        raise


def read_attempts(run: Path) -> list[Attempt]:
    """Read what was tried in a run so far.

    Raises:
        CheckpointError: 파일이 깨졌거나, recovery가 고치지 않는 키나 평범하지 않은 값이 있을 때.
    """
    file = run / "attempts.json"
    if not file.exists():
        return []
    try:
        attempts = json.loads(file.read_text(encoding="utf-8"))
        changes = [change for attempt in attempts for change in attempt["changes"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); remove it to go on with the settings that you give."
        ) from error
    for key, value in changes:
        if key not in CHANGES or not isinstance(value, int | float | str) or "${" in str(value):
            raise CheckpointError(
                f"{file} changes {key} to {value!r}, which wmtp never does; it was not written by wmtp, or not by this "
                "version: remove it to go on with the settings that you give."
            )
    return attempts


def with_changes(cfg: DictConfig, attempts: list[Attempt]) -> DictConfig:
    """Return the config with all that the attempts changed."""
    cfg = cfg.copy()
    for attempt in attempts:
        for key, value in attempt["changes"].items():
            OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


def put_away_failures(run: Path) -> None:
    """Move what an earlier launch of this run ended with: the run is going on."""
    if not is_first():
        return
    for file in run.glob("failure*.json"):
        moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(file.stat().st_mtime))
        (run / "failures").mkdir(exist_ok=True)
        file.rename(run / "failures" / f"{file.stem}-{moment}.json")


def go_back(
    run: Path,
    failure: Failure,
    remedy: tuple[str, dict[str, Any]],
    before: list[Attempt],
    start: Path | None,
    command: Callable[..., str],
) -> Path | None:
    """Find the checkpoint to go on from, and write the attempt down before it begins.

    Returns:
        이어 갈 체크포인트. 온전한 것이 없으면 처음 시작한 것, 그것도 없으면 None (처음부터).
    """
    again = failure.kind == "non_finite" and any(attempt["resumed_step"] == failure.step for attempt in before)
    stuck = again or failure.kind == "loss_explosion"
    # Weights from which the loss explodes at once are finite, and as bad.
    good = good_checkpoint(run / "checkpoints", failure.step if stuck else None)
    replay = None
    if failure.recipe:
        folder = Path(failure.recipe)
        if good:
            replace_by_link(good[0], folder / "checkpoints" / "last.ckpt")
        origin = [f"ckpt={folder}"] if good else ["ckpt=null", f"name={run.name}-replay"]
        changes = [as_override(key, value) for attempt in before for key, value in attempt["changes"].items()]
        replay = command(*changes, *origin, "recovery=off", "logger=csv")
    if good and good[0].name != "last.ckpt":
        replace_by_link(good[0], run / "checkpoints" / "last.ckpt")
    outside = start if start and start.exists() and run.resolve() not in start.resolve().parents else None
    write_attempt(run, failure, remedy, good, replay)
    return run / "checkpoints" / "last.ckpt" if good else outside


def write_attempt(
    run: Path,
    failure: Failure,
    remedy: tuple[str, dict[str, Any]],
    good: tuple[Path, int] | None = None,
    replay: str | None = None,
    known: int | None = None,
) -> None:
    """Append to attempts.json; nothing where another rank has done so since there were `known` attempts."""
    name, changes = remedy
    with alone(run / "attempts.json.lock"):
        attempts = read_attempts(run)
        if known is not None and len(attempts) > known:
            return
        attempts.append(
            {
                "number": len(attempts) + 1,
                "remedy": name,
                "changes": changes,
                "action": f"{name}: " + ", ".join(f"{k} = {v}" for k, v in changes.items()),
                "went_back_to": good[0].name if good else None,
                "resumed_step": good[1] if good else 0,
                "replay": replay,
                **failure.to_dict(),
            }
        )
        write_json(run / "attempts.json", attempts)


def leave_for_requeue(run: Path, failure: Failure, remedy: Any, known: int, strategy: Any) -> None:
    """Write down what to change, and end; another rank may have done so already."""
    if remedy:  # the others only lost their connection to this one
        write_attempt(run, failure, remedy, known=known)
        write_failure(run, failure)
    what = f"rank {failure.rank}: {failure.cause.splitlines()[0][:200]}"
    print(f"{what}\nEnding, to be started again: the same command with ckpt=auto goes on.", file=sys.stderr)
    if failure.rank and launched_by_lightning(strategy):
        # The launcher kills the first rank as soon as it sees this one gone: let that one end by itself.
        with suppress(Exception):
            torch.distributed.destroy_process_group()
        parent, end = os.getppid(), time.monotonic() + 20
        while os.getppid() == parent and time.monotonic() < end:
            time.sleep(0.1)


def give_up(run: Path, failure: Failure, loggers: Iterable[Any]) -> None:
    """Keep the failure in the run directory and in MLflow, with the log, the recipe and a report."""
    nothing_yet = not any((run / name).exists() for name in ("checkpoints", "eval", "attempts.json"))
    if failure.kind == "mistake" and nothing_yet:
        return
    file = write_failure(run, failure)
    kept = [file, run / "train.log", run / "attempts.json", run / "config.yaml"]
    with suppress(OSError):  # a full disk must not hide its own cause
        with (run / "train.log").open("a", encoding="utf-8") as log:
            log.write(failure.stack)
        report = write_report(run)
        kept += [run / "report", report, report.with_suffix(".html")]
    for logger in loggers:
        if hasattr(logger, "log_files"):
            logger.log_files([path for path in kept if path])
            if failure.recipe:
                keep_recipe(logger, Path(failure.recipe))


def exit_together(trainer: Trainer, code: int) -> NoReturn:
    """End all ranks with a code for the scheduler."""
    trainer.strategy.barrier("exit")
    # Lightning's launcher kills the first rank when it sees another one end with a code.
    raise SystemExit(0 if trainer.global_rank and launched_by_lightning(trainer.strategy) else code)


def launched_by_lightning(strategy: Any) -> bool:
    """Tell ranks that the first one started from those that torchrun or a scheduler did."""
    return isinstance(getattr(strategy, "cluster_environment", None), LightningEnvironment)


def keep_recipe(logger: Any, folder: Path) -> None:
    """Give the small files of a recipe to MLflow, not the checkpoint beside them."""
    logger.log_files(sorted(file for file in folder.iterdir() if file.is_file()), under=f"failures/{folder.name}")


def announce(attempt: Attempt, run: Path, loggers: Iterable[Any]) -> None:
    """Say on the screen and in MLflow what went wrong and what is changed."""
    back = f"step {attempt['resumed_step']}" if attempt["went_back_to"] else "the beginning"
    print(
        f"{attempt['cause'].splitlines()[0]}\n"
        f"recovery {attempt['number']}: back to {back} with {attempt['action']} (see {run / 'attempts.json'})",
        file=sys.stderr,
    )
    for logger in loggers:
        if hasattr(logger, "log_tags"):
            told = {key: attempt[key] for key in ("kind", "cause", "step", "action", "what_went_wrong", "next_action")}
            environment = json.dumps(attempt["environment"], ensure_ascii=False)
            more = {"stack": attempt["stack"][-4000:], "environment": environment, "resumed_step": back}
            logger.log_tags({f"recovery.{attempt['number']}.{key}": value for key, value in {**told, **more}.items()})
            logger.log_metrics({"recovery/attempts": attempt["number"]}, step=attempt["step"])
            logger.log_files([run / "attempts.json"])
            if attempt["recipe"]:
                keep_recipe(logger, Path(attempt["recipe"]))


def good_checkpoint(folder: Path, before_step: int | None = None) -> tuple[Path, int] | None:
    """Find the newest checkpoint that is whole and finite, and set aside those that are not.

    Args:
        folder: 체크포인트의 폴더.
        before_step: 이 스텝이나 그 뒤의 것은 유한해도 쓰지 않는다.

    Returns:
        (체크포인트, 그 스텝).
    """
    for old in folder.glob("*.ckpt.old"):
        is_checkpoint(old.with_suffix(""))  # finishes a swap that was cut short
    steps = {path: finite_step(path) for path in folder.glob("*.ckpt")}
    good = {path: step for path, step in steps.items() if step is not None}
    if before_step is not None:
        good = {path: step for path, step in good.items() if step < before_step}
    for path in steps.keys() - good.keys():
        bad = path.with_name(path.name + ".bad")
        shutil.rmtree(bad) if bad.is_dir() else bad.unlink(missing_ok=True)
        path.rename(bad)
    return max(good.items(), key=lambda item: (item[1], item[0].name == "last.ckpt"), default=None)


def finite_step(path: Path) -> int | None:
    """Return the step of a checkpoint; None if it is damaged or holds a value that is not finite."""
    try:
        if path.is_dir():
            return _finite_step_of_shards(path)
        checkpoint = read_checkpoint(path)
        tensors = _tensors([checkpoint["state_dict"], checkpoint.get("optimizer_states", [])])
        return checkpoint["global_step"] if all(map(is_finite, tensors)) else None
    except (CheckpointError, OSError, KeyError, RuntimeError):
        return None


def _finite_step_of_shards(path: Path) -> int | None:
    from wmtp.checkpoints.io import read_meta

    step = read_meta(path)["global_step"]
    for file in sorted(path.rglob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            if not all(is_finite(shard.get_tensor(name)) for name in shard.keys()):
                return None
    return step


def is_finite(tensor: Tensor) -> bool:
    """Tell whether every element is finite."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict | list | tuple):
        for item in nested.values() if isinstance(nested, dict) else nested:
            yield from _tensors(item)


def replace_by_link(source: Path, target: Path) -> None:
    """Give a checkpoint a second name at once; it takes no space, since checkpoints are replaced, never changed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".link")

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:  # a file system without hard links
            shutil.copy2(one, other)

    if source.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, copy_function=link)
    else:
        temporary.unlink(missing_ok=True)
        link(str(source), str(temporary))
    swap_in(temporary, target)


def as_override(key: str, value: Any) -> str:
    """Write a change as it is given on the command line.

    Example:
        >>> as_override("data.split", 2)
        '++data.split=2'
    """
    return f"++{key}={value}"


def release_memory() -> None:
    """Let go of what the failed attempt held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
