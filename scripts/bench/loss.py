"""Measure the weighted 4-head loss against explicit logits: peak memory and time of one forward and backward.

[연구 맥락] 로짓을 통째로 만들지 않는 손실이 메모리는 1/8 이하, 시간은 0.9배 이하라는 약속을 재어 본다.
[동작] 변형마다 새 프로세스에서 한 번씩, 스레드 하나로 돌린다. GPU가 있으면 거기서, liger도 함께 돌린다 (extra `gpu`).
은닉상태, unembedding, 그 기울기는 어느 변형에나 있으므로 미리 잡아 두고, 그 위로 더 쓴 최대 메모리(VmHWM - VmRSS,
리눅스; GPU에서는 할당자의 최대값)와 CPU 시간(GPU에서는 벽시계)을 잰다. CPU에서 약 7분 걸린다.

    python scripts/bench/loss.py                          # all variants, float32 and bfloat16
    python scripts/bench/loss.py --variants naive wmtp-512 --dtypes bfloat16
    python scripts/bench/loss.py --variants naive products wmtp-512 --dtypes float32 --heads 2 --batch 1

`products`는 어느 방법도 피할 수 없는 것만 한다: 512행마다 행렬곱 셋(로짓, 은닉상태와 출력 행렬의 기울기). 손실은 0이다.
그 시간이 한계이고, 그것과 naive의 비가 이 프로세서와 크기에서 이를 수 있는 가장 작은 비이다.
"""

#   B sequences, T positions, H heads, D width, V vocabulary

import argparse
import json
import subprocess
import sys

POSITIONS, WIDTH, VOCABULARY = 1024, 512, 32_000
WMTP = ["wmtp-128", "wmtp-256", "wmtp-512", "wmtp-1024", "wmtp-2048"]
VARIANTS = ["naive", "products", "per-head", "checkpointed-512", "linear_cross_entropy", "liger", *WMTP]


def main() -> None:
    """Run every variant in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4, help=f"sequences of {POSITIONS} positions")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "DTYPE"), help="measure here and print one JSON line")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.heads, args.batch)))
        return

    tokens = args.batch * POSITIONS
    print(f"{args.heads} heads, {tokens} tokens, width {WIDTH}, vocabulary {VOCABULARY}, one thread or one GPU.")
    print("MB: peak over hidden states, unembedding and their gradients. s: forward and backward (CPU time, or GPU).\n")
    print(f"{'dtype':9} {'variant':21} {'MB':>7} {'/ naive':>8} {'s':>7} {'/ naive':>8} {'loss':>10}")
    for dtype in args.dtypes:
        naive = None
        for variant in args.variants:
            sizes = ["--heads", str(args.heads), "--batch", str(args.batch)]
            command = [sys.executable, __file__, *sizes, "--one", variant, dtype]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{dtype:9} {variant:21} {done.stderr.strip().splitlines()[-1]}")
                continue
            row = json.loads(done.stdout)
            naive = row if variant == "naive" else naive
            memory, time = (f"{row[key] / naive[key]:.3f}" if naive else "" for key in ("megabytes", "seconds"))
            print(
                f"{dtype:9} {variant:21} {row['megabytes']:7.0f} {memory:>8} {row['seconds']:7.3f} {time:>8} "
                f"{row['loss']:10.6f}",
                flush=True,
            )


def measure(variant: str, dtype: str, heads: int, batch: int) -> dict[str, float]:
    """Measure one forward and backward of one variant in this process."""
    import time

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(42)
    gpu = torch.cuda.is_available()
    torch.set_default_device("cuda" if gpu else "cpu")
    # Load kernels and their buffers; a GPU chooses its kernels by the size.
    whole, small = (heads, batch, POSITIONS, VOCABULARY), (heads, 1, 64, 512)
    run(variant, *inputs(torch.__dict__[dtype], *(whole if gpu else small)))
    hidden, unembedding_VD, labels_BT, weight_BT = inputs(torch.__dict__[dtype], *whole)
    for leaf in (*hidden, unembedding_VD):
        leaf.grad = torch.ones_like(leaf)  # written to, so that the pages are really there
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    clock = time.perf_counter if gpu else time.process_time
    held = torch.cuda.memory_allocated() / 2**20 if gpu else status_megabytes("VmRSS")
    start = clock()
    loss = run(variant, hidden, unembedding_VD, labels_BT, weight_BT)  # a number: it has waited for the GPU
    if gpu:
        torch.cuda.synchronize()
    seconds = clock() - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else status_megabytes("VmHWM")
    return {"megabytes": peak - held, "seconds": seconds, "loss": loss}


def inputs(dtype, heads: int, batch: int, positions: int, vocabulary: int):
    """Draw hidden states, unembedding, labels and weights."""
    import torch

    hidden = [torch.randn(batch, positions, WIDTH, dtype=dtype).requires_grad_() for _ in range(heads)]
    unembedding_VD = (torch.randn(vocabulary, WIDTH, dtype=dtype) / WIDTH**0.5).requires_grad_()
    labels_BT = torch.randint(vocabulary, (batch, positions))
    return hidden, unembedding_VD, labels_BT, 0.5 + torch.rand(batch, positions)


def run(variant: str, hidden, unembedding_VD, labels_BT, weight_BT) -> float:
    """Compute the loss in the variant's way, and its gradients."""
    import torch
    import torch.nn.functional as F
    from torch.utils.checkpoint import checkpoint

    from wmtp.maths.alignment import IGNORE, shift_left
    from wmtp.maths.loss import weighted_mtp_loss

    step_targets = len(labels_BT) * (labels_BT.shape[1] - 1)
    heads = len(hidden)
    target = [shift_left(labels_BT, k + 1, IGNORE) for k in range(heads)]
    weight = [shift_left(weight_BT, k + 1, 0) for k in range(heads)]
    scale = 1 / (heads * step_targets)
    if variant == "naive":
        logits_BTHV = torch.stack(hidden, dim=2) @ unembedding_VD.T
        target_BTH, weight_BTH = torch.stack(target, dim=2), torch.stack(weight, dim=2)
        nll_N = F.cross_entropy(
            logits_BTHV.flatten(0, 2).float(), target_BTH.flatten(), reduction="none", ignore_index=IGNORE
        )
        loss = scale * (weight_BTH.flatten() * nll_N).sum()
    elif variant == "per-head":
        loss = 0.0
        for k in range(heads):
            logits_NV = (hidden[k] @ unembedding_VD.T).flatten(0, 1)
            nll_N = F.cross_entropy(logits_NV.float(), target[k].flatten(), reduction="none", ignore_index=IGNORE)
            loss = loss + scale * (weight[k].flatten() * nll_N).sum()
    elif variant == "linear_cross_entropy":
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=512)
        loss = 0.0
        for k in range(heads):
            nll_N = F.linear_cross_entropy(
                hidden[k].flatten(0, 1),
                unembedding_VD,
                target[k].flatten(),
                reduction="none",
                ignore_index=IGNORE,
                options=options,
            )
            loss = loss + scale * (weight[k].flatten() * nll_N).sum()
    elif variant == "checkpointed-512":

        def chunk_nll(hidden_CD, target_C):
            return F.cross_entropy(
                (hidden_CD @ unembedding_VD.T).float(), target_C, reduction="none", ignore_index=IGNORE
            )

        loss = 0.0
        for k in range(heads):
            parts = zip(hidden[k].flatten(0, 1).split(512), target[k].flatten().split(512), strict=True)
            nll_N = torch.cat([checkpoint(chunk_nll, *part, use_reentrant=False) for part in parts])
            loss = loss + scale * (weight[k].flatten() * nll_N).sum()
    elif variant == "products":
        with torch.no_grad():
            logits_CV, grad_VD = hidden[0].new_empty(512, len(unembedding_VD)), torch.zeros_like(unembedding_VD)
            for hidden_CD in (chunk_CD for h in hidden for chunk_CD in h.flatten(0, 1).split(512)):
                chunk_CV = torch.mm(hidden_CD, unembedding_VD.T, out=logits_CV[: len(hidden_CD)])
                torch.mm(chunk_CV, unembedding_VD)
                grad_VD.addmm_(chunk_CV.T, hidden_CD)
        return 0.0
    elif variant == "liger":
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="none", accum_dtype=torch.float32)
        loss = 0.0
        for k in range(heads):
            nll_N = fused(unembedding_VD, hidden[k].flatten(0, 1), target[k].flatten())
            loss = loss + scale * (weight[k].flatten() * nll_N).sum()
    else:
        chunk_size = int(variant.removeprefix("wmtp-"))
        loss = weighted_mtp_loss(hidden, unembedding_VD, labels_BT, weight_BT, step_targets, chunk_size=chunk_size).loss
    loss.backward()
    return loss.item()


def status_megabytes(key: str) -> float:
    """Read a line of /proc/self/status."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
