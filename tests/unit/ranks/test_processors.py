"""Hold the number of threads to what the kernel allows, and the advice to what the processor has."""

import ast
import math
from importlib.resources import files

import pytest
import torch

from wmtp.ranks.processors import cores_allowed, fit_threads, multiplies_bf16


def test_the_smallest_limit_from_here_to_the_root_counts(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/pod/box\n")
    box = tmp_path / "groups" / "pod" / "box"
    box.mkdir(parents=True)
    assert cores_allowed(tmp_path / "groups", own) == math.inf
    (box / "cpu.max").write_text("max 100000\n")
    assert cores_allowed(tmp_path / "groups", own) == math.inf
    (box.parent / "cpu.max").write_text("250000 100000\n")
    assert cores_allowed(tmp_path / "groups", own) == 2.5
    (tmp_path / "groups" / "cpu.max").write_text("150000 100000\n")
    assert cores_allowed(tmp_path / "groups", own) == 1.5


def test_the_older_groups_are_read_too(tmp_path):
    own = tmp_path / "own"
    own.write_text("4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n")
    box = tmp_path / "cpu,cpuacct" / "box"
    box.mkdir(parents=True)
    (box / "cpu.cfs_quota_us").write_text("-1\n")
    (box / "cpu.cfs_period_us").write_text("100000\n")
    assert cores_allowed(tmp_path, own) == math.inf
    (box / "cpu.cfs_quota_us").write_text("300000\n")
    assert cores_allowed(tmp_path, own) == 3


def test_no_groups_are_no_limit(tmp_path):
    assert cores_allowed(tmp_path, tmp_path / "nothing") == math.inf


def test_threads_are_only_ever_taken_away_and_never_from_who_says_how_many(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
        for allowed, threads in ((math.inf, 4), (8.0, 4), (2.5, 2), (0.5, 1)):
            monkeypatch.setattr("wmtp.ranks.processors.cores_allowed", lambda allowed=allowed: allowed)
            fit_threads()
            assert torch.get_num_threads() == threads
        torch.set_num_threads(4)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        fit_threads()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("door", ["train", "eval", "precompute"])
def test_every_command_that_computes_keeps_to_the_limit(door):
    """It says so beside what it does with the libraries anyway; without it a container's limit is a slow surprise."""
    code = ast.parse(files("wmtp").joinpath(f"{door}.py").read_text())
    calls = [one.func.id for one in ast.walk(code) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)]
    assert calls.count("fit_threads") == calls.count("quiet_libraries") == 1


def test_a_processor_with_units_for_bf16_is_known_by_its_flags(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert not multiplies_bf16(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nbogomips : 1\n")
    assert not multiplies_bf16(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n")
    assert multiplies_bf16(cpuinfo)
