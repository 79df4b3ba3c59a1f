"""Keep secrets out of everything that is written: commands, logs, configs, reports, checkpoints, MLflow.

[연구 맥락] 실행 폴더와 보고서는 남에게 건네는 것이고, 명령줄은 같은 컴퓨터의 누구나 본다 (`ps`).
    비밀이 갈 곳은 환경 변수뿐이다.
[동작] 비밀은 두 가지로 알아본다: 이름(`is_secret_key`: db_pwd, hf_token, auth_header …)과 생김새(주소 안의 암호,
    `Bearer …`, `hf_…`, `AKIA…`, JWT, 서명된 주소의 인자 …). 설정에 적혀 있으면 네트워크에 닿기 전에 거부하고
    (`refuse_secrets`), 그래도 글에 섞여 나온 것은 쓰기 전에 `***`로 가린다 (`mask_secrets`).
[디버깅] 평범한 값이 가려지면 `_SECRET_WORDS`와 `_FORMS`를 본다. 가린 글에 비밀이 남으면 그 생김새를 `_FORMS`에 더한다.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wmtp.errors import ConfigError

MASK = "***"

_SECRET_WORDS = frozenset(
    "secret secrets password passwords passwd passphrase pwd passcode credential credentials authorization bearer "
    "cookie cookies jwt apikey apikeys accesskey privatekey".split()
)
_SECRET_PAIRS = re.compile(
    r"(api|access|private|secret|account|signing|encryption|subscription|ssh)_keys?(_|$)|(^|_)key_id(_|$)|auth_headers?$"
)
# The tokens of a tokenizer and counts of tokens are no secrets.
_ORDINARY_TOKENS = re.compile(
    r"(^|_)(eos|bos|pad|unk|sep|cls|mask|special|added|extra|stop|end|start|n|num|max|min|total|new|valid|target)"
    r"(_new)?_tokens?$"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# What a secret looks like, whatever its key. Where a pattern has groups, the first is kept.
_FORMS = [
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
    # user:password@, up to the last @: both may hold one, and an AWS key holds slashes. host:8080/a@b is none.
    re.compile(r"(\w://)[^/\s:@'\"]*:(?!\d+(?:[/?#]|$))[^\s'\"]*(?=@)"),
    re.compile(r"((?:https?|s3|gs|hf)://)[^/\s?#'\"]+(?=@)"),
    re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?)(?:\w+ +)?[^\s'\",}]+", re.I),
    re.compile(r"(\bbearer\s+)[\w.~+/=-]{6,}", re.I),
    re.compile(r"(\bbasic\s+)(?=[A-Za-z0-9+/]*[\d=+/])[A-Za-z0-9+/]{8,}={0,2}", re.I),
    re.compile(
        r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}|\bgh[opsur]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    ),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|\bAIza[\w-]{30,}|\bxox[a-z]-[\w-]{10,}|\bdapi[0-9a-f]{32}"),
    re.compile(r"\b(?:sk|rk|pk)-(?=[\w-]*\d)[\w-]{16,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"),  # a JSON web token
]
# key=value, in the query of an address, a connection string or a command; and "key": "value".
_ASSIGNED = re.compile(r"(?<![\w.+-])([\w.+-]+)=(?!\*\*\*|…|\$)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)")
_QUOTED = re.compile(r"(['\"])([\w.-]+)\1(\s*:\s*)(['\"])(.*?)\4")
_SIGNATURES = re.compile(r"(^|_)(sig|signature)$|^key$")  # of a signed address


def is_secret_key(key: str) -> bool:
    """Tell whether what stands under a key is a secret.

    Example:
        >>> [is_secret_key(key) for key in ("db_pwd", "tokens", "auth_header", "HF_TOKEN", "awsAccessKeyId")]
        [True, True, True, True, True]
        >>> [is_secret_key(key) for key in ("token_budget", "eos_token", "max_new_tokens", "author", "tokenizer")]
        [False, False, False, False, False]
    """
    words = [word.lower() for word in _WORD.findall(key.rpartition(".")[2])]
    joined = "_".join(words)
    if not words or _ORDINARY_TOKENS.search(joined):
        return False
    return bool(_SECRET_WORDS & set(words) or words[-1] in ("token", "tokens", "auth") or _SECRET_PAIRS.search(joined))


def refuse_secrets(config: Mapping[str, Any]) -> None:
    """Refuse a config that has a secret written in it; `${oc.env:NAME}` has none.

    Args:
        config: 보간을 풀지 않은 설정. 명령줄의 인자라면 `{키: 값}`.

    Raises:
        ConfigError: 비밀로 보이는 값이 적혀 있을 때. 문장에는 가린 값만 나온다.
    """
    for key, value in _leaves(config):
        if value in (None, "", "null", "???") or (isinstance(value, str) and value.lstrip("'\"").startswith("${")):
            continue
        shown = MASK if _names_secret(key, value) else _mask_text(str(value))
        if shown != str(value):
            raise ConfigError(
                f"{key} = {shown} holds a secret. Commands and configs are read by others and recorded: put it into an "
                "environment variable (S3 reads AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the Hub HF_TOKEN, MLflow "
                f"MLFLOW_TRACKING_URI), and where a key must have it write '{key}=${{oc.env:NAME}}'."
            )


def mask_secrets(config: Any) -> Any:
    """Replace every secret in a text, or in a plain nested config, by `***`.

    [동작] 이름이 비밀을 뜻하는 키의 값, 생김새가 비밀인 것, 비밀 환경 변수의 값과 같은 글자열을 가린다.
        화면, 기록(MLflow, config.yaml, train.log)에 남기기 전에 부른다.

    Example:
        >>> mask_secrets({"storage": {"hf_token": "hf_abc", "url": "s3://u:pw@host/x"}, "token_budget": 4096})
        {'storage': {'hf_token': '***', 'url': 's3://***@host/x'}, 'token_budget': 4096}
        >>> mask_secrets("GET https://host/x?token=abc&part=2 with Bearer abcdef")
        'GET https://host/x?token=***&part=2 with Bearer ***'
    """
    return _mask(config, secret_variables())


def secret_variables() -> list[str]:
    """Return the values of the environment's secrets, longest first."""
    # Six characters: a shorter "secret" would blank out ordinary words. PWD is a folder.
    found = (
        value
        for key, value in os.environ.items()
        if len(value) >= 6 and key not in ("PWD", "OLDPWD") and is_secret_key(key)
    )
    return sorted(found, key=len, reverse=True)


def _mask(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: MASK if item not in (None, "") and _names_secret(str(key), item) else _mask(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mask(item, secrets) for item in value]
    if isinstance(value, str | Path):
        text = str(value)
        for secret in secrets:
            text = text.replace(secret, MASK)
        return _mask_text(text)
    return value


def _names_secret(key: str, value: Any) -> bool:
    """Say whether a key makes its value a secret; a number under `tokens` is a count."""
    return is_secret_key(key) and not (isinstance(value, int | float) and key.lower().endswith(("token", "tokens")))


def _mask_text(text: str) -> str:
    for form in _FORMS:
        text = form.sub(lambda match: (match[1] if match.lastindex else "") + MASK, text)
    text = _ASSIGNED.sub(
        lambda match: f"{match[1]}={MASK}" if _is_secret_argument(match[1], match[2]) else match[0], text
    )
    return _QUOTED.sub(
        lambda m: f"{m[1]}{m[2]}{m[1]}{m[3]}{m[4]}{MASK}{m[4]}" if m[5] and is_secret_key(m[2]) else m[0], text
    )


def _is_secret_argument(key: str, value: str) -> bool:
    signature = bool(_SIGNATURES.search(key.lower().replace("-", "_"))) and len(value) >= 16
    return signature or (_names_secret(key, int(value) if value.isdecimal() else value) and value != "null")


def _leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its full key; a secret key ends the way down."""
    if isinstance(config, Mapping) and not (path and is_secret_key(path)):
        for key, value in config.items():
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    elif isinstance(config, list) and not (path and is_secret_key(path)):
        for number, value in enumerate(config):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, config
