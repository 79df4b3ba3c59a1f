"""Name a model in memory by its weights, so that what was measured of one model is never said of another.

[연구 맥락] "학습 후"는 모델의 이름이 아니다. 이어서 학습하면 같은 폴더의 "학습 후"가 다른 모델이고, 그 모델의 pass@1을
    다시 재야 한다. 파일의 이름이나 시각이 아니라 지금 쓰는 가중치로 부르면 틀릴 수 없다.
[동작] 텐서마다 SHA-256을 여러 스레드로 구하고, 이름과 모양과 함께 하나로 모은다. 장치와 묶는 법(DDP, FSDP)은 상관없다.
[디버깅] 같은 모델인데 값이 다르면 `state_dict()`의 텐서를 하나씩 비교한다. 가중치 1 GB에 CPU 시간 약 0.6초.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn


def weights_digest(model: nn.Module) -> str:
    """Hash every weight of a model, wherever it lies.

    Args:
        model: 통째로 있는 모델 (나눈 모델은 `wmtp.ranks.whole_model`이 모은 뒤).

    Returns:
        16자리 16진수. 텐서 하나의 한 비트만 달라도 다르다.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> _ = layer.weight.data.add_(1e-3)
        >>> weights_digest(layer) == before
        False
    """
    weights = model.state_dict()
    with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter
        digests = pool.map(_digest, weights.values())
        lines = [
            f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest}"
            for (name, tensor), digest in zip(weights.items(), digests, strict=True)
        ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _digest(tensor: Tensor) -> str:
    on_host = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(on_host.numpy().data).hexdigest()
