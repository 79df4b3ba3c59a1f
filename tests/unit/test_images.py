"""Hold what lies around an image: that its files fit each other, name no secret, and start what wmtp knows."""

import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from wmtp.cli import check_values, config_dir
from wmtp.secrets import mask_secrets

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "docker" / "mlflow.Dockerfile"]
YAMLS = {
    name: yaml.safe_load((ROOT / "docker" / f"{name}.yaml").read_text("utf-8")) for name in ("compose", "kubernetes")
}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_what_is_copied_is_there_and_is_let_in(dockerfile):
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    copied = [
        word for line in re.findall(r"^COPY (.*)$", dockerfile.read_text("utf-8"), re.M) for word in line.split()[:-1]
    ]
    assert [file for file in copied if not (ROOT / file).exists()] == []
    assert [file for file in copied if file != "." and not any(fnmatch(file, one) for one in let_in)] == []
    assert [file for file in let_in if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_image_installs_what_the_project_names(variant):
    text = (ROOT / "Dockerfile").read_text("utf-8")
    (program,) = re.findall(r'RUN python -c "(.*?)" "\$VARIANT"', text, re.S)
    program = program.replace("\\\n", "")  # as a shell joins them
    command = [sys.executable, "-c", program, variant]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    gpu = project["optional-dependencies"]["gpu"] if variant == "cuda" else []
    assert listed == [*project["dependencies"], *gpu]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_runs_as_a_user_whose_number_kubernetes_can_check(dockerfile):
    text = dockerfile.read_text("utf-8")
    (user,) = re.findall(r"^USER (.*)$", text, re.M)
    assert f"--uid {user} " in text and int(user) > 0
    pod = YAMLS["kubernetes"]["spec"]["template"]["spec"]["securityContext"]
    assert pod["runAsNonRoot"] and {pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]} == {int(user)}


def test_no_file_holds_a_secret():
    files = [*(ROOT / "docker").iterdir(), ROOT / "Dockerfile", ROOT / "scripts" / "build_push.sh"]
    for text in [file.read_text("utf-8") for file in files if file.name != "compose.yaml"]:
        assert mask_secrets(text) == text
    for service in YAMLS["compose"]["services"].values():
        for name, value in service.get("environment", {}).items():
            named = re.search("PASSWORD|SECRET|ACCESS_KEY", name)
            assert not named or str(value).startswith("${"), name  # from docker/.env, which git does not track
    assert "POSTGRES_PASSWORD=\n" in (ROOT / "docker" / "compose.env.example").read_text("utf-8")


def test_the_job_of_kubernetes_is_a_run_that_composes_and_goes_on():
    spec = YAMLS["kubernetes"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "wmtp.train"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", container["args"])
    check_values(cfg)
    assert cfg.ckpt == "auto" and cfg.name and cfg.trainer.devices == container["resources"]["limits"]["nvidia.com/gpu"]
    rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule}
    assert rules["Ignore"]["onExitCodes"]["values"] == [cfg.recovery.requeue_exit_code]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what podFailurePolicy asks for


def test_the_script_builds_and_pushes_what_it_is_told_to(tmp_path):
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$*"\n')
    (tmp_path / "docker").chmod(0o755)
    script = str(ROOT / "scripts" / "build_push.sh")

    def build_push(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"} | environment
        return subprocess.run([script, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)

    done = build_push("registry.example.com/team/", "cpu", BASE="ubuntu:24.04", TORCH_INDEX="http://wheels")
    build, *pushes, said = done.stdout.splitlines()
    assert build.startswith("build --build-arg VARIANT=cpu --label ") and build.endswith(
        f" --build-arg BASE=ubuntu:24.04 --build-arg TORCH_INDEX=http://wheels -t {said} "
        "-t registry.example.com/team/wmtp:cpu ."
    )
    assert pushes == [f"push {said}", "push registry.example.com/team/wmtp:cpu"]
    assert said.startswith("registry.example.com/team/wmtp:cpu-")
    assert build_push("r", PUSH="false").stdout.count("\n") == 1
    for wrong, sentence in {(): "say where to push", ("r", "rocm"): "rocm is no variant"}.items():
        failed = build_push(*wrong)
        assert failed.returncode == 2 and failed.stderr.startswith(f"build_push.sh: {sentence}")
    nowhere = build_push("r", DOCKER="no-such-engine")
    assert nowhere.returncode == 2 and "no-such-engine is not installed here" in nowhere.stderr
