"""Train with token weights, run the generated programs, and show the result.

    python -m wmtp.train                                   rho1, 합성 데이터, 작은 모델, CPU
    python -m wmtp.train algo=baseline data=mbpp data.path=DIR
    python -m wmtp.train ckpt=last                         이어서 학습 (ckpt=auto: 끝나지 않은 것이 있으면)

[동작] 조합 → 검사 → 학습 전 평가 → 학습 → 학습 후 평가 → 보고서. 여기에는 순서만 있고 계산은 없다.
    실패하면 무엇을 고쳐 다시 할지는 `wmtp.run.recovery`가 정한다.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from wmtp import ranges
from wmtp.cli import (
    build,
    check_values,
    chosen,
    command,
    command_again,
    front_door,
    in_its_storage,
    quiet_libraries,
    refuse_sweep_over_devices,
    sweep_again,
    sweep_point,
)


class Parts(NamedTuple):
    """Hold what a run is made of."""

    name: str
    model_source: Any
    tokenizer: Any
    data: Any
    leaks: list[Any]
    benchmarks: list[Any]
    sampling: Any
    algo: Any
    samples: str  # what training reads, named by content


@in_its_storage
def train(cfg: DictConfig) -> dict[str, float]:
    """Fine-tune as the config says.

    Returns:
        마지막 지표들: `val/ce_head0`, `before/<benchmark>/pass@1`, `after/<benchmark>/pass@1` …

    Raises:
        WmtpError: 설정, 데이터, 체크포인트가 잘못됐을 때. 실행 폴더를 남기지 않는다.
        SystemExit: 다시 시작하면 이어 갈 수 있을 때 (`recovery.requeue_exit_code`).
    """
    check_values(cfg)
    counts = ("max_steps", "accumulate_grad_batches")  # neither may be left out
    ranges.check(ranges.PROGRAM, **{name: cfg.trainer.get(name) for name in counts})
    if cfg.name is not None:
        ranges.name_of_run("name", cfg.name)
    refuse_sweep_over_devices(cfg)

    say_beginning(cfg)

    from wmtp.callbacks.graceful_stop import exit_when_preempted
    from wmtp.ranks.meeting import join
    from wmtp.ranks.processors import fit_threads
    from wmtp.run.directory import is_finished, newest_of, run_directory
    from wmtp.run.log import keep_log
    from wmtp.run.memory_profile import profile_memory
    from wmtp.run.mlflow_store import short_name
    from wmtp.run.rehearsal import in_small, rehearsal
    from wmtp.run.start import check_same_training, find_start
    from wmtp.run.sweep import Point, check_same_point, remember

    quiet_libraries()
    fit_threads()
    join(cfg.trainer)
    if cfg.dry_run:
        cfg = in_small(cfg)
    recovery = build(cfg.recovery)
    # Whatever a user can get wrong is built before the run directory exists.
    parts = [build_parts(cfg)]
    if cfg.profile_memory:
        return profile_memory(parts[0].algo, parts[0].data, partial(build, cfg.trainer))
    name = parts[0].name
    point = "" if cfg.dry_run else sweep_point()
    ckpt = cfg.ckpt or ("auto" if point else None)  # a sweep that is asked for again goes on
    if point and ckpt == "auto" and (same := newest_of(Path(cfg.runs), name)):
        check_same_point(same, cfg)
        if is_finished(same):
            print(f"{name}: this point of the sweep has come to its end; left out.")
            remember(Point(point, "done", str(same.resolve())))
            return {}
    start = find_start(ckpt, Path(cfg.runs), name, touch=not cfg.dry_run)
    step = check_same_training(start, cfg, parts[0].algo, parts[0].samples)

    place = rehearsal(start) if cfg.dry_run else run_directory(start.run, start.checkpoint, Path(cfg.runs), name)
    with place as run, keep_log(run):
        cfg = cfg.copy()
        cfg.run_dir = str(run)
        remember(Point(point, "begun", str(run)))
        cfg.trainer.max_steps = step + 1 if cfg.dry_run else cfg.trainer.max_steps
        cfg.mlflow_experiment = cfg.mlflow_experiment or f"mtp/{parts[0].algo.name}/{parts[0].data.source.name}"
        cfg.mlflow_run_name = cfg.mlflow_run_name or short_name(run.name, cfg.mlflow_experiment, sweep_point())
        loggers = list(build(cfg.logger or {}).values())
        signals = OmegaConf.select(cfg, "callbacks.graceful_stop.preemption", default=[])
        with exit_when_preempted(recovery.requeue_exit_code, signals):
            for attempt in recovery.attempts(cfg, run, start.checkpoint, command=command_again, loggers=loggers):
                with attempt:
                    if attempt.before:  # built again, as changed
                        parts.clear()
                        parts.append(build_parts(attempt.cfg))
                    metrics = train_once(attempt, parts.pop(), run, loggers)  # a failed attempt holds no memory
        remember(Point(point, "done", str(run)))
    if cfg.dry_run:
        print("dry_run: everything composes, loads and takes a step; nothing was kept.")
    return metrics


def say_beginning(cfg: DictConfig) -> None:
    """Say what is asked for while torch and Lightning are on their way, on the first of the processes."""
    from wmtp.reporting.texts import Texts

    if any(int(os.environ.get(rank) or 0) for rank in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        return
    asked = {"algo": "algo._target_", "data": "data.module.source._target_", "steps": "trainer.max_steps"}
    said = {what: str(OmegaConf.select(cfg, key)).rpartition(".")[2].lower() for what, key in asked.items()}
    text = "{algo} on {data}, {steps} steps, from {model}; loading torch and Lightning …"
    print(Texts(cfg.lang)(text, **said, model=cfg.model.get("path")), flush=True)


def that_can_judge(benchmarks: list[Any], source: Any, lang: str) -> list[Any]:
    """Leave out the benchmark of one's own rows where none has tests, and say so."""
    from wmtp.reporting.texts import Texts

    path = getattr(source, "path", None)
    for benchmark in benchmarks:
        if path is not None and getattr(benchmark.source, "path", None) == path:
            benchmark.source.key = source.key  # a wrong row of a file that both read is the data's
    judging = [benchmark for benchmark in benchmarks if benchmark.source.has_tests(benchmark.split)]
    said = "{name}: no row has tests, so no program is run; another benchmark may be chosen, as in benchmark=mbpp"
    for benchmark in benchmarks:
        if benchmark not in judging:
            print(Texts(lang)(said, name=benchmark.name))
    return judging


def build_parts(cfg: DictConfig) -> Parts:
    """Build the model, the data and the benchmarks, and hold that they fit together."""
    from pytorch_lightning import seed_everything

    from wmtp.data.batching import check_pieces
    from wmtp.data.leakage import guard
    from wmtp.evaluation.metrics import require_samples
    from wmtp.ranks.meeting import holds_weights

    seed_everything(cfg.seed, verbose=False)
    model_source = build(cfg.model)
    tokenizer = model_source.load_tokenizer()
    data = build(cfg.data.module, tokenizer=tokenizer)
    check_pieces(cfg.trainer.accumulate_grad_batches, data.pieces)
    benchmarks = that_can_judge(build(cfg.benchmark.suite), data.source, cfg.lang)
    asking = build(cfg.prompt)
    cfg.prompt.chat = asking.teaches(data.source)  # what auto comes to is written down
    if cfg.prompt.chat:
        data.prompt = asking.taught(data.prompt, tokenizer, f"model.path = {cfg.model.path}")
    sampling = build(cfg.sampling)
    require_samples([sampling.n], max(cfg.eval.ks))
    model = model_source.load(empty=not holds_weights(cfg.trainer))
    algo = build(cfg.algo, model=model, optimizer=build(cfg.optimizer))
    if cfg.prompt.chat:
        model.closes_with = data.prompt.end(tokenizer)
        benchmarks = asking.of_model(benchmarks, model, tokenizer, f"model.path = {cfg.model.path}", taught=True)
    algo.optimizer(algo.model)  # built again by Lightning; here only to refuse a wrong rate in time
    data.source, leaks = guard(data.source, benchmarks, cfg.data.get("leakage", "drop"))
    data.setup()
    name = (cfg.name or f"{algo.name}-{data.source.name}-{model_source.name}") + sweep_point()
    samples = data.samples["train"].fingerprint[:16]
    return Parts(name, model_source, tokenizer, data, leaks, benchmarks, sampling, algo, samples)


def train_once(attempt: Any, parts: Parts, run: Path, loggers: list[Any]) -> dict[str, float]:
    """Train once, from a checkpoint or from the beginning, with the evaluations around it."""
    from wmtp.callbacks.graceful_stop import interruptible
    from wmtp.callbacks.progress import TrainingProgress
    from wmtp.checkpoints.description import Description
    from wmtp.reporting.reading import read_run
    from wmtp.reporting.screen import advice, overview, summary
    from wmtp.reporting.texts import Texts
    from wmtp.run.remedies import supported_precision

    cfg, data, algo = attempt.cfg, parts.data, parts.algo
    texts = Texts(cfg.lang)
    algo.run_dir = run
    cfg.trainer.precision = supported_precision(cfg.trainer.precision)
    callbacks = [callback for callback in build(cfg.callbacks).values() if callback is not None]
    settled = describe(cfg, parts)
    trainer = build(cfg.trainer, callbacks=[*callbacks, Description(settled)], logger=loggers)
    algo.check(trainer, data)
    write_down(settled, parts, run, trainer)
    if trainer.is_global_zero:
        print(overview(algo, data, parts.leaks, run, texts))
        if faster := advice(algo.model, cfg.trainer.accelerator, cfg.trainer.precision, texts):
            print(faster)

    attempt.trainer = trainer  # from here on a failure is one of training
    begins = attempt.checkpoint is None
    if begins and trainer.is_global_zero:
        (run / "metrics.csv").unlink(missing_ok=True)  # of an attempt that came to nothing
    metrics = {}
    if cfg.eval.before:
        metrics |= run_programs(cfg, "before", parts, trainer, log=begins)
        if isinstance(bar := trainer.progress_bar_callback, TrainingProgress):
            bar.pass_at_1_before = next((value for key, value in metrics.items() if key.endswith("/pass@1")), None)
    with interruptible():
        if begins:  # the curves start before the first step
            trainer.validate(algo, data, verbose=False)
            metrics |= {f"before/{key}": float(value) for key, value in trainer.callback_metrics.items()}
        else:
            series = read_run(run).series  # as they were before the first step
            metrics |= {f"before/{key}": points[0][1] for key, points in series.items() if key.startswith("val/")}
        algo.train()  # Lightning keeps the mode it finds
        trainer.fit(algo, data, ckpt_path=attempt.checkpoint, weights_only=True)
        leave_if_stopped(cfg, callbacks, trainer, run)
        trainer.save_checkpoint(run / "checkpoints" / "last.ckpt")
        trainer.validate(algo, data, verbose=False)
    metrics |= {f"after/{key}": float(value) for key, value in trainer.callback_metrics.items()}
    if cfg.eval.after:
        metrics |= run_programs(cfg, "after", parts, trainer)
    export(parts, trainer, run, texts)
    if trainer.is_global_zero:
        report, stores = write_up(run, loggers)
        print(summary(metrics, run, report, stores, texts))
    return metrics


def describe(cfg: DictConfig, parts: Parts) -> dict[str, Any]:
    """Resolve the config, and add what was used, its licences, and what the run is made of."""
    from wmtp.models.weights_digest import weights_digest
    from wmtp.ranks.meeting import is_first
    from wmtp.run.provenance import made_of
    from wmtp.secrets import mask_secrets
    from wmtp.storage import in_use

    used = {**in_use().used}
    for source in (parts.data.source, *(benchmark.source for benchmark in parts.benchmarks)):
        for part, licence in source.licences.items():
            used[part] = {"licence": licence} | used.get(part, {})
    found = made_of(parts.data.source, parts.benchmarks, weights_digest(parts.algo.model) if is_first() else None)
    more = {"used": used, "made_of": found | {"samples": parts.samples}, "command": command()}
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return mask_secrets(plain | more)


def write_down(settled: dict[str, Any], parts: Parts, run: Path, trainer: Any) -> None:
    """Write the config, the tokenizer and what is left out into the run directory and its records."""
    from wmtp.data.leakage import record

    if trainer.is_global_zero:
        OmegaConf.save(settled, run / "config.yaml")
        record(run / "left_out.json", settled["data"].get("leakage", "drop"), parts.leaks, parts.data.dropped)
        parts.tokenizer.save_pretrained(run / "model")
        for logger in trainer.loggers:
            logger.log_hyperparams(settled)
            if hasattr(logger, "describe"):
                logger.describe(parts.algo.name, parts.data.source.name, settled, chosen(), sweep_point())


def leave_if_stopped(cfg: DictConfig, callbacks: list[Any], trainer: Any, run: Path) -> None:
    """End here if someone asked to stop: the checkpoint is saved."""
    from wmtp.callbacks.graceful_stop import GracefulStop, Stopped

    asked = [callback for callback in callbacks if isinstance(callback, GracefulStop)]
    if not any(callback.stopped for callback in asked):
        return
    if trainer.is_global_zero:
        again = command_again(f"ckpt={run}")
        print(f"Stopped at step {trainer.global_step}, and saved. Go on with:\n  {again}", file=sys.stderr)
        if sweep_point():
            print(f"or with this point and those that are left:\n  {sweep_again('ckpt=auto')}", file=sys.stderr)
    if any(callback.preempted for callback in asked):
        from wmtp.run.recovery import exit_together

        exit_together(trainer, cfg.recovery.requeue_exit_code)
    raise Stopped


def export(parts: Parts, trainer: Any, run: Path, texts: Any) -> None:
    """Write the model's folder with its card, on the first rank with the whole model, while the others wait."""
    from wmtp.ranks.whole_model import whole_model
    from wmtp.reporting.model_card import model_card
    from wmtp.reporting.screen import exported

    with whole_model(trainer, parts.algo) as model:
        if model is not None:
            card = partial(model_card, run, command_again())
            said = exported(parts.model_source.write(model, run / "model", card), texts)
            print(said, end="\n" if said else "")


def write_up(run: Path, loggers: list[Any]) -> tuple[Path, list[Any]]:
    """Write the report, and keep it with the records of the run."""
    from wmtp.reporting.report import write_report

    report = write_report(run)
    stores = [logger for logger in loggers if hasattr(logger, "log_files")]
    kept = ["config.yaml", "train.log", "attempts.json", "eval", "report", report.name, "report.html"]
    kept += ["critic.json", "value_head.safetensors", "new_heads.json"]
    for store in stores:
        store.log_files([run / name for name in kept])
        store.finalize("success")
        store.flush()
    return report, stores


def run_programs(cfg: DictConfig, when: str, parts: Parts, trainer: Any, log: bool = True) -> dict[str, float]:
    """Generate, run and count, on the first rank with the whole model, while the others wait; log what was measured."""
    from wmtp.ranks.whole_model import whole_model
    from wmtp.run.mlflow_store import is_setting

    with whole_model(trainer, parts.algo) as model:
        if model is None:
            return {}
        model.to(trainer.strategy.root_device).eval()
        numbers = _run_programs(cfg, when, parts, model)
    measured = {key: value for key, value in numbers.items() if not is_setting(key)}
    for logger in trainer.loggers if log else ():
        logger.log_metrics(measured, step=trainer.global_step)
    return numbers


def _run_programs(cfg: DictConfig, when: str, parts: Parts, model: Any) -> dict[str, float]:
    from wmtp.evaluation.generators import InProcess
    from wmtp.evaluation.harness import evaluate
    from wmtp.models.weights_digest import weights_digest
    from wmtp.reporting.evaluation import write_evaluation_report
    from wmtp.reporting.screen import evaluating
    from wmtp.reporting.texts import Texts

    metrics, texts = {}, Texts(cfg.lang)
    generator = InProcess(model, parts.tokenizer)
    subject = dict(generator=generator, sampling=parts.sampling, checkpoint=weights_digest(model))
    with build(cfg.sandbox) as sandbox:
        for benchmark in parts.benchmarks:
            print(evaluating(when, benchmark, sandbox.isolation, texts))
            out = Path(cfg.run_dir) / "eval" / when / benchmark.name
            extract = cfg.eval.extract or ("auto" if benchmark.prompt.conversation else "none")
            # Overwrite: the same weights go on; of others the folder's name says nothing.
            how = dict(ks=list(cfg.eval.ks), extract=extract, sandbox=sandbox, overwrite=True)
            metrics |= evaluate(benchmark, out, **how, **subject)
            write_evaluation_report(out, benchmark.problems, texts)
    return {f"{when}/{key}": value for key, value in metrics.items() if isinstance(value, (int, float))}


def main() -> None:
    """Run from the command line."""
    front_door(train, "train", go_on=("ckpt=auto",))


if __name__ == "__main__":
    main()
