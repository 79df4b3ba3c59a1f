"""Layers that vLLM cannot run on a CPU: their names against the source of its own loaders.

    WMTP_VLLM_PYTHON=V/bin/python pytest -m serving tests/serving/test_vllm_names.py     (V: see test_served.py)

[연구 맥락] vLLM의 transformers가 bailing_hybrid를 모르거나 CPU의 커널이 없어서 돌려 볼 수 없는 구조가 있다.
    그래도 이름은 볼 수 있다.
[동작] 바퀴에 든 소스에서 층의 클래스가 가진 모듈을 읽어, 우리가 쓰는 이름이 그 모듈로 가는지 본다.
    vLLM을 부르지 않으므로 몇 초다.
"""

import ast
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.published import publish

pytestmark = pytest.mark.serving


@pytest.fixture
def models() -> Path:
    """The folder of vLLM's models."""
    python = os.environ.get("WMTP_VLLM_PYTHON")
    if python is None:
        pytest.skip("needs WMTP_VLLM_PYTHON=PYTHON of an environment of its own (see test_served.py)")
    (found,) = Path(python).parents[1].glob("lib/python3*/site-packages/vllm/model_executor/models")
    return found


def modules_of(file: Path, layer: str) -> set[str]:
    """List the attributes that the constructor of a class sets."""
    (found,) = (node for node in ast.parse(file.read_text()).body if getattr(node, "name", "") == layer)
    return {
        target.attr
        for node in ast.walk(found)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }


@pytest.mark.parametrize(
    ("file", "layer"),
    [
        ("bailing_moe_mtp.py", "BailingMoeV25MultiTokenPredictorLayer"),
        ("bailing_moe_v3_mtp.py", "BailingMoeV3MultiTokenPredictorLayer"),
    ],
)
def test_the_layer_of_ling_has_the_parts_that_vllm_reads(models, tmp_path, file, layer):
    with safe_open(publish("bailing_hybrid", tmp_path) / "model.safetensors", "pt") as opened:
        parts = {name.split(".")[3] for name in opened.keys() if name.startswith("model.layers.4.")}
    # Ours says post_norm, as transformers' table does; vLLM reads final_layernorm, and so do we.
    renamed = {"attention": "self_attn", "post_norm": "final_layernorm"}
    theirs = modules_of(models / file, layer) - {"config", "layer_id", "shared_head"}
    assert {renamed.get(part, part) for part in parts} == theirs
