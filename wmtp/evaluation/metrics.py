"""Count what passed, per problem and over all ranks, and say how sure the number is.

[연구 맥락] pass@k는 문제마다 먼저 구하고 문제들의 평균을 낸다 (maths.md 7절).
    평균의 구간은 문제를 다시 뽑는 부트스트랩이다.
[동작] 문제마다 표본 수와 정답 수만 세어 둔다. 여러 rank의 수는 더하면 되므로,
    한 문제의 표본이 어느 rank에서 채점되었든 결과가 같다.
[디버깅] 표본이 하나도 없는 문제는 평균에 들어가지 않는다. `missing`이 그 수를 알려 준다.
"""

#   P problems, N samples

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from wmtp import ranges
from wmtp.errors import ConfigError
from wmtp.maths.pass_at_k import mean_interval, pass_at_k


class PassAtK(Metric):
    """Estimate pass@k from samples that arrive in any order, on any rank.

    Args:
        problems: 문제의 수. 문제는 0부터 세는 번호로 부른다.
        options: torchmetrics의 설정 (sync_on_compute 등).

    Raises:
        ConfigError: k가 1보다 작거나, 어떤 문제의 표본 수보다 클 때 (compute에서).

    Example:
        >>> metric = PassAtK(problems=2, ks=(1, 2))
        >>> metric.update(torch.tensor([0, 0, 1, 1]), torch.tensor([True, False, True, True]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items() if "_" not in name}
        {'pass@1': 0.75, 'pass@2': 1.0}
    """

    full_state_update = False
    higher_is_better = True
    sample_count_P: Tensor
    correct_count_P: Tensor

    def __init__(self, problems: int, ks: Sequence[int] = (1,), **options: Any):
        super().__init__(**options)
        ranges.check(ranges.PROGRAM, ks=ks)
        self.ks = tuple(ks)
        # Sums over ranks: a problem's samples may be judged anywhere, and nothing ragged has to be gathered.
        self.add_state("sample_count_P", torch.zeros(problems, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("correct_count_P", torch.zeros(problems, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, problem_N: Tensor, passed_N: Tensor) -> None:
        """Add samples: the number of their problem, and whether they passed."""
        self.sample_count_P.index_add_(0, problem_N, torch.ones_like(problem_N))
        self.correct_count_P.index_add_(0, problem_N, passed_N.long())

    def compute(self) -> dict[str, Tensor]:
        """Return pass@k with the ends of its 95 % interval, for every k, over the problems that have samples."""
        each = zip(self.sample_count_P.tolist(), self.correct_count_P.tolist(), strict=True)
        counts = [(n, c) for n, c in each if n > 0]
        result = {}
        for k in self.ks:
            require_samples([n for n, _ in counts], k)
            values = [pass_at_k(n, c, k) for n, c in counts]
            low, high = mean_interval(values) if values else (float("nan"), float("nan"))
            mean = sum(values) / len(values) if values else float("nan")
            for name, value in ((f"pass@{k}", mean), (f"pass@{k}_low", low), (f"pass@{k}_high", high)):
                result[name] = torch.tensor(value, dtype=torch.float64)
        return result

    @property
    def missing(self) -> int:
        """Count the problems without any sample."""
        return int((self.sample_count_P == 0).sum())


def require_samples(counts: Sequence[int], k: int) -> None:
    """Refuse a k that some problem has too few samples for."""
    short = [n for n in counts if n < k]
    if short:
        raise ConfigError(
            f"pass@{k} needs at least {k} samples of each problem, but {len(short)} of {len(counts)} problems "
            f"have fewer (the fewest: {min(short)}). Set sampling.n={k} or more, or ask for a smaller k."
        )
