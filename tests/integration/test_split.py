"""A run that is cut into finer pieces on the way takes the steps that it would have taken."""

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from training import last_checkpoint

from tests.tiny import tiny_model
from tests.tolerance import distance, in_float64, relative_rounding, terms_of
from wmtp.algos.baseline import Baseline
from wmtp.cli import build
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.train import train

# Muon orthogonalises in bfloat16, by five steps of three products, where float32 rounding may tip a value.
MUON_PRODUCTS = 15
COMMON = ["data.train_size=30", "trainer.max_steps=6", "eval.before=false", "eval.after=false"]


class Watch(Callback):
    """Write down the samples of every step, and stop after some step."""

    steps: dict[int, list[str]] = {}

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.steps.setdefault(trainer.global_step, []).extend(batch["problem_ids"])

    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop = trainer.global_step == self.stop and not trainer.fit_loop._should_accumulate()


@pytest.mark.parametrize("stops", [[(1, 2), (2, 4), (4, 6)], [(2, 3), (1, 6)]], ids=["finer", "coarser"])
def test_lightning_goes_on_with_another_cut_at_the_very_next_sample(stops, tokenizer, tmp_path):
    def run(stops):
        steps, checkpoint = {}, None
        for pieces, stop in stops:
            model = tiny_model().double()
            source = Synthetic(train_size=30, validation_size=4, test_size=0)
            data = MTPDataModule(source, Synthetic0Shot(), tokenizer, token_budget=640, pieces=pieces)
            watch = Watch(stop)
            watch.steps = steps
            trainer = Trainer(
                accelerator="cpu", precision="64-true", max_steps=6, max_epochs=-1, logger=False, callbacks=[watch],
                accumulate_grad_batches=2 * pieces, limit_val_batches=0, enable_progress_bar=False,
                enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
            )  # fmt: skip
            start = {name: value.clone() for name, value in model.state_dict().items()}
            algo = Baseline(model, lambda model: torch.optim.SGD(model.parameters(), lr=0.3), warmup=0.0)
            trainer.fit(algo, data, ckpt_path=checkpoint, weights_only=True)
            checkpoint = tmp_path / f"{len(stops)}-{stop}.ckpt"
            trainer.save_checkpoint(checkpoint)
        return steps, model.state_dict(), start

    with in_float64():
        steps, weights, start = run(stops)
        whole, whole_weights, _ = run([(1, 6)])
    assert list(steps) == [*range(6)] and steps == whole
    rounding = relative_rounding(terms_of(tiny_model(), positions=640), torch.float64)
    assert distance(weights, whole_weights, start) <= rounding


@pytest.mark.slow
def test_a_run_goes_on_with_finer_pieces_at_the_very_next_sample(config, tmp_path, capfd):
    def run(name, pieces, stop, *more):
        Watch.steps = {}
        watch = f"+callbacks.watch={{_target_: {Watch.__module__}.Watch, stop: {stop}}}"
        cut = [f"data.pieces={pieces}", f"trainer.accumulate_grad_batches={2 * pieces}"]
        train(config(*COMMON, *cut, f"name={name}", watch, *more))
        return Watch.steps

    whole = run("whole", pieces=1, stop=6)
    assert len(whole) == 6 and len({tuple(sorted(names)) for names in whole.values()}) == 6
    cut = [
        run("cut", pieces, stop, *more) for pieces, stop, *more in [(1, 2), (2, 4, "ckpt=last"), (4, 6, "ckpt=last")]
    ]
    assert [list(steps) for steps in cut] == [[0, 1], [2, 3], [4, 5]]
    assert cut[0] | cut[1] | cut[2] == whole
    assert "planned anew" not in capfd.readouterr().err
    start = {f"model.{name}": value for name, value in build(config().model).load().state_dict().items()}
    ended = [last_checkpoint(tmp_path / "runs" / name)["state_dict"] for name in ("cut", "whole")]
    assert distance(*ended, start) <= relative_rounding(MUON_PRODUCTS, torch.bfloat16)
