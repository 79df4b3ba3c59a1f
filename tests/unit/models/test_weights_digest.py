"""Hold the name of a model in memory to its weights, all of them and nothing else."""

import torch

from tests.tiny import tiny_model
from wmtp.models.weights_digest import weights_digest


def test_one_bit_of_any_tensor_is_another_name_and_a_copy_is_the_same():
    model, copy = tiny_model(), tiny_model()
    copy.load_state_dict(model.state_dict())
    name = weights_digest(model)
    assert weights_digest(copy) == name
    for tensor in copy.state_dict().values():
        bits = tensor.view(torch.int32)
        bits.view(-1)[-1] ^= 1
        assert weights_digest(copy) != name
        bits.view(-1)[-1] ^= 1
    assert weights_digest(copy) == name


def test_weights_that_change_places_or_precision_are_another_name():
    model = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(2))
    swapped = torch.nn.ModuleList(reversed(model))
    assert weights_digest(swapped) != weights_digest(model)
    halved = weights_digest(model.to(torch.bfloat16))
    assert halved != weights_digest(model.to(torch.float32))
