"""Hold what a report says of the numbers of a run, and the command that it gives."""

import shlex

import pytest

from wmtp.overrides import is_override
from wmtp.reporting.advice import advice
from wmtp.reporting.reading import Evaluation, RunResults
from wmtp.reporting.texts import Texts

COMMAND = "python -m wmtp.train algo=rho1 'name=나의 실행' optimizer.lr=0.003 ckpt=last"


def evaluation(passed, problems):
    rows = [{"task_id": f"p/{n}", "sample": 0, "status": "passed" if n < passed else "wrong"} for n in range(problems)]
    return Evaluation(metrics={"mbpp/pass@1": passed / problems}, results=rows)


def run(before=None, after=None, problems=300, limit=None, series=None, **found):
    config = {
        "command": COMMAND, "eval": {"limit": limit}, "optimizer": {"lr": 0.003},
        "algo": {"weighting": {"temperature": 0.7}, "pretraining": {"problems": 1000}},
        "model": {"reference": "asset:tiny-reference"},
    }  # fmt: skip
    config |= found.pop("config", {})
    evaluations = (
        {} if before is None else {"before": evaluation(before, problems), "after": evaluation(after, problems)}
    )
    return RunResults("run", config=config, series=series or {}, evaluations=evaluations, **found)


def said(results):
    return [(results.texts(one.said, **one.values), one.command) for one in advice(results)]


def test_a_run_that_went_well_hears_nothing():
    curves = {"val/ce_head0": [(0, 0.5), (99, 0.3), (199, 0.301)], "weight/at_floor": [(9, 0.1)]}
    curves |= {"weight/at_ceiling": [(9, 0.05)], "weight/rho1_excess_mean": [(9, -2.3)], "weight/mean": [(9, 1.0)]}
    curves |= {"weight/rho1_excess_median": [(9, -0.0004)]}  # corrupted tokens pull the mean down, not the median
    assert said(run(50, 165, series=curves, critic={"near_chance": False})) == []
    assert said(RunResults("empty")) == []


@pytest.mark.parametrize(
    ("results", "sentence", "command"),
    [
        (run(50, 52, limit=300), "pass@1 moved by +0.7 points, and 300 problems cannot tell that from chance",
         "python -m wmtp.train algo=rho1 'name=나의 실행' optimizer.lr=0.003 eval.limit=null"),
        (run(50, 52), "train other seeds, which are compared at the end.",
         "python -m wmtp.train -m algo=rho1 'name=나의 실행' optimizer.lr=0.003 seed=43,44,45,46"),
        (run(150, 50), "Training made the programs worse (-33.3 points",
         "python -m wmtp.train algo=rho1 'name=나의 실행' optimizer.lr=0.001"),
        (run(series={"val/ce_head0": [(0, 1.3), (9, 1.7), (19, 2.4)]}),
         "Validation CE of head 0 never fell below its start (1.300, 2.400 at the end)",
         "python -m wmtp.train algo=rho1 'name=나의 실행' optimizer.lr=0.001"),
        (run(series={"val/ce_head0": [(0, 1.3), (99, 1.0), (199, 1.2)]}),
         "Validation CE of head 0 rises again since step 99 (1.000, 1.200 at the end)",
         "python -m wmtp.train algo=rho1 'name=나의 실행' optimizer.lr=0.003 trainer.max_steps=99"),
        (run(series={"weight/at_floor": [(9, 0.0), (19, 0.5)], "weight/at_ceiling": [(9, 0.0), (19, 0.3)]}),
         "80% of the weights lie at their bounds",
         "python -m wmtp.train algo=rho1 'name=나의 실행' optimizer.lr=0.003 algo.weighting.temperature=1.4"),
        (run(series={"weight/rho1_excess_median": [(9, 0.3), (19, -0.2)]}),
         "The reference is worse than the model on most tokens (median excess -0.200 nats)",
         "python -m wmtp.train 'name=나의 실행' optimizer.lr=0.003 algo=baseline"),
        (run(critic={"near_chance": True}), "judge more problems.",
         "python -m wmtp.train algo=rho1 'name=나의 실행' optimizer.lr=0.003 algo.pretraining.problems=3000"),
        (run(token_errors={"start": {"corrupted": {"error": 0.4}}, "end": {"corrupted": {"error": 0.3}}}),
         "It learns the corrupted tokens too (errors on them 40.0%, then 30.0%)",
         "python -m wmtp.train 'name=나의 실행' optimizer.lr=0.003 algo=rho1"),
    ],
    ids=["noise", "seeds", "worse", "never", "rising", "bounds", "reference", "critic", "corrupted"],
)  # fmt: skip
def test_what_a_number_means_and_the_command_that_follows(results, sentence, command):
    ((text, given),) = said(results)
    assert sentence in text and given == command
    assert all(is_override(word) for word in shlex.split(given)[3:] if word != "-m")
    (one,) = advice(results)
    assert Texts("ko")(one.said, **one.values) != text  # every sentence has its Korean


def test_a_failed_run_has_its_own_next_action():
    assert said(run(50, 52, failure={"cause": "out_of_memory"})) == []


def test_keys_of_an_algorithm_go_with_it():
    results = run(critic={"near_chance": None}, config={
        "command": "python -m wmtp.train algo=critic algo.pretraining.problems=null algo/rewards=neg_ce data=mbpp",
        "algo": {"pretraining": {"problems": None}},
    })  # fmt: skip
    assert [command for _, command in said(results)] == ["python -m wmtp.train data=mbpp algo=rho1"]
