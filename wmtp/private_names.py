"""Touch what libraries keep to themselves, here and nowhere else.

[연구 맥락] 밑줄로 시작하는 이름은 다음 판(version)에서 말없이 사라질 수 있다. 흩어져 있으면 무엇이 깨졌는지
    찾기 어렵다.
[동작] 이름 하나에 함수 하나. 왜 공개된 길로는 안 되는지 적는다. 돌려 본 판: pytorch-lightning 2.6.6, torch 2.13.0.
[디버깅] 이름이 사라지면 tests/unit/test_private_names.py가 그 이름을 말하며 실패한다.
"""

from typing import Any


def leave_signals_alone(trainer: Any) -> None:
    """Keep Lightning from handling SIGTERM: it broadcasts inside the handler, and all ranks wait every micro-batch."""
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def step_goes_on(trainer: Any) -> bool:
    """Say whether more micro-batches of this step follow; no public counter knows of the last batch of an epoch."""
    return trainer.fit_loop._should_accumulate()


def logs_this_step(trainer: Any) -> bool:
    """Say whether this is a logging step; the public count is taken a moment later."""
    return trainer._logger_connector.should_update_logs


def scale_last_rates(scheduler: Any, ratio: float) -> None:
    """Scale the rates that a scheduler says it set last; `get_last_lr` gives them, nothing sets them."""
    scheduler._last_lr = [rate * ratio for rate in scheduler._last_lr]


def number_of(storage: Any) -> int:
    """Tell storages apart, also those without memory of their own, whose address is 0."""
    return storage._cdata
