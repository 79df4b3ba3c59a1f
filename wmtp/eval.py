"""Evaluate a checkpoint, or samples made elsewhere, by running the generated programs.

    python -m wmtp.eval ckpt=runs/<name>
    python -m wmtp.eval ckpt=runs/<name> benchmark=humaneval benchmark.path=DIR
    python -m wmtp.eval samples=FILE benchmark=mbpp benchmark.path=DIR

[동작] benchmark를 주지 않으면 그 실행이 학습 끝에 쓴 벤치마크를 그대로 쓴다: 같은 체크포인트, 같은 숫자.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wmtp.cli import build, check_all_set, front_door, quiet_libraries
from wmtp.errors import ConfigError
from wmtp.run_directory import resolve_checkpoint, run_of
from wmtp.storage import in_use, is_s3, use


def evaluate_checkpoint(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate as the config says.

    Returns:
        벤치마크별 지표를 합친 dict. `<benchmark>/pass@1` 등.

    Raises:
        WmtpError: 설정, 데이터, 체크포인트, 샘플 파일이 잘못됐을 때.
    """
    check_all_set(cfg)
    if (cfg.ckpt is None) == (cfg.samples is None):
        raise ConfigError("ckpt and samples: give exactly one, ckpt=runs/<name> or samples=FILE.")

    from wmtp.evaluation.harness import evaluate

    use(build(cfg.storage))
    if cfg.ckpt is not None:
        from wmtp.models.checkpoint import SavedModel

        quiet_libraries()
        if is_s3(cfg.ckpt) and not cfg.out:
            raise ConfigError(f"out has no value, and results cannot go beside {cfg.ckpt}; set out=DIR.")
        folder = in_use().find_checkpoint(cfg.ckpt) if is_s3(cfg.ckpt) else Path(cfg.ckpt).expanduser()
        saved = SavedModel(folder if (folder / "config.json").is_file() else resolve_checkpoint(str(folder), Path()))
        suite = _suite(cfg, saved.config)
        model, tokenizer = saved.load()
        sampling = build(cfg.sampling)
        source = dict(model=model, tokenizer=tokenizer, sampling=sampling, checkpoint=saved.identity)
        beside = saved.path if saved.exported else run_of(saved.path)
        label = f"{saved.path.stem}-T{sampling.temperature:g}-n{sampling.n}"
    else:
        source = dict(samples=Path(cfg.samples).expanduser())
        suite = _suite(cfg, None)
        beside, label = source["samples"].parent, source["samples"].stem

    metrics: dict[str, Any] = {}
    with build(cfg.sandbox) as sandbox:
        print(f"isolation: {sandbox.isolation}")
        for benchmark in build(suite):
            out = (
                Path(cfg.out).expanduser() / benchmark.name
                if cfg.out
                else beside / "eval" / f"{label}-{benchmark.name}"
            )
            out.mkdir(parents=True, exist_ok=True)
            found = evaluate(
                benchmark,
                out,
                sandbox=sandbox,
                ks=tuple(cfg.ks),
                overwrite=cfg.overwrite,
                progress=cfg.progress,
                **source,
            )
            print(_summary(benchmark.name, found, out))
            metrics |= found
    return metrics


def _suite(cfg: DictConfig, run_config: dict[str, Any] | None) -> Any:
    """Return the benchmarks to run: those asked for, or those of the run."""
    if cfg.get("benchmark"):
        return cfg.benchmark.suite
    if run_config is None:
        raise ConfigError(
            "benchmark has no value and this is not a run that names one; set benchmark=synthetic, mbpp, …"
        )
    return OmegaConf.create(run_config["benchmark"]["suite"])


def _summary(name: str, metrics: dict[str, Any], out: Path) -> str:
    """Say pass@k with its interval and where the results are."""
    lines = [
        f"{key:<24} {value:.3f} [{metrics[key + '_low']:.3f}, {metrics[key + '_high']:.3f}]"
        for key, value in metrics.items()
        if key.startswith(f"{name}/pass@") and key + "_low" in metrics
    ]
    return "\n".join([*lines, f"{'results':<24} {out}"])


def main() -> None:
    """Run from the command line."""
    front_door(evaluate_checkpoint, "eval")


if __name__ == "__main__":
    main()
