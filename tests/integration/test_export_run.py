"""A run's exported folder, through the front doors: plain transformers and peft read it, and runs go on there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from pytorch_lightning import Callback
from safetensors.torch import load_file
from training import last_checkpoint
from transformers import AutoModelForCausalLM

from wmtp.checkpoints.saved_model import SavedModel
from wmtp.errors import CheckpointError, DataNotFoundError
from wmtp.eval import evaluate_checkpoint
from wmtp.models.generation import generate
from wmtp.models.loading import ModelSource, find_model
from wmtp.models.sampling import Request, Sampling
from wmtp.models.tokenizer import load_tokenizer
from wmtp.run.directory import is_finished, unfinished_run
from wmtp.train import train

QUICK = (
    "eval.before=false", "eval.after=false", "eval.limit=2", "trainer.max_steps=2", "data.train_size=60",
    "data.module.source.validation_size=8", "+trainer.limit_val_batches=1", "algo=baseline",
)  # fmt: skip
PROMPTS = ("def f(x):\n    return", "Write a function", "x + y")


def greedy(model, tokenizer) -> list[list[int]]:
    """What plain transformers generates, to the end of text."""
    found = []
    for prompt in PROMPTS:
        ids_BT = tokenizer(prompt, return_tensors="pt").input_ids
        new = model.generate(ids_BT, do_sample=False, max_new_tokens=12, pad_token_id=tokenizer.pad_token_id)
        found.append(new[0, ids_BT.shape[1] :].tolist())
    return found


def test_plain_transformers_generates_what_wmtp_generates_and_the_card_says_how_it_was_made(config, tmp_path):
    metrics = train(config(*QUICK, "name=dropped", "model.export.heads=drop", "eval.after=true"))
    run = tmp_path / "runs" / "dropped"
    model, tokenizer = SavedModel(run / "checkpoints" / "last.ckpt").load()
    plain = AutoModelForCausalLM.from_pretrained(run / "model").eval()
    asked = [Request(prompt, prompt) for prompt in PROMPTS]
    ours = dict(generate(model, tokenizer, asked, Sampling(0.0, max_new_tokens=12)))
    assert [list(ours[number].tokens) for number in range(len(asked))] == greedy(plain, tokenizer)
    written = json.loads((run / "model" / "config.json").read_text())
    assert written["architectures"] == ["LlamaForCausalLM"] and "mtp_heads" not in written
    assert load_file(run / "model" / "model.safetensors").keys() == {
        name for name in load_file(find_model("asset:tiny-base") / "model.safetensors") if "extra_heads" not in name
    }
    card = ModelCard((run / "model" / "README.md").read_text())
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(metrics["after/synthetic/pass@1"], abs=5e-5)  # four decimals
    assert str(tmp_path) not in card.content and "python -m" in card.content


def test_the_precision_of_the_source_comes_back_and_a_run_goes_on_from_a_run(config, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(find_model("asset:tiny-base"), base)
    ModelSource("asset:tiny-base").load().to(torch.bfloat16).save_pretrained(base, max_shard_size="500KB")
    (base / "model.safetensors").unlink()
    train(config(*QUICK, "name=first", f"model.path={base}", "model.export.dtype=source"))
    first = tmp_path / "runs" / "first"
    held, found = (
        {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
        for folder in (base, first / "model")
    )
    trained = last_checkpoint(first)["state_dict"]
    assert held.keys() == found.keys()
    for name, value in found.items():
        assert torch.equal(value, trained[f"model.{name}"].bfloat16()), name
    assert (first / "model" / "tokenizer_config.json").read_bytes() == (base / "tokenizer_config.json").read_bytes()

    train(config(*QUICK, "name=second", f"model.path={first / 'model'}", "trainer.max_steps=1"))
    assert ModelSource(str(tmp_path / "runs" / "second" / "model")).load().heads == 4


def test_an_adapter_alone_ends_a_run_and_peft_puts_it_on_the_base(config, tmp_path):
    lora = ("model/adapter=lora", "model.adapter.r=2", "model.export.adapter=only", "model.export.heads=drop")
    train(config(*QUICK, *lora, "name=alone"))
    run = tmp_path / "runs" / "alone"
    assert is_finished(run) and unfinished_run(run.parent, "alone") is None
    model, _ = SavedModel(run / "checkpoints" / "last.ckpt").load()
    base = AutoModelForCausalLM.from_pretrained(find_model("asset:tiny-base"), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, run / "model").eval()
    ids_BT = torch.arange(24).view(2, 12)
    with torch.no_grad():
        assert torch.equal(adapted(ids_BT).logits, model(ids_BT).logits)
    assert ModelCard((run / "model" / "README.md").read_text()).data.library_name == "peft"
    found = evaluate_checkpoint(config(f"ckpt={run}", "sampling.max_new_tokens=8", "progress=false", root="eval"))
    assert found["synthetic/pass@1"] == 0  # no program is that short
    with pytest.raises(DataNotFoundError, match="is an adapter without its model"):
        train(config(*QUICK, f"model.path={run / 'model'}"))


class Lose(Callback):
    """Move a folder away when training ends."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer, pl_module) -> None:
        self.folder.rename(self.folder.with_name("elsewhere"))


def test_a_run_whose_source_was_lost_keeps_what_it_learned_and_exports_it_later(config, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(find_model("asset:tiny-base"), base)
    lose = f"+callbacks.lose={{_target_: {Lose.__module__}.Lose, folder: {base}}}"
    with pytest.raises(CheckpointError, match=r"no longer what training began with .*; put it back and go on"):
        train(config(*QUICK, "name=lost", f"model.path={base}", lose))
    run = tmp_path / "runs" / "lost"
    assert last_checkpoint(run)["global_step"] == 2 and not (run / "model" / "config.json").exists()
    base.with_name("elsewhere").rename(base)
    train(config(*QUICK, "name=lost", f"model.path={base}", "ckpt=last"))
    trained = last_checkpoint(run)["state_dict"]
    found = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in found.items())
    assert load_tokenizer(run / "model").eos_token_id == load_tokenizer(base).eos_token_id
