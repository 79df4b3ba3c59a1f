"""Say which problems two evaluations judge differently, and whether that could be chance.

[연구 맥락] pass@1이 0.41과 0.43이라는 것만으로는 무엇이 나아졌는지 모른다. 같은 문제끼리 짝지으면 어느 문제가 나아지고
    나빠졌는지 보이고, 구간도 좁아진다.
[동작] 평가 폴더의 파일만 읽는다. 양쪽에 다 있는 문제만 비교한다. 방향은 언제나 뒤의 것 빼기 앞의 것이다.
    차이의 구간은 짝지은 것이고, 검정은 값이 다른 문제만 세는 정확한 부호 검정이다 (표본이 하나면 McNemar).
[디버깅] 같은 벤치마크인데 겹치는 문제가 없으면 `benchmark.split`이나 `limit`이 다른 것이다.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from wmtp.errors import ConfigError
from wmtp.maths.pass_at_k import paired_difference, sign_test
from wmtp.reporting.reading import read_evaluation
from wmtp.reporting.screen import line_of
from wmtp.reporting.texts import Texts

Verdicts = Mapping[str, Counter[str]]  # the problem → how often each verdict


@dataclass(frozen=True)
class Difference:
    """Hold what changed from one evaluation to another.

    Attributes:
        rates: 두 평가의 통과율. 양쪽에 다 있는 문제의 평균.
        mean, low, high: 뒤의 것 빼기 앞의 것과 그 95 % 구간.
        p: 차이가 없는데도 이만큼 한쪽으로 기울 확률.
        better, worse, otherwise: 문제 → (앞의 판정, 뒤의 판정). 통과율이 오른 것, 내린 것, 그대로인데 판정만 다른 것.
        alone: 각 평가에만 있는 문제의 수.
    """

    problems: int
    rates: tuple[float, float]
    mean: float
    low: float
    high: float
    p: float
    better: dict[str, tuple[str, str]]
    worse: dict[str, tuple[str, str]]
    otherwise: dict[str, tuple[str, str]]
    alone: tuple[int, int]


def find_difference(before: Verdicts, after: Verdicts) -> Difference:
    """Compare two evaluations on the problems that both have judged."""
    both = [task_id for task_id in before if task_id in after]
    rates = [[of[task_id]["passed"] / of[task_id].total() for task_id in both] for of in (before, after)]
    changed: dict[int, dict[str, tuple[str, str]]] = {-1: {}, 0: {}, 1: {}}
    for task_id, first, second in zip(both, *rates, strict=True):
        if before[task_id] != after[task_id]:
            way = (second > first) - (second < first)
            changed[way][task_id] = _in_words(before[task_id]), _in_words(after[task_id])
    mean, low, high = paired_difference(rates[1], rates[0])
    return Difference(
        problems=len(both),
        rates=(sum(rates[0]) / len(both), sum(rates[1]) / len(both)),
        mean=mean,
        low=low,
        high=high,
        p=sign_test(len(changed[1]), len(changed[-1])),
        better=changed[1],
        worse=changed[-1],
        otherwise=changed[0],
        alone=(len(before) - len(both), len(after) - len(both)),
    )


def compare_folders(first: Path, second: Path, t: Texts) -> tuple[Difference, str]:
    """Compare the results in two folders, and say in a few lines what changed.

    Raises:
        ConfigError: 폴더에 결과가 없을 때, 양쪽에 다 있는 문제가 없을 때.
    """
    before, after = read_verdicts(first), read_verdicts(second)
    if not before.keys() & after.keys():
        names = (next(iter(verdicts), "none that can be judged") for verdicts in (before, after))
        raise ConfigError(
            f"diff = {first},{second}: no problem stands in both ({', '.join(f'{name} …' for name in names)}). "
            "Give two evaluations of one benchmark."
        )
    found = find_difference(before, after)
    return found, "\n".join(_lines(found, first, second, t))


def read_verdicts(folder: Path) -> Verdicts:
    """Read how often each problem got each verdict.

    Raises:
        ConfigError: 폴더에 결과가 없을 때.
    """
    evaluation = read_evaluation(folder, [], Texts())
    verdicts: dict[str, Counter[str]] = {}
    for result in evaluation.results:
        verdicts.setdefault(str(result.get("task_id")), Counter())[str(result.get("status"))] += 1
    if not verdicts:
        raise ConfigError(f"diff: {folder} holds no results.jsonl; give the folders of two evaluations.")
    not_counted = set(chain(*(names for key, names in evaluation.metrics.items() if key.endswith("/unjudgeable"))))
    return {task_id: found for task_id, found in verdicts.items() if task_id not in not_counted}


def _lines(found: Difference, first: Path, second: Path, t: Texts) -> list[str]:
    evaluations = zip("AB", found.rates, (first, second), strict=True)
    lines = [line_of(name, f"{rate:.3f}   {folder}") for name, rate, folder in evaluations]
    on = t("{problems} problems in both", problems=found.problems)
    lines.append(line_of(t("difference"), f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]   {on}"))
    counts = dict(better=len(found.better), worse=len(found.worse))
    lines.append(line_of(t("sign test"), f"p = {found.p:.3g}   {t('{better} better, {worse} worse', **counts)}"))
    if any(found.alone):
        lines.append(line_of(t("in one only"), f"A {found.alone[0]}, B {found.alone[1]}"))
    lines += [line_of(key, f"{one} → {other}") for key, one, other in _different(_settings(first), _settings(second))]
    for name, changed in (("better", found.better), ("worse", found.worse), ("otherwise", found.otherwise)):
        lines += [line_of(t(name), f"{task_id}   {t(one)} → {t(other)}") for task_id, (one, other) in changed.items()]
    return lines


def _in_words(verdicts: Counter[str]) -> str:
    """Write the verdict of one sample, or how many of several passed."""
    return next(iter(verdicts)) if verdicts.total() == 1 else f"{verdicts['passed']}/{verdicts.total()}"


def _settings(folder: Path) -> dict[str, Any]:
    """Read how it was evaluated; nothing where that is not one evaluation."""
    try:
        found = json.loads((folder / "eval.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    shared = [key for key in before.keys() & after.keys() - {"ckpt", "samples"} if before[key] != after[key]]
    return [(key, before[key], after[key]) for key in sorted(shared)]
