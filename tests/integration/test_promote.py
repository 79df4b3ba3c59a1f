"""Models come into use through a gate, say why not, and go back: through the front door, in a real MLflow store."""

import json
from pathlib import Path

import hydra
import pytest
from mlflow.tracking import MlflowClient

import wmtp
from tests.integration.test_commands import shell
from tests.unit.comparison.made_runs import make_run
from wmtp.cli import config_dir
from wmtp.errors import CheckpointError, ConfigError
from wmtp.promote import promote
from wmtp.run.registry import find_registered

KNOWN = {"used": {"synthetic": {"licence": "Apache-2.0"}}, "mlflow_experiment": "mtp/rho1/synthetic"}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def asked(runs):
    """Promote as the command line would, in this process."""

    def promote_with(*overrides: str) -> str:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            return promote(hydra.compose("promote", [f"runs={runs}", *overrides]))

    return promote_with


def exported(runs: Path, name: str, share: float, **more) -> Path:
    run = make_run(runs, "rho1", 42, share, problems=200, name=name, **{**KNOWN, **more})
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    (run / "model" / "README.md").write_text("---\nlicense: mit\n---\n\n# The card\n")
    return run


def test_a_better_run_comes_into_use_a_worse_one_is_refused_with_its_reason_and_the_way_back_works(runs, asked):
    first, better, worse = (exported(runs, name, share) for name, share in (("a", 0.4), ("b", 0.6), ("c", 0.3)))
    name, store = "wmtp-synthetic", f"sqlite:///{runs / 'mlflow.db'}"
    assert asked(f"run={first}", "to=production") == "1"
    assert asked(f"run={better}", "to=staging") == "2"
    assert asked(f"run={better}", "to=production") == "2"  # the same version under both names
    with pytest.raises(ConfigError) as refused:
        asked(f"run={worse}", "to=production")
    assert "its synthetic/pass@1 is" in str(refused.value) and "points below that of today's production" in str(
        refused.value
    )
    client = MlflowClient(store)
    version = client.get_model_version_by_alias(name, "production")
    assert version.version == 2 and version.source == str(better / "model")
    assert "# The card" in version.description and "license: mit" not in version.description
    assert "synthetic/pass@1: +" in version.description and "Compared with a:" in version.description
    assert (better / "release_notes.md").read_text() == version.description
    assert find_registered(f"registry:{name}", store) == better / "model"

    with pytest.raises(ConfigError, match="reason has no value"):
        asked(f"run={worse}", "to=production", "force=true")
    assert asked(f"run={worse}", "to=production", "force=true", "reason=the other one leaks") == "3"
    forced = client.get_model_version_by_alias(name, "production")
    assert forced.tags["forced.production"] == "the other one leaks"
    assert "**Forced, against the gate:** the other one leaks" in forced.description
    assert "points below that of today's production" in forced.description

    assert asked(f"rollback={name}", "to=production") == "2"
    assert asked(f"rollback={name}", "to=production") == "1"
    with pytest.raises(ConfigError, match="version 1 is the first that was production"):
        asked(f"rollback={name}", "to=production")
    assert client.get_model_version(name, "3").tags["rolled_back.production"] == "2"


def test_every_reason_of_the_gate_is_said(runs, asked):
    bare = make_run(runs, "rho1", 1, used={"mine": {"licence": None}}, mlflow_experiment="mtp/rho1/synthetic")
    with pytest.raises(ConfigError) as refused:
        asked(f"run={bare}")
    assert "it has no exported model" in str(refused.value) and "the licence of mine is not known" in str(refused.value)
    unjudged = exported(runs, "u", 0.4)
    for file in unjudged.rglob("metrics.json"):
        file.unlink()
    with pytest.raises(ConfigError, match=f"it has no evaluation: python -m wmtp.eval ckpt={unjudged}"):
        asked(f"run={unjudged}")


def test_what_cannot_be_compared_is_not_taken_for_no_worse(runs, asked):
    first, other = exported(runs, "a", 0.4), exported(runs, "o", 0.6)
    asked(f"run={first}", "to=production")
    for file in other.rglob("metrics.json"):
        file.write_text(json.dumps({"mbpp/pass@1": 0.5}))
    (other / "eval/after/synthetic").rename(other / "eval/after/mbpp")
    with pytest.raises(ConfigError, match="no benchmark judged both it and today's production model"):
        asked(f"run={other}", "to=production")
    first.rename(runs / "away")
    with pytest.raises(ConfigError, match="is not on this machine, so nothing can be compared with it"):
        asked(f"run={exported(runs, 'b', 0.6)}", "to=production")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["run=/no/such"], "run = /no/such is no run directory"),
        ([], "run and rollback: give exactly one"),
        (["run=x", "to=prod"], "to = .prod. must be one of staging, production"),
        (["rollback=nothing"], "knows no nothing@staging"),
    ],
)
def test_mistakes_are_one_sentence(asked, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        asked(*overrides)


@pytest.mark.long
def test_what_is_printed_runs_as_printed_and_a_registered_model_is_evaluated_by_its_name(runs, tmp_path):
    run = make_run(runs, "rho1", 42, 0.5, problems=20, name="real", **KNOWN)
    (run / "model").symlink_to(Path(wmtp.__file__).parent / "assets" / "tiny-base")
    done = shell(f"python -m wmtp.promote run={run} to=production runs={runs}", tmp_path)
    assert done.returncode == 0, done.stderr
    command = next(
        line.split(":", 1)[1].strip() for line in done.stdout.splitlines() if line.startswith("evaluate it:")
    )
    done = shell(f"{command} benchmark=synthetic benchmark.limit=2 out={tmp_path / 'out'} runs={runs}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "synthetic/pass@1" in json.loads((tmp_path / "out" / "metrics.json").read_text())
    missing = shell(f"python -m wmtp.eval ckpt=registry:none runs={runs} benchmark=synthetic", tmp_path)
    assert missing.returncode == 2 and "knows no none@production" in missing.stderr
    with pytest.raises(CheckpointError, match="knows no wmtp-synthetic@staging"):
        find_registered("registry:wmtp-synthetic@staging", f"sqlite:///{runs / 'mlflow.db'}")
