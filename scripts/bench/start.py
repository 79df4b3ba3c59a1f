"""Measure what a command costs before it says anything: CPU seconds, and the modules that take most of them.

    ./scripts/setup scripts/bench/start.py

[동작] 명령마다 새 프로세스를 세 번 띄워 CPU 시간(user + sys)의 중앙값을 낸다. 첫 줄의 것은 그 줄이
    나올 때까지이다. 무거운 모듈은 `-X importtime`이 잰 누적 시간이며, 서로를 품으므로 더하지 않는다. 바쁜 기계에서는
    CPU 시간도 느므로, 아무것도 하지 않는 파이썬과 `import hydra`를 나란히 잰다.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
TIMES = 3
SMALL = ["algo=baseline", "logger=csv", "dry_run=true", "data.train_size=60", "eval.before=false", "eval.after=false"]
ROWS = {
    "python -c pass": ["-c", "pass"],
    "import hydra": ["-c", "import hydra"],
    "wmtp --help": ["-m", "wmtp", "--help"],
    "wmtp.train --help": ["-m", "wmtp.train", "--help"],
    "a wrong option: algo=rho": ["-m", "wmtp.train", "algo=rho"],
    "a wrong key: lam=0.5": ["-m", "wmtp.train", "lam=0.5"],
    "a key that nothing reads: +lam=0.0": ["-m", "wmtp.train", "+lam=0.0"],
    "a wrong value: optimizer.lr=-1": ["-m", "wmtp.train", "optimizer.lr=-1"],
    "the first line of a run": ["-m", "wmtp.train", *SMALL],
}


def cpu_seconds(arguments: list[str], folder: Path, to_first_line: bool = False) -> float:
    """Run Python and return the CPU seconds that it took, all of them or until it said something."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if to_first_line:
        process.stdout.readline()
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.kill()
        process.communicate()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    process.stdout.read()
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0  # waited for already
    return used.ru_utime + used.ru_stime


def heavy_modules(arguments: list[str], folder: Path, count: int = 4) -> list[str]:
    """List the packages whose import takes longest, with milliseconds, what they import themselves included."""
    command = [sys.executable, "-X", "importtime", *arguments]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True)
    took: dict[str, int] = {}
    for line in re.findall(r"^import time: +\d+ \| +(\d+) \| *(\S+)$", done.stderr, flags=re.M):
        package = line[1].partition(".")[0]
        took[package] = max(took.get(package, 0), int(line[0]))
    heaviest = sorted(((time, name) for name, time in took.items() if name != "wmtp"), reverse=True)[:count]
    return [f"{name} {time / 1000:.0f}" for time, name in heaviest]


def main() -> None:
    print("| command | CPU s | heaviest imports, ms |\n|---|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in ROWS.items():
            first = name.startswith("the first line")
            took = median(cpu_seconds(arguments, Path(folder), first) for _ in range(TIMES))
            heavy = heavy_modules(arguments, Path(folder))
            print(f"| {name} | {took:.2f} | {', '.join(heavy)} |", flush=True)


if __name__ == "__main__":
    main()
