"""Go on after NaN, an exploded loss or a lack of memory, without a person.

[연구 맥락] 나쁜 배치 하나, 메모리 몇 MB 때문에 밤새 한 학습을 잃지 않는다.
[동작] 회복은 고리(loop)다: 해 보고 (`Attempt`), 고칠 수 있는 실패면 고친 설정과 마지막 온전한 체크포인트로 다시 한다.

        for attempt in recovery.attempts(cfg, run, checkpoint, …):
            with attempt:
                return train_once(attempt, …)

    무엇을 고치는지는 `remedies`가, 적는 일은 `attempts`가, 어디로 돌아갈지는 `checkpoints.last_good`이 안다.
    여러 랭크가 함께 멈추는 실패(가드가 함께 정한다)는 그 자리에서 함께 회복한다. 한 랭크만의 실패는 그럴 수 없으므로,
    고칠 것을 적고 requeue_exit_code로 끝내 torchrun이나 스케줄러가 다시 시작하게 한다.
[디버깅] 무엇을 왜 고쳤는지는 attempts.json과 보고서에 있다. 처음 설정으로 되돌리려면 attempts.json을 지운다.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from wmtp import ranges
from wmtp.callbacks.graceful_stop import Stopped
from wmtp.checkpoints.kinds import is_checkpoint
from wmtp.checkpoints.last_good import last_good, replace_by_link
from wmtp.ranks.meeting import agree, is_first
from wmtp.reporting.report import write_report
from wmtp.run.attempts import Record, as_overrides, read_attempts, with_changes, write_attempt
from wmtp.run.directory import check_still_there
from wmtp.run.failure import Failure, describe, write_failure
from wmtp.run.remedies import JOINT, Remedy, choose_remedy


@dataclass(frozen=True)
class Recovery:
    """Decide whether a run goes on after a failure.

    Args:
        max_attempts: 한 실행에서 고쳐 볼 횟수. 0이면 고치지 않는다.
        requeue_exit_code: 다시 시작하면 이어 갈 수 있을 때의 종료 코드. 75는 EX_TEMPFAIL.
    """

    max_attempts: int = 3
    requeue_exit_code: int = 75

    def __post_init__(self) -> None:
        given = dict(max_attempts=self.max_attempts, requeue_exit_code=self.requeue_exit_code)
        ranges.check(ranges.Recovery, **given)

    def attempts(
        self,
        cfg: DictConfig,
        run: Path,
        checkpoint: Path | None,
        *,
        command: Callable[..., str],
        loggers: Iterable[Any] = (),
    ) -> Iterator["Attempt"]:
        """Yield one attempt after another, each with what the failures so far changed, until one comes to its end.

        Args:
            checkpoint: 처음 시작할 체크포인트, 없으면 None.
            command: 덮어쓸 키를 받아 다시 시작할 명령을 적는 함수.
        """
        start = checkpoint
        put_away_failures(run)
        while True:
            before = read_attempts(run)
            attempt = Attempt(self, with_changes(cfg, before), checkpoint, before, run, start, command, list(loggers))
            yield attempt
            if not attempt.failed:
                return
            checkpoint = attempt.going_on_from
            gc.collect()  # the exception is gone, and with it the stack that held tensors
            torch.cuda.empty_cache()

    def remedy(self, kind: str, cfg: DictConfig, before: list[Record]) -> Remedy | None:
        """Choose the next change; None where nothing may or can be done."""
        if len(before) >= self.max_attempts:
            return None
        return choose_remedy(kind, cfg, {attempt["remedy"] for attempt in before})


@dataclass
class Attempt:
    """Train once inside it: a failure that something can be changed about ends here, any other goes on its way.

    Attributes:
        cfg: 지금까지 고친 설정.
        checkpoint: 시작할 체크포인트, 없으면 None.
        before: 앞선 시도들 (attempts.json).
        start: 첫 시도가 시작한 체크포인트.
        trainer: 학습하는 동안의 Trainer. 그 전의 예외는 사용자의 실수이고, 아무것도 남기지 않는다.
        failed: 고쳐서 다시 할 실패로 끝났으면 True.
        going_on_from: 그때 이어 갈 체크포인트.
    """

    recovery: Recovery
    cfg: DictConfig
    checkpoint: Path | None
    before: list[Record]
    run: Path
    start: Path | None
    command: Callable[..., str]
    loggers: list[Any]
    trainer: Trainer | None = None
    failed: bool = False
    going_on_from: Path | None = None

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, stack: Any) -> bool:
        trainer, self.trainer = self.trainer, None  # what failed holds no memory
        if error is None or isinstance(error, Exception):
            check_still_there(self.run)
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, Stopped) and is_first():
            print(self.what_is_kept(), file=sys.stderr)
        if trainer is None or not isinstance(error, Exception):
            return False
        failure = describe(error, trainer.global_step, trainer.global_rank, trainer.world_size)
        joint, alone = failure.kind in JOINT, trainer.world_size == 1
        # Only what came up in Lightning's loops is met by a change, not an evaluation by generation.
        remedy = self.recovery.remedy(failure.kind, self.cfg, self.before) if trainer.interrupted else None
        if remedy and (joint or alone):
            # All ranks do what the first one decides: files may look different a moment later.
            self.going_on_from = agree(lambda: self.go_back(failure, remedy))
            self.failed = True
        elif remedy or (not alone and len(read_attempts(self.run)) > len(self.before)):
            leave_for_requeue(self.run, failure, remedy, len(self.before), trainer)
            raise SystemExit(self.recovery.requeue_exit_code) from error
        elif joint:
            agree(lambda: give_up(self.run, failure, self.loggers))
        else:
            give_up(self.run, failure, self.loggers)
        return self.failed

    def go_back(self, failure: Failure, remedy: Remedy) -> Path | None:
        """Find the checkpoint to go on from, and write the attempt down before it begins.

        Returns:
            이어 갈 체크포인트. 온전한 것이 없으면 처음 시작한 것, 그것도 없으면 None (처음부터).
        """
        again = failure.kind == "non_finite" and any(one["resumed_step"] == failure.step for one in self.before)
        stuck = again or failure.kind == "loss_explosion"
        # Weights from which the loss explodes at once are finite, and as bad.
        good = last_good(self.run / "checkpoints", failure.step if stuck else None)
        last = self.run / "checkpoints" / "last.ckpt"
        replay = self.keep_replay(Path(failure.recipe), good) if failure.recipe else None
        if good and good[0] != last:
            replace_by_link(good[0], last)
        write_attempt(self.run, failure, remedy, good, replay)
        announce(read_attempts(self.run)[-1], self.run, self.loggers)
        if good:
            return last
        outside = self.start and self.start.exists() and self.run.resolve() not in self.start.resolve().parents
        return self.start if outside else None

    def what_is_kept(self) -> str:
        """Say what somebody who stopped at once can go on with."""
        if is_checkpoint(self.run / "checkpoints" / "last.ckpt"):
            return f"Stopped at once. Go on from the last checkpoint with:\n  {self.command(f'ckpt={self.run}')}"
        if (self.run / "eval").exists():
            return f"Stopped before the first checkpoint; what was evaluated is in {self.run}, and ckpt=auto uses it."
        return "Stopped before the first checkpoint; nothing is kept."

    def keep_replay(self, folder: Path, good: tuple[Path, int] | None) -> str:
        """Keep the checkpoint from before a failure beside its recipe, and write the command that meets it again."""
        if good:
            replace_by_link(good[0], folder / "checkpoints" / "last.ckpt")
        origin = [f"ckpt={folder}"] if good else ["ckpt=null", f"name={self.run.name}-replay"]
        return self.command(*as_overrides(self.before), *origin, "recovery=off", "logger=csv")


def put_away_failures(run: Path) -> None:
    """Move what an earlier launch of this run ended with: the run is going on."""
    if not is_first():
        return
    for file in run.glob("failure*.json"):
        moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(file.stat().st_mtime))
        (run / "failures").mkdir(exist_ok=True)
        file.rename(run / "failures" / f"{file.stem}-{moment}.json")


def leave_for_requeue(run: Path, failure: Failure, remedy: Remedy | None, known: int, trainer: Trainer) -> None:
    """Write down what to change, and end; another rank may have done so already."""
    if remedy:  # the others only lost their connection to this one
        write_attempt(run, failure, remedy, known=known)
        write_failure(run, failure)
    what = f"rank {failure.rank}: {failure.cause.splitlines()[0][:200]}"
    print(f"{what}\nEnding, to be started again: the same command with ckpt=auto goes on.", file=sys.stderr)
    if failure.rank and launched_by_lightning(trainer.strategy):
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


def announce(attempt: Record, run: Path, loggers: Iterable[Any]) -> None:
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
