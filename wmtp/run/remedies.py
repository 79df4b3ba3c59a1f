"""Choose what to change after a failure, and nothing that nobody would try by hand.

[연구 맥락] 다만 아무것이나 고쳐 보지 않는다:
    NaN/Inf, 손실 폭발   학습률 × 0.5, 그다음 작은 배치, 그다음 높은 정밀도, 그다음 다시 학습률 × 0.5
    메모리 부족          조각을 두 배로 나누고 두 배로 쌓는다. 한 스텝의 표본과 M이 그대로이므로 기울기도 같다
[동작] 고칠 것은 설정의 키와 값이다 (`CHANGES`의 키만). 적고 다시 넣는 일은 `wmtp.run.attempts`가 한다.
"""

import sys
from collections.abc import Collection
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

JOINT = ("non_finite", "loss_explosion")  # the guards raise these on all ranks at once
RATE = "callbacks.learning_rate.scale"
OF_TRAINER = ("trainer.precision", "trainer.accumulate_grad_batches", "trainer.val_check_interval")
CHANGES = (RATE, "data.token_budget", "data.pieces", *OF_TRAINER)

Remedy = tuple[str, dict[str, Any]]


def choose_remedy(kind: str, cfg: DictConfig, tried: Collection[str]) -> Remedy | None:
    """Choose the next change: its name and the keys that it sets; None where nothing can be done."""
    if kind == "out_of_memory":
        return "smaller pieces", more_pieces(cfg)
    if kind not in JOINT:
        return None
    for name, change in LADDER.items():
        if name not in tried and (changes := change(cfg)):
            return name, changes
    return ("lower rate", changes) if (changes := lower_rate(cfg)) else None


def lower_rate(cfg: DictConfig) -> dict[str, Any]:
    """Halve every learning rate, where the callback that does it is there."""
    scale = OmegaConf.select(cfg, RATE)
    return {} if scale is None else {RATE: scale / 2}


def smaller_batch(cfg: DictConfig) -> dict[str, Any]:
    """Halve the token budget, where the longest samples still fit into it."""
    half = cfg.data.token_budget // 2
    return {"data.token_budget": half} if half >= cfg.data.max_length else {}


def higher_precision(cfg: DictConfig) -> dict[str, Any]:
    """Compute in float32."""
    return {} if str(cfg.trainer.precision).startswith(("32", "64")) else {"trainer.precision": "32-true"}


def more_pieces(cfg: DictConfig) -> dict[str, Any]:
    """Cut every batch into twice as many pieces and accumulate twice as many: the same step in half the memory."""
    changes = {
        "data.pieces": 2 * OmegaConf.select(cfg, "data.pieces", default=1),
        "trainer.accumulate_grad_batches": 2 * cfg.trainer.accumulate_grad_batches,
    }
    interval = OmegaConf.select(cfg, "trainer.val_check_interval")
    if isinstance(interval, int):  # Lightning counts it in pieces
        changes["trainer.val_check_interval"] = 2 * interval
    return changes


LADDER = {"lower rate": lower_rate, "smaller batch": smaller_batch, "higher precision": higher_precision}


def supported_precision(precision: str) -> str:
    """Replace bfloat16 where the GPU lacks it by float16 with a scaler.

    Example:
        >>> supported_precision("32-true")
        '32-true'
    """
    if not str(precision).startswith("bf16") or not torch.cuda.is_available():
        return precision
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return precision
    print(f"trainer.precision = {precision}: this GPU has no bfloat16; going on with 16-mixed.", file=sys.stderr)
    return "16-mixed"
