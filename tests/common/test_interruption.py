"""Signals, and what is left of a run's processes."""

import gc
import os
import shlex
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import (
    ROOT,
    SCRIPTS,
    Fork,
    assert_same_runs,
    begin,
    checkpoint,
    command_line,
    flags,
    input_error,
    resume,
    start,
    stop,
    survivors,
    train,
)

from cleanrl_cc.common import errors, runs
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.runs import Run
from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.slow

# Ctrl-C at so many moments of one script; with STORM=200 at 200 of each of the six
NUM_INTERRUPTIONS = int(os.environ.get("STORM", 3))
WATCHED = {"env_id": "helpers:ShortPendulum-v0", "total_timesteps": 200, "num_envs": 2, "eval_frequency": 100}
WATCHED |= {"checkpoint_frequency": 45, "capture_video": True, "eval_episodes": 3}


def test_a_signal_after_the_save_of_its_step_is_saved_with_the_next(tmp_path, monkeypatch):
    save = Run.save

    def signal_arrives_late(run, global_step, *rest):
        save(run, global_step, *rest)
        if global_step == 60:
            run.stop_signal = signal.SIGTERM

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(Run, "save", signal_arrives_late)
        train(SCRIPTS[0], tmp_path / "run", checkpoint_frequency=60)
    assert caught.value.code == 128 + signal.SIGTERM
    assert checkpoint(tmp_path / "run")["global_step"] == 61


# --- Ctrl-C ---


def wait_for_imports(process: subprocess.Popen):
    """Until it has begun to import libraries; what Python does before is not ours."""
    while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.001)


def start_and_wait(script: str, words: list[str]) -> subprocess.Popen | Fork:
    """A new process in a storm, else a child of this one; returns once what happens is up to us."""
    if "STORM" in os.environ:
        process = start(script, words)
        wait_for_imports(process)
        return process
    process = Fork(script, words)
    while os.getpgid(process.pid) != process.pid:
        time.sleep(0.001)
    return process


@pytest.mark.parametrize("command", ["-m cleanrl_cc.td3", "-m cleanrl_cc.evaluate", "cleanrl_cc/sac_drq.py"])
def test_ctrl_c_while_a_command_is_imported_shows_no_traceback(command):
    command = [sys.executable, *command.split(), "--help"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_imports(process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert stderr == ""
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("script", SCRIPTS if "STORM" in os.environ else SCRIPTS[:1])
def test_ctrl_c_at_any_moment_says_one_thing_and_loses_nothing(script, tmp_path):
    begun = time.monotonic()
    process = start_and_wait(script, command_line(script, tmp_path / "whole", **WATCHED))
    process.communicate(timeout=200)
    seconds = time.monotonic() - begun
    saved = 0
    for number, moment in enumerate(np.random.default_rng(1).uniform(0, seconds, NUM_INTERRUPTIONS)):
        folder = tmp_path / f"run-{number}"
        process = start_and_wait(script, command_line(script, folder, **WATCHED))
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the workers, too
        _, stderr = process.communicate(timeout=200)
        assert "Traceback" not in stderr and "Error" not in stderr, f"after {moment:.3f} s: {stderr}"
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert survivors(process) == []
        assert process.returncode != 130 or stderr.splitlines()[-1].startswith("Saved. Go on with: python ")
        assert not list(tmp_path.rglob("*.tmp*"))
        if (folder / "last.pt").exists():
            saved += 1
            resume(script, folder)
            assert_same_runs(folder, tmp_path / "whole")
        else:
            assert process.returncode == -signal.SIGINT
    print(f"{script}: {NUM_INTERRUPTIONS} interruptions, {saved} of them saved")


def test_ctrl_c_that_also_ends_who_reads_the_output_loses_nothing(tmp_path):
    folder = tmp_path / "run"
    command = shlex.join([sys.executable, "cleanrl_cc/td3.py", *command_line("td3", folder, **WATCHED)])
    command = command.replace("--total-timesteps 200", "--total-timesteps 100000")
    shell = f"{command} 2>&1 | tee {tmp_path / 'log'}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(
        ["bash", "-c", f"trap : INT; {shell}"], cwd=ROOT, start_new_session=True, env=environment
    )
    while not (folder / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    before = checkpoint(folder)["global_step"]
    os.killpg(process.pid, signal.SIGINT)  # a terminal tells all: tee, too, which ends at once
    assert process.wait(60) == 130
    assert checkpoint(folder)["global_step"] > before


@pytest.mark.parametrize("steps", [100, 150])  # the first evaluation, the last one
def test_an_evaluation_that_fails_costs_no_step_of_the_training(steps, tmp_path, monkeypatch, capsys):
    script = SCRIPTS[0]
    changes = {"total_timesteps": 150, "eval_frequency": 100 if steps == 100 else 0, "eval_episodes": 2}
    train(script, tmp_path / "direct", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "play_episodes", lambda *_, **__: errors.require(False, "sky", "red", "blue"))
        assert input_error(train, script, tmp_path / "run", **changes) == "--sky must be blue, not 'red'."
    assert "Saved. Go on with: " in capsys.readouterr().err
    assert checkpoint(tmp_path / "run")["global_step"] == steps
    resume(script, tmp_path / "run")
    assert_same_runs(tmp_path / "run", tmp_path / "direct")


def test_an_evaluation_that_ctrl_c_makes_fail_is_made_up_for(tmp_path, monkeypatch):
    script = SCRIPTS[0]
    train(script, tmp_path / "direct", total_timesteps=150)

    def fails(*_, **__):  # as an encoder or a simulator does that the signal reaches, too
        os.kill(os.getpid(), signal.SIGTERM)
        raise InputError("The encoder ended.")

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(runs, "play_episodes", fails)
        train(script, tmp_path / "run", total_timesteps=150)
    assert caught.value.code == 128 + signal.SIGTERM
    resume(script, tmp_path / "run")
    assert_same_runs(tmp_path / "run", tmp_path / "direct")


def test_an_evaluation_is_given_up_and_made_up_for(tmp_path, monkeypatch):
    script = SCRIPTS[0]
    changes = {"total_timesteps": 150, "eval_frequency": 100, "eval_episodes": 2}
    train(script, tmp_path / "direct", **changes)
    play = runs.play_episodes
    played = []

    def signal_arrives(*args, **kwargs):
        played.append(True)
        if len(played) != 3:  # in the first evaluation, when it is made up for, and in the last
            os.kill(os.getpid(), signal.SIGTERM)
        return play(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "play_episodes", signal_arrives)
        for step in (100, 100, 150):
            with pytest.raises(SystemExit) as caught:
                resume(script, tmp_path / "run") if played else train(script, tmp_path / "run", **changes)
            assert caught.value.code == 128 + signal.SIGTERM
            state = checkpoint(tmp_path / "run")
            assert (state["global_step"], state["evaluation_due"]) == (step, True)
    resume(script, tmp_path / "run")
    assert_same_runs(tmp_path / "run", tmp_path / "direct")
    assert [row["global_step"] for row in read_csv(tmp_path / "run" / "evaluations.csv")] == ["100", "150"]


def test_a_second_ctrl_c_ends_the_run_at_once_without_a_traceback(tmp_path):
    folder = tmp_path / "run"
    words = command_line("td3", folder, total_timesteps=10**6, updates_per_step=1000, hidden_dim=256)
    process = start_and_wait("td3", words)
    while not (folder / "events").exists() and not list(folder.glob("events*")):
        time.sleep(0.01)
    time.sleep(1)  # it is in a step of a thousand updates
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 130 and "Traceback" not in stderr, stderr


def test_a_run_that_an_error_ended_leaves_signals_alone(tmp_path, monkeypatch):
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # none, where tests run in background
    made = []

    def end(run, *_):
        made.append(weakref.ref(run))
        raise InputError("The sky is red.")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate_and_save", end)
        assert input_error(train, SCRIPTS[0], tmp_path / "run") == "The sky is red."
    try:
        with pytest.raises(KeyboardInterrupt):  # as in a notebook, where the next cell is interrupted
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, earlier)
    gc.collect()
    assert made[0]() is None  # nor is its buffer kept


def test_the_printed_command_can_be_pasted(tmp_path):
    folder = tmp_path / """it's "$HOME"; echo `x` & ü 环"""
    process = Fork("td3", command_line("td3", folder, total_timesteps=10**5, checkpoint_frequency=50))
    code, stderr = stop(process, signal.SIGINT, folder / "last.pt")
    assert code == 130, stderr
    command = stderr.splitlines()[-1].removeprefix("Saved. Go on with: ")
    step = checkpoint(folder)["global_step"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    line = f"{command} {shlex.join(flags({'eval_episodes': 2}))}"
    pasted = subprocess.Popen(["bash", "-c", f"exec {line}"], env=environment, start_new_session=True)
    while checkpoint(folder)["global_step"] == step:
        assert pasted.poll() is None
        time.sleep(0.5)
    pasted.terminate()
    assert pasted.wait(timeout=200) == 143


# --- processes ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_process_is_left_after_a_run(script, tmp_path):
    before = set(psutil.Process().children(recursive=True))
    train(script, tmp_path / "run", num_envs=3)
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_command_says_where_the_run_is_and_leaves_no_process(script, tmp_path):
    changes = {"env_id": "helpers:OwnPendulum-v0", "num_envs": 2, "total_timesteps": 100}
    process = begin(script, command_line(script, tmp_path / "run", **changes))
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert str(tmp_path / "run") in stdout
    assert "step 100: evaluation" in stderr and "\r" not in stderr
    assert survivors(process) == []
