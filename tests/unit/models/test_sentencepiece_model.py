"""A folder with nothing but SentencePiece's tokenizer.model cuts text as SentencePiece does."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import LlamaConfig
from transformers.convert_slow_tokenizer import import_protobuf

from tests.pieces import pieces_of, sentencepiece_bpe, write_tokenizer
from tests.tiny import SHAPE
from wmtp.data.problem import Problem
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.tokenization import tokenize_problem
from wmtp.errors import CheckpointError
from wmtp.models.encoding import encode_prompt
from wmtp.models.tokenizer import load_tokenizer

TEXTS = ["for x in x", "def f(x):\n    return x+1", "  de  f", "값 = é", "<s>def</s>", "    return x", ""]


def write_folder(folder: Path, **settings) -> Path:
    """Write what a model of Llama's kind without a tokenizer.json has."""
    write_tokenizer(folder / "tokenizer.model")
    LlamaConfig(**SHAPE).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **settings}))
    return folder


def change(folder: Path, changing) -> None:
    """Change the SentencePiece model of a folder."""
    file, proto = folder / "tokenizer.model", import_protobuf().ModelProto()
    proto.ParseFromString(file.read_bytes())
    changing(proto)
    file.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_cut_as_sentencepiece_cuts_it(tmp_path, text):
    tokenizer = load_tokenizer(write_folder(tmp_path))
    pieces = pieces_of(tmp_path / "tokenizer.model")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == (sentencepiece_bpe(text, pieces) if text else [])
    tokenizer.save_pretrained(tmp_path / "exported")
    assert load_tokenizer(tmp_path / "exported")(text, add_special_tokens=False).input_ids == ids


def test_special_tokens_are_those_of_the_config_and_a_sample_ends_once(tmp_path):
    chat = "{{ bos_token }}{{ messages[0].content }}"
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "<unk>", "chat_template": chat, "model_max_length": 77}
    tokenizer = load_tokenizer(write_folder(tmp_path, **tokens, added_tokens_decoder={"1": {"content": "<s>"}}))
    assert (tokenizer.eos_token_id, tokenizer.model_max_length, tokenizer.chat_template) == (0, 77, chat)
    problem = Problem("a", "synthetic", "test", "for x", ("def f(x):\n    return x+1\n",))
    sample = tokenize_problem(problem, Synthetic0Shot(), tokenizer)
    assert sample.input_ids[0] == 1 and sample.input_ids.count(1) == 1 and sample.input_ids[-1] == 0
    bare = load_tokenizer(write_folder(tmp_path, add_bos_token=False))
    assert 1 not in encode_prompt(bare, "for x")


def test_what_is_not_read_right_is_refused_and_what_is_not_ours_is_left_to_transformers(tmp_path):
    added = {"300": {"content": "<|im_start|>"}}
    with pytest.raises(
        CheckpointError, match=r"has no piece '<\|im_start\|>', which tokenizer_config.json adds \(1 in"
    ):
        load_tokenizer(write_folder(tmp_path, added_tokens_decoder=added))
    change(write_folder(tmp_path), lambda proto: setattr(proto.pieces[270], "type", 4))
    with pytest.raises(CheckpointError, match=r"has pieces of its user's, before it merges; put the tokenizer.json of"):
        load_tokenizer(tmp_path)
    (tmp_path / "whole").mkdir()
    whole = load_tokenizer(write_folder(tmp_path / "whole"))
    whole.save_pretrained(tmp_path)  # with a tokenizer.json, nobody asks the tokenizer.model, which is still changed
    assert [load_tokenizer(tmp_path)(text).input_ids for text in TEXTS] == [whole(text).input_ids for text in TEXTS]


REAL = find_spec("mistral_common")  # not imported


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="needs pip install --no-deps mistral-common==1.13.1")
def test_mistrals_own_pieces_are_cut_as_the_package_sentencepiece_cuts_them(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (file,) = Path(next(iter(REAL.submodule_search_locations))).glob("data/tokenizer.model.v1")
    (tmp_path / "tokenizer.model").write_bytes(file.read_bytes())
    LlamaConfig(**SHAPE).save_pretrained(tmp_path)
    tokenizer, theirs = load_tokenizer(tmp_path), sentencepiece.SentencePieceProcessor(model_file=str(file))
    for text in [*TEXTS, Path(__file__).read_text(encoding="utf-8")]:
        assert tokenizer(text, add_special_tokens=False).input_ids == theirs.encode(text)
