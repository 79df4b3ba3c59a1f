"""Hold what `wmtp.compare` says of runs with a known difference, through its front door and page by page."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from omegaconf import OmegaConf

from tests.unit.comparison.made_runs import make_run
from wmtp.compare import compare
from wmtp.comparison.arms import arms_of, find_runs
from wmtp.comparison.fairness import unequal
from wmtp.comparison.findings import study
from wmtp.comparison.pages import summary, write_comparison
from wmtp.errors import ConfigError
from wmtp.reporting.texts import Texts

SEEDS = (42, 43, 44, 45, 46)


def of(found, arm, measure="synthetic/pass@1"):
    return next(one for one in found.comparisons if (one.measure, one.arm) == (measure, arm))


def goal(found, arm, which):
    return next(one for one in found.goals if (one.goal, one.arm) == (which, arm))


def said(found):
    return [text.format(**values) for text, values in unequal(found)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in SEEDS:
        make_run(root, "baseline", seed, 0.4)
        make_run(root, "rho1", seed, 0.7)
        make_run(root, "rho1", seed, 0.4, name=f"shuffled-{seed}", algo__weighting__control="shuffle")
        make_run(root, "critic", seed, 0.1)
    return root


def test_arms_are_what_the_configs_differ_in_and_seeds_belong_together(runs):
    arms = arms_of(find_runs([str(runs)]))
    assert [(arm.name, list(arm.runs)) for arm in arms] == [
        (name, list(SEEDS)) for name in ("baseline", "critic", "rho1", "rho1 control=shuffle")
    ]
    assert list(arms[0].settings) == ["algo._target_", "algo.weighting.control"]


def test_a_gain_is_found_a_loss_is_not_hidden_and_a_control_is_not_judged(runs):
    found = study(find_runs([f"{runs}/*"]))
    gain, loss, control = of(found, "rho1"), of(found, "critic"), of(found, "rho1 control=shuffle")
    assert gain.low > 0.05 and gain.p_holm < 0.05 and gain.paired and (gain.seeds, gain.problems) == (5, 40)
    assert loss.high < 0 and loss.p_holm < 0.05
    assert control.low < 0 < control.high
    assert [one.p_holm >= one.p for one in (gain, loss, control)] == [True] * 3
    assert gain.p_permutation == gain.p_permutation_least == 2 / 2**5
    assert goal(found, "rho1", "gain").verdict == "met"
    assert goal(found, "critic", "gain").verdict == "not met"
    assert {one.arm for one in found.goals} == {"rho1", "critic"}
    assert goal(found, "rho1", "gain").level == 0.975  # two arms to choose the better one of
    assert said(found) == []


def test_the_difference_is_the_paired_one_of_the_same_problems(runs):
    found = study(find_runs([str(runs)]))
    rows = lambda name: [json.loads(line)["status"] == "passed" for line in  # noqa: E731
                         (runs / name / "eval/after/synthetic/results.jsonl").read_text().splitlines()]  # fmt: skip
    by_hand = np.mean([np.mean(rows(f"rho1-{seed}")) - np.mean(rows(f"baseline-{seed}")) for seed in SEEDS])
    assert of(found, "rho1").value == pytest.approx(by_hand, abs=1e-12)
    ce = of(found, "rho1", "val/ce_head0")
    assert ce.high < 0 and ce.problems == 0 and ce.over == "seeds"


def test_one_seed_is_never_enough_for_a_goal(tmp_path):
    make_run(tmp_path, "baseline", 42, 0.1)
    make_run(tmp_path, "rho1", 42, 0.9)
    found = study(find_runs([str(tmp_path)]))
    assert of(found, "rho1").over == "problems" and of(found, "rho1").low > 0.05
    assert goal(found, "rho1", "gain").verdict == "cannot be told" and "seed" in goal(found, "rho1", "gain").why


def test_what_another_setting_does_is_not_taken_for_the_weights_doing(tmp_path):
    for seed in SEEDS:
        make_run(tmp_path, "baseline", seed, 0.2, model__heads=1)
        make_run(tmp_path, "rho1", seed, 0.9, model__heads=4)
        make_run(tmp_path, "rho1", seed, 0.8, name=f"one-{seed}", model__heads=1)
    found = study(find_runs([str(tmp_path)]))
    assert goal(found, "rho1 heads=1", "gain").verdict == "met"
    assert goal(found, "rho1 heads=4", "gain").verdict == "cannot be told" and of(found, "rho1 heads=4").low > 0.05


@pytest.mark.parametrize(("together", "verdict"), [(0.9, "met"), (0.35, "not met")])
def test_the_sum_needs_four_arms_and_then_tells(tmp_path, together, verdict):
    shares = {("baseline", 1): 0.2, ("baseline", 4): 0.3, ("rho1", 1): 0.4, ("rho1", 4): together}
    for (algo, heads), share in shares.items():
        for seed in SEEDS:
            make_run(tmp_path, algo, seed, share, name=f"{algo}{heads}-{seed}", problems=200, model__heads=heads)
    found = study(find_runs([str(tmp_path)]))
    judged = goal(found, "rho1 heads=4", "sum")
    assert judged.verdict == verdict and judged.low < together - 0.5 < judged.high
    assert goal(found, "rho1 heads=1", "sum").verdict == "cannot be told"
    assert found.against["rho1 heads=1"] == "baseline heads=1"


def test_errors_on_important_tokens_are_judged_where_runs_know_them(tmp_path):
    for seed in SEEDS:
        for algo, errors in (("baseline", 0.2), ("rho1", 0.1)):
            run = make_run(tmp_path, algo, seed)
            (run / "metrics.csv").write_text(f"step,val/important_error\n299,{errors + seed / 10000}\n")
    found = study(find_runs([str(tmp_path)]))
    judged = goal(found, "rho1", "important")
    # 0.8 * 0.2 - 0.1, and a fifth less of what the seeds add: 0.8 - 1 of 0.0044.
    assert judged.verdict == "met" and judged.value == pytest.approx(0.06 - 0.2 * 0.0044, abs=1e-12)


def test_what_was_not_equal_is_said(tmp_path):
    for seed in (42, 43):
        make_run(tmp_path, "baseline", seed)
        make_run(tmp_path, "rho1", seed, problems=30, trainer__max_steps=600, made_of__data="other",
                 made_of__model="n", made_of__code={"version": "1", "commit": "def", "dirty": True},
                 made_of__benchmarks={"synthetic": "c"})  # fmt: skip
    make_run(tmp_path, "rho1", 44)
    make_run(tmp_path, "baseline", 42, name="baseline-again")
    (tmp_path / "rho1-43" / "metrics.csv").write_text("step,val/ce_head0\n99,0.3\n")
    (tmp_path / "rho1-43" / "failure.json").write_text('{"cause": "x"}')
    text = "\n".join(said(study(find_runs([str(tmp_path)]))))
    for part in (
        "training problems differ", "weights at the start differ", "test problems differ", "code versions differ",
        "no commit holds: rho1-42, rho1-43", "last steps differ", "seeds differ", "2 runs of seed 42 are averaged",
        "runs that failed: rho1-43", "30 of 40 problems",
    ):  # fmt: skip
        assert part in text, part


def test_a_setting_that_differs_along_is_said(tmp_path):
    for seed in (42, 43):
        make_run(tmp_path, "baseline", seed)
        make_run(tmp_path, "rho1", seed, trainer__max_steps=600)
    found = study(find_runs([str(tmp_path)]))
    assert [arm.name for arm in found.arms] == ["baseline", "rho1"]
    assert said(found) == ["trainer.max_steps differs too: 300 (baseline-42, baseline-43); 600 (rho1-42, rho1-43)"]


def test_numbers_lists_and_curves_of_one_key_are_arms_in_order(tmp_path):
    for seed in (42, 43):
        make_run(tmp_path, "baseline", seed)
        for number, lam in enumerate((0.5, [1, 0.5], {0: 0, 0.5: 1}, 0.1)):
            make_run(tmp_path, "rho1", seed, name=f"{number}-{seed}", algo__weighting__lam=lam)
    arms = [arm.name for arm in arms_of(find_runs([str(tmp_path)]))]
    assert arms[0] == "baseline" and arms[1:3] == ["rho1 lam=0.1", "rho1 lam=0.5"] and len(arms) == 5


def test_a_part_that_one_arm_has_not_tells_it_from_those_that_have_it(tmp_path):
    """`model.adapter=null` is one key, and an adapter several below it: both are told apart."""
    for seed in (42, 43):
        for algo, share in (("baseline", 0.3), ("rho1", 0.5)):
            make_run(tmp_path, algo, seed, share, model__adapter=None)
            lora = {"_target_": "wmtp.models.adapter.Lora", "r": 16}
            make_run(tmp_path, algo, seed, share - 0.2, name=f"lora-{algo}-{seed}", model__adapter=lora)
    found = study(find_runs([str(tmp_path)]))
    assert [arm.name for arm in found.arms] == [
        "baseline",
        "baseline adapter=Lora",
        "rho1",
        "rho1 adapter=Lora",
    ]
    assert found.against["rho1 adapter=Lora"] == "baseline adapter=Lora"
    assert of(found, "rho1").value == pytest.approx(0.2, abs=0.06)
    assert of(found, "baseline adapter=Lora").value == pytest.approx(-0.2, abs=0.06)
    assert not [line for line in said(found) if "adapter" in line]
    make_run(tmp_path, "rho1", 42, 0.3, name="other", model__adapter=lora | {"r": 8}, data__noise=0.1)
    assert [line for line in said(study(find_runs([str(tmp_path)]))) if line.startswith("model.adapter.r differs too")]


def test_values_that_look_the_same_are_two_arms_still(tmp_path):
    for seed in (42, 43):
        make_run(tmp_path, "baseline", seed, 0.3, name=f"number-{seed}", data__noise=1)
        make_run(tmp_path, "baseline", seed, 0.5, name=f"text-{seed}", data__noise="1")
    assert len({arm.name for arm in study(find_runs([str(tmp_path)])).arms}) == 2


def test_a_base_of_each_seeds_own_is_part_of_the_seed(tmp_path):
    for seed in (42, 43):
        for algo in ("baseline", "rho1"):
            make_run(tmp_path, algo, seed, model__path=f"bases/{seed}")
    assert [arm.name for arm in arms_of(find_runs([str(tmp_path)]))] == ["baseline", "rho1"]


def test_arms_without_a_common_seed_are_compared_without_pairs(tmp_path):
    for seed in SEEDS:
        make_run(tmp_path, "baseline", seed, 0.2)
        make_run(tmp_path, "rho1", seed + 10, 0.7)
    one = of(study(find_runs([str(tmp_path)])), "rho1")
    assert not one.paired and one.low > 0 and one.p_permutation == 2 / 252


def test_a_run_that_answered_other_problems_does_not_stop_the_others(tmp_path):
    for seed in (42, 43):
        make_run(tmp_path, "baseline", seed, 0.3)
        make_run(tmp_path, "rho1", seed, 0.6)
    other = make_run(tmp_path, "rho1", 44) / "eval/after/synthetic/results.jsonl"
    other.write_text(other.read_text().replace("synthetic/test", "elsewhere"))
    found = study(find_runs([str(tmp_path)]))
    assert of(found, "rho1").seeds == 2 and found.mean("synthetic/pass@1", "rho1") is None
    assert "0 of 80 problems are in every run" in "\n".join(said(found))
    write_comparison(found, tmp_path / "out", Texts())


def test_a_sweep_without_a_baseline_is_drawn_as_a_map(tmp_path):
    for lam in (0.1, 0.3):
        for temperature in (0.5, 1.0):
            for seed in (42, 43):
                make_run(tmp_path, "rho1", seed, 0.3 + lam, name=f"{lam}-{temperature}-{seed}",
                         algo__weighting__lam=lam, algo__weighting__temperature=temperature)  # fmt: skip
    found = study(find_runs([str(tmp_path)]), against="lam=0.3 temperature=0.5")
    assert set(found.against.values()) == {"lam=0.3 temperature=0.5"} and len(found.against) == 3
    write_comparison(found, tmp_path / "out", Texts())
    assert (tmp_path / "out" / "report" / "heat_lam_temperature.svg").read_text().count(" %</text>") == 4


@pytest.mark.parametrize(
    ("places", "against", "sentence"),
    [
        (["nowhere"], None, "RUN = .*nowhere: no run is there"),
        (["rho1-*"], None, "all 5 runs are of one kind"),
        (["*"], "rho2", "against = rho2 must be one of baseline, critic, rho1"),
    ],
)
def test_a_mistake_is_one_sentence(runs, places, against, sentence):
    with pytest.raises(ConfigError, match=sentence):
        study(find_runs([f"{runs}/{place}" for place in places]), against)


class Page(HTMLParser):
    """Collect the words of a page and what it would load."""

    def __init__(self, text: str):
        super().__init__()
        self.words, self.loads = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loads += [tag] if tag in ("script", "img", "link", "iframe") or "src" in dict(attrs) else []

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_pages_hold_the_numbers_and_stand_alone(runs, tmp_path, lang):
    found = study(find_runs([str(runs)]))
    page = write_comparison(found, tmp_path, Texts(lang))
    numbers = json.loads((tmp_path / "compare.json").read_text())
    one = next(c for c in numbers["comparisons"] if (c["arm"], c["measure"]) == ("critic", "synthetic/pass@1"))
    html, shown = Page(page.read_text()), f"{100 * one['value']:+.1f}"
    assert html.loads == [] and shown in " ".join(html.words) and page.read_text().count("<svg") == 2
    screen = summary(found, page, Texts(lang))
    for text in (" ".join(html.words), (tmp_path / "compare.md").read_text(), screen):
        assert shown in text and "critic − baseline" in text.replace("\\", "")
        assert ("이루지 못함" if lang == "ko" else "not met") in text.replace("NOT MET", "not met")
    by_seed = numbers["means"]["synthetic/pass@1"]["rho1"]["by_seed"]
    assert np.mean(list(by_seed.values())) == pytest.approx(numbers["means"]["synthetic/pass@1"]["rho1"]["value"])
    assert {arm["name"]: arm["against"] for arm in numbers["arms"]}["rho1"] == "baseline"


def test_runs_without_an_evaluation_are_compared_by_what_they_have(tmp_path):
    for seed in (42, 43):
        for algo in ("baseline", "rho1"):
            run = make_run(tmp_path, algo, seed)
            for file in (run / "eval/after/synthetic").iterdir():
                file.unlink()
    found = study(find_runs([str(tmp_path)]))
    assert goal(found, "rho1", "gain").why == "no run has measured it" and of(found, "rho1", "val/ce_head0")
    assert "No two arms share an evaluation" in write_comparison(found, tmp_path / "out", Texts()).read_text()


def test_a_damaged_record_costs_no_more_than_itself(tmp_path):
    make_run(tmp_path, "baseline", 42)
    make_run(tmp_path, "rho1", 42, made_of=3)
    make_run(tmp_path, "rho1", 43, made_of={"code": [1]})
    for name in ("metrics.csv", "failure.json", "eval/after/synthetic/speed.json"):
        (tmp_path / "rho1-42" / name).write_text("{torn")
    found = study(find_runs([str(tmp_path)]))
    assert of(found, "rho1").problems == 40
    write_comparison(found, tmp_path / "out", Texts())


def test_what_a_run_is_called_cannot_become_markup(tmp_path):
    make_run(tmp_path, "baseline", 42)
    make_run(tmp_path, "rho1", 42, name="<script>alert(1)<", algo__score="<img src=x onerror=alert(1)>")
    page = write_comparison(study(find_runs([str(tmp_path)]), None), tmp_path / "out", Texts())
    assert Page(page.read_text()).loads == [] and "&lt;script" in page.read_text()


def test_the_front_door_takes_folders_and_patterns(runs, tmp_path, capsys):
    cfg = OmegaConf.create({"against": None, "out": str(tmp_path), "lang": "en"})
    compare(cfg, [f"{runs}/rho1-*", str(runs / "baseline-42"), str(runs / "baseline-43")])
    assert "rho1 − baseline" in capsys.readouterr().out and (tmp_path / "compare.html").is_file()
    with pytest.raises(ConfigError, match="RUN has no value"):
        compare(cfg, [])


def test_experiments_of_mlflow_name_their_runs(tmp_path, monkeypatch, capsys):
    from wmtp.run.mlflow_store import default_uri, open_store

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cfg = OmegaConf.create({"against": None, "out": None, "lang": "en", "runs": str(tmp_path)})
    with pytest.raises(ConfigError, match="RUN = mlflow:mtp/rho1: no MLflow store at sqlite"):
        compare(cfg, ["mlflow:mtp/rho1"])
    store = open_store(default_uri(tmp_path))
    for algo in ("baseline", "rho1"):
        experiment = store.create_experiment(f"mtp/{algo}")
        for seed in (42, 43):
            run_dir = make_run(tmp_path, algo, seed)
            store.create_run(experiment, tags={"run_dir": str(run_dir)})
        store.create_run(experiment, tags={"run_dir": str(tmp_path / "on-another-machine")})
    found = compare(cfg, ["mlflow:mtp/baseline", "mlflow:mtp/rho1"])
    assert {run.folder.name for run in found.runs} == {"baseline-42", "baseline-43", "rho1-42", "rho1-43"}
    assert "mlflow:mtp/rho1: 1 of 3 run directories is not on this machine" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"RUN = mlflow:mtp/rho2: .* has no such experiment"):
        compare(cfg, ["mlflow:mtp/rho2"])


@pytest.mark.long
def test_the_command_works_as_typed(tmp_path):
    for algo in ("baseline", "rho1"):
        make_run(tmp_path, algo, 42, name=f"{algo}-lam=0.3")  # what older sweeps called their points
    command = [sys.executable, "-m", "wmtp.compare", "baseline-lam=0.3", "rho1-lam=0.3", "lang=ko"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "실행 2개, 조건 2개" in done.stdout and (tmp_path / "compare" / "compare.html").is_file()
    wrong = subprocess.run([*command[:4], "lan=ko"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and "lang" in wrong.stderr and "Traceback" not in wrong.stderr


def test_what_mlflow_keeps_of_a_run_and_a_failure_that_was_repeated_are_no_further_runs(tmp_path):
    run = make_run(tmp_path, "rho1", 42, 0.4)
    kept = tmp_path / "mlflow-artifacts" / "mtp" / "rho1" / "synthetic" / (32 * "a") / "artifacts"
    shutil.copytree(run, kept)
    shutil.copytree(kept, run / "failures" / "step-3")
    assert [one.folder for one in find_runs([str(tmp_path)])] == [run.resolve()]
    assert [one.folder for one in find_runs([str(run)])] == [run.resolve()]
    assert [one.folder for one in find_runs([str(kept)])] == [kept.resolve()]  # who names it means it
