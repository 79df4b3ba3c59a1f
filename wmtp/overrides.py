"""Read what a user typed: take values as they are, refuse keys that nothing reads, name the key that was meant.

[연구 맥락] 조합되고 시험 실행도 통과하지만 아무것도 바꾸지 않는 키(`+lam=0.0`)는 가장 비싼 실수다:
    결과가 나온 뒤에도 모른다.
[동작] 값은 사용자가 적은 그대로다. Hydra의 문법이 모르는 글자(한글, 괄호, `=`)가 있으면 따옴표를 대신 붙인다
    (`for_hydra`). 조합된 설정의 키는 셋 중 하나여야 한다 (`refuse_unread_keys`): `_target_`이 받는 인자, 어떤
    보간(`${…}`)이 읽는 키, conf/의 파일에 적힌 키. 그 파일의 키를 코드가 읽는지는 scripts/check_configs.py가 본다.
[디버깅] 거부된 키가 정말 읽히는 키라면 conf/의 파일에 기본값과 함께 적는다.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from wmtp import ranges
from wmtp.errors import ConfigError, first_line

KINDS: dict[type | tuple[type, ...], str] = {
    bool: "true or false",
    int: "a whole number",
    (str, type(None)): "a text",
    ListConfig: "a list, such as [1, 10]",
}
# Whatever is typed there is a text: name=20261126, and samples=a,b.jsonl unless a sweep is asked for.
TEXTS = (
    "name",
    "ckpt",
    "samples",
    "diff",
    "out",
    "runs",
    "mlflow_experiment",
    "model.path",
    "data.path",
    "benchmark.path",
)
ABSENT = object()
DEPTH = 40  # brackets in brackets, or keys under keys; Python's stack ends at a few hundred


def for_hydra(arguments: list[str]) -> list[str]:
    """Write arguments as Hydra's command line wants them: options first, quotes where its grammar needs them.

    Raises:
        ConfigError: 너무 깊게 겹친 인자, 또는 따옴표를 붙여도 읽을 수 없는 키.

    Example:
        >>> for_hydra(["name=한글", "-m", "ckpt=runs/a-lam=0.1", "samples=a (1).jsonl", "lam=0.1,0.3"])
        ['-m', "name='한글'", "ckpt='runs/a-lam=0.1'", "samples='a (1).jsonl'", 'lam=0.1,0.3']
    """
    overrides = [argument for argument in arguments if is_override(argument)]
    options = [argument for argument in arguments if not is_override(argument)]
    sweeping = bool({"-m", "--multirun"} & set(options))
    return [*options, *(_quoted(override, sweeping) for override in overrides)]


def is_override(argument: str) -> bool:
    """Tell `key=value` and `~key` from an option and its value."""
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def read_override(text: str) -> Override | None:
    """Read one argument by Hydra's grammar; None if it cannot be read."""
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, RecursionError):
        return None


def _quoted(override: str, sweeping: bool) -> str:
    key, _, value = override.partition("=")
    if key.count(".") > DEPTH or max(map(value.count, "[{(")) > DEPTH:
        raise ConfigError(f"{override[:40]}… is nested too deeply; no key of this config is (see --cfg job).")
    read = read_override(override)
    if read and not (key in TEXTS and _means_a_text(read.value(), sweeping)):
        return override
    if read_override(f"{key}=1") is None:
        raise ConfigError(
            f"{override} cannot be read: a key is words of letters, digits and _ with dots between them, as in "
            "trainer.max_steps=50."
        )
    attempts = [QuotedString(value, Quote.single).with_quotes()]
    if value.startswith("[") and value.endswith("]"):
        attempts = [f"[{_each_quoted(value[1:-1])}]"]
    elif re.fullmatch(r"\{.*\}|\w+\(.*\)", value):  # means something to Hydra, and is spelled wrong
        attempts = []
    elif sweeping and "," in value:
        attempts.insert(0, _each_quoted(value))
    readable = next((attempt for attempt in attempts if read_override(f"{key}={attempt}")), None)
    if readable is None:
        text = QuotedString(value, Quote.double).with_quotes()
        raise ConfigError(
            f"{override} cannot be read as a list, a mapping or a function of Hydra. Put the texts in it between "
            f"quotes, or all of it if it is one text: '{key}={text}'."
        )
    return f"{key}={readable}"


def _means_a_text(value: object, sweeping: bool) -> bool:
    """Say whether Hydra reads something else where a text was typed: a number, or values to sweep over."""
    return isinstance(value, int | float) or (isinstance(value, ChoiceSweep) and value.simple_form and not sweeping)


def _each_quoted(values: str) -> str:
    """Quote those of the values between commas that Hydra cannot read."""
    return ",".join(
        value if read_override(f"key={value}") else QuotedString(value.strip(), Quote.single).with_quotes()
        for value in values.split(",")
    )


def check_config(cfg: DictConfig, conf: Path, root: str, choices: Mapping[str, str | None]) -> None:
    """Refuse what composes and cannot work: a circle of `${…}`, a key that nothing reads, a list for a text.

    Args:
        root: 앞문의 설정 파일 이름, "train" 또는 "eval".
        choices: 그룹마다 고른 선택지.

    Raises:
        ConfigError: 위의 것이 하나라도 있을 때.
    """
    shipped: Any = OmegaConf.load(conf / f"{root}.yaml")
    _refuse_unreadable(cfg)
    _refuse_unread(cfg, conf, shipped, choices)
    _refuse_other_kinds(cfg, shipped)


def _refuse_unreadable(cfg: DictConfig) -> None:
    for key in leaves(cfg):
        try:
            OmegaConf.select(cfg, key)
        except (MissingMandatoryValue, InterpolationToMissingValueError):
            pass  # for the user to give: said once for all of them
        except (OmegaConfBaseException, RecursionError) as error:
            reason = first_line(error)
            if isinstance(error, RecursionError) or "Recursive" in reason:
                reason = "it leads back to itself"
            raw: Any = OmegaConf.to_container(cfg, resolve=False)
            for part in key.split("."):
                raw = raw[part]
            raise ConfigError(f"{key} = {raw} cannot be read: {reason.rstrip('.')}. Give it a value.") from None


def _refuse_unread(cfg: DictConfig, conf: Path, shipped: DictConfig, choices: Mapping[str, str | None]) -> None:
    read = reads_of_config(cfg)
    known = set(leaves(shipped))

    @cache
    def options_of(group: str) -> dict[str, set[str]]:
        return {file.stem: keys_of(file, group) for file in sorted((conf / group).glob("*.yaml"))}

    def keys_of(file: Path, group: str) -> set[str]:
        """List the keys of an option, and of those of its group that it begins with."""
        option: Any = OmegaConf.load(file)
        before = [file.with_name(f"{name}.yaml") for name in option.get("defaults", ()) if isinstance(name, str)]
        inherited = (keys_of(other, group) for other in before if other.exists())
        return set(leaves(option, group, below_targets=False)).union(*inherited)

    for key in leaves(cfg, below_targets=False):
        if key in known or any(f"{key}.".startswith(f"{reader}.") for reader in read):
            continue
        group = key.split(".")[0]
        options = options_of(group)
        chosen = options.get(choices.get(group) or "", set().union(*options.values()))
        if not any(f"{key}.".startswith(f"{own}.") for own in chosen):
            having = [option for option, keys in options.items() if key in keys]
            there = [other for other in leaves(cfg) if other != key]
            hint = f" It is a key of {group}={', '.join(having)}." if having else did_you_mean_key(key, there)
            raise ConfigError(f"{key} changes nothing: nothing reads this key (see --cfg job).{hint}")


def _refuse_other_kinds(cfg: DictConfig, shipped: DictConfig) -> None:
    """Hold the keys that the program itself reads to the kind of their default; a `_target_` checks its own."""
    for key in leaves(shipped):
        default, value = OmegaConf.select(shipped, key), OmegaConf.select(cfg, key)
        if key == "defaults" or value is None or (default is None and isinstance(value, str)):
            continue
        wanted = next(name for kind, name in KINDS.items() if isinstance(default, kind))
        if default is None or type(value) is not type(default):
            raise ConfigError(f"{key} = {value!r} must be {wanted}.")


def check_ranges(cfg: DictConfig) -> None:
    """Refuse values out of range, by the rules of the classes that they are for, before any of those is imported.

    [동작] wmtp의 `_target_`마다 같은 이름의 표를 `wmtp.ranges`에서 찾는다. 아직 없는 값(`???`)은 보지 않는다.

    Raises:
        ConfigError: 범위 밖의 값이 있을 때. 클래스가 나중에 말할 것과 같은 문장이다.
    """
    for key, rule in ranges.PROGRAM.items():
        if (value := OmegaConf.select(cfg, key, default=ABSENT)) is not ABSENT:
            rule(key, _plain(value))
    for node in _built(cfg):
        package, _, name = node._target_.rpartition(".")
        rules = getattr(ranges, name, None) if package.startswith("wmtp.") else None
        if isinstance(rules, dict):
            ranges.check(rules, **{name: _plain(node[name]) for name in map(ranges.name_of, rules) if name in node})


def _built(node: DictConfig | ListConfig) -> Iterator[DictConfig]:
    """List the nodes that a class is built from, outer ones first."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield node
    keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        inner = node._get_node(key)
        if isinstance(inner, DictConfig | ListConfig) and not (
            inner._is_none() or inner._is_missing() or inner._is_interpolation()
        ):
            yield from _built(inner)


def _plain(value: Any) -> Any:
    """Give a value in the plain types in which a class gets it."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def did_you_mean_key(key: str, keys: list[str]) -> str:
    """Name the keys that were probably meant: those of the same last word, else those spelled alike.

    Example:
        >>> did_you_mean_key("lam", ["algo.weighting.lam", "seed"])
        ' Did you mean algo.weighting.lam?'
        >>> did_you_mean_key("trainer.max_step", ["trainer.max_steps", "seed"])
        ' Did you mean trainer.max_steps?'
    """
    last = key.rpartition(".")[2]
    meant = [other for other in keys if other.rpartition(".")[2] == last]
    if not meant:
        words = difflib.get_close_matches(last, {other.rpartition(".")[2] for other in keys}, n=1, cutoff=0.75)
        meant = [other for other in keys if other.rpartition(".")[2] in words]
    meant.sort(key=lambda other: -difflib.SequenceMatcher(None, key, other).ratio())
    return f" Did you mean {' or '.join(meant[:3])}?" if meant else ""


def leaves(node: DictConfig, path: str = "", below_targets: bool = True) -> Iterator[str]:
    """List the keys of a config that hold values; those below a `_target_` are for its signature to check."""
    for key in node:
        inner = f"{path}.{key!s}".lstrip(".")
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not (value._is_none() or value._is_missing() or value._is_interpolation()):
            if (below_targets or "_target_" not in value) and inner != "hydra":
                yield from leaves(value, inner, below_targets)
        else:
            yield inner


def reads_of_config(cfg: DictConfig) -> set[str]:
    """List the keys that interpolations read, `${key}` or `${resolver:key,…}`."""
    return set(re.findall(r"\$\{(?:[\w.]+:)?([\w.]+)", str(OmegaConf.to_container(cfg, resolve=False))))
