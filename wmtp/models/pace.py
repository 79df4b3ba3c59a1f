"""Decide whether self-speculative decoding pays on this machine."""

import time

import torch


class Pace:
    """Decide whether blocks carry drafts, by what they cost and bring on this machine.

    [연구 맥락] 초안은 검증할 토큰을 늘린다. 배치가 작으면 거의 공짜지만, 배치가 크면 계산이 그만큼 늘어난다. 그래서
        잰다.
        결과는 어느 쪽이든 같으므로 시간을 재어 정해도 재현성을 해치지 않는다.
    [동작] auto는 처음 몇 블록을 번갈아 해 보고, 그 뒤로는 초안이 벌어 주는 토큰이 비용보다 적으면 그만둔다.

    Args:
        decoding: "auto", "ordinary", "speculative".
        device: 모델이 있는 장치.
    """

    TRIAL = 10  # blocks with and without drafts in turn; the first of each kind warms up and is not counted

    def __init__(self, decoding: str, device: torch.device) -> None:
        self.device = device
        self.drafting = decoding != "ordinary"
        self.measuring = decoding == "auto"
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.rows_verified, self.written = 0.0, 0.0

    def next_block_has_drafts(self) -> bool:
        """Start the clock of a block and say whether it carries drafts."""
        trial = sum(map(len, self.seconds.values()))
        self.with_drafts = self.drafting and not (self.measuring and trial < self.TRIAL and trial % 2)
        self.started = self.clock()
        return self.with_drafts

    def block_verified(self, rows: int, written: int) -> None:
        """Note the tokens that the block brought; without drafts, its clock stops here."""
        if self.with_drafts:
            # A running mean over about 20 blocks.
            self.rows_verified = 0.95 * self.rows_verified + rows
            self.written = 0.95 * self.written + written
        self.elapsed = None if self.with_drafts else self.clock() - self.started

    def step_ended(self) -> None:
        """Stop drafting if ordinary decoding would have been faster."""
        if not (self.measuring and self.drafting):
            return
        if sum(map(len, self.seconds.values())) < self.TRIAL:
            self.seconds[self.with_drafts].append(self.elapsed or self.clock() - self.started)
        else:
            cost = min(self.seconds[True][1:]) / min(self.seconds[False][1:])
            self.drafting = self.written / self.rows_verified > 1.05 * cost

    def clock(self) -> float:
        """Read the thread's own time, so that a busy machine decides nothing; on an accelerator the time it is done."""
        if self.device.type == "cpu":
            return time.thread_time()
        if self.measuring:
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()
