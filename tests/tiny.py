"""Make the smallest model that still is one: ours, of random weights, the same every time."""

from pathlib import Path

import torch
from transformers import LlamaConfig

from wmtp.algos.reference import OnlineReference
from wmtp.models.frozen import FrozenModel
from wmtp.models.loading import mtp_class
from wmtp.models.mtp import MTPForCausalLM, MTPMixin

# As many tokens as the tokenizer that ships with wmtp has.
SHAPE = dict(vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)


def tiny_model(seed: int = 42, heads: int = 2, arrangement: str = "parallel", **changes) -> MTPMixin:
    """Make a model of `SHAPE`, or changed from it."""
    torch.manual_seed(seed)
    config = LlamaConfig(**(SHAPE | changes), mtp_heads=heads)
    if arrangement != "parallel" and heads > 1:
        config.mtp_arrangement, config.num_mtp_layers = "sequential", 1 if arrangement == "recurrent" else heads - 1
    return mtp_class(config)(config)


class InMemory(OnlineReference):
    """A reference that lies in no folder."""

    def __init__(self, model: MTPForCausalLM) -> None:
        self.frozen = FrozenModel(Path(), model=model.requires_grad_(False).eval())
