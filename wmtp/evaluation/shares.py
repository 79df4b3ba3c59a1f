"""Share the problems of one folder among all processes that see it, on this machine and others.

[연구 맥락] 표본 수만 개의 채점은 컴퓨터 여럿이 나누면 그만큼 빨리 끝난다. 서로 말을 주고받을 필요는 없다: 모두가 보는
    폴더 하나면 된다. torchrun, SLURM의 배열, 손으로 연 터미널 둘, 어느 것이든 같은 명령을 여러 번 시작하면 나눈다.
[동작] 파일 하나의 바이트마다 커널의 잠금(POSIX)이 하나다. 문제 하나가 바이트 하나이고, 잡은 프로세스가 채점한다. 죽은
    프로세스의 잠금은 커널이 (다른 컴퓨터의 것이면 파일 서버가) 놓으므로, 그 몫은 남은 프로세스가 잇는다.

        바이트 0      차례: 준비하거나 끝맺는 동안 한 프로세스만
        바이트 1      results.jsonl에 바로 쓰는 프로세스. 나머지는 results.<이름>.jsonl에 쓴다
        바이트 2 …    문제

    `take_all`은 살아 있는 다른 프로세스가 아무것도 잡고 있지 않을 때만 된다. 모두가 제 몫을 다 쓰고 놓은 뒤에 차례로
    `take_all`을 해 보므로, 마지막에 끝난 프로세스는 언제나 성공하고, 그가 결과를 모은다.
[디버깅] 잠글 수 없는 파일 시스템에서는 아무도 기다리지 않고 저마다 모두 채점한다: 느릴 뿐 결과는 같다.
    POSIX 잠금은 프로세스의 것이다. 한 프로세스 안의 둘은 서로를 막지 못한다.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

_TURN, _FIRST, _PROBLEMS = 0, 1, 2
_TO_THE_END = 0  # as a length


class Shares:
    """Hold this process's part of a folder's problems.

    Args:
        file: 잠그는 파일. 모두가 같은 것을 연다. 지우지 않는다: 지우면 둘이 다른 것을 잠근다.
    """

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("ab")
        self._locks = True

    def __enter__(self) -> "Shares":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # lets go of everything

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Wait for the turn and keep it for a block."""
        self._lock(_TURN, wait=True)
        try:
            yield
        finally:
            self._unlock(_TURN, 1)

    def take(self, problem: int) -> bool:
        """Take one problem; return whether no other process has it."""
        return self._lock(_PROBLEMS + problem)

    def take_first_place(self) -> bool:
        """Become the process that writes under the plain names; only one does, so nobody where there are no locks."""
        return self._lock(_FIRST) and self._locks

    def take_all(self) -> bool:
        """Take whatever there is; return whether no other process has any of it."""
        return self._lock(_FIRST, _TO_THE_END)

    def let_go(self) -> None:
        """Give back everything but the turn."""
        self._unlock(_FIRST, _TO_THE_END)

    def _lock(self, start: int, length: int = 1, wait: bool = False) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, start)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            self._locks = False
        return True

    def _unlock(self, start: int, length: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN, length, start)
