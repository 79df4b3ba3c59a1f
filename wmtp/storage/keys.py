"""Say where a key of `storage` belongs, and refuse credentials in configs: the two mistakes that people make here."""

import re

S3_KEYS = ("bucket", "prefix", "endpoint_url", "region")


def nested_form(key: str) -> str | None:
    """Say where a flat storage key belongs in the nested config; None if it is not one.

    Example:
        >>> nested_form("storage.bucket")
        'storage.bucket is a flat key; write it nested: storage.s3.bucket=….'
        >>> nested_form("s3_region")
        's3_region is a flat key; write it nested: storage.s3.region=….'
        >>> nested_form("storage.s3.secret_key")
        'storage.s3.secret_key: credentials are read from the environment only; set AWS_ACCESS_KEY_ID and \
AWS_SECRET_ACCESS_KEY, or HF_TOKEN, there.'
        >>> nested_form("data.path")
    """
    parent, _, last = key.lower().rpartition(".")
    if re.search(r"secret|passw|credential|token$|access_key|api_key", last) and re.match("storage|s3|aws|hf", key):
        return (
            f"{key}: credentials are read from the environment only; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or HF_TOKEN, there."
        )
    bare = re.sub("^(storage_)?(aws_|s3_)?", "", last)
    bare = {"endpoint": "endpoint_url", "region_name": "region"}.get(bare, bare)
    if bare in S3_KEYS and parent in ("", "storage", "s3"):
        return f"{key} is a flat key; write it nested: storage.s3.{bare}=…."
    if last in ("storage_mode", "storage_cache"):
        return f"{key} is a flat key; write it nested: storage.{bare}=…."
    return None
