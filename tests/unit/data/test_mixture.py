"""Hold a mixture to its weights, exactly, and each problem in it to its own prompt."""

import json
from collections import Counter

import pytest

from wmtp.data.mixture import Mix
from wmtp.data.prompts import BySource, MbppPaper3Shot, Synthetic0Shot
from wmtp.data.sources import HumanEval, Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError


@pytest.fixture
def mbpp(tmp_path):
    row = {"text": "Add.", "code": "def f(x):\n    return x + 1", "test_list": ["assert f(0)"]}
    rows = [row | {"task_id": number} for number in (2, 3, 4, 11, 511, 601, 602)]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Mbpp(tmp_path)


def test_every_problem_comes_as_often_as_its_weight_says(mbpp):
    synthetic = Synthetic(train_size=1000, validation_size=5)
    mix = Mix({"mbpp": mbpp, "synthetic": synthetic}, {"mbpp": 3, "synthetic": 0.5})
    times = Counter(problem.task_id for problem in mix.stream("train"))
    assert times["mbpp/601"] == times["mbpp/602"] == 3
    halved = [task_id for task_id in times if task_id.startswith("synthetic")]
    assert 450 < len(halved) < 550 and set(map(times.get, halved)) == {1}
    assert next(problem.task_id for problem in mix.stream("validation")) == "mbpp/511"
    assert len(mix.problems("validation")) == 6
    alone = Mix({"mbpp": mbpp, "synthetic": synthetic}, {"mbpp": 1})
    assert [problem.source for problem in alone.stream("train")] == ["mbpp", "mbpp"]


def test_a_mixture_names_every_licence_and_changes_its_fingerprint_with_the_weights(mbpp):
    sources = {"mbpp": mbpp, "synthetic": Synthetic(train_size=2)}
    mix = Mix(sources, {"mbpp": 1, "synthetic": 1})
    assert mix.licences == {"mbpp": "CC-BY-4.0", "synthetic": "Apache-2.0"}
    assert mix.licence == "Apache-2.0, CC-BY-4.0"
    prints = {Mix(sources, {"mbpp": m, "synthetic": s}).fingerprint() for m, s in [(1, 1), (2, 1), (1, 0), (1, 2)]}
    assert len(prints) == 4 and mix.fingerprint() in prints


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"mbpq": 1}, r"data\.weights\.mbpq: there is no such source; choose from mbpp, humaneval"),
        ({"mbpp": -1}, r"data\.weights\.mbpp = -1 must be a number >= 0"),
        ({"mbpp": True}, r"data\.weights\.mbpp = True must be a number"),
        ({"mbpp": 0}, r"data\.weights leaves no source"),
        ({"mbpp": 1, "humaneval": 1}, r"humaneval is for evaluation only"),
    ],
)
def test_a_wrong_weight_is_named(mbpp, weights, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Mix({"mbpp": mbpp, "humaneval": HumanEval("anywhere")}, weights)


def test_each_problem_is_asked_in_the_mode_of_its_source_with_its_shots_only(mbpp):
    modes = {"mbpp": MbppPaper3Shot(), "synthetic": Synthetic0Shot()}
    prompt = BySource(modes)
    shots = mbpp.problems("prompt")
    (synthetic,) = Synthetic(train_size=1).problems("train")
    asked = mbpp.problems("train")[0]
    assert prompt.shot_task_ids == ("mbpp/2", "mbpp/3", "mbpp/4")
    assert prompt.render(asked, shots) == modes["mbpp"].render(asked, shots)
    assert prompt.render(synthetic, shots) == modes["synthetic"].render(synthetic)
    assert prompt.completion(asked).endswith("[DONE]") and not prompt.completion(synthetic).endswith("[DONE]")
    assert repr(prompt) == repr(BySource({"mbpp": MbppPaper3Shot(), "synthetic": Synthetic0Shot()}))
