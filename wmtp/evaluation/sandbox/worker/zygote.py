"""Fork a confined process for each program, and report how it ended.

[동작] 표준 라이브러리를 미리 올리고 `gc.freeze()`한 채 기다린다. 요청 하나에 fork 하나. 시험도 프로그램의 글도
이 프로세스를 지나가지 않으므로, fork된 프로그램이 물려받은 메모리에는 훔칠 것이 없다.
"""

import gc
import json
import os
import random
import socket
import struct

from . import confinement, inside, program_side

STARTED, ENDED = struct.Struct("<i"), struct.Struct("<idq")

#: What programs commonly import: loaded once here instead of once a program.
PRELOADED = (
    "abc array ast base64 bisect calendar cmath collections.abc contextlib copy dataclasses datetime decimal enum "
    "fractions functools gc hashlib heapq inspect io itertools json locale math numbers operator os pprint queue "
    "random re secrets statistics string struct sys textwrap threading time traceback types typing unicodedata "
    "warnings zlib"
).split()


def serve(channel: socket.socket, rung) -> None:
    """Start programs as the judge asks, until the judge is gone.

    Args:
        channel: judge와의 소켓. 요청은 한도(JSON)와 디스크립터 넷 (프로그램 쪽 소켓, 그리고 0, 1, 2가 될 것),
            답은 STARTED와 ENDED.
        rung: confinement.py의 한 단.
    """
    rung.harden()
    inside.pristine = inside.Pristine(PRELOADED)
    random.seed(0)  # the same program gets the same verdict each time
    isolated = isinstance(rung, confinement.Namespaces)
    prepared = {}
    gc.collect()
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, 4096, 4)
        if not request:
            return
        if request not in prepared:
            limits = json.loads(request)
            run = program_side.run_as_script if limits["script"] else program_side.answer_for_program
            prepared[request] = run, confinement.prepare_limits(limits, isolated)
        pid = rung.fork()
        if pid == 0:
            _become_program(*prepared[request], descriptors, rung)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(STARTED.pack(pid))
        _, status, usage = os.wait4(pid, 0)
        channel.sendall(ENDED.pack(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))


def _become_program(run, limits: list, descriptors: list[int], rung) -> None:
    """Confine this process, then hand it to the program; never return.

    여기서부터 하는 일은 적을수록 좋다: 건드리는 메모리 한 쪽마다 커널이 복사하고, 그것이 프로그램당 비용의 대부분이다.
    """
    try:
        channel, *standard_files = descriptors
        for number, descriptor in enumerate(standard_files):
            os.dup2(descriptor, number)
        rung.confine(limits)
        os.dup2(channel, program_side.CHANNEL)
        os.closerange(program_side.CHANNEL + 1, 256)
        program_side.send(["confined"])
        run()
    finally:
        os._exit(1)
