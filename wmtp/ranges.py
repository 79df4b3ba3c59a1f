"""Say which values each key may hold, class by class: read before torch is imported, and by the classes themselves.

[연구 맥락] 값 하나를 잘못 적었을 뿐인데 torch와 Lightning을 부르는 6초를 기다리게 하지 않는다. 그렇다고 규칙을 두 벌
    두면 언젠가 어긋난다. 그래서 규칙은 여기 한 벌이고, 두 곳이 같은 것을 부른다.
[동작] 클래스 이름과 같은 이름의 표가 설정의 키마다 규칙 하나를 든다. 클래스는 생성자에서
    `ranges.check(ranges.Rho1, score=score)`를 부르고, 앞문은 `_target_`의 마지막 낱말로 같은 표를 찾아, 조합된 설정에
    먼저 부른다 (`wmtp.overrides.check_ranges`).
    이어받은 클래스의 표는 `|`로 이어받는다. 값이 둘 이상 걸린 규칙은 그 값들이 만나는 곳에 있다.
[디버깅] 새 클래스에 표가 없어도 된다: 생성자에서 `wmtp.checks`를 바로 부르면, 조금 늦게 같은 문장이 나온다.
"""

import math
import os
import re
import signal
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from wmtp.checks import check_choice, check_curve, check_number, check_true_or_false, check_whole_number
from wmtp.errors import ConfigError

Rule = Callable[[str, Any], None]
Ranges = Mapping[str, Rule]


def check(ranges: Ranges, **values: Any) -> None:
    """Hold values to the rules of a class; a value's name is the last word of its key.

    Raises:
        ConfigError: 규칙에 맞지 않는 값이 있을 때.

    Example:
        >>> check(Rho1, score="relative")
        Traceback (most recent call last):
        wmtp.errors.ConfigError: algo.score = 'relative' must be one of excess, absolute. See docs/maths.md; try excess.
    """
    keys = {name_of(key): key for key in ranges}
    for name, value in values.items():
        ranges[keys[name]](keys[name], value)


def name_of(key: str) -> str:
    """Return the name by which a class takes the value of a key.

    Example:
        >>> name_of("algo.weighting.lam")
        'lam'
    """
    return key.rpartition(".")[2]


def number(range_: str, advice: str = "") -> Rule:
    """Allow finite numbers of a range, as `check_number` takes it."""
    return partial(check_number, range_=range_, advice=advice)


def whole_number(least: int | None = 1, most: int | None = None, advice: str = "", null: str = "") -> Rule:
    """Allow whole numbers of a range, and null where it has a meaning."""
    return partial(check_whole_number, least=least, most=most, advice=advice, null=null)


def choice(*choices: str, advice: str = "") -> Rule:
    """Allow some words only."""
    return partial(check_choice, choices=choices, advice=advice)


def true_or_false(advice: str = "") -> Rule:
    """Allow true and false."""
    return partial(check_true_or_false, advice=advice)


def or_null(rule: Rule) -> Rule:
    """Allow null beside what a rule allows."""
    return lambda key, value: None if value is None else rule(key, value)


def _by_head(key: str, curves: Any, most: float = math.inf) -> None:
    if not isinstance(curves, list | tuple):
        raise ConfigError(f"{key} = {curves!r} must be a list with a number for each head, or null for all ones.")
    for k, curve in enumerate(curves):
        check_curve(f"{key}[{k}]", curve, most)


def _frozen_weights(key: str, weights: Any) -> None:
    check_choice(key, weights, FROZEN_WEIGHTS, "Try bfloat16.")
    if weights in ("int8", "int4") and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{key} = {weights} needs bitsandbytes, which is not installed; "
            f"pip install 'wmtp[quantized]', or set {key}=bfloat16."
        )


def _loggers(key: str, loggers: Any) -> None:
    loggers = {*(loggers or ())}
    for logger in sorted(loggers & {"tensorboard", "wandb"}):
        _installed(logger)
    offline = os.environ.get("WANDB_MODE", "online") in ("offline", "dryrun", "disabled")
    if "wandb" in loggers and not offline and not os.environ.get("WANDB_API_KEY"):
        raise ConfigError(
            "logger = wandb, but the environment variable WANDB_API_KEY is not set; set it (no other place will do), "
            "or set WANDB_MODE=offline."
        )


def _installed(logger: str) -> None:
    if find_spec(logger) is None:
        raise ConfigError(
            f"logger = {logger} needs the package {logger}, which is not installed; pip install 'wmtp[{logger}]', or "
            "set logger=csv."
        )


def _stop(key: str, stop: Any) -> None:
    if not (isinstance(stop, list) and all(isinstance(one, str) and one for one in stop)):
        raise ConfigError(
            f"{key} = {stop!r} must be a list of texts that are not empty, or null for the prompt mode's own. Try "
            f"{key}=['\\nclass','\\ndef'], or [] to stop at nothing."
        )


def _names_of_modules(key: str, names: Any) -> None:
    if isinstance(names, str):
        raise ConfigError(
            f"{key} = {names!r} must be a list of names, such as [q_proj, v_proj]; null is every linear layer of the "
            "trunk."
        )


def _weights_of_sources(key: str, weights: Any) -> None:
    for name, weight in weights.items():
        often = "It is how often each of its problems comes in an epoch; try 1, or 0 to leave the source out."
        check_number(f"{key}.{name}", weight, ">= 0", often)


def _signals(key: str, names: Any) -> None:
    for name in names:
        if name not in signal.Signals.__members__:
            raise ConfigError(f"{key} = {name!r} is no signal here; try [SIGTERM, SIGUSR1].")


def _ks(key: str, ks: Any) -> None:
    for k in ks:
        check_whole_number(f"{key}: k", k, advice=f"Ask for pass@1 with {key}=[1].")


def _text_like(pattern: str, example: str) -> Rule:
    """Allow texts of a form, and the numbers that YAML takes some of them for."""

    def check_text(key: str, value: Any) -> None:
        plain = isinstance(value, str | int) and not isinstance(value, bool)
        if not (plain and re.fullmatch(pattern, str(value))):
            raise ConfigError(f"{key} = {value!r} must be like {example}.")

    return check_text


def _texts(key: str, texts: Any) -> None:
    if not (isinstance(texts, list | tuple) and all(isinstance(one, str) and "\n" not in one for one in texts)):
        raise ConfigError(f"{key} = {texts!r} must be a list of lines of text, such as ['module load cuda'].")


def _options_of_sbatch(key: str, options: Any) -> None:
    _texts(key, options)
    for option in options:
        if not option.startswith("-"):
            raise ConfigError(f"{key} = {option!r} must begin with -, as in [--account=lab].")


def _names_of_variables(key: str, names: Any) -> None:
    if not isinstance(names, list | tuple | Mapping):
        raise ConfigError(f"{key} = {names!r} must be a list of names of environment variables, such as [HF_TOKEN].")
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII):
            raise ConfigError(f"{key}: {name!r} is no name of an environment variable; they look like WMTP_CACHE.")


def _variables(key: str, variables: Any) -> None:
    if not isinstance(variables, Mapping):
        raise ConfigError(f"{key} = {variables!r} must be variables with a value each, such as {{WMTP_CACHE: /cache}}.")
    _names_of_variables(key, variables)


def _places(key: str, places: Any) -> None:
    each = places.items() if isinstance(places, Mapping) else [(str(places), None)]
    if not all(folder.startswith("/") and address for folder, address in each):
        raise ConfigError(
            f"{key} = {places!r} must be absolute folders with an address each, such as "
            "{/data/mbpp: volume://vessl-storage/mbpp}."
        )


def name_of_run(key: str, name: Any) -> None:
    """Refuse the name of a run that cannot be a folder's.

    Raises:
        ConfigError: 폴더 이름이 될 수 없을 때.
    """
    if not re.fullmatch(r"\w[\w.=,+-]*", str(name)):
        raise ConfigError(
            f"{key} = {name!r} must be letters, digits and ._=,+- only, and begin with a letter or a digit: it becomes "
            "a folder in runs."
        )


# What the words of a choice mean is said where they are used: a dtype, an arrangement of heads, a loss.
FROZEN_WEIGHTS = ("float32", "bfloat16", "float16", "int8", "int4")
HEADS_INIT = ("saved", "native", "auto", "copy", "random", "identity")
ARRANGEMENTS = ("parallel", "sequential", "recurrent")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
VALUE_LOSSES = ("bce", "mse", "pairwise")
LANGUAGES = ("en", "ko")
STAGES = ("staging", "production")  # the aliases of a registered model

# Keys that the program reads itself, or that a class of a library owns.
PROGRAM = {
    "trainer.max_steps": whole_number(),
    "trainer.accumulate_grad_batches": whole_number(),
    "data.leakage": choice("drop", "error", "ignore", advice="Try drop."),
    "logger": _loggers,
    "lang": choice(*LANGUAGES, advice="See conf/train.yaml."),
    "ks": _ks,
    "eval.ks": _ks,
}

# algos
WeightedMTP = {
    "algo.warmup": number("in [0, 1)", "It is a share of the steps; try 0.03."),
    "algo.head_weights": or_null(_by_head),
    "algo.head_lam": or_null(partial(_by_head, most=1)),
    "algo.trunk_gradient": or_null(partial(check_curve, most=1)),
}
Baseline = Oracle = WeightedMTP
Rho1 = WeightedMTP | {"algo.score": choice("excess", "absolute", advice="See docs/maths.md; try excess.")}
Critic = WeightedMTP | {"algo.value_score": choice("delta", "value", advice="See docs/maths.md; try delta.")}
Combined = (
    Critic
    | Rho1
    | {"algo.mix": number("in [0, 1]", "0 is rho1, 1 is critic; try 0.5."), "algo.join": choice("sum", "product")}
)
OnlineReference = CachedReference = {"algo.reference.weights": _frozen_weights}
MovingAverage = {"algo.reference.decay": number("in [0, 1)", "Try 0.99.")}
adamw = {
    "optimizer.lr": number("> 0", "See conf/optimizer/."),
    "optimizer.heads_lr": or_null(number("> 0", "See conf/optimizer/.")),
}
muon = {
    "optimizer.lr": number("> 0", "See conf/optimizer/."),
    "optimizer.adamw_lr": number("> 0", "See conf/optimizer/."),
}

# maths
_see = "(see conf/algo/weighting/)."


def _lam(key: str, lam: Any) -> None:
    if isinstance(lam, Mapping):
        check_curve(key, lam, most=1)
    else:
        check_number(key, lam, "in [0, 1]", f"It blends the weights with 1; try 1.0 {_see}")


Weighting = {
    "algo.weighting.scope": choice("batch", "sequence"),
    "algo.weighting.control": choice("none", "shuffle", "random"),
    "algo.weighting.smooth": whole_number(0, advice="0 is off; it counts neighbours on each side, try 2."),
}
SoftWeighting = Weighting | {
    "algo.weighting.lam": _lam,
    "algo.weighting.temperature": number("> 0", f"It divides the scores; try 0.7 {_see}"),
    "algo.weighting.percentile": number("in (0, 1]", f"It is the emphasised fraction; try 1.0 {_see}"),
    "algo.weighting.epsilon": number("in (0, 1)", f"It is the least weight; try 0.05 {_see}"),
    "algo.weighting.w_max": number("> 1", f"It is the largest weight; try 3.0 {_see}"),
}
HardSelection = Weighting | {
    "algo.weighting.percentile": number("in (0, 1]", f"It is the kept fraction; try 0.6 {_see}"),
}

# critic
Rewards = Tests = NegCE = {
    "algo.rewards.solutions": whole_number(1, advice="Try 1."),
    "algo.rewards.incorrect": whole_number(0, advice="Try 1."),
    "algo.rewards.mutants": whole_number(0, advice="Try 1."),
}
RewardModel = Rewards | {"algo.rewards.token_budget": whole_number(advice="Try 8192.")}
PolicyValue = {
    "algo.value.cumulative": true_or_false("See docs/critic.md."),
    "algo.value.surprise": true_or_false("See docs/critic.md."),
}
ValueNetwork = PolicyValue | {"algo.value.weights": _frozen_weights}
CriticPretraining = {
    "algo.pretraining.steps": whole_number(),
    "algo.pretraining.check_every": whole_number(),
    "algo.pretraining.patience": whole_number(),
    "algo.pretraining.token_budget": whole_number(2),
    "algo.pretraining.problems": whole_number(null="all"),
    "algo.pretraining.heldout_problems": whole_number(null="all"),
    "algo.pretraining.gamma": number("in [0, 1]", "1 is no decay."),
    "algo.pretraining.gae_lambda": number("in [0, 1]", "1 is no decay."),
    "algo.pretraining.sparsity": number(">= 0", "0 lets V move everywhere; try 1.0."),
    "algo.pretraining.lr": number("> 0", "Try 0.002."),
    "algo.pretraining.value_loss": or_null(choice(*VALUE_LOSSES)),
}
Localisation = {"algo.localisation.problems": whole_number(null="all")}

# heads, callbacks
HeadPretraining = {
    "callbacks.head_pretraining.steps": whole_number(),
    "callbacks.head_pretraining.token_budget": whole_number(),
    "callbacks.head_pretraining.check_every": whole_number(),
    "callbacks.head_pretraining.patience": whole_number(),
    "callbacks.head_pretraining.lr": number("> 0", "Try 0.001."),
    "callbacks.head_pretraining.prompts": true_or_false(),
}
LossExplosion = {
    "callbacks.loss_explosion.factor": number("> 1", "Try 10."),
    "callbacks.loss_explosion.window": whole_number(2, advice="Try 50."),
}
GracefulStop = {"callbacks.graceful_stop.preemption": _signals}

# data
MTPDataModule = {
    "data.token_budget": whole_number(2, advice="It counts tokens; try 2048."),
    "data.max_length": whole_number(2, advice="It counts tokens; try 2048."),
    "data.pieces": whole_number(
        advice="Try 1, or 2 where memory is short, and multiply trainer.accumulate_grad_batches by it."
    ),
}
Synthetic = {
    "data.train_size": whole_number(0, advice="Try 500."),
    "data.train_skip": whole_number(0, advice="0 begins with the first problem."),
    "data.validation_size": whole_number(0, advice="Try 500."),
    "data.test_size": whole_number(0, advice="Try 500."),
    "data.noise": number(
        "in [0, 1]", "It is the share of training solutions to corrupt; try 0.5, or 0 for clean data."
    ),
}
Jsonl = {
    "data.validation_share": number("in (0, 1)", "It is the share of the questions kept for validation; try 0.05.")
}
Mix = {"data.weights": _weights_of_sources}
Corrupted = {
    "data.noise": Synthetic["data.noise"],
    "data.mutations": whole_number(advice="It is how many places of a solution to change; try 4."),
    "data.part": choice("all", "clean", "corrupted"),
}

# models
ModelSource = {
    "model.heads": or_null(whole_number(advice="Try 4; null takes as many as the model has.")),
    "model.heads_init": choice(*HEADS_INIT),
    "model.heads_arrangement": or_null(choice(*ARRANGEMENTS, advice="null is that of the heads that the model has.")),
    "model.attn_implementation": or_null(choice(*ATTENTIONS, advice="null lets transformers choose.")),
}
Export = {
    "model.export.dtype": choice("source", "float32", "bfloat16"),
    "model.export.heads": choice("keep", "drop"),
    "model.export.adapter": choice("merged", "only"),
}
Lora = {
    "model.adapter.target_modules": _names_of_modules,
    "model.adapter.r": whole_number(advice="Try 16."),
    "model.adapter.alpha": number("> 0", "Try twice model.adapter.r."),
    "model.adapter.dropout": number("in [0, 1)", "Try 0."),
}
Sampling = {
    "sampling.temperature": number(">= 0", "0 is greedy; try 0.2."),
    "sampling.top_p": number("in (0, 1]", "1 keeps every token; try 0.95."),
    "sampling.n": whole_number(),
    "sampling.max_new_tokens": whole_number(),
    "sampling.batch_size": whole_number(),
    "sampling.seed": whole_number(None, advice="Try 42."),
    "sampling.decoding": choice("auto", "ordinary", "speculative", advice="Try auto."),
    "sampling.stop": or_null(_stop),
}

# evaluation
Benchmark = {"benchmark.limit": whole_number(null="all problems")}
Sandbox = {"sandbox.workers": whole_number(null="one a core")}

# run
Recovery = {
    "recovery.max_attempts": whole_number(0, 1000),
    "recovery.requeue_exit_code": whole_number(1, 255),
}

# launch
_launched = {
    "launcher.submit": true_or_false(),
    "launcher.nodes": whole_number(1, 10_000),
    "launcher.processes": whole_number(
        1, 1024, "It is trainer.devices unless you set it, and what other machines have cannot be asked here; try 8."
    ),
}
Torchrun = _launched | {"launcher.port": whole_number(1, 65_535, "Try 29500.")}
Slurm = _launched | {
    "launcher.gpus": or_null(whole_number(0, 1024)),
    "launcher.cpus": whole_number(1, 1024, "Try 8."),
    "launcher.memory": or_null(_text_like(r"\d+[KMGT]?", "64G, or 64000 for megabytes")),
    "launcher.time": _text_like(r"(\d+-)?\d+(:\d+){0,2}", "24:00:00, 2-00:00:00, or 90 for minutes"),
    "launcher.notice": whole_number(0, 65_535, "Try 300."),
    "launcher.requeue": true_or_false(),
    "launcher.env": or_null(_variables),
    "launcher.setup": or_null(_texts),
    "launcher.options": _options_of_sbatch,
}
Vessl = _launched | {
    "launcher.nodes": whole_number(1, 1, "A run of VESSL is one machine; for several see docs/cluster.md."),
    "launcher.env": or_null(_variables),
    "launcher.private_env": _names_of_variables,
    "launcher.inputs": or_null(_places),
    "launcher.mounts": or_null(_places),
    "launcher.outputs": or_null(_places),
    "launcher.workdir": _text_like(r"/.*", "/srv/wmtp"),
}
