"""Compute the weighted multi-token loss without ever holding all logits.

[연구 맥락] 로짓 [B, T, H, V]은 모델보다 크다 (4096 토큰, 헤드 4, 어휘 32000이면 2 GB, 역전파까지 8 GB).
가중치는 손실을 구하기 전에 이미 알고 있으므로, 순전파에서 로짓을 한 묶음(chunk)씩 만들어 그 자리에서 기울기까지
구하고 버린다. 재계산이 없어 시간도 덜 든다. (maths.md 2절; 수치는 scripts/bench/loss.py)

    L = 1/(H·M) · Σ_k α_k · Σ_j w_j · nll[k, j]

[동작] 헤드별 은닉상태와 unembedding, 라벨, 목표 토큰의 가중치가 들어와 손실과 헤드별 nll 합이 나간다.
M(step_targets)은 스텝 전체의 헤드 0 목표 수이다. 그래서 누적과 분산에 상관없이 기울기가 같다.
목표의 수는 배치를 만든 쪽이 안다(targets). 그래서 스텝 안에서 호스트가 장치를 기다리는 일이 없다.
[디버깅] 손실이 배치 구성에 따라 달라지면 M을, 헤드 하나만 나쁘면 nll_sum_H / target_count_H를 본다.
"""

#   B sequences, T positions, H heads, D width, V vocabulary, N rows of one head that have a target, C rows of a chunk

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wmtp.errors import ConfigError
from wmtp.maths.alignment import IGNORE, shift_left, target_mask

# Measured by scripts/bench/loss.py, MB over parameters and gradients / CPU seconds in float32, then in bfloat16:
# naive logits 8037 / 38.8, 7016 / 21.4; chunks of 128 rows 115 / 18.4, 204 / 11.1; of 512 169 / 17.1, 275 / 6.2;
# of 2048 365 / 16.6, 562 / 5.4. Past 512 memory doubles and time hardly moves.
CHUNK_SIZE = 512
# On a GPU every chunk's product must be added to the float32 gradient of the unembedding: 10 bytes for each of its
# entries, against 6·C operations. H200, bf16, V = 32,000: 77 ms at 2048 rows, 71 at 4096, 68 at 8192, with 1.14, 1.53
# and 2.33 GB; V = 128,256: 291, 275 and 266 ms with 3.7, 5.2 and 8.2 GB. So: as many as make LOGITS_ON_GPU, or 2048.
CHUNK_SIZE_ON_GPU, LOGITS_ON_GPU = 2048, 2**27
# There is one way, because torch's chunked loss, checkpointed chunks and whole logits are slower or larger (the same
# script; docs/benchmarks.md). A run says so once.
METHOD = f"fused with its gradients, logits of {CHUNK_SIZE} tokens at a time (at least {CHUNK_SIZE_ON_GPU} on a GPU)"


class MTPLoss(NamedTuple):
    """Hold the loss and what is reported of each head.

    Attributes:
        loss: 스칼라. 은닉상태와 unembedding에 대해 미분된다.
        nll_sum_H: 헤드별 nll의 합. 가중치와 α를 곱하지 않은 값이고, 미분되지 않는다.
        target_count_H: 헤드별 목표 수. `nll_sum_H / target_count_H`가 헤드별 평균 nll.
    """

    loss: Tensor
    nll_sum_H: Tensor
    target_count_H: Tensor


def weighted_mtp_loss(
    hidden: Sequence[Tensor],
    unembedding_VD: Tensor,
    labels_BT: Tensor,
    weight_BT: Tensor | None,
    step_targets: int,
    head_weights: Sequence[float] | None = None,
    targets: int | None = None,
    chunk_size: int | None = None,
    shared_gradient: float = 1.0,
    head_lam: Sequence[float] | None = None,
) -> MTPLoss:
    """Compute the weighted loss of all heads, with its gradients, chunk by chunk.

    [연구 맥락] 이 패키지의 모든 알고리즘이 이 함수 하나로 학습한다. 가중치 None은 1과 비트까지 같다 (baseline).

    Args:
        hidden: 헤드마다 하나인 최종 은닉상태 BTD. `hidden[k]`가 헤드 k.
        unembedding_VD: 출력 행렬 (`lm_head.weight`).
        labels_BT: 학습할 토큰의 번호, 프롬프트와 패딩은 IGNORE.
        weight_BT: *목표 토큰*의 가중치. 상수로 다룬다 (기울기가 흐르지 않는다).
        step_targets: M. 스텝 전체(모든 누적 배치와 랭크)에서 헤드 0의 목표 수.
        head_weights: 헤드별 α_k. 없으면 모두 1.
        targets: 이 배치에서 헤드 0의 목표 수 (`target_mask(labels_BT).sum()`). 없으면 세느라 장치를 기다린다.
            모자라면 빠지는 목표가 생기므로, 장치 위에서 확인하고 오류를 낸다.
        chunk_size: 한 번에 로짓을 만드는 행의 수. None이면 장치에 맞는 수.
        shared_gradient: 헤드 1, 2, …이 출력 행렬에 주는 기울기의 배율. 은닉상태의 기울기는 그대로다.
        head_lam: 헤드별 λ_k. 헤드 k는 1 + λ_k·(w − 1)로 배운다. 없으면 모두 1: 모든 헤드가 같은 w.

    Returns:
        MTPLoss. 손실과 합은 float32 (float64 입력이면 float64).

    Raises:
        ConfigError: head_weights나 head_lam의 개수가 헤드 수와 다를 때.
        ValueError: step_targets가 이 배치의 목표 수보다 작을 때. M을 잘못 센 것이다.

    Example:
        >>> hidden = [torch.zeros(1, 3, 4, requires_grad=True) for _ in range(2)]
        >>> out = weighted_mtp_loss(hidden, torch.zeros(8, 4), torch.tensor([[1, 2, 3]]), None, step_targets=2)
        >>> out.nll_sum_H / out.target_count_H      # log 8
        tensor([2.0794, 2.0794])
    """
    heads = len(hidden)
    head_weights = _by_head("algo.head_weights", head_weights, heads)
    head_lam = _by_head("algo.head_lam", head_lam, heads)
    wide = _reduction_dtype(unembedding_VD.dtype)
    weight_BT = torch.ones_like(labels_BT, dtype=wide) if weight_BT is None else weight_BT.detach().to(wide)
    # No head has more targets than head 0. Counting them here makes the host wait for the device.
    targets = int(target_mask(labels_BT).sum()) if targets is None else targets
    if targets > step_targets:
        raise ValueError(f"step_targets = {step_targets}, but this batch alone has {targets} target tokens.")
    scale = 1.0 / (heads * max(step_targets, 1))
    chunk_size = chunk_size or _chunk_size(unembedding_VD)
    # Inside a Function grad mode is always off, and needs_input_grad ignores it: evaluation must say so here.
    with_gradients = torch.is_grad_enabled()
    by_head = list(zip(head_weights, head_lam, strict=True))
    how = (labels_BT, weight_BT, by_head, targets, scale, chunk_size, with_gradients, shared_gradient)
    return MTPLoss(*_ChunkedLoss.apply(how, unembedding_VD, *hidden))


@torch.no_grad()
def target_nll(
    hidden_BTD: Tensor,
    unembedding_VD: Tensor,
    labels_BT: Tensor,
    k: int = 0,
    targets: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Compute head k's cross-entropy of every target token, without gradient.

    [연구 맥락] rho1의 점수 CE_base - CE_ref와 검증 NLL이 여기서 나온다. (maths.md 4절)

    Args:
        targets: 헤드 0의 목표 수. 없으면 세느라 장치를 기다린다.

    Returns:
        nll_BT, float32 (float64 입력이면 float64). *목표 토큰*의 자리에 놓인다; `target_mask(labels_BT, k)` 밖은 0.

    Example:
        >>> target_nll(torch.zeros(1, 3, 4), torch.zeros(8, 4), torch.tensor([[1, 2, 3]]))
        tensor([[0.0000, 2.0794, 2.0794]])
    """
    wide = _reduction_dtype(unembedding_VD.dtype)
    unembedding_VD = unembedding_VD.to(_matmul_dtype(unembedding_VD))
    targets = int(target_mask(labels_BT).sum()) if targets is None else targets
    row_N, target_N, exists_N = _rows_with_targets(labels_BT, k, targets)
    chunk_size = chunk_size or _chunk_size(unembedding_VD)
    nll_BT = torch.zeros(labels_BT.shape, dtype=wide, device=hidden_BTD.device)
    logits = _ChunkLogits(unembedding_VD, min(chunk_size, targets))
    for chunk in _chunks(targets, chunk_size):
        hidden_CD = hidden_BTD.flatten(0, 1)[row_N[chunk]].to(unembedding_VD.dtype)
        nll_C = torch.where(exists_N[chunk], logits.nll(hidden_CD, target_N[chunk]), 0.0)
        nll_BT.view(-1)[row_N[chunk]] = nll_C
    # A row's target lies 1 + k places to its right, in the same sequence.
    return torch.nn.functional.pad(nll_BT, (1 + k, 0))[:, : labels_BT.shape[1]]


def _rows_with_targets(labels_BT: Tensor, k: int, targets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first `targets` rows (flat b·T + t) of head k, their targets (0 for none), and which have one."""
    target_N = shift_left(labels_BT, k + 1, IGNORE).flatten()
    has_target_N = target_N != IGNORE
    # Rows would be left out silently; on a GPU the error comes when the host next waits.
    torch._assert_async(has_target_N.sum() <= targets, f"targets = {targets} is less than there are; count them again")
    # A stable sort instead of nonzero, for whose size the host would have to wait.
    row_N = has_target_N.to(torch.int8).argsort(descending=True, stable=True)[:targets]
    exists_N = has_target_N[row_N]
    return row_N, torch.where(exists_N, target_N[row_N], 0), exists_N


class _ChunkLogits:
    """Hold the only logits there are: one chunk's, overwritten by the next."""

    def __init__(self, unembedding_VD: Tensor, rows: int):
        self.unembedding_VD = unembedding_VD
        self.logits_CV = unembedding_VD.new_empty(rows, len(unembedding_VD))
        # Where the model's precision is float32 already, this is the same memory.
        wide = _reduction_dtype(unembedding_VD.dtype)
        self.exp_CV = self.logits_CV if wide == self.logits_CV.dtype else torch.empty_like(self.logits_CV, dtype=wide)

    def nll(self, hidden_CD: Tensor, target_C: Tensor) -> Tensor:
        """Compute -log p(target) of each row."""
        rows = len(target_C)
        torch.mm(hidden_CD, self.unembedding_VD.T, out=self.logits_CV[:rows])
        exp_CV = self.exp_CV[:rows]
        if self.exp_CV is not self.logits_CV:
            exp_CV.copy_(self.logits_CV[:rows])
        exp_CV -= exp_CV.amax(dim=1, keepdim=True)
        target_logit_C = exp_CV.gather(1, target_C[:, None]).squeeze(1)
        self.sum_C = exp_CV.exp_().sum(dim=1)
        return self.sum_C.log() - target_logit_C

    def gradient(self, target_C: Tensor, coefficient_C: Tensor) -> Tensor:
        """Turn the logits of the last `nll` into coefficient·(softmax - onehot), in place."""
        rows = len(target_C)
        exp_CV = self.exp_CV[:rows]
        exp_CV *= (coefficient_C / self.sum_C)[:, None]
        exp_CV.scatter_add_(1, target_C[:, None], -coefficient_C[:, None])
        if self.exp_CV is not self.logits_CV:
            self.logits_CV[:rows].copy_(exp_CV)
        return self.logits_CV[:rows]


class _ChunkedLoss(torch.autograd.Function):
    """Compute the loss and, since the weights are known, its gradients in the same pass over the logits."""

    @staticmethod
    def forward(ctx, how, unembedding_VD, *hidden):
        labels_BT, weight_BT, by_head, targets, scale, chunk_size, with_gradients, shared_gradient = how
        wants_unembedding, *wants_hidden = (with_gradients and needed for needed in ctx.needs_input_grad[1:])
        wide = _reduction_dtype(unembedding_VD.dtype)
        matmul_VD = unembedding_VD.to(_matmul_dtype(unembedding_VD))
        grad_VD = torch.zeros_like(unembedding_VD, dtype=wide) if wants_unembedding else None
        scratch_VD = torch.empty_like(matmul_VD) if wants_unembedding and matmul_VD.dtype != wide else None
        grad_hidden = [
            torch.zeros_like(h, memory_format=torch.contiguous_format) if wants else None
            for h, wants in zip(hidden, wants_hidden, strict=True)
        ]
        logits = _ChunkLogits(matmul_VD, min(chunk_size, targets))
        loss = torch.zeros((), dtype=wide, device=unembedding_VD.device)
        nll_sum_H = loss.new_zeros(len(hidden))

        for k, (head_weight, lam) in enumerate(by_head):
            # When its turn comes: what is held does not grow with the number of heads.
            row_N, target_N, exists_N = _rows_with_targets(labels_BT, k, targets)
            weight_N = shift_left(weight_BT, k + 1, 0).flatten()[row_N]
            weight_N = weight_N if lam == 1 else 1 + lam * (weight_N - 1)
            coefficient_N = torch.where(exists_N, weight_N * head_weight, 0.0)
            hidden_ND = hidden[k].flatten(0, 1)
            share = shared_gradient if k else 1.0
            for chunk in _chunks(targets, chunk_size):
                row_C, target_C, coefficient_C = row_N[chunk], target_N[chunk], coefficient_N[chunk]
                # Rows without a target are zeros: what they hold may overflow, and 0 · NaN would spoil the others.
                hidden_CD = hidden_ND[row_C].to(matmul_VD.dtype).where(exists_N[chunk, None], 0)
                nll_C = logits.nll(hidden_CD, target_C)
                nll_sum_H[k] += torch.where(exists_N[chunk], nll_C, 0.0).sum()
                # A token of weight 0 may be infinitely surprising: 0 · ∞ would spoil the others.
                loss += torch.where(coefficient_C == 0, 0.0, coefficient_C * nll_C).sum()
                if (grad_VD is None and grad_hidden[k] is None) or head_weight == 0:
                    continue
                grad_CV = logits.gradient(target_C, coefficient_C)
                if grad_hidden[k] is not None:
                    grad_CD = torch.mm(grad_CV, matmul_VD).to(grad_hidden[k].dtype)
                    grad_hidden[k].flatten(0, 1).index_copy_(0, row_C, grad_CD)
                if grad_VD is None or share == 0:
                    continue
                if scratch_VD is None:
                    grad_VD.addmm_(grad_CV.T, hidden_CD, alpha=share)
                else:  # each chunk's product is rounded to the model's precision, their sum is not
                    grad_VD.add_(torch.mm(grad_CV.T, hidden_CD, out=scratch_VD), alpha=share)

        target_count_H = torch.stack([target_mask(labels_BT, k).sum() for k in range(len(hidden))])
        ctx.mark_non_differentiable(nll_sum_H, target_count_H)
        ctx.scale = scale
        ctx.gradients = [grad_VD, *grad_hidden]
        ctx.unembedding_dtype = unembedding_VD.dtype
        return loss * scale, nll_sum_H, target_count_H

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, *_):
        # In place and given away: a second copy of the unembedding's gradient would be the peak of the whole step.
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were already handed out; compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None
        # 1/(H·M) comes in only here: before, it would push float16 gradients under the smallest float16.
        scale = grad_loss * ctx.scale
        for gradient in gradients:
            if gradient is not None:
                gradient *= scale
        grad_VD, *grad_hidden = gradients
        return None, grad_VD if grad_VD is None else grad_VD.to(ctx.unembedding_dtype), *grad_hidden


def _by_head(key: str, given: Sequence[float] | None, heads: int) -> list[float]:
    """Return one number for each head, all ones where none are given."""
    numbers = [1.0] * heads if given is None else list(given)
    if len(numbers) != heads:
        raise ConfigError(f"{key} = {numbers} must hold one number for each of the {heads} heads.")
    return numbers


def _chunk_size(unembedding_VD: Tensor) -> int:
    if unembedding_VD.device.type != "cuda":
        return CHUNK_SIZE  # by size alone and not by a stopwatch: two runs of one config must add up in the same order
    return max(CHUNK_SIZE_ON_GPU, LOGITS_ON_GPU // len(unembedding_VD) // 512 * 512)


def _chunks(rows: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, rows)) for i in range(0, rows, size))


def _reduction_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _matmul_dtype(unembedding_VD: Tensor) -> torch.dtype:
    """Give the precision a Linear would have here: autocast's where it is on, else the matrix's own."""
    device = unembedding_VD.device.type
    if torch.is_autocast_enabled(device) and unembedding_VD.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return unembedding_VD.dtype
