"""New heads begin as they say, and only as much of their gradient reaches the rest as asked."""

from contextlib import nullcontext

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, Qwen3MoeConfig

from tests.tiny import tiny_model
from tests.tolerance import assert_same_up_to_rounding, in_float64, terms_of
from wmtp.errors import ConfigError
from wmtp.maths.loss import weighted_mtp_loss
from wmtp.models import head_start
from wmtp.models.loading import mtp_class

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
CONFIGS = [
    LlamaConfig(**SMALL, mtp_heads=3),
    GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, mtp_heads=3, pad_token_id=0),
    Qwen3MoeConfig(
        **SMALL, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, num_key_value_heads=2, head_dim=8,
        mtp_heads=3,
    ),
]  # fmt: skip


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(42))


def model_of(config) -> torch.nn.Module:
    torch.manual_seed(42)
    return mtp_class(config)(config).eval()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_identity_heads_say_what_the_trunk_says_and_can_learn(config, ids_BT):
    model = model_of(config)
    head_start.identity(model)
    with model.trunk_call() as call:
        output = model.mtp(ids_BT)
    (trunk_BTD,) = call["args"][:1] or [call["kwargs"]["hidden_states"]]
    for hidden_BTD in output.hidden[1:]:
        assert torch.equal(hidden_BTD, model.final_norm(trunk_BTD))
    sum(h.square().sum() for h in output.hidden[1:]).backward()
    for head in model.extra_heads:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_a_layer_that_is_no_identity_without_its_projections_is_refused():
    model = tiny_model(heads=2).eval()
    head_start.OUTPUTS, names = {"o_proj"}, head_start.OUTPUTS
    try:
        with pytest.raises(ConfigError, match="heads_init = identity: a layer of llama adds something"):
            head_start.identity(model)
    finally:
        head_start.OUTPUTS = names


def gradients(model, ids_BT, factor: float) -> dict[str, torch.Tensor]:
    model.zero_grad()
    output = model.mtp(ids_BT, trunk_gradient=factor)
    weighted_mtp_loss(
        output.hidden, output.unembedding_VD, ids_BT, None, 16, [1.0, 0.5, 0.25], shared_gradient=output.trunk_gradient
    ).loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@in_float64()
def test_the_heads_gradient_into_what_they_share_is_scaled_and_nothing_else(ids_BT, checkpointing, tied):
    model = tiny_model(heads=3, **SMALL, tie_word_embeddings=tied).double().train()
    if checkpointing:
        again = dict(use_reentrant=False, context_fn=lambda: (nullcontext(), in_float64()))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
    whole, part, none = (gradients(model, ids_BT, factor) for factor in (1.0, 0.25, 0.0))

    # Head 0 alone, by explicit logits.
    model.zero_grad()
    logits_NV = (model.mtp(ids_BT).hidden[0][:, :-1] @ model.unembedding_VD.T).flatten(0, 1)
    (torch.nn.functional.cross_entropy(logits_NV, ids_BT[:, 1:].flatten(), reduction="sum") / (3 * 16)).backward()
    alone = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}

    terms = terms_of(model, ids_BT.numel())
    heads = {name for name in whole if name.startswith("extra_heads")}
    assert all(torch.equal(part[name], whole[name]) and torch.equal(none[name], whole[name]) for name in heads)
    whole, part, none, alone = (
        {name: gradient for name, gradient in each.items() if name not in heads} for each in (whole, part, none, alone)
    )
    assert_same_up_to_rounding(none, alone, terms)
    assert_same_up_to_rounding(part, {name: alone[name] + 0.25 * (whole[name] - alone[name]) for name in whole}, terms)
    shared = [name for name in whole if "layers.2." not in name]  # all but head 0's own layer
    assert not any(torch.allclose(whole[name], alone[name]) for name in shared)
