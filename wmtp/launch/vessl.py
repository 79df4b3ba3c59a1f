"""Write the YAML of a run on VESSL: one machine, its image, its volumes and the names of its secrets.

[동작] 컨테이너 안에서 torchrun이 GPU마다 프로세스를 띄운다. VESSL이 빼앗긴 실행을 다시 시작하면 `ckpt=auto`가 이어
    간다: `runs`는 작업과 함께 사라지지 않는 곳(`launcher.mounts`)에 있어야 한다.
    비밀은 이름만 적는다: 환경 변수와 같은 이름의 비밀을 VESSL에 등록해 둔다.
[디버깅] 칸의 이름은 SDK 0.1.199의 모양(V1RunSpecFormBodyInput)을 따른다. VESSL에서 돌려 보지는 못했다.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wmtp import ranges
from wmtp.launch.job import Job, on_lines, refuse_written_secrets, submit
from wmtp.launch.torchrun import one_machine


class Vessl:
    """Write, or submit, the YAML of a run.

    Args:
        submit: `vessl run create`에 준다. 아니면 보이기만 한다.
        nodes: 언제나 1. 적지 않으면 trainer.num_nodes.
        processes: 프로세스의 수. 적지 않으면 trainer.devices.
        image: 컨테이너 이미지 (scripts/build_push.sh가 올린 것).
        cluster: 클러스터의 이름.
        preset: 자원의 이름. `vessl resource list`가 보여 준다.
        env: 적을 환경 변수. 비밀은 적지 않는다.
        private_env: VESSL의 비밀에서 값을 가져올 환경 변수의 이름들.
        inputs: 시작할 때 내려받을 곳, {폴더: 주소}.
        mounts: 붙일 볼륨, {폴더: 주소}. 실행 폴더와 캐시가 여기에 있어야 이어 간다.
        outputs: 끝날 때 올릴 곳, {폴더: 주소}.
        workdir: 명령이 도는 폴더.
    """

    def __init__(
        self,
        image: str,
        cluster: str,
        preset: str,
        submit: bool = False,
        nodes: int = 1,
        processes: int = 1,
        env: Mapping[str, Any] | None = None,
        private_env: Sequence[str] = (),
        inputs: Mapping[str, str] | None = None,
        mounts: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
        workdir: str = "/srv/wmtp",
    ) -> None:
        ranges.check(
            ranges.Vessl, submit=submit, nodes=nodes, processes=processes, env=env, private_env=private_env,
            inputs=inputs, mounts=mounts, outputs=outputs, workdir=workdir,
        )  # fmt: skip
        self.submit, self.nodes, self.processes, self.image = submit, nodes, processes, image
        self.resources = {"cluster": cluster, "preset": preset}
        self.env: dict[str, Any] = {name: str(value) for name, value in (env or {}).items()}
        self.env |= {name: {"secret": name} for name in private_env}
        self.volumes = {"import": inputs, "mount": mounts, "export": outputs}
        self.workdir = workdir

    def start(self, job: Job) -> None:
        """Show the YAML, or give it to VESSL."""
        text = self.file(job)
        refuse_written_secrets(text)
        if job.dry_run or not self.submit:
            print(text, end="")
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{job.label}.yaml"
            file.write_text(text, encoding="utf-8")
            submit(["vessl", "run", "create", "-f", str(file)])

    def file(self, job: Job) -> str:
        """Write the YAML."""
        job = job.started_again()
        command = on_lines([*one_machine(self.processes), "-m", job.module], job.arguments)
        spec = {
            "name": job.label,
            "description": "wmtp, written by launcher=vessl (docs/cluster.md)",
            "image": self.image,
            "resources": self.resources,
            **{kind: dict(places) for kind, places in self.volumes.items() if places},
            **({"env": self.env} if self.env else {}),
            "run": [{"command": _Lines(command), "workdir": self.workdir}],
        }
        return yaml.dump(spec, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class _Lines(str):
    """Mark a text that is written as lines, as a person would."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Lines, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))
