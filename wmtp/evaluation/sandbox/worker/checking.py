"""Ask the checker of a problem with several right answers, in a process of its own.

[연구 맥락] 답이 하나가 아닌 문제(아무 최단 경로나)를 정해진 답과 견주면 옳은 프로그램이 떨어진다. 그런 문제는
`check(input, output, answer)`를 가져온다. 이 함수는 남의 파일에서 온 코드이므로 프로그램처럼 가둔다. 프로그램이 판정을
건드릴 수도 없어야 한다: 프로그램의 프로세스가 끝나고 흔적이 지워진 뒤에 새 프로세스에서 부르고, 프로그램이 낸 것은
평범한 값으로만 건너간다.
[동작] True는 정답, False는 오답. 나머지는 (예외, 시간 초과, 다른 값) 프로그램의 잘못이 아니므로 harness_error.
"""

from . import wire
from .remote import RemoteContainer
from .session import Session
from .settled import Settled


def accepts(judge, program: dict, given, output, answer) -> bool:
    """Tell whether the checker takes an output for right.

    Args:
        given: 시험의 입력 (글, 또는 인자의 리스트). output: 프로그램이 낸 것, 평범한 값. answer: 데이터의 답.
    """
    checker = {**program, "source": program["checker"], "preamble": "", "setup": "", "tests": []}
    spent = judge.spent
    try:
        with judge.running(checker) as process, judge.alarm(program):
            process.begin(["", checker["source"]])
            session = Session(process)
            session.interpret(*session.receive())
            said = session.call(session.request("name", "check"), [given, output, answer], {})
    except Settled as settled:
        raise Settled("harness_error", f"the checker {settled.message}") from None
    except Exception as error:
        raised = getattr(error, "sandbox_name", None)
        what = f"raised {raised}" if raised else f"returned no value ({type(error).__name__})"
        raise Settled("harness_error", f"the checker {what}") from None
    finally:
        judge.spent = spent  # the time is not the program's
    if type(said) is not bool:
        raise Settled("harness_error", "the checker returned neither True nor False")
    return said


def plain(value):
    """Reduce what a program returned to plain values; raise Settled where something of it has no content."""
    return wire.decode(wire.encode(value, _content), _refuse)


def _content(value, base):
    if type(value) is RemoteContainer:
        return wire.encode(value._content(), _content)
    if base is None:
        _refuse()
    return wire.encode(wire.content_of(value, base), _content)


def _refuse(*_):
    raise Settled("wrong", "returned an object that is no plain value")
