"""A GGUF becomes the model that was written into it, number for number and token for token, or one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("gguf", reason="needs pip install gguf")

from tests.gguf_files import CODE, as_stored, code_tokenizer, tiny_llama, tiny_qwen2, write_gguf
from wmtp.errors import CheckpointError, ConfigError, DataNotFoundError
from wmtp.models import gguf_file
from wmtp.models.encoding import encode_prompt
from wmtp.models.generation import generate
from wmtp.models.loading import ModelSource, find_model, load_model
from wmtp.models.sampling import Request, Sampling
from wmtp.models.tokenizer import load_tokenizer

APART, TOGETHER = code_tokenizer(digits_apart=True), code_tokenizer(digits_apart=False)
ROWS = APART.get_vocab_size()


@pytest.fixture(autouse=True)
def cache_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_number_of_the_file_is_in_the_folder_and_the_logits_are_its_own(tmp_path, kind, tied):
    written = tiny_llama(ROWS, tied)
    folder = find_model(str(write_gguf(tmp_path / "tiny.gguf", written, APART, kind)))
    with torch.no_grad():
        for weight in written.parameters():
            weight.copy_(as_stored(weight, kind))
    stored, ours = load_file(folder / "model.safetensors"), written.state_dict()
    assert all(torch.equal(stored[name], ours[name]) for name in stored)
    assert ours.keys() - stored.keys() == ({"lm_head.weight"} if tied else set())
    ids_BT = torch.arange(3, 20)[None]
    model = load_model(folder, heads=3, heads_init="copy").eval()
    assert torch.equal(model(ids_BT).logits, written(ids_BT).logits)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_biases_and_rotary_rows_that_lie_as_they_are_come_too(tmp_path):
    written = tiny_qwen2(ROWS)
    model = load_model(find_model(str(write_gguf(tmp_path / "tiny.gguf", written, APART)))).eval()
    ids_BT = torch.arange(3, 20)[None]
    assert model.config.model_type == "qwen2" and torch.equal(model(ids_BT).logits, written(ids_BT).logits)


def test_one_matrix_that_a_file_holds_twice_is_one_matrix(tmp_path):
    written = tiny_llama(ROWS)
    twice = write_gguf(tmp_path / "twice.gguf", written, APART, twice=True)
    model = load_model(find_model(str(twice)))
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, written.lm_head.weight)


def test_a_file_is_converted_once_and_says_what_it_was_stored_as(tmp_path, capfd):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(ROWS), APART, "Q4_1")
    source = ModelSource(str(file), heads=2, heads_init="copy")
    source.load_tokenizer(), source.load()
    out, err = capfd.readouterr()
    line = f"model.path = {file}: dequantised from Q4_1."
    assert out.splitlines().count(line) == 1
    assert f"converting {file}, dequantised from Q4_1, once, into {tmp_path}/cache/converted" in err
    folder = source.find()
    times = {made: made.stat().st_mtime_ns for made in folder.iterdir()}
    assert source.name == "tiny" and find_model(str(file)) == folder
    assert {made: made.stat().st_mtime_ns for made in folder.iterdir()} == times
    write_gguf(file, tiny_llama(ROWS), APART, "Q8_0")
    again = ModelSource(str(file), heads=2, heads_init="copy")
    assert again.find() != folder
    again.load().save_pretrained(tmp_path / "trained")  # whoever gets it knows what it came from
    assert json.loads((tmp_path / "trained" / "config.json").read_text())["stored_as"] == "dequantised from Q8_0"


@pytest.mark.parametrize("pre", ["smollm", "starcoder", "gpt-2", None])
def test_text_is_cut_as_the_file_says(tmp_path, pre):
    """transformers cuts as GPT-2 does where it does not know the rule: spaces before a number come out otherwise."""
    right = APART if pre in ("smollm", "starcoder") else TOGETHER
    folder = find_model(str(write_gguf(tmp_path / "tiny.gguf", tiny_llama(ROWS), right, pre=pre)))
    tokenizer = load_tokenizer(folder)
    texts = [*CODE[:3], "[1,  23]\n        45", "값 = é\n\n\n  7", "it's   12", "<|im_end|>"]
    assert [tokenizer(text).input_ids for text in texts] == [right.encode(text).ids for text in texts]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert APART.encode("  12").ids != TOGETHER.encode("  12").ids


def test_a_start_that_the_file_asks_for_is_put_once(tmp_path):
    add = write_gguf(
        tmp_path / "a.gguf", tiny_llama(ROWS), APART, settings=lambda writer: writer.add_add_bos_token(True)
    )
    tokenizer = load_tokenizer(find_model(str(add)))
    assert encode_prompt(tokenizer, "x") == [APART.token_to_id("<|im_start|>"), *APART.encode("x").ids]


def test_it_trains_decodes_and_is_a_reference(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(ROWS), APART, "Q8_0")
    source = ModelSource(str(file), heads=3, heads_init="auto")
    sampling = Sampling(temperature=0.0, max_new_tokens=4)
    (_, found), *_ = generate(source.load(), source.load_tokenizer(), [Request("a", "def f")], sampling)
    assert len(found.tokens) == 4
    with pytest.raises(ConfigError, match=r"model.heads = 3, but .*tiny.gguf was saved with 1"):
        ModelSource(str(file), heads=3, heads_init="saved").find()


# ---- finding it ------------------------------------------------------------------------------------------------------


def test_a_folder_with_one_file_is_that_file_and_with_several_a_sentence_that_lists_them(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    first = write_gguf(folder / "a.Q8_0.gguf", tiny_llama(ROWS), APART, "Q8_0")
    (folder / "config.json").write_text('{"model_type": "llama"}')  # many repositories of GGUFs have one
    assert find_model(str(folder)) == find_model(str(first))
    write_gguf(folder / "b.Q4_1.gguf", tiny_llama(ROWS), APART, "Q4_1")
    sentence = r"model.path = .*model holds 2 GGUF files \(a.Q8_0.gguf, b.Q4_1.gguf\); name one of them: .*/a.Q8_0.gguf"
    with pytest.raises(ConfigError, match=sentence):
        find_model(str(folder))
    tiny_llama(ROWS).save_pretrained(folder)
    assert find_model(str(folder)) == folder  # safetensors are nobody's second choice


def test_a_file_that_is_not_there_is_looked_for_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFoundError, match=r"model.path = models/x.gguf: no x.gguf in models\. Give"):
        find_model("models/x.gguf")


def test_what_lies_beside_the_file_is_not_read(tmp_path):
    plain = write_gguf(tmp_path / "tiny.gguf", tiny_llama(ROWS), APART)
    expected = load_tokenizer(find_model(str(plain)))("def f").input_ids
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name, kind in (("config.json", "AutoModelForCausalLM"), ("tokenizer_config.json", "AutoTokenizer")):
        (evil / name).write_text(json.dumps({"model_type": "evil", "auto_map": {kind: "evil.Evil"}}))
    (evil / "added_tokens.json").write_text(json.dumps({"def": 3}))
    moved = write_gguf(evil / "tiny.gguf", tiny_llama(ROWS), APART, "Q8_0")
    assert load_tokenizer(find_model(str(moved)))("def f").input_ids == expected
    assert not (tmp_path / "ran").exists()


# ---- what cannot be read right is refused ----------------------------------------------------------------------------


def left_behind(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache" / "converted").glob("*") if not path.name.startswith(".")]


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.01, 0.2, 0.5, 0.999])
def test_a_truncated_file_is_one_sentence(tmp_path, share):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(ROWS), APART)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"model.path = .*tiny.gguf is truncated, damaged .*; copy it again, or"):
        find_model(str(file))
    assert left_behind(tmp_path) == []
    file.write_bytes(whole)
    load_model(find_model(str(file)))


@pytest.mark.parametrize("place", [0, 4, 8, 16, 24, 33, 60])
def test_a_damaged_header_is_one_sentence(tmp_path, place):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(ROWS), APART)
    damaged = bytearray(file.read_bytes())
    damaged[place : place + 3] = b"\xff\xff\xff"
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"tiny.gguf is truncated, damaged"):
        find_model(str(file))


def test_numbers_that_are_none_are_said(tmp_path):
    model = tiny_llama(ROWS)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = float("nan")
    with pytest.raises(CheckpointError, match=r"is damaged: model.layers.1.mlp.up_proj.weight is missing, or holds"):
        find_model(str(write_gguf(tmp_path / "tiny.gguf", model, APART)))
    assert left_behind(tmp_path) == []


@pytest.fixture
def nothing_slow(monkeypatch):
    """Let nobody read weights."""
    monkeypatch.setattr(gguf_file.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("too late"))


def test_a_part_of_a_split_model_is_not_filled_up_with_chance(tmp_path, nothing_slow):
    part = write_gguf(tmp_path / "t.gguf", tiny_llama(ROWS), APART, without=("blk.1.ffn_up.weight",))
    with pytest.raises(CheckpointError, match=r"a part of it is not here; join the parts of a split model first"):
        find_model(str(part))


def test_a_tensor_that_transformers_leaves_out_makes_another_model(tmp_path, nothing_slow):
    """Llama 3.1's scaled rotary speeds lie in a tensor that transformers does not read."""
    scaled = write_gguf(
        tmp_path / "t.gguf", tiny_llama(ROWS), APART, more={"rope_freqs.weight": np.ones(8, dtype=np.float32)}
    )
    with pytest.raises(CheckpointError, match=r"another model, without rope_freqs.weight; give the model"):
        find_model(str(scaled))


def test_a_cut_that_nobody_here_knows_is_refused(tmp_path, nothing_slow):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(ROWS), APART, pre="deepseek-coder")
    with pytest.raises(ConfigError, match=r"has its text cut as 'deepseek-coder' \(tokenizer.ggml.pre\), .*; give"):
        find_model(str(file))


def test_an_architecture_that_takes_no_heads_is_said_before_the_weights_are_read(tmp_path, nothing_slow):
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "t5.gguf"), "t5")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match=r"t5 is not a decoder-only language model"):
        find_model(str(tmp_path / "t5.gguf"))


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(ROWS), APART)
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tiny.gguf needs the package gguf to be read; pip install 'wmtp\[gguf\]'"):
        find_model(str(file))
