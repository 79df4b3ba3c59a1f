"""Take the model out of training, however it is spread: to run programs with it, or to keep it.

[동작] 나눈 모델은 조각을 모아 0번 랭크의 메모리에 보통 모델 하나를 만든다. 나누지 않은 모델은 그대로 쓴다.
    모으는 일에는 모든 랭크가 필요하므로, 여기 함수들은 모든 랭크가 부른다.
[디버깅] 0번 랭크가 오래 걸려도 나머지는 기다린다 (한도 없음). 0번이 죽으면 나머지도 연결이 끊겨 끝난다.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from wmtp.models.mtp import MTPMixin
from wmtp.ranks.sharding import whole


@contextmanager
def whole_model(trainer: Any, algo: Any) -> Iterator[MTPMixin | None]:
    """Give the first rank the whole model; let the others wait until it is done with it.

    Yields:
        0번 랭크에서는 모델, 나머지에서는 None.
    """
    model = whole(algo.model)
    with _others_wait():
        yield model if trainer.is_global_zero else None


@contextmanager
def _others_wait() -> Iterator[None]:
    """Meet at the end, with all the patience that the first rank's work may need."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    try:
        yield
        dist.barrier(patient)
    finally:
        dist.destroy_process_group(patient)
