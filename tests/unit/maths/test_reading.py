"""Hold what is read of head 0's distribution against whole logits in float64."""

import math

import pytest
import torch

from wmtp.maths.alignment import IGNORE, target_mask
from wmtp.maths.reading import read_targets


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(42)
    hidden_BTD = torch.randn(3, 9, 5, generator=generator, dtype=torch.float64).to(dtype)
    unembedding_VD = torch.randn(11, 5, generator=generator, dtype=torch.float64).to(dtype)
    labels_BT = torch.randint(0, 11, (3, 9), generator=generator)
    labels_BT[0, :4] = labels_BT[2, 6:] = IGNORE
    return hidden_BTD, unembedding_VD, labels_BT


@pytest.mark.parametrize("chunk_size", [1, 4, 512])
def test_readings_are_those_of_whole_logits(chunk_size):
    hidden_BTD, unembedding_VD, labels_BT = inputs()
    found = read_targets(hidden_BTD, unembedding_VD, labels_BT, chunk_size)
    probability_BTV = (hidden_BTD @ unembedding_VD.T).softmax(-1)
    row = 0
    for b, j in target_mask(labels_BT).nonzero().tolist():
        p = probability_BTV[b, j - 1].tolist()
        assert found.nll_N[row].item() == pytest.approx(-math.log(p[labels_BT[b, j]]))
        assert found.entropy_N[row].item() == pytest.approx(-sum(x * math.log(x) for x in p))
        assert found.wrong_N[row].item() == (p.index(max(p)) != labels_BT[b, j])
        row += 1
    assert row == len(found.nll_N) and 0 < found.wrong_N.sum() < row


def test_a_certain_model_hesitates_nowhere_and_an_empty_batch_reads_nothing():
    hidden_BTD = torch.eye(4)[None] * 1e4
    found = read_targets(hidden_BTD, torch.eye(4), torch.tensor([[1, 0, 2, 2]]))  # it says again what it sees
    assert found.entropy_N.tolist() == [0, 0, 0]
    assert found.wrong_N.tolist() == [0, 1, 0]
    assert [len(numbers) for numbers in read_targets(hidden_BTD, torch.eye(4), torch.full((1, 4), IGNORE))] == [0, 0, 0]


def test_half_precision_is_summed_in_float32():
    hidden_BTD, unembedding_VD, labels_BT = inputs(torch.bfloat16)
    found = read_targets(hidden_BTD, unembedding_VD, labels_BT)
    assert {numbers.dtype for numbers in found} == {torch.float32}
