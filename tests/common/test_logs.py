"""What a run tells while it trains: lines, a bar, its speed, Weights & Biases."""

import fcntl
import math
import os
import pty
import re
import struct
import sys
import termios
from types import SimpleNamespace

import pytest
from helpers import SCRIPTS, assert_same_training, checkpoint, disk_with_room_for, input_error, resume, train

from cleanrl_cc.common import logs, runs
from cleanrl_cc.common.logs import Log
from cleanrl_cc.common.runs import Run
from cleanrl_cc.common.tables import read_csv


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_shorter_than_a_period_leaves_its_last_line(script, tmp_path):
    # the last checkpoint of both kinds is at 250
    train(script, tmp_path / "run", total_timesteps=250, checkpoint_frequency=50)
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    assert (row["global_step"], row["charts/episodes"], float(row["charts/episodic_length"])) == (
        "250",
        "1",
        200,
    )
    assert row["charts/num_updates"] == str(float(checkpoint(tmp_path / "run")["num_updates"]))
    assert any(name.startswith("losses/") and math.isfinite(float(value)) for name, value in row.items())
    resume(script, tmp_path / "run")  # has nothing to do
    assert read_csv(tmp_path / "run" / "progress.csv") == [row]


def test_a_last_line_is_written_before_anything_was_learned(tmp_path):
    train("ppo_continuous", tmp_path / "run", total_timesteps=20)  # less than a rollout: there are no metrics
    assert [row["global_step"] for row in read_csv(tmp_path / "run" / "progress.csv")] == ["20"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_grown_run_keeps_its_last_line_and_has_those_of_a_longer_one(script, tmp_path):
    train(script, tmp_path / "grown", total_timesteps=500)
    resume(script, tmp_path / "grown", total_timesteps=1100)
    train(script, tmp_path / "direct", total_timesteps=1100)
    grown, direct = (read_csv(tmp_path / name / "progress.csv") for name in ("grown", "direct"))
    assert [row["global_step"] for row in grown] == ["500", "1000", "1100"]
    changing = {"seconds": "", "charts/sps": ""}
    assert [row | changing for row in grown[1:]] == [row | changing for row in direct]
    assert_same_training(tmp_path / "grown", tmp_path / "direct")


def test_speed_counts_training_only(tmp_path, monkeypatch):
    seconds = {"now": 0.0}
    monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: seconds["now"]))

    def slow(function, duration):
        def call(*args, **kwargs):
            seconds["now"] += duration
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(runs, "play_episodes", slow(runs.play_episodes, 1000.0))
    monkeypatch.setattr(runs, "save_replay", slow(runs.save_replay, 1000.0))
    monkeypatch.setattr(Run, "log_episodes", slow(Run.log_episodes, 0.5))  # a step takes half a second
    train(
        SCRIPTS[0],
        tmp_path / "run",
        total_timesteps=2100,
        eval_frequency=300,
        checkpoint_frequency=700,
        updates_per_step=0.01,
    )
    rows = read_csv(tmp_path / "run" / "progress.csv")
    # resets count for nothing
    assert [float(row["charts/sps"]) for row in rows] == pytest.approx([2.0, 2.0, 2.0], abs=0.02)
    assert float(rows[-1]["seconds"]) == pytest.approx(2110 * 0.5 + 1000 * (7 + 2), abs=2), (
        "the clock counts everything"
    )


def test_episodes_of_several_environments_are_logged(tmp_path):
    train(
        SCRIPTS[0],
        tmp_path / "run",
        total_timesteps=1002,
        num_envs=3,
        training_wrappers=("Patience,frames=100",),
    )
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    assert (row["charts/episodes"], float(row["charts/episodic_length"])) == ("9", 100)
    assert math.isfinite(float(row["charts/episodic_return"]))


def test_a_full_disk_ends_a_scalar_in_a_sentence_alone(tmp_path, capfd):
    log = Log(SimpleNamespace(total_timesteps=10, track=False), writes=True)
    log.folder = tmp_path
    log._open_log(first_step=0, tracker_id=None)

    def write():
        for step in range(1000):
            log._scalars(step, {"charts/episodic_return": 1.0})
            log._logs_to_disk()

    with disk_with_room_for(1000):
        assert "disk" in input_error(write)
        assert "disk" in input_error(log._close_log)
    assert capfd.readouterr().err == ""


# --- what it prints ---


def test_without_a_terminal_progress_is_a_line_every_half_minute(tmp_path, monkeypatch, capsys):
    seconds = iter(range(10**6))
    # each look at the clock takes a second
    monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=100)
    lines = [line for line in capsys.readouterr().err.splitlines() if "steps/s" in line]
    assert 2 <= len(lines) <= 10
    assert re.fullmatch(r"step \d+ of 100  \d+ steps/s  return \S+  \d+ min left", lines[-1])


def test_a_terminal_shows_a_bar(tmp_path, monkeypatch):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # rows and columns
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        train(SCRIPTS[0], tmp_path / "run", total_timesteps=60)
    monkeypatch.undo()
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "60/60" in shown and "\r" in shown and "return" in shown


# --- Weights & Biases ---


def test_wandb_keeps_its_run_across_a_resume_and_gets_the_film(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "run"
    train(SCRIPTS[0], folder, total_timesteps=40, track=True, capture_video=True)
    first = checkpoint(folder)["tracker_id"]
    resume(SCRIPTS[0], folder, total_timesteps=60)
    assert first and checkpoint(folder)["tracker_id"] == first
    offline = list((folder / "wandb").glob("offline-run-*"))
    assert len(offline) == 2 and all(path.name.endswith(first) for path in offline)
    assert len(list((folder / "wandb").rglob("*.mp4"))) == 2


def test_wandb_is_given_our_steps_and_keeps_its_own(tmp_path, monkeypatch):
    logged = []
    tracker = SimpleNamespace(
        id="x",
        define_metric=lambda *_, **__: None,
        log=lambda *a, **k: logged.append((a, k)),
        finish=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: tracker))
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=1000, track=True)
    # its step may not go back, ours may
    assert logged and all(not more and "global_step" in values for (values,), more in logged)


def test_wandb_that_refuses_is_one_sentence(tmp_path, monkeypatch):
    class Refusal(Exception):
        pass

    def refuse(**_):
        raise Refusal("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse, Error=Refusal))
    message = input_error(train, SCRIPTS[0], tmp_path / "run", track=True)
    assert "--track" in message and "not logged in" in message and "wandb login" in message
