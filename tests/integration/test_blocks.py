"""Every code block of the documents is true: it is run, or composed, or there is a reason why it cannot be.

[연구 맥락] 문서의 명령은 독자가 그대로 친다. 옛 키가 남은 명령 하나가 하루를 버리게 한다.
[동작] 나누고 분류하는 것은 scripts/pages/blocks.py이고, 사이트의 "코드 칸의 목록"도 같은 분류에서 나온다.
[디버깅] 실패한 시험의 이름이 그 쪽과 명령이다.
"""

import ast
import json
import re
import tomllib
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from scripts.pages.blocks import (
    blocks,
    commands,
    documents,
    door_of,
    follower_of,
    inline_commands,
    named_files,
    python_of,
    way_of,
    ways,
)
from wmtp.cli import check_values, config_dir
from wmtp.eval import evaluate_checkpoint
from wmtp.overrides import check_config, for_hydra, is_override, read_override
from wmtp.train import train

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = list(blocks())
SHELL = {
    command: block.page for block in BLOCKS for command in ways(block) if not block.followed_by and door_of(command)
}
INLINE = {command: page for page, command in inline_commands() if not re.search(r"[|…]", command)}
COMMANDS = {command: page for command, page in (SHELL | INLINE).items() if not follower_of(command)}
SHIPPED = "asset:tiny-base"


def overrides_of(command: str) -> tuple[str, list[str]]:
    """Return a command's front door and what it overrides, with values where the page has a shell's variables."""
    root, arguments = door_of(re.sub(r"\$\{?\w+\}?", "2", command))
    return root, [word for word in for_hydra(arguments) if is_override(word)]


def points(overrides: list[str]) -> list[list[str]]:
    """Spell a sweep out, so that every value occurs once."""
    read = [read_override(override) for override in overrides]
    sweeping = {i: one for i, one in enumerate(read) if one is not None and one.is_sweep_override()}
    swept = {i: list(one.sweep_string_iterator()) for i, one in sweeping.items()}
    longest = max(map(len, swept.values()), default=1)
    return [
        [
            f"{read[i].get_key_element()}={swept[i][n % len(swept[i])]}" if i in swept else override
            for i, override in enumerate(overrides)
        ]
        for n in range(longest)
    ]


@pytest.fixture(scope="module")
def configs():
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{COMMANDS[command]}: {command}")
def test_every_command_of_the_documents_composes_with_values_in_range(command, configs):
    root, overrides = overrides_of(command)
    if "hydra/launcher=" in command:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra sweeps is not installed")
    name = {"precompute": "train"}.get(root, root)
    for point in points(overrides):
        whole = compose(name, point, return_hydra_config=True)
        cfg = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        check_config(cfg, config_dir(), name, whole.hydra.runtime.choices)
        if re.search(r"weights=int[48]", command) and find_spec("bitsandbytes") is None:
            pytest.skip("the extra quantized is not installed")
        check_values(cfg)


def test_a_command_that_does_not_compose_is_found(configs):
    with pytest.raises(HydraException):
        compose(*overrides_of("python -m wmtp.train algo=rho2"))


def test_every_block_is_run_composed_or_has_its_reason():
    unknown = [f"{block.page}: {command}" for block in BLOCKS for command, way in ways(block).items() if not way]
    assert len(BLOCKS) > 80
    assert unknown == []
    assert way_of("make me a sandwich") == ""


def test_every_file_and_extra_that_a_block_names_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "\n".join(file.read_text("utf-8") for file in documents())
    assert set(re.findall(r"wmtp\[(\w+)\]", text)) - extras.keys() == set()
    gone = [
        f"{block.page}: {file}"
        for block in BLOCKS
        if block.language == "bash" and not block.followed_by
        for command in commands(block.text)
        for file in named_files(command)
        if not (ROOT / file).exists()
    ]
    assert gone == []


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in ("python", "json", "yaml") and "…" not in block.text],
    ids=lambda block: f"{block.page}: {block.text.splitlines()[0][:50] if block.text else 'empty'}",
)
def test_every_python_json_and_yaml_block_is_read(block):
    if block.language == "python":
        ast.parse(block.text)
    elif block.language == "yaml":
        assert yaml.safe_load(block.text)
    else:
        try:
            rows = [json.loads(line) for line in block.text.splitlines()]
        except json.JSONDecodeError:
            rows = [json.loads(block.text)]
        assert all(isinstance(row, dict) for row in rows)


def test_python_within_a_shell_block_is_read():
    held = [python_of(command) for block in BLOCKS if block.language == "bash" for command in commands(block.text)]
    assert len([ast.parse(text) for text in held if text]) >= 2


def test_the_sandbox_block_prints_a_verdict(capsys):
    (block,) = [
        block
        for block in BLOCKS
        if block.language == "python" and ways(block) == {block.text.strip().partition("\n")[0]: "실행"}
    ]
    exec(compile(block.text, block.page, "exec"), {})
    assert re.search(r"^0 passed ", capsys.readouterr().out, re.M)


# Slow: what is run.


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """Make what stands for the names that pages use: a small MBPP, and a run."""
    from wmtp.data.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("places")
    problems = islice(Synthetic(noise=0).stream("train"), 40)
    numbers = [*range(2, 5), *range(11, 15), *range(511, 520), *range(601, 625)]
    rows = [
        {
            "task_id": number,
            "text": one.text,
            "code": one.solutions[0],
            "test_list": list(one.tests),
            "test_setup_code": "",
        }
        for number, one in zip(numbers, problems, strict=True)
    ]
    (folder / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = ["trainer.max_steps=2", "data.train_size=40", "eval.before=false", "eval.after=false", "logger=csv"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        train(compose("train", [*small, f"runs={folder / 'runs'}"]))
    return {"mbpp": str(folder), "run": str(folder / "runs" / "rho1-synthetic-tiny-base"), "out": str(folder / "out")}


def here(override: str, places: dict[str, str]) -> str:
    """Put what is there in the place of a page's placeholder."""
    key, _, value = override.partition("=")
    if key in ("data.path", "benchmark.path"):
        return f"{key}={places['mbpp']}"
    if key == "model.path" or (key == "model.reference" and "DIR" in value):
        return f"{key}={SHIPPED if key == 'model.path' else 'asset:tiny-reference'}"
    if key == "ckpt":
        return f"ckpt={places['run']}"
    if key == "samples":
        return f"samples={ROOT / value}"
    return override if key not in ("out", "name", "trainer.max_steps", "eval.limit", "data.train_size") else ""


RUN = [command for command in SHELL if way_of(command) == "실행"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in RUN if door_of(one)[0] == "train"], ids=str)
def test_every_training_command_takes_a_step(command, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, overrides = overrides_of(command)
    given = [one for one in (here(override, places) for override in overrides) if one]
    if "data=mbpp" in given and not any(one.startswith("data.path=") for one in given):
        given.append(f"data.path={places['mbpp']}")
    small = ["trainer.max_steps=2", "dry_run=true", f"runs={tmp_path}"]
    if "data=mbpp" not in given:
        small.append("data.train_size=40")
    if re.search(r"algo=(critic|combined)", command):
        small += [f"algo.pretraining.{key}" for key in ("problems=32", "heldout_problems=16", "steps=4")]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", [*given, *small])
    train(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in RUN if door_of(one)[0] == "eval"], ids=str)
def test_every_evaluation_command_ends_with_its_number(command, places, tmp_path):
    _, overrides = overrides_of(command)
    given = [one for one in (here(override, places) for override in overrides) if one]
    if "benchmark=synthetic" in given and "samples=" not in command:
        given += ["benchmark.limit=2", "sampling.max_new_tokens=16"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        metrics = evaluate_checkpoint(compose("eval", [*given, f"out={tmp_path / 'out'}", "progress=false"]))
    assert any("/pass@1" in name for name in metrics)
