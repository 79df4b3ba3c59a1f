"""Touch what libraries keep to themselves, here and nowhere else.

[연구 맥락] 밑줄로 시작하는 이름은 다음 판(version)에서 말없이 사라질 수 있다. 흩어져 있으면 무엇이 깨졌는지
    찾기 어렵다.
[동작] 이름 하나에 함수 하나. 왜 공개된 길로는 안 되는지 적는다. 돌려 본 판: pytorch-lightning 2.6.6, torch 2.13.0,
    transformers 5.23.0. `torch._assert_async`만은 maths/loss.py에 있다: maths는 torch 말고는 아무것도 부르지 않는다.
[디버깅] 이름이 사라지면 tests/unit/test_private_names.py가 그 이름을 말하며 실패한다.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
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


def set_last_rates(scheduler: Any, rates: list[float]) -> None:
    """Say which rates a scheduler set last; `get_last_lr` gives them, nothing sets them."""
    scheduler._last_lr = rates


def number_of(storage: Any) -> int:
    """Tell storages apart, also those without memory of their own, whose address is 0."""
    return storage._cdata


def count_again(trainer: Any, position: int, finer: Any) -> None:
    """Make Lightning's count of micro-batches, by which it takes steps and validates, fit the loader's place.

    Args:
        trainer: 체크포인트를 읽은 Trainer.
        position: 이 에폭에서 이 랭크가 이미 내준 조각의 수.
        finer: 체크포인트를 쓸 때보다 조각이 몇 배로 잘게 되었는지.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    for count, ready in ((progress.current, position), (progress.total, round(progress.total.ready * finer))):
        # The other counters are as far behind as they were: by that Lightning knows where in a step it stopped.
        behind = {name: count.ready - value for name, value in vars(count).items()}
        count.load_state_dict({name: ready - late for name, late in behind.items()})


def let_lightning_unscale(optimizer: Any) -> None:
    """Keep a fused step from unscaling float16 gradients itself: Lightning would refuse to clip them."""
    optimizer._step_supports_amp_scaling = False


def attention_of(model: Any) -> str:
    """Name the attention that a transformers model uses; `set_attn_implementation` sets it, nothing public tells it."""
    return model.config._attn_implementation


def take_apart(converters: list[Any], config: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Undo conversions (experts in one tensor, …) of tensors that are no whole model's, for which nothing public is."""
    from transformers.core_model_loading import revert_weight_conversion  # slow, for callbacks

    part = SimpleNamespace(_weight_conversions=converters, config=config)
    return revert_weight_conversion(part, tensors) if converters else tensors


def readings() -> list[tuple[Any, str, Callable[..., Any]]]:
    """List what transformers reads off tokens and positions (where, name), and the answer for rows of one sequence.

    A mask for packed sequences, flash attention's own look at a single row, GPT-2's warning that padding is seen.
    """
    from transformers import PreTrainedModel, masking_utils, modeling_flash_attention_utils  # slow, for callbacks

    return [
        (masking_utils, "find_packed_sequence_indices", lambda position_ids: None),
        (modeling_flash_attention_utils, "_is_packed_sequence", lambda position_ids, batch_size: False),
        (PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda self, input_ids, attention_mask: None),
    ]


@contextmanager
def one_sequence_in_each_row() -> Iterator[None]:
    """Tell transformers what it would otherwise read from the device, for which the host waits."""
    with ExitStack() as stack:
        for where, name, answer in readings():
            if hasattr(where, name):  # another version of transformers may wait, and that is all
                stack.callback(setattr, where, name, getattr(where, name))
                setattr(where, name, answer)
        yield
