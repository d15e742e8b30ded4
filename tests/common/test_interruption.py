"""Signals, and what is left of a run's processes."""

import signal

import psutil
import pytest
from helpers import SCRIPTS, checkpoint, command_line, start, survivors, train

from cleanrl_cc.common.runs import Run


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


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_process_is_left_after_a_run(script, tmp_path):
    before = set(psutil.Process().children(recursive=True))
    train(script, tmp_path / "run", num_envs=3)
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_command_says_where_the_run_is_and_leaves_no_process(script, tmp_path):
    process = start(
        script,
        command_line(
            script, tmp_path / "run", env_id="helpers:OwnPendulum-v0", num_envs=2, total_timesteps=100
        ),
    )
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert str(tmp_path / "run") in stdout
    assert "step 100: evaluation" in stderr and "\r" not in stderr
    assert survivors(process) == []
