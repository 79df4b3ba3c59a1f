"""Say what makes two evaluations the same, and go on only with the same.

[연구 맥락] 이어 하다가 다른 설정의 결과가 섞이면 숫자는 아무것도 뜻하지 않고, 그것을 알 길도 없다.
[동작] 마지막 파일들이 딸린 모든 것(벤치마크, 표본을 뽑는 법, 모델이나 표본의 내용, 격리)을 eval.json에 적어 두고,
    다음에 온 평가의 것과 견준다. 얼마나 빨리 나오는지(배치, 작업자, 프로세스의 수)는 들지 않는다.
[디버깅] 오류 문장이 서로 다른 것 하나의 이름과 두 값을 말한다.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wmtp.errors import ConfigError
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.journal import Key
from wmtp.evaluation.samples import Given
from wmtp.evaluation.sandbox import Sandbox
from wmtp.models.sampling import Sampling
from wmtp.storage.files import write_atomically

FILES = (
    "eval.json", "samples*.jsonl", "results*.jsonl", "timings*.jsonl", "metrics.json", "speed.json",
    "eval_results.json", "verdicts.csv",
)  # fmt: skip
REPORTS = ("report.md", "report.html")


def fingerprint_of(
    benchmark: Benchmark,
    sandbox: Sandbox,
    sampling: Sampling | None,
    checkpoint: str,
    given: dict[Key, Given],
    extract: str,
) -> dict[str, Any]:
    """Describe everything that the final files depend on; how fast they come is left out.

    [동작] 디코딩 방법은 속도만 바꾼다. min(1, p/q)로 뽑는 표본만 다르다 (`Sampling.decoding`).
    """
    drawn = asdict(sampling) if sampling else {}
    drawn["speculative"] = bool(sampling) and sampling.decoding == "speculative" and sampling.temperature > 0
    return {
        **{f"benchmark.{name}": value for name, value in benchmark.identity().items()},
        **{f"sampling.{name}": drawn[name] for name in drawn.keys() - {"batch_size", "decoding"}},
        "ckpt": checkpoint,
        "samples": _digest_of_all(given) if given else None,
        "extract": extract,
        "sandbox.isolation": sandbox.isolation,
        "sandbox.packages": sandbox.packages,
    }


def _digest_of_all(given: dict[Key, Given]) -> str:
    digest = hashlib.sha256()
    for key in sorted(given):
        digest.update(repr((key, *given[key])).encode())
    return digest.hexdigest()[:16]


def check_same_evaluation(out: Path, fingerprint: dict[str, Any], overwrite: bool, alone: bool) -> None:
    """Go on only with the same evaluation; another one is refused, or replaced where that is wanted and none lives.

    Args:
        alone: 이 폴더에서 일하는 다른 프로세스가 없는지.

    Raises:
        ConfigError: 다른 평가가 있을 때. 무엇이 다른지 하나를 말한다.
    """
    path = out / "eval.json"
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        found = None
    if found == fingerprint:
        return
    files = [file for name in FILES for file in out.glob(name)]
    if files and not overwrite:
        if isinstance(found, dict):
            differs = next((name for name in sorted(fingerprint) if found.get(name) != fingerprint[name]), "eval.json")
            what = f"({differs} = {found.get(differs)}, now {fingerprint.get(differs)})"
        else:
            what = "or this one: its eval.json is damaged"
        raise ConfigError(
            f"out = {out} holds another evaluation {what}. Choose another out, or replace it with overwrite=true."
        )
    if files and not alone:
        raise ConfigError(f"out = {out}: another evaluation is writing there. Let it end, or choose another out.")
    for file in [*files, *(out / name for name in REPORTS if files)]:
        file.unlink(missing_ok=True)
    write_atomically(path, json.dumps(fingerprint, indent=2, sort_keys=True).encode() + b"\n")
