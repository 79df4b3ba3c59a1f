"""Keep what failed in a run and what was changed then, so that any later start goes on with it.

[동작] `attempts.json`에 실패와 고친 키와 값을 먼저 적고 나서 다시 시작한다. 그래서 회복하다가 꺼져도 `ckpt=last`가 고친
    설정으로 이어 간다. 처음 설정으로 되돌리려면 attempts.json을 지운다.
[디버깅] 남의 실행에서 온 파일일 수 있으므로, 회복이 고치는 키와 평범한 값만 읽는다.
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wmtp.errors import CheckpointError
from wmtp.run.failure import Failure, write_json
from wmtp.run.remedies import CHANGES, Remedy
from wmtp.storage.lock import alone

FILE = "attempts.json"
Record = dict[str, Any]


def read_attempts(run: Path) -> list[Record]:
    """Read what was tried in a run so far.

    Raises:
        CheckpointError: 파일이 깨졌거나, 회복이 고치지 않는 키나 평범하지 않은 값이 있을 때.
    """
    file = run / FILE
    if not file.exists():
        return []
    try:
        attempts = json.loads(file.read_text(encoding="utf-8"))
        changes = [change for attempt in attempts for change in attempt["changes"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); remove it to go on with the settings that you give."
        ) from error
    for key, value in changes:
        if key not in CHANGES or not isinstance(value, int | float | str) or "${" in str(value):
            raise CheckpointError(
                f"{file} changes {key} to {value!r}, which wmtp never does; it was not written by wmtp, or not by this "
                "version: remove it to go on with the settings that you give."
            )
    return attempts


def with_changes(cfg: DictConfig, attempts: list[Record]) -> DictConfig:
    """Return the config with all that the attempts changed."""
    cfg = cfg.copy()
    for attempt in attempts:
        for key, value in attempt["changes"].items():
            OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


def write_attempt(
    run: Path,
    failure: Failure,
    remedy: Remedy,
    good: tuple[Path, int] | None = None,
    replay: str | None = None,
    known: int | None = None,
) -> None:
    """Append an attempt; nothing where another rank has done so since there were `known` of them.

    Args:
        good: 돌아갈 체크포인트와 그 스텝. 없으면 처음부터.
        replay: 그 스텝을 되풀이하는 명령.
        known: 이 랭크가 아는 시도의 수.
    """
    name, changes = remedy
    with alone(run / f"{FILE}.lock"):
        attempts = read_attempts(run)
        if known is not None and len(attempts) > known:
            return
        attempts.append(
            {
                "number": len(attempts) + 1,
                "remedy": name,
                "changes": changes,
                "action": f"{name}: " + ", ".join(f"{k} = {v}" for k, v in changes.items()),
                "went_back_to": good[0].name if good else None,
                "resumed_step": good[1] if good else 0,
                "replay": replay,
                **failure.to_dict(),
            }
        )
        write_json(run / FILE, attempts)


def as_overrides(attempts: list[Record]) -> list[str]:
    """Write what the attempts changed as it is given on the command line.

    Example:
        >>> as_overrides([{"changes": {"data.pieces": 2}}])
        ['++data.pieces=2']
    """
    return [f"++{key}={value}" for attempt in attempts for key, value in attempt["changes"].items()]
