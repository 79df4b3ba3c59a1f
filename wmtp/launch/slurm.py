"""Write the script of a SLURM job that goes on by itself when its time is up or its node is taken away.

[연구 맥락] 클러스터의 한도는 대개 하루이고, 7B의 학습은 더 길다. 사람이 밤에 다시 내지 않아도 되어야 한다.
[동작] 시간이 다 되기 `launcher.notice`초 전에 SLURM이 SIGUSR1을 srun의 프로세스들에 보낸다. 실행은 스텝을
    마치고 저장한 뒤 `recovery.requeue_exit_code`로 끝나고, 스크립트가 같은 작업을 다시 줄에 세운다. 명령에는
    `ckpt=auto`가 있으므로 이어 간다.
    노드를 빼앗길 때의 SIGTERM도 같다: 스크립트 자신은 그 신호에 죽지 않고 srun을 기다린다.
    srun이 랭크마다 프로세스를 띄우므로 torchrun은 없다 (`wmtp/ranks/meeting.py`가 SLURM_*를 읽는다).
[디버깅] 스크립트는 `bash FILE`로도 읽힌다. 작업이 무엇을 했는지는 slurm-<번호>.log에 이어서 적힌다.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wmtp import ranges
from wmtp.launch.job import Job, activation, exports, on_lines, refuse_written_secrets, submit


class Slurm:
    """Write, or submit, the script of a job.

    Args:
        submit: sbatch에 준다. 아니면 보이기만 한다.
        nodes: 컴퓨터의 수. 적지 않으면 trainer.num_nodes.
        processes: 컴퓨터마다 프로세스의 수. 적지 않으면 trainer.devices.
        accelerator: "cpu"면 GPU를 청하지 않는다. 적지 않으면 trainer.accelerator.
        gpus: 컴퓨터마다 GPU의 수. None이면 프로세스마다 하나.
        cpus: 프로세스마다 코어의 수. torch의 스레드 수이기도 하다.
        memory: 컴퓨터마다 메모리, 64G처럼. None이면 클러스터의 기본값.
        time: 시간의 한도, SLURM이 읽는 대로: 분, 시:분:초, 일-시:분:초.
        partition: 줄의 이름. None이면 클러스터의 기본값.
        notice: 시간이 다 되기 몇 초 전에 저장하게 하는지.
        requeue: 다시 시작하면 이어 갈 때 다시 줄에 세운다.
        env: 스크립트에 적을 환경 변수. 비밀은 적지 않는다: sbatch가 내는 셸의 환경을 넘긴다.
        setup: srun 앞에 적을 줄들. None이면 지금의 가상 환경에 들어가는 줄.
        options: 더 적을 #SBATCH의 옵션들.
    """

    def __init__(
        self,
        submit: bool = False,
        nodes: int = 1,
        processes: int = 1,
        accelerator: str = "auto",
        gpus: int | None = None,
        cpus: int = 8,
        memory: str | int | None = None,
        time: str | int = "24:00:00",
        partition: str | None = None,
        notice: int = 300,
        requeue: bool = True,
        env: Mapping[str, Any] | None = None,
        setup: Sequence[str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        ranges.check(
            ranges.Slurm, submit=submit, nodes=nodes, processes=processes, gpus=gpus, cpus=cpus, memory=memory,
            time=time, notice=notice, requeue=requeue, env=env, setup=setup, options=options,
        )  # fmt: skip
        self.submit, self.nodes, self.processes, self.cpus, self.memory = submit, nodes, processes, cpus, memory
        self.gpus = gpus if gpus is not None else 0 if accelerator == "cpu" else processes
        self.time, self.partition, self.notice, self.requeue = time, partition, notice, requeue
        self.env, self.setup, self.options = dict(env or {}), setup, options

    def start(self, job: Job) -> None:
        """Show the script, or give it to sbatch."""
        script = self.script(job)
        refuse_written_secrets(script)
        if job.dry_run or not self.submit:
            print(script, end="")
        else:
            submit(["sbatch"], script)

    def script(self, job: Job) -> str:
        """Write the script."""
        job = job.started_again() if self.requeue else job
        setup = activation() if self.setup is None else self.setup
        # Ranks that save and leave do so one after another: ended by srun meanwhile, one would give the job a code with
        # which it is not queued again. 600 s is for the first rank's report, which the others do not wait for.
        leaving = ["--kill-on-bad-exit=0", "--wait=600"] if self._requeues(job) else ["--kill-on-bad-exit=1"]
        srun = ["srun", *leaving, f"--cpus-per-task={self.cpus}", "python", "-m", job.module]
        again = f'if [ "$code" -eq {job.requeue_code} ]; then scontrol requeue "$SLURM_JOB_ID"; fi'
        lines = [
            "#!/bin/bash",
            "# Written by wmtp's launcher=slurm (docs/cluster.md); submit it with sbatch, from the folder of the run.",
            *(f"#SBATCH {option}" for option in self._options(job)),
            "",
            "set -e",
            *setup,
            *exports({"OMP_NUM_THREADS": self.cpus} | self.env),
            "trap : TERM USR1  # srun's processes hear these too, save and end; this script waits for them",
            "code=0",
            f"{on_lines(srun, job.arguments)} || code=$?",
            *([again] if self._requeues(job) else []),
            'exit "$code"',
        ]
        return "\n".join(lines) + "\n"

    def _options(self, job: Job) -> list[str]:
        resources = {
            "job-name": job.label,
            "nodes": self.nodes,
            "ntasks-per-node": self.processes,
            "gpus-per-node": self.gpus or None,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "time": self.time,
            "partition": self.partition,
            "signal": f"USR1@{self.notice}" if self._requeues(job) and self.notice else None,
            "output": "slurm-%j.log",
            "open-mode": "append",
        }
        written = [f"--{name}={value}" for name, value in resources.items() if value is not None]
        return [*written, "--requeue" if self.requeue else "--no-requeue", *self.options]

    def _requeues(self, job: Job) -> bool:
        return self.requeue and job.requeue_code is not None
