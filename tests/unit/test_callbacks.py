"""Hold the promises of wmtp/callbacks on a real, very small training run."""

import contextlib
import copy
import io
import json
import math
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Callback, Trainer

from tests.tiny import InMemory, tiny_model
from tests.tolerance import relative_rounding, terms_of
from wmtp.algos.baseline import Baseline
from wmtp.algos.rho1 import Rho1
from wmtp.callbacks import throughput
from wmtp.callbacks.progress import TrainingProgress
from wmtp.callbacks.throughput import Throughput
from wmtp.callbacks.token_errors import TokenErrors, kinds_of_targets
from wmtp.callbacks.token_ranking import TokenRanking, rank
from wmtp.callbacks.token_weights import TokenWeights, text_pieces
from wmtp.callbacks.weight_histogram import WeightHistogram, count_in_bins
from wmtp.callbacks.weight_statistics import WeightStatistics, clip_bounds, corruption_statistics, weight_statistics
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.maths.weighting import SoftWeighting
from wmtp.models.flops import step_flops
from wmtp.models.loading import load_model
from wmtp.run.metrics_csv import MetricsCSV


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def rho1():
    return Rho1(tiny_model(), InMemory(tiny_model(seed=43)), weighting=SoftWeighting(lam=1.0), optimizer=sgd)


def train(run_dir, algo, tokenizer, callbacks, pieces=1, token_budget=1024, **kwargs):
    source = Synthetic(train_size=60, validation_size=4, test_size=0, noise=0.5)
    data = MTPDataModule(source, Synthetic0Shot(), tokenizer, token_budget=token_budget, pieces=pieces)
    defaults = dict(max_steps=6, log_every_n_steps=2, limit_val_batches=1, val_check_interval=3)
    trainer = Trainer(
        accelerator="cpu", default_root_dir=run_dir, logger=[MetricsCSV(run_dir)], callbacks=callbacks,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, **{**defaults, **kwargs},
    )  # fmt: skip
    trainer.fit(algo, data)
    return trainer


class Steps(Callback):
    """Keep what every micro-batch left for the callbacks."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append((trainer.train_dataloader.epoch, pl_module.last_step))


class Terminal(io.StringIO):
    """Take what is shown as a terminal would."""

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    """Train rho1 for six steps with every callback."""
    run_dir = tmp_path_factory.mktemp("run")
    bar = TrainingProgress()
    bar.pass_at_1_before = 0.125
    histogram = WeightHistogram(run_dir)
    algo = rho1()
    ranking, steps = TokenRanking(run_dir, least=3), Steps()
    watching = [WeightStatistics(), histogram, ranking, Throughput(), TokenWeights(run_dir), bar, steps]
    screen = Terminal()
    with contextlib.redirect_stderr(screen):
        train(run_dir, algo, tokenizer, watching, token_budget=2048)
    return {"dir": run_dir, "screen": screen.getvalue(), "histogram": histogram, "ranking": ranking, "steps": steps}


LOGGED = 4 * torch.finfo(torch.float32).eps  # weights, and what Lightning logs, are rounded to float32
SHOWN = 1e-4  # to four places


def rows(run_dir):
    import csv

    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# ---- the maths ----


def test_weight_statistics_are_those_of_numpy_on_the_valid_tokens():
    generator = torch.Generator().manual_seed(42)
    weight = torch.rand(7, 31, generator=generator) * 3
    mask = torch.rand(7, 31, generator=generator) < 0.6
    got = {key: value.item() for key, value in weight_statistics(weight, mask, bounds=(0.5, 2.5)).items()}
    valid = weight[mask].double().numpy()
    assert got["mean"] == pytest.approx(valid.mean())
    for key, q in (("min", 0), ("p25", 25), ("p75", 75), ("p95", 95), ("max", 100)):
        assert got[key] == pytest.approx(np.percentile(valid, q))
    assert got["ess"] == pytest.approx(valid.sum() ** 2 / (valid**2).sum() / valid.size)
    assert got["at_floor"] == pytest.approx((valid <= 0.5001).mean())
    assert got["at_ceiling"] == pytest.approx((valid >= 2.4999).mean())


def test_statistics_of_a_few_tokens_are_those_worked_out_by_hand():
    # Five target tokens and one that is none; two of them are not finite and belong to no other number.
    weight = torch.tensor([[0.5, 1.0, 6.5], [torch.nan, torch.inf, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    got = {key: value.item() for key, value in weight_statistics(weight, mask, bounds=(0.5, 6.5)).items()}
    by_hand = {
        "mean": 8 / 3, "min": 0.5, "p25": 0.75, "p75": 3.75, "p95": 5.95, "max": 6.5,
        "ess": 8**2 / (3 * (0.25 + 1 + 42.25)), "nan_weights": 2, "extreme_weights": 1 / 3, "rho1_usage_ratio": 1 / 3,
        "at_floor": 1 / 3, "at_ceiling": 1 / 3,
    }  # fmt: skip
    assert got == pytest.approx(by_hand, abs=1e-12)


def test_equal_weights_count_as_a_full_effective_sample():
    assert weight_statistics(torch.ones(1, 9), torch.ones(1, 9, dtype=torch.bool))["ess"] == 1


def test_no_target_token_gives_nan_and_no_error():
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    statistics = weight_statistics(torch.ones(1, 3), nothing)
    assert statistics.pop("nan_weights") == 0
    assert all(math.isnan(value) for value in statistics.values())
    assert all(
        math.isnan(v) for v in corruption_statistics(torch.ones(1, 3), torch.ones(1, 3), nothing, nothing).values()
    )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_where_the_clean_token_scores_higher(tokens):
    score = torch.tensor([[float(s) for s, _, _ in tokens]])
    noise = torch.tensor([[n for _, n, _ in tokens]])
    mask = torch.tensor([[m for _, _, m in tokens]])
    got = corruption_statistics(score, score, mask, noise)["auc"].item()
    bad = [s for s, n, m in tokens if n and m]
    good = [s for s, n, m in tokens if not n and m]
    pairs = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    assert math.isnan(got) if not pairs else got == pytest.approx(sum(pairs) / len(pairs))


def test_clip_bounds_are_those_after_the_blend():
    assert clip_bounds(SoftWeighting(lam=0.5, epsilon=0.1, w_max=3.0)) == pytest.approx((0.55, 2.0))
    assert clip_bounds(SoftWeighting(lam={0: 0, 1: 1}, epsilon=0.1, w_max=3.0), 0.5) == pytest.approx((0.55, 2.0))
    assert clip_bounds(None) is None


def test_no_token_is_ranked_both_heavy_and_light_and_rare_ones_are_not_ranked():
    total = torch.tensor([[9.0, 1.0, 4.0, 6.0, 0.0], [1.0, 4.0, 2.0, 6.0, 0.0]])
    assert rank(total, least=2, top=9) == ([(2, 2.0, 2), (3, 1.0, 6)], [(1, 0.25, 4)])
    assert rank(total, least=99, top=9) == ([], [])


def test_every_target_token_falls_into_exactly_one_bin():
    generator = torch.Generator().manual_seed(42)
    weight, mask = torch.rand(4, 50, generator=generator) * 9, torch.rand(4, 50, generator=generator) < 0.5
    count = torch.zeros(2, 10)
    count_in_bins(count, weight, mask, None, upper=4.0)
    assert count[0].sum() == mask.sum() and count[1].sum() == 0
    assert count[0, -1] == (weight[mask] >= 3.6).sum()


# ---- on a run ----


def test_weight_statistics_are_logged_at_logging_steps_only(run):
    logged = [int(row["step"]) for row in rows(run["dir"]) if row["weight/mean"]]
    assert logged == [1, 3, 5]
    row = next(row for row in rows(run["dir"]) if row["weight/mean"])
    assert float(row["weight/mean"]) == pytest.approx(1, rel=LOGGED)
    for key in ("min", "max", "p25", "p75", "p95", "ess", "at_floor", "at_ceiling", "corrupted_mean", "auc"):
        assert math.isfinite(float(row[f"weight/{key}"])), key
    assert float(row["weight/nan_weights"]) == float(row["weight/extreme_weights"]) == 0
    assert 0 < float(row["weight/rho1_usage_ratio"]) < 1
    step = run["steps"].seen[1][1]
    mean = step["score_BT"][step["mask_BT"]].double().mean().item()
    assert float(row["weight/rho1_excess_mean"]) == pytest.approx(mean, rel=LOGGED)
    assert "weight/critic_delta_mean" not in row


def test_statistics_are_those_of_all_pieces_of_a_step_and_a_delta_gets_its_mean(tmp_path, tokenizer):
    algo, steps = rho1(), Steps()
    algo.score_name = "delta"
    kwargs = dict(max_steps=1, log_every_n_steps=1, accumulate_grad_batches=4)
    train(tmp_path, algo, tokenizer, [WeightStatistics(), steps], pieces=2, **kwargs)
    assert len(steps.seen) == 4
    weight, score = (
        torch.cat([step[key][step["mask_BT"]] for _, step in steps.seen]).double() for key in ("weight_BT", "score_BT")
    )
    (row,) = (row for row in rows(tmp_path) if row["weight/mean"])
    assert float(row["weight/p95"]) == pytest.approx(weight.quantile(0.95).item(), rel=LOGGED)
    assert float(row["weight/rho1_usage_ratio"]) == pytest.approx((weight > 1.0001).double().mean().item(), rel=LOGGED)
    assert float(row["weight/critic_delta_mean"]) == pytest.approx(score.mean().item(), rel=LOGGED)


def test_speed_is_logged_and_padding_is_not_counted(run):
    row = next(row for row in rows(run["dir"]) if row["speed/tokens_per_second"])
    assert 0 < float(row["speed/target_tokens_per_second"]) < float(row["speed/tokens_per_second"])
    assert 0.5 < float(row["speed/real_token_share"]) <= 1


def test_model_flops_are_logged_and_their_share_of_the_peak_where_the_device_is_known(run, tmp_path, tokenizer):
    assert not any("speed/mfu" in row for row in rows(run["dir"]))
    algo, steps = rho1(), Steps()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "name_of", lambda device: "NVIDIA H200")
        train(tmp_path, algo, tokenizer, [Throughput(), steps], max_steps=1, log_every_n_steps=1)
    (row,) = (row for row in rows(tmp_path) if row["speed/mfu"])
    flops, (_, step) = step_flops(algo.model), steps.seen[0]
    lengths, mask = torch.tensor(step["batch"]["lengths"]), step["mask_BT"]
    predictions = mask.sum() + mask[:, 2:].sum()  # of head 0, and of head 1, two places ahead
    whole = flops.per_token * lengths.sum() + flops.per_pair * (lengths**2).sum() + flops.per_prediction * predictions
    per_second = float(row["speed/model_flops_per_second"])
    assert per_second / float(row["speed/steps_per_second"]) == pytest.approx(float(whole), rel=LOGGED)
    assert float(row["speed/mfu"]) == pytest.approx(per_second / 989e12, rel=LOGGED)


def test_the_histogram_holds_every_target_token_of_the_run_and_survives_a_checkpoint(run):
    histogram = json.loads((run["dir"] / "weight_histogram.json").read_text())
    assert len(histogram["clean"]) == 200 and sum(histogram["corrupted"]) > 0
    total = sum(histogram["clean"]) + sum(histogram["corrupted"])
    assert total == sum(int(step["mask_BT"].sum()) for _, step in run["steps"].seen) > 100
    resumed = WeightHistogram(run["dir"])
    resumed.load_state_dict(run["histogram"].state_dict())
    assert sum(count.sum() for count in resumed._counts.values()) == total


def test_the_histogram_has_one_for_every_epoch_and_they_add_up(run):
    histogram = json.loads((run["dir"] / "weight_histogram.json").read_text())
    epochs = sorted({epoch for epoch, _ in run["steps"].seen})
    assert [one["epoch"] for one in histogram["epochs"]] == epochs == [0, 1]
    for kind in ("clean", "corrupted"):
        assert np.sum([one[kind] for one in histogram["epochs"]], axis=0).tolist() == histogram[kind]
    first = sum(int(step["mask_BT"].sum()) for epoch, step in run["steps"].seen if epoch == 0)
    assert sum(histogram["epochs"][0]["clean"]) + sum(histogram["epochs"][0]["corrupted"]) == first


def test_the_ranking_names_the_tokens_that_weigh_most_and_least_on_average(run, tokenizer):
    ranking = json.loads((run["dir"] / "token_ranking.json").read_text())
    weights = {}
    for _, step in run["steps"].seen:
        mask = step["mask_BT"]
        for token, weight in zip(step["batch"]["input_ids_BT"][mask], step["weight_BT"][mask], strict=True):
            weights.setdefault(int(token), []).append(float(weight))
    means = {token: (np.mean(some), len(some)) for token, some in weights.items() if len(some) >= 3}
    by_weight = sorted(means, key=lambda token: means[token][0])
    for row, token in [(ranking["heaviest"][0], by_weight[-1]), (ranking["lightest"][0], by_weight[0])]:
        assert row["text"] == tokenizer.decode([token])
        assert (row["weight"], row["count"]) == (pytest.approx(means[token][0], abs=SHOWN), means[token][1])
    resumed = TokenRanking(run["dir"])
    resumed.load_state_dict(run["ranking"].state_dict())
    assert torch.equal(resumed._total_2V, run["ranking"]._total_2V)


def test_token_weights_spell_the_sample_and_are_kept_from_start_and_end(run, tokenizer):
    samples = json.loads((run["dir"] / "token_weights.json").read_text())["samples"]
    assert len(samples) == 6 and any(samples[0]["noise"])
    problems = {p.task_id: p for p in Synthetic(train_size=60, noise=0.5).problems("train")}
    for sample in samples:
        text = "".join(sample["pieces"])
        assert problems[sample["problem_id"]].solutions[0] in text
        for stage in ("start", "end"):
            weight = sample[stage]["weight"]
            assert len(weight) == len(sample["pieces"]) == len(sample["noise"]) == len(sample[stage]["score"])
            assert all(w is None for w in weight[: sample["prompt_length"]])
            assert all(0.05 <= w <= 3 for w in weight[sample["prompt_length"] :])
    assert samples[0]["start"] != samples[0]["end"]


def test_capturing_token_weights_does_not_change_the_training(tmp_path, tokenizer):
    plain, watched = rho1(), rho1()
    train(tmp_path / "a", plain, tokenizer, [TrainingProgress()], max_steps=3)
    callbacks = [TokenWeights(tmp_path), WeightStatistics(), WeightHistogram(tmp_path), TokenRanking(tmp_path)]
    callbacks += [TokenErrors(tmp_path)]
    train(tmp_path / "b", watched, tokenizer, [*callbacks, TrainingProgress()], max_steps=3)
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_bar_shows_loss_speed_and_the_pass_at_1_of_before_as_such(run):
    for part in ("training", "6/6", "loss ", ", before: pass@1 12.5 %", "tokens/s"):
        assert part in run["screen"], part


def test_the_bar_shows_the_pass_at_1_that_a_callback_finds_while_training(tmp_path, tokenizer):
    class Evaluate(Callback):
        def on_train_batch_start(self, trainer, algo, batch, batch_idx):
            algo.log("mbpp/pass@1", 0.25)

    bar = TrainingProgress()
    bar.pass_at_1_before = 0.125
    with contextlib.redirect_stderr(Terminal()) as screen:
        train(tmp_path, rho1(), tokenizer, [bar, Evaluate()], max_steps=2, log_every_n_steps=1)
    assert ", pass@1 25.0 %" in screen.getvalue()


def test_a_log_file_gets_plain_lines_and_a_baseline_no_weight_files(tmp_path, tokenizer, capsys):
    callbacks = [WeightStatistics(), WeightHistogram(tmp_path), TokenRanking(tmp_path), Throughput()]
    callbacks += [TokenWeights(tmp_path)]
    train(tmp_path, Baseline(tiny_model(), optimizer=sgd), tokenizer, [*callbacks, TrainingProgress()])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training: ")]
    shown = [(next(n for n in range(7) if f" {n}/6 " in line), ", loss " in line) for line in lines]
    assert shown[:2] == [(0, False), (1, True)] and shown[-1] == (6, True)
    assert "\x1b" not in "".join(lines) and "\r" not in "".join(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]


def test_steps_are_counted_once_under_accumulation(tmp_path, tokenizer):
    callbacks = [WeightStatistics(), Throughput(), TrainingProgress()]
    train(tmp_path, rho1(), tokenizer, callbacks, accumulate_grad_batches=2, max_steps=2, log_every_n_steps=1)
    assert [int(row["step"]) for row in rows(tmp_path) if row["weight/mean"]] == [0, 1]


def test_a_character_of_several_tokens_is_shown_at_the_last_of_them(tokenizer):
    ids = tokenizer("값 = 1", add_special_tokens=False)["input_ids"]
    pieces = text_pieces(tokenizer, ids)
    assert "".join(pieces) == "값 = 1" and len(pieces) == len(ids) and "" in pieces


# ---- errors by kind of token ----


def distributions(model, samples):
    """Give log p and the target of every target token, sample by sample, from whole logits in float64."""
    model, found = copy.deepcopy(model).double().eval(), []
    for sample in samples:
        ids = torch.as_tensor(sample.input_ids).long()
        with torch.no_grad():
            log_p_TV = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        found += [(log_p_TV[j - 1], int(ids[j])) for j in range(max(sample.prompt_length, 1), len(ids))]
    return found


def entropies(model, samples):
    return [-(log_p.exp() * log_p).sum().item() for log_p, _ in distributions(model, samples)]


def errors_of_a_run(run_dir, tokenizer, reference=None, **kwargs):
    """Train in float64, so that other orders of adding up change nothing that is looked at."""
    run_dir.mkdir(exist_ok=True)
    algo = Baseline(tiny_model(), optimizer=sgd)
    trainer = train(run_dir, algo, tokenizer, [TokenErrors(run_dir, reference)], precision="64-true", **kwargs)
    return json.loads((run_dir / "token_errors.json").read_text()), algo.model, trainer.datamodule.samples


def test_errors_and_ce_of_every_kind_are_those_of_whole_logits(tmp_path, tokenizer):
    found, model, samples = errors_of_a_run(tmp_path, tokenizer)
    kinds = [kind for sample in samples["validation"] for kind in kinds_of_targets(sample, tokenizer)]
    noise = [flag for sample in samples["train"] for flag in sample.noise.tolist()[-sample.targets :]]
    chosen = set(found["choice_points"])
    places = {kind: [n for n, one in enumerate(kinds) if one == kind] for kind in set(kinds)}
    places |= {"all": range(len(kinds)), "choice": chosen}
    for stage, model_then in (("start", tiny_model()), ("end", model)):
        rows, of_training = (
            distributions(model_then, samples["validation"]),
            distributions(model_then, samples["train"]),
        )
        expected = {kind: [rows[n] for n in here] for kind, here in places.items()}
        expected["corrupted"] = [row for row, noisy in zip(of_training, noise, strict=True) if noisy]
        expected["clean"] = [row for row, noisy in zip(of_training, noise, strict=True) if not noisy]
        assert set(found[stage]) == set(expected)
        for kind, those in expected.items():
            assert found[stage][kind] == {
                "tokens": len(those),
                "ce": pytest.approx(np.mean([-log_p[target].item() for log_p, target in those])),
                "error": pytest.approx(np.mean([log_p.argmax().item() != target for log_p, target in those])),
            }, kind
    entropy = entropies(tiny_model(), samples["validation"])
    assert len(chosen) == math.ceil(0.2 * len(kinds)) and found["choice_by"] == "the model before training"
    assert min(entropy[n] for n in chosen) > max(e for n, e in enumerate(entropy) if n not in chosen)
    logged = [row["val/important_error"] for row in rows_of_errors(tmp_path)]
    assert [float(value) for value in logged] == [found[stage]["choice"]["error"] for stage in ("start", "end")]


def rows_of_errors(run_dir):
    return [row for row in rows(run_dir) if row["val/important_error"]]


def test_a_run_that_goes_on_measures_the_tokens_that_were_chosen_at_its_start(tmp_path, tokenizer):
    first, _, _ = errors_of_a_run(tmp_path, tokenizer, max_steps=2)
    second, _, _ = errors_of_a_run(tmp_path, tokenizer, max_steps=4)  # into the same folder
    assert second["start"] == first["start"] and second["choice_points"] == first["choice_points"]
    assert second["end"] != first["end"]


def test_a_reference_may_say_where_tokens_matter(tmp_path, tokenizer):
    reference = str(resources.files("wmtp") / "assets" / "tiny-reference")
    own, _, _ = errors_of_a_run(tmp_path / "own", tokenizer, max_steps=1)
    asked, _, samples = errors_of_a_run(tmp_path / "asked", tokenizer, reference, max_steps=1)
    assert asked["choice_by"] == reference and asked["start"]["all"] == own["start"]["all"]
    chosen, entropy = (
        set(asked["choice_points"]),
        entropies(load_model(Path(reference), heads=1), samples["validation"]),
    )
    # The reference reads in float32: what lies within its rounding of the edge may fall on either side.
    edge = sorted(entropy, reverse=True)[len(chosen) - 1]
    rounding = relative_rounding(terms_of(load_model(Path(reference), heads=1), 256), torch.float32) * max(entropy)
    assert {n for n, e in enumerate(entropy) if e > edge + rounding} <= chosen
    assert chosen <= {n for n, e in enumerate(entropy) if e > edge - rounding}
    assert chosen != set(own["choice_points"])
