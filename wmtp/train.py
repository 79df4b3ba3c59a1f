"""Train with token weights, run the generated programs, and show the result.

    python -m wmtp.train                                   rho1, 합성 데이터, 작은 모델, CPU
    python -m wmtp.train algo=baseline data=mbpp data.path=DIR
    python -m wmtp.train ckpt=last                         이어서 학습

[동작] 조합 → 검사 → 학습 전 평가 → 학습 → 학습 후 평가 → 보고서. 여기에는 순서만 있고 계산은 없다.
"""

import sys
import tempfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from wmtp.cli import (
    build,
    check_all_set,
    check_whole_number,
    command_again,
    front_door,
    quiet_libraries,
    refuse_sweep_over_devices,
    sweep_point,
)
from wmtp.run_directory import fresh_run, resolve_checkpoint, run_of, same_run
from wmtp.storage import in_use, is_s3, use


def train(cfg: DictConfig) -> dict[str, float]:
    """Fine-tune as the config says.

    Returns:
        마지막 지표들: `val/ce_head0`, `before/<benchmark>/pass@1`, `after/<benchmark>/pass@1` …

    Raises:
        WmtpError: 설정, 데이터, 체크포인트가 잘못됐을 때. 실행 폴더를 남기지 않는다.
    """
    check_all_set(cfg)
    check_whole_number(cfg, "trainer.max_steps")
    check_whole_number(cfg, "trainer.accumulate_grad_batches")
    refuse_sweep_over_devices(cfg)
    if cfg.dry_run:
        return _dry_run(cfg)

    from pytorch_lightning import seed_everything

    from wmtp.data.leakage import guard, record
    from wmtp.models.checkpoint import check_same_model, read_checkpoint
    from wmtp.reporting import write_report
    from wmtp.tracking import mask_secrets

    quiet_libraries()
    use(build(cfg.storage))
    # Whatever a user can get wrong is built before the run directory exists.
    seed_everything(cfg.seed, verbose=False)
    model_source = build(cfg.model)
    tokenizer = model_source.load_tokenizer()
    data = build(cfg.data.module, tokenizer=tokenizer)
    benchmarks = build(cfg.benchmark.suite)
    sampling = build(cfg.sampling)
    algo = build(cfg.algo, model=model_source.load(), optimizer=build(cfg.optimizer))
    name = (cfg.name or f"{algo.name}-{data.source.name}-{model_source.name}") + sweep_point()
    checkpoint = resolve_checkpoint(cfg.ckpt, Path(cfg.runs), name) if cfg.ckpt else None
    if checkpoint:
        check_same_model(read_checkpoint(checkpoint)["state_dict"], algo, checkpoint)
    algo.optimizer(algo.model)  # built again by Lightning; here only to refuse a wrong rate in time
    leakage = cfg.data.get("leakage", "drop")
    data.source, leaks = guard(data.source, benchmarks, leakage)
    data.setup()

    # A run that is kept in S3 goes on in a directory of its own here.
    goes_on = checkpoint and not is_s3(cfg.ckpt)
    with same_run(run_of(checkpoint)) if goes_on else fresh_run(Path(cfg.runs), name) as run:
        cfg = cfg.copy()
        cfg.run_dir = str(run)
        cfg.mlflow_experiment = cfg.mlflow_experiment or f"mtp/{algo.name}/{data.source.name}"
        used = {**in_use().used}
        for source in (data.source, *(benchmark.source for benchmark in benchmarks)):
            for part, licence in source.licences.items():
                used[part] = {"licence": licence} | used.get(part, {})
        algo.run_config = plain = mask_secrets(OmegaConf.to_container(cfg, resolve=True) | {"used": used})
        loggers = list(build(cfg.logger or {}).values())
        callbacks = list(build(cfg.callbacks).values())
        trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers)
        if trainer.is_global_zero:
            OmegaConf.save(plain, run / "config.yaml")
            record(run / "left_out.json", leakage, leaks, data.dropped)
            tokenizer.save_pretrained(run / "model")
            for logger in loggers:
                logger.log_hyperparams(plain)
            print(overview(algo, data, leaks, run))

        metrics = {}
        if cfg.eval.before:
            metrics |= run_programs(cfg, benchmarks, "before", algo, tokenizer, sampling, trainer)
        trainer.validate(algo, data, verbose=False)  # the curves start before the first step
        metrics |= {f"before/{key}": float(value) for key, value in trainer.callback_metrics.items()}
        algo.train()  # Lightning keeps the mode it finds
        trainer.fit(algo, data, ckpt_path=checkpoint, weights_only=True)
        if any(getattr(callback, "stopped", False) for callback in callbacks):
            again = command_again(f"ckpt={run}")
            print(f"Stopped at step {trainer.global_step}, and saved. Go on with:\n  {again}", file=sys.stderr)
            raise KeyboardInterrupt
        trainer.save_checkpoint(run / "checkpoints" / "last.ckpt")
        trainer.validate(algo, data, verbose=False)
        metrics |= {f"after/{key}": float(value) for key, value in trainer.callback_metrics.items()}
        if cfg.eval.after:
            metrics |= run_programs(cfg, benchmarks, "after", algo, tokenizer, sampling, trainer)
        if trainer.is_global_zero:
            algo.model.save_pretrained(run / "model")
            report = write_report(run)
            stores = [logger for logger in loggers if hasattr(logger, "log_files")]
            for store in stores:
                store.log_files(
                    [run / "config.yaml", run / "eval", run / "report", report, report.with_suffix(".html")]
                )
                store.finalize("success")
            print(summary(metrics, run, report, stores))
    return metrics


def run_programs(cfg, benchmarks, when, algo, tokenizer, sampling, trainer) -> dict[str, float]:
    """Generate, run and count, on the first rank; log the numbers."""
    if not trainer.is_global_zero:
        return {}
    from wmtp.evaluation.harness import evaluate
    from wmtp.reporting import write_evaluation_report

    metrics = {}
    algo.eval()
    with build(cfg.sandbox) as sandbox:
        for benchmark in benchmarks:
            print(f"pass@1 {when} training: {benchmark.name}, {len(benchmark.problems)} problems ({sandbox.isolation})")
            out = Path(cfg.run_dir) / "eval" / when / benchmark.name
            metrics |= evaluate(
                benchmark,
                out,
                sandbox=sandbox,
                model=algo.model,
                tokenizer=tokenizer,
                sampling=sampling,
                checkpoint=when,
            )
            write_evaluation_report(out, benchmark.problems)
    algo.last_pass_at_1 = next(value for key, value in metrics.items() if key.endswith("/pass@1"))
    numbers = {f"{when}/{key}": value for key, value in metrics.items() if isinstance(value, (int, float))}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
    return numbers


def overview(algo, data, leaks, run) -> str:
    """Say what is about to be trained on what."""
    parameters = sum(parameter.numel() for parameter in algo.model.parameters())
    samples = data.samples["train"]
    dropped = (
        f", {len(data.dropped['train'])} left out (too long, or without a solution)" if data.dropped["train"] else ""
    )
    leaked = f"\n{len(leaks)} training problems are in a benchmark in use: see left_out.json" if leaks else ""
    return (
        f"{algo.name}: {parameters / 1e6:.1f}M parameters, {algo.model.heads} heads\n"
        f"{data.source.name} ({data.source.licence}): {len(samples)} training samples, "
        f"{sum(samples.targets)} target tokens{dropped}{leaked}\n"
        f"run directory: {run}"
    )


def summary(metrics, run, report, stores) -> str:
    """Say in a few lines what the run found and where to look."""
    lines = [""]
    for key in (key.removeprefix("after/") for key in metrics if key.startswith("after/") and key.endswith("/pass@1")):
        numbers = [
            f"{when} {metrics[f'{when}/{key}']:.3f} "
            f"[{metrics[f'{when}/{key}_low']:.3f}, {metrics[f'{when}/{key}_high']:.3f}]"
            for when in ("before", "after")
            if f"{when}/{key}" in metrics
        ]
        lines.append(f"{key:<24} {'   '.join(numbers)}")
    lines.append(
        f"{'val CE of head 0':<24} "
        f"before {metrics['before/val/ce_head0']:.4f}   after {metrics['after/val/ce_head0']:.4f}"
    )
    lines.append(f"{'report':<24} {report.with_suffix('.html')}")
    lines.append(f"{'run directory':<24} {run}")
    lines += [f"{'MLflow':<24} {store.ui_command}" for store in stores]
    return "\n".join(lines)


def _dry_run(cfg: DictConfig) -> dict[str, float]:
    """Compose, load, take one step and stop, leaving nothing."""
    with tempfile.TemporaryDirectory(prefix="wmtp-dry-run-") as runs:
        changes = {"runs": runs, "dry_run": False, "eval": {"limit": 2}, "trainer": {"max_steps": 1}, "logger": None}
        metrics = train(OmegaConf.merge(cfg, changes))
    print("dry_run: everything composes, loads and takes a step; nothing was kept.")
    return metrics


def main() -> None:
    """Run from the command line."""
    front_door(train, "train")


if __name__ == "__main__":
    main()
