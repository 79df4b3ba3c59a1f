"""Say where a key of `storage` belongs that was written flat."""

import re

S3_KEYS = ("bucket", "prefix", "endpoint_url", "region")


def nested_form(key: str) -> str | None:
    """Say where a flat storage key belongs in the nested config; None if it is not one.

    Example:
        >>> nested_form("storage.bucket")
        'storage.bucket is a flat key; write it nested: storage.s3.bucket=….'
        >>> nested_form("s3_region")
        's3_region is a flat key; write it nested: storage.s3.region=….'
        >>> nested_form("data.path")
    """
    parent, _, last = key.lower().rpartition(".")
    bare = re.sub("^(storage_)?(aws_|s3_)?", "", last)
    bare = {"endpoint": "endpoint_url", "region_name": "region"}.get(bare, bare)
    if bare in S3_KEYS and parent in ("", "storage", "s3"):
        return f"{key} is a flat key; write it nested: storage.s3.{bare}=…."
    if last in ("storage_mode", "storage_cache"):
        return f"{key} is a flat key; write it nested: storage.{bare}=…."
    return None
