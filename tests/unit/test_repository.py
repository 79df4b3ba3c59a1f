"""Hold what must never be tracked: paths of one machine, addresses of registries, lock files, large files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MB = 2**20
ADDRESSES = re.compile(r"pypi\.org|python[h]osted|download\.pytorch\.org|-index[-]url|find[-]links|registry\.npm", re.I)
HOMES = re.compile(r"/(?:home|Users)/[a-z][\w.-]*/", re.I)
LOCKS = re.compile(r"\.lock$|(^|/)(package-lock\.json|pylock\b.*\.toml|npm-shrinkwrap\.json)$")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def test_no_tracked_file_names_this_machine_or_a_registry(tracked):
    here = {str(ROOT), sys.prefix, sys.base_prefix} - {"/usr", "/usr/local"}
    found = []
    for path in tracked:
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if ADDRESSES.search(line) or HOMES.search(line) or any(place in line for place in here):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_lock_file_is_tracked(tracked):
    assert [path.name for path in tracked if LOCKS.search(path.relative_to(ROOT).as_posix())] == []


def test_no_large_file_is_tracked_and_the_assets_stay_small(tracked):
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked}
    assets = {name: size for name, size in sizes.items() if name.startswith("wmtp/assets/")}
    assert [name for name, size in sizes.items() if size > 4 * MB and name not in assets] == []
    assert sum(assets.values()) <= 6 * MB


def test_every_package_is_named_for_the_wheel():
    named = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "wmtp").rglob("*.py")}
    assert named == found | {"wmtp.assets", "wmtp.conf"}
