"""A run survives bad numbers, too little memory and being killed; or stops with one sentence, its checkpoints whole."""

import json
import multiprocessing
import os
import pty
import random
import select
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import training
from hydra import compose, initialize_config_dir

from tests.tolerance import distance, relative_rounding, terms_of
from wmtp.cli import config_dir
from wmtp.errors import CheckpointError, LossExplosionError, NonFiniteError
from wmtp.models.loading import find_model, load_model
from wmtp.train import train

TINY = [
    "data.token_budget=512", "data.train_size=60", "trainer.max_steps=8", "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false", "eval.before=false", "eval.after=false", "logger=csv", "~callbacks.progress",
    "callbacks.last.every_n_train_steps=3", "data.module.source.validation_size=8", "+trainer.limit_val_batches=1",
    "callbacks.loss_explosion.window=4",
]  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def go(tmp_path, runs):
    """Train in this process."""

    def run(*overrides: str):
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return train(compose("train", [*TINY, f"runs={runs}", "name=run", *overrides]))

    return run


@pytest.fixture
def fault(tmp_path):
    """Write the override that adds a fault."""

    def override(kind: str, called: str = "fault", **arguments) -> str:
        if kind != "KillInSave":
            arguments["marks"] = str(tmp_path / f"marks-{called}")
        listed = ", ".join(f"{key}: {value}" for key, value in {"_target_": f"faults.{kind}", **arguments}.items())
        return f"+callbacks.{called}={{{listed}}}"

    return override


def checkpoint(run, name="last.ckpt"):
    return torch.load(run / "checkpoints" / name, weights_only=True)


def attempts(run):
    return json.loads((run / "attempts.json").read_text())


def assert_whole(run, steps=8):
    assert (run / "report.html").is_file() and (run / "model" / "model.safetensors").is_file()
    assert checkpoint(run)["global_step"] == steps
    for file in (run / "checkpoints").glob("*.ckpt"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values()), file


def initial_rates(run):
    return checkpoint(run)["lr_schedulers"][0]["base_lrs"]


def test_after_nan_a_run_goes_back_and_trains_on_at_half_the_rate(go, runs, fault):
    go(fault("BadValue", place="loss", step=4), "trainer.max_steps=5")
    run = runs / "run"
    assert_whole(run, 5)
    (attempt,) = attempts(run)
    assert attempt["cause"].startswith("NonFiniteError: loss is not finite at step 4 on rank 0")
    assert (attempt["resumed_step"], attempt["went_back_to"], attempt["remedy"]) == (3, "last.ckpt", "lower rate")
    assert initial_rates(run) == [0.005, 0.0005]
    assert (run / "failures" / "step-4" / "rank-0.json").is_file()
    assert "What went wrong" in (run / "report.html").read_text()
    assert "recovery 1: back to step 3 with lower rate" in (run / "train.log").read_text()


@pytest.mark.long
def test_after_oom_twice_the_next_step_has_the_gradient_of_the_whole_batch(go, runs, fault, tmp_path):
    def keep(name):
        return f"+callbacks.keep={{_target_: faults.KeepGradient, file: {tmp_path / name}, step: 3}}"

    go("name=whole", "trainer.max_steps=4", keep("whole"))
    go(keep("ours"), "trainer.max_steps=4", fault("OutOfMemory", step=3, times=2))
    assert [attempt["changes"] for attempt in attempts(runs / "run")] == [
        {"data.pieces": 2, "trainer.accumulate_grad_batches": 2, "trainer.val_check_interval": 200},
        {"data.pieces": 4, "trainer.accumulate_grad_batches": 4, "trainer.val_check_interval": 400},
    ]
    assert checkpoint(runs / "run")["global_step"] == 4
    ours, theirs = torch.load(tmp_path / "ours"), torch.load(tmp_path / "whole")
    terms = terms_of(load_model(find_model("asset:tiny-base")), positions=512)
    assert distance(ours, theirs) <= relative_rounding(terms, torch.float32)


def test_a_crash_leaves_its_cause_without_secrets(go, runs, fault, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "hush-hush-hush")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError):
        go(fault("Crash", step=1), "trainer.max_steps=2")
    assert signal.getsignal(signal.SIGINT) is handler
    run = runs / "run"
    failure = json.loads((run / "failure.json").read_text())
    assert (failure["kind"], failure["step"], failure["rank"]) == ("crash", 1, 0)
    assert "no such thing, asked with ***" in failure["cause"]
    assert "on_before_backward" in failure["stack"] and failure["environment"]["torch"] == torch.__version__
    assert failure["next_action"].startswith("Read the stack")
    assert "Traceback" in (run / "train.log").read_text()
    told = [file for file in run.rglob("*") if file.is_file() and b"hush-hush" in file.read_bytes()]
    assert told == []


def test_ctrl_c_in_the_first_validation_is_ctrl_c_and_leaves_nothing(go, runs, fault, capsys):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(fault("Signal", name="SIGINT", hook="on_validation_batch_start", step=0))
    assert "Stopped before the first checkpoint; nothing is kept." in capsys.readouterr().err
    assert list(runs.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_directory_that_is_removed_while_training_is_said(go, runs, fault):
    with pytest.raises(CheckpointError, match=r"run_dir = .*run was removed while it was trained in"):
        go(fault("RemoveRun", run=str(runs / "run"), step=1), "callbacks.last.every_n_train_steps=2")
    assert not (runs / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_what_went_wrong_can_be_repeated_from_what_is_kept(go, runs, fault):
    go(fault("BadValue", place="loss", step=5))
    run = runs / "run"
    assert {f"ckpt={run}/failures/step-5", "recovery=off"} <= set(shlex.split(attempts(run)[0]["replay"]))
    (runs.parent / "marks-fault-0").unlink()
    with pytest.raises(NonFiniteError, match="loss is not finite at step 5"):
        go(fault("BadValue", place="loss", step=5), f"ckpt={run}/failures/step-5", "recovery=off")
    kept, again = (folder / "failures/step-5/rank-0.safetensors" for folder in (run, run / "failures/step-5"))
    assert kept.read_bytes() == again.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "cause", "resumed"),
    [
        (dict(kind="BadValue", place="weight", step=5), "weight is not finite at step 5", 3),
        (dict(kind="BadValue", place="score", value="inf", step=4), "score is not finite at step 4", 3),
        (dict(kind="BadValue", place="gradient", value="-inf", step=1), "gradient of model", 0),
        (dict(kind="BadValue", place="loss", value=1e4, step=5), "is more than 10 times the usual", 3),
        (dict(kind="OutOfMemory", words="cpu", step=7), "can't allocate memory", 6),
        (dict(kind="OutOfMemory", words="python", hook="on_after_backward", step=0), "MemoryError", 0),
        # The checkpoint at step 6 is poisoned: back to the one before it, or to the beginning.
        (dict(kind="BadValue", place="parameter", step=6), "is not finite at step 6", 0),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_goes_on_after(go, runs, fault, broken, cause, resumed, accumulate):
    go(fault(**broken), f"trainer.accumulate_grad_batches={accumulate}", "data.train_size=120")
    run = runs / "run"
    assert_whole(run)
    (attempt,) = attempts(run)
    assert cause in attempt["cause"]
    assert attempt["resumed_step"] == resumed


@pytest.mark.slow
def test_rate_then_batch_then_precision_then_it_is_enough(go, runs, fault):
    with pytest.raises(NonFiniteError, match="loss is not finite at step 1"):
        go(fault("BadValue", place="loss", step=1, times=9), "trainer.precision=bf16-mixed")
    tried = attempts(runs / "run")
    assert [attempt["remedy"] for attempt in tried] == ["lower rate", "smaller batch", "higher precision"]
    assert tried[1]["changes"] == {"data.token_budget": 256}
    assert tried[2]["changes"] == {"trainer.precision": "32-true"}
    failure = json.loads((runs / "run" / "failure.json").read_text())
    assert failure["kind"] == "non_finite" and Path(failure["recipe"]).is_dir()
    assert (runs / "run" / "report.html").read_text().count("what went wrong") == 4
    # The same again, with what was changed: the fault is gone, and the run comes to its end.
    go("ckpt=auto", "trainer.precision=bf16-mixed")
    assert_whole(runs / "run")
    assert not (runs / "run" / "failure.json").exists()
    assert initial_rates(runs / "run") == [0.005, 0.0005]


@pytest.mark.slow
def test_an_explosion_that_stays_goes_back_behind_the_checkpoint_that_it_comes_from(go, runs, fault):
    with pytest.raises(LossExplosionError):
        go(fault("BadValue", place="loss", value=1e4, step=6, times=9), "recovery.max_attempts=2")
    assert [(a["resumed_step"], a["went_back_to"]) for a in attempts(runs / "run")] == [(0, None), (0, None)]
    assert [file.name for file in (runs / "run" / "checkpoints").glob("*.bad")] == ["last.ckpt.bad"]


# ---- processes of their own: signals, kills, full disks, several ranks ----


def start(runs: Path, *overrides: str, **more: str) -> subprocess.CompletedProcess:
    return training.start(*TINY, f"runs={runs}", *overrides, **more)


@pytest.fixture(scope="module")
def launch():
    """Train in a process of its own, forked from one that has imported everything; return its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wmtp.train", "wmtp.algos.rho1", "wmtp.data.module", "wmtp.run.recovery", "faults"])

    def run(runs: Path, *overrides: str) -> int:
        process = context.Process(target=training.train_here, args=(*TINY, f"runs={runs}", *overrides))
        process.start()
        process.join(timeout=300)
        return process.exitcode

    return run


def same_weights(run, whole):
    ours, theirs = checkpoint(run)["state_dict"], checkpoint(whole)["state_dict"]
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_preempted_run_saves_and_is_started_again_by_the_same_command(runs, fault, name):
    same = ["name=run", "ckpt=auto", fault("Signal", name=name, step=4), "recovery.requeue_exit_code=99"]
    stopped = start(runs, *same)
    assert stopped.returncode == 99, stopped.stderr
    assert "finishing this step and saving" in stopped.stderr
    assert checkpoint(runs / "run")["global_step"] == 5
    again = start(runs, *same)
    assert again.returncode == 0, again.stderr
    assert_whole(runs / "run")
    assert start(runs, "name=whole").returncode == 0
    assert same_weights(runs / "run", runs / "whole")
    assert sorted(path.name for path in runs.iterdir()) == ["run", "whole"]


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves_and_under_nohup_goes_on(runs):
    log, last = runs / "run" / "train.log", runs / "run" / "checkpoints" / "last.ckpt"

    def in_a_terminal(*overrides: str, launch: int = 1, shell: str = 'exec "$@"') -> int:
        """Start the command with a terminal of its own, and close that once it goes on from, or to, a checkpoint."""
        here = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}.", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "wmtp.train", *TINY, f"runs={runs}", "name=run", "ckpt=auto", *overrides]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvpe("sh", ["sh", "-c", shell, "sh", *command], here)
        while not last.exists() or log.read_text().count("run directory:") < launch:
            time.sleep(0.05)
            with suppress(OSError):  # nobody holds the other end: nohup has sent all of it elsewhere
                if select.select([terminal], [], [], 0)[0]:
                    os.read(terminal, 1000)
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_a_terminal("trainer.max_steps=100000") == 75
    assert "SIGHUP: finishing this step and saving" in log.read_text()
    steps = checkpoint(runs / "run")["global_step"] + 2
    nohup = f'exec nohup "$@" > {runs}/nohup.out 2>&1'
    assert in_a_terminal(f"trainer.max_steps={steps}", launch=2, shell=nohup) == 0
    assert_whole(runs / "run", steps)


@pytest.mark.slow
def test_a_second_sigterm_stops_at_once(runs, fault):
    twice = [fault("Signal", name="SIGTERM", step=4), fault("Signal", "again", name="SIGTERM", step=4)]
    stopped = start(runs, "name=run", *twice)
    assert stopped.returncode == -signal.SIGTERM, stopped.stderr
    assert checkpoint(runs / "run")["global_step"] == 3


@pytest.mark.slow
def test_kill_9_between_or_inside_the_files_of_a_checkpoint_damages_none(launch, runs, fault):
    # Every other step writes last, and then best or not, as validation says.
    common = ["trainer.val_check_interval=2", "callbacks.last.every_n_train_steps=2"]
    assert launch(runs, "name=whole", *common) == 0
    for times, half in [(2, False), (2, True), (3, False), (3, True), (4, True), (5, False)]:
        name = f"killed-{times}-{half}"
        killed = launch(runs, f"name={name}", *common, fault("KillInSave", times=times, half=half))
        assert killed == -signal.SIGKILL, name
        files = list((runs / name / "checkpoints").glob("*.ckpt"))
        assert files and all(torch.load(file, weights_only=True)["global_step"] in (2, 4, 6) for file in files), name
        assert launch(runs, f"name={name}", *common, "ckpt=auto") == 0
        assert_whole(runs / name)
        assert same_weights(runs / name, runs / "whole"), name


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_recovery_goes_on_with_what_was_changed(launch, runs, fault):
    bad, kill = fault("BadValue", place="loss", step=5), fault("Signal", "kill", name="SIGKILL", step=4, skip=1)
    assert launch(runs, "name=run", bad, kill) == -signal.SIGKILL
    assert len(attempts(runs / "run")) == 1
    assert launch(runs, "name=run", bad, kill, "ckpt=last") == 0
    assert_whole(runs / "run")
    assert initial_rates(runs / "run") == [0.005, 0.0005]


@pytest.mark.slow
def test_a_full_disk_stops_the_run_with_one_sentence_and_whole_checkpoints(tmp_path):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    runs.mkdir()
    script = tmp_path / "in_a_small_disk"
    command = [sys.executable, "-m", "wmtp.train", *TINY, f"runs={runs}", "name=run", "ckpt=auto"]
    script.write_text(
        f"mount -t tmpfs -o size=18m tmpfs {runs} || exit 77\n"
        f"{shlex.join(command)}; echo first $?; cp -r {runs}/run {kept}\n"
        f"mount -o remount,size=200m {runs}\n"
        f"{shlex.join(command)}; echo second $?; cp -r {runs}/run {kept}-2\n"
    )
    here = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}.", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-Urm", "sh", str(script)], env=here, capture_output=True, text=True, timeout=400)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine does not let users mount a small disk")
    assert "first 2" in done.stdout, done.stderr
    said = [line for line in done.stderr.splitlines() if "DiskFullError" in line]
    assert len(said) == 1 and "no space left" in said[0] and "ckpt=last" in said[0], done.stderr
    assert "Traceback" not in done.stderr
    files = list((kept / "checkpoints").glob("*.ckpt"))
    assert files and all(torch.load(file, weights_only=True)["global_step"] > 0 for file in files)
    assert "second 0" in done.stdout, done.stderr
    assert_whole(tmp_path / "kept-2")


@pytest.mark.slow
def test_a_limit_on_file_sizes_stops_the_run_with_one_sentence_and_whole_checkpoints(runs):
    assert start(runs, "name=run", "trainer.max_steps=3").returncode == 0
    size = (runs / "run" / "checkpoints" / "last.ckpt").stat().st_size
    shutil.rmtree(runs / "run" / "model")
    stopped = start(runs, "name=run", "ckpt=auto", before=f"ulimit -f {size // 1024};")
    assert stopped.returncode == 2, stopped.stderr
    assert stopped.stderr.count("DiskFullError") == 1 and "Traceback" not in stopped.stderr, stopped.stderr
    assert checkpoint(runs / "run")["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("store", ["locked", "gone"])
def test_a_store_that_is_locked_or_gone_costs_one_warning(runs, tmp_path, store, fault):
    database = tmp_path / "mlflow.db"
    common = ["name=run", "logger=default", f"logger.mlflow.tracking_uri=sqlite:///{database}"]
    assert start(runs, *common, "trainer.max_steps=1").returncode == 0
    lock = sqlite3.connect(database)
    if store == "locked":
        lock.execute("BEGIN EXCLUSIVE")
    else:
        common[2] = "logger.mlflow.tracking_uri=http://127.0.0.1:9"
    done = start(runs, "name=other", *common[1:], fault("BadValue", place="loss", step=5))
    lock.close()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: MLflow") == 1, done.stderr
    assert_whole(runs / "other")


@pytest.mark.slow
def test_attempts_and_failures_are_in_mlflow(go, runs, fault, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MY_API_TOKEN", "hush-hush-hush")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logged = ["logger=default", f"logger.mlflow.tracking_uri={uri}"]
    with pytest.raises(KeyError):
        go(fault("BadValue", place="loss", step=5), fault("Crash", "crash", step=6), *logged)
    client = MlflowClient(uri)
    run_id = json.loads((runs / "run" / "mlflow.json").read_text())["run_id"]
    kept = client.get_run(run_id)
    assert kept.info.status == "FAILED"
    assert kept.data.tags["recovery.1.cause"].startswith("NonFiniteError: loss is not finite at step 5")
    assert kept.data.tags["recovery.1.action"] == "lower rate: callbacks.learning_rate.scale = 0.5"
    assert "NonFiniteError" in kept.data.tags["recovery.1.stack"]
    assert kept.data.metrics["recovery/attempts"] == 1
    names = {file.path for file in client.list_artifacts(run_id)}
    assert {"failure.json", "train.log", "attempts.json", "report.html"} <= names
    recipe = {file.path for file in client.list_artifacts(run_id, "failures/step-5")}
    assert recipe == {"failures/step-5/rank-0.json", "failures/step-5/rank-0.safetensors"}
    assert "hush" not in json.dumps(kept.data.tags)


RANKS = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=32-true"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["gradient", "weight", "loss"])
def test_a_bad_value_on_one_rank_of_two_stops_and_recovers_both(runs, fault, place):
    full = "data.train_size=200"  # no step whose share of one rank is empty: no weight there could be bad
    done = start(runs, *RANKS, "name=run", full, fault("BadValue", place=place, step=5, rank=1))
    assert done.returncode == 0, done.stderr
    assert_whole(runs / "run")
    (attempt,) = attempts(runs / "run")
    assert f"{place}" in attempt["cause"] and "on rank 1" in attempt["cause"]
    # A gradient that two ranks have added up is bad on both.
    assert (runs / "run" / "failures" / "step-5" / "rank-1.json").is_file()
    assert initial_rates(runs / "run") == [0.005, 0.0005]


@pytest.mark.slow
def test_an_explosion_on_one_rank_of_two_recovers_both(runs, fault):
    full = "data.train_size=200"  # no step whose share of one rank is empty: nothing times a lot is nothing
    done = start(runs, *RANKS, "name=run", full, fault("BadValue", place="loss", value=1e4, step=5, rank=1))
    assert done.returncode == 0, done.stderr
    assert "times the usual" in attempts(runs / "run")[0]["cause"]
    assert_whole(runs / "run")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_oom_on_one_rank_of_two_ends_to_be_started_again_in_smaller_pieces(runs, fault, rank):
    same = [*RANKS, "name=run", "ckpt=auto", fault("OutOfMemory", step=4, rank=rank)]
    ended = start(runs, *same)
    assert ended.returncode == 75, (ended.returncode, ended.stderr)
    changes = attempts(runs / "run")[0]["changes"]
    assert changes == {"data.pieces": 2, "trainer.accumulate_grad_batches": 2, "trainer.val_check_interval": 200}
    again = start(runs, *same)
    assert again.returncode == 0, again.stderr
    assert_whole(runs / "run")
    assert len(attempts(runs / "run")) == 1
    assert [path.name for path in runs.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_rank_of_two_stops_both(runs, fault, rank):
    same = [*RANKS, "name=run", "ckpt=auto", fault("Signal", name="SIGTERM", step=4, rank=rank)]
    stopped = start(runs, *same)
    assert stopped.returncode == 75, (stopped.returncode, stopped.stderr)
    assert checkpoint(runs / "run")["global_step"] == 5
    assert start(runs, *same).returncode == 0
    assert_whole(runs / "run")


# ---- many runs, whatever comes ----


def random_fault(rng: random.Random) -> dict:
    """Choose what breaks, where and how often."""
    step, hook = rng.randrange(8), rng.choice(["on_before_backward", "on_after_backward", "on_train_batch_end"])
    times = rng.choice([1, 1, 2])
    return rng.choice(
        [
            dict(kind="BadValue", place=rng.choice(["loss", "score", "weight", "gradient"]), step=step, times=times,
                 value=rng.choice(["nan", "inf", "-inf"])),
            dict(kind="BadValue", place="loss", value=1e4, step=step, times=times),
            dict(kind="BadValue", place="parameter", step=step),
            dict(kind="OutOfMemory", words=rng.choice(["cuda", "cpu", "python"]), step=step, hook=hook, times=times),
            dict(kind="Signal", name=rng.choice(["SIGTERM", "SIGUSR1", "SIGKILL"]), step=step, hook=hook, times=times),
            dict(kind="KillInSave", times=rng.randrange(1, 5), half=rng.random() < 0.5),
        ]
    )  # fmt: skip


@pytest.mark.slow
def test_forty_runs_with_random_faults_lose_none(launch, runs, fault):
    rng, launches, recovered, lost = random.Random(42), [], 0, []
    for number in range(40):
        faults = [random_fault(rng) for _ in range(rng.choice([1, 1, 2]))]
        common = [f"trainer.accumulate_grad_batches={rng.choice([1, 2])}", "recovery.max_attempts=6"]
        codes = []
        while not codes or (codes[-1] in (75, -signal.SIGKILL) and len(codes) < 8):
            added = [fault(**one, called=f"fault{number}{i}") for i, one in enumerate(faults)]
            if codes:  # it counts the files of one process: a second one would be killed for ever
                added = [one for one in added if "KillInSave" not in one]
            codes.append(launch(runs, f"name=run{number}", "ckpt=auto", *common, *added))
        run = runs / f"run{number}"
        try:
            assert codes[-1] == 0
            assert_whole(run)
        except AssertionError:
            lost.append((number, faults, codes))
        launches.append(len(codes))
        recovered += len(attempts(run)) if (run / "attempts.json").exists() else 0
        print(f"run {number}: {[one['kind'] for one in faults]} exit codes {codes}", flush=True)
    print(f"40 runs, {sum(launches)} launches, {recovered} recoveries inside a run, {len(lost)} lost")
    assert lost == []
