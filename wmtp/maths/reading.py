"""Read what head 0 says of every target token: how surprised it is, whether it is wrong, how much it hesitates.

[연구 맥락] CE만으로는 "틀린 토큰이 줄었는가"를 말할 수 없다. 오류는 가장 그럴듯한 토큰이 목표와 다른 것이고, 망설임은
    분포의 엔트로피다: 엔트로피가 큰 자리가 프로그램의 갈림길이다 (arXiv 2506.01939).
[동작] 로짓은 묶음(chunk)마다 만들고 버린다. 학습에는 쓰지 않으므로 기울기가 없다.
"""

#   B sequences, T positions, D width, V vocabulary, N target tokens, C rows of a chunk

from typing import NamedTuple

import torch
from torch import Tensor

from wmtp.maths.alignment import target_mask
from wmtp.maths.loss import CHUNK_SIZE


class Readings(NamedTuple):
    """Hold one number for each target token, in the order of the batch's rows.

    Attributes:
        nll_N: 목표 토큰의 CE, nat.
        wrong_N: 가장 그럴듯한 토큰이 목표와 다르면 1, 같으면 0.
        entropy_N: 분포의 엔트로피, nat.
    """

    nll_N: Tensor
    wrong_N: Tensor
    entropy_N: Tensor


@torch.no_grad()
def read_targets(
    hidden_BTD: Tensor, unembedding_VD: Tensor, labels_BT: Tensor, chunk_size: int = CHUNK_SIZE
) -> Readings:
    """Read head 0's distribution at every target token.

    Args:
        hidden_BTD: 헤드 0의 최종 은닉상태.
        unembedding_VD: 출력 행렬.
        labels_BT: 학습할 토큰의 번호, 프롬프트와 패딩은 IGNORE.

    Example:
        >>> found = read_targets(torch.zeros(1, 3, 4), torch.zeros(8, 4), torch.tensor([[1, 0, 3]]))
        >>> found.wrong_N, found.entropy_N      # all 8 alike: token 0 is the guess, log 8 the entropy
        (tensor([0., 1.]), tensor([2.0794, 2.0794]))
    """
    mask_BT = target_mask(labels_BT)
    hidden_ND = hidden_BTD[:, :-1][mask_BT[:, 1:]]  # the row to the left of each target
    parts = [
        _read(hidden_CD, unembedding_VD, target_C)
        for hidden_CD, target_C in zip(hidden_ND.split(chunk_size), labels_BT[mask_BT].split(chunk_size), strict=True)
    ]
    return Readings(*(torch.cat(numbers) for numbers in zip(*parts, strict=True)))


def _read(hidden_CD: Tensor, unembedding_VD: Tensor, target_C: Tensor) -> Readings:
    logits_CV = torch.nn.functional.linear(hidden_CD, unembedding_VD)
    logits_CV = logits_CV if logits_CV.dtype == torch.float64 else logits_CV.float()
    log_p_CV = logits_CV.log_softmax(dim=-1)
    nll_C = -log_p_CV.gather(1, target_C[:, None]).squeeze(1)
    wrong_C = (logits_CV.argmax(dim=-1) != target_C).to(nll_C.dtype)
    return Readings(nll_C, wrong_C, torch.special.entr(log_p_CV.exp()).sum(dim=-1))
