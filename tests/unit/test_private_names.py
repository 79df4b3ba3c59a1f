"""Hold that every private name of a library that wmtp touches is still there, and that no other file touches one."""

import ast
import inspect
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from tests.tiny import tiny_model
from wmtp.private_names import attention_of, one_sequence_in_each_row, readings

ROOT = Path(__file__).resolve().parents[2]


def test_the_private_names_of_lightning_and_torch_exist():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert inspect.ismethod(trainer._signal_connector.register_signal_handlers)
    assert inspect.ismethod(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
    assert inspect.ismethod(trainer.fit_loop._should_accumulate)
    assert isinstance(type(trainer._logger_connector).should_update_logs, property)
    weight = torch.nn.Parameter(torch.ones(1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([weight], lr=0.5), lambda step: 1.0)
    assert scheduler._last_lr == scheduler.get_last_lr() == [0.5]

    assert isinstance(torch.ones(1).untyped_storage()._cdata, int)
    assert "_step_supports_amp_scaling" in inspect.getsource(torch.amp.GradScaler.step)
    assert inspect.isroutine(torch._assert_async)
    progress = trainer.fit_loop.epoch_loop.batch_progress
    assert (
        vars(progress.current).keys() == {"ready", "started", "processed", "completed"} == vars(progress.total).keys()
    )


def test_the_private_names_of_transformers_exist_and_are_as_they_were_after_a_look_away():
    model = tiny_model()
    assert attention_of(model) == "sdpa"
    before = [getattr(where, name) for where, name, _ in readings()]  # raises where one is gone
    with one_sequence_in_each_row():
        answers = [getattr(where, name) for where, name, _ in readings()]
    assert [getattr(where, name) for where, name, _ in readings()] == before
    assert not set(map(id, answers)) & set(map(id, before))
    for real, (_, _, answer) in zip(before, readings(), strict=True):  # and are called as the answers are
        inspect.signature(real).bind(*inspect.signature(answer).parameters)


def test_no_other_file_touches_a_private_name_of_somebody_else():
    touched = []
    for room in (
        "algos",
        "callbacks",
        "checkpoints",
        "critic",
        "data",
        "maths",
        "models",
        "ranks",
        "reporting",
        "run",
        "storage",
    ):
        for file in sorted((ROOT / "wmtp" / room).rglob("*.py")):
            nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
            attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
            own = {node.attr for node in attributes if ast.unparse(node.value) in ("self", "cls")}
            own |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
            own |= {ast.unparse(node.target) for node in nodes if isinstance(node, ast.AnnAssign)}
            names = {node.attr for node in attributes if node.attr.startswith("_") and not node.attr.startswith("__")}
            touched += [f"{file.relative_to(ROOT)}: {name}" for name in sorted(names - own)]
    assert touched == ["wmtp/maths/loss.py: _assert_async"]  # maths imports nothing but torch
