"""Ask the reference solutions what is right, once: the inputs are in the data, the outputs are not.

[연구 맥락] EvalPlus의 자료에는 입력만 있고, 옳은 값은 참조 정답이 돌려주는 것이다. 참조 정답도 남의 프로그램이므로
    샌드박스에서 실행한다.
[동작] 한 문제의 값들은 캐시의 `answers/`에 있고, 정답과 입력과 비교하는 법의 내용이 그 이름이다. 값은 샌드박스의
    JSON 글 그대로이고, 아주 큰 값은 그 지문이다 (sandbox/worker/large.py): HumanEval+와 MBPP+를 합쳐 20 MB쯤이다.
    torch를 부르지 않는다: 채점만 하는 프로그램의 메모리가 몇 배로 늘지 않게.
[디버깅] 참조 정답이 제 값과도 맞지 않거나(NaN) 실패하면 여기 없고, 그 문제는 unjudgeable이다.
"""

import ast
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from wmtp.cache.fingerprint import code_of, digest_of
from wmtp.data.problem import Problem
from wmtp.errors import DataFormatError
from wmtp.evaluation.sandbox import PATIENCE, Limits, Program, Sandbox, limits_from_calls, times, wire_text
from wmtp.storage import in_use
from wmtp.storage.files import write_atomically

_WORKER = Path(__file__).parent / "sandbox" / "worker"


class Answers(NamedTuple):
    """Hold the inputs and what a reference solution returned for each, and the CPU time that it took."""

    inputs: str
    outputs: str
    seconds: float
    slowest: float


def answers_of(sandbox: Sandbox, problems: Sequence[Problem], limits: Limits) -> dict[str, Answers]:
    """Find the right outputs of the problems that have inputs, in the cache or by running their reference solutions.

    Returns:
        task_id → 답. 참조 정답이 없거나 실패한 문제는 없다.
    """
    asked = [problem for problem in problems if problem.inputs and problem.solutions]
    found, missing = {}, []
    for problem in asked:
        file = in_use().cache / "answers" / digest_of(_key(problem))[:32]
        if answers := _read(file):
            found[problem.task_id] = answers
        else:
            missing.append((problem, file))
    asking = [calling(one, one.solutions[0], limits, Answers(_crossing(one), "", 0.0, 0.0)) for one, _ in missing]
    for index, verdict in sandbox.judge(asking):
        problem, file = missing[index]
        if verdict.passed:
            answers = Answers(asking[index].inputs, verdict.answers, verdict.seconds, verdict.slowest)
            found[problem.task_id] = answers
            _write(file, answers)
    return found


def _read(file: Path) -> Answers | None:
    """Read what was kept; None where it is not there, or damaged."""
    try:
        checksum, text = file.read_bytes().split(b"\n", 1)
        if checksum == hashlib.sha256(text).hexdigest().encode():
            return Answers(*json.loads(text))
    except (OSError, ValueError):
        pass
    return None


def _write(file: Path, answers: Answers) -> None:
    """Keep answers; a cache that cannot be written costs time, nothing else."""
    text = json.dumps(answers).encode()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def calling(problem: Problem, source: str, limits: Limits, answers: Answers) -> Program:
    """Build the program that is judged by calls; where there are no outputs yet, what it returns is recorded.

    [동작] 한도는 문제가 허락하는 것과 설정의 것 가운데 큰 것이고, 참조 정답이 느리면 그것을 따라 늘어난다.
    """
    limits = replace(limits_of(problem, limits), call_seconds=limits.call_seconds)
    if answers.outputs:
        limits = limits_from_calls(limits, answers.seconds, answers.slowest)
    else:
        limits = replace(times(limits, PATIENCE), call_seconds=PATIENCE * limits.cpu_seconds)
    return Program(
        source,
        entry_point=problem.entry_point,
        task_id=problem.task_id,
        limits=limits,
        inputs=answers.inputs,
        base_inputs=problem.base_inputs,
        answers=answers.outputs,
        agreement=problem.agreement,
        tolerance=problem.tolerance,
    )


def limits_of(problem: Problem, limits: Limits) -> Limits:
    """Allow a problem more time and memory than the limits do, where it asks for more."""
    stretched = times(limits, max(1.0, problem.time_limit / limits.cpu_seconds))
    return replace(stretched, memory_bytes=max(limits.memory_bytes, problem.memory_limit))


def _key(problem: Problem) -> list:
    """List everything that decides the outputs."""
    code = code_of(*(_WORKER / f"{name}.py" for name in ("large", "many_inputs", "program_side", "wire")))
    return [problem.solutions[0], problem.entry_point, problem.inputs, problem.agreement, problem.tolerance, code]


def _crossing(problem: Problem) -> str:
    """Write the inputs of a problem as they cross into the sandbox."""
    try:
        try:
            inputs = ast.literal_eval(problem.inputs)
        except ValueError:
            inputs = ast.literal_eval(_Numbers().visit(ast.parse(problem.inputs, mode="eval")))
        return wire_text([list(arguments) for arguments in inputs])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        where = problem.origin or problem.task_id
        raise DataFormatError(f"{where}: the inputs are no plain values of Python. Correct the row.") from None


class _Numbers(ast.NodeTransformer):
    """Give inf and nan, which Python prints but does not read, their values."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node
