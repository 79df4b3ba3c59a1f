"""Use as many threads as this process may use, and know what its processor multiplies fast.

[연구 맥락] 컨테이너(docker --cpus=4, Kubernetes의 limits)는 코어를 감추지 않고 시간을 나누어 준다. 스레드를 보이는
    코어만큼 띄우면 서로를 기다리느라 한 스텝이 몇 배로 늘어난다. torch는 물리 코어와 affinity는 알지만 이것은 모른다.
[동작] OMP_NUM_THREADS를 정해 두었으면 그대로 둔다. 스레드의 수는 더하는 순서를 바꿀 수 있으므로, 같은 기계의 같은
    한도에서만 마지막 자리까지 같다.
"""

import math
import os
from pathlib import Path

BF16_UNITS = frozenset({"avx512_bf16", "amx_bf16"})  # as Linux names them in /proc/cpuinfo


def cores_allowed(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many cores' time the kernel gives this process, infinity where nothing limits it.

    [동작] cgroup v2의 cpu.max와 v1의 cpu.cfs_*를, 이 프로세스의 자리에서 뿌리까지 모두 보고 가장 작은 것을 쓴다.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return math.inf
    limits = [math.inf]
    for _, controllers, place in lines:
        top = cgroups / controllers if controllers else cgroups
        if controllers and "cpu" not in controllers.split(","):
            continue
        here = top / place.lstrip("/")
        for folder in [here, *here.parents][: len(here.parts) - len(top.parts) + 1]:
            limits.append(_limit(folder))
    return min(limits)


def _limit(folder: Path) -> float:
    """Read the limit of one group."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def fit_threads() -> None:
    """Let torch use no more threads than cores are allowed, unless the environment says how many."""
    import torch

    if os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"):
        return
    allowed = cores_allowed()
    if allowed < torch.get_num_threads():
        torch.set_num_threads(max(1, math.floor(allowed)))


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether the processor has units for bf16, without which bf16 is slower than float32."""
    try:
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        return False
    return not BF16_UNITS.isdisjoint(flags.split())
