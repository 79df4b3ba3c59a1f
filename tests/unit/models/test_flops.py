"""Hold the FLOP formula to torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, Qwen2Config, Qwen2ForCausalLM

from wmtp.maths.loss import weighted_mtp_loss
from wmtp.models.flops import peak_flops, step_flops
from wmtp.models.mtp import MTPForCausalLM, put_heads_on

B, T, PROMPT = 3, 32, 5


def llama(**more):
    shape = dict(vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4)
    return MTPForCausalLM(LlamaConfig(**shape | more, mtp_heads=4, attn_implementation="eager"))


def gpt2():
    config = GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, attn_implementation="eager")
    config.mtp_heads = 2
    return put_heads_on(GPT2LMHeadModel)(config)


def qwen2():
    shape = dict(vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4)
    config = Qwen2Config(**shape, num_key_value_heads=2, tie_word_embeddings=True, attn_implementation="eager")
    config.mtp_heads = 3
    return put_heads_on(Qwen2ForCausalLM)(config)


def addmm_flops(_sum, a, b, **_):
    return 2 * a[0] * a[1] * b[1]


@pytest.mark.parametrize(
    "make", [llama, lambda: llama(head_dim=32), gpt2, qwen2], ids=["llama", "wide", "gpt2", "qwen2"]
)
def test_the_flops_of_a_step_are_those_that_torch_counts(make):
    torch.manual_seed(42)
    model = make()
    ids = torch.randint(0, 96, (B, T))
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    # torch overlooks the product that is added in place to the unembedding's gradient.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops}) as counter:
        output = model.mtp(ids)
        weighted_mtp_loss(output.hidden, model.unembedding_VD, labels, None, B * (T - PROMPT)).loss.backward()
    flops = step_flops(model)
    predictions = sum(B * (T - max(PROMPT, 1 + k)) for k in range(model.heads))
    ours = flops.per_token * B * T + flops.per_pair * B * T**2 + flops.per_prediction * predictions
    # torch also counts the angles of the rotary embedding.
    assert ours <= counter.get_total_flops() <= 1.002 * ours


def test_a_frozen_matrix_needs_no_gradient_of_its_own():
    model = llama()
    whole = step_flops(model).per_token
    model.model.requires_grad_(False)
    heads = sum(p.numel() for p in model.extra_heads.parameters() if p.ndim == 2)
    assert step_flops(model).per_token == whole * 4 // 6 + 2 * heads


def test_an_unknown_device_has_no_peak():
    assert peak_flops("NVIDIA H200") == 989e12 and peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA GeForce GT 710") is None
