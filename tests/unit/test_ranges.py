"""Hold that a value is checked once: the rules that the front door reads are those that the classes hold values to."""

import re
from inspect import signature
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from wmtp import ranges
from wmtp.errors import ConfigError
from wmtp.models.loading import WEIGHTS
from wmtp.overrides import check_ranges

CONF = Path(__file__).resolve().parents[2] / "conf"
TARGETS = {
    target.rpartition(".")[2]: target
    for file in CONF.rglob("*.yaml")
    for target in re.findall(r"_target_: (wmtp[\w.]+)", file.read_text(encoding="utf-8"))
}
TABLES = {name: table for name, table in vars(ranges).items() if isinstance(table, dict) and name[0] != "_"}
BASES = {"PROGRAM", "WeightedMTP", "Weighting", "Rewards"}  # of no class that a config builds
HANDED_ON = {"Combined": ranges.Rho1 | ranges.Critic, "ValueNetwork": ranges.PolicyValue}  # once theirs are found right
WRONG = {"data.weights": {"mbpp": -1}}  # a text is wrong everywhere else


def test_every_table_is_that_of_a_class_that_a_config_builds():
    assert TABLES.keys() - BASES == TABLES.keys() & TARGETS.keys()
    assert tuple(WEIGHTS) == ranges.FROZEN_WEIGHTS


def required(built) -> list[str]:
    """List what must be given to build it, and the classes that it hands its keywords on to."""
    taken = [signature(built).parameters.values()]
    if any(one.kind == one.VAR_KEYWORD for one in taken[0]):
        taken += [signature(base).parameters.values() for base in built.__mro__[1:] if base.__module__[:4] == "wmtp"]
    return [one.name for some in taken for one in some if one.default is one.empty and one.kind != one.VAR_KEYWORD]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (name, key)
        for name in sorted(TABLES.keys() - BASES)
        for key in TABLES[name]
        if key not in HANDED_ON.get(name, ())
    ],
)
def test_a_class_says_of_a_wrong_value_what_was_said_before_it_was_imported(name, key):
    built, wrong = get_object(TARGETS[name]), WRONG.get(key, "no such value")
    with pytest.raises(ConfigError) as before:
        check_ranges(OmegaConf.create({"node": {"_target_": TARGETS[name], ranges.name_of(key): wrong}}))
    with pytest.raises(ConfigError) as later:
        built(**dict.fromkeys(required(built)) | {ranges.name_of(key): wrong})
    assert str(later.value) == str(before.value)
    assert str(later.value).startswith(key)


def test_values_that_are_not_given_yet_or_belong_to_others_are_left_alone():
    check_ranges(OmegaConf.create({"trainer": {"max_steps": "???"}, "algo": {"_target_": "mine.Rho1", "score": "own"}}))
    check_ranges(
        OmegaConf.create({"optimizer": {"_target_": "wmtp.algos.optimizers.adamw", "lr": "${rate}"}, "rate": 1})
    )
    with pytest.raises(ConfigError, match=r"^optimizer\.lr = 0 must be a number > 0"):
        inner = {"_target_": "wmtp.algos.optimizers.muon", "_partial_": True, "lr": "${rate}"}
        check_ranges(OmegaConf.create({"algo": [{"deep": inner}], "rate": 0}))


def test_a_rule_is_never_asked_for_by_a_name_that_it_has_not():
    with pytest.raises(KeyError):
        ranges.check(ranges.Rho1, scores="excess")
