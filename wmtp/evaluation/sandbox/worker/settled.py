"""Carry a verdict out of whatever is running."""


class Settled(BaseException):
    """Say what became of a program; a `BaseException`, so that tests cannot catch it by `except Exception`.

    Args:
        status: `program.STATUSES` 중 하나.
        message: 한 줄의 이유.
        border: 답이 아니라, 값이 프로세스의 경계를 건너야 했기 때문일 수 있는가.
    """

    def __init__(self, status: str, message: str, border: bool = False):
        super().__init__(status, message)
        self.status, self.message, self.border = status, message, border
