"""Hold the alignment of heads and targets."""

import torch

from wmtp.maths.alignment import IGNORE, shift_left, target_mask


def test_shift_fills_the_end_and_never_wraps_around():
    x_BT = torch.arange(1, 9).view(2, 4)
    assert shift_left(x_BT, 1, IGNORE).tolist() == [[2, 3, 4, IGNORE], [6, 7, 8, IGNORE]]
    assert shift_left(x_BT, 0, IGNORE).equal(x_BT)
    assert shift_left(x_BT, 4, 0).tolist() == shift_left(x_BT, 9, 0).tolist() == [[0] * 4] * 2
    assert shift_left(x_BT.float(), 2, 0.5).tolist() == [[3, 4, 0.5, 0.5], [7, 8, 0.5, 0.5]]


def test_target_mask_is_the_shifted_labels_seen_from_the_target():
    generator = torch.Generator().manual_seed(42)
    labels_BT = torch.randint(0, 9, (5, 7), generator=generator)
    labels_BT[torch.rand(5, 7, generator=generator) < 0.4] = IGNORE
    for k in range(9):
        from_the_row_BT = shift_left(labels_BT, k + 1, IGNORE) != IGNORE
        from_the_target_BT = target_mask(labels_BT, k)
        assert from_the_target_BT.sum() == from_the_row_BT.sum()
        for b, t in from_the_row_BT.nonzero().tolist():
            assert from_the_target_BT[b, t + 1 + k]


def test_first_token_is_no_target_and_labels_stay_untouched():
    labels_BT = torch.tensor([[3, 4]])
    assert target_mask(labels_BT).tolist() == [[False, True]]
    assert target_mask(labels_BT, k=1).tolist() == [[False, False]]
    assert labels_BT.tolist() == [[3, 4]]
