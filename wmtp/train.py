"""Train with token weights, run the generated programs, and show the result.

    python -m wmtp.train                                   rho1, 합성 데이터, 작은 모델, CPU
    python -m wmtp.train algo=baseline data=mbpp data.path=DIR
    python -m wmtp.train ckpt=last                         이어서 학습 (ckpt=auto: 끝나지 않은 것이 있으면)

[동작] 조합 → 검사 → 학습 전 평가 → 학습 → 학습 후 평가 → 보고서. 여기에는 순서만 있고 계산은 없다.
    실패하면 무엇을 고쳐 다시 할지는 `wmtp.run.recovery`가 정한다.
"""

import contextlib
import io
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from wmtp.checkpoints.kinds import is_checkpoint
from wmtp.cli import (
    build,
    check_all_set,
    check_whole_number,
    command_again,
    front_door,
    in_its_storage,
    quiet_libraries,
    refuse_sweep_over_devices,
    sweep_again,
    sweep_point,
)
from wmtp.ranks.meeting import holds_weights, join
from wmtp.run.directory import finished_run, fresh_run, resolve_checkpoint, run_of, same_run, unfinished_run
from wmtp.storage import in_use, is_s3


class Parts(NamedTuple):
    """Hold what a run is made of."""

    name: str
    tokenizer: Any
    data: Any
    leaks: list[Any]
    benchmarks: list[Any]
    sampling: Any
    algo: Any


@in_its_storage
def train(cfg: DictConfig) -> dict[str, float]:
    """Fine-tune as the config says.

    Returns:
        마지막 지표들: `val/ce_head0`, `before/<benchmark>/pass@1`, `after/<benchmark>/pass@1` …

    Raises:
        WmtpError: 설정, 데이터, 체크포인트가 잘못됐을 때. 실행 폴더를 남기지 않는다.
        SystemExit: 다시 시작하면 이어 갈 수 있을 때 (`recovery.requeue_exit_code`).
    """
    check_all_set(cfg)
    check_whole_number(cfg, "trainer.max_steps")
    check_whole_number(cfg, "trainer.accumulate_grad_batches")
    refuse_sweep_over_devices(cfg)
    if cfg.dry_run:
        return _dry_run(cfg)

    from wmtp.callbacks.graceful_stop import exit_when_preempted
    from wmtp.run.log import keep_log
    from wmtp.run.memory_profile import profile_memory

    quiet_libraries()
    join(cfg.trainer)
    recovery = build(cfg.recovery)
    # Whatever a user can get wrong is built before the run directory exists.
    parts = [build_parts(cfg)]
    if cfg.profile_memory:
        return profile_memory(parts[0].algo, parts[0].data, partial(build, cfg.trainer))
    name = parts[0].name
    if cfg.ckpt == "auto" and sweep_point() and finished_run(Path(cfg.runs), name):
        print(f"{name}: this point of the sweep has come to its end; left out (ckpt=auto).")
        return {}
    run, checkpoint = find_start(cfg, name)
    if checkpoint:
        check_fits(checkpoint, parts[0].algo)

    with same_run(run) if run else fresh_run(Path(cfg.runs), name) as run, keep_log(run):
        cfg = cfg.copy()
        cfg.run_dir = str(run)
        cfg.mlflow_experiment = cfg.mlflow_experiment or f"mtp/{parts[0].algo.name}/{parts[0].data.source.name}"
        loggers = list(build(cfg.logger or {}).values())
        signals = OmegaConf.select(cfg, "callbacks.graceful_stop.preemption", default=[])
        with exit_when_preempted(recovery.requeue_exit_code, signals):
            for attempt in recovery.attempts(cfg, run, checkpoint, command=command_again, loggers=loggers):
                with attempt:
                    if attempt.before:  # built again, as changed
                        parts.clear()
                        parts.append(build_parts(attempt.cfg))
                    metrics = train_once(attempt, parts.pop(), run, loggers)  # a failed attempt holds no memory
    return metrics


def build_parts(cfg: DictConfig) -> Parts:
    """Build the model, the data and the benchmarks, and hold that they fit together."""
    from pytorch_lightning import seed_everything

    from wmtp.data.batching import check_split
    from wmtp.data.leakage import guard

    seed_everything(cfg.seed, verbose=False)
    model_source = build(cfg.model)
    tokenizer = model_source.load_tokenizer()
    data = build(cfg.data.module, tokenizer=tokenizer)
    check_split(cfg.trainer.accumulate_grad_batches, data.split)
    benchmarks = build(cfg.benchmark.suite)
    sampling = build(cfg.sampling)
    model = model_source.load(empty=not holds_weights(cfg.trainer))
    algo = build(cfg.algo, model=model, optimizer=build(cfg.optimizer))
    algo.optimizer(algo.model)  # built again by Lightning; here only to refuse a wrong rate in time
    data.source, leaks = guard(data.source, benchmarks, cfg.data.get("leakage", "drop"))
    data.setup()
    name = (cfg.name or f"{algo.name}-{data.source.name}-{model_source.name}") + sweep_point()
    return Parts(name, tokenizer, data, leaks, benchmarks, sampling, algo)


def find_start(cfg: DictConfig, name: str) -> tuple[Path | None, Path | None]:
    """Find the run directory and the checkpoint to go on from; None, None for a new run."""
    if not cfg.ckpt:
        return None, None
    if cfg.ckpt == "auto":
        run = unfinished_run(Path(cfg.runs), name)
        last = run / "checkpoints" / "last.ckpt" if run else None
        return run, last if last and is_checkpoint(last) else None
    checkpoint = resolve_checkpoint(cfg.ckpt, Path(cfg.runs), name)
    # A run that is kept in S3 goes on in a directory of its own here.
    return None if is_s3(cfg.ckpt) else run_of(checkpoint), checkpoint


def check_fits(checkpoint: Path, algo: Any) -> None:
    """Refuse a checkpoint that is damaged or of another model."""
    from wmtp.checkpoints.saved_model import check_same_model, read_checkpoint

    check_same_model(read_checkpoint(checkpoint)["state_dict"], algo, checkpoint)


def train_once(attempt: Any, parts: Parts, run: Path, loggers: list[Any]) -> dict[str, float]:
    """Train once, from a checkpoint or from the beginning, with the evaluations around it."""
    from wmtp.checkpoints.description import Description
    from wmtp.ranks.whole_model import export
    from wmtp.reporting.screen import overview, summary
    from wmtp.run.remedies import supported_precision

    cfg, data, algo = attempt.cfg, parts.data, parts.algo
    algo.run_dir = run
    cfg.trainer.precision = supported_precision(cfg.trainer.precision)
    callbacks = [callback for callback in build(cfg.callbacks).values() if callback is not None]
    settled = describe(cfg, parts)
    trainer = build(cfg.trainer, callbacks=[*callbacks, Description(settled)], logger=loggers)
    algo.check(trainer, data)
    write_down(settled, parts, run, trainer)
    if trainer.is_global_zero:
        print(overview(algo, data, parts.leaks, run))

    attempt.trainer = trainer  # from here on a failure is one of training
    metrics = {}
    if cfg.eval.before:
        metrics |= run_programs(cfg, "before", parts, trainer)
        show_before(trainer, metrics)
    trainer.validate(algo, data, verbose=False)  # the curves start before the first step
    metrics |= {f"before/{key}": float(value) for key, value in trainer.callback_metrics.items()}
    algo.train()  # Lightning keeps the mode it finds
    try:
        trainer.fit(algo, data, ckpt_path=attempt.checkpoint, weights_only=True)
    except SystemExit as left:
        if trainer.interrupted:  # Ctrl-C before the first step, or a second one: Lightning ends with code 1
            print("Stopped at once; what was saved before is kept, and the same command uses it.", file=sys.stderr)
            raise KeyboardInterrupt from left
        raise
    leave_if_stopped(cfg, callbacks, trainer, run)
    trainer.save_checkpoint(run / "checkpoints" / "last.ckpt")
    trainer.validate(algo, data, verbose=False)
    metrics |= {f"after/{key}": float(value) for key, value in trainer.callback_metrics.items()}
    if cfg.eval.after:
        metrics |= run_programs(cfg, "after", parts, trainer)
    export(trainer, algo, run / "model")
    if trainer.is_global_zero:
        report, stores = write_up(run, loggers)
        print(summary(metrics, run, report, stores))
    return metrics


def describe(cfg: DictConfig, parts: Parts) -> dict[str, Any]:
    """Resolve the config, and add what was used and its licences."""
    from wmtp.secrets import mask_secrets

    used = {**in_use().used}
    for source in (parts.data.source, *(benchmark.source for benchmark in parts.benchmarks)):
        for part, licence in source.licences.items():
            used[part] = {"licence": licence} | used.get(part, {})
    return mask_secrets(OmegaConf.to_container(cfg, resolve=True) | {"used": used})


def write_down(settled: dict[str, Any], parts: Parts, run: Path, trainer: Any) -> None:
    """Write the config, the tokenizer and what is left out into the run directory and its records."""
    from wmtp.data.leakage import record

    if trainer.is_global_zero:
        OmegaConf.save(settled, run / "config.yaml")
        record(run / "left_out.json", settled["data"].get("leakage", "drop"), parts.leaks, parts.data.dropped)
        parts.tokenizer.save_pretrained(run / "model")
        for logger in trainer.loggers:
            logger.log_hyperparams(settled)


def leave_if_stopped(cfg: DictConfig, callbacks: list[Any], trainer: Any, run: Path) -> None:
    """End here if someone asked to stop: the checkpoint is saved."""
    if not any(getattr(callback, "stopped", False) for callback in callbacks):
        return
    if trainer.is_global_zero:
        again = command_again(f"ckpt={run}")
        print(f"Stopped at step {trainer.global_step}, and saved. Go on with:\n  {again}", file=sys.stderr)
        if sweep_point():
            print(f"or with this point and those that are left:\n  {sweep_again('ckpt=auto')}", file=sys.stderr)
    if any(getattr(callback, "preempted", False) for callback in callbacks):
        from wmtp.run.recovery import exit_together

        exit_together(trainer, cfg.recovery.requeue_exit_code)
    raise KeyboardInterrupt


def write_up(run: Path, loggers: list[Any]) -> tuple[Path, list[Any]]:
    """Write the report, and keep it with the records of the run."""
    from wmtp.reporting import write_report

    report = write_report(run)
    stores = [logger for logger in loggers if hasattr(logger, "log_files")]
    kept = ["config.yaml", "train.log", "attempts.json", "eval", "report", report.name, "report.html"]
    kept += ["critic.json", "value_head.safetensors"]
    for store in stores:
        store.log_files([run / name for name in kept])
        store.finalize("success")
    return report, stores


def run_programs(cfg: DictConfig, when: str, parts: Parts, trainer: Any) -> dict[str, float]:
    """Generate, run and count, on the first rank with the whole model, while the others wait; log the numbers."""
    from wmtp.ranks.whole_model import whole_model

    with whole_model(trainer, parts.algo) as model:
        if model is None:
            return {}
        model.to(trainer.strategy.root_device).eval()
        return _run_programs(cfg, when, parts, model, trainer)


def _run_programs(cfg: DictConfig, when: str, parts: Parts, model: Any, trainer: Any) -> dict[str, float]:
    from wmtp.evaluation.harness import evaluate
    from wmtp.models.weights_digest import weights_digest
    from wmtp.reporting import write_evaluation_report

    metrics, weights = {}, weights_digest(model)
    with build(cfg.sandbox) as sandbox:
        for benchmark in parts.benchmarks:
            print(f"pass@1 {when} training: {benchmark.name}, {len(benchmark.problems)} problems ({sandbox.isolation})")
            out = Path(cfg.run_dir) / "eval" / when / benchmark.name
            metrics |= evaluate(
                benchmark,
                out,
                sandbox=sandbox,
                model=model,
                tokenizer=parts.tokenizer,
                sampling=parts.sampling,
                checkpoint=weights,
                overwrite=True,  # the same weights go on; of others the folder's name says nothing
            )
            write_evaluation_report(out, benchmark.problems)
    numbers = {f"{when}/{key}": value for key, value in metrics.items() if isinstance(value, (int, float))}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
    return numbers


def show_before(trainer: Any, metrics: dict[str, float]) -> None:
    """Let the bar show what pass@1 was before training."""
    from wmtp.callbacks.progress import TrainingProgress

    bar = trainer.progress_bar_callback
    if isinstance(bar, TrainingProgress):
        bar.pass_at_1_before = next((value for key, value in metrics.items() if key.endswith("/pass@1")), None)


def _dry_run(cfg: DictConfig) -> dict[str, float]:
    """Compose, load, take one step and stop, leaving nothing."""
    changes = {"dry_run": False, "eval": {"limit": 2}, "trainer": {"max_steps": 1}, "logger": None}
    changes |= {"recovery": {"max_attempts": 0}}
    if OmegaConf.select(cfg, "algo.pretraining"):  # a critic is taught before the first step
        few = {"problems": 32, "heldout_problems": 32, "steps": 1}
        changes["algo"] = {"pretraining": few, "localisation": {"problems": 32}}
    with tempfile.TemporaryDirectory(prefix="wmtp-dry-run-") as runs:
        # It would name the folder that is deleted below, and say how little one step teaches.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            metrics = train(OmegaConf.merge(cfg, changes, {"runs": runs}))
    print("dry_run: everything composes, loads and takes a step; nothing was kept.")
    return metrics


def main() -> None:
    """Run from the command line."""
    front_door(train, "train")


if __name__ == "__main__":
    main()
