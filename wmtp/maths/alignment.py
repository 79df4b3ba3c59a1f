"""Align every head's predictions with the tokens they predict.

[연구 맥락] MTP의 헤드 k는 위치 t에서 t+1+k번째 토큰을 맞힌다. 한 칸이라도 어긋나면 학습은 조용히 망가진다.
그래서 자리를 옮기는 함수는 `shift_left` 하나뿐이고, 라벨과 가중치가 똑같이 이 함수를 쓴다. (maths.md 1절)
[동작] labels_BT가 들어와 각 헤드의 목표(target)와 그 자리가 나간다. 가중치는 언제나 *목표 토큰*의 것이다.
[디버깅] NLL이 log V 근처에서 내려가지 않으면 여기부터: 왼쪽 패딩을 쓰지 않았는지, 프롬프트가 IGNORE인지 본다.
패딩은 오른쪽에 둔다. 왼쪽에 두면 첫 토큰이 패딩 자리에서 예측된다.
"""

#   B sequences, T positions; k the head: 0 predicts the next token

import torch
from torch import Tensor

IGNORE = -100


def shift_left(x_BT: Tensor, k: int, fill: float) -> Tensor:
    """Move every row k places to the left and fill the gap at the end.

    Args:
        x_BT: 라벨, 가중치 등 토큰마다 하나인 값.
        k: 옮길 칸 수. 헤드 k의 목표는 `shift_left(labels_BT, k + 1, IGNORE)`.
        fill: 문장 끝을 지난 자리에 넣을 값. 앞쪽 값이 돌아 들어오는 일은 없다.

    Returns:
        x_BT와 같은 모양. 자리 t에 x[b, t+k], 그 자리가 없으면 fill.

    Example:
        >>> shift_left(torch.tensor([[1, 2, 3]]), 1, IGNORE)
        tensor([[   2,    3, -100]])
    """
    shifted_BT = torch.full_like(x_BT, fill)
    shifted_BT[:, : max(x_BT.shape[1] - k, 0)] = x_BT[:, k:]
    return shifted_BT


def target_mask(labels_BT: Tensor, k: int = 0) -> Tensor:
    """Mark the tokens that head k has to predict.

    [연구 맥락] 헤드 k가 토큰 j를 맞히려면 자리 j-1-k가 있어야 한다. BOS를 몰래 지어내지 않으므로
    맨 앞의 1+k개 토큰은 학습 대상이어도 목표가 아니다. M(maths.md 2절)은 `target_mask(labels).sum()`의 스텝 합이다.

    Args:
        labels_BT: 학습할 토큰의 번호, 프롬프트와 패딩은 IGNORE.
        k: 헤드 번호. 0이 다음 토큰.

    Example:
        >>> target_mask(torch.tensor([[7, 8, IGNORE, 9]]))
        tensor([[False,  True, False,  True]])
        >>> target_mask(torch.tensor([[7, 8, IGNORE, 9]]), k=2)
        tensor([[False, False, False,  True]])
    """
    mask_BT = labels_BT != IGNORE
    mask_BT[:, : 1 + k] = False
    return mask_BT
