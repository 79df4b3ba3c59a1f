"""Make one site of what GitHub shows as folders: pages from outside docs/, links as both read them, pages made here.

[연구 맥락] 문서는 저장소에서 그대로 읽히고, 사이트에서도 같은 파일이 읽힌다. 글을 두 벌 두지 않는다.
[동작] mkdocs가 부르는 세 함수다. `on_config`는 mkdocs.yml이 적지 않은 쪽을 차례의 끝에 두고, `on_files`는 docs/ 밖의
    글(`MOUNTED`)과 만들어 내는 두 쪽을 더하고, `on_page_markdown`은 저장소 안의 링크를 사이트 안의 링크로 바꾼다.
[디버깅] 사이트에 없는 파일로 가는 링크는 그대로 남고, `mkdocs build --strict`가 그 이름을 말하며 실패한다.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from scripts.pages.blocks import blocks_page
from scripts.pages.configuration import configuration_page

ROOT = Path(__file__).resolve().parents[2]
# Where files of the repository that lie outside docs/ are on the site.
MOUNTED = {
    "README.ko.md": "index.md",
    "README.md": "en/index.md",
    "CONTRIBUTING.ko.md": "contributing.md",
    "CONTRIBUTING.md": "en/contributing.md",
    "CHANGELOG.md": "en/changelog.md",
    "wmtp/assets/tiny-base/README.md": "assets/tiny-base.md",
    "wmtp/assets/tiny-reference/README.md": "assets/tiny-reference.md",
}
MADE = {"configuration.md": configuration_page, "blocks.md": blocks_page}
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<path>[^)\s:#]+)(?P<anchor>(?:#[^)\s]*)?)\)")


def on_config(config: Any) -> Any:
    """Put pages that mkdocs.yml does not list under a heading of their own: none is out of reach."""
    listed = set(_pages(config.nav))
    others = sorted(page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md"))
    unlisted = [page for page in others if page not in listed]
    config.nav = [*config.nav, *([{"그 밖에": unlisted}] if unlisted else [])]
    return config


def _pages(nav: Any) -> Iterator[str]:
    """List the pages of a navigation, however deep."""
    for item in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        if isinstance(item, str):
            yield item
        else:
            yield from _pages(item)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files of docs/."""
    for path, place in MOUNTED.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text("utf-8")))
    for place, make in MADE.items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page, which lead through the repository, into links through the site."""
    place = page.file.src_uri
    source = next((path for path, mounted in MOUNTED.items() if mounted == place), f"docs/{place}")

    def relinked(match: re.Match) -> str:
        path = link_on_site(match["path"], source, place)
        if path is None:  # code, a licence: whoever has the repository finds it by its name
            return match["text"].strip("[]")
        return f"{match['text']}({path}{match['anchor']})"

    return LINK.sub(relinked, markdown)


def link_on_site(link: str, source: str, place: str) -> str | None:
    """Return a link as the site has it; None for a file that it does not have.

    Args:
        link: 저장소에서의 상대 경로.
        source: 그 링크가 적힌 파일.
        place: 그 파일이 사이트에서 있는 곳.

    Example:
        >>> link_on_site("../CONTRIBUTING.ko.md", "docs/guide.md", "guide.md")
        'contributing.md'
        >>> link_on_site("docs/images/report.png", "README.md", "en/index.md")
        '../images/report.png'
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target not in MOUNTED and not target.startswith("docs/"):
        return None
    there = MOUNTED.get(target, target.removeprefix("docs/"))
    return posixpath.relpath(there, posixpath.dirname(place) or ".")
