"""List what the set-up installs: the size of each package, how much of it is there for which dependency of ours alone.

    ./scripts/setup scripts/bench/packages.py

[동작] 설치된 환경의 메타데이터에서 읽는다. "alone"은 그 의존성을 뺐을 때 함께 없어질 패키지들의 크기와 수이다:
    다른 것도 쓰는 패키지는 세지 않는다. 쓰임새(use)는 pyproject.toml의 것을 누가 import하는지이다.
"""

import ast
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@cache
def size_of(name: str) -> float:
    """Return the megabytes of a package's own files."""
    files = distribution(name).files or []
    return sum(path.stat().st_size for file in files if (path := Path(file.locate())).is_file()) / 1e6


@cache
def needs(name: str, extras: tuple[str, ...] = ()) -> frozenset[tuple[str, tuple[str, ...]]]:
    """List what a package wants here, each with the extras that are wanted of it."""
    wanted = set()
    try:
        requires = distribution(name).requires or []
    except PackageNotFoundError:
        return frozenset()
    for requirement in map(Requirement, requires):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            wanted.add((canonicalize_name(requirement.name), tuple(sorted(requirement.extras))))
    return frozenset(wanted)


def closure(roots: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """List everything that these packages bring, themselves included, as far as it is installed."""
    seen, work = set(), list(roots)
    while work:
        one = work.pop()
        if one not in seen:
            seen.add(one)
            work.extend(needs(*one))
    return {name for name, _ in seen if _is_there(name)}


def _is_there(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def users_of() -> dict[str, set[str]]:
    """List for each package the folders of this project that import it."""
    owners, users = packages_distributions(), {}
    for file in [*(ROOT / "wmtp").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        room = "/".join(file.relative_to(ROOT).parts[:2]).removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                for package in owners.get(name.partition(".")[0], []):
                    users.setdefault(canonicalize_name(package), set()).add(room)
    return users


def main() -> None:
    ours = sorted(needs("wmtp", ("dev",)))
    everything, users = closure(ours), users_of()
    rows = []
    for name, extras in ours:
        others = closure([one for one in ours if one[0] != name])
        alone = everything - others
        label = f"{name}[{','.join(extras)}]" if extras else name
        used = sorted(room for room in users.get(name, ()) if room.startswith("wmtp/")) or sorted(users.get(name, ()))
        rows.append((sum(map(size_of, alone)), label, size_of(name), len(alone), used))
    print("| dependency | own MB | alone MB | packages | used in |\n|---|---:|---:|---:|---|")
    for megabytes, label, own, count, used in sorted(rows, reverse=True):
        print(f"| {label} | {own:.0f} | {megabytes:.0f} | {count} | {re.sub('wmtp/', '', ', '.join(used)) or '–'} |")
    print(f"\n{len(everything)} packages, {sum(map(size_of, everything)):.0f} MB")
    heavy = sorted(everything, key=size_of, reverse=True)[:12]
    print("largest: " + ", ".join(f"{name} {size_of(name):.0f}" for name in heavy))


if __name__ == "__main__":
    main()
