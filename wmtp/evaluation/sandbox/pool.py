"""Judge programs on all cores: start workers, feed them, replace them when they break.

[연구 맥락] 평가가 결정한다. 그래서 판정은 작업자의 수나 기계의 부하에 좌우되지 않고,
하네스의 고장이 오답이 되지 않는다.
[동작] 코어마다 작업자(worker/) 하나를 새 인터프리터로 exec한다. `judge`는 프로그램을 조금씩만 미리 꺼내고, 끝나는 대로
(번호, 판정)을 돌려준다. 같은 프로그램은 한 번만 채점한다.
[디버깅] 어느 단으로 격리되었는지는 `sandbox.isolation`. 단을 골라 시험하려면 `Sandbox(rung="landlock")`.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from wmtp import ranges
from wmtp.errors import HarnessError, SandboxUnavailableError

from .program import PLACES, STATUSES, Program, Verdict
from .worker import confinement, wire

_LADDER = ("namespaces", "bubblewrap", "landlock")
_ATTEMPTS = 3
_QUEUE = 2  # programs per worker: the one that runs and the one that is next
_AHEAD = 64  # samples per worker that may wait for the verdict of an identical one
_GRACE_SECONDS = 10.0
_START_SECONDS = 30.0
_VERDICT_BYTES, _ANSWERS_BYTES, _LONGEST_SECONDS = 1 << 16, 1 << 26, 1e7
_PROBE = Program(
    source="""
import os, socket

def probe():
    for forbidden in (socket.socket, lambda: os.listdir("/etc"), lambda: os.execv("/bin/true", ["true"])):
        try:
            forbidden()
            return "not confined"
        except OSError:
            pass
    return "confined"
""",
    tests=("assert probe() == 'confined'",),
)


class Sandbox:
    """Run hostile programs and judge them.

    Args:
        workers: 작업자의 수. None이면 코어마다 하나.
        allow_unsafe: 안전한 단이 하나도 없을 때, 자원 한도만 걸고 실행해도 되는가.
        rung: "namespaces", "bubblewrap", "landlock", "unsafe" 중 하나를 강제한다. None이면 되는 것 중 가장 위.
        packages: 표준 라이브러리 말고 프로그램이 import해도 되는 패키지들. 이 파이썬에 설치된 것만, 읽기 전용으로.

    Attributes:
        isolation: 쓰인 단의 이름.
        packages: 그 패키지들의 이름과 판. 결과와 함께 저장된다.

    Raises:
        SandboxUnavailableError: 이 기계에 안전한 단이 없고 allow_unsafe가 아닐 때 (`with`에 들어갈 때).

    Example:
        >>> right = Program("def double(x): return 2 * x", tests=("assert double(2) == 4",))
        >>> wrong = Program("def double(x): return x", tests=("assert double(2) == 4",))
        >>> with Sandbox(workers=1, allow_unsafe=True) as sandbox:
        ...     for index, verdict in sorted(sandbox.judge([right, wrong])):
        ...         print(index, verdict.status, verdict.message or '.')
        0 passed .
        1 wrong failed in test 1 of 1
    """

    def __init__(
        self,
        workers: int | None = None,
        allow_unsafe: bool = False,
        rung: str | None = None,
        packages: Iterable[str] = ("numpy",),
    ):
        ranges.check(ranges.Sandbox, workers=workers)
        self.workers = workers or usable_cores()
        self.allow_unsafe = allow_unsafe
        self.rung = rung
        self.isolation = ""
        self._found = {name: paths for name in packages if (paths := _paths_of(name))}
        self.packages = {name: _version_of(name) for name in self._found}
        self._pool: list[_Worker] = []
        self._known: dict[bytes, Verdict] = {}
        self._jobs = 0

    def __enter__(self) -> "Sandbox":
        self.rung, first = self._climb_ladder()
        self.isolation = first.isolation
        self._pool.append(first)
        try:
            self._pool += [_Worker(self.rung, self._found) for _ in range(self.workers - 1)]
            for worker in self._pool[1:]:
                worker.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and with them everything that runs in them."""
        while self._pool:
            self._pool.pop().end()

    def judge(self, programs: Iterable[Program]) -> Iterator[tuple[int, Verdict]]:
        """Judge programs, and yield each verdict as it comes.

        Args:
            programs: 채점할 프로그램들. 필요한 만큼만 꺼내므로 끝없이 만들어 내는 반복자여도 된다.

        Yields:
            (programs에서의 번호, 판정). 끝나는 순서대로.

        Raises:
            HarnessError: 채점이 거듭 실패하고, 아무 문제 없는 프로그램도 채점되지 않을 때. 한 프로그램이나 그 시험만의
                문제라면 그 판정이 harness_error가 되고 나머지는 계속한다.
        """
        if not self._pool:
            raise RuntimeError("The sandbox is not open: use `with Sandbox() as sandbox`.")
        numbered = enumerate(programs)
        exhausted = False
        waiting: dict[bytes, list[int]] = {}
        jobs: dict[int, _Job] = {}
        retry: collections.deque[_Job] = collections.deque()

        def settle(job: _Job, verdict: Verdict) -> Iterator[tuple[int, Verdict]]:
            del jobs[job.number]
            self._known[job.key] = verdict
            for index in waiting.pop(job.key):
                yield index, verdict

        with selectors.DefaultSelector() as selector:
            for worker in self._pool:
                selector.register(worker.channel, selectors.EVENT_READ, worker)
            while True:
                while retry or not exhausted:
                    free = min(self._pool, key=len)
                    if len(free) == _QUEUE or sum(map(len, waiting.values())) > _AHEAD * len(self._pool):
                        break
                    if retry:
                        job = retry.popleft()
                    else:
                        if (item := next(numbered, None)) is None:
                            exhausted = True
                            break
                        index, program = item
                        key = _hash(program)
                        if key in self._known:
                            yield index, self._known[key]
                            continue
                        if key in waiting:
                            waiting[key].append(index)
                            continue
                        waiting[key] = [index]
                        job = _Job(self._jobs, key, program)
                        self._jobs += 1
                        jobs[job.number] = job
                    free.give(job)
                if not jobs:
                    return
                for worker in self._pool:
                    writing = selectors.EVENT_WRITE if worker.unsent else 0
                    selector.modify(worker.channel, selectors.EVENT_READ | writing, worker)
                asked = time.monotonic()
                ready = selector.select(timeout=1.0)
                for worker in self._pool:
                    worker.silence += time.monotonic() - asked
                for selected, events in ready:
                    worker = selected.data
                    broken = not worker.move(events)
                    for job, verdict in worker.verdicts():
                        if job.number not in jobs:
                            continue  # of an iteration that was given up
                        if verdict.status == "harness_error" and job.may_be_tried_again():
                            retry.append(job)
                            continue
                        yield from settle(job, verdict)
                    if broken or worker.is_garbled:
                        new, lost = self._replace(worker, selector)
                        retry += [job for job in lost if job.number in jobs]
                        if lost and lost[0].number in jobs and not lost[0].may_be_tried_again():
                            if (reason := new.probe()) is not None:
                                raise HarnessError(f"sandbox: workers end, and {reason}. Nothing more can be judged.")
                            retry.remove(lost[0])
                            yield from settle(lost[0], Verdict("harness_error", 0.0, "its worker ended"))
                for worker in list(self._pool):
                    if not worker.is_overdue():
                        continue
                    # The judge hangs in C code, on values such as ten thousand colliding keys: the program's doing.
                    _, (late, *others) = self._replace(worker, selector)
                    retry += [job for job in others if job.number in jobs]
                    if late.number in jobs:
                        message = "the tests did not end on the values that the program returned"
                        yield from settle(late, Verdict("timeout", late.program.limits.wall_seconds, message))

    def _replace(self, worker: "_Worker", selector) -> tuple["_Worker", list["_Job"]]:
        """Put a new worker in the place of a broken one; return it, and the jobs that the other leaves behind."""
        selector.unregister(worker.channel)
        worker.end()
        new = _Worker(worker.rung, self._found)
        self._pool[self._pool.index(worker)] = new
        new.wait_until_ready()
        selector.register(new.channel, selectors.EVENT_READ, new)
        return new, list(worker.jobs.values())

    def _climb_ladder(self) -> tuple[str, "_Worker"]:
        """Find the highest rung that works here."""
        reasons = []
        rungs = [self.rung] if self.rung else [*(_LADDER if sys.platform == "linux" else ())]
        if self.allow_unsafe and not self.rung:
            rungs.append("unsafe")
        for rung in rungs:
            try:
                worker = _Worker(rung, self._found)
                worker.wait_until_ready()
            except _NotHereError as error:
                reasons.append(str(error))
                continue
            if rung != "unsafe" and (reason := worker.probe()) is not None:
                worker.end()
                reasons.append(f"{rung}: {reason}")
                continue
            return rung, worker
        offers = "; ".join(reasons) or f"{sys.platform} has no namespaces, Landlock or seccomp; only Linux does"
        raise SandboxUnavailableError(
            f"sandbox: nothing here can run generated programs safely ({offers}). Allow user namespaces, install "
            "bubblewrap or use Linux 5.13 or newer; on a machine that may be lost, sandbox.allow_unsafe=true."
        )


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass
class _Job:
    """One distinct program on its way through the workers."""

    number: int
    key: bytes
    program: Program
    failures: int = 0

    def may_be_tried_again(self) -> bool:
        """Count a failure of the harness; return whether there have been few."""
        self.failures += 1
        return self.failures < _ATTEMPTS


class _NotHereError(SandboxUnavailableError):
    """Say why a rung cannot be used on this machine."""


class _Worker:
    """Hold one worker process and the jobs it has been given."""

    def __init__(self, rung: str, packages: dict[str, list[str]]):
        self.channel, theirs = socket.socketpair()
        self.rung, self.jobs, self.unsent, self.received = rung, {}, bytearray(), bytearray()
        self.directory, self.silence, self.is_garbled = "", 0.0, False
        package = os.path.dirname(os.path.abspath(__file__))
        python = getattr(sys, "_base_executable", None) or sys.executable
        start = (
            f"import sys, socket; sys.path.insert(0, {package!r}); from worker.start import main; "
            f"sys.path.pop(0); main({rung!r}, {packages!r}, socket.socket(fileno={theirs.fileno()}))"
        )
        # -s -S -P: nothing but the standard library; not -I, which would ignore PYTHONHASHSEED.
        command = [python, "-s", "-S", "-P", "-X", "utf8", "-c", start]
        environment = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
        # The zygote may have one thread only, and so may what it loads.
        environment |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        if rung == "bubblewrap":
            folders = [package, *(path for paths in packages.values() for path in paths)]
            command = _bubblewrap(folders, python) + command
        apart: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        apart |= {"env": environment, "pass_fds": [theirs.fileno()], "start_new_session": True, "cwd": "/"}
        try:
            self.process = subprocess.Popen(command, **apart)
        finally:
            theirs.close()

    def __len__(self) -> int:
        return len(self.jobs)

    def wait_until_ready(self) -> None:
        """Wait for the first message of the worker."""
        message = self.hear()
        if message is None or message[0] != "ready":
            self.end()
            raise _NotHereError(message[1] if message else f"{self.rung}: the worker did not start")
        _, self.isolation, self.directory = message

    def hear(self, asked: bytes = b"") -> list | None:
        """Ask the worker something and wait for its next message; None where it ends before."""
        self.channel.settimeout(_START_SECONDS)
        try:
            self.channel.sendall(asked)
            return wire.receive(self.channel.recv)
        except OSError:
            return None
        finally:
            self.channel.settimeout(None)

    def probe(self) -> str | None:
        """Try whether programs run and are confined; return what is wrong."""
        answer = self.hear(wire.pack([-1, _plain(_PROBE)]))
        if answer is None:
            return "the worker ended at the first program"
        return None if answer[1] == "passed" else f"the probe {answer[3] or answer[1]}"

    def give(self, job: _Job) -> None:
        """Queue a job for this worker."""
        if not self.jobs:
            self.silence = 0.0
        self.jobs[job.number] = job
        self.unsent += wire.pack([job.number, _plain(job.program)])

    def move(self, events: int) -> bool:
        """Send and receive what is possible without waiting; return whether the worker still lives."""
        try:
            if events & selectors.EVENT_WRITE:
                sent = self.channel.send(memoryview(self.unsent)[: 1 << 16], socket.MSG_DONTWAIT)
                del self.unsent[:sent]
            if events & selectors.EVENT_READ:
                data = self.channel.recv(1 << 16, socket.MSG_DONTWAIT)
                self.received += data
                return bool(data)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def verdicts(self) -> Iterator[tuple[_Job, Verdict]]:
        """Take the complete messages that have come, each with the job that it is about.

        judge는 프로그램이 지은 값을 만지므로 이쪽은 judge의 말도 믿지 않는다: 판정이 아닌 것이 오면 작업자를 버린다.
        """
        while len(self.received) >= 4 and not self.is_garbled:
            end = 4 + int.from_bytes(self.received[:4], "little")
            records = any(job.program.inputs and not job.program.answers for job in self.jobs.values())
            longest = _ANSWERS_BYTES if records else _VERDICT_BYTES
            if len(self.received) < end <= 4 + longest:
                return
            try:
                if end > 4 + longest:
                    raise ValueError(end)
                number, status, seconds, message, place, right, recorded = json.loads(self.received[4:end])
                status, place = STATUSES[STATUSES.index(status)], PLACES[PLACES.index(place)]
                answers, slowest = recorded or ("", 0.0)
                verdict = Verdict(
                    *(status, float(seconds), " ".join(message.split()), place, int(right), str(answers)),
                    slowest=float(slowest),
                )
                if not (0 <= verdict.seconds < _LONGEST_SECONDS and 0 <= verdict.slowest < _LONGEST_SECONDS):
                    raise ValueError(seconds)
                job = self.jobs.pop(number)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                self.is_garbled = True
                return
            del self.received[:end]
            self.silence = 0.0
            yield job, verdict

    def is_overdue(self) -> bool:
        """Tell whether the worker has been silent for longer than its program may take.

        이쪽이 기다린 시간만 센다: 판정을 꺼내 가는 쪽이 딴 일을 하는 동안의 침묵은 작업자의 탓이 아니다.
        """
        if not self.jobs:
            return False
        program = next(iter(self.jobs.values())).program
        processes = max(1, len(program.stdio) + len(program.calls)) * (2 if program.checker else 1)
        allowed = program.limits.wall_seconds * processes + _GRACE_SECONDS
        return self.silence > allowed

    def end(self) -> None:
        """Let the worker go; kill it where it does not go by itself."""
        self.channel.close()
        try:
            self.process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if os.path.basename(self.directory).startswith("wmtp-sandbox-"):
            shutil.rmtree(self.directory, ignore_errors=True)


def _plain(program: Program) -> dict:
    """Turn a program into JSON types."""
    return {**vars(program), "limits": vars(program.limits)}


def _hash(program: Program) -> bytes:
    """Name a program by everything that decides its verdict."""
    content = _plain(program)
    del content["task_id"]
    return hashlib.sha256(json.dumps(content).encode()).digest()


def _paths_of(package: str) -> list[str]:
    """Find the folder of an installed package, and that of the libraries that its wheel brought; [] where it is not."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return [*folders, *(path for folder in folders if os.path.isdir(path := f"{folder}.libs"))]


def _version_of(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # its distribution has another name
        return "unknown"


def _bubblewrap(folders: list[str], python: str) -> list[str]:
    """Return the command that makes namespaces by bubblewrap and runs what follows in them."""
    if (path := shutil.which("bwrap")) is None:
        raise _NotHereError("bubblewrap: not installed")
    # As pid 1 the worker is bwrap's own child: bwrap waits for it and leaves no zombie.
    command = [path, "--unshare-all", "--die-with-parent", "--as-pid-1"]
    command += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    readable = dict.fromkeys([*confinement.readable_paths(folders), python, os.path.realpath(python)])
    for name in readable:
        if not name.startswith("/dev/"):
            command += ["--ro-bind", name, name]
    return [*command, "--"]
