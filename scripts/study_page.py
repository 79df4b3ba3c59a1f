"""Put the tables that wmtp.compare wrote into docs/study.md, between their marks.

    python scripts/study_page.py

[동작] `<!-- runs/study/compare.md -->`와 `<!-- end -->` 사이를 그 파일의 앞부분(무엇이 다른가, 목표, 차이, 이른 곳)으로
    바꾼다. 제목은 두 단계 낮추고 그림은 뺀다. 그림 뒤의 넓은 표들은 비교의 쪽에만 있다. 없는 파일의 자리는 그대로 둔다.
"""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "study.md"


def fill(page: str, root: Path) -> str:
    """Fill in what is there."""

    def table(mark: re.Match[str]) -> str:
        file = root / mark[1]
        if not file.is_file():
            return mark[0]
        before_curves = re.split(r"\n[^\n]+\n+!\[\]\(report/learning_curves", file.read_text(encoding="utf-8"))[0]
        kept = [line for line in before_curves.splitlines() if not line.startswith("![")]
        text = "\n".join(f"##{line}" if line.startswith("#") else line for line in kept).strip()
        return f"<!-- {mark[1]} -->\n{text}\n<!-- end -->"

    return re.sub(r"<!-- (\S+) -->\n.*?<!-- end -->", table, page, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), PAGE.parent.parent), encoding="utf-8")
    print(PAGE)
