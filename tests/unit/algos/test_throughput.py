"""What all ranks do is counted once, whatever each of them got."""

from types import SimpleNamespace

import torch

from tests.tiny import tiny_model
from wmtp.callbacks.throughput import Throughput
from wmtp.data.batching import collate
from wmtp.data.tokenization import TokenizedSample
from wmtp.maths.alignment import target_mask


def sample(length):
    return TokenizedSample(str(length), (7,) * length, 1, (False,) * length)


def test_two_ranks_of_different_batches_are_added_up(monkeypatch):
    parts = [sample(8)] * 4, [sample(8), sample(2)]  # 32 of 32 positions are real tokens, and 10 of 16
    targets = sum(one.targets for part in parts for one in part)
    tables, others = [], [torch.zeros(4, dtype=torch.float64)]
    monkeypatch.setattr("time.monotonic", iter(range(100)).__next__)  # a second between two looks
    for rank in (1, 0):  # the other one first, for what it adds

        def reduce(mine_4, reduce_op):
            assert reduce_op == "sum"
            others.append(mine_4)
            return sum(others)

        trainer = SimpleNamespace(
            world_size=2,
            strategy=SimpleNamespace(reduce=reduce),
            fit_loop=SimpleNamespace(_should_accumulate=lambda: False),
            _logger_connector=SimpleNamespace(should_update_logs=True),
        )
        batch = collate(parts[rank], targets, 0)
        module = SimpleNamespace(
            model=tiny_model(),
            device=torch.device("cpu"),
            last_step={"batch": batch, "mask_BT": target_mask(batch["labels_BT"])},
            log_dict=lambda table, **_: tables.append(table),
        )
        callback = Throughput()
        callback.on_train_start(trainer, module)
        callback.on_train_batch_end(trainer, module)
    together = tables[-1]
    assert together["speed/real_token_share"] == (32 + 10) / (32 + 16)
    assert together["speed/tokens_per_second"] == 42
    assert together["speed/target_tokens_per_second"] == targets == 4 * 7 + 7 + 1
    assert together["speed/steps_per_second"] == 1
