"""No secret is written anywhere, whether its key or its form gives it away; and ordinary words stay."""

import pytest
from omegaconf import OmegaConf

from wmtp.cli import config_dir
from wmtp.errors import ConfigError
from wmtp.secrets import is_secret_key, mask_secrets, refuse_secrets

HIDDEN = "hunter2x9"  # the part of each text below that must not be seen
TEXTS = [
    f"s3://user:{HIDDEN}@bucket/key",
    f"s3://AKIAIOSFODNN7EXAMPLE:wJ/{HIDDEN}/K7@bucket/key",
    f"postgresql://me:p@{HIDDEN}@host/db",
    f"https://{HIDDEN}@host/x",
    f"https://host/x?token={HIDDEN}",
    f"https://host/x?part=1&X-Amz-Signature=0123456789abcdef{HIDDEN}&y=2",
    f"https://host/x?X-Amz-Credential={HIDDEN}%2F2026",
    f"https://blob.core.windows.net/c?sv=2024&sig=abcdefghij%2F{HIDDEN}",
    f"https://host/v1?key=abcdefghijkl{HIDDEN}",
    f"Bearer {HIDDEN}",
    f"Authorization: Basic {HIDDEN}",
    f"headers = {{'Authorization': 'token {HIDDEN}'}}",
    f"Basic dXNlcjo{HIDDEN}==",
    f'{{"password": "{HIDDEN}", "user": "me"}}',
    f"python -m wmtp.train db_pwd={HIDDEN} algo=rho1",
    f"host=h password='{HIDDEN} x' dbname=d",
    f"hf_abcdefghijklmnop{HIDDEN}",
    f"ghp_abcdefghijklmnop{HIDDEN}",
    f"gho_abcdefghijklmnop{HIDDEN}",
    f"github_pat_11ABC_abcdefghij{HIDDEN}",
    f"glpat-abcdefgh{HIDDEN}",
    f"sk-proj-abcdefgh{HIDDEN}",
    f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{HIDDEN}",
    f"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n{HIDDEN}\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("around", ["{}", "OSError: cannot read {} (403)", "<{}>", "('{}',)", '"{}"'])
def test_a_secret_is_known_by_its_form(text, around):
    assert HIDDEN not in mask_secrets(around.format(text))
    with pytest.raises(ConfigError) as refused:
        refuse_secrets({"data": {"path": text}})
    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize("key", ["db_pwd", "tokens", "auth_header", "logger.x.api_key", "clientSecret", "x-api-key"])
def test_a_secret_is_known_by_its_key(key):
    assert mask_secrets({key: HIDDEN}) == {key: "***"}
    assert HIDDEN not in mask_secrets(f"--{key}={HIDDEN}")
    with pytest.raises(ConfigError, match="holds a secret") as refused:
        refuse_secrets({key: [HIDDEN]})
    assert HIDDEN not in str(refused.value)


def test_the_environment_may_hold_what_a_config_may_not():
    refuse_secrets({"logger": {"password": "${oc.env:PASSWORD}", "token": None}})


ORDINARY = [
    "s3://bucket/team@work/mbpp.jsonl",
    "http://127.0.0.1:8080/a@b",
    "sqlite:////home/me@lab/runs/mlflow.db",
    "postgresql://me@host/db",
    "runs/hf_baseline-token_budget_4096",
    "https://host/x?page=2&key=id",
    "1280 target tokens, eos_token=<|endoftext|>, max_tokens=3, the key=value form",
    "/home/사용자/samples (1).jsonl",
    "a task-oriented sk-learn baseline; a basic understanding",
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or HF_TOKEN=…",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_stay_as_they_are(text):
    assert mask_secrets(text) == text
    refuse_secrets({"data": {"path": text}})


def test_the_folder_of_the_shell_is_no_secret(monkeypatch):
    monkeypatch.setenv("PWD", "/srv/study")
    assert mask_secrets("in /srv/study/runs") == "in /srv/study/runs"


def test_no_key_of_our_own_configs_is_taken_for_a_secret():
    def keys(node):
        for key, value in node.items():
            yield str(key)
            yield from keys(value) if isinstance(value, dict) else ()

    for file in config_dir().rglob("*.yaml"):
        assert not [key for key in keys(OmegaConf.to_container(OmegaConf.load(file))) if is_secret_key(key)], file
