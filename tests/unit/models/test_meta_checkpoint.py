"""Meta's format: the published architecture, written here from its description, against the converted model."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.pieces import pieces_of, sentencepiece_bpe, write_tokenizer
from tests.tolerance import assert_same_up_to_rounding, in_float64, terms_of
from wmtp.errors import CheckpointError, ConfigError, DataNotFoundError, StorageError
from wmtp.models import loading
from wmtp.models.export import Export
from wmtp.models.frozen import find_reference
from wmtp.models.generation import generate
from wmtp.models.loading import ModelSource, find_model, load_model
from wmtp.models.meta_checkpoint import convert, to_meta
from wmtp.models.sampling import Request, Sampling
from wmtp.models.tokenizer import load_tokenizer

#   B sequences, T positions, H heads, D width, V vocabulary, N attention heads, K dimensions of one

PARAMS = dict(
    dim=32, n_layers=5, n_heads=4, n_kv_heads=2, n_future_tokens=3, multiple_of=8, ffn_dim_multiplier=1.0,
    vocab_size=-1, norm_eps=0.05, rope_theta=5000.0,
)  # fmt: skip
WIDTH = 88  # 2/3 of 4 · dim, rounded up to a multiple of 8


def make_weights(params: dict, vocabulary: int, dtype=torch.float32) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(42)
    dim, key_width = params["dim"], params["dim"] // params["n_heads"] * params["n_kv_heads"]
    shapes = {"tok_embeddings": (vocabulary, dim), "norm": (dim,), "output": (vocabulary, dim)}
    trunk = params["n_layers"] - params["n_future_tokens"] + 1
    blocks = [f"layers.{i}" for i in range(trunk)] + [f"extra_heads.{k}" for k in range(params["n_future_tokens"] - 1)]
    for block in blocks:
        shapes |= {
            f"{block}.attention.wq": (dim, dim),
            f"{block}.attention.wk": (key_width, dim),
            f"{block}.attention.wv": (key_width, dim),
            f"{block}.attention.wo": (dim, dim),
            f"{block}.feed_forward.w1": (WIDTH, dim),
            f"{block}.feed_forward.w2": (dim, WIDTH),
            f"{block}.feed_forward.w3": (WIDTH, dim),
            f"{block}.attention_norm": (dim,),
            f"{block}.ffn_norm": (dim,),
        }
    return {f"{name}.weight": (torch.randn(shape, generator=random) * 0.3).to(dtype) for name, shape in shapes.items()}


def make_checkpoint(folder: Path, dtype=torch.float32, **changes) -> Path:
    """Write what Meta releases: DIR/tokenizer.model, DIR/name/{consolidated.pth, params.json}."""
    params = PARAMS | changes
    folder.mkdir(parents=True)
    write_tokenizer(folder.parent / "tokenizer.model")
    weights = make_weights(params, len(pieces_of(folder.parent / "tokenizer.model")), dtype)
    torch.save(weights, folder / "consolidated.pth")
    (folder / "params.json").write_text(json.dumps(params))
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("meta") / "7B_toy")


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory) -> Path:
    return convert(released, tmp_path_factory.mktemp("converted"))


# ---- the published architecture --------------------------------------------------------------------------------------


def published_logits(weights: dict[str, Tensor], params: dict, ids_BT: Tensor) -> Tensor:
    """Pre-norm blocks with rotary grouped-query attention and SwiGLU; n heads on the trunk; logits [B, T, H, V]."""

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weights[f"{name}.weight"]

    dims = params["dim"] // params["n_heads"]
    speed = params["rope_theta"] ** (-torch.arange(0, dims, 2).double() / dims)
    angle_TK = torch.arange(ids_BT.shape[1])[:, None] * speed
    turn_TK = torch.polar(torch.ones_like(angle_TK), angle_TK)

    def rotate(x_BTNK: Tensor) -> Tensor:
        """Turn each pair of neighbours (2i, 2i + 1), read as one complex number."""
        pairs = torch.view_as_complex(x_BTNK.double().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn_TK[:, None]).flatten(-2).to(x_BTNK.dtype)

    def block(x_BTD: Tensor, name: str) -> Tensor:
        h = norm(x_BTD, f"{name}.attention_norm")
        q, k, v = (
            (h @ weights[f"{name}.attention.{w}.weight"].T).unflatten(-1, (-1, dims)) for w in ("wq", "wk", "wv")
        )
        q, k = rotate(q), rotate(k)
        group = params["n_heads"] // params["n_kv_heads"]
        k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
        score_BNTT = torch.einsum("bqnk,bsnk->bnqs", q, k) / dims**0.5
        score_BNTT = score_BNTT + torch.full(score_BNTT.shape[-2:], float("-inf")).triu(1)
        mixed = torch.einsum("bnqs,bsnk->bqnk", score_BNTT.softmax(-1), v).flatten(2)
        x_BTD = x_BTD + mixed @ weights[f"{name}.attention.wo.weight"].T
        h = norm(x_BTD, f"{name}.ffn_norm")
        gate = F.silu(h @ weights[f"{name}.feed_forward.w1.weight"].T) * (
            h @ weights[f"{name}.feed_forward.w3.weight"].T
        )
        return x_BTD + gate @ weights[f"{name}.feed_forward.w2.weight"].T

    trunk_BTD = weights["tok_embeddings.weight"][ids_BT]
    last = params["n_layers"] - params["n_future_tokens"]
    for i in range(last):
        trunk_BTD = block(trunk_BTD, f"layers.{i}")
    heads = [f"layers.{last}", *(f"extra_heads.{k}" for k in range(params["n_future_tokens"] - 1))]
    return torch.stack([norm(block(trunk_BTD, h), "norm") @ weights["output.weight"].T for h in heads], dim=2)


def turn_exactly(model: LlamaForCausalLM) -> None:
    """Compute the speeds of rotation anew: transformers keeps them in float32."""
    rotary = model.model.rotary_emb
    rotary.inv_freq, _ = rotary.compute_default_rope_parameters(model.config)


def logits_and_expected(released: Path, converted: Path, params: dict, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    weights = {name: w.double() for name, w in torch.load(released / "consolidated.pth", weights_only=True).items()}
    model = load_model(converted).double().eval()
    with torch.no_grad(), in_float64():
        turn_exactly(model)
        ours_BTHV = torch.stack([hidden @ model.unembedding_VD.T for hidden in model.mtp(ids_BT).hidden], dim=2)
    return ours_BTHV, published_logits(weights, params, ids_BT)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (dict(n_kv_heads=None), dict(n_kv_heads=4)),
        (dict(n_kv_heads=1), {}),
        (dict(rope_theta=None, max_seq_len=None, ffn_dim_multiplier=None), dict(rope_theta=10000.0)),
        (dict(vocab_size=32000, max_batch_size=32, another={"key": [1]}), {}),
        (dict(n_future_tokens=1), {}),
        (dict(n_future_tokens=5), {}),
    ],
    ids=lambda changes: ",".join(changes),
)
def test_params_are_read_as_meta_means_them(tmp_path, written, meant):
    """Also where a key that is null is left out, as in Llama's first params.json."""
    params = PARAMS | written | meant
    folder = make_checkpoint(tmp_path / "release" / "toy", **params)
    ids_BT = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(42))
    for said in (PARAMS | written, {name: value for name, value in (PARAMS | written).items() if value is not None}):
        (folder / "params.json").write_text(json.dumps(said))
        converted = convert(folder, tmp_path / "cache")
        ours_BTHV, expected_BTHV = logits_and_expected(folder, converted, params, ids_BT)
        assert_same_up_to_rounding(ours_BTHV, expected_BTHV, terms_of(load_model(converted), ids_BT.numel()))
        to_meta(converted, tmp_path / "back")
        assert json.loads((tmp_path / "back" / "params.json").read_text()) == said


def test_logits_of_all_heads_are_those_of_the_published_architecture(released, converted):
    ids_BT = torch.randint(3, 250, (2, 17), generator=torch.Generator().manual_seed(42))
    ours_BTHV, expected_BTHV = logits_and_expected(released, converted, PARAMS, ids_BT)
    model = load_model(converted)
    terms = terms_of(model, ids_BT.numel())
    assert model.heads == 3
    assert model.config.num_hidden_layers == 3
    assert_same_up_to_rounding(ours_BTHV, expected_BTHV, terms)
    head_zero = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float64).eval()
    assert type(head_zero) is LlamaForCausalLM
    with torch.no_grad(), in_float64():
        turn_exactly(head_zero)
        assert_same_up_to_rounding(head_zero(ids_BT).logits, ours_BTHV[:, :, 0], terms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_way_there_and_back_changes_no_bit(tmp_path, dtype):
    folder = make_checkpoint(tmp_path / "release" / "toy", dtype)
    to_meta(convert(folder, tmp_path / "cache"), tmp_path / "back")
    before = torch.load(folder / "consolidated.pth", weights_only=True)
    after = torch.load(tmp_path / "back" / "consolidated.pth", weights_only=True)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert after[name].dtype == dtype
        assert torch.equal(weight.view(torch.uint8), after[name].view(torch.uint8)), name
    assert json.loads((tmp_path / "back" / "params.json").read_text()) == PARAMS
    original = (folder.parent / "tokenizer.model").read_bytes()
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == original


def test_a_model_trained_and_saved_since_goes_back_as_well(converted, tmp_path):
    model = load_model(converted)
    with torch.no_grad():
        model.extra_heads[1].mlp.up_proj.weight.mul_(2)
    Export().write(model, converted, tmp_path / "trained")
    to_meta(tmp_path / "trained", tmp_path / "back")
    original = (converted / "meta" / "tokenizer.model").read_bytes()
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == original
    to_meta(converted, tmp_path / "untrained")
    trained, untrained = (
        torch.load(tmp_path / name / "consolidated.pth", weights_only=True) for name in ("back", "untrained")
    )
    changed = [name for name in untrained if not torch.equal(trained[name], untrained[name])]
    assert changed == ["extra_heads.1.feed_forward.w3.weight"]


@pytest.mark.parametrize(("heads", "init"), [(1, "saved"), (2, "saved"), (4, "copy")])
def test_a_model_with_other_heads_since_goes_back_as_what_it_is(converted, tmp_path, heads, init):
    Export().write(load_model(converted, heads, init), converted, tmp_path / "ours")
    to_meta(tmp_path / "ours", tmp_path / "back")
    ids_BT = torch.arange(3, 20)[None]
    ours, again = load_model(tmp_path / "ours"), load_model(convert(tmp_path / "back", tmp_path / "cache"))
    assert ours.heads == again.heads == heads
    assert all(map(torch.equal, ours.mtp(ids_BT).hidden, again.mtp(ids_BT).hidden))


def test_the_7b_layout_has_the_291_tensors_that_were_published():
    from wmtp.models.meta_checkpoint import _names

    names = _names(LlamaConfig(num_hidden_layers=29, mtp_heads=4))
    weights = make_weights(PARAMS | dict(n_layers=32, n_future_tokens=4), 8)
    assert len(names) == 291
    assert set(names.values()) == weights.keys()
    assert names["model.layers.28.self_attn.q_proj.weight"] == "layers.28.attention.wq.weight"


# ---- the tokenizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["for x in x", "def f(x):\n    return x+1", "  de  f", "값 = é", " <0x41>", "<s>def</s>"]
)
def test_text_becomes_the_pieces_that_sentencepiece_makes(released, converted, text):
    pieces = pieces_of(released.parent / "tokenizer.model")
    tokenizer = load_tokenizer(converted)
    assert tokenizer(text).input_ids == [1, *sentencepiece_bpe(text, pieces)]
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_a_reference_with_more_special_tokens_reads_the_same(converted, tmp_path):
    """CodeLlama-7b-Python beside Meta's model: the same pieces, and infilling tokens that Meta's does not have."""
    shutil.copytree(converted, tmp_path / "reference")
    tokenizer = AutoTokenizer.from_pretrained(converted)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<FILL_ME>"]})
    tokenizer.save_pretrained(tmp_path / "reference")
    assert find_reference(str(tmp_path / "reference"), str(converted)) == tmp_path / "reference"


# ---- finding, resuming, refusing -------------------------------------------------------------------------------------


def test_a_path_to_metas_folder_trains_decodes_and_is_converted_once(released):
    source = ModelSource(str(released), heads=3)
    model, tokenizer = source.load(), source.load_tokenizer()
    folder = find_model(source.path)
    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    tokens = {}
    for decoding in ("ordinary", "speculative"):
        sampling = Sampling(temperature=0.0, max_new_tokens=8, decoding=decoding)
        tokens[decoding] = [c.tokens for _, c in generate(model, tokenizer, [Request("a", "for x in")], sampling)]
    assert tokens["ordinary"] == tokens["speculative"]
    assert find_model(source.path) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == times


def test_each_block_is_a_file_and_a_killed_conversion_goes_on_where_it_was(released, tmp_path, monkeypatch):
    from wmtp.models import meta_checkpoint

    written = []

    def save(tensors, file, **kwargs):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(file.name)
        safetensors_save(tensors, file, **kwargs)

    safetensors_save = meta_checkpoint.save_file
    monkeypatch.setattr(meta_checkpoint, "save_file", save)
    with pytest.raises(KeyboardInterrupt):
        convert(released, tmp_path)
    assert [path for path in (tmp_path / "converted").iterdir() if not path.name.startswith(".")] == []
    monkeypatch.setattr(meta_checkpoint, "save_file", lambda *args, **kwargs: safetensors_save(*args, **kwargs))
    (part,) = (tmp_path / "converted").glob(".*.part")
    before = {file.name: file.stat().st_ino for file in part.glob("*.safetensors")}
    folder = convert(released, tmp_path)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(before) == 3
    assert len(shards) == 6  # outside the blocks, 3 layers, 2 heads
    assert {file.name: file.stat().st_ino for file in shards if file.name in before} == before
    with safe_open(shards[-1], "pt") as shard:
        assert {name.rsplit(".", 3)[0].split(".")[0] for name in shard.keys()} == {"extra_heads"}
    load_model(folder)


def test_a_full_disk_is_said_and_what_was_written_is_kept(released, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the tokenizer fits, the embeddings do not
    try:
        with pytest.raises(StorageError, match=r"storage.cache = .*7B_toy cannot be converted there \(.*\). It takes"):
            convert(released, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "converted").glob(".*.part/tokenizer.json"))
    load_model(convert(released, tmp_path))


def test_other_weights_of_the_same_name_are_converted_anew(tmp_path):
    folder = make_checkpoint(tmp_path / "release" / "toy")
    first = convert(folder, tmp_path / "cache")
    weights = torch.load(folder / "consolidated.pth", weights_only=True)
    weights["norm.weight"] += 1
    torch.save(weights, folder / "consolidated.pth")
    assert convert(folder, tmp_path / "cache") != first


def break_and_expect(folder: Path, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        convert(folder, folder.parent / "cache")


def test_a_folder_that_is_no_multi_token_model_is_refused_by_name(released, tmp_path, monkeypatch):
    folder = shutil.copytree(released, tmp_path / "plain")
    shutil.copy(released.parent / "tokenizer.model", folder)
    weights = torch.load(folder / "consolidated.pth", weights_only=True)
    plain = {name: weight for name, weight in weights.items() if not name.startswith("extra_heads")}
    torch.save(plain, folder / "consolidated.pth")
    params = {name: value for name, value in PARAMS.items() if name != "n_future_tokens"} | dict(n_layers=3)
    (folder / "params.json").write_text(json.dumps(params))
    with monkeypatch.context() as patch:
        patch.setattr(loading, "convert", lambda *_: pytest.fail("converted before it is said"))
        with pytest.raises(ConfigError, match=r"model.heads = 3, but .* was saved with 1; set model.heads_init=copy"):
            ModelSource(str(folder), heads=3).load()
    assert ModelSource(str(folder), heads=1).load().heads == 1
    with pytest.raises(ConfigError, match=r"model.heads = 4, but .* was saved with 3"):
        ModelSource(str(released), heads=4).load()


def test_what_is_missing_damaged_or_of_another_size_is_named(released, tmp_path):
    folder = shutil.copytree(released, tmp_path / "toy")
    weights = torch.load(folder / "consolidated.pth", weights_only=True)
    break_and_expect(folder, DataNotFoundError, "no tokenizer.model or ../tokenizer.model")
    write_tokenizer(folder / "tokenizer.model", model_type=1)
    break_and_expect(folder, CheckpointError, "not a BPE model of SentencePiece")
    shutil.copy(released.parent / "tokenizer.model", folder)
    (folder / "params.json").write_text(json.dumps(PARAMS | dict(n_layers=6)))
    break_and_expect(
        folder, CheckpointError, r"not the model of its params.json: layers.3.attention.wk.weight is absent"
    )
    for name, value in (
        ("n_heads", 5),
        ("n_future_tokens", 6),
        ("n_future_tokens", "3"),
        ("dim", 0),
        ("n_layers", None),
    ):
        (folder / "params.json").write_text(json.dumps(PARAMS | {name: value}))
        break_and_expect(folder, CheckpointError, f"describes no model .*{name} = {value!r}")
    small = {name: w[:300] if "tok_emb" in name or "output" in name else w for name, w in weights.items()}
    torch.save(small, folder / "consolidated.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS))
    break_and_expect(folder, CheckpointError, r"tokenizer.model has \d+ pieces, but .*consolidated.pth knows 300")
    (folder / "params.json").write_text("[]")
    break_and_expect(folder, CheckpointError, "is not a JSON object")
    (folder / "params.json").write_text(json.dumps(PARAMS))
    os.truncate(folder / "consolidated.pth", 4000)
    break_and_expect(folder, CheckpointError, "consolidated.pth is truncated, damaged or holds more than tensors")
    (folder / "consolidated.pth").unlink()
    break_and_expect(folder, DataNotFoundError, "no consolidated.pth")


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("hostile-was-here",))


def test_code_in_a_checkpoint_is_not_run(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(released, tmp_path / "toy")
    shutil.copy(released.parent / "tokenizer.model", folder)
    torch.save({"norm.weight": Hostile()}, folder / "consolidated.pth")
    break_and_expect(folder, CheckpointError, "holds more than tensors")
    assert not Path("hostile-was-here").exists()


def test_no_model_of_metas_goes_back_without_its_params(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="was not converted from Meta's format"):
        to_meta(tmp_path, tmp_path / "back")
