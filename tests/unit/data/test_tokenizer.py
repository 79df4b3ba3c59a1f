"""Hold the shipped tokenizer to its promises: small, lossless, reproducible, and loaded as it was saved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from wmtp.data.synthetic import Synthetic

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "wmtp" / "assets" / "tokenizer"
TOKENIZER = PreTrainedTokenizerFast.from_pretrained(FOLDER, local_files_only=True)


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER(text).input_ids]


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_any_text_comes_back_as_it_was(text):
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab(x,.'!?n\"t\t\r\n  07é안"))
def test_spaces_before_punctuation_and_line_ends_come_back_as_they_were(text):
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


def test_all_bytes_are_in_the_vocabulary():
    everything = "".join(map(chr, [*range(0x800), *range(0x800, 0xD800, 37), *range(0x10000, 0x110000, 4099)]))
    assert TOKENIZER.decode(TOKENIZER(everything).input_ids) == everything


@pytest.mark.parametrize("load", [AutoTokenizer.from_pretrained, PreTrainedTokenizerFast.from_pretrained])
def test_it_loads_offline_with_512_tokens_and_two_special_ones(load):
    tokenizer = load(FOLDER, local_files_only=True)
    assert len(tokenizer) == tokenizer.vocab_size == 512
    assert tokenizer.all_special_tokens == ["<|endoftext|>", "<|pad|>"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (0, 1, None)
    assert tokenizer.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_saving_and_loading_again_changes_nothing(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()


def test_no_token_is_added_around_a_text():
    assert pieces("return xs") == ["return", " xs"]
    assert TOKENIZER("").input_ids == []


def test_digits_stand_alone():
    assert pieces("x1234") == ["x", "1", "2", "3", "4"]
    assert not any(sum(map(str.isdigit, token)) > 1 for token in TOKENIZER.get_vocab())


def test_a_line_break_and_its_indent_are_one_token():
    assert pieces("\n    return") == ["\n    ", "return"]
    assert pieces("\n        return") == ["\n        ", "return"]


def test_a_synthetic_sample_is_about_70_tokens():
    problems = Synthetic(train_size=500).problems("train")
    texts = [f'"""\n{problem.text}\n"""\n{problem.solutions[0]}' for problem in problems]
    lengths = [len(tokens) + 1 for tokens in TOKENIZER(texts).input_ids]
    assert 65 < sum(lengths) / len(lengths) < 80
    assert max(lengths) < 192


def test_the_script_run_again_gives_the_shipped_bytes(tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_tokenizer.py", tmp_path],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
