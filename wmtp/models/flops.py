"""Count the floating-point operations that a training step needs, and what a device can do at most.

[연구 맥락] 토큰/초는 모델이 다르면 견줄 수 없다. 모델 FLOPs 이용률(MFU)은 견줄 수 있다: 모델에 꼭 필요한 연산을 초마다
    얼마나 했는가를 장치의 최고 속도로 나눈 것 (PaLM, arXiv 2204.02311, 부록 B).

    토큰마다       6·N          N: 몸통과 모든 헤드의 행렬 (임베딩과 unembedding은 뺀다). 순전파 2, 역전파 4.
                               얼린 행렬(LoRA의 바탕)은 자기 기울기가 없으므로 4
    토큰 짝마다    12·L·A       L = 층 + 덧붙인 헤드, A = 어텐션 헤드 수 × 헤드 너비. 길이 n인 행에 짝이 n²개
                               (인과 마스크로 절반이 0이어도 관례대로 모두 센다)
    예측마다       6·D·V        헤드 k가 예측하는 목표 토큰마다 한 번. 프롬프트에는 로짓을 만들지 않는다

[동작] 패딩, 점수를 내는 참조모델, 재계산(activation checkpointing)은 세지 않는다: 결과에 꼭 필요한 연산이 아니다.
    전문가 혼합(MoE)은 쓰지 않는 전문가까지, 창이 있는 어텐션(sliding window)은 창 밖까지 세므로 크게 나온다.
"""

#   D width, V vocabulary

import re
from typing import NamedTuple

from torch import nn

from wmtp.models.mtp import MTPMixin

# Dense bf16 of one device, FLOP/s, from the makers' data sheets (those that print sparse figures: half of them).
# The first entry all of whose words are in the device's name is taken.
PEAKS = (
    ("B200", 2250e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10", 125e12),
)


class StepFlops(NamedTuple):
    """Hold the floating-point operations of a training step, forward and backward.

    Attributes:
        per_token: 패딩이 아닌 토큰 하나마다.
        per_pair: 한 행 안의 토큰 짝 하나마다.
        per_prediction: 헤드 하나의 예측 하나마다.
    """

    per_token: int
    per_pair: int
    per_prediction: int


def step_flops(model: MTPMixin) -> StepFlops:
    """Count what a model needs.

    Args:
        model: H개의 헤드를 가진 모델.

    Example:
        >>> from transformers import LlamaConfig
        >>> from wmtp.models.mtp import MTPForCausalLM
        >>> config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        ...                      num_attention_heads=2, mtp_heads=3)
        >>> step_flops(MTPForCausalLM(config))      # a layer: 4 matrices of 8 x 8 and 3 of 8 x 16, 640 weights
        StepFlops(per_token=15360, per_pair=384, per_prediction=768)
    """
    config = model.config.get_text_config()
    unembedding_VD = model.unembedding_VD
    elsewhere = {id(unembedding_VD)} | {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    again = model.layers_of_heads[len(model.extra_heads) :]  # one layer may serve several heads
    used = [*model.parameters(), *(p for layer in again for p in layer.parameters())]
    matrices = [p for p in used if p.ndim >= 2 and id(p) not in elsewhere]
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = len(model.decoder_layers) + len(model.layers_of_heads)
    return StepFlops(
        per_token=sum((6 if p.requires_grad else 4) * p.numel() for p in matrices),
        per_pair=12 * layers * config.num_attention_heads * head_width,
        per_prediction=(6 if unembedding_VD.requires_grad else 4) * unembedding_VD.numel(),
    )


def peak_flops(device_name: str) -> float | None:
    """Return the most FLOP/s that a device can do in bf16; None where it is not in the table.

    Example:
        >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA H100 PCIe"), peak_flops("NVIDIA A100-SXM4-80GB")
        (989000000000000.0, 756000000000000.0, 312000000000000.0)
        >>> peak_flops("NVIDIA A10G")
    """
    words = set(re.findall(r"\w+", device_name))
    return next((peak for name, peak in PEAKS if set(name.split()) <= words), None)
