"""Hold speculative acceptance to head 0's own output: token for token, or in distribution."""

#   B sequences, K drafted tokens, V vocabulary

import pytest
import torch

from wmtp.maths.speculative import accept_matching, accept_sampled


def test_the_longest_matching_prefix_is_accepted_and_continued_by_head_0():
    verified = torch.tensor([[1, 2, 3, 4]]).expand(5, 4)
    draft = torch.tensor([[1, 2, 3], [1, 2, 9], [1, 9, 3], [9, 2, 3], [9, 9, 9]])
    accepted, following = accept_matching(draft, verified)
    assert accepted.tolist() == [3, 2, 1, 0, 0]
    assert following.tolist() == [4, 3, 2, 1, 1]


def test_without_a_draft_the_next_token_is_head_0s():
    accepted, following = accept_matching(torch.zeros(2, 0, dtype=torch.long), torch.tensor([[3], [4]]))
    assert accepted.tolist() == [0, 0] and following.tolist() == [3, 4]
    p = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    accepted, following = accept_sampled(torch.zeros(2, 0, dtype=torch.long), p[:, :0], p, torch.full((2, 1), 0.5))
    assert accepted.tolist() == [0, 0] and following.tolist() == [1, 0]


@pytest.mark.parametrize("seed", [42, 43, 44])
def test_sampled_output_has_the_distribution_of_head_0(seed):
    B, V = 400_000, 5
    generator = torch.Generator().manual_seed(seed)

    def distributions(*shape: int) -> torch.Tensor:
        prob = torch.rand(*shape, V, generator=generator) ** 3
        prob[..., seed % V] = 0.0  # as top-p leaves it
        return prob / prob.sum(-1, keepdim=True)

    # Head 0's next distribution depends on the token before; the drafting heads do not know that token.
    q0_V, q1_V, p0_V, p1_VV, p2_V = *distributions(2), distributions(), distributions(V), distributions()
    draft_BK = torch.stack([q.multinomial(B, replacement=True, generator=generator) for q in (q0_V, q1_V)], dim=1)
    target_BK1V = torch.stack([p0_V.expand(B, V), p1_VV[draft_BK[:, 0]], p2_V.expand(B, V)], dim=1)
    uniform_BK1 = torch.rand(B, 3, generator=generator, dtype=torch.float64)
    accepted_B, next_B = accept_sampled(draft_BK, torch.stack([q0_V, q1_V]).expand(B, 2, V), target_BK1V, uniform_BK1)

    first_B = torch.where(accepted_B > 0, draft_BK[:, 0], next_B)
    second_B = torch.where(accepted_B > 1, draft_BK[:, 1], next_B)
    third_B = next_B[accepted_B == 2]
    assert_drawn_from(first_B, p0_V)
    # Given the first token was accepted, the second must follow head 0's own distribution after it.
    for token in range(V):
        after_B = (first_B == token) & (accepted_B > 0)
        if after_B.sum() > 1000:
            assert_drawn_from(second_B[after_B], p1_VV[token])
    assert_drawn_from(third_B, p2_V)
    # The chance to accept is Σ min(p, q) (Leviathan et al. 2023).
    assert (accepted_B > 0).double().mean().item() == pytest.approx(p0_V.minimum(q0_V).sum().item(), abs=0.004)


def assert_drawn_from(token_N: torch.Tensor, prob_V: torch.Tensor) -> None:
    """Allow five standard errors, and nothing at all where the probability is 0."""
    prob_V = prob_V.double()
    share_V = token_N.bincount(minlength=len(prob_V)).double() / len(token_N)
    assert ((share_V - prob_V).abs() <= 5 * (prob_V * (1 - prob_V) / len(token_N)).sqrt() + 1e-12).all()


def test_equal_distributions_accept_everything():
    generator = torch.Generator().manual_seed(42)
    prob = torch.rand(1000, 4, 7, generator=generator).softmax(-1)
    draft = prob[:, :3].flatten(0, 1).multinomial(1, generator=generator).view(1000, 3)
    accepted, _ = accept_sampled(draft, prob[:, :3], prob, torch.rand(1000, 4, generator=generator))
    assert (accepted == 3).all()


def test_a_token_that_head_0_excludes_is_never_written():
    q, p = torch.tensor([[[0.0, 1.0, 0.0]]]), torch.tensor([[[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    for uniform in (0.0, 0.5, 0.999, 1.0):
        accepted, following = accept_sampled(torch.tensor([[1]]), q, p, torch.full((1, 2), uniform))
        assert accepted.item() == 0 and following.item() in (0, 2)
