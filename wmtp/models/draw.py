"""Draw a token from logits so that everyone who asks again gets the same one.

[연구 맥락] 표본은 (seed, 문제, 표본 번호, 위치)만으로 정해져야 한다. 배치 크기, 순서, 중단, 디코딩 방법이 달라도 같은
    프로그램이 나와야
    결과를 다시 확인할 수 있다.
[동작] Gumbel-max: argmax(로짓/T + g), g는 전역 난수 상태가 아니라 해시에서 나온다. 초안 헤드도 같은 g를 쓰므로 초안이
    잘 맞는다.
    부동소수 반올림은 행렬의 모양에 따라 다르다. 그래서 1등과 2등의 차이가 `margin`보다 작으면 "확실하지 않음"이라고
    알려 주고,
    호출한 쪽이 모양이 고정된 계산으로 다시 정한다.
[디버깅] 배치 크기에 따라 표본이 달라지면 `rounding_margin`이 그 하드웨어의 반올림 오차보다 작은지 재어 보라.
"""

#   N drawn positions, V vocabulary, K candidates (the most likely tokens that may belong to the nucleus)

import hashlib

import torch
from torch import Tensor

# How far two forwards of different shapes may disagree, in units of eps · max|logit|. Roundings cancel, so they grow
# with the root of how many numbers a logit is a sum of (Higham and Mary 2019): 32 layers of width 4096 add up a million
# of them, √10⁶/2 = 500. Measured on 8 layers: float32 8 with usual weights, 144 with weights so large that the model
# is chaotic; bfloat16 1.7 and 6.8: likely, not certain.
ROUNDING = {torch.float64: 512.0, torch.float32: 512.0, torch.bfloat16: 4.0, torch.float16: 4.0}

# splitmix64 (Steele et al. 2014), as signed 64-bit integers: the product wraps around.
_GOLDEN, _MIX_A, _MIX_B = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def noise_seed(*parts: object) -> int:
    """Hash a name to a 62-bit seed, the same on every machine and Python.

    Example:
        >>> noise_seed(42, "mbpp/11", 0) == noise_seed(42, "mbpp/11", 0) != noise_seed(42, "mbpp/11", 1)
        True
    """
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 2


def uniform(seed: Tensor, counter: Tensor | int) -> Tensor:
    """Return numbers strictly between 0 and 1 in float64 that depend on (seed, counter) alone.

    Example:
        >>> uniform(torch.tensor([7, 7]), torch.tensor([0, 1]))
        tensor([0.3898, 0.0168], dtype=torch.float64)
    """
    x = _mix(seed + (counter + 1) * _GOLDEN)
    return (((x >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_A
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_B
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def rounding_margin(logits_NV: Tensor) -> Tensor:
    """Bound the difference that another batch shape could make to a logit, per row."""
    eps = torch.finfo(logits_NV.dtype).eps
    return ROUNDING[logits_NV.dtype] * eps * logits_NV.abs().amax(-1, keepdim=True).double()


def draw_tokens(logits: Tensor, seed: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Draw one token per place, and say where rounding could have decided it.

    Args:
        logits: head 0 또는 초안 헤드의 로짓, [..., V].
        seed: 행과 위치마다의 씨앗, [...] int64. temperature가 0이면 쓰지 않는다.
        temperature: 0이면 가장 큰 로짓.
        top_p: 누적 확률이 이 값에 이를 때까지의 토큰만 남긴다.

    Returns:
        token, 그리고 sure: 로짓이 `rounding_margin`만큼 흔들려도 같은 토큰이면 True. 둘 다 [...].

    Example:
        >>> logits_NV = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 0.0]])
        >>> draw_tokens(logits_NV, torch.zeros(2, dtype=torch.long), temperature=0.0, top_p=1.0)
        (tensor([1, 0]), tensor([ True, False]))
    """
    logits_NV, seed_N1 = logits.flatten(0, -2), seed.reshape(-1, 1)
    if temperature == 0:
        token_N, sure_N = _draw_largest(logits_NV)
    else:
        token_N, sure_N = _draw_gumbel(logits_NV, seed_N1, temperature, top_p)
    return token_N.view(seed.shape), sure_N.view(seed.shape)


def _draw_largest(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    best_N2 = logits_NV.topk(2).values.double()
    return logits_NV.argmax(-1), best_N2[:, 0] - best_N2[:, 1] > 2 * rounding_margin(logits_NV)[:, 0]


def _draw_gumbel(logits_NV: Tensor, seed_N1: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Add Gumbel noise inside the nucleus and take the largest."""
    # Both of two tokens may be wrong by the rounding, in opposite directions.
    margin_N1 = 2 * rounding_margin(logits_NV) / temperature
    z_NV = logits_NV.double() / temperature
    z_NK, index_NK, before_NK = _most_likely(z_NV, top_p + margin_N1.max().item())
    inside_NK = before_NK < top_p
    score_NK = z_NK - (-uniform(seed_N1, index_NK).log()).log()
    winner_N1 = score_NK.masked_fill(~inside_NK, -torch.inf).argmax(1, keepdim=True)

    # A token is in the nucleus iff the tokens before it hold less than top_p. An error of margin in every z moves that
    # sum by at most margin and swaps only tokens that are margin apart: `must` are certainly in, and `may` are not
    # certainly out. The winner is sure if it must be in and beats all that may be in.
    must_NK = before_NK < top_p - margin_N1
    must_NK[:, 0] = True
    last_N1 = (before_NK < top_p + margin_N1).sum(1, keepdim=True) - 1
    may_NK = z_NK >= z_NK.gather(1, last_N1) - margin_N1
    rival_N1 = score_NK.masked_fill(~may_NK, -torch.inf).scatter(1, winner_N1, -torch.inf).amax(1, keepdim=True)
    doubtful_N1 = z_NK.masked_fill(must_NK, -torch.inf).amax(1, keepdim=True)
    sure_N1 = score_NK.gather(1, winner_N1) > rival_N1 + margin_N1
    sure_N1 &= z_NK.gather(1, winner_N1) > doubtful_N1 + margin_N1
    if z_NK.shape[1] < z_NV.shape[1]:
        sure_N1 &= ~may_NK[:, -1:]
    return index_NK.gather(1, winner_N1), sure_N1


def nucleus_probabilities(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return the distribution that `draw_tokens` draws from, in float64.

    Example:
        >>> nucleus_probabilities(torch.tensor([[0.5, 0.3, 0.2]]).log(), temperature=1.0, top_p=0.7)
        tensor([[0.6250, 0.3750, 0.0000]], dtype=torch.float64)
    """
    z_NV = logits.flatten(0, -2).double() / temperature
    z_NK, index_NK, before_NK = _most_likely(z_NV, top_p)
    p_NK = z_NK.masked_fill(before_NK >= top_p, -torch.inf).softmax(1)
    return torch.zeros_like(z_NV).scatter(1, index_NK, p_NK).view(logits.shape)


def _most_likely(z_NV: Tensor, mass: float, tries: tuple[int, ...] = (64, 4096)) -> tuple[Tensor, Tensor, Tensor]:
    """Sort tokens by probability until each row holds `mass`; return their z, their index and the mass before each.

    [동작] 어휘를 모두 정렬하는 것은 순전파의 반만큼 비싸다 (V = 49152). 그래서 조금씩 늘려 본다.
    """
    total_N1, vocabulary = z_NV.logsumexp(1, keepdim=True), z_NV.shape[1]
    for k in (*(k for k in tries if k < vocabulary), vocabulary):
        z_NK, index_NK = z_NV.topk(k)
        p_NK = (z_NK - total_N1).exp()
        before_NK = p_NK.cumsum(1) - p_NK
        if k == vocabulary or bool((before_NK[:, -1] >= mass).all()):
            break
    return z_NK, index_NK, before_NK
