"""Compute ahead what every run of a study needs again: the tokens, and the reference model's loss of each.

    python -m wmtp.precompute                                       the main job's, so that its runs need no reference
    python -m wmtp.precompute data=mbpp model.reference=DIR trainer=gpu
    python -m wmtp.precompute trainer=ddp trainer.devices=8         eight processes share the work

[동작] 설정은 `python -m wmtp.train`과 같다: 학습할 명령에서 모듈 이름만 바꾸면 그 학습이 읽을 것을 만든다.
    언제 멈춰도 같은 명령이 남은 것만 한다. 여러 번 띄우면 나누어 한다.
"""

import time

from omegaconf import DictConfig

from wmtp.cli import build, check_values, front_door, in_its_storage, quiet_libraries
from wmtp.errors import ConfigError


@in_its_storage
def precompute(cfg: DictConfig) -> None:
    """Fill the cache for the training that the config describes.

    Raises:
        ConfigError: 미리 계산할 참조모델이 없는 알고리즘일 때.
    """
    check_values(cfg)
    from lightning_fabric import Fabric

    from wmtp.algos.reference import CachedReference
    from wmtp.data.leakage import guard
    from wmtp.ranks.processors import fit_threads

    quiet_libraries()
    fit_threads()
    started = time.monotonic()
    reference = build(cfg.algo.get("reference"))
    if not isinstance(reference, CachedReference):
        raise ConfigError("algo has no losses to compute ahead; choose algo=rho1 algo/reference=cached.")
    tokenizer = build(cfg.model).load_tokenizer()
    data, asking = build(cfg.data.module, tokenizer=tokenizer), build(cfg.prompt)
    if asking.teaches(data.source):
        data.prompt = asking.taught(data.prompt, tokenizer, f"model.path = {cfg.model.path}")
    data.source, _ = guard(data.source, build(cfg.benchmark.suite), cfg.data.leakage)
    data.setup()
    reference.frozen.check_reads(data)
    where = {key: cfg.trainer[key] for key in ("accelerator", "devices", "precision")}
    fabric = Fabric(num_nodes=cfg.trainer.get("num_nodes", 1), **where)
    fabric.launch()
    samples = data.samples["train"]
    reference.compute(
        samples,
        fabric.strategy.precision.precision,
        token_budget=data.token_budget,
        pad_token_id=tokenizer.pad_token_id,
        device=fabric.device,
        autocast=fabric.autocast,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    if fabric.is_global_zero:
        losses = reference.files(samples, fabric.strategy.precision.precision)[0].parent
        print(
            f"{data.source.name}: the losses of {sum(samples.targets)} target tokens in {len(samples)} samples lie in "
            f"{losses} ({time.monotonic() - started:.0f} s)"
        )


def main() -> None:
    """Run from the command line."""
    front_door(precompute, "train")


if __name__ == "__main__":
    main()
