"""Work out one training step on real numbers: ids, labels, shift, scores, weights, loss, for one short program.

    python scripts/one_step.py                    the numbers of docs/one_step.md, seconds

[연구 맥락] 식은 짧지만 토큰 하나가 어느 헤드의 어느 자리에서 세어지는지는 숫자를 보아야 보인다.
[동작] 들어 있는 tiny-base와 tiny-reference, 합성 데이터의 짧은 프로그램 하나(일부러 망가뜨린 것). 계산은 학습이 부르는
    바로 그 함수들이 한다. 다만 float64로: 그래야 어느 CPU에서나 같은 숫자가 적힌다.
[디버깅] 문서의 숫자는 `python scripts/pages/quotes.py`가 다시 적고, 같은지는 tests/unit/test_pages.py가 본다.
"""

#   B sequences, T positions, H heads

import re
from pathlib import Path

import torch

from wmtp.data.batching import collate
from wmtp.data.problem import Problem
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.data.tokenization import tokenize_problem
from wmtp.maths.alignment import IGNORE, shift_left, target_mask
from wmtp.maths.loss import target_nll, weighted_mtp_loss
from wmtp.maths.weighting import (
    SoftWeighting,
    blend,
    clip_keeping_mean,
    emphasize_top,
    softmax_log_weights,
    standardize,
)
from wmtp.models.loading import load_model
from wmtp.models.tokenizer import load_tokenizer

ASSETS = Path(__file__).resolve().parent.parent / "wmtp" / "assets"


def short_problem() -> Problem:
    """Choose the shortest of 300 programs that were corrupted by wrong lines, and not by a comment."""
    corrupted = [
        problem for problem in Synthetic(train_size=300, noise=1.0).problems("train") if "#" not in problem.solutions[0]
    ]
    return min(corrupted, key=lambda problem: len(problem.solutions[0]))


@torch.no_grad()
def one_step() -> dict[str, str]:
    """Work the step out; the parts of the page by name."""
    problem = short_problem()
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    base = load_model(ASSETS / "tiny-base").double().eval()
    reference = load_model(ASSETS / "tiny-reference", heads=1).double().eval()
    sample = tokenize_problem(problem, Synthetic0Shot(), tokenizer)
    batch = collate([sample], step_targets=sample.targets, pad_token_id=tokenizer.pad_token_id)
    ids_BT, labels_BT, mask_BT = batch["input_ids_BT"], batch["labels_BT"], target_mask(batch["labels_BT"])
    text = [f"`{tokenizer.decode([token])!r}`" for token in sample.input_ids[:-1]] + ["끝"]
    targets = [j for j, is_target in enumerate(mask_BT[0].tolist()) if is_target]
    first = targets[0]

    output, known = base.mtp(ids_BT), reference.mtp(ids_BT)
    nll_HBT = [
        target_nll(hidden_BTD, output.unembedding_VD, labels_BT, k) for k, hidden_BTD in enumerate(output.hidden)
    ]
    reference_BT = target_nll(known.hidden[0], known.unembedding_VD, labels_BT)
    score_BT = nll_HBT[0] - reference_BT  # rho1, score=excess

    soft = SoftWeighting()  # the values of conf/algo/weighting/soft.yaml
    z_BT = standardize(score_BT, mask_BT)
    u_BT = emphasize_top(z_BT, mask_BT, soft.percentile)
    log_weight_BT = softmax_log_weights(u_BT, mask_BT, soft.temperature)
    clipped_BT = clip_keeping_mean(log_weight_BT, mask_BT, soft.epsilon, soft.w_max)
    weight_BT = blend(clipped_BT, mask_BT, soft.lam)
    assert torch.equal(weight_BT, soft(score_BT, mask_BT)), "what is shown is what a run does"

    losses = {
        name: weighted_mtp_loss(output.hidden, output.unembedding_VD, labels_BT, weights, sample.targets)
        for name, weights in (("w", weight_BT), ("1", None))
    }
    count_H = losses["w"].target_count_H
    return {
        "problem": f"{Synthetic0Shot().render(problem)}{problem.solutions[0]}\n",
        "ids": table(
            ["자리", "글자", "번호", "라벨"],
            [
                [j, text[j], ids_BT[0, j].item(), labels_BT[0, j].item()]
                for j in [*range(3), *range(first - 2, first + 8), *range(len(text) - 2, len(text))]
            ],
        ),
        "shift": table(
            ["자리 t", "읽은 글자", *(f"head {k}의 목표" for k in range(len(output.hidden)))],
            [
                [t, text[t], *(_target(text, shift_left(labels_BT, k + 1, IGNORE)[0, t], t + 1 + k) for k in range(4))]
                for t in [*range(first - 5, first + 4), *range(len(text) - 4, len(text))]
            ],
        ),
        "scores": table(
            ["토큰 j", "글자", "망가짐", "CE_base", "CE_ref", "점수 s"],
            [
                [
                    j,
                    text[j],
                    "●" if batch["noise_BT"][0, j] else "",
                    number(nll_HBT[0][0, j]),
                    number(reference_BT[0, j]),
                    number(score_BT[0, j]),
                ]
                for j in targets
            ],
        ),
        "weights": table(
            ["토큰 j", "글자", "망가짐", "s", "z", "N·softmax(z/T)", "w"],
            [
                [
                    j,
                    text[j],
                    "●" if batch["noise_BT"][0, j] else "",
                    number(score_BT[0, j]),
                    number(z_BT[0, j]),
                    number(log_weight_BT[0, j].exp()),
                    number(weight_BT[0, j]),
                ]
                for j in targets
            ],
        )
        + f"\n평균(w) = {number(weight_BT[mask_BT].double().mean())}, "
        f"가장 작은 w = {number(weight_BT[mask_BT].min())}, 가장 큰 w = {number(weight_BT[mask_BT].max())}.\n",
        "loss": table(
            ["헤드 k", "목표의 수", "평균 nll", "Σ w·nll", "Σ w·nll / (H·M)"],
            [
                [
                    k,
                    int(count_H[k]),
                    number(losses["w"].nll_sum_H[k] / count_H[k]),
                    number((weight_BT * nll_BT).sum()),
                    number((weight_BT * nll_BT).sum() / (len(nll_HBT) * sample.targets)),
                ]
                for k, nll_BT in enumerate(nll_HBT)
            ],
        )
        + f"\nM = {sample.targets}, H = {len(nll_HBT)}.\n"
        f"`weighted_mtp_loss`가 낸 L은 **{number(losses['w'].loss)}**이다: "
        f"위의 마지막 칸을 반올림하지 않고 더한 것이다.\n모든 w가 1이면(baseline) {number(losses['1'].loss)}이다.\n",
    }


def _target(text: list[str], label: torch.Tensor, place: int) -> str:
    return "–" if label == IGNORE else text[place]


def number(value: torch.Tensor | float) -> str:
    """Write a number with three decimals; a zero has no sign."""
    return f"{round(float(value), 3) + 0.0:.3f}"


def table(heads: list[str], rows: list[list]) -> str:
    """Write rows as a table of Markdown; a column of numbers stands to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    numbers = [all(re.fullmatch(r"-?[\d.]+", row[column]) for row in cells) for column in range(len(heads))]
    lines = [heads, ["---:" if right else "---" for right in numbers], *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for name, part in one_step().items():
        print(f"== {name}\n{part}")
