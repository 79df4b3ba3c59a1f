"""Say how a command is used: its groups, the keys that people change, and where all the others are.

[동작] Hydra의 `--help`는 설정을 조합해 300줄을 보여 준다. 여기서는 conf/의 폴더만 읽으므로 0.2초이고 한 화면이다.
    그룹과 선택지는 파일에서, 예는 conf/<앞문>.yaml의 첫 주석이나 앞문의 docstring에서 온다. 적어 두고 잊을 것은
    `KEYS`뿐이고, 정말 있는 키인지는 tests/integration/test_start.py가 본다. 조합된 설정 전체는 `--cfg job`, Hydra
    자신은 `--hydra-help`이다.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from inspect import unwrap
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

_SCREEN = 120  # columns
# The ten that people change, by config.
KEYS = {
    "train": {
        "name": "the run's folder in runs/",
        "seed": "of everything that is drawn",
        "ckpt": "go on: last, auto, a run directory or a .ckpt file",
        "trainer.max_steps": "optimizer steps",
        "optimizer.lr": "learning rate",
        "algo.weighting.lam": "0: every token weighs the same, 1: full weighting",
        "model.path": "a folder, a .gguf file, s3://… or a name on the Hub (model=hf)",
        "model.heads": "tokens that are predicted at once; 1: the next one",
        "data.path": "where the files are (data=jsonl for rows of your own, mbpp, …)",
        "data.token_budget": "positions in one batch; halve it where memory is short",
    },
    "eval": {
        "ckpt": "a run directory, a .ckpt file, an exported folder, or model:NAME",
        "samples": "a file of answers made elsewhere, in place of ckpt",
        "diff": "DIR,DIR: what two evaluations judge differently",
        "benchmark.path": "where the benchmark's files are",
        "benchmark.limit": "at most this many problems",
        "sampling.temperature": "0 is greedy",
        "sampling.n": "samples a problem",
        "ks": "pass@k for these k, as in ks=[1,10]",
        "extract": "none, fence or auto: take the program out of Markdown",
        "out": "where results go",
    },
    "promote": {
        "run": "a run directory",
        "to": "staging or production",
        "name": "of the registered model",
        "force": "true: past the gate; with reason=…",
        "rollback": "NAME: back to the version before",
    },
    "compare": {
        "against": "the arm that the others are compared with",
        "out": "where the pages go",
        "runs": "where mlflow.db is, for mlflow:<experiment>",
        "lang": "en or ko",
    },
}


def usage(program: Callable[..., Any], conf: Path, config_name: str, arguments: Sequence[str] = ()) -> str:
    """Write the page that `--help` shows.

    Args:
        program: 앞문의 함수. 그 파일의 이름과 첫 줄이 명령의 이름과 뜻이다.
        arguments: 명령줄. 사용자의 `--config-dir`에 있는 선택지도 보인다.
    """
    door, words = door_of(program), _code(program).__globals__["__doc__"] or ""
    root = conf / f"{config_name}.yaml"
    of_config, of_door = (
        re.findall(rf"^(?:# | )+(python -m wmtp\.{door}\b.*)$", text, flags=re.M)
        for text in (root.read_text(encoding="utf-8"), words)
    )
    groups = list(_groups(root, [conf, *_own_folders(arguments)]))
    sections = [
        [words.split("\n")[0]],
        [f"  {example}" for example in of_config or of_door or [f"python -m wmtp.{door}"]],
        ["Groups: choose with GROUP=OPTION, the first is the default.", *_columns(groups)] if groups else [],
        ["Keys that people change: set with KEY=VALUE.", *_columns(KEYS[config_name].items())],
        [
            "-m  sweeps over the values between commas       --cfg job   shows every key with its value and stops",
            "--config-dir DIR  adds configs of your own      --hydra-help   explains the other options",
            'The Tab key completes all of this in bash after  eval "$(wmtp -sc install=bash)"',
        ],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def door_of(program: Callable[..., Any]) -> str:
    """Name the module of a front door, as in `python -m wmtp.<door>`, whatever the process calls itself."""
    return Path(_code(program).__code__.co_filename).stem


def _code(program: Callable[..., Any]) -> Any:
    return unwrap(getattr(program, "func", program))


def _own_folders(arguments: Sequence[str]) -> Iterator[Path]:
    """Find the folders that the user adds to conf/."""
    for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if option in ("--config-dir", "-cd"):
            yield Path(following)
        elif option.startswith("--config-dir="):
            yield Path(option.partition("=")[2])


def _groups(root: Path, folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """List the groups of a config and those inside them, each with its options, the default first."""
    for group, default in choices_of(root).items():
        options: dict[str, set[str]] = {}
        for folder in folders:
            for file in (folder / group).rglob("*.yaml"):
                options.setdefault(file.parent.relative_to(folder).as_posix(), set()).add(file.stem)
        defaults = {group: default}
        if len(options) > 1:  # what the default option chooses inside comes before what the others do
            around = sorted((root.parent / group).glob("*.yaml"), key=lambda file: file.stem != default)
            for name, option in (pair for file in around for pair in choices_of(file).items()):
                defaults.setdefault(f"{group}/{name}", option)
        for name, there in sorted(options.items()):
            yield name, _with_default_first(defaults.get(name), there)


def choices_of(file: Path) -> dict[str, str | None]:
    """Read which option of which group a config begins with, those of the config that it goes on from too."""
    chosen: dict[str, str | None] = {}
    for entry in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", ()):
        if isinstance(entry, dict):
            chosen |= {group: option for group, option in entry.items() if not group.startswith("override ")}
        elif (before := file.with_name(f"{entry}.yaml")).is_file():
            chosen |= choices_of(before)
    return chosen


def _with_default_first(default: str | None, there: set[str]) -> str:
    """List options; where none is the default, or it follows another group, say so in brackets.

    Example:
        >>> _with_default_first("soft", {"hard", "soft"}), _with_default_first(None, {"a", "b"})
        ('soft, hard', '(none), a, b')
        >>> _with_default_first("${data}", {"apps", "mbpp"})
        '(that of data), apps, mbpp'
    """
    first = default if default in there else f"(that of {default[2:-1]})" if default else "(none)"
    return ", ".join([first, *sorted(there - {first})])


def _columns(rows: Any) -> list[str]:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    cut = [(name, wrap(text, _SCREEN - width - 4)) for name, text in rows]
    return [
        f"  {name if not number else '':<{width}}  {line}" for name, text in cut for number, line in enumerate(text)
    ]
