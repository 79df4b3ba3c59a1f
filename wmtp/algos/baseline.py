"""Train with every token weighing the same: the comparison that every result needs.

[연구 맥락] baseline은 w = 1인 MTP다. rho1과 critic은 점수만 다르므로, 차이는 오직 가중치에서 온다.
"""

#   B sequences, T positions

from typing import Any

from torch import Tensor

from wmtp.algos.weighted_mtp import WeightedMTP
from wmtp.maths.alignment import target_mask
from wmtp.models.mtp import MTPOutput


class Baseline(WeightedMTP):
    """Fine-tune an MTP model with uniform weights; without a weighting (conf/algo/baseline.yaml) nothing is scored."""

    name = "baseline"

    def token_scores(self, batch: dict[str, Any], output: MTPOutput) -> Tensor:
        """Score every token alike: any weighting makes weights of exactly 1 of that."""
        return target_mask(batch["labels_BT"]) * 0.0
