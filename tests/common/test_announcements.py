"""What is kept is said once, and not at all where it was forgotten."""

import os
import shlex
import subprocess
import sys
from typing import TextIO

import pytest
from helpers import ROOT, run_python

from cleanrl_cc.common import announcements


@pytest.fixture(autouse=True)
def nothing_kept():
    announcements.forget()
    yield
    announcements.forget()


def test_what_is_kept_is_told_once_and_in_order(capsys):
    announcements.keep("first")
    announcements.keep("second")
    assert capsys.readouterr().err == ""
    announcements.tell()
    announcements.tell()
    assert capsys.readouterr().err == "first\nsecond\n"


def test_what_is_forgotten_is_not_told(capsys):
    announcements.keep("first")
    announcements.forget()
    announcements.tell()
    assert capsys.readouterr().err == ""


def closed_pipe() -> TextIO:
    """To write to, whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


@pytest.mark.parametrize("make", [closed_pipe, lambda: None])
def test_what_nobody_reads_ends_nothing(make, monkeypatch):
    monkeypatch.setattr(sys, "stderr", make())
    announcements.say("a line")


def test_a_result_that_nobody_reads_ends_nothing():
    code = "from cleanrl_cc.common import announcements; announcements.show('a line\\n' * 10**5)"
    command = f"{sys.executable} -c {shlex.quote(code)} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a line\n", "")


def test_a_result_on_a_full_disk_is_told():
    code = "from cleanrl_cc.common import announcements; announcements.show('a line')"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "The result could not be printed (No space left on device).\n"


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "dm_control/cheetah-run-v0"])
def test_a_robot_is_made_without_a_word(env_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_python(f"from cleanrl_cc.common.envs import make_env; make_env({env_id!r}).reset(seed=0)")
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])


@pytest.mark.slow
def test_an_unstable_simulation_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_python(
        "from cleanrl_cc.common.envs import make_env; env = make_env('HalfCheetah-v5'); env.reset(seed=0); "
        "env.unwrapped.data.qvel[:] = 1e11; env.unwrapped.do_simulation([0] * 6, 1)"
    )
    assert done.stderr.startswith("Warning: MuJoCo:") and "unstable" in done.stderr
    assert not list(tmp_path.iterdir())
