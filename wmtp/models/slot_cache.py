"""Keep keys and values in fixed slots: the token at position p of row b lives in slot (b, p).

[연구 맥락] 배치의 행마다 길이도, 받아들인 초안의 수도 다르다. 위치가 곧 칸이면 왼쪽 패딩도, 캐시 자르기도 필요 없다.
[동작] 행 b의 위치 p에 있는 질의는 칸 0 … p만 본다. 거절된 초안은 p보다 뒤의 칸에 남지만, 그 칸은 보이기 전에 다음
    토큰이 덮어쓴다.
    초안이 몇 개나 맞았든 아무것도 복사하지 않는다. 메모리는 처음에 한 번 잡는다 (torch.cat 없음).
    선형 어텐션(linear attention) 층은 위치가 아니라 행마다 하나인 상태를 갖는다. 한 토큰 앞으로만 갈 수 있으므로, 그런
    모델은 패딩 없이 읽고 초안을 쓰지 않는다 (`keeps_state`).
[디버깅] 결과가 다르면 `aim`의 시작 위치를 보라: 받아들인 토큰 수와 같아야 한다.
"""

#   N rows in this forward, T new positions, S slots, R rows of the whole batch

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache


class SlotCache(Cache):
    """Hold preallocated keys and values for every layer and every extra head.

    Args:
        rows: R, 함께 디코딩하는 행의 최대 수.
        slots: S, 한 행이 담을 수 있는 최대 위치 수.
    """

    def __init__(self, rows: int, slots: int) -> None:
        super().__init__(layers=[])
        self.rows, self.slots = rows, slots
        self.store: dict[Hashable, tuple[Tensor, ...]] = {}
        self.states: dict[Hashable, Tensor] = {}

    def aim(self, first_row: int, position_NT: Tensor, length: int, depth: int = 0, begins: bool = False) -> None:
        """Say where the next forward writes, and how many slots it may look at.

        Args:
            first_row: 첫 행.
            position_NT: 행마다 쓸 위치.
            length: 볼 수 있는 칸의 수.
            begins: 행들이 여기서 시작하는지. 그러면 선형 어텐션은 앞선 상태 없이 읽는다.
            depth: 차례 헤드의 번호. 층의 번호가 0부터 다시 시작하고, 층 하나가 여러 헤드일 수도 있어서 따로 센다.
        """
        count = len(position_NT)
        self.depth, self.begins = depth, begins
        self.window = slice(first_row, first_row + count)
        self.length = length
        row_N1 = torch.arange(first_row, first_row + count, device=position_NT.device)[:, None]
        self.flat_index = (row_N1 * self.slots + position_NT).flatten()

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple:
        """Write the new keys and values of one layer and return what its queries attend to."""
        stored = self._slots((layer_idx, self.depth), keys.transpose(1, 2), values.transpose(1, 2))
        return tuple(x[self.window, : self.length].transpose(1, 2) for x in stored)

    def keep_states(self, states_NTD: Tensor) -> None:
        """Write the trunk's states of the positions that the last forward wrote."""
        self._slots("states", states_NTD)

    def kept_states(self, first_row: int, position_NT: Tensor) -> Tensor:
        """Read the trunk's states of some positions of the rows from `first_row` on."""
        (stored,) = self.store["states"]
        row_N1 = torch.arange(first_row, first_row + len(position_NT), device=position_NT.device)[:, None]
        return stored[row_N1, position_NT]

    def _slots(self, name: Hashable, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Write tensors [N, T, …] to where the cache is aimed, and return all slots of that name."""
        if name not in self.store:
            # Zeros, not empty: a masked slot still meets its value with weight 0, and 0 · NaN is NaN.
            self.store[name] = tuple(x.new_zeros(self.rows, self.slots, *x.shape[2:]) for x in tensors)
        for stored, new in zip(self.store[name], tensors, strict=True):
            stored.view(-1, *stored.shape[2:]).index_copy_(0, self.flat_index, new.flatten(0, 1))
        return self.store[name]

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a row, over all layers and heads."""
        for tensors in self.store.values():
            for stored in tensors:
                stored[target, :length] = stored[source, :length]
        for state in self.states.values():
            state[target] = state[source]

    def forget_states(self, first_row: int) -> None:
        """Let the rows from `first_row` on begin with states of zeros, which is as good as none."""
        for state in self.states.values():
            state[first_row:] = 0

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the last inputs of a linear layer's convolution, to be changed in place, or None at the beginning."""
        return self._state("conv", layer_idx, state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the state of a linear layer, or None at the beginning."""
        return self._state("recurrent", layer_idx, state_idx)

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None, **_: object
    ) -> Tensor:
        """Keep the last inputs of rows that begin; return all of them."""
        width = conv_kernel_size or conv_states.shape[-1]
        padded = torch.nn.functional.pad(conv_states, (max(0, width - conv_states.shape[-1]), 0))
        self._keep_state(padded[..., -width:], "conv", layer_idx, state_idx)
        return padded

    def update_recurrent_state(self, states: Tensor, layer_idx: int, state_idx: int = 0, **_: object) -> Tensor:
        """Keep the state of a linear layer after this block."""
        return self._keep_state(states, "recurrent", layer_idx, state_idx)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Say whether the rows go on from states."""
        return not self.begins

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return False: no block is ever taken back in a model with states."""
        return False

    def _state(self, *name: Hashable) -> Tensor | None:
        state = self.states.get(name)
        return None if self.begins or state is None else state[self.window]

    def _keep_state(self, new: Tensor, *name: Hashable) -> Tensor:
        if name not in self.states:
            self.states[name] = new.new_zeros(self.rows, *new.shape[1:])
        self.states[name][self.window] = new
        return self.states[name][self.window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions and masks are always given explicitly."""
        return 0


def keeps_state(config: Any) -> bool:
    """Say whether a model has layers that carry a state from token to token and cannot go back.

    Example:
        >>> from transformers import LlamaConfig, Qwen3NextConfig
        >>> keeps_state(LlamaConfig()), keeps_state(Qwen3NextConfig())
        (False, True)
    """
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    return not set(kinds) <= {"full_attention", "sliding_attention", "chunked_attention"}
