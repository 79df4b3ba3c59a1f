"""Evaluate a checkpoint, or samples made elsewhere, by running the generated programs.

    python -m wmtp.eval ckpt=runs/<name>
    python -m wmtp.eval ckpt=runs/<name> benchmark=humaneval benchmark.path=DIR
    python -m wmtp.eval ckpt=model:Qwen/Qwen2.5-Coder-0.5B benchmark=mbpp out=DIR      # or ckpt=FILE.gguf
    python -m wmtp.eval generator=server generator.url=http://HOST:8000/v1 generator.model=NAME benchmark=mbpp out=DIR
    python -m wmtp.eval samples=FILE benchmark=mbpp benchmark.path=DIR extract=auto
    python -m wmtp.eval diff=DIR,DIR                                 # which problems two evaluations judge differently
    torchrun --nproc-per-node 8 -m wmtp.eval ckpt=runs/<name>
    srun -N 4 python -m wmtp.eval samples=FILE benchmark=mbpp out=DIR     # or start it as often and where you like

[동작] benchmark를 주지 않으면 그 실행이 학습 끝에 쓴 벤치마크를 그대로 쓴다: 같은 체크포인트, 같은 숫자.
    무엇을 평가하는지 찾고(`_model`, `_server`, `_samples`), 벤치마크마다 평가하고, 보고서를 쓰고, 실행이 있으면
    MLflow에도 남긴다.
"""

import re
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wmtp.checks import check_choice
from wmtp.cli import build, check_values, config_dir, front_door, in_its_storage, quiet_libraries, sweep_point
from wmtp.errors import CheckpointError, ConfigError
from wmtp.evaluation.extraction import HOW
from wmtp.run.directory import resolve_checkpoint, run_of
from wmtp.storage import in_use, is_s3

ELSEWHERE = "model:"  # then whatever `model.path` takes


@dataclass
class Subject:
    """Hold what is evaluated, and where its results belong unless out=DIR says otherwise."""

    source: dict[str, Any]  # what writes samples and how, or a samples file, as `harness.evaluate` takes them
    suite: list[Any]
    folder: Path  # in it, under eval/label, the results
    label: str
    checkpoint: str = ""  # names the model by its content
    run: Path | None = None


@in_its_storage
def evaluate_checkpoint(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate as the config says.

    Returns:
        벤치마크별 지표를 합친 dict. `<benchmark>/pass@1` 등. torchrun의 0번이 아닌 프로세스에서는 비어 있다.

    Raises:
        WmtpError: 설정, 데이터, 체크포인트, 표본 파일이 잘못됐을 때.
    """
    check_values(cfg)
    generator = cfg.get("generator")
    if sum(given is not None for given in (cfg.ckpt, generator, cfg.samples, cfg.diff)) != 1:
        raise ConfigError(
            "ckpt, generator, samples and diff: give exactly one, ckpt=runs/<name>, generator=server, samples=FILE or "
            "diff=DIR,DIR."
        )
    if cfg.diff is not None:
        return _difference(cfg)
    if cfg.extract is not None:
        check_choice("extract", cfg.extract, HOW, "none judges answers as they are, auto finds the program in them.")

    from wmtp.evaluation.harness import assist, evaluate
    from wmtp.evaluation.ranks import joined_ranks, launched
    from wmtp.reporting.evaluation import write_evaluation_report
    from wmtp.reporting.screen import evaluation_summary
    from wmtp.reporting.texts import Texts

    texts = Texts(cfg.lang)
    metrics: dict[str, Any] = {}
    generating = cfg.samples is None
    with joined_ranks() if generating else nullcontext(launched()) as ranks:
        if ranks.rank and cfg.samples == "-":
            return {}  # standard input is the first one's
        find = _server if generator else _model if generating else _samples
        subject = find(cfg, ranks.local)
        folders = [_folder(cfg, subject, benchmark) for benchmark in subject.suite]
        if ranks.rank and generating:
            for benchmark, out in zip(subject.suite, folders, strict=True):
                assist(benchmark, out, ranks=ranks, **subject.source)
            return {}
        how = dict(ks=tuple(cfg.ks), overwrite=cfg.overwrite, progress=cfg.progress)
        how |= {"suite": subject.suite, "checkpoint": subject.checkpoint}
        cfg.sandbox.workers = cfg.sandbox.workers or ranks.workers(judging_alone=generating)
        with build(cfg.sandbox) as sandbox:
            print(f"isolation: {sandbox.isolation}")
            for benchmark, out in zip(subject.suite, folders, strict=True):
                how["extract"] = cfg.extract or ("auto" if benchmark.prompt.conversation else "none")
                found = evaluate(benchmark, out, sandbox=sandbox, ranks=ranks, **how, **subject.source)
                if not found:
                    print(texts("{name}: the last of those who judge in {out} sums up", name=benchmark.name, out=out))
                    continue
                report = write_evaluation_report(out, benchmark.problems, texts)
                print(evaluation_summary(benchmark.name, found, report, texts))
                if subject.run:
                    from wmtp.run.mlflow_store import log_evaluation

                    log_evaluation(subject.run, f"{subject.label}-{benchmark.name}", found, out)
                metrics |= found
    return metrics


def _difference(cfg: DictConfig) -> dict[str, Any]:
    """Compare the results of two evaluations; nothing is evaluated."""
    from wmtp.reporting.difference import compare_folders
    from wmtp.reporting.texts import Texts

    parts = str(cfg.diff).split(",")
    pairs = [(",".join(parts[:i]), ",".join(parts[i:])) for i in range(1, len(parts))]  # a name may hold a comma
    folders = [tuple(Path(name.strip()).expanduser() for name in pair) for pair in pairs]
    both = next((pair for pair in folders if all(folder.is_dir() for folder in pair)), None)
    if both is None:
        raise ConfigError(f"diff = {cfg.diff} must be two folders with results, as in diff=runs/a/eval,runs/b/eval.")
    before, after = both
    found, said = compare_folders(before, after, Texts(cfg.lang))
    print(said)
    return asdict(found)


def _model(cfg: DictConfig, local_rank: int) -> Subject:
    """Load the model that `ckpt` names."""
    import torch

    from wmtp.checkpoints.saved_model import SavedModel
    from wmtp.evaluation.generators import InProcess
    from wmtp.ranks.processors import fit_threads

    quiet_libraries()
    fit_threads()
    if (is_s3(cfg.ckpt) or _is_model(cfg.ckpt)) and not cfg.out:
        raise ConfigError(f"out has no value, and results cannot go beside {cfg.ckpt}; set out=DIR.")
    saved = SavedModel(_find(cfg))
    suite, asking = _suite(cfg, saved.config), build(_prompt_of(cfg.prompt, saved.config))
    for benchmark in suite:
        benchmark.all_problems  # noqa: B018  (a wrong row is said before a model is loaded)
    asking.check(saved.tokenizer, f"ckpt = {cfg.ckpt}")
    model, tokenizer = saved.load()
    suite = asking.of_model(suite, model, tokenizer, f"ckpt = {cfg.ckpt}", saved.taught)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if cfg.device:
        model.to(cfg.device)
    elif accelerator is not None:
        model.to(f"{accelerator.type}:{local_rank % torch.accelerator.device_count()}")
    sampling = build(cfg.sampling)
    run = run_of(saved.path) if saved.path.parent.name == "checkpoints" else None
    return Subject(
        source=dict(generator=InProcess(model, tokenizer), sampling=sampling),
        suite=suite,
        folder=run or (saved.path if saved.exported else saved.path.parent),
        label=f"{saved.path.stem}-T{sampling.temperature:g}-n{sampling.n}",
        checkpoint=saved.identity,
        run=run,
    )


def _prompt_of(prompt: DictConfig, run_config: dict[str, Any] | None) -> DictConfig:
    """Take from the run what a user leaves to it: a model that was taught in conversations is asked in those words.

    Raises:
        CheckpointError: 거기 적힌 것이 평범한 값이 아닐 때.
    """
    recorded = (run_config or {}).get("prompt") or {}
    if prompt.chat != "auto" or recorded.get("chat") is not True:
        return prompt
    usual: Any = OmegaConf.load(config_dir() / "prompt" / "default.yaml")
    left = {
        key: recorded[key]
        for key in ("system", "instruction", "variables")
        if prompt[key] == usual[key] and key in recorded
    }
    if not _is_plain(left):
        raise CheckpointError("ckpt: what it says of its prompt holds more than plain values; set prompt.chat=true.")
    asked = deepcopy(prompt)
    asked.merge_with(left)
    return asked


def _server(cfg: DictConfig, local_rank: int) -> Subject:
    """Ask the server that `generator` names whether it would write; no model is loaded."""
    if not cfg.out:
        raise ConfigError("out has no value, and results cannot go beside a server; set out=DIR.")
    sampling, server = build(cfg.sampling), build(cfg.generator)
    suite = build(cfg.prompt).of_server(_suite(cfg, None), server)
    server.check()
    name = re.sub(r"[^\w.+-]+", "_", server.model)
    return Subject(
        source=dict(generator=server, sampling=sampling),
        suite=suite,
        folder=Path(cfg.out),
        label=f"{name}-T{sampling.temperature:g}-n{sampling.n}",
        checkpoint=server.identity,
    )


def _find(cfg: DictConfig) -> Path:
    """Turn what a user calls a model into a .ckpt file or an exported folder."""
    name = str(cfg.ckpt)
    if _is_model(name):
        from wmtp.models.loading import find_model

        return find_model(name.removeprefix(ELSEWHERE), "ckpt")
    if name.startswith("registry:"):
        from wmtp.run.mlflow_store import default_uri
        from wmtp.run.registry import find_registered

        return find_registered(name, default_uri(Path(cfg.runs)))
    run_id = re.fullmatch(r"mlflow:(.+)|([0-9a-f]{32})", name)
    if run_id:
        from wmtp.run.mlflow_store import default_uri, run_directory_of

        folder = run_directory_of(run_id[1] or run_id[2], default_uri(Path(cfg.runs)))
    else:
        folder = in_use().find_checkpoint(name) if is_s3(name) else Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        in_use().find_model(str(folder), "ckpt")  # says what to give instead
    return folder if (folder / "config.json").is_file() else resolve_checkpoint(str(folder), Path())


def _is_model(ckpt: Any) -> bool:
    """Say whether `ckpt` is written as `model.path` is: its folder may be one of the cache, where no results belong."""
    return str(ckpt).startswith(ELSEWHERE) or str(ckpt).endswith(".gguf")


def _samples(cfg: DictConfig, local_rank: int) -> Subject:
    """Find out in which shape the samples are, and for which benchmarks."""
    from wmtp.evaluation.sample_files import STANDARD_INPUT, read_answers
    from wmtp.evaluation.samples import read_samples

    if cfg.prompt.chat is True:
        raise ConfigError("prompt.chat = true, but samples have been asked for already; leave it out.")
    file = Path(cfg.samples).expanduser()
    suite = _suite(cfg, None)
    if file == STANDARD_INPUT and not cfg.out:
        raise ConfigError("out has no value, and results cannot go beside standard input; set out=DIR.")
    shape, answers = read_answers(file)
    print(f"samples: {shape}, {len(answers)} answers")
    del answers  # they may be larger than everything else
    kept = [benchmark for benchmark in suite if read_samples(file, benchmark, suite)]
    for benchmark in suite:
        if benchmark not in kept:
            print(f"{benchmark.name}: no sample in {file}")
    if not kept:
        raise ConfigError(f"samples = {file} holds no sample of {', '.join(b.name for b in suite)}; choose another.")
    return Subject(source=dict(samples=file), suite=kept, folder=file.parent, label=file.stem)


def _suite(cfg: DictConfig, run_config: dict[str, Any] | None) -> list[Any]:
    """Build the benchmarks to run: those asked for, or those of the run."""
    if cfg.get("benchmark"):
        return build(cfg.benchmark.suite)
    if run_config is None:
        raise ConfigError(
            "benchmark has no value and this is not a run that names one; set benchmark=synthetic, mbpp, …"
        )
    return build(benchmark_of_run(run_config.get("benchmark")).suite)


def benchmark_of_run(recorded: Any) -> DictConfig:
    """Compose from conf/benchmark what a run says of its benchmark: its name, and plain values for that file's keys.

    [연구 맥락] 체크포인트는 남이 준 파일이다. 거기 적힌 `_target_`은 하나도 부르지 않는다: 이름으로 우리 설정을 찾고,
        그 설정의 키에 평범한 값만 넣는다. 그렇게 조합한 것이 적힌 것과 다르면 조용히 다른 것을 재는 대신 거부한다.

    Raises:
        CheckpointError: 모르는 이름, 평범하지 않은 값, 손으로 고친 벤치마크.
    """
    again = "; say which one to run: benchmark=mbpp, humaneval, … (conf/benchmark/)."
    options = {file.stem: file for file in sorted((config_dir() / "benchmark").glob("*.yaml"))}
    name = recorded.get("name") if isinstance(recorded, dict) else None
    if not isinstance(name, str) or name not in options:
        raise CheckpointError(f"ckpt: its benchmark is {name!r}, which is none of {', '.join(options)}{again}")
    ours = OmegaConf.load(options[name])
    values = {key: value for key, value in recorded.items() if key in ours and key != "suite"}
    if not _is_plain(values):
        raise CheckpointError(f"ckpt: what it says of its benchmark {name} holds more than plain values{again}")
    composed = OmegaConf.create({"benchmark": OmegaConf.merge(ours, values)}).benchmark
    if OmegaConf.to_container(composed.suite, resolve=True) != recorded.get("suite"):
        raise CheckpointError(f"ckpt: its benchmark is {name}, but not as conf/benchmark/{name}.yaml has it{again}")
    return composed


def _is_plain(value: Any) -> bool:
    """Say whether a value from a file can only be a value: nothing to instantiate, nothing to resolve."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and key[:1] != "_" and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "${" not in value)


def _folder(cfg: DictConfig, subject: Subject, benchmark: Any) -> Path:
    """Say where the results of a benchmark go; several benchmarks never share a folder, nor do points of a sweep."""
    if not cfg.out:
        return subject.folder / "eval" / f"{subject.label}-{benchmark.name}"
    out = Path(cfg.out).expanduser()
    if sweep_point():
        return out / f"{subject.label}{sweep_point()}" / benchmark.name
    return out if len(subject.suite) == 1 else out / benchmark.name


def main() -> None:
    """Run from the command line."""
    front_door(evaluate_checkpoint, "eval")


if __name__ == "__main__":
    main()
