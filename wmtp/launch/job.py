"""Describe what a launcher is to start, and hand it to the program that starts it.

[연구 맥락] 클러스터의 작업 파일을 손으로 적으면 인자 하나가 어긋난 채 몇 시간을 기다린다.
    지금 이 명령이 그대로 작업이 된다.
[동작] 앞문(`wmtp.cli`)이 설정을 모두 검사한 뒤 `Job`을 만들어 런처에 준다. 런처는 저마다 파일 하나다
    (torchrun.py, slurm.py, vessl.py): `Job`을 명령이나 작업 파일로 적어 보이거나, `launcher.submit=true`면 낸다.
    torch를 부르지 않는다.
[디버깅] 작업이 하는 일은 적힌 명령 그대로다. 그 명령을 여기서 그대로 실행해 본다.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wmtp import ranges
from wmtp.errors import ConfigError
from wmtp.secrets import mask_secrets


@dataclass(frozen=True)
class Job:
    """Hold a command that is to run elsewhere.

    Attributes:
        module: 앞문, "wmtp.train".
        arguments: 사용자가 적은 인자. 런처의 것은 빠져 있다.
        name: 실행의 이름, 정했으면.
        go_on: 다시 시작했을 때 이어 가게 하는 인자. 그런 것이 없어도 이어 가면 비어 있다.
        requeue_code: 같은 명령을 다시 시작하면 이어 간다는 종료 코드. 그런 코드가 없는 앞문이면 None.
        dry_run: 보이기만 하고 내지 않는지.
        sweeping: 탐색의 점 하나인지.
    """

    module: str
    arguments: tuple[str, ...]
    name: str | None = None
    go_on: tuple[str, ...] = ()
    requeue_code: int | None = None
    dry_run: bool = False
    sweeping: bool = False

    @property
    def label(self) -> str:
        """Name the job as every scheduler takes it."""
        return re.sub(r"[^\w.-]+", "_", f"wmtp-{self.name or self.module.rpartition('.')[2]}")

    def started_again(self) -> "Job":
        """Return the job as one that may be started again and goes on: it must find its own run by its name.

        Raises:
            ConfigError: 이름이 없을 때.

        Example:
            >>> Job("wmtp.train", ("name=a", "lang=ko"), "a", ("ckpt=auto",)).started_again().arguments
            ('name=a', 'lang=ko', 'ckpt=auto')
        """
        if self.requeue_code is not None:  # it is the front door of runs
            if not self.name:
                raise ConfigError(
                    "name has no value, and a job that is started again finds its run by its name; give one, as in "
                    "name=first."
                )
            ranges.name_of_run("name", self.name)
        return replace(self, arguments=(*self.arguments, *self.go_on), go_on=())


def on_lines(head: Iterable[str], arguments: Iterable[str]) -> str:
    """Write a command for a shell, an argument a line.

    Example:
        >>> print(on_lines(["python", "-m", "wmtp.train"], ["seed=1", "name=a b"]))
        python -m wmtp.train \\
            seed=1 \\
            'name=a b'
    """
    return " \\\n    ".join([shlex.join(head), *map(shlex.quote, arguments)])


def exports(env: Mapping[str, object]) -> list[str]:
    """Write the lines that set environment variables in a shell."""
    return [f"export {name}={shlex.quote(str(value))}" for name, value in env.items()]


def activation() -> list[str]:
    """Write the line with which a shell enters the environment of this process; none where it is in no environment."""
    script = Path(sys.prefix) / "bin" / "activate"
    if sys.prefix == sys.base_prefix or not script.is_file():
        return []
    here = Path.cwd()
    return [shlex.join(["source", str(script.relative_to(here) if script.is_relative_to(here) else script)])]


def refuse_written_secrets(text: str) -> None:
    """Refuse a job file in which a secret would lie for others to read.

    Raises:
        ConfigError: 비밀 환경 변수의 값이나 비밀로 보이는 것이 들어 있을 때.
    """
    shown = mask_secrets(text)
    if shown != text:
        pairs = zip(text.splitlines(), shown.splitlines(), strict=False)
        line = next((masked.strip() for plain, masked in pairs if plain != masked), "")
        raise ConfigError(
            f"launcher: the job would hold a secret ({line}), and job files are read by others; name the environment "
            "variable instead, as in 'key=${oc.env:NAME}' (docs/cluster.md)."
        )


def found(program: str, beside: str = "") -> str:
    """Return where a program is, in the folder `beside` or on the PATH.

    Raises:
        ConfigError: 없을 때.
    """
    path = shutil.which(program, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]).lstrip(os.pathsep))
    if path is None:
        raise ConfigError(
            f"launcher.submit = true needs {program}, which is not installed here; submit where it is, or leave "
            "launcher.submit out and take what is shown there."
        )
    return path


def submit(command: list[str], text: str | None = None) -> None:
    """Run the program that takes a job, and let it say what it has to say.

    Args:
        text: 표준 입력으로 줄 작업 파일.

    Raises:
        ConfigError: 그 프로그램이 없거나, 받지 않았을 때.
    """
    program = command[0]
    found(program)
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    print(done.stdout, end="")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ConfigError(f"launcher.submit = true: {program} did not take the job: {said[-1]}")
