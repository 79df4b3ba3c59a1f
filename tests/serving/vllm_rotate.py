"""Turn two heads of a few tokens by their positions as vLLM's attentions do on a CPU; runs in vLLM's own environment.

    PYTHON vllm_rotate.py > answer.json

The answer says, of an input of two dimensions and of one of three, how far its operator is from the definition.
"""

import json
import os

TOKENS, HEADS, WIDTH = 5, 2, 64


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    import torch
    from vllm import _custom_ops

    torch.manual_seed(42)
    heads_NHD, key_ND = torch.randn(TOKENS, HEADS, WIDTH), torch.randn(TOKENS, WIDTH)
    angle_ND = torch.outer(torch.arange(TOKENS), 1e4 ** -(torch.arange(0, WIDTH, 2) / WIDTH))
    cosines, sines = angle_ND.cos()[:, None], angle_ND.sin()[:, None]
    even, odd = heads_NHD[..., ::2], heads_NHD[..., 1::2]
    turned_NHD = torch.stack((even * cosines - odd * sines, odd * cosines + even * sines), -1).flatten(2)

    def distance(query: torch.Tensor, key: torch.Tensor) -> float:
        cache = torch.cat((angle_ND.cos(), angle_ND.sin()), -1)
        _custom_ops.rotary_embedding(torch.arange(TOKENS), query, key, WIDTH, cache, False)
        return (query.view_as(turned_NHD) - turned_NHD).abs().max().item()

    flat, latent = (heads_NHD.flatten(1).clone(), key_ND.clone()), (heads_NHD.clone(), key_ND[:, None].clone())
    answer = {"two dimensions": distance(*flat), "three dimensions": distance(*latent)}
    os.write(answers, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
