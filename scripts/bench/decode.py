"""Measure ordinary against self-speculative decoding, token by token.

    python scripts/bench/decode.py [--prompts 24] [--compare 200] [--steps 150] [--only tiny|deep]
    python scripts/bench/decode.py --model FOLDER [FOLDER …] [--mbpp DIR] [--prompts 4] [--tokens 64]

Two models with 4 trained heads: the tiny one that ships with wmtp, and a deep one of 27 M parameters (21 M without the
extra heads, 12 layers) that this script trains once on the synthetic problems (about 4 minutes of one core; kept
in runs/bench/decode). Prompts are synthetic test problems, which no training data contains. Speed is in tokens per
second of CPU time on one thread, which other programs disturb less than wall time. Expect: the deep model at least
1.8 x at batch 1, `auto` not slower than `ordinary` beyond noise, every completion exactly the same.

With --model: folders of models with heads (`runs/<name>/model`), against transformers' own `generate` on the same
folder, prompts and length: plain, and with `use_mtp` where transformers can. Prompts are those of MBPP's test problems
where --mbpp names the folder of mbpp.jsonl. "Outside" is the share of the time that no forward of the model has.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from wmtp.data.prompts import BigcodeMbpp0Shot, Prompt, Synthetic0Shot
from wmtp.data.sources import Mbpp
from wmtp.data.synthetic import Synthetic
from wmtp.models.encoding import encode_prompt
from wmtp.models.generation import end_tokens, generate
from wmtp.models.loading import find_model, load_model
from wmtp.models.mtp import MTPForCausalLM
from wmtp.models.sampling import Completion, Request, Sampling, acceptance
from wmtp.models.tokenizer import load_tokenizer

DEEP = Path("runs/bench/decode/deep")
PROMPT = Synthetic0Shot()


def train_deep(tokenizer, steps: int, batch: int = 4) -> None:
    """Train all heads for a few minutes; this is not wmtp's training, only a way to a model that drafts well."""
    problems = Synthetic(train_size=steps * batch).problems("train")
    rows = [
        [*tokenizer(PROMPT.render(problem) + PROMPT.completion(problem)).input_ids, tokenizer.eos_token_id]
        for problem in problems
    ]
    torch.manual_seed(42)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        mtp_heads=4,
    )
    model = MTPForCausalLM(config)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [torch.optim.Muon(matrices, lr=0.02, weight_decay=0), torch.optim.AdamW(others, lr=2e-3)]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(1, 2 * (1 - s / steps))) for o in optimizers]
    for step in range(steps):
        chunk = rows[step * batch : (step + 1) * batch]
        width = max(map(len, chunk))
        ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in chunk])
        mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in chunk])
        labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
        hidden = model.mtp(ids_BT).hidden
        nll = [
            F.cross_entropy((h[:, : -1 - k] @ model.unembedding_VD.T).flatten(0, 1), labels_BT[:, 1 + k :].flatten())
            for k, h in enumerate(hidden)
        ]
        sum(nll).backward()
        for part in [*optimizers, *schedules]:
            part.step()
        model.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            print(f"  step {step + 1}/{steps}, nll per head {[round(n.item(), 2) for n in nll]}", flush=True)
    model.save_pretrained(DEEP)
    tokenizer.save_pretrained(DEEP)


def run(model, tokenizer, requests: list[Request], **settings) -> tuple[float, list[Completion]]:
    """Complete all requests; return tokens per CPU second and the completions in order."""
    start = time.process_time()
    done = dict(generate(model, tokenizer, requests, Sampling(top_p=1.0, max_new_tokens=96, **settings)))
    seconds = time.process_time() - start
    return sum(len(c.tokens) for c in done.values()) / seconds, [done[i] for i in range(len(requests))]


def measure(name: str, folder: Path, prompts: int, compare: int, repeats: int) -> None:
    """Print a table for one model."""
    tokenizer, model = load_tokenizer(folder), load_model(folder).eval()
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"\n## {name}: {size:.1f} M parameters, {len(model.decoder_layers)} layers, {model.heads} heads, greedy\n")
    print("| batch | decoding | tokens/s | against ordinary | accepted by head 1, 2, … | exactly the same |")
    print("|---|---|---|---|---|---|")
    problems = Synthetic(test_size=max(4 * prompts, compare)).problems("test")
    requests = [Request(problem.task_id, PROMPT.render(problem), stop=PROMPT.stop) for problem in problems]
    for batch, count in ((1, prompts), (16, 4 * prompts)):
        speed: dict[str, list[float]] = {"ordinary": [], "speculative": [], "auto": []}
        done: dict[str, list[Completion]] = {}
        for _ in range(repeats):  # in turn, so that a busy machine is busy for all
            for decoding, measured in speed.items():
                rate, done[decoding] = run(
                    model, tokenizer, requests[:count], temperature=0.0, decoding=decoding, batch_size=batch
                )
                measured.append(rate)
        for decoding, measured in speed.items():
            # Ratios of neighbours in time, not of medians.
            gain = statistics.median(a / b for a, b in zip(measured, speed["ordinary"], strict=True))
            rates = ", ".join(f"{rate:.2f}" for rate in acceptance(done[decoding]))
            same = sum(a.tokens == b.tokens for a, b in zip(done[decoding], done["ordinary"], strict=True))
            speeds = f"{statistics.median(measured):.0f} | {gain:.2f} x"
            print(f"| {batch} | {decoding} | {speeds} | {rates} | {same}/{count} |")
    alone = run(model, tokenizer, requests[:compare], temperature=0.0, decoding="ordinary", batch_size=1)[1]
    for temperature, decoding, batch in ((0.0, "speculative", 1), (0.0, "speculative", 16), (0.0, "auto", 16)):
        settings = dict(temperature=temperature, decoding=decoding, batch_size=batch)
        others = run(model, tokenizer, requests[:compare], **settings)[1]
        same = sum(a.tokens == b.tokens and a.text == b.text for a, b in zip(alone, others, strict=True))
        ties = sum(c.near_ties for c in others)
        tokens = sum(len(c.tokens) for c in others)
        print(
            f"\n{decoding}, batch {batch} against ordinary, batch 1: {same}/{compare} exactly the same; "
            f"{ties} near-ties in {tokens} tokens"
        )


class Forward:
    """Add up the CPU seconds that a model's own forwards take, its heads' among them."""

    def __init__(self, model: Any) -> None:
        parts = [model.base_model, model.get_output_embeddings(), *getattr(model, "extra_heads", ())]
        self.parts: list[nn.Module] = parts
        self.seconds, self.depth = 0.0, 0

    def __enter__(self) -> "Forward":
        self.hooks = [part.register_forward_pre_hook(self.begin) for part in self.parts]
        self.hooks += [part.register_forward_hook(self.end, always_call=True) for part in self.parts]
        return self

    def begin(self, *_: object) -> None:
        if self.depth == 0:
            self.started = time.process_time()
        self.depth += 1

    def end(self, *_: object) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.seconds += time.process_time() - self.started

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


Way = Callable[[int, int], list[list[int]]]  # batch size and number of prompts to completions


def by_transformers(plain: Any, prompts: Sequence[list[int]], tokens: int, ends: set[int], **how: Any) -> Way:
    """Complete by transformers' own `generate`, batch after batch, padded on the left."""
    pad = min(ends)

    def complete(batch: int, count: int) -> list[list[int]]:
        done = []
        for begin in range(0, count, batch):
            rows = prompts[begin : min(begin + batch, count)]
            width = max(map(len, rows))
            ids_BT = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
            mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            out_BT = plain.generate(
                ids_BT, attention_mask=mask_BT, max_new_tokens=tokens, do_sample=False, pad_token_id=pad,
                eos_token_id=sorted(ends), **how,
            )  # fmt: skip
            for row in out_BT[:, width:].tolist():
                end = next((t for t, token in enumerate(row) if token in ends), tokens - 1)
                done.append(row[: end + 1])
        return done

    return complete


def by_wmtp(
    model: Any, tokenizer: Any, requests: Sequence[Request], asked: argparse.Namespace, decoding: str, kept: dict
) -> Way:
    """Complete by our decoder; what heads had accepted goes to `kept`."""

    def complete(batch: int, count: int) -> list[list[int]]:
        how = dict(max_new_tokens=asked.tokens, batch_size=batch, decoding=decoding)
        sampling = Sampling(asked.temperature, 0.95 if asked.temperature else 1.0, **how)
        done = dict(generate(model, tokenizer, requests[:count], sampling))
        kept[decoding] = acceptance(list(done.values()))
        return [list(done[i].tokens) for i in range(count)]

    return complete


def against_transformers(folder: Path, problems: Sequence[Any], prompt: Prompt, asked: argparse.Namespace) -> None:
    """Print a table for a model that someone has trained, beside transformers' own `generate` on the same folder."""
    tokenizer, model = load_tokenizer(folder), load_model(folder).eval()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    size = sum(p.numel() for p in model.parameters()) / 1e6
    arrangement = getattr(model.config, "mtp_arrangement", "parallel")
    what = f"{size:.0f} M parameters, {model.heads - 1} {arrangement} heads beside head 0"
    print(f"\n## {folder}: {what}, temperature {asked.temperature:g}\n")
    # Without stop strings: `generate` looks for them in another way.
    requests = [Request(problem.task_id, prompt.render(problem)) for problem in problems]
    prompts = [encode_prompt(tokenizer, request.prompt) for request in requests]
    ends, kept = end_tokens(model, tokenizer), {}
    ways: dict[str, tuple[Any, Way]] = {}
    if asked.temperature == 0:  # sampled, no two programs write the same
        ways["transformers"] = (plain, by_transformers(plain, prompts, asked.tokens, ends))
        ways["transformers, use_mtp"] = (plain, by_transformers(plain, prompts, asked.tokens, ends, use_mtp=True))
    for decoding in ("ordinary", "speculative", "auto"):
        ways[decoding] = (model, by_wmtp(model, tokenizer, requests, asked, decoding, kept))
    print("| batch | decoding | tokens/s | against ordinary | outside | accepted by head 1, 2, … | same as ordinary |")
    print("|---|---|---|---|---|---|---|")
    for batch, count in ((1, asked.prompts), (16, max(16, 4 * asked.prompts))):
        rates: dict[str, list[float]] = {name: [] for name in ways}
        outside, done = {}, {}
        for _ in range(asked.repeats):  # in turn, so that a busy machine is busy for all
            for name, (which, complete) in ways.items():
                if name in done and done[name] is None:
                    continue
                try:
                    with Forward(which) as forward:
                        start = time.process_time()
                        done[name] = complete(batch, count)
                        seconds = time.process_time() - start
                except (ValueError, NotImplementedError, RuntimeError) as error:  # `use_mtp`: refused
                    print(f"| {batch} | {name} | refused: {str(error).splitlines()[0]} | | | | |", flush=True)
                    done[name] = None
                    continue
                rates[name].append(sum(map(len, done[name])) / seconds)
                outside[name] = 1 - forward.seconds / seconds
        for name, measured in rates.items():
            if done[name] is not None:
                gain = statistics.median(a / b for a, b in zip(measured, rates["ordinary"], strict=True))
                same = sum(a == b for a, b in zip(done[name], done["ordinary"], strict=True))
                heads = ", ".join(f"{rate:.2f}" for rate in kept.get(name, ()))
                speed = f"{statistics.median(measured):.1f} | {gain:.2f} x | {outside[name]:.1%}"
                print(f"| {batch} | {name} | {speed} | {heads} | {same}/{count} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prompts", type=int, default=24, help="completions per timing at batch 1; 4 times as many at 16"
    )
    parser.add_argument("--compare", type=int, default=200, help="completions compared token by token")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150, help="training steps of the deep model")
    parser.add_argument("--only", choices=["tiny", "deep"])
    parser.add_argument("--model", type=Path, nargs="+", help="folders of models with heads, against transformers")
    parser.add_argument("--mbpp", type=Path, help="the folder that holds mbpp.jsonl, for --model; else synthetic")
    parser.add_argument("--temperature", type=float, default=0.0, help="for --model; above 0 without transformers")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to write after each prompt, for --model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.model:
        prompt = BigcodeMbpp0Shot() if args.mbpp else PROMPT
        source = Mbpp(args.mbpp) if args.mbpp else Synthetic(test_size=max(16, 4 * args.prompts))
        for folder in args.model:
            against_transformers(folder, list(source.problems("test")), prompt, args)
        return
    tiny = find_model("asset:tiny-base")
    if args.only != "deep":
        measure("tiny", tiny, args.prompts, args.compare, args.repeats)
    if args.only != "tiny":
        if not (DEEP / "config.json").exists():
            print("\ntraining the deep model once …", flush=True)
            train_deep(load_tokenizer(tiny), args.steps)
        measure("deep", DEEP, args.prompts, args.compare, args.repeats)


if __name__ == "__main__":
    main()
