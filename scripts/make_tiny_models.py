"""Train the two models that ship with wmtp, and write their model cards.

    python scripts/make_tiny_models.py                   about 8 minutes on 2 cores
    python scripts/make_tiny_models.py tiny-reference    one of them

[연구 맥락] 데모는 이미 조금 배운 모델에서 시작해야 한다. tiny-base는 절반이 망가진 말뭉치로 잠깐 배운 모델이고,
    tiny-reference는 깨끗한 말뭉치로 오래 배운, rho1의 참조모델이다. 둘 다 이 명령으로 다시 만들 수 있다.
[동작] 임의의 가중치로 시작하는 폴더를 만들고, 앞문 train()으로 학습하고, float16으로 줄여 자산 폴더에 쓴 뒤,
    그 파일을 다시 읽어 평가한다. 카드의 숫자는 실제로 배포되는 파일의 것이다.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from transformers import LlamaConfig

from wmtp.cli import config_dir, quiet
from wmtp.eval import evaluate_checkpoint
from wmtp.models.mtp import MTPForCausalLM
from wmtp.models.tokenizer import load_tokenizer
from wmtp.train import train

ASSETS = Path(__file__).resolve().parent.parent / "wmtp" / "assets"

RECIPES = {
    "tiny-base": (
        "starts the demo: pre-trained for a short while on a noisy corpus, half of whose solutions are corrupted",
        ["data.noise=0.5", "trainer.max_steps=400"],
        4,
    ),
    "tiny-reference": (
        "is rho1's reference: trained for longer on the clean corpus, next token only",
        ["data.noise=0.0", "trainer.max_steps=1500"],
        1,
    ),
}


def scratch(folder: Path, heads: int, seed: int = 42) -> None:
    """Write an untrained model and the tokenizer."""
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,  # two of trunk and head 0
        num_attention_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mtp_heads=heads,
    )
    MTPForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def pretrain(name: str, overrides: list[str], heads: int, work: Path, seed: int = 42) -> dict[str, float]:
    """Train a model from random weights, in `work/runs/name/model`; both the weights and the order are the seed's."""
    scratch(work / "scratch", heads, seed)
    common = [
        "algo=baseline",
        f"model.path={work / 'scratch'}",
        f"model.heads={heads}",
        "optimizer.lr=0.02",
        "optimizer.adamw_lr=0.002",
        f"seed={seed}",
        f"runs={work / 'runs'}",
        f"name={name}",
        "logger=csv",
        "eval.before=false",
        "eval.after=false",
    ]
    return train(compose("train", [*common, *overrides]))


def make(name: str, purpose: str, overrides: list[str], heads: int, work: Path) -> None:
    """Train one model, ship it in half precision, and say what the shipped file scores."""
    metrics = pretrain(name, overrides, heads, work)
    model = MTPForCausalLM.from_pretrained(work / "runs" / name / "model", dtype=torch.float16)
    model.save_pretrained(ASSETS / name)
    load_tokenizer(ASSETS / "tokenizer").save_pretrained(ASSETS / name)
    question = ["benchmark=synthetic", "benchmark.limit=500", "sampling=greedy", f"out={work / name}"]
    scored = evaluate_checkpoint(compose("eval", [f"ckpt={ASSETS / name}", *question]))
    card = f"""# {name}

{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {heads} head(s), float16. It {purpose}.

Made by `python scripts/make_tiny_models.py`, which trains with `{" ".join(overrides)}` on `wmtp.data.synthetic`
(our own text and code, Apache-2.0, seed 42) and by nothing else. It knows no other text and no other code.

| measured by the same command | |
|---|---|
| greedy pass@1, 500 held-out problems | {scored["synthetic/pass@1"]:.3f} \
[{scored["synthetic/pass@1_low"]:.3f}, {scored["synthetic/pass@1_high"]:.3f}] |
"""
    card += "".join(
        f"| validation CE of head {k}, nats per token | {metrics[f'after/val/ce_head{k}']:.4f} |\n"
        for k in range(heads)
    )
    (ASSETS / name / "README.md").write_text(card)
    print(json.dumps({name: scored["synthetic/pass@1"]}))


def main() -> None:
    """Make both models."""
    quiet()
    with tempfile.TemporaryDirectory() as work, initialize_config_dir(str(config_dir()), version_base="1.3"):
        for name in sys.argv[1:] or RECIPES:
            make(name, *RECIPES[name], Path(work) / name)


if __name__ == "__main__":
    main()
