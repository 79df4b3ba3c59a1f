import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    modeling_flash_attention_utils,
)

from tests.tiny import tiny_model
from tests.tolerance import assert_same_up_to_rounding, in_float64, terms_of
from wmtp.models import head_start
from wmtp.models.mtp import MTPForCausalLM, put_heads_on


def make(heads: int = 4, **changes) -> MTPForCausalLM:
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    return tiny_model(heads=heads, **(shape | changes)).eval()


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(42))


def test_head_zero_is_the_plain_causal_lm(ids_BT):
    model = make()
    plain = LlamaForCausalLM(
        LlamaConfig(**{k: v for k, v in model.config.to_dict().items() if k != "mtp_heads"})
    ).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("extra_heads")})
    logits_BTV = model.mtp(ids_BT).hidden[0] @ model.unembedding_VD.T
    assert torch.equal(logits_BTV, plain(ids_BT).logits)


@in_float64()
def test_every_head_reads_the_trunk_alone(ids_BT):
    """Head k by hand: its layer on the trunk's output, the shared norm, nothing of head 0."""
    model = make().double()
    with model.trunk_call() as call:
        output = model.mtp(ids_BT)
    (trunk_BTD,) = call["args"]
    position_ids = torch.arange(9)[None]
    rotary = model.model.rotary_emb(trunk_BTD, position_ids)
    mask = torch.full((9, 9), float("-inf")).triu(1)[None, None].double()
    heads = [model.model.layers[-1], *model.extra_heads]
    by_hand = [model.model.norm(head(trunk_BTD, attention_mask=mask, position_embeddings=rotary)) for head in heads]
    assert_same_up_to_rounding(output.hidden, by_hand, terms_of(model, ids_BT.numel()))


@in_float64()
def test_padding_changes_no_head(ids_BT):
    model = make().double()
    padded = torch.cat([ids_BT, torch.zeros(2, 4, dtype=torch.long)], dim=1)
    mask = (torch.arange(13) < 9).long().expand(2, 13)
    for how in ({}, {"attention_mask": mask}):
        with_padding = [hidden_BTD[:, :9] for hidden_BTD in model.mtp(padded, **how).hidden]
        assert_same_up_to_rounding(with_padding, model.mtp(ids_BT).hidden, terms_of(model, padded.numel()))


def test_one_head_is_next_token_prediction(ids_BT):
    model = make(heads=1)
    assert len(model.mtp(ids_BT).hidden) == 1
    assert len(model.extra_heads) == 0


def test_export_loads_in_wmtp_with_all_heads_and_in_transformers_with_head_zero(ids_BT, tmp_path):
    model = make(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    again = MTPForCausalLM.from_pretrained(tmp_path)
    for a, b in zip(model.mtp(ids_BT).hidden, again.mtp(ids_BT).hidden, strict=True):
        assert torch.equal(a, b)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain) is LlamaForCausalLM
    assert torch.equal(plain(ids_BT).logits, model(ids_BT).logits)


def test_copied_heads_start_as_head_zero(ids_BT):
    model = make()
    head_start.copy(model)
    hidden = model.mtp(ids_BT).hidden
    assert all(torch.equal(hidden[0], other) for other in hidden[1:])


@pytest.fixture
def flash_attention_without_kernels(monkeypatch):
    """Flash attention as transformers calls it, where only shapes matter."""

    def attend(query, key, value, **_):
        return torch.empty_like(query) + key.sum() + value.sum()

    kernels = (attend,) * 5, (lambda **_: {},) * 2
    monkeypatch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", lambda *_, **__: kernels)
    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", lambda self, name, *_, **__: name)


@pytest.mark.parametrize("rows", [1, 2])
def test_flash_attention_does_not_wait_for_the_device(flash_attention_without_kernels, rows):
    model = make().to("meta", torch.bfloat16)
    model.set_attn_implementation("flash_attention_2")
    for hidden_BTD in model.mtp(torch.zeros(rows, 9, dtype=torch.long, device="meta")).hidden:
        hidden_BTD.sum().backward(retain_graph=True)


def test_a_look_for_padding_does_not_wait_for_the_device():
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, pad_token_id=0, mtp_heads=2)
    model = put_heads_on(GPT2LMHeadModel)(config).to("meta")
    model.mtp(torch.zeros(2, 9, dtype=torch.long, device="meta"))
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):  # all is as before
        model(torch.zeros(2, 9, dtype=torch.long, device="meta"))
