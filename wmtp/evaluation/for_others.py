"""Write results as other programs read them: EvalPlus' eval_results.json, and a table for a spreadsheet.

[연구 맥락] 표를 그리는 스크립트와 순위표는 EvalPlus의 모양을 읽는다. 베껴 적는 대신 같은 모양으로 쓴다.
[동작] 날짜가 없는 것만 EvalPlus와 다르다: 같은 평가는 언제나 바이트까지 같은 파일이다. 시험의 글은 쓰지 않으므로
    `base_fail_tests`는 비어 있다. 채점할 수 없는 문제는 들어 있지 않다.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from wmtp.evaluation.journal import Key

_STATUS = {"passed": "pass", "timeout": "timeout"}  # everything else is a "fail" there


def evalplus_results(
    programs: Iterable[tuple[Key, str, str, str | None]], pass_at_k: Mapping[str, float], digest: str
) -> Iterator[bytes]:
    """Write eval_results.json, one problem at a time: all programs together can be larger than the memory.

    [동작] base 입력 하나가 틀리면 plus 입력은 불러 보지 않고, plus_status에도 같은 것을 적는다.
        EvalPlus가 세는 것은 둘 다 통과한 것이므로 숫자는 같다.

    Args:
        programs: 표본마다 (키, 채점한 프로그램, status, base의 status), 문제의 순서대로. base의 것이 따로 없으면 None.
        pass_at_k: `<benchmark>/pass@k`와, 있다면 `<benchmark>_base/pass@k`.
        digest: 문제들의 내용에서 나온 이름.
    """
    yield f'{{"date": null, "hash": {json.dumps(digest)}, "eval": {{'.encode()
    for number, (task_id, of_problem) in enumerate(groupby(programs, key=lambda program: program[0][0])):
        name = task_id.replace("mbpp/", "Mbpp/", 1) if task_id.startswith("mbpp/") else task_id
        rows = []
        for _, solution, status, base in of_problem:
            status = _STATUS.get(status, "fail")
            row = {"task_id": name, "solution": solution}
            row |= {"base_status": _STATUS.get(base, "fail") if base else status}
            row |= {"plus_status": status if base else None}
            rows.append(row | {"base_fail_tests": [], "plus_fail_tests": []})
        yield f"{', ' if number else ''}{json.dumps(name)}: {json.dumps(rows)}".encode()
    sets = {name.partition("/")[0] for name in pass_at_k}
    rates: dict[str, dict[str, float]] = {}
    for name, value in pass_at_k.items():
        benchmark, _, k = name.partition("/")
        rates.setdefault("plus" if f"{benchmark}_base" in sets else "base", {})[k] = value
    yield f'}}, "pass_at_k": {json.dumps(rates)}}}\n'.encode()


def verdict_table(statuses: Mapping[Key, str]) -> bytes:
    """Write a table of problems by samples: a row for each problem, a column for each number of a sample.

    Example:
        >>> print(verdict_table({("mbpp/11", 0): "passed", ("mbpp/11", 1): "wrong", ("mbpp/12", 1): "error"}).decode())
        task_id,passed,samples,0,1
        mbpp/11,1,2,passed,wrong
        mbpp/12,0,1,,error
        <BLANKLINE>
    """
    numbers = sorted({number for _, number in statuses})
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(["task_id", "passed", "samples", *numbers])
    for task_id in dict.fromkeys(task_id for task_id, _ in statuses):
        row = [statuses.get((task_id, number), "") for number in numbers]
        table.writerow([task_id, row.count("passed"), sum(map(bool, row)), *row])
    return written.getvalue().encode()
