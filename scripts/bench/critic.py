#!/usr/bin/env python3
"""What makes a critic find the wrong token: every idea that was tried, on the same programs, in one table.

    OMP_NUM_THREADS=1 python scripts/bench/critic.py            about 8 CPU minutes
    OMP_NUM_THREADS=1 python scripts/bench/critic.py shipped    only the rows whose name holds this word

Peers: chance, and a value network fine-tuned as a whole (the row "fine-tuned"). All rows are measured on the same 200
held-out compositions, a right program and one changed in one place each. CPU seconds are those of the
fitting alone; what judging the programs costs is shown while it happens.
"""

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn
from torch.nn import functional as F

from wmtp.cli import build, config_dir, quiet_libraries
from wmtp.critic.fitting import TrunkStates, ValueFitting, measure
from wmtp.critic.rewarded import RewardedSamples
from wmtp.critic.value import ValueNetwork
from wmtp.storage import using


class FineTuned(ValueNetwork):
    """Fit the whole network, not only the head: its states cannot be remembered."""

    remembers = False

    def prepare(self, model):
        super().prepare(model)
        self.network = self.frozen.load().requires_grad_(True)

    def states(self, batch, model):
        output = self.network.mtp(batch["input_ids_BT"])
        return output.hidden[0], output.next_token_nll(batch)


class Implicit(FineTuned):
    """Let V be the sum of log-ratios to the network as it was: an implicit process reward (arXiv 2412.01981)."""

    def prepare(self, model):
        import copy

        super().prepare(model)
        self._frozen = (copy.deepcopy(self.network).requires_grad_(False),)
        self.head = LogRatios()

    def states(self, batch, model):
        with torch.no_grad():
            before_BT = self.log_probability(self._frozen[0], batch)
        return self.log_probability(self.network, batch) - before_BT, None

    @staticmethod
    def log_probability(network, batch):
        output = network.mtp(batch["input_ids_BT"])
        log_p_BTV = (output.hidden[0][:, :-1] @ output.unembedding_VD.T).log_softmax(dim=-1)
        target_BT1 = batch["input_ids_BT"][:, 1:, None]
        return F.pad(log_p_BTV.gather(2, target_BT1).squeeze(2), (1, 0))


class LogRatios(nn.Module):
    """Add up what is given."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, ratio_BT, _nll_BT, mask_BT):
        return torch.where(mask_BT, ratio_BT, 0.0).cumsum(dim=1) + self.bias


PLAIN = ["algo.value.cumulative=false", "algo.value.surprise=false", "algo.pretraining.sparsity=0"]
SHORT = ["algo.pretraining.steps=250", "algo.pretraining.lr=0.001"]  # a whole network costs 30 x as much a step
ROWS = {
    # name: (overrides, class of the value if it is not the configured one)
    "shipped: network, cumulative, surprise": ([], None),
    "  without surprise": (["algo.value.surprise=false"], None),
    "  without the sum": (["algo.value.cumulative=false", "algo.pretraining.sparsity=0"], None),
    "  without both (D -> D -> 1)": (PLAIN, None),
    "  without the cost of moving": (["algo.pretraining.sparsity=0"], None),
    "  pairwise loss": (["algo.pretraining.value_loss=pairwise"], None),
    "  squared error": (["algo.pretraining.value_loss=mse"], None),
    "  decayed returns, lambda 0.95": (["algo.pretraining.gae_lambda=0.95"], None),
    "  decayed returns, gamma 0.95": (["algo.pretraining.gamma=0.95"], None),
    "  two mutants a problem": (["algo.rewards.mutants=2"], None),
    "  250 problems": (["algo.pretraining.problems=250"], None),
    "  4 x the learning rate": (["algo.pretraining.lr=0.008"], None),
    "  clean corpus (data.noise=0)": (["data.noise=0.0"], None),
    "head: on the model in training": (["algo/value=head"], None),
    "  head without surprise": (["algo/value=head", "algo.value.surprise=false"], None),
    "  without both (maths.md, 5 as written)": (["algo/value=head", *PLAIN], None),
    "fine-tuned, last state (the first trial)": ([*SHORT, *PLAIN], FineTuned),
    "  cumulative": ([*SHORT, "algo.value.surprise=false", "algo.pretraining.sparsity=0"], FineTuned),
    "  cumulative, surprise": (SHORT, FineTuned),
    "  implicit reward (log-ratios)": (SHORT, Implicit),
}


def main(word: str = "") -> None:
    print(f"{'':<42} {'steps':>6} {'CPU s':>6} {'AUC':>6} {'1st tok':>8} {'on 1st':>7} {'<= 2':>6} {'in span':>8}")
    group = ""
    for name, (overrides, kind) in ROWS.items():
        group = group if name.startswith(" ") else name
        if word in group or word in name:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                cfg = compose("train", overrides=["algo=critic", *overrides])
            quiet_libraries()
            with using(build(cfg.storage)):
                row(name, cfg, kind)


def row(name: str, cfg: DictConfig, kind: type | None) -> None:
    source = build(cfg.model)
    data = build(cfg.data.module, tokenizer=source.load_tokenizer())
    model, rewards, wanted = source.load().eval(), build(cfg.algo.rewards), cfg.algo.pretraining
    if kind is not None:
        cfg.algo.value._target_ = f"{__name__}.{kind.__name__}"
    value = build(cfg.algo.value)
    train, heldout = (
        RewardedSamples.of(rewards.judge(data, split, limit, model), data)
        for split, limit in (("train", wanted.problems), ("validation", wanted.heldout_problems))
    )
    value.binary = rewards.binary
    value.prepare(model)
    names = {
        "value_loss": "kind",
        "gamma": "gamma",
        "gae_lambda": "gae_lambda",
        "sparsity": "sparsity",
        "seed": "seed",
        "lr": "lr",
    }
    settings = {argument: wanted[key] for key, argument in names.items()}
    settings["kind"] = settings["kind"] or "bce"
    start = time.process_time()
    fitting = ValueFitting(value, model, train, token_budget=wanted.token_budget, **settings)
    fitting.states.limit *= getattr(value, "remembers", True)
    for step in range(wanted.steps):
        fitting.step(1 - step / wanted.steps)
    seconds = time.process_time() - start
    found = measure(TrunkStates(value, model, heldout, heldout.batches(wanted.token_budget)))
    print(
        f"{name:<42} {wanted.steps:>6} {seconds:>6.0f} {found['auc']:>6.3f} {found['first_token_auc']:>8.3f} "
        f"{found['on_first']:>7.2f} {found['within_two']:>6.2f} {found['in_span']:>8.2f} ({found['chance']:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
