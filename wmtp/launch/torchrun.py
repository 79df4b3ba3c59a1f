"""Start the processes of a run with torchrun, on this machine or on several.

[동작] 한 컴퓨터면 명령 하나이고, `launcher.submit=true`면 이 프로세스가 그대로 torchrun이 된다 (신호와 종료 코드까지).
    여러 컴퓨터면 컴퓨터마다 한 줄이다: 줄마다 그 컴퓨터에서 실행한다.
[디버깅] 시작하고 아무 말이 없으면 `launcher.address:launcher.port`에 닿지 못하는 것이다 (docs/cluster.md).
"""

import os
import shlex
import sys
from pathlib import Path

from wmtp import ranges
from wmtp.errors import ConfigError
from wmtp.launch.job import Job, found, refuse_written_secrets


class Torchrun:
    """Write, or become, the command of torchrun.

    Args:
        submit: 여기서 시작한다. 아니면 보이기만 한다.
        nodes: 컴퓨터의 수. 적지 않으면 trainer.num_nodes.
        processes: 컴퓨터마다 프로세스의 수. 적지 않으면 trainer.devices.
        address: 첫 컴퓨터의 이름이나 주소. 컴퓨터가 여럿이면 있어야 한다.
        port: 첫 컴퓨터가 나머지를 기다리는 포트.
    """

    def __init__(
        self, submit: bool = False, nodes: int = 1, processes: int = 1, address: str | None = None, port: int = 29500
    ) -> None:
        ranges.check(ranges.Torchrun, submit=submit, nodes=nodes, processes=processes, port=port)
        if nodes > 1 and not address:
            raise ConfigError(
                f"launcher.address has no value, and the processes of launcher.nodes = {nodes} machines meet there; "
                "give the name or the address of the first one."
            )
        if nodes > 1 and submit:
            raise ConfigError(
                f"launcher.submit = true starts one machine, and launcher.nodes = {nodes}; leave it out, and run every "
                "line that is shown on a machine of its own."
            )
        self.submit, self.nodes, self.processes, self.address, self.port = submit, nodes, processes, address, port

    def start(self, job: Job) -> None:
        """Show the command of every machine, or become it."""
        commands = [[*torchrun, "-m", job.module, *job.arguments] for torchrun in self._heads()]
        refuse_written_secrets("\n".join(map(shlex.join, commands)))
        if job.dry_run or not self.submit:
            print("\n".join(map(shlex.join, commands)))
            return
        if job.sweeping:
            raise ConfigError(
                "launcher.submit = true becomes one run, and this is a sweep of several; leave it out, and run the "
                "lines that are shown one after another."
            )
        sys.stdout.flush()
        os.execv(found("torchrun", beside=str(Path(sys.executable).parent)), commands[0])

    def _heads(self) -> list[list[str]]:
        if self.nodes == 1:
            return [one_machine(self.processes)]
        meet = [f"--master-addr={self.address}", f"--master-port={self.port}"]
        nodes = ["torchrun", f"--nnodes={self.nodes}"]
        return [
            [*nodes, f"--node-rank={rank}", f"--nproc-per-node={self.processes}", *meet] for rank in range(self.nodes)
        ]


def one_machine(processes: int) -> list[str]:
    """Write the beginning of torchrun's command for one machine, on a port that is free."""
    return ["torchrun", "--standalone", f"--nproc-per-node={processes}"]
