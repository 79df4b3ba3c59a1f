"""Hold the reference cache to its word: the same weights as online scoring, computed once, by whoever is there."""

import json
import multiprocessing
import time
from importlib import resources
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LambdaCallback
from transformers import AutoModelForCausalLM

from tests.tolerance import assert_same_up_to_rounding, distance, relative_rounding, terms_of
from wmtp import ranges
from wmtp.algos import reference as cached_reference
from wmtp.algos.reference import CachedReference, OnlineReference
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks.token_weights import TokenWeights
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.maths.weighting import SoftWeighting
from wmtp.models.frozen import FrozenModel
from wmtp.models.loading import find_model, load_model
from wmtp.models.tokenizer import load_tokenizer

BASE, REFERENCE = "asset:tiny-base", "asset:tiny-reference"


@pytest.fixture(autouse=True)
def small_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cached_reference, "SMALLEST_SHARD", 300)


def data_module(size: int = 30, **source) -> MTPDataModule:
    tokenizer = load_tokenizer(find_model(BASE))
    source = Synthetic(train_size=size, validation_size=2, noise=0.5, **source)
    data = MTPDataModule(source, Synthetic0Shot(), tokenizer, token_budget=512)
    data.setup()
    return data


def terms() -> int:
    return terms_of(load_model(find_model(REFERENCE)), positions=512)


def score(data, reference=None):
    reference = reference or CachedReference(REFERENCE, BASE)
    samples = data.samples["train"]
    losses = reference.compute(samples, token_budget=data.token_budget, pad_token_id=data.tokenizer.pad_token_id)
    return samples.with_reference(losses)


def test_the_losses_are_those_of_the_reference_in_transformers():
    samples = score(data_module(8))
    folder = Path(str(resources.files("wmtp"))) / "assets" / "tiny-reference"
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found, expected = [], []
    for sample in samples:
        ids = sample.input_ids[None].long()
        with torch.no_grad():
            logits = plain(ids).logits[0]
        nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        expected.append(nll[sample.prompt_length - 1 :])
        found.append(sample.reference_nll[sample.prompt_length :])
        assert (sample.reference_nll[: sample.prompt_length] == 0).all()
    assert_same_up_to_rounding(found, expected, terms())


def train(tmp_path, reference, steps=8):
    """Train rho1 and return the module, its weights at every step, and the file of the heat map."""
    torch.manual_seed(42)
    algo = Rho1(load_model(find_model(BASE)), reference, weighting=SoftWeighting(), optimizer=sgd)
    weights = []
    keep = LambdaCallback(on_train_batch_end=lambda _, algo, *__: weights.append(algo.last_step["weight_BT"]))
    Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, limit_val_batches=0, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False, callbacks=[TokenWeights(tmp_path), keep],
    ).fit(algo, data_module())  # fmt: skip
    return algo, weights, json.loads((tmp_path / "token_weights.json").read_text())["samples"]


def in_memory(algo):
    return algo.reference.frozen.model is not None


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01)


def test_the_cache_gives_the_weights_of_online_scoring_and_needs_no_reference(tmp_path, monkeypatch):
    for folder in "abc":
        (tmp_path / folder).mkdir()
    _, online, shown_online = train(tmp_path / "a", OnlineReference(REFERENCE, BASE))
    train(tmp_path / "b", CachedReference(REFERENCE, BASE))
    monkeypatch.setattr(FrozenModel, "load", lambda *_: pytest.fail("the reference was loaded"))
    algo, cached, shown_cached = train(tmp_path / "c", CachedReference(REFERENCE, BASE))
    assert not in_memory(algo)
    assert len(online) == len(cached) == 8
    rounding = relative_rounding(terms(), torch.float32)
    assert distance(cached, online) <= rounding
    for a, b in zip(shown_online, shown_cached, strict=True):
        for stage in ("start", "end"):
            assert a[stage]["weight"][a["prompt_length"] :] == pytest.approx(
                b[stage]["weight"][b["prompt_length"] :], abs=1e-4 + 3 * rounding
            )  # shown to four places; none is above 3


def test_a_run_that_sees_less_than_the_data_scores_as_it_goes_unless_the_cache_has_it(tmp_path, capsys):
    algo, _, _ = train(tmp_path, CachedReference(REFERENCE, BASE), steps=2)
    assert in_memory(algo)
    assert "python -m wmtp.precompute" in capsys.readouterr().out
    score(data_module())
    algo, _, _ = train(tmp_path, CachedReference(REFERENCE, BASE), steps=2)
    assert not in_memory(algo)


def test_other_data_another_reference_or_precision_is_another_entry(tmp_path):
    samples, others = data_module().samples["train"], data_module(seed=43).samples["train"]
    reference, another = CachedReference(REFERENCE, BASE), CachedReference(BASE, BASE)
    files = [
        reference.files(samples, "32-true")[0],
        reference.files(others, "32-true")[0],
        reference.files(samples, "bf16-mixed")[0],
        another.files(samples, "32-true")[0],
        CachedReference(REFERENCE, BASE, weights="bfloat16").files(samples, "32-true")[0],
    ]
    assert len(set(files)) == 5
    assert CachedReference(REFERENCE, BASE).files(data_module().samples["train"], "32-true")[0] == files[0]


@pytest.mark.parametrize(("weights", "bits"), [("bfloat16", 8), ("float16", 11), ("int8", 7), ("int4", None)])
def test_a_reference_held_in_fewer_bits_gives_nearly_the_same_losses(weights, bits):
    if weights.startswith("int"):
        pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")
    data = data_module(20)
    if bits is None:
        with pytest.raises(ConfigError, match=r"inputs are multiples of 64 on a CPU, .* has one of 352; set .*=int8"):
            score(data, CachedReference(REFERENCE, BASE, weights=weights))
        return
    exact, held = (
        torch.cat([sample.reference_nll[sample.prompt_length :] for sample in samples])
        for samples in (score(data), score(data, CachedReference(REFERENCE, BASE, weights=weights)))
    )
    assert 0 < (exact - held).abs().mean() < 4 * 2.0**-bits  # of logits of about 4
    assert OnlineReference(REFERENCE, BASE, weights).frozen.load().unembedding_VD.element_size() == 2


def test_weights_that_cannot_be_held_so_are_refused_at_once(monkeypatch):
    with pytest.raises(ConfigError, match=r"algo.reference.weights = 'fp8' must be one of float32, bfloat16"):
        CachedReference(REFERENCE, BASE, weights="fp8")
    monkeypatch.setattr(ranges, "find_spec", lambda name: None)
    for make in (CachedReference, OnlineReference):
        with pytest.raises(ConfigError, match=r"= int8 needs bitsandbytes, .* pip install 'wmtp\[quantized\]', or set"):
            make(REFERENCE, BASE, weights="int8")


def test_only_the_cache_starts_when_all_is_in_it_and_loads_no_reference(tmp_path, monkeypatch):
    load = FrozenModel.load
    monkeypatch.setattr(FrozenModel, "load", lambda *_: pytest.fail("the reference was loaded"))
    with pytest.raises(ConfigError, match=r"algo.reference.only = true, .* python -m wmtp.precompute, with the same"):
        train(tmp_path, CachedReference(REFERENCE, BASE, only=True))
    with monkeypatch.context() as patch:
        patch.setattr(FrozenModel, "load", load)
        score(data_module())
    _, cached, _ = train(tmp_path, CachedReference(REFERENCE, BASE, only=True))
    assert len(cached) == 8


def watched(monkeypatch, log: Path, seconds: float = 0.0) -> None:
    """Write down which shard is computed."""
    real = cached_reference.score_samples

    def slow(model, samples, first, *rest):
        with log.open("a") as journal:
            journal.write(f"{multiprocessing.current_process().name} {first}\n")
        time.sleep(seconds)
        return real(model, samples, first, *rest)

    monkeypatch.setattr(cached_reference, "score_samples", slow)


def test_two_ranks_share_the_work_and_a_killed_one_is_replaced(tmp_path, monkeypatch):
    data, log = data_module(), tmp_path / "log"
    watched(monkeypatch, log, seconds=0.03)
    fork = multiprocessing.get_context("fork")

    def rank(n):
        torch.set_num_threads(1)  # a forked child lost its parent's pool, and two threads may not replace it at once
        reference = CachedReference(REFERENCE, BASE)
        reference.compute(data.samples["train"], token_budget=512, pad_token_id=0, rank=n, world_size=2)

    ranks = [fork.Process(target=rank, args=(n,), name=f"rank{n}") for n in range(2)]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + 60
    while len(log.read_text().split()) < 12 if log.exists() else True:
        assert time.monotonic() < deadline, "the ranks compute nothing"
        time.sleep(0.005)
    ranks[1].kill()
    ranks[0].join(timeout=60)
    assert ranks[0].exitcode == 0
    said = [line.split() for line in log.read_text().splitlines()]
    files = CachedReference(REFERENCE, BASE).files(data.samples["train"], "32-true")
    assert {name for name, _ in said} == {"rank0", "rank1"}
    assert len({first for _, first in said}) == len(files) >= 8
    assert len(said) <= len(files) + 1  # at most the shard that was in the killed hands is done twice
    log.write_text("")
    score(data)
    assert log.read_text() == ""  # nothing is left to do


def test_a_damaged_shard_alone_is_computed_again(tmp_path, monkeypatch, capsys):
    data, log = data_module(), tmp_path / "log"
    first = score(data)
    file = CachedReference(REFERENCE, BASE).files(data.samples["train"], "32-true")[2]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    watched(monkeypatch, log)
    again = score(data)
    assert len(log.read_text().splitlines()) == 1
    assert f"{file} is damaged; making it again" in capsys.readouterr().err
    assert all(one.reference_nll.equal(other.reference_nll) for one, other in zip(first, again, strict=True))
