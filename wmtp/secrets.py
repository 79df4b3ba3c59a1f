"""Keep secrets out of everything that is written: logs, configs, reports, checkpoints, MLflow."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MASK = "***"

# `token` only as the last word: hf_token is a secret, token_budget and max_new_tokens are not.
_SECRET_KEY = re.compile(r"secret|passw(or)?d|credential|(api|access|private)[-_.]?key|key[-_.]?id|(token|auth)$", re.I)
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")


def mask_secrets(config: Any) -> Any:
    """Replace every secret in a plain nested config by `***`.

    [동작] 이름이 비밀을 뜻하는 키(password, hf_token, aws_access_key_id …)의 값, 비밀 환경 변수의 값과 같은 글자열,
    URL 안의 암호를 가린다. 기록(MLflow, config.yaml)에 남기기 전에 부른다.

    Args:
        config: dict, list, 기본형으로 된 설정.

    Returns:
        같은 모양의 사본.

    Example:
        >>> mask_secrets({"storage": {"hf_token": "hf_abc", "url": "s3://u:pw@host/x"}, "token_budget": 4096})
        {'storage': {'hf_token': '***', 'url': 's3://***@host/x'}, 'token_budget': 4096}
    """
    # Six characters: a shorter "secret" would blank out ordinary words.
    secrets = [value for key, value in os.environ.items() if _SECRET_KEY.search(key) and len(value) >= 6]
    return _mask(config, sorted(secrets, key=len, reverse=True))


def _mask(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: MASK if _SECRET_KEY.search(str(key)) and item not in (None, "") else _mask(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mask(item, secrets) for item in value]
    if isinstance(value, str | Path):
        text = _URL_PASSWORD.sub(MASK, str(value))
        for secret in secrets:
            text = text.replace(secret, MASK)
        return text
    return value
