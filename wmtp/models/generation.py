"""Complete prompts in batches: the same samples whatever the batch, the order, the interruption or the decoding.

[연구 맥락] 평가가 모든 것을 정한다. 그래서 같은 (seed, key, sample)은 언제나 같은 프로그램이어야 한다.
    중단된 평가를 이어서 해도, 배치 크기를 바꾸어도, 헤드의 초안을 써도(maths.md 8절) 마찬가지다.
[동작] 긴 프롬프트부터 배치를 채우고, 끝난 행은 바로 내보내고 새 행으로 채운다. 캐시는 `slot_cache`, 토큰 뽑기는 `draw`,
    초안을 받아들이는 규칙은 `maths.speculative`가 맡는다.
    부동소수 반올림은 행렬의 모양마다 다르다. 그래서 1등과 2등이 반올림 오차만큼 가까우면 그 행만 따로, 캐시 없이
    처음부터 다시 계산해서 정한다. 이 계산의 모양은 그 행의 토큰 수만으로 정해진다.
    보장의 범위: 같은 기계, 같은 스레드 수, 같은 라이브러리, float32. 반정밀도에서는 그럴 가능성이 높을 뿐이다.
[디버깅] 배치 크기 1과 16의 결과가 다르면 `draw.ROUNDING`이 작은 것이다. 느리면 `Completion.near_ties`를 보라.
"""

#   N rows in the batch, T positions of one block, K = H - 1 drafts, S cache slots, D width, V vocabulary

# transformers' own generate and its continuous batching were considered: neither has a seed per request, so a sample
# would depend on its neighbours; stop strings belong to the call, not to the request, and are not cut off; drafts come
# from another model, and only for one sequence at a time.

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from wmtp.errors import ConfigError
from wmtp.maths.speculative import accept_matching, accept_sampled
from wmtp.models.drafting import join
from wmtp.models.draw import draw_tokens, noise_seed, nucleus_probabilities, uniform
from wmtp.models.encoding import check_embedded, encode_prompt
from wmtp.models.pace import Pace
from wmtp.models.sampling import Completion, Ending, Request, Sampling, stop_at
from wmtp.models.slot_cache import SlotCache, keeps_state
from wmtp.private_names import attention_of


def generate(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    sampling: Sampling,
) -> Iterator[tuple[int, Completion]]:
    """Complete every request; yield (index, completion) as they finish.

    Args:
        model: transformers의 인과 언어모델 (MTPMixin이면 헤드로 초안을 쓸 수 있다).
        tokenizer: 모델의 토크나이저.
        requests: 무엇을 이어 쓸지. 순서는 결과에 영향이 없다.
        sampling: 어떻게 뽑을지.

    Raises:
        ConfigError: 프롬프트가 비었거나 모델의 위치 수보다 길 때. 아무것도 계산하기 전에 알린다.
            또는 배치가 장치의 메모리에 다 들어가지 않을 때.
    """
    requests = list(requests)
    prompts = _encode(model, tokenizer, requests)
    return _Decoder(model, tokenizer, requests, prompts, sampling).run()


def too_long(model: Any, tokenizer: Any, prompts: Iterable[str]) -> dict[str, int]:
    """Find the prompts that leave the model no position for an answer, with their number of tokens.

    [동작] 이런 프롬프트를 `generate`는 거절한다. 평가는 먼저 골라내어 빈 답으로 채점하고 이름을 적어 둔다.
    """
    limit = position_limit(model)
    return {text: len(tokens) for text, tokens in _tokens(model, tokenizer, prompts).items() if len(tokens) >= limit}


def _tokens(model: Any, tokenizer: Any, prompts: Iterable[str]) -> dict[str, list[int]]:
    """Tokenize each different prompt once: many samples share one."""
    tokens = {text: encode_prompt(tokenizer, text) for text in dict.fromkeys(prompts)}
    used, rows = {token for ids in tokens.values() for token in ids}, model.get_input_embeddings().num_embeddings
    check_embedded(used, rows, tokenizer, "the model", "the prompts hold")
    return tokens


def _encode(model: Any, tokenizer: Any, requests: list[Request]) -> list[list[int]]:
    """Tokenize the prompts and refuse those that cannot be continued."""
    encoded = _tokens(model, tokenizer, (request.prompt for request in requests))
    prompts = [encoded[request.prompt] for request in requests]
    limit = position_limit(model)
    for i, request in enumerate(requests):
        if not prompts[i]:
            raise ConfigError(
                f"{request.key}: the prompt is empty and the tokenizer has no BOS token; give it some text."
            )
        if len(prompts[i]) >= limit:
            raise ConfigError(
                f"{request.key}: the prompt has {len(prompts[i])} tokens, but the model has {limit} positions and "
                "needs one for an answer; use a prompt with fewer shots or a model with more positions."
            )
    return prompts


def position_limit(model: Any) -> int:
    """Return how many positions the model can attend over exactly as it was trained."""
    names = ("max_position_embeddings", "n_positions")
    found = [value for name in names if (value := getattr(model.config, name, None))]
    return min(found, default=1 << 30)


@dataclass(eq=False)
class _Row:
    """Hold one request while it is being decoded."""

    index: int
    request: Request
    prompt: list[int]
    noise: int
    budget: int
    stop_window: int
    tokens: list[int] = field(default_factory=list)
    finished: Ending | None = None
    near_ties: int = 0
    blocks: int = 0
    accepted: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.tokens[-1] if self.tokens else self.prompt[-1]

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def position(self) -> int:
        """Position of the last token, the first one not in the cache."""
        return self.length - 1


class _Decoder:
    """Keep a batch full of rows and decode it block by block.

    A block is the last token of each row, then one draft of each extra head (none in ordinary decoding).
    """

    def __init__(self, model, tokenizer, requests, prompts, sampling) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.requests, self.prompts = requests, prompts
        self.limit = position_limit(model)
        self.eos = end_tokens(model, tokenizer)
        # Longest first: memory runs out at once or never, and equal prompts are neighbours.
        self.queue = sorted(range(len(requests)), key=lambda i: (-len(prompts[i]), prompts[i], i), reverse=True)
        self.rows: list[_Row] = []
        self.heads = getattr(model, "heads", 1)
        self.device = model.device
        self.stateful = keeps_state(model.config)
        self.pace = Pace("ordinary" if self.heads == 1 or self.stateful else sampling.decoding, self.device)
        self.resampling = sampling.decoding == "speculative" and sampling.temperature > 0
        self.drafts: Any = None  # Drafts, while there are some
        slots = max((min(len(p) + sampling.max_new_tokens, self.limit) for p in prompts), default=0) + self.heads
        self.cache = SlotCache(min(sampling.batch_size, len(requests)), slots)
        self.drafter: Any = model.drafter(self) if self.pace.drafting else None

    def run(self) -> Iterator[tuple[int, Completion]]:
        was_training, attention = self.model.training, attention_of(self.model)
        self.model.eval()
        # Rows attend to slots through a mask of their own, which flash and flex attention do not take.
        self.model.set_attn_implementation(attention if attention in ("sdpa", "eager") else "sdpa")
        try:
            while self.queue or self.rows:
                # A few rows at a time: one prefill serves them all.
                if self.cache.rows - len(self.rows) >= max(1, self.cache.rows // 4) or not self.rows:
                    self.admit()
                for row in self.step():
                    yield row.index, self.completion(row)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"sampling.batch_size = {self.sampling.batch_size}: {self.cache.rows} rows of {self.cache.slots} "
                f"tokens do not fit into the memory of {self.device} beside the model; lower it. The samples stay the "
                "same, and those that are done are kept."
            ) from error
        finally:
            self.model.train(was_training)
            self.model.set_attn_implementation(attention)

    @torch.inference_mode()
    def admit(self) -> None:
        """Fill free rows with waiting requests; run all of each prompt but its last token, equal prompts once."""
        # A state is that of the newest token, so a row in progress has none to give.
        first, donors = len(self.rows), {} if self.stateful else {tuple(row.prompt): row for row in self.rows}
        fresh, copies = [], []
        drafts = [self.drafts] if first and self.pace.drafting else []
        while self.queue and first + len(fresh) + len(copies) < self.cache.rows:
            row = self.new_row(self.queue.pop())
            donor = donors.setdefault(tuple(row.prompt), row)
            (fresh if donor is row else copies).append(row)
        self.rows += fresh + copies
        if self.stateful:
            self.cache.forget_states(first)
        # Right padding writes into slots that the row's own tokens overwrite before anyone sees them; into a state it
        # would go for good, so that only prompts of one length are read together there.
        for _, group in groupby(fresh, key=lambda row: len(row.prompt) if self.stateful else 0):
            rows = list(group)
            width = max(len(row.prompt) for row in rows) - 1
            if width or not self.stateful:
                self.read_prompts(first, rows, max(1, width))
            first += len(rows)
        if fresh and self.pace.drafting:
            drafts.append(self.drafter.draft(first - len(fresh), fresh))
        for row in copies:
            donor = donors[tuple(row.prompt)]
            self.cache.copy_row(self.rows.index(donor), self.rows.index(row), len(row.prompt) - 1)
            if self.pace.drafting:
                self.drafter.copy(donor, row)
        if copies and self.pace.drafting:
            drafts.append(self.drafter.draft(first, copies))
        if drafts:
            self.drafts = join(drafts)

    def read_prompts(self, first: int, rows: list[_Row], width: int) -> None:
        """Run the prompts of the rows from `first` on, each without its last token."""
        block_NT = self.tensor([row.prompt[:-1] + [0] * (width + 1 - len(row.prompt)) for row in rows])
        with self.caught() as call:
            self.forward(self.model.base_model, first, block_NT, [0] * len(rows))
        if self.pace.drafting:
            self.drafter.read(call, rows, [max(0, len(row.prompt) - 2) for row in rows])

    def new_row(self, i: int) -> _Row:
        request, prompt = self.requests[i], self.prompts[i]
        return _Row(
            index=i,
            request=request,
            prompt=prompt,
            noise=noise_seed(self.sampling.seed, request.key, request.sample),
            budget=min(self.sampling.max_new_tokens, self.limit - len(prompt)),
            # Every token holds at least one byte, so the newest stop string lies within this many tokens.
            stop_window=8 + max((len(stop.encode()) for stop in request.stop), default=0),
            accepted=[0] * (self.heads - 1),
        )

    @torch.inference_mode()
    def step(self) -> list[_Row]:
        """Verify one block of every row; return the rows that finished."""
        rows = self.rows
        block_NT = self.tensor([[row.last] for row in rows])
        if self.pace.next_block_has_drafts():
            block_NT = torch.cat([block_NT, self.drafts.token_NK], dim=1)
        with self.caught() as call:
            logits_NTV = self.forward(self.model, 0, block_NT, [row.position for row in rows]).logits
        accepted, written = self.verify(logits_NTV, block_NT[:, 1:])
        self.pace.block_verified(len(rows), written)
        if self.pace.drafting and not all(row.finished for row in rows):
            self.drafter.read(call, rows, accepted)
            self.drafts = self.drafter.draft(0, rows)
        self.pace.step_ended()
        return self.release()

    def verify(self, logits_NTV: Tensor, draft_NK: Tensor) -> tuple[list[int], int]:
        """Append what head 0 makes of the drafts to every row; return the drafts accepted per row, the tokens written.

        Position t of the block was computed after t drafts, so its token is the one that ordinary decoding draws there
        if they are right: with `accept_matching` the output does not depend on the drafts, greedy or sampled.
        """
        if self.resampling and draft_NK.shape[1]:
            target_NTV = nucleus_probabilities(logits_NTV, self.sampling.temperature, self.sampling.top_p)
            # Counters below 0 are never tokens. Each position is accepted or not once, each block has one last token.
            seed_NT = self.seeds(self.rows, logits_NTV.shape[1])
            uniform_NT = torch.cat([uniform(seed_NT[:, :-1], -1), uniform(seed_NT[:, :1], -2)], dim=1)
            accepted_N, next_N = accept_sampled(draft_NK, self.drafts.prob_NKV, target_NTV, uniform_NT)
            doubtful_N = torch.zeros_like(accepted_N)
        else:
            drawn_NT, sure_NT = self.draw(logits_NTV, self.rows)
            accepted_N, next_N = accept_matching(draft_NK, drawn_NT)
            doubtful_N = sure_NT.long().cumprod(1).sum(1) <= accepted_N
        # The only transfer from the device in a step.
        table = torch.cat([torch.stack([doubtful_N, accepted_N, next_N], dim=1), draft_NK], dim=1).tolist()
        last_accepted, written = [], 0
        for i, (row, (doubtful, accepted, token, *drafts)) in enumerate(zip(self.rows, table, strict=True)):
            if doubtful:
                accepted, token = self.settle(row, drafts, drawn_NT[i].tolist(), sure_NT[i].tolist())
            last_accepted.append(accepted)
            row.blocks += bool(drafts)
            for t, new in enumerate([*drafts[:accepted], token]):
                self.append(row, new)
                written += 1
                if t < accepted:
                    row.accepted[t] += 1
                if row.finished:
                    break
        return last_accepted, written

    def settle(self, row: _Row, drafts: list[int], drawn: list[int], sure: list[bool]) -> tuple[int, int]:
        """Accept drafts again, with near-ties decided by forwards whose shape depends on this row's tokens alone."""
        accepted = 0
        while True:
            token = drawn[accepted] if sure[accepted] else self.redraw(row, drafts[:accepted])
            if accepted == len(drafts) or token != drafts[accepted]:
                return accepted, token
            accepted += 1

    def redraw(self, row: _Row, drafts: list[int]) -> int:
        row.near_ties += 1
        ids_1T = self.tensor([row.prompt + row.tokens + drafts])
        logits_1TV = self.model(ids_1T, use_cache=False, logits_to_keep=1).logits[:, -1:]
        return int(self.draw(logits_1TV, [row], offset=len(drafts))[0])

    def draw(self, logits_NTV: Tensor, rows: Sequence[_Row], offset: int = 0) -> tuple[Tensor, Tensor]:
        """Draw the tokens that follow the rows' tokens."""
        seed_NT = self.seeds(rows, logits_NTV.shape[1], offset)
        return draw_tokens(logits_NTV, seed_NT, self.sampling.temperature, self.sampling.top_p)

    def seeds(self, rows: Sequence[_Row], width: int, offset: int = 0) -> Tensor:
        """Seed the noise of the positions that follow the rows' tokens."""
        return self.tensor([[row.noise + len(row.tokens) + offset + t for t in range(width)] for row in rows])

    def forward(self, module: Any, first: int, block_NT: Tensor, start: list[int]) -> Any:
        """Run a block of tokens of the rows from `first` on, each from its own position."""
        length = max(start) + block_NT.shape[1]
        position_NT = self.tensor(start)[:, None] + self.tensor(range(block_NT.shape[1]))
        self.cache.aim(first, position_NT, length, begins=max(start) == 0)
        return module(
            input_ids=block_NT,
            attention_mask=self.masks(position_NT, length),
            # Drafts past the last position are never accepted, but must not fall off a table of positions.
            position_ids=position_NT.clamp(max=self.limit - 1),
            past_key_values=self.cache,
            use_cache=True,
        )

    def masks(self, position_NT: Tensor, length: int) -> Tensor | dict[str, Tensor | None]:
        """Return the mask of every kind of layers where there are several, else that of the only kind."""
        masks = self.masks_of_kinds(position_NT, length)
        kinds = getattr(self.model.config, "layer_types", None) or ()
        if self.stateful or (kinds and len(masks) > 1):
            return {kind: None for kind in kinds} | masks
        return masks["sliding_attention" if len(masks) > 1 else "full_attention"]

    def masks_of_kinds(self, position_NT: Tensor, length: int) -> dict[str, Tensor]:
        """Let a position see the slots up to its own; in layers with a window (Mistral, Gemma) only the last ones."""
        config, dtype = self.model.config, self.model.dtype
        slot_S, position_N1T1 = torch.arange(length, device=self.device), position_NT[:, None, :, None]
        window = getattr(config, "sliding_window", None)
        unseen = {"full_attention": slot_S > position_N1T1}
        if window:
            unseen["sliding_attention"] = unseen["full_attention"] | (slot_S <= position_N1T1 - window)
        return {kind: unseen_N1TS.to(dtype) * torch.finfo(dtype).min for kind, unseen_N1TS in unseen.items()}

    def caught(self) -> AbstractContextManager[dict[str, Any]]:
        """Catch what the extra heads will need to draft, where they are to."""
        return self.model.trunk_call() if self.pace.drafting else nullcontext({})

    def append(self, row: _Row, token: int) -> None:
        """Add a token and see whether it ends the row."""
        row.tokens.append(token)
        if token in self.eos:
            row.finished = "eos"
        elif row.request.stop and self.meets_stop(row):
            row.finished = "stop"
        elif len(row.tokens) == row.budget:
            row.finished = "length"

    def meets_stop(self, row: _Row) -> bool:
        """Look for a stop string that the newest token completes."""
        tail = self.tokenizer.decode(row.tokens[-row.stop_window :], skip_special_tokens=True)
        return any(stop in tail for stop in row.request.stop) and stop_at(self.text(row), row.request.stop) >= 0

    def text(self, row: _Row) -> str:
        """Decode after the end of the prompt, because some tokenizers drop a space at the very beginning."""
        context = row.prompt[-4:]
        tokens = row.tokens[:-1] if row.finished == "eos" else row.tokens
        decode = self.tokenizer.decode
        return decode(context + tokens, skip_special_tokens=True)[len(decode(context, skip_special_tokens=True)) :]

    def release(self) -> list[_Row]:
        """Take finished rows out; the last row moves into the gap, so that live rows stay together."""
        finished = [row for row in self.rows if row.finished]
        order = list(range(len(self.rows)))
        for row in finished:
            gap, last, source = self.rows.index(row), self.rows.pop(), order.pop()
            if last is not row:
                self.rows[gap], order[gap] = last, source
                self.cache.copy_row(len(self.rows), gap, last.position)
        if finished and self.pace.drafting:
            self.drafts = self.drafts.select(order)
        return finished

    def completion(self, row: _Row) -> Completion:
        assert row.finished is not None, "a row that is still being decoded is no completion"
        text = self.text(row)
        cut = stop_at(text, row.request.stop)
        text = text if cut < 0 else text[:cut]
        return Completion(
            key=row.request.key,
            sample=row.request.sample,
            text=text,
            tokens=tuple(row.tokens),
            finished=row.finished,
            near_ties=row.near_ties,
            blocks=row.blocks,
            accepted=tuple(row.accepted),
        )

    def tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, device=self.device)


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Collect the tokens at which a model stops, from the tokenizer and from the model's generation config."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = ids if isinstance(ids, list) else [ids]
    return {i for i in [*ids, tokenizer.eos_token_id] if i is not None}
