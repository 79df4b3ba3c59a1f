"""Hold that no config under conf/ has a typo that only a long run would find."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts.check_configs import CODE, CONF, check_configs


@pytest.mark.long
def test_every_config_composes_and_every_target_takes_its_keys():
    composed, problems = check_configs()
    assert problems == []
    assert composed > 0


def problems_of(tmp_path: Path, **files: str) -> str:
    for name, text in files.items():
        path = tmp_path / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return "\n".join(check_configs(tmp_path)[1])


def test_a_wrong_config_is_named_with_the_way_to_see_it_again(tmp_path):
    found = problems_of(
        tmp_path,
        train="defaults: [{algo: good}, {callbacks: [good]}, {experiment: null}, _self_]\nsteps: 3\npath: ???\n",
        algo__good="_target_: textwrap.TextWrapper\nwidth: ${steps}\ntabsize: ${path}\nmax_lines: ???\n",
        algo__typo="_target_: textwrap.TextWrapper\nwidht: 1\n",
        algo__gone="_target_: textwrap.TextRapper\n",
        algo__dangling="width: ${stepz}\n",
        callbacks__good="one: {_target_: fractions.Fraction, numerator: 1}\n",
        callbacks__inner="one: {_target_: fractions.Fraction, numerator: {_target_: string.Template}}\n",
        experiment__sweep="# @package _global_\nhydra: {sweeper: {params: {algo: 'good,absent', steps: 1}}}\n",
        lonely__unused="_target_: textwrap.TextWrapper\nwideness: 1\n",
    )
    assert "train algo=typo: algo: textwrap.TextWrapper: got an unexpected keyword argument 'widht'" in found
    assert "train algo=gone: algo: textwrap.TextRapper: " in found
    assert "train algo=dangling: algo.width: Interpolation key 'stepz' not found" in found
    assert "train +callbacks=inner: callbacks.one.numerator: string.Template: missing a required argument" in found
    assert "train experiment=sweep algo=absent steps=1: In 'train': Could not find 'algo/absent'" in found
    assert "train +lonely=unused: lonely: textwrap.TextWrapper: got an unexpected keyword argument 'wideness'" in found
    assert len(found.splitlines()) == 6, found


def test_a_key_that_nothing_reads_is_named(tmp_path):
    found = problems_of(
        tmp_path,
        train="defaults: [{data: good}, _self_]\nseed: 42\nsede: 43\n",  # seed is read by one of the data only
        data__good="noise: 0\nmodule: {_target_: fractions.Fraction, numerator: '${data.noise}${seed}'}\n",
        data__typo="nosie: 0\nweights: {a: 1}\nleakage: drop\nmodule: {_target_: fractions.Fraction, numerator: 1}\n",
        data__mix="path: {a: 1, b: 2}\nmodule: {_target_: string.Template, template: '${oc.select:data.path.a,1}'}\n",
        data__whole="weights: {a: 1}\nmodule: {_target_: fractions.Fraction, numerator: '${data.weights}'}\n",
    )
    assert set(found.splitlines()) == {
        "train: sede: nothing reads this key",
        "train data=typo: data.nosie: nothing reads this key",
        "train data=typo: data.weights.a: nothing reads this key",
        "train data=mix: data.path.b: nothing reads this key",
    }


def keys_of(conf: Path) -> set[str]:
    """List every key of every option, as a user writes it; a group is a key of what it is a part of."""
    keys: set[str] = set()

    def walk(node: object, path: tuple[str, ...]) -> None:
        keys.add(".".join(path))
        for name, inner in node.items() if isinstance(node, dict) else ():
            walk(inner, (*path, str(name)))

    for file in conf.rglob("*.yaml"):
        walk(yaml.safe_load(file.read_text(encoding="utf-8")), file.relative_to(conf).parts[:-1])
    return keys


def sentences_of(code: ast.Module) -> Iterator[str]:
    """Yield the sentences that a module can say, not its docstrings; what it fills in is {}."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(n.body[0].value) for n in ast.walk(code) if isinstance(n, documented) and ast.get_docstring(n)}
    for node in ast.walk(code):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_every_key_and_every_file_that_a_sentence_names_is_there():
    keys, wrong, seen = keys_of(CONF), [], 0
    groups = "|".join(sorted({key.split(".")[0] for key in keys} - {""}))
    # What begins like a key, and what is said to have a value.
    key_in = re.compile(rf"(?<![\w./}}])(?:(?:{groups})(?:\.[a-z_0-9]+)+(?![\w.(/*{{])|\w+(?:\.\w+)+(?= = ))")
    for file in sorted(CODE.rglob("*.py")):
        for sentence in sentences_of(ast.parse(file.read_text(encoding="utf-8"))):
            if " " not in sentence:
                continue
            named = key_in.findall(sentence)
            wrong += [f"{file.name}: {key}" for key in named if key not in keys and not key.endswith(("json", "jsonl"))]
            places = [place.rstrip(".") for place in re.findall(r"\bconf/[\w/.-]*", sentence)]
            wrong += [f"{file.name}: {place}" for place in places if not (CONF.parent / place).exists()]
            seen += len(named) + len(places)
    assert wrong == [] and seen > 100
