"""Say what a run was made of: which code, which data, which weights; by content, not by name.

[연구 맥락] 한 달 뒤에 두 실행이 다르면, 코드가 달랐는지 데이터가 달랐는지 모델이 달랐는지부터 알아야 한다.
[동작] config.yaml의 `made_of`가 된다 (어디서 왔는지와 라이선스는 `used`). 보고서와 MLflow는 거기서 읽는다.
[디버깅] commit이 없으면 git 저장소에서 돌린 것이 아니다 (설치된 패키지). dirty가 true면 커밋하지 않은 수정이 있다.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wmtp

_PACKAGE = Path(__file__).resolve().parents[1]


def code_version(package: Path = _PACKAGE) -> dict[str, Any]:
    """Name the code: its version, and in a checkout its commit and whether tracked files differ from it.

    Args:
        package: 파이썬 패키지의 폴더. git이 따라가는 것이 아니면 판만 적는다.
    """
    version: dict[str, Any] = {"version": wmtp.__version__}
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:  # installed, perhaps into another checkout
        return version
    if commit := _git(package, "rev-parse", "HEAD"):
        version |= {"commit": commit, "dirty": bool(_git(package, "status", "--porcelain", "--untracked-files=no"))}
    return version


def made_of(data: Any, benchmarks: Iterable[Any], weights: str | None) -> dict[str, Any]:
    """Name the code, the training problems, the problems of each benchmark, and the weights at the start."""
    return {
        "code": code_version(),
        "data": data.fingerprint("train"),
        "benchmarks": {benchmark.name: benchmark.identity()["problems"] for benchmark in benchmarks},
        "model": weights,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """Ask git; None where there is no git or no repository."""
    try:
        asked = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None
