"""A GGUF through the front doors: trained, exported, gone on with and evaluated like any other model."""

import json

import pytest

pytest.importorskip("gguf", reason="needs pip install gguf")

from tests.gguf_files import code_tokenizer, tiny_llama, write_gguf
from tests.integration.training import last_checkpoint
from wmtp.errors import ConfigError
from wmtp.eval import evaluate_checkpoint
from wmtp.models.loading import load_model
from wmtp.train import train


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "cache"))
    tokenizer = code_tokenizer(digits_apart=True)
    model = tiny_llama(tokenizer.get_vocab_size())
    model.config.max_position_embeddings = 512
    return write_gguf(tmp_path / "tiny.Q8_0.gguf", model, tokenizer, "Q8_0")


@pytest.mark.long
def test_a_gguf_is_trained_exported_gone_on_with_and_evaluated(config, file, tmp_path):
    model = ["model=hf", f"model.path={file}", "model.heads=2", "callbacks.head_pretraining.steps=2"]
    short = ["algo=baseline", "eval.limit=1", "sampling.max_new_tokens=4", "trainer.max_steps=2"]
    found = train(config(*model, *short))
    run = tmp_path / "runs" / "baseline-synthetic-tiny.Q8_0"
    exported = load_model(run / "model")
    assert exported.heads == 2 and exported.config.stored_as == "dequantised from Q8_0"
    assert found["after/val/ce_head0"] < found["before/val/ce_head0"]
    small = ["benchmark=synthetic", "benchmark.limit=1", "sampling.max_new_tokens=4", "sandbox.allow_unsafe=true"]
    for ckpt, out in ((run, "of-run"), (run / "model", "of-export"), (file, "of-file"), (f"model:{file}", "of-model")):
        found = evaluate_checkpoint(config(f"ckpt={ckpt}", f"out={tmp_path / out}", *small, root="eval"))
        assert "synthetic/pass@1" in found
    samples = {out: (tmp_path / out / "samples.jsonl").read_text() for out in ("of-run", "of-export", "of-file")}
    rows = {out: json.loads(text.splitlines()[0])["completion"] for out, text in samples.items()}
    assert rows["of-run"] == rows["of-export"]
    train(config(*model, *short, "trainer.max_steps=3", f"ckpt={run}"))
    assert last_checkpoint(run)["global_step"] == 3
    again = load_model(run / "model")
    assert again.lm_head.weight is again.get_input_embeddings().weight
    with pytest.raises(ConfigError, match=r"results cannot go beside .*tiny.Q8_0.gguf; set out=DIR"):
        evaluate_checkpoint(config(f"ckpt={file}", *small, root="eval"))
