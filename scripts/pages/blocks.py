"""List every code block of the documents, and how each is held to be true.

    python -m scripts.pages.blocks                prints the page

[연구 맥락] 문서의 명령은 독자가 그대로 친다. 그래서 칸마다 돌려 보거나, 돌릴 수 없으면 까닭을 적는다.
[동작] 여기는 나누고 분류할 뿐이다. 조합하고 돌리는 일은 tests/integration/test_blocks.py가 하고, 같은 분류를 쓴다.
    분류되지 않는 명령이 하나라도 있으면 그 시험이 실패한다.
[디버깅] wmtp의 명령은 저절로 분류된다. 다른 명령이면 `REASONS`에 왜 여기서 돌릴 수 없는지 한 줄을 더한다.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INTRODUCTION = """# 코드 칸의 목록

문서의 모든 코드 칸과, 그것이 참인지 어떻게 아는지다. 이 쪽은 만들어진다 (`scripts/pages/blocks.py`).

| 말 | 뜻 |
|---|---|
| 실행 | `tests/integration/test_blocks.py`가 돌린다. 학습은 `dry_run=true`로 한 스텝 (`-m slow`) |
| 그대로 | 이름을 적은 시험이 쪽을 처음부터 끝까지 따라 한다 |
| 조합 | 설정이 조합되고 모든 값이 범위 안에 있는지 본다. 옆의 까닭으로 돌리지는 않는다 |
| 있음 | 그 파일이나 extra가 있는지만 본다. 옆의 까닭으로 돌리지는 않는다 |
| 같음 | 코드나 출력과 글자까지 같은지 본다 (`tests/unit/test_pages.py`) |
| 읽힘 | 문법에 맞는지만 본다 |
| – | 출력이나 그림이다. 돌릴 것이 없다 |

"""
FENCE = re.compile(
    r"^(?P<above>[^\n]*)\n(?P<blank>\n?)(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
INLINE = re.compile(r"(?<!`)`((?:python -m wmtp\.\w+|wmtp (?:train|eval|compare|promote|precompute)) [^`\n]+)`")
DOORS = {"train": "train", "eval": "eval", "precompute": "train", "compare": "compare", "promote": "promote"}

# Commands that a test follows literally, in a folder that the page says how to fill.
FOLLOWED = {r"--config-dir|<Tab>": "tests/integration/test_own_ways.py"}
# What a command of wmtp needs that is not here: it is composed, and not run.
NEEDS = {
    r"launcher=": "클러스터: test_launchers.py가 보이고, test_slurm.py가 진짜 SLURM에 낸다",
    r"trainer=gpu|VARIANT=cuda|--gpus": "GPU",
    r"torchrun|srun|trainer=(ddp|fsdp)|profile_memory": "여러 프로세스나 긴 측정: test_fsdp.py, test_split.py",
    r"model=meta_mtp_7b|Qwen/|facebook/": "내려받을 모델",
    r"s3://|storage\.s3|mlflow:|registry:": "서버: test_storage.py, test_promote.py가 띄운다",
    r"generator=server": "서버: tests/serving",
    r"weights=int[48]|\.gguf": "extra quantized, gguf: 시험은 그것이 있을 때 한다",
    r"wmtp\.promote": "평가가 끝난 실행: tests/integration/test_promote.py",
    r"wmtp\.compare": "실행 여럿: tests/unit/comparison",
    r"wmtp\.precompute": "tests/integration/test_data.py가 한다",
    r"(^| )-m (?!wmtp)|--multirun|experiment=|wmtp\.train -m": "탐색: tests/integration/test_sweep.py",
    r"ckpt=(last|auto|runs/<?이름)": "멈춘 실행: tests/integration/test_resume.py",
    r"benchmark=(?!synthetic)|samples=(?!tests/)|diff=|data=(?!mbpp|synthetic)": "데이터: DIR, FILE에 들어갈 것",
}
# Commands of others: never run here.
REASONS = {
    r"docker |hadolint |build_push": "컨테이너 엔진",
    r"kubectl ": "Kubernetes",
    r"cp docker/compose.env.example ": "암호를 정하는 일",
    r"vllm |ollama |llama-server": "다른 서버",
    r"uv pip compile|LC_ALL=C sort": "constraints.txt를 다시 쓴다",
    r"pip (install|download)|unzip ": "설치",
    r"source |cd |export |NODE=|code=|exit |\[ ": "셸의 준비",
    r"mlflow server|sbatch |scontrol ": "오래 떠 있는 서버, 스케줄러",
    r"git ": "저장소를 바꾼다",
}
# Scripts that are there and take long, or change the repository.
LONG = {
    r"scripts/bench/": "측정: 몇 분에서 몇 시간",
    r"scripts/make_": "들어 있는 모델을 다시 만든다",
    r"scripts/(test|demo|docs|build_push)|-m pytest": "시험 모음이나 데모 전체",
    r"scripts/setup": "환경을 만든다: tests/integration/test_scripts.py",
    r"scripts/pictures": "데모의 실행 폴더",
    r"scripts/check_configs|scripts/one_step|scripts/pages": "시험이 같은 함수를 부른다",
}


@dataclass(frozen=True)
class Block:
    """Hold one fenced block and where it stands."""

    page: str
    heading: str
    language: str
    text: str
    above: str  # the line before it: what it quotes, or the file that it is

    @property
    def followed_by(self) -> str:
        """Name the test that follows the page of this block literally."""
        return "tests/integration/test_add_pages.py" if self.page.startswith("docs/add/") else ""


def documents() -> list[Path]:
    """List the documents that users read."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks() -> Iterator[Block]:
    """Read every fenced block of the documents, in order."""
    for file in documents():
        text = file.read_text("utf-8")
        for match in FENCE.finditer("\n" + text):
            prose = re.sub(r"^```.*?^```", "", text[: match.start("text")], flags=re.M | re.S)
            before = re.findall(r"^#+ (.+)$", prose, re.M)
            page = file.relative_to(ROOT).as_posix()
            block = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
            yield Block(page, before[-1] if before else "", match["language"], block, match["above"])


def inline_commands() -> Iterator[tuple[str, str]]:
    """Read the commands of wmtp that stand within a line: (page, command)."""
    for file in documents():
        for command in INLINE.findall(re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.M | re.S)):
            yield file.relative_to(ROOT).as_posix(), command


def commands(text: str) -> list[str]:
    """Cut the text of a shell block into commands; a quote or a here-document may go over lines.

    Example:
        >>> commands("# what for\\na b \\\\\\n  c   # why\\npython - <<'CODE'\\nprint(1)\\nCODE\\n")
        ['a b   c', "python - <<'CODE'\\nprint(1)\\nCODE"]
    """
    found, waiting, until = [], "", ""
    for line in text.replace("\\\n", "").splitlines():
        waiting = f"{waiting}\n{line}" if waiting else line
        if until:
            if line != until:
                continue
            until = ""
        elif document := re.search(r"<<'?(\w+)'?$", line):
            until = document[1]
            continue
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # a quote is still open
            continue
        if words:
            found.append(re.sub(r"\s+#\s.*$", "", waiting) if "\n" not in waiting else waiting)
        waiting = ""
    return found


def door_of(command: str) -> tuple[str, list[str]] | None:
    """Return which front door a command opens, and the arguments it gives.

    Example:
        >>> door_of("torchrun --nproc-per-node 2 -m wmtp.eval ckpt=runs/<name> 'ks=[1,4]'")
        ('eval', ['ckpt=runs/<name>', 'ks=[1,4]'])
        >>> door_of("./scripts/demo algo=critic")
        ('train', ['algo=critic'])
        >>> door_of("python scripts/one_step.py")
    """
    words = [word for word in shlex.split(command, comments=True) if word != "…"]
    for i, word in enumerate(words):
        door = word.removeprefix("wmtp.") if word.startswith("wmtp.") else words[i + 1] if words[i:][1:] else ""
        if word == "./scripts/demo":
            return "train", words[i + 1 :]
        if door in DOORS and (word.startswith("wmtp.") or (word == "wmtp" and i == 0)):
            return door, words[i + (1 if word.startswith("wmtp.") else 2) :]
    return None


def way_of(command: str) -> str:
    """Say how one command of a shell block is held to be true; "" where nobody has said it."""
    if test := follower_of(command):
        return f"그대로 (`{test}`)"
    if door_of(command):
        need = _first(NEEDS, command)
        return f"조합 ({need})" if need else "실행"
    if named_files(command):
        return f"있음 ({_first(LONG, command) or '오래 걸린다'})"
    if reason := _first(REASONS, command):
        return f"있음 ({reason})" if "wmtp[" in command else f"돌리지 않음 ({reason})"
    return "읽힘" if python_of(command) else ""


def follower_of(command: str) -> str:
    """Name the test that follows a command literally, "" where none does."""
    return _first(FOLLOWED, command) if door_of(command) else ""


def _first(table: dict[str, str], command: str) -> str:
    return next((reason for pattern, reason in table.items() if re.search(pattern, command)), "")


def named_files(command: str) -> list[str]:
    """List the files of the repository that a command runs."""
    found = re.findall(r"(?<![\w/.])(?:\./)?((?:scripts|tests)/[\w/.]+)", command)
    return [file.rstrip(".") for file in found]


def python_of(command: str) -> str:
    """Return the Python that a command holds, in a here-document or after -c."""
    if document := re.search(r"<<'?(\w+)'?\n(.*)\n\1$", command, re.S):
        return document[2]
    words = shlex.split(command, comments=True)
    return words[words.index("-c") + 1] if words[0] == "python" and "-c" in words else ""


def ways(block: Block) -> dict[str, str]:
    """Say of each command of a block, or of the block itself, how it is held to be true."""
    what = block.text.strip().partition("\n")[0]
    if re.match(r"<!-- (source|output): ", block.above):
        return {what: "같음"}
    if block.followed_by:
        return {what: f"그대로 (`{block.followed_by}`)"}
    if block.language == "bash" or (not block.language and block.text.startswith("python -m ")):
        if block.text.startswith("#!"):
            return {command: way_of(command) or "돌리지 않음 (스케줄러)" for command in commands(block.text)}
        return {command: way_of(command) for command in commands(block.text)}
    if block.language == "python" and "wmtp.evaluation.sandbox" in block.text:
        return {what: "실행"}
    if block.language in ("python", "json", "yaml"):
        return {what: "읽힘" if "…" not in block.text else "읽힘 (줄임표가 있는 보기)"}
    return {what: "–"}


def blocks_page() -> str:
    """Write the page."""
    rows, page = [INTRODUCTION], ""
    for block in blocks():
        if block.page != page:
            page = block.page
            rows.append(f"\n## {page}\n\n| 절 | 칸 | 어떻게 |\n|---|---|---|\n")
        for command, way in ways(block).items():
            shown = command if len(command) < 90 else f"{command[:88]}…"
            shown = shown.partition("\n")[0].replace("|", "&#124;").replace("`", "'")
            rows.append(f"| {block.heading.replace('|', '')} | `{shown}` | {way or '**모름**'} |\n")
    return "".join(rows)


if __name__ == "__main__":
    print(blocks_page())
