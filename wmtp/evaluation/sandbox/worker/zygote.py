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

from . import program_side

STARTED, ENDED = struct.Struct("<i"), struct.Struct("<idq")

#: What programs commonly import: loaded once here instead of once a program.
PRELOADED = (
    "abc array ast base64 bisect calendar cmath collections.abc contextlib copy dataclasses datetime decimal enum "
    "fractions functools gc hashlib heapq inspect io itertools json locale math numbers operator os pprint queue random "
    "re secrets statistics string struct sys textwrap threading time traceback types typing unicodedata warnings zlib"
).split()


def serve(channel: socket.socket, rung, standard_files: list[int]) -> None:
    """Start programs as the judge asks, until the judge is gone.

    Args:
        channel: judge와의 소켓. 요청은 한도(JSON)와 프로그램 쪽 소켓의 디스크립터, 답은 STARTED와 ENDED.
        rung: confinement.py의 한 단.
        standard_files: 프로그램의 0, 1, 2가 될 디스크립터.
    """
    gc.collect()
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, 4096, 1)
        if not request:
            return
        pid = rung.fork()
        if pid == 0:
            _become_program(json.loads(request), descriptors[0], rung, standard_files)
        os.close(descriptors[0])
        channel.sendall(STARTED.pack(pid))
        _, status, usage = os.wait4(pid, 0)
        rung.clean()
        channel.sendall(ENDED.pack(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))


def _become_program(limits: dict, channel: int, rung, standard_files: list[int]) -> None:
    """Confine this process, then hand it to the program; never return."""
    try:
        for number, descriptor in enumerate(standard_files):
            os.dup2(descriptor, number)
        rung.confine(limits)
        os.dup2(channel, 3)
        os.closerange(4, 256)
        gc.enable()
        random.seed(0)  # the same program gets the same verdict each time
        run = program_side.run_as_script if limits["script"] else program_side.answer_for_program
        run(socket.socket(fileno=3))
    except BaseException as error:
        # Only a confinement that failed comes here: what a program raises is caught where it runs.
        os.write(3, struct.pack("<I", 0xFFFFFFFF) + repr(error).encode())
    finally:
        os._exit(125)
