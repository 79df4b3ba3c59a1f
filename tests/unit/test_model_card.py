"""The card of an exported model: what the Hub reads of it, what a person reads, and what must never stand in it."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from wmtp.models.export import Exported
from wmtp.reporting.model_card import model_card

CONFIG = {
    "algo": {
        "_target_": "wmtp.algos.rho1.Rho1",
        "score": "excess",
        "weighting": {"_target_": "wmtp.maths.weighting.SoftWeighting", "lam": 0.3, "temperature": 0.7},
        "reference": {"path": "/srv/models/reference"},
    },
    "optimizer": {"_target_": "wmtp.algos.optimizers.adamw", "_partial_": True, "lr": 1e-5},
    "model": {"path": "org/base-1b", "heads": 4, "adapter": None},
    "data": {"noise": 0.5, "module": {"source": {"path": "/srv/data/mbpp.jsonl"}}},
    "storage": {"hf_token": "hf_do_not_show_me_0123456789"},
    "trainer": {"max_steps": 300},
    "seed": 42,
    "lang": "ko",
    "used": {
        "org/base-1b": {"from": "hf://org/base-1b", "licence": "apache-2.0", "commit": "abc123"},
        "mbpp": {"from": "hf://datasets/org/mbpp", "licence": "CC-BY-4.0", "version": "v1"},
        "own": {"from": "/srv/data/own.jsonl", "licence": "MIT"},
    },
    "made_of": {"code": {"version": "0.1.0", "commit": "def456"}, "data": "0123abcd", "model": "4567ef01"},
}
SECRET = "hf_abcdefghijklmnopqrst"
COMMAND = f"python -m wmtp.train data=mbpp data.path=/srv/data/mbpp.jsonl model.path=org/base-1b +token={SECRET}"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "rho1-mbpp"
    passed = {"before": 30, "after": 50}
    for stage, count in passed.items():
        out = folder / "eval" / stage / "mbpp"
        out.mkdir(parents=True)
        metrics = {"mbpp/pass@1": count / 100, "mbpp/pass@1_low": 0.25, "mbpp/pass@1_high": 0.61}
        (out / "metrics.json").write_text(json.dumps(metrics))
        rows = [{"task_id": f"mbpp/{i}", "sample": 0, "status": "passed" if i < count else "wrong"} for i in range(100)]
        (out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "metrics.csv").write_text("step,val/ce_head0,val/ce_head1\n0,0.9,1.5\n300,0.8,1.25\n")
    return folder


def test_the_hub_reads_where_it_came_from_and_what_it_was_measured_to_do(run):
    data = ModelCard(model_card(run, COMMAND, Exported(4))).data
    assert (data.base_model, data.license, data.datasets) == ("org/base-1b", "apache-2.0", ["org/mbpp"])
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("transformers", "text-generation", "rho1-mbpp")
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("mbpp", "pass@1", 0.5)
    assert result.metric_name == "pass@1 (95 % interval 0.250 to 0.610)"


def test_a_person_reads_how_it_was_made_and_how_sure_the_numbers_are(run):
    text = model_card(run, COMMAND, Exported(4, ("h.0.attn.bias", "h.1.attn.bias"))).replace("\\", "")
    # 20 of 100 problems are solved now and none was lost: 0.2 with a standard error of 0.04.
    assert "| pass@1 on mbpp | 0.300 [0.250, 0.610] | 0.500 [0.250, 0.610] | +0.200 [+0.1" in text
    assert "| validation CE of head 1 | 1.5000 | 1.2500 | nats per token |" in text
    for told in (
        "| algo | Rho1 |", "| algo.weighting.temperature | 0.7 |", "| optimizer.lr | 1e-05 |", "| seed | 42 |",
        "| mbpp | CC-BY-4.0 | hf://datasets/org/mbpp (v1) |", "| own | MIT | own.jsonl |", "0123abcd", "0.1.0 def456",
        "h.*.attn.bias (2)", "It holds 4 prediction heads", "data=mbpp data.path=mbpp.jsonl model.path=org/base-1b",
    ):  # fmt: skip
        assert told in text, told


def test_no_secret_and_no_folder_of_this_machine_stands_in_it(run):
    text = model_card(run, COMMAND, Exported(1))
    assert "/srv" not in text and str(run) not in text
    assert SECRET not in text and CONFIG["storage"]["hf_token"] not in text and "+token=***" in text
    assert not any("가" <= letter <= "힣" for letter in text)  # whatever the run's language


def test_an_adapter_says_what_it_is_put_on(run):
    text = model_card(run, COMMAND, Exported(1, left_out=frozenset({"extra_heads.0", "extra_heads.1"}), adapter=True))
    assert ModelCard(text).data.library_name == "peft"
    assert 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("org/base-1b"), "FOLDER")' in text
    assert "Left out: extra_heads.* (2)." in text.replace("\\", "") and "prediction heads" not in text


def test_a_run_that_left_little_still_has_a_card(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"path": "/srv/models/own"}}))
    text = model_card(tmp_path, "python -m wmtp.train", Exported(1))
    assert ModelCard(text).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    assert "`own`, fine-tuned" in text and "Measured" not in text
