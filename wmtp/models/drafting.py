"""Let the extra heads write ahead, in either arrangement of heads; head 0 verifies it in the next block.

[연구 맥락] 초안이 무엇이든 결과는 head 0의 것이다 (`maths.speculative`). 초안이 잘 맞을수록 빠를 뿐이다. 그러려면
    헤드가 학습할 때 읽던 것과 똑같은 것을 읽어야 한다.
[동작] `read`가 블록에서 몸통이 말한 것을 받아 두고, `draft`가 행마다 다음 토큰 뒤의 K개를 쓴다.
    나란한 헤드  마지막으로 받아들인 자리의 은닉상태에서 K개를 한꺼번에 쓴다.
    차례 헤드    head k의 층은 위치 t에서 토큰 t + k의 임베딩도 읽는다. 그래서 하나씩, 뽑은 것을 읽혀 다음을 뽑는다.
[디버깅] 학습한 헤드인데 거의 받아들여지지 않으면 tests/unit/models/test_sequential.py의 초안 시험을 본다: 초안은
    그때까지의 토큰으로 처음부터 다시 계산한 `mtp`의 것과 같아야 한다.
"""

#   N rows, T positions, K = H - 1 drafts, D width, V vocabulary, L tokens of a row so far

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from wmtp.models.draw import nucleus_probabilities

if TYPE_CHECKING:
    from wmtp.models.generation import _Decoder, _Row


class Drafts(NamedTuple):
    """Hold the extra heads' next tokens, and their distributions where p/q is needed."""

    token_NK: Tensor
    prob_NKV: Tensor | None = None

    def select(self, order: list[int]) -> "Drafts":
        """Take rows in another order."""
        return Drafts(self.token_NK[order], None if self.prob_NKV is None else self.prob_NKV[order])


def join(parts: Sequence[Drafts], dim: int = 0) -> Drafts:
    """Put the drafts of several groups of rows under each other, or with dim = 1 those of several heads in a row."""
    tokens = [part.token_NK for part in parts]
    probabilities = [part.prob_NKV for part in parts if part.prob_NKV is not None]  # all have them, or none
    return Drafts(torch.cat(tokens, dim), torch.cat(probabilities, dim) if probabilities else None)


class ParallelDrafter:
    """Draft with heads that all read the trunk's states: every token at once.

    [동작] 헤드도 층이므로 제 K와 V를 캐시의 제 칸에 쓴다. 거절된 자리에도 쓰지만, 다음 블록이 보이기 전에 덮어쓴다.
    """

    def __init__(self, decoder: "_Decoder") -> None:
        self.decoder, self.model = decoder, decoder.model
        self.said: WeakKeyDictionary[_Row, Tensor] = WeakKeyDictionary()
        self.said_of_prompt: WeakKeyDictionary[_Row, Tensor] = WeakKeyDictionary()

    def read(self, call: dict[str, Any], rows: Sequence["_Row"], last: Sequence[int]) -> None:
        """Let the heads read a block, and keep what they say at each row's last accepted place of it."""
        row_N, position_N = self.decoder.tensor(range(len(last))), self.decoder.tensor(last)
        hidden_NKD = torch.stack([hidden_NTD[row_N, position_N] for hidden_NTD in self.model.run_heads(call)], dim=1)
        for row, hidden_KD in zip(rows, hidden_NKD, strict=True):
            self.said[row] = hidden_KD
            if not row.tokens:
                self.said_of_prompt[row] = hidden_KD

    def copy(self, donor: "_Row", row: "_Row") -> None:
        """Begin a row whose prompt is another row's."""
        self.said[row] = self.said_of_prompt[row] = self.said_of_prompt[donor]

    def draft(self, first: int, rows: Sequence["_Row"]) -> Drafts:
        """Draft the tokens after the next one, with the noise that head 0 will draw with."""
        hidden_NKD = torch.stack([self.said[row] for row in rows])
        logits_NKV = self.model.get_output_embeddings()(self.model.final_norm(hidden_NKD))
        token_NK, _ = self.decoder.draw(logits_NKV, rows)
        return Drafts(token_NK, _probabilities(self.decoder, logits_NKV))


class SequentialDrafter:
    """Draft with layers that read each other and the tokens in between: one token after the other.

    [동작] 토큰이 L개인 행은 몸통의 은닉상태를 L − 1개(위치 0 … L−2) 갖고 있다. 마지막 토큰은 아직 몸통을 지나지 않았다.
        head k는 위치 t에서 토큰 t + k를 읽고 t + 1 + k를 쓴다. t = L−2이면 head 1은 방금 뽑은 토큰을 읽고 그다음을,
        head 2는 head 1의 초안을 읽고 그다음을 쓴다.
        층마다 제 칸에 K와 V를 두는데, 칸 t의 것은 토큰 t + k로 계산한 것이다. 그 토큰이 초안이었다면 거절되었을 수
        있다. 그래서 초안을 읽은 칸(t > L−1−k, 곧 마지막 층에서 뒤의 K−1칸)은 다음번에 진짜 토큰으로 다시 계산한다.
        몸통의 은닉상태도 칸에 남겨 둔 것은 그 때문이다. 층이 하나면(K = 1) 다시 계산할 것이 없다.
        받아들인 자리보다 뒤의 칸에는 아무것이나 있지만, 보이기 전에 덮어쓴다 (`slot_cache`).
    """

    def __init__(self, decoder: "_Decoder") -> None:
        self.decoder, self.model, self.cache = decoder, decoder.model, decoder.cache
        self.right: WeakKeyDictionary[_Row, int] = WeakKeyDictionary()  # positions whose slots hold no draft's trace

    def read(self, call: dict[str, Any], rows: Sequence["_Row"], last: Sequence[int]) -> None:
        """Keep the trunk's states of a block, each in the slot of its position."""
        self.cache.keep_states(call["states_BTD"])

    def copy(self, donor: "_Row", row: "_Row") -> None:
        """Begin a row whose prompt is another row's; its slots have been copied."""
        self.right[row] = min(self.right[donor], max(0, row.length - self.model.heads + 1))

    def draft(self, first: int, rows: Sequence["_Row"]) -> Drafts:
        """Draft the tokens after the next one, with the noise that head 0 will draw with."""
        decoder, drafts = self.decoder, self.model.heads - 1
        # The last position is read again even where its slots are right: its states are what speaks.
        starts = [max(0, min(self.right.get(row, 0), row.length - 2)) for row in rows]
        width = max(1, max(row.length - 1 - start for row, start in zip(rows, starts, strict=True)))
        # Place j of a row holds token start + 1 + j; where none is known yet, a draft comes, or nothing that counts.
        tokens = [(row.prompt + row.tokens)[start + 1 :] for row, start in zip(rows, starts, strict=True)]
        ids = decoder.tensor([row[: width + drafts] + [0] * (width + drafts - len(row)) for row in tokens])
        row_N, last_N = decoder.tensor(range(len(rows))), decoder.tensor([len(row) - 1 for row in tokens])
        position_NT = decoder.tensor(starts)[:, None] + decoder.tensor(range(width))
        length = max(starts) + width
        states_NTD = self.cache.kept_states(first, position_NT)
        masks = decoder.masks_of_kinds(position_NT, length)
        written = []
        for k in range(1, drafts + 1):
            self.cache.aim(first, position_NT, length, depth=k)
            states_NTD = self.model.run_layer(
                k,
                states_NTD,
                self.model.embed(ids[:, k - 1 : k - 1 + width]),
                (position_NT + k).clamp(max=decoder.limit - 1),
                attention_mask=masks[self.model.kind_of_attention(k)],
                past_key_values=self.cache,
            )
            hidden_N1D = states_NTD[row_N, last_N.clamp(min=0), None]
            logits_N1V = self.model.get_output_embeddings()(hidden_N1D)
            token_N1, _ = decoder.draw(logits_N1V, rows, offset=k - 1)
            ids[row_N, last_N + k] = token_N1[:, 0]
            written.append(Drafts(token_N1, _probabilities(decoder, logits_N1V)))
        for row in rows:
            self.right[row] = max(0, row.length - drafts)
        return join(written, dim=1)


def _probabilities(decoder: "_Decoder", logits_NKV: Tensor) -> Tensor | None:
    """Return the distributions that drafts were drawn from, where they are asked for."""
    sampling = decoder.sampling
    return nucleus_probabilities(logits_NKV, sampling.temperature, sampling.top_p) if decoder.resampling else None
