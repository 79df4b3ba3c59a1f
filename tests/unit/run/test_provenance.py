"""Hold that a run says which code it was made with, and never another project's."""

import subprocess

import wmtp
from wmtp.run.provenance import code_version


def git(folder, *arguments) -> str:
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    asked = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return asked.stdout.strip()


def test_a_checkout_is_named_by_its_commit_and_whether_it_was_changed(tmp_path):
    package = tmp_path / "wmtp"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert code_version(package) == {"version": wmtp.__version__}  # no repository
    git(tmp_path, "init", "-q")
    assert code_version(package) == {"version": wmtp.__version__}  # somebody else's: it does not know the package
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    clean = {"version": wmtp.__version__, "commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    assert code_version(package) == clean
    (tmp_path / "notes.txt").write_text("not tracked")
    assert code_version(package) == clean
    (package / "__init__.py").write_text("x = 1\n")
    assert code_version(package) == clean | {"dirty": True}
