"""An adapter through the front doors: trained, resumed, evaluated from its checkpoint, exported as a plain model."""

import pytest
import torch
from test_train import InterruptAfter
from training import last_checkpoint
from transformers import AutoModelForCausalLM

from tests.tolerance import assert_same_up_to_rounding, terms_of
from wmtp.algos.optimizers import adamw, muon
from wmtp.checkpoints.saved_model import SavedModel
from wmtp.errors import CheckpointError, ConfigError
from wmtp.eval import evaluate_checkpoint
from wmtp.models.adapter import Lora, merge
from wmtp.models.loading import ModelSource
from wmtp.train import train

LORA = (
    "model/adapter=lora", "model.adapter.r=4", "eval.before=false", "eval.after=false", "eval.limit=2",
    "data.train_size=60", "data.module.source.validation_size=8", "+trainer.limit_val_batches=1",
)  # fmt: skip


@pytest.mark.long
def test_an_adapter_goes_on_bit_for_bit_and_its_checkpoint_and_export_say_the_same(config, tmp_path, capsys):
    train(config(*LORA, "name=whole", "trainer.max_steps=3"))
    said = capsys.readouterr().out
    assert "1.3M parameters (0.8M trained), 4 heads" in said and said.count("loss: fused with its gradients") == 1
    interrupt = f"+callbacks.interrupt={{_target_: {InterruptAfter.__module__}.InterruptAfter, steps: 1}}"
    with pytest.raises(KeyboardInterrupt):
        train(config(*LORA, "name=cut", "trainer.max_steps=3", interrupt))
    with pytest.raises(CheckpointError, match=r"of another model: .* set model.path, model.heads and model/adapter"):
        train(config("name=cut", "ckpt=last"))
    train(config(*LORA, "name=cut", "trainer.max_steps=3", "ckpt=last"))
    whole, cut = (tmp_path / "runs" / name for name in ("whole", "cut"))
    resumed = last_checkpoint(cut)["state_dict"]
    assert all(torch.equal(value, resumed[name]) for name, value in last_checkpoint(whole)["state_dict"].items())

    found = evaluate_checkpoint(config(f"ckpt={whole}", "sampling.max_new_tokens=8", "progress=false", root="eval"))
    assert found["synthetic/pass@1"] == 0  # no program is that short
    model, _ = SavedModel(whole / "checkpoints" / "last.ckpt").load()
    assert model.adapter == Lora(r=4)
    plain = AutoModelForCausalLM.from_pretrained(whole / "model").eval()
    ids_BT = torch.arange(24).view(2, 12)
    with torch.no_grad():
        assert_same_up_to_rounding(plain(ids_BT).logits, model(ids_BT).logits, terms_of(model, ids_BT.numel()))


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_the_optimizer_gets_only_what_is_trained(optimizer):
    model = ModelSource("asset:tiny-base", adapter=Lora()).load()
    given = [p for group in optimizer(model).param_groups for p in group["params"]]
    assert {id(p) for p in given} == {id(p) for p in model.parameters() if p.requires_grad}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert "model.embed_tokens.weight" in frozen and "model.layers.0.mlp.up_proj.base_layer.weight" in frozen
    assert not any(name.startswith(("extra_heads.", "model.layers.2.")) for name in frozen)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(r=0), "model.adapter.r = 0 must be a whole number, at least 1"),
        (dict(alpha=0), "model.adapter.alpha = 0 must be a number > 0"),
        (dict(alpha=float("inf")), "model.adapter.alpha = inf must be a number > 0"),
        (dict(dropout=1.0), r"model.adapter.dropout = 1.0 must be a number in \[0, 1\)"),
        (dict(target_modules=["wq"]), r"\['wq'\] are not in the trunk of llama, which has \['down_proj', .*'v_proj'\]"),
        (dict(target_modules=["q_proj", "v_porj"]), r"= \['v_porj'\] are not in the trunk of llama"),
        (dict(target_modules="q_proj"), r"= 'q_proj' must be a list of names, such as \[q_proj, v_proj\]"),
    ],
)
def test_an_adapter_that_cannot_work_is_one_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ModelSource("asset:tiny-base", adapter=Lora(**settings)).load()


@pytest.mark.gpu
def test_merging_takes_no_room_on_the_device():
    model = ModelSource("asset:tiny-base", adapter=Lora()).load().cuda()
    merged = merge(model, model.state_dict())
    assert merged["model.layers.0.mlp.up_proj.weight"].device.type == "cpu"
