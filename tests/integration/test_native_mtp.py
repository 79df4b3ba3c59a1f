"""A model that ships multi-token layers, through the front doors: trained, resumed, drafted with, exported."""

import json

import pytest
import torch
from safetensors.torch import load_file
from test_train import InterruptAfter
from training import last_checkpoint

from tests.published import publish
from wmtp.checkpoints.saved_model import SavedModel
from wmtp.eval import evaluate_checkpoint
from wmtp.models.loading import load_model
from wmtp.train import train

FEW = (
    "algo=baseline", "model=hf", "optimizer=adamw", "optimizer.lr=1e-3", "data.train_size=60", "recovery=off",
    "data.module.source.validation_size=8", "+trainer.limit_val_batches=1", "trainer.max_steps=3", "eval.limit=2",
    "sampling.max_new_tokens=12", "sampling.decoding=speculative",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", ["deepseek_v3_of_two", "qwen3_5"])
def test_shipped_layers_are_trained_resumed_drafted_with_and_exported(config, tmp_path, tokenizer, capsys, name):
    folder = publish(name, tmp_path / "published")
    tokenizer.save_pretrained(folder)
    few = [*FEW, f"model.path={folder}"]
    train(config(*few, "name=whole"))
    heads = 3 if name == "deepseek_v3_of_two" else 2
    assert f"{heads} heads" in (said := capsys.readouterr().out) and "multi-token lay" in said
    interrupt = f"+callbacks.interrupt={{_target_: {InterruptAfter.__module__}.InterruptAfter, steps: 1}}"
    with pytest.raises(KeyboardInterrupt):
        train(config(*few, "name=cut", "eval.before=false", "eval.after=false", interrupt))
    train(config(*few, "name=cut", "eval.before=false", "eval.after=false", "ckpt=last"))
    whole, cut = (tmp_path / "runs" / name for name in ("whole", "cut"))
    weights, resumed = (last_checkpoint(run)["state_dict"] for run in (whole, cut))
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())

    rates = [json.loads(next((whole / "eval" / when).rglob("speed.json")).read_text()) for when in ("before", "after")]
    drafted = {f"synthetic/acceptance/head{k}" for k in range(1, heads)} if name != "qwen3_5" else set()
    assert all({key for key in rate if "acceptance" in key} == drafted for rate in rates)

    assert load_file(whole / "model" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    model, _ = SavedModel(whole / "checkpoints" / "last.ckpt").load()
    exported = load_model(whole / "model").eval()
    ids_BT = torch.arange(1, 19).view(2, 9)
    for a, b in zip(model.mtp(ids_BT).hidden, exported.mtp(ids_BT).hidden, strict=True):
        assert torch.equal(a, b)
    model.save_pretrained(tmp_path / "again")
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "again", whole / "model"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)
    found = evaluate_checkpoint(config(f"ckpt={whole}", "sampling.max_new_tokens=8", "progress=false", root="eval"))
    assert "synthetic/pass@1" in found
