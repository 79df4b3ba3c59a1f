"""Bring the model of a run into use, or go back to the one before.

    python -m wmtp.promote run=runs/<name> to=staging
    python -m wmtp.promote run=runs/<name> to=production
    python -m wmtp.promote run=runs/<name> to=production force=true reason='…'
    python -m wmtp.promote rollback=NAME to=production
    python -m wmtp.eval ckpt=registry:NAME@production

[동작] 관문(`wmtp.run.registry.judge`)을 지나야 MLflow의 별칭이 옮겨 간다: 평가가 있고, 라이선스를 알고, 같은 문제에서
    지금의 production보다 나쁘지 않아야 한다. 거절하면 까닭을 모두 말한다.
"""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from wmtp.checks import check_choice
from wmtp.cli import check_values, front_door
from wmtp.errors import ConfigError
from wmtp.ranges import STAGES


def promote(cfg: DictConfig) -> str:
    """Promote or roll back as the config says.

    Returns:
        이제 별칭이 가리키는 판의 번호.

    Raises:
        ConfigError: 관문을 지나지 못했거나, 실행이 없거나, 되돌릴 것이 없을 때.
    """
    check_values(cfg)
    check_choice("to", cfg.to, STAGES, "These are the aliases of a registered model.")
    if (cfg.run is None) == (cfg.rollback is None):
        raise ConfigError("run and rollback: give exactly one, run=runs/<name> or rollback=NAME.")
    if cfg.force and not cfg.reason:
        raise ConfigError("reason has no value, and force=true records one; set reason='why it is right all the same'.")
    if cfg.run is not None and not (Path(cfg.run).expanduser() / "config.yaml").is_file():
        raise ConfigError(f"run = {cfg.run} is no run directory (it has no config.yaml); give runs/<name>.")
    from wmtp.run.mlflow_store import default_uri
    from wmtp.run.registry import Registry

    registry = Registry(default_uri(Path(cfg.runs)))
    if cfg.rollback is not None:
        left, now = registry.roll_back(cfg.rollback, cfg.to)
        print(f"{cfg.rollback}@{cfg.to} is version {now} again, and not {left}.")
        return now
    return _promote(cfg, registry)


def _promote(cfg: DictConfig, registry: Any) -> str:
    from wmtp.comparison.arms import find_runs
    from wmtp.run.registry import judge, release_notes

    (run,) = find_runs([str(Path(cfg.run).expanduser())])
    name = cfg.name or f"wmtp-{str(run.results.config.get('mlflow_experiment') or 'model').rpartition('/')[2]}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"name = {name!r} must be letters, digits and ._- only, and begin with a letter or a digit.")
    try:
        production = registry.run_in_use(name, "production")
    except ConfigError:
        if not cfg.force:
            raise
        production = None
    if production is not None and production.folder == run.folder:
        production = None
    judged = judge(run, production)
    if judged.reasons and not cfg.force:
        raise ConfigError(
            f"run = {cfg.run} does not become {cfg.to}: {'; '.join(judged.reasons)}. Or force=true reason='…', which "
            "is recorded."
        )
    reason = str(cfg.reason) if cfg.force else None
    notes = release_notes(run, name, cfg.to, production, judged, reason)
    number = registry.promote(name, cfg.to, run, notes, {f"forced.{cfg.to}": reason} if reason else {})
    (run.folder / "release_notes.md").write_text(notes, encoding="utf-8")
    print(f"{name}@{cfg.to} is version {number} now: {run.folder}")
    print(f"evaluate it:  python -m wmtp.eval ckpt=registry:{name}@{cfg.to}")
    print(f"the way back: python -m wmtp.promote rollback={name} to={cfg.to}")
    return number


def main() -> None:
    """Run from the command line."""
    front_door(promote, "promote")


if __name__ == "__main__":
    main()
