"""Say in one sentence what is wrong, where, and the way out.

[연구 맥락] 사용자의 실수는 추적(traceback)이 아니라 한 문장으로 알려 준다: 어떤 키가, 어떤 값이고, 어떻게 고치는지.
[동작] 앞문(train, eval …)은 `WmtpError`를 잡아 그 문장만 출력하고 종료 코드 2로 끝난다.
    나머지 예외는 버그이므로 그대로 드러난다.
"""

from collections.abc import Iterator


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Walk from an exception to what it was raised from; what merely came up while another was handled is a bug.

    Example:
        >>> try:
        ...     try:
        ...         raise ConfigError("lam = 7")
        ...     except ConfigError:
        ...         {}["a bug in the report of it"]
        ... except KeyError as error:
        ...     [type(one).__name__ for one in chain(error)]
        ['KeyError']
    """
    while error is not None:
        yield error
        error = error.__cause__


def first_line(error: BaseException) -> str:
    """Say in a line what a library threw; its kind where it says nothing.

    Example:
        >>> first_line(OSError("\\nno such host\\nin line 7")), first_line(EOFError())
        ('no such host', 'EOFError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class WmtpError(Exception):
    """Report a user's mistake: one sentence, no traceback, exit code 2."""


class ConfigError(WmtpError):
    """Report a configuration key whose value cannot work."""


class DataNotFoundError(WmtpError):
    """Report data that is in none of the places that were tried."""


class StorageError(WmtpError):
    """Report data or a model that is there, but cannot be fetched whole or not before its licence is accepted."""


class ServerError(WmtpError):
    """Report a server that was to write samples and does not."""


class DataFormatError(WmtpError):
    """Report a malformed row, with file and line."""


class DataLeakError(WmtpError):
    """Report training problems that a benchmark in use asks."""


class CheckpointError(WmtpError):
    """Report a checkpoint that is missing, truncated or of another model."""


class TokenizerMismatchError(WmtpError):
    """Report two models whose tokenizers differ where they must agree."""


class NonFiniteScoreError(WmtpError):
    """Report NaN or Inf among token scores: how many, and where the first one is."""


class NonFiniteError(WmtpError):
    """Report NaN or Inf in a training step that was therefore not taken.

    Attributes:
        recipe: 그 스텝을 되풀이할 배치가 있는 폴더.
    """

    def __init__(self, sentence: str, recipe: str | None = None) -> None:
        super().__init__(sentence)
        self.recipe = recipe


class LossExplosionError(WmtpError):
    """Report a loss far above the recent ones, in a step that was therefore not taken."""


class SandboxUnavailableError(WmtpError):
    """Report that this machine offers no safe way to run generated programs."""


class HarnessError(WmtpError):
    """Report that judging itself failed; it says nothing about the program."""
