"""Carry a verdict out of whatever is running."""


class Settled(BaseException):
    """Say what became of a program; a `BaseException`, so that tests cannot catch it by `except Exception`.

    Args:
        status: `program.STATUSES` 중 하나.
        message: 한 줄의 이유.
    """

    def __init__(self, status: str, message: str):
        super().__init__(status, message)
        self.status, self.message = status, message
