"""Decide which drafted tokens to keep, so that the output is exactly head 0's.

[연구 맥락] 헤드 1 … H-1이 다음 토큰들을 미리 써 두면 (draft) 헤드 0이 한 번의 순전파로 모두 검사한다.
아래 규칙으로 받아들이면 속도만 달라지고 결과의 분포는 헤드 0 그대로다. (maths.md 8절)
[동작] 초안과 두 분포, 난수가 들어와 행마다 (받아들인 개수, 그 뒤의 토큰)이 나간다. 난수를 인자로 받는 순수 함수라서
표본이 배치 구성에 달려 있지 않게 할 수 있다. 온도와 top-p는 두 분포에 똑같이 적용해서 넘긴다.
[디버깅] 받아들인 개수가 늘 0이면 초안과 검사 위치가 한 칸 어긋난 것이다: 초안 i는 검사 위치 i의 분포와 견준다.
"""

#   B sequences, K drafted tokens, K1 = K + 1 verified places (the last follows a fully accepted draft), V vocabulary

import torch
from torch import Tensor


def accept_matching(draft_BK: Tensor, verified_BK1: Tensor) -> tuple[Tensor, Tensor]:
    """Accept the longest prefix of the draft that head 0 would have written itself.

    [연구 맥락] greedy 디코딩에 쓴다. 출력은 보통의 greedy와 토큰 하나까지 같다.

    Args:
        draft_BK: 초안 토큰.
        verified_BK1: 검사 위치마다 헤드 0이 고른 토큰.

    Returns:
        (accepted_B, next_B): 받아들인 초안의 수와, 그 바로 뒤에 올 헤드 0의 토큰.

    Example:
        >>> accept_matching(torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 8, 9]]))
        (tensor([2]), tensor([8]))
    """
    accepted_B = _leading(draft_BK == verified_BK1[:, :-1])
    return accepted_B, verified_BK1.gather(1, accepted_B[:, None]).squeeze(1)


def accept_sampled(
    draft_BK: Tensor, draft_prob_BKV: Tensor, target_prob_BK1V: Tensor, uniform_BK1: Tensor
) -> tuple[Tensor, Tensor]:
    """Accept drafted tokens with probability min(1, p/q) and draw the next one from the residual.

    [연구 맥락] speculative sampling. 거절하면 max(p - q, 0)에서 다시 뽑으므로 결과의 분포는 정확히 헤드 0의 p이다.

    Args:
        draft_BK: 초안 토큰. 초안 i는 draft_prob_BKV[:, i]에서 뽑은 것이어야 한다.
        draft_prob_BKV: 초안의 분포 q.
        target_prob_BK1V: 검사 위치마다 헤드 0의 분포 p. 위치 i는 초안 i개를 받아들인 뒤의 분포.
        uniform_BK1: [0, 1)의 난수. 앞의 K개는 수락에, 마지막은 다음 토큰을 뽑는 데 쓴다.

    Returns:
        (accepted_B, next_B): 받아들인 초안의 수와, 그 바로 뒤의 토큰.

    Example:
        >>> q, p = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
        >>> accept_sampled(torch.tensor([[0]]), q, p, torch.tensor([[0.3, 0.3]]))    # p/q = 0: rejected
        (tensor([0]), tensor([1]))
        >>> accept_sampled(torch.tensor([[1]]), q, p, torch.tensor([[0.3, 0.3]]))    # p/q = 2: accepted
        (tensor([1]), tensor([0]))
    """
    drafts = draft_BK.shape[1]
    p_BK = target_prob_BK1V[:, :drafts].gather(2, draft_BK[:, :, None]).squeeze(2)
    q_BK = draft_prob_BKV.gather(2, draft_BK[:, :, None]).squeeze(2)
    accepted_B = _leading(uniform_BK1[:, :drafts] * q_BK < p_BK)

    row_B = torch.arange(len(draft_BK), device=draft_BK.device)
    target_BV = target_prob_BK1V[row_B, accepted_B].double()
    # After a fully accepted draft nothing was rejected: q = 0 there, and the residual is p itself.
    q_BK1V = torch.cat([draft_prob_BKV, torch.zeros_like(target_prob_BK1V[:, -1:])], dim=1)
    residual_BV = (target_BV - q_BK1V[row_B, accepted_B]).clamp(min=0)
    # Where p and q agree up to rounding there may be no residual left.
    residual_BV = torch.where(residual_BV.sum(1, keepdim=True) > 0, residual_BV, target_BV)
    cumulative_BV = residual_BV.cumsum(dim=1)
    total_B1 = cumulative_BV[:, -1:]
    # A uniform number may round to 1; the threshold stays below the total all the same.
    threshold_B1 = (uniform_BK1[:, -1:].double() * total_B1).minimum(total_B1.nextafter(torch.zeros_like(total_B1)))
    # right=True: a token of probability 0 adds no step to the sum and can never be the first one above the threshold.
    return accepted_B, torch.searchsorted(cumulative_BV, threshold_B1, right=True).squeeze(1)


def _leading(accept_BK: Tensor) -> Tensor:
    """Count the accepted tokens before the first rejection."""
    return accept_BK.long().cumprod(dim=1).sum(dim=1)
