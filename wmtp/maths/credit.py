"""Share a program's reward out over its tokens, and measure whether the share falls in the right place.

[연구 맥락] critic은 V(s_t), "여기까지 읽은 프로그램이 맞을 값어치"를 배운다. s_t는 토큰 t를 읽은 뒤의 상태다.
    한 토큰의 공로는 V의 변화 δ_t = V(s_t) − V(s_{t−1})이다 (maths.md 5절).
    이상적인 V는 실패를 정하는 첫 토큰에서 한 번만 떨어진다. 그래서 자리는 "가장 큰 하락이 어디인가"로 잰다.
[동작] 보상은 마지막 목표 토큰에서 한 번. 목표(return)는 GAE(Schulman et al. 2016, arXiv 1506.02438)로 뒤에서 앞으로.
[디버깅] γ·λ < 1이면 긴 프로그램의 앞쪽 목표가 V 자신으로 흐려진다 (VC-PPO, arXiv 2503.01491).
"""

#   B sequences, T positions, N and M samples of two kinds

import torch
from torch import Tensor


def gae_returns(
    value_BT: Tensor, mask_BT: Tensor, reward_B: Tensor, gamma: float = 1.0, gae_lambda: float = 1.0
) -> Tensor:
    """Compute the λ-returns that the values of target tokens are fitted to.

    [연구 맥락] δ_t = r_t + γ·V(s_{t+1}) − V(s_t),  A_t = δ_t + γλ·A_{t+1},  G_t = A_t + V(s_t).
    γ = λ = 1이면 모든 자리에서 G = R이다. (maths.md 5절)

    Args:
        value_BT: V(s_t). 여기서는 상수로 쓴다 (기울기 없음).
        mask_BT: 목표 토큰이면 True. 프롬프트 뒤에 이어져 있다.
        reward_B: 마지막 목표 토큰에서 받는 보상.
        gamma: 할인율 γ, [0, 1].
        gae_lambda: λ, [0, 1].

    Returns:
        G_BT, mask 밖은 0.

    Example:
        >>> mask = torch.tensor([[False, True, True]])
        >>> gae_returns(torch.tensor([[0.5, 0.4, 0.6]]), mask, torch.tensor([1.0]))
        tensor([[0., 1., 1.]])
        >>> gae_returns(torch.tensor([[0.5, 0.4, 0.6]]), mask, torch.tensor([1.0]), gae_lambda=0.0)
        tensor([[0.0000, 0.6000, 1.0000]])
    """
    value_BT = value_BT.detach()
    return_BT = torch.zeros_like(value_BT)
    advantage_B, next_value_B = torch.zeros_like(value_BT[:, 0]), torch.zeros_like(value_BT[:, 0])
    started_B = torch.zeros_like(mask_BT[:, 0])  # going backwards: has a target token been seen
    for t in range(value_BT.shape[1] - 1, -1, -1):
        target_B, value_B = mask_BT[:, t], value_BT[:, t]
        reward_now_B = torch.where(started_B, 0.0, reward_B.to(value_B.dtype))
        delta_B = reward_now_B + gamma * next_value_B - value_B
        advantage_B = torch.where(target_B, delta_B + gamma * gae_lambda * advantage_B, advantage_B)
        next_value_B = torch.where(target_B, value_B, next_value_B)
        return_BT[:, t] = torch.where(target_B, advantage_B + value_B, 0.0)
        started_B = started_B | target_B
    return return_BT


def value_deltas(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Compute δ_t = V(s_t) − V(s_{t−1}) of every target token.

    Args:
        value_BT: V(s_t). 프롬프트의 마지막 토큰 자리에도 값이 있어야 한다.
        mask_BT: 목표 토큰이면 True.

    Returns:
        δ_BT, mask 밖은 0.

    Example:
        >>> value_deltas(torch.tensor([[0.5, 0.75, 0.25]]), torch.tensor([[False, True, True]]))
        tensor([[ 0.0000,  0.2500, -0.5000]])
    """
    delta_BT = value_BT.diff(dim=1, prepend=value_BT[:, :1])
    return torch.where(mask_BT, delta_BT, 0.0)


def auc(positive_N: Tensor, negative_M: Tensor) -> Tensor:
    """Compute the probability that a positive scores above a negative; a tie counts half (Mann-Whitney).

    Returns:
        0차원. 한쪽이 비어 있으면 NaN.

    Example:
        >>> auc(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 1.0])).item()
        0.875
    """
    share_N = twice_below(positive_N, negative_M) / (2 * len(negative_M))
    return share_N.mean() if len(negative_M) else share_N.new_tensor(torch.nan)


def twice_below(score_N: Tensor, other_M: Tensor) -> Tensor:
    """Count for each score twice how many of the others lie below it, so that a tie counts one.

    Example:
        >>> twice_below(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 1.0]))
        tensor([4, 3])
    """
    score_N, other_M = score_N.double(), other_M.double().sort().values
    return torch.searchsorted(other_M, score_N) + torch.searchsorted(other_M, score_N, right=True)


def localisation(score_BT: Tensor, mask_BT: Tensor, changed_BT: Tensor, correct_B: Tensor) -> dict[str, float]:
    """Tell whether the lowest score of a wrong program falls where it was made wrong.

    Args:
        score_BT: 토큰 점수. critic은 δ, rho1은 손실의 차이. 낮을수록 의심스럽다.
        changed_BT: 맞은 프로그램과 다른 토큰이면 True. 하나도 없는 틀린 프로그램은 세지 않는다.

    Returns:
        on_first: 가장 낮은 점수가 첫 달라진 토큰에 있는 비율.
        within_two: 그 자리나 뒤의 두 토큰 안에 있는 비율.
        in_span: 달라진 구간 안에 있는 비율.
        first_token_auc: P(첫 달라진 토큰의 점수 < 깨끗한 토큰의 점수). 깨끗한 토큰은 맞은 프로그램의 모든 목표
            토큰과, 틀린 프로그램의 첫 달라진 토큰보다 앞선 목표 토큰.
        chance: 아무 데나 찍었을 때의 in_span.
        sequence_auc: P(맞은 프로그램의 점수 합 > 틀린 프로그램의 점수 합). δ의 합은 V(마지막) − V(처음)이므로,
            critic에서는 마지막 V로 맞고 틀림을 아는 정도다. 합이 언제나 0인 점수(combined)에서는 뜻이 없으므로 NaN.
        programs: 자리를 센 틀린 프로그램의 수. 0이면 sequence_auc 말고는 NaN.

    Example:
        >>> mask, changed = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[False, True, True, False]])
        >>> found = localisation(torch.tensor([[0.1, 0.0, -0.9, 0.0]]), mask, changed, torch.tensor([False]))
        >>> found["on_first"], found["within_two"], found["in_span"], found["first_token_auc"], found["chance"]
        (0.0, 1.0, 1.0, 1.0, 0.5)
    """
    changed_BT = changed_BT & mask_BT
    wrong_B = ~correct_B & changed_BT.any(dim=1)
    first_B = changed_BT.to(torch.int8).argmax(dim=1)
    lowest_B = torch.where(mask_BT, score_BT, torch.inf).argmin(dim=1)
    place_T = torch.arange(score_BT.shape[1], device=score_BT.device)
    clean_BT = mask_BT & (correct_B[:, None] | (wrong_B[:, None] & (place_T < first_B[:, None])))
    kept_BT = torch.where(mask_BT, score_BT, 0.0).double()
    sum_B = kept_BT.sum(dim=1)
    # Standardized scores add up to 0: what is left is the rounding of each to float32, 6e-8 of it, and orders nothing.
    rounding = (sum_B.abs() <= 1e-5 * kept_BT.abs().sum(dim=1)).all()
    first_score_N = score_BT.gather(1, first_B[:, None]).squeeze(1)[wrong_B]
    found = {
        "on_first": lowest_B == first_B,
        "within_two": (lowest_B >= first_B) & (lowest_B <= first_B + 2),
        "in_span": changed_BT.gather(1, lowest_B[:, None]).squeeze(1),
        "chance": changed_BT.sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1),
    }
    return {name: float(value_B[wrong_B].double().mean()) for name, value_B in found.items()} | {
        "first_token_auc": float(auc(-first_score_N, -score_BT[clean_BT])),
        "sequence_auc": torch.nan if rounding else float(auc(sum_B[correct_B], sum_B[~correct_B])),
        "programs": int(wrong_B.sum()),
    }
