"""Share the problems of an evaluation between processes: nothing twice, nothing left out.

[연구 맥락] n=200 표본은 한 장치로 며칠이 걸린다. 표본의 씨앗은 (문제, 표본)으로만 정해지므로 (generation.py)
    누가 만들어도 같은 표본이 나온다. 그래서 나누어 만들고 모으기만 하면 된다.
[동작] `torchrun --nproc-per-node N -m wmtp.eval …`로 시작한 프로세스들이 gloo로 만난다.
    주고받는 것은 할 일의 목록뿐이고, 표본은 파일로 모은다. 여러 컴퓨터라면 결과 폴더를 함께 볼 수 있어야 한다.
    표본 파일의 채점은 만나지 않고 나눈다 (shares.py): 여기서는 코어만 나눈다.
[디버깅] 한 프로세스가 죽으면 torchrun이 나머지도 끝낸다. 같은 명령을 다시 하면 이어서 간다.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from wmtp.evaluation.journal import Key
from wmtp.evaluation.sandbox.pool import usable_cores
from wmtp.ranks.meeting import agree


@dataclass(frozen=True)
class Ranks:
    """Say which of how many processes this one is; alone by default.

    Attributes:
        rank: 이 프로세스의 번호. 0이 모으고 채점한다.
        local: 이 컴퓨터 안에서의 번호 (장치의 번호).
        beside: 이 컴퓨터의 프로세스 수, 자신까지.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    beside: int = 1

    def workers(self, judging_alone: bool) -> int | None:
        """Say how many programs this process may run at once: its part of the cores, None for all of them."""
        if judging_alone or self.beside == 1:
            return None
        return max(1, usable_cores() // self.beside)

    def share(self, keys: Sequence[Key]) -> list[Key]:
        """Hand out the first rank's list; the samples of a problem stay together, because they share its prompt.

        Args:
            keys: 0번의 목록만 쓰인다. 나머지 프로세스는 그것을 받는다.
        """
        # Alone there is nobody to agree with: while one rank of a training evaluates, the others wait elsewhere.
        keys = agree(lambda: list(keys)) if self.world > 1 else list(keys)
        mine = set(list(dict.fromkeys(task_id for task_id, _ in keys))[self.rank :: self.world])
        return [key for key in keys if key[0] in mine]

    def wait(self) -> None:
        """Wait until every rank has come here."""
        if self.world > 1:
            dist.barrier()


def launched() -> Ranks:
    """Say which of the processes that torchrun started on this machine this one is, without meeting the others."""
    names = {"rank": "RANK", "world": "WORLD_SIZE", "local": "LOCAL_RANK", "beside": "LOCAL_WORLD_SIZE"}
    started = dist.is_torchelastic_launched()
    return Ranks(**{field: int(os.environ[name]) for field, name in names.items()}) if started else Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started; without torchrun there is only this one."""
    if not dist.is_torchelastic_launched():
        yield Ranks()
        return
    # A rank may wait for another as long as that one still generates.
    dist.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield launched()
    finally:
        dist.destroy_process_group()
