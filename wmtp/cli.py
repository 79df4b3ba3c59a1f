"""Compose a config, call the program, and answer mistakes in one sentence.

[동작] 앞문(train.py, eval.py)이 함께 쓴다. 사용자의 실수(`WmtpError`, Hydra의 조합 오류)는 한 문장과 종료 코드 2로,
    버그는 추적(traceback) 그대로 드러난다. 어느 쪽이든 비밀은 가리고, 비밀이 적힌 명령은 시작하지 않는다.
    torch와 Lightning은 여기서 부르지 않는다: `--help`와 설정 오류가 1초 안에 나온다.
"""

import difflib
import errno
import hashlib
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, MissingMandatoryValue

from wmtp.errors import ConfigError, WmtpError, chain, first_line
from wmtp.flat_keys import nested_form
from wmtp.launch.job import Job
from wmtp.overrides import check_config, check_ranges, did_you_mean_key, for_hydra, is_override, leaves, read_override
from wmtp.secrets import mask_secrets, refuse_secrets
from wmtp.usage import choices_of, door_of, usage

# Hydra's launchers that the extra `sweeps` brings: points side by side, or as SLURM jobs.
_LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")
# What is wrong with a path, not with the program.
_NO_PLACE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
_NO_ROOM = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "your quota of the disk is used up",
    errno.EFBIG: "a file may not grow that large here",
}
LONGEST_POINT = 80  # bytes of a run's name that say which point of a sweep it is


def config_dir() -> Path:
    """Return the folder of configs: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"  # what lies beside an installed package is not ours


def front_door(program: Callable[[DictConfig], Any], config_name: str, go_on: tuple[str, ...] = ()) -> None:
    """Run `program` on the config that the command line composes, here or by its launcher; never returns.

    Args:
        go_on: 같은 명령이 다시 시작될 때 이어 가게 하는 인자. 그런 것이 없어도 이어 가는 앞문이면 비운다.

    Exit codes: 0 well, 2 one sentence (the user's mistake, or a run that cannot go on), 130 Ctrl-C, 1 a bug, and
    `recovery.requeue_exit_code` when the same command with ckpt=auto would go on.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(usage(program, config_dir(), config_name, sys.argv[1:]))
        sys.exit(0)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions reach us instead of Hydra's own print
    quiet()
    sys.excepthook = _show_bug
    mistakes = []
    typed = sys.argv

    def job(cfg: DictConfig) -> Any:
        sys.argv = typed  # what is printed, recorded and given to other ranks is what the user typed
        try:
            _refuse_secrets_of_files(cfg)
            check_config(cfg, config_dir(), config_name, HydraConfig.get().runtime.choices)
            launcher = build(cfg.get("launcher"))
            return launcher.start(_job(program, cfg, launcher, go_on)) if launcher else program(cfg)
        except Exception as error:  # answered here, because Hydra would print the overrides above the sentence
            mistakes.append(_answer(error, config_name, go_on=_sweeping()))
            if _sweeping():
                from wmtp.run.sweep import Point, remember

                remember(Point(sweep_point(), "failed", why=mistakes[-1]))

    try:
        for argument in sys.argv[1:]:
            key, _, value = argument.lstrip("+").partition("=")
            refuse_secrets({key: value})
        _refuse_several_sources(sys.argv[1:])
        sys.argv = [typed[0], *for_hydra(typed[1:])]
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(job)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        mistakes.append(_answer(error, config_name))
    finally:
        sys.argv = typed
    sys.exit(2 if mistakes else 0)


def _job(program: Callable[[DictConfig], Any], cfg: DictConfig, launcher: Any, go_on: tuple[str, ...]) -> Job:
    """Describe this very run to a launcher: what was typed, but what is the launcher's; all checked as if it began.

    [동작] 런처가 띄울 프로세스의 수가 trainer의 것과 다르면 그것도 적는다: 어긋난 작업은 몇 시간 뒤에야 멈춘다.
        탐색의 점은 저마다 작업이 되므로, 이름에 점을 붙인다.
    """
    check_values(cfg)
    typed = _asked()
    ours = [word for word in typed if _key(word).split(".")[0] in ("launcher", "dry_run")]
    replaced = {"trainer.num_nodes": launcher.nodes, "trainer.devices": launcher.processes} if "trainer" in cfg else {}
    replaced = {key: value for key, value in replaced.items() if OmegaConf.select(cfg, key) != value}
    if sweep_point() and cfg.get("name"):
        replaced["name"] = f"{cfg.name}{sweep_point()}"
    if not any(_key(word) == "launcher" for word in ours):  # chosen by a file that the job reads as well
        replaced["launcher"] = "local"
    kept = [word for word in typed if word not in ours and _key(word) not in replaced]
    return Job(
        module=f"wmtp.{door_of(program)}",
        arguments=(*kept, *(f"{key}={value}" for key, value in replaced.items())),
        name=replaced.get("name", cfg.get("name")),
        go_on=tuple(one for one in go_on if cfg.get(_key(one)) is None),
        requeue_code=cfg.recovery.requeue_exit_code if go_on else None,
        dry_run=bool(cfg.get("dry_run")),
        sweeping=_sweeping(),
    )


def _refuse_secrets_of_files(cfg: DictConfig) -> None:
    """Refuse a secret that a YAML file of the user holds; a sweep's record would have it already."""
    try:
        plain: Any = OmegaConf.to_container(cfg, resolve=False)
        refuse_secrets(plain)
    except ConfigError:
        if _sweeping():
            (Path(HydraConfig.get().sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
        raise


def _show_bug(kind: type[BaseException], error: BaseException, stack: Any) -> None:
    """Print a bug's stack as Python does, secrets masked."""
    print(mask_secrets("".join(traceback.format_exception(kind, error, stack))), end="", file=sys.stderr)


def _refuse_several_sources(arguments: list[str]) -> None:
    """Say how to mix sources: Hydra would only say that a list is no name of an option."""
    several = [argument for argument in arguments if re.fullmatch(r"data=\[.*\]|data=\w+(,\w+)+", argument)]
    if several and not {"-m", "--multirun"} & set(arguments):
        names = re.findall(r"\w+", several[0].removeprefix("data="))
        raise ConfigError(
            f"data = {several[0].removeprefix('data=')} must be one choice. To mix sources: data=mix "
            f"{' '.join(f'data.weights.{name}=1' for name in names)} (0 leaves a source out, see conf/data/mix.yaml)."
        )


def _answer(error: Exception, config_name: str, go_on: bool = False) -> str:
    """Print a user's mistake; raise a bug, or show it where others of a sweep wait."""
    sentence = explain(error, config_name)
    if sentence is None:
        if not go_on:
            raise error
        _show_bug(type(error), error, error.__traceback__)
        sentence = f"{type(error).__name__}: {first_line(error)}"
    print(mask_secrets(sentence), file=sys.stderr)
    return sentence


def explain(error: BaseException, config_name: str = "train") -> str | None:
    """Say a user's mistake in one sentence; None if the error is a bug of ours.

    Args:
        config_name: 앞문의 설정. 뜻했을 키를 그 안에서 찾는다.

    Example:
        >>> explain(ConfigError("algo.weighting.lam = 7 must be in [0, 1]; try 0.3."))
        'ConfigError: algo.weighting.lam = 7 must be in [0, 1]; try 0.3.'
    """
    causes = list(chain(error))
    for cause in causes:
        if isinstance(cause, WmtpError):
            return f"{type(cause).__name__}: {cause}"
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            place = f" for {cause.filename}" if cause.filename else ""
            return f"DiskFullError: {_NO_ROOM[cause.errno]}{place}; free some and go on with ckpt=last."
        if isinstance(cause, OSError) and cause.errno in _NO_PLACE and (given := _path_given(cause.filename)):
            key, path = given
            return f"ConfigError: {key} = {path} cannot be used ({cause.strerror}); give another path."
    for cause in causes:
        if isinstance(cause, MissingConfigException):
            return f"ConfigError: {_unknown_option(cause)}"
        if isinstance(cause, (MissingMandatoryValue, InterpolationToMissingValueError)):
            named = re.search(r"Missing mandatory value: (\S+)", str(cause))  # where another key refers to it
            key = named[1] if named else cause.full_key or "a key"
            return f"ConfigError: {key} has no value and no default; set it: {key}=…"
        if isinstance(cause, ConfigCompositionException):
            return f"ConfigError: {_unknown_key(cause, config_name)}"
        if isinstance(cause, InstantiationException):
            return f"ConfigError: {_wrong_call(cause)}"
        if isinstance(cause, (HydraException, InterpolationKeyError)):
            return f"ConfigError: {first_line(cause)}"
        if isinstance(cause, AssertionError) and (swept := _narrowed()):
            return f"ConfigError: hydra.sweeper.params.{swept} narrows an experiment that sweeps; here give {swept}."
    if "torch" in sys.modules:
        from wmtp.run.failure import WORDS, kind_of

        if kind_of(error) == "out_of_memory":
            return f"OutOfMemoryError: {first_line(error).rstrip('.')}. {WORDS['out_of_memory'][1]}"
    return None


def _path_given(file: Any) -> tuple[str, str] | None:
    """Find the argument that gave the path of a file, so that a sentence can name its key."""
    given = [argument.split("=", 1) for argument in sys.argv[1:] if is_override(argument) and "=" in argument]
    return next(((key, path) for key, path in given if path and str(file).startswith(path)), None)


def _narrowed() -> str | None:
    """Find what narrows the sweep of an experiment; OmegaConf asserts where there is no sweep to narrow."""
    found = (re.match(r"\+*hydra\.sweeper\.params\.(.+)", word) for word in sys.argv[1:])
    return next((match[1] for match in found if match), None)


def build(config: Any, **kwargs: Any) -> Any:
    """Instantiate the `_target_`s of a config, with plain lists and dicts in their arguments."""
    return hydra.utils.instantiate(config, _convert_="all", **kwargs)


def in_its_storage(program: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Let everything that a program finds or keeps be in the storage that its config describes."""

    @wraps(program)
    def inside(cfg: DictConfig) -> Any:
        from wmtp.storage import using

        with using(build(cfg.storage)):
            return program(cfg)

    return inside


def check_values(cfg: DictConfig) -> None:
    """Refuse a config in which a value is missing or out of its range, before anything slow.

    Raises:
        ConfigError: `???`로 남은 키가 있거나, 범위 밖의 값이 있을 때 (`wmtp.ranges`).
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"{missing[0]} has no value and no default; set it: {missing[0]}=… (see conf/).")
    check_ranges(cfg)


def quiet_libraries() -> None:
    """Silence Lightning's and transformers' own announcements; imports both, so not for `--help`."""
    import pytorch_lightning as lightning
    import transformers

    logging.getLogger(lightning.__name__).setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()


def sweep_point() -> str:
    """Name a point of a sweep by what is swept, `-lam_0.1-temperature_0.5`; empty outside a sweep.

    [동작] 이름은 셸에서도 Hydra에서도 따옴표 없이 쓸 수 있고, 어떤 파일 시스템에도 들어가게 짧다.
    """
    if not _sweeping():
        return ""
    swept = _swept_keys()
    point = [override for override in map(read_override, HydraConfig.get().overrides.task) if override]
    named = [(override.key_or_group, override.value()) for override in point if override.key_or_group in swept]
    whole = "".join(f"-{re.split('[./]', key)[-1]}_{value}" for key, value in named)
    name = re.sub(r"[^\w.+-]+", "_", whole)
    if len(name.encode()) <= LONGEST_POINT:
        return name
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST_POINT - 9].decode(errors='ignore')}-{digest}"


def _swept_keys() -> set[str]:
    """Say which keys name the points of this sweep.

    [동작] 실험이 훑는 키와, 값을 여럿 받은 키. 실험의 키는 값 하나만 남겨도 이름에 든다
    (`hydra.sweeper.params.seed=42`): 그래야 일부만 한 점이 전체의 같은 점과 이름이 같고, 두 번 돌지 않는다.
    """
    params = OmegaConf.select(HydraConfig.get().sweeper, "params") or {}
    asked = [*for_hydra(sys.argv[1:]), *(f"{key}={value}" for key, value in params.items())]
    read = [override for override in map(read_override, filter(is_override, asked)) if override]
    return {*map(str, params), *(override.key_or_group for override in read if override.is_sweep_override())}


def refuse_sweep_over_devices(cfg: DictConfig) -> None:
    """Refuse a sweep whose points run on several local devices: a failing rank would mix the points.

    Raises:
        ConfigError: 멀티런인데 장치가 여럿일 때.
    """
    devices = cfg.trainer.devices
    if _sweeping() and devices not in (1, "1"):
        raise ConfigError(
            f"trainer.devices = {devices} cannot be swept over in one process; start one launch per point "
            "(a shell loop, or hydra/launcher=submitit_local)."
        )


def command_again(*overrides: str) -> str:
    """Write the command that goes on from here: the same one, with `overrides` in place of their keys.

    [동작] 탐색에서는 이 점 하나만 도는 명령이다: 체크포인트 하나가 모든 점의 것이 되지 않도록.
    """
    return _command(_asked(), overrides)


def _asked() -> list[str]:
    """Give the arguments of this run; of a sweep, those with which this point alone is run."""
    asked = sys.argv[1:]
    if _sweeping():
        options = [argument for argument in asked if not is_override(argument)]
        once = [option for option in options if option not in ("-m", "--multirun")]
        # An experiment may ask for the sweep, and would again.
        asked = [*once, *HydraConfig.get().overrides.task, *(["hydra.mode=RUN"] if once == options else [])]
    return asked


def command() -> str | None:
    """Write the command that began this run; of a sweep, that of this point. None where nobody typed one."""
    return command_again() if HydraConfig.initialized() else None


def sweep_again(*overrides: str) -> str:
    """Write the command of the whole sweep, with `overrides` in place of their keys."""
    return _command(sys.argv[1:], overrides)


def _command(asked: list[str], overrides: tuple[str, ...]) -> str:
    replaced = {_key(override) for override in overrides}
    kept = [argument for argument in asked if _key(argument) not in replaced]
    door = HydraConfig.get().job.config_name if HydraConfig.initialized() else "train"
    module = f"wmtp.{door}"  # of what started here, though another process may have been started for this point
    return shlex.join(["python", "-m", module, *kept, *overrides])


def _key(argument: str) -> str:
    return argument.split("=", 1)[0].lstrip("+")


def chosen() -> list[str]:
    """List what this run was given on the command line; of a sweep, the values of this point."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _sweeping() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def quiet() -> None:
    """Silence what a user can do nothing about: tips, and warnings about loaders that are not DataLoaders."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning OpenMP threads can stall each other
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", category=FutureWarning)


def _root(error: BaseException) -> BaseException:
    return list(chain(error))[-1]


def _wrong_call(error: InstantiationException) -> str:
    key = re.search(r"full_key: (\S+)", str(error))
    target = re.search(r"target '([\w.]+)'", str(error))
    argument = re.search(r"got an unexpected keyword argument '(\w+)'", str(_root(error)))
    if key and target and argument:
        return f"{key[1]}.{argument[1]} is not a key that {target[1]} takes; leave it out, or correct its name."
    return f"{first_line(_root(error))} ({f'in {key[1]}' if key else 'while the config was put together'})."


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if not options:
        return first_line(error)
    if group == "data" and (config_dir() / "benchmark" / f"{option}.yaml").is_file():
        return (
            f"data = {option} is for evaluation only: training on a test split would make its numbers worthless. "
            f"Train on one of {', '.join(options)}, and evaluate with benchmark={option}."
        )
    if group == "hydra/launcher" and option in _LAUNCHERS:
        return f"{group} = {option} is not installed here; pip install 'wmtp[sweeps]', or leave it out."
    close = difflib.get_close_matches(option, options, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    return f"{group} = {option} is not one of {', '.join(options)} (conf/{group}/).{meant}"


def _unknown_key(error: ConfigCompositionException, config_name: str) -> str:
    message = str(error)
    taken = re.search(r"An item is already at '([^']+)'", message)
    taken = taken or re.search(r"Multiple values for ([^.\s]+)\.", message)
    if taken:
        return f"{taken[1]} is a key of this config already; write {taken[1]}=… without the +."
    unreadable = re.match(r"Error merging override (.*)", message)
    if unreadable:
        return f"{unreadable[1]} cannot be read: its ${{…}} is not closed, or spelled wrong."
    match = re.search(r"Could not (?:override|append|delete)[^']*'([^']+)'", message)
    if match is None:
        return message.splitlines()[0]
    key = match[1]
    if nested := nested_form(key):
        return nested
    if group := _group_of_others(key):
        return group
    node = getattr(error.__cause__, "parent_node", None)  # where OmegaConf looked for the key: what is composed already
    cfg = _composed(config_name) if node is None else node._get_root()
    parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else None
    adding = ""
    if isinstance(parent, DictConfig) and "_target_" in parent:
        adding = f" What {parent._target_} takes beyond its keys is added with +{key}=…"
    return f"{key} is not a key of this config (see --cfg job).{did_you_mean_key(key, list(leaves(cfg)))}{adding}"


def _group_of_others(key: str) -> str | None:
    """Say which options have a group inside that was chosen from without one of them; None where it is no group."""
    outer, _, inner = key.rpartition("/")
    having = [file.stem for file in sorted((config_dir() / outer).glob("*.yaml")) if inner in choices_of(file)]
    if not outer or not having:
        return None
    return f"{key} is a group of {outer}={', '.join(having)} alone; choose one of these too, or leave it out."


def _composed(config_name: str) -> DictConfig:
    """Compose the config of a front door with the choices of the command line, where they can be made."""
    choices = [argument for argument in sys.argv[1:] if re.fullmatch(r"[\w/]+=\w+", argument)]
    choices = [choice for choice in choices if (config_dir() / choice.split("=")[0]).is_dir()]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            return hydra.compose(config_name, choices)
        except HydraException:
            return hydra.compose(config_name)
