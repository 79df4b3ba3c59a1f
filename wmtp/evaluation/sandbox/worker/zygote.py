"""Fork a confined process for each program, and report how it ended.

[동작] 표준 라이브러리를 미리 올리고 `gc.freeze()`한 채 기다린다. 요청 하나에 fork 하나. 시험도 프로그램의 글도
이 프로세스를 지나가지 않으므로, fork된 프로그램이 물려받은 메모리에는 훔칠 것이 없다. numpy처럼 큰 패키지는 그 이름이
프로그램이나 시험에 처음 나왔을 때 한 번 올린다: 쓰지 않는 자료에서는 fork가 느려지지 않는다.
"""

import contextlib
import gc
import importlib.util
import json
import os
import random
import socket
import struct
import sys
from collections.abc import Callable

from . import confinement, inside, program_side

STARTED, ENDED = struct.Struct("<i"), struct.Struct("<idq")

#: What programs commonly import: loaded once here instead of once a program.
PRELOADED = (
    "abc array ast base64 bisect calendar cmath collections.abc contextlib copy dataclasses datetime decimal enum "
    "fractions functools gc hashlib heapq inspect io itertools json locale math numbers operator os pprint queue "
    "random re secrets statistics string struct sys textwrap threading time traceback types typing unicodedata "
    "warnings zlib"
).split()


class Zygote:
    """Start programs.

    Args:
        channel: judge와의 소켓. 요청은 한도(JSON)와 디스크립터 넷 (프로그램 쪽 소켓, 그리고 0, 1, 2가 될 것),
            답은 STARTED와 ENDED.
        rung: confinement.py의 한 단.
        packages: 올려도 되는 패키지의 이름과 경로들. 첫 경로가 패키지의 폴더다.
        proc: /proc의 디스크립터.
    """

    def __init__(self, channel: socket.socket, rung, packages: dict[str, list[str]], proc: int | None):
        self.channel, self.rung, self.packages = channel, rung, packages
        self.statm = None if proc is None else os.open("self/statm", os.O_RDONLY, dir_fd=proc)
        if proc is not None:
            os.close(proc)
        self.prepared: dict[bytes, tuple[Callable[[], None], list, list[str]]] = {}
        self.remembers = False  # what modules were like, for tests inside; it costs memory, so fork time

    def serve(self) -> None:
        """Start programs as the judge asks, until the judge is gone."""
        self.rung.harden()
        self.settle_down()
        while True:
            request, descriptors, _, _ = socket.recv_fds(self.channel, 4096, 4)
            if not request:
                return
            if request not in self.prepared:
                self.prepare(request)
            pid = self.rung.fork()
            if pid == 0:
                self.become_program(*self.prepared[request], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            self.channel.sendall(STARTED.pack(pid))
            _, status, usage = os.wait4(pid, 0)
            self.channel.sendall(ENDED.pack(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))

    def prepare(self, request: bytes) -> None:
        """Work out once what programs with these limits need."""
        limits = json.loads(request)
        new = [name for name in limits["packages"] if name not in sys.modules]
        for name in new:
            with contextlib.suppress(Exception):  # then programs see what a missing package looks like
                _load(name, self.packages[name][0])
        if new or limits["inside"] > self.remembers:
            self.remembers |= limits["inside"]
            self.settle_down()
        isolated = isinstance(self.rung, confinement.Namespaces)
        run = program_side.run_as_script if limits["script"] else program_side.answer_for_program
        limits["baseline_bytes"] = self.virtual_bytes()
        unwanted = [name for name in self.packages if name in sys.modules and name not in limits["packages"]]
        self.prepared[request] = run, confinement.prepare_limits(limits, isolated), unwanted

    def settle_down(self) -> None:
        """Make what is loaded now the state from which every program starts."""
        if self.remembers:
            inside.pristine = inside.Pristine([*PRELOADED, *self.packages])
        random.seed(0)  # the same program gets the same verdict each time
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        self.prepared.clear()
        gc.collect()
        gc.freeze()

    def virtual_bytes(self) -> int:
        """Return the address space that a program inherits."""
        if self.statm is None:
            return 0
        return int(os.pread(self.statm, 256, 0).split()[0]) * os.sysconf("SC_PAGE_SIZE")

    def become_program(self, run, limits: list, unwanted: list[str], descriptors: list[int]) -> None:
        """Confine this process, then hand it to the program; never return.

        여기서부터 하는 일은 적을수록 좋다: 건드리는 메모리 한 쪽마다 커널이 복사하고, 그것이 비용의 대부분이다.
        """
        try:
            for name in unwanted:  # so that it makes no difference which programs came before
                sys.modules.pop(name, None)
            channel, *standard_files = descriptors
            for number, descriptor in enumerate(standard_files):
                os.dup2(descriptor, number)
            self.rung.confine(limits)
            os.dup2(channel, program_side.CHANNEL)
            os.closerange(program_side.CHANNEL + 1, 256)
            program_side.send(["confined"])
            run()
        finally:
            os._exit(1)


def _load(name: str, folder: str) -> None:
    """Import a package from its folder; the folder around it cannot be listed from here."""
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None and spec.loader is not None, "a file of Python has a loader"
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
