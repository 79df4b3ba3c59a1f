"""Estimate, after every token, whether the program will be right.

[연구 맥락] V(s_t)의 로짓 = b + Σ_{j ≤ t} e(h_j, CE_j). 목표 토큰 j마다 증거 e 하나를 더해 간다.
    - 누적(cumulative): 보상은 프로그램 끝에 하나뿐이지만, 합으로 쓰면 그 하나가 토큰들에게 나뉜다
      (return decomposition; Arjona-Medina et al. 2019, RUDDER, arXiv 1806.07857). V는 증거가 있는 자리에서만 움직인다.
    - 뜻밖(surprise): 증거는 은닉상태 h_j와, 몸통이 그 토큰을 얼마나 뜻밖으로 여겼는지(CE_j)를 읽는다.
    둘을 끄면 maths.md 5절의 처음 정의, D → D → 1 (GELU)이다. 어느 것이 얼마나 다른지는 docs/critic.md의 표에 있다.
[동작] 몸통은 얼려 둔다 (detached). value=head는 학습할 모델의 은닉상태를, value=network는 제 모델의 것을 읽는다.
[디버깅] 마지막 층은 0에서 시작한다: 배우기 전의 V는 어디서나 같고 δ는 0이다 (VC-PPO, arXiv 2503.01491의 편향 문제).
"""

#   B sequences, T positions, D width, V vocabulary

from typing import Any

import torch
from torch import Tensor, nn

from wmtp import ranges
from wmtp.cache.fingerprint import digest_of_model
from wmtp.errors import ConfigError
from wmtp.maths.alignment import target_mask
from wmtp.models.frozen import FrozenModel, find_reference
from wmtp.models.loading import find_model
from wmtp.models.mtp import MTPMixin, MTPOutput


class ValueHead(nn.Module):
    """Turn hidden states into values.

    Args:
        cumulative: 토큰마다의 증거를 더해 갈지. 아니면 상태마다 따로 계산한다.
        surprise: 토큰의 CE도 읽을지.

    Example:
        >>> head = ValueHead(4)
        >>> head(torch.randn(1, 3, 4), torch.rand(1, 3), torch.tensor([[False, True, True]]))
        tensor([[0., 0., 0.]], grad_fn=<AddBackward0>)
    """

    def __init__(self, width: int, cumulative: bool = True, surprise: bool = True) -> None:
        super().__init__()
        self.cumulative, self.surprise = cumulative, surprise
        self.hidden = nn.Linear(width + surprise, width)
        self.out = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.out.weight)

    def forward(self, hidden_BTD: Tensor, nll_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Compute the logit of V(s_t) at every position.

        Args:
            hidden_BTD: 마지막 norm을 지난 head 0의 은닉상태.
            nll_BT: 목표 토큰의 CE (`MTPOutput.next_token_nll`).
            mask_BT: 목표 토큰이면 True.

        Returns:
            logit_BT, float32. 프롬프트에서는 b.
        """
        # No autocast: a sum over a long program in bf16 would lose small evidence.
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            x_BTD = hidden_BTD.float()
            if self.surprise:
                x_BTD = torch.cat([x_BTD, nll_BT.float()[..., None]], dim=-1)
            evidence_BT = self.out(nn.functional.gelu(self.hidden(x_BTD))).squeeze(-1)
            if self.cumulative:
                evidence_BT = torch.where(mask_BT, evidence_BT, 0.0).cumsum(dim=1)
            return evidence_BT + self.bias


class PolicyValue(nn.Module):
    """Read the detached hidden states of the model in training (value=head): costs next to nothing.

    Args:
        path: 학습할 모델의 폴더. 캐시의 키가 된다.
        cumulative, surprise: `ValueHead`.
    """

    name = "head"
    frozen: Any = None  # a FrozenModel of its own

    def __init__(self, path: str, cumulative: bool = True, surprise: bool = True, seed: int = 42) -> None:
        super().__init__()
        ranges.check(ranges.PolicyValue, cumulative=cumulative, surprise=surprise)
        self.folder = find_model(path)
        self.settings: dict[str, Any] = {"cumulative": cumulative, "surprise": surprise, "seed": seed}
        self.head: Any = None  # a ValueHead, once it is prepared
        self.binary = True

    def prepare(self, model: MTPMixin) -> None:
        """Make the head for the width of the trunk that it reads, always from the same random start."""
        if self.head is None:
            width, settings = model.get_input_embeddings().embedding_dim, self.settings
            with torch.random.fork_rng():
                torch.manual_seed(settings["seed"])
                self.head = ValueHead(width, settings["cumulative"], settings["surprise"])

    @torch.no_grad()
    def start_from(self, reward: float) -> None:
        """Start every V at the mean reward, so that no token has to account for how often programs fail at all."""
        self.head.bias.fill_(torch.logit(torch.tensor(reward), eps=1e-3) if self.binary else reward)

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything that decides what the head reads and is."""
        return {"kind": self.name, "trunk": digest_of_model(self.folder), **self.settings}

    @torch.no_grad()
    def states(self, batch: dict[str, Any], model: MTPMixin) -> tuple[Tensor, Tensor]:
        """Run the trunk on a batch that no model has read yet (stage 1); return hidden_BTD and nll_BT."""
        trunk = self.trunk(model)
        training = trunk.training
        trunk.eval()  # no dropout
        try:
            return _states(batch, trunk.mtp(batch["input_ids_BT"]))
        finally:
            trunk.train(training)

    def trunk(self, model: MTPMixin) -> MTPMixin:
        """Return the model whose states the head reads."""
        return model

    @torch.no_grad()
    def read(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Compute V of a training batch (stage 2), where the model's states are there already."""
        return self.scaled(self.head(*_states(batch, output), target_mask(batch["labels_BT"])))

    def scaled(self, logit_BT: Tensor) -> Tensor:
        """Turn logits into V: a probability where rewards are 0 and 1, else in units of the reward."""
        return logit_BT.sigmoid() if self.binary else logit_BT


class ValueNetwork(PolicyValue):
    """Read the hidden states of a frozen model of its own (value=network): one more forward pass a step.

    [연구 맥락] 학습할 모델보다 나은 모델이 더 잘 안다. 얼려 있으므로 학습하는 동안 V가 변하지 않는다.

    Args:
        path: 제 모델의 폴더. 기본값은 참조모델 (model.reference).
        model_path: 학습할 모델의 폴더. 토크나이저가 같아야 한다.
        weights: 제 모델을 메모리에 담는 정밀도 (`wmtp.models.loading.WEIGHTS`).
        **head: `PolicyValue`의 인자들.
    """

    name = "network"

    def __init__(self, path: str | None, model_path: str, weights: str = "float32", **head: Any) -> None:
        ranges.check(ranges.ValueNetwork, weights=weights)
        if path is None:
            raise ConfigError(
                "algo.value.path = null names no model for the critic to read; set model.reference to a model with "
                "the same tokenizer, or algo/value=head to read the model in training."
            )
        folder = find_reference(path, model_path)
        super().__init__(str(folder), **head)
        self.settings |= {} if weights == "float32" else {"weights": weights}
        self.frozen = FrozenModel(self.folder, weights, "algo.value.path")  # no module: not among the parameters
        self.frozen.load()

    def prepare(self, model: MTPMixin) -> None:
        """Make the head for the width of its own model."""
        super().prepare(self.frozen.load())

    def trunk(self, model: MTPMixin) -> MTPMixin:
        """Return its own model, on the device of the head."""
        return self.frozen.load().to(self.head.bias.device)

    @torch.no_grad()
    def read(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Compute V of a training batch; the states of the model in training are not looked at."""
        return self.scaled(self.head(*self.states(batch, output.model), target_mask(batch["labels_BT"])))


def _states(batch: dict[str, Any], output: MTPOutput) -> tuple[Tensor, Tensor]:
    return output.hidden[0], output.next_token_nll(batch)
