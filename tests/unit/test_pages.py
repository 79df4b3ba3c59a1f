"""What pages quote is what the code says, and every key of conf/ is in the reference with its meaning."""

import doctest
import importlib
import re
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from omegaconf import OmegaConf

from scripts.pages import configuration
from scripts.pages.blocks import blocks_page
from scripts.pages.quotes import ROOT, quote_again, quoting_pages
from scripts.pictures import pictures
from tests.unit.test_reporting import make_run
from wmtp.overrides import leaves
from wmtp.reporting.reading import read_run

CONF_FILES = sorted(configuration.CONF.rglob("*.yaml"))


@pytest.mark.parametrize("page", quoting_pages(), ids=lambda page: page.stem)
def test_a_page_quotes_what_is_there(page):
    text = page.read_text("utf-8")
    assert quote_again(text) == text, "python scripts/pages/quotes.py"


def test_pages_quote_every_algorithm_and_a_quotation_that_lies_is_mended():
    assert {"baseline.md", "rho1.md", "critic.md", "combined.md", "one_step.md"} <= {
        one.name for one in quoting_pages()
    }
    page = ROOT / "docs" / "algorithms" / "rho1.md"
    text = page.read_text("utf-8")
    assert "- self.reference.losses(batch)" in text
    assert quote_again(text.replace("- self.reference", "+ self.reference")) == text


def test_the_numbers_of_the_step_are_those_of_its_formulas():
    page = (ROOT / "docs" / "one_step.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| 17 \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|$", page, re.M)
    loss = float(re.search(r"L은 \*\*([\d.]+)\*\*", page)[1])
    assert [round(float(total) / (4 * 17), 3) for _, total, _ in rows] == [float(share) for *_, share in rows]
    assert abs(sum(float(share) for *_, share in rows) - loss) < 4 * 0.0005 + 0.0005  # each is rounded
    weights = [float(w) for w in re.findall(r"^\| \d+ \| [^|]+ \| ●? ?\|(?: [-\d.]+ \|){3} ([\d.]+) \|$", page, re.M)]
    assert len(weights) == 17
    assert abs(sum(weights) / 17 - 1) < 0.0005


def group_of(file: Path) -> str:
    """Return what the names of a file's keys begin with, by Hydra's rule."""
    package = re.search(r"^# @package (\S+)", file.read_text("utf-8"), re.M)
    folder = file.parent.relative_to(configuration.CONF).as_posix().replace("/", ".").lstrip(".")
    return {"_global_": "", "model": "model"}[package[1]] if package else folder


@pytest.mark.parametrize("file", CONF_FILES, ids=lambda file: str(file.relative_to(configuration.CONF)))
def test_every_key_of_a_file_is_in_the_reference_with_its_meaning(file):
    keys = {key.name: key for key in configuration.keys_of(file)}
    whole, group = OmegaConf.load(file), group_of(file)
    missing = []
    for name in leaves(whole):
        value, full = OmegaConf.to_container(whole)[name] if "." not in name else None, f"{group}.{name}".lstrip(".")
        of_targets = isinstance(value, list) and all(isinstance(one, dict) for one in value)
        in_one_line = any(full.startswith(f"{key}.") for key in keys)  # {_target_: …}
        no_key = re.search(r"(^|\.)(defaults|hydra|_\w+_)(\.|$)", name)
        if full not in keys and not (of_targets or in_one_line or no_key):
            missing.append(full)
    assert missing == []
    assert [name for name, key in keys.items() if not configuration.meaning_of(key)] == []


def test_the_reference_says_the_range_that_an_error_would_say():
    page = configuration.configuration_page()
    assert "| `algo.weighting.lam` | `1.0` | a number in [0, 1] | 0: baseline … 1: full weighting" in page
    assert "| `algo.weighting.scope` | `batch` | one of batch, sequence | batch &#124; sequence |" in page
    assert "| `optimizer.lr` | `0.01` | a number > 0 | of the matrices |" in page
    assert re.search(r"`trainer.max_steps` \| `300` \| a whole number, at least 1 \|", page)
    assert re.search(r"`sampling.top_p` \| `0.95` \| a number in \(0, 1\] \|", page)


def test_the_navigation_lists_pages_that_are_there():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    made = {"index.md", "contributing.md", "configuration.md", "blocks.md"}
    listed = [page for page in re.findall(r"[\w/]+\.md", navigation) if not page.startswith("en/")]
    assert [page for page in listed if page not in made and not (ROOT / "docs" / page).is_file()] == []
    assert len(listed) > 30


def test_the_list_of_blocks_names_every_page_that_has_some():
    page = blocks_page()
    assert "**모름**" not in page
    assert "| 2. 첫 실행 | `python -m wmtp.train trainer.max_steps=2 eval.limit=2` | 실행 |" in page
    assert "\n## docs/cluster.md\n" in page


def test_the_pictures_are_drawn_from_a_run_and_show_its_tokens(tmp_path):
    make_run(tmp_path / "run")
    drawn = pictures(read_run(tmp_path / "run"))
    assert {"tokens", "weight_histogram", "weights_over_time", "ce_per_head", "pass_at_1"} <= drawn.keys()
    for svg in drawn.values():
        ElementTree.fromstring(svg)
    assert "solve" in drawn["tokens"] and "<rect" in drawn["tokens"]


@pytest.mark.parametrize("name", ["blocks", "quotes", "configuration", "docstrings", "hooks"])
def test_the_examples_in_the_docstrings_hold(name):
    needs = {"docstrings": "griffe", "hooks": "mkdocs"}.get(name)
    if needs and find_spec(needs) is None:
        pytest.skip(f"{needs} is of the extra docs")
    assert doctest.testmod(importlib.import_module(f"scripts.pages.{name}")).failed == 0
