import pytest
import torch

from wmtp.models.draw import draw_tokens, noise_seed, nucleus_probabilities, rounding_margin, uniform


def random_logits(rows: int, vocabulary: int, seed: int = 42) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(rows, 1, generator=generator) * 6
    return torch.randn(rows, vocabulary, generator=generator) * scale


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.9), (0.2, 0.95), (1.0, 0.3)])
def test_tokens_come_with_the_probabilities_of_the_nucleus(temperature, top_p):
    logits_V = torch.linspace(0, 2, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(42))]
    draws = 20_000
    token_N, _ = draw_tokens(logits_V.expand(draws, 12), torch.arange(draws) + noise_seed(42), temperature, top_p)
    p_V = nucleus_probabilities(logits_V[None], temperature, top_p)[0]
    observed_V = torch.bincount(token_N, minlength=12)
    assert observed_V[p_V == 0].sum() == 0
    assert chi_square_p_value(observed_V[p_V > 0], draws * p_V[p_V > 0]) > 0.001


def test_the_nucleus_is_the_smallest_set_that_holds_top_p():
    logits_NV = random_logits(50, 40)
    p_NV = logits_NV.double().softmax(1)
    for p_V, kept_V in zip(p_NV, nucleus_probabilities(logits_NV, 1.0, 0.9) > 0, strict=True):
        assert p_V[kept_V].sum() >= 0.9 > p_V[kept_V].sum() - p_V[kept_V].min()
        assert p_V[kept_V].min() >= p_V[~kept_V].max()


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("vocabulary", [30, 100])
def test_rounding_changes_no_token_that_is_called_sure(temperature, vocabulary):
    logits_NV = random_logits(5000, vocabulary)
    seed_N = torch.arange(5000) * 7919
    token_N, sure_N = draw_tokens(logits_NV, seed_N, temperature, 0.95)
    assert sure_N.float().mean() > 0.95
    changed = 0
    for trial in range(4):
        sign = torch.randint(0, 2, logits_NV.shape, generator=torch.Generator().manual_seed(trial)) * 2 - 1
        shaken_NV = logits_NV + 0.99 * sign * rounding_margin(logits_NV).float()
        again_N, _ = draw_tokens(shaken_NV, seed_N, temperature, 0.95)
        assert torch.equal(again_N[sure_N], token_N[sure_N])
        changed += (again_N != token_N).sum().item()
    assert changed, "the shaking must be strong enough to change something"


def test_an_exact_tie_is_never_sure():
    logits_NV = torch.tensor([[1.0, 5.0, 5.0, 0.0]])
    assert not draw_tokens(logits_NV, torch.tensor([0]), 0.0, 1.0)[1]


def test_uniform_numbers_are_uniform_and_unrelated_to_their_neighbours():
    u = uniform(torch.arange(300)[:, None] + noise_seed(42), torch.arange(300))
    assert 0 < u.min() and u.max() < 1
    assert chi_square_p_value(torch.histc(u.float(), 50, 0, 1), torch.full((50,), u.numel() / 50)) > 0.001
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.01


def chi_square_p_value(observed: torch.Tensor, expected: torch.Tensor) -> float:
    statistic = ((observed.double() - expected.double()) ** 2 / expected.double()).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(freedom, statistic / 2).item()
