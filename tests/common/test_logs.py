"""What a run tells while it trains: lines, a bar, its speed, Weights & Biases."""

import fcntl
import json
import math
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import (
    OF_THE_MACHINE,
    SCRIPTS,
    Fork,
    assert_same_training,
    checkpoint,
    command_line,
    disk_with_room_for,
    input_error,
    load_script,
    resume,
    train,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from wandb.proto import wandb_internal_pb2

from cleanrl_cc.common import logs, runs
from cleanrl_cc.common.logs import Log
from cleanrl_cc.common.runs import Run
from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.slow


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
def test_a_grown_run_keeps_its_last_line_and_has_those_of_a_longer_one(script, tmp_path, monkeypatch):
    for module in (runs, load_script(script)):
        monkeypatch.setattr(module, "LOG_FREQUENCY", 200)
    env_id = "helpers:ShortPendulum-v0"  # its episodes have 40 steps
    train(script, tmp_path / "grown", env_id=env_id, total_timesteps=100)
    resume(script, tmp_path / "grown", total_timesteps=250)
    train(script, tmp_path / "direct", env_id=env_id, total_timesteps=250)
    grown, direct = (read_csv(tmp_path / name / "progress.csv") for name in ("grown", "direct"))
    assert [row["global_step"] for row in grown] == ["100", "200", "250"]
    assert [row | OF_THE_MACHINE for row in grown[1:]] == [row | OF_THE_MACHINE for row in direct]
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
    log = Log(SimpleNamespace(total_timesteps=10, num_envs=1, track=False), writes=True)
    log._settle(tmp_path)
    log._open_log(first_step=0, tracker_id=None)

    def write():
        for step in range(1000):
            log._scalars(step, {"charts/episodic_return": 1.0})
            log._logs_to_disk()

    with disk_with_room_for(1000):
        assert "disk" in input_error(write)
        assert "disk" in input_error(log._close_log)
    assert capfd.readouterr().err == f"Run folder: {tmp_path}\n"


# --- what it prints ---


def test_without_a_terminal_progress_is_a_line_every_half_minute(tmp_path, monkeypatch, capsys):
    seconds = iter(range(10**6))
    # each look at the clock takes a second
    monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=100)
    first, *more = capsys.readouterr().err.splitlines()[1:]
    assert first == f"Run folder: {tmp_path / 'run'}"
    lines = [line for line in more if "steps/s" in line]
    assert 2 <= len(lines) <= 10
    form = r"step \d+ of 100  \d+ steps/s  return \S+  \d+ min left  \d+\.\d GB, \d+\.\d GB free"
    assert re.fullmatch(form, lines[-1])


def test_the_time_left_is_told_at_the_pace_of_the_last_minutes(tmp_path, monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    log = Log(SimpleNamespace(total_timesteps=100_000, num_envs=1, track=False), writes=True)
    log._settle(tmp_path)
    log._open_log(first_step=0, tracker_id=None)
    for clock.now in range(1, 1000):
        log.show_progress(1000 * min(clock.now, 10) + 10 * max(clock.now - 10, 0))  # updates begin after 10 s
    last = capsys.readouterr().err.splitlines()[-1]
    log._close_log()
    assert re.match(r"step 19,\d+ of 100,000  10 steps/s .* 13\d min left", last), last


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


# --- memory ---


def test_every_log_has_the_memory_that_is_taken_and_free(tmp_path, capsys):
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=1100, num_envs=2)
    rows = read_csv(tmp_path / "run" / "progress.csv")
    scalars = EventAccumulator(str(tmp_path / "run")).Reload()
    for name in ("charts/memory_gb", "charts/free_memory_gb"):
        values = [event.value for event in scalars.Scalars(name)]
        assert values == pytest.approx([float(row[name]) for row in rows])
        assert 0.1 < values[0] < 10_000
    assert "memory is left" not in capsys.readouterr().err


def test_a_shortage_of_memory_is_told_once_before_the_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logs, "free_memory", lambda: 0.05 * logs.taken_memory())
    seconds = iter(range(0, 10**6, 20))  # each look at the clock takes twenty
    monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=100)
    assert capsys.readouterr().err.count("Warning: less than a tenth of the memory is left") == 1


# --- TensorBoard ---


def test_tensorboard_has_the_arguments_as_a_text_and_as_hyperparameters_with_the_score(tmp_path):
    score = train(SCRIPTS[0], tmp_path / "run", total_timesteps=60, hidden_dim=24)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    (text,) = events.Tensors("arguments/text_summary")
    assert b"| hidden_dim | 24 |" in text.tensor_proto.string_val[0]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hyperparameters = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hyperparameters["hidden_dim"].number_value == 24
    assert hyperparameters["algorithm"].string_value == SCRIPTS[0]
    assert set(checkpoint(tmp_path / "run")["args"]) < set(hyperparameters)
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    (metric,) = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos
    assert events.Scalars(metric.name.tag)[-1].value == pytest.approx(score)


def test_tensorboard_shows_the_steps_after_a_checkpoint_as_they_were_taken_again(tmp_path):
    folder = tmp_path / "run"
    train(SCRIPTS[0], folder, total_timesteps=60, eval_frequency=20)
    last = {name: (folder / name).read_bytes() for name in ("last.pt", "replay-60.npz", "evaluations.csv")}
    resume(SCRIPTS[0], folder, total_timesteps=100)
    for name, content in last.items():  # as if the process had been killed before its next checkpoint
        (folder / name).write_bytes(content)
    resume(SCRIPTS[0], folder, total_timesteps=120)
    scalars = EventAccumulator(str(folder)).Reload().Scalars("eval/return_mean")
    assert [scalar.step for scalar in scalars] == [20, 40, 60, 80, 100, 120]


def test_a_run_from_states_says_nothing_about_rendering(tmp_path):
    pytest.importorskip("shimmy")
    code = "from pathlib import Path; from helpers import train; "
    for env_id in ("dm_control/cartpole-balance-v0", "Hopper-v5"):
        code += f"train('td3', Path({env_id!r}), env_id={env_id!r}, obs='state', total_timesteps=100); "
    environment = {key: value for key, value in os.environ.items() if "GL" not in key}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("evaluation") == 2
    assert "render" not in result.stderr.lower() and "egl" not in result.stderr.lower(), result.stderr


# --- Weights & Biases ---


def log_records(data: bytes) -> list[bytes]:
    """The records of a log in the format of LevelDB: blocks of 32 KiB with parts of records, each after its
    checksum, length and kind (1 whole, 2 first, 3 middle, 4 last); W&B's own 7 bytes begin the file."""
    records = []
    position = 7
    while position + 7 <= len(data):
        if 2**15 - position % 2**15 < 7:  # too short for a part
            position += 2**15 - position % 2**15
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        part = data[position + 7 : position + 7 + length]
        if kind in (1, 2):
            records.append(part)
        else:
            records[-1] += part
        position += 7 + length
    return records


def offline_record(path: Path):
    """What an offline file of W&B says of its run: its record, and its configuration."""
    run = None
    config = {}
    for data in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("run"):
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
    return run, config


def test_wandb_has_one_run_with_name_group_tags_notes_all_arguments_and_the_film(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "run"
    train(SCRIPTS[0], folder, total_timesteps=40, track=True, capture_video=True)
    first = checkpoint(folder)["tracker_id"]
    resume(SCRIPTS[0], folder, total_timesteps=60)
    assert first and checkpoint(folder)["tracker_id"] == first
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and all(path.parent.name.endswith(first) for path in files)
    assert len(list((folder / "wandb").rglob("*.mp4"))) == 2
    for path, total in zip(files, (40, 60), strict=True):
        run, config = offline_record(path)
        assert (run.run_id, run.display_name) == (first, "run")
        assert (run.run_group, list(run.tags)) == (f"Pendulum-v1 {SCRIPTS[0]}", [SCRIPTS[0], "Pendulum-v1"])
        assert run.notes == f"python {shlex.join(sys.argv)}"
        args = json.loads(json.dumps(checkpoint(folder)["args"]))
        own = ("total_timesteps", "resume")
        assert {key: config[key] for key in args if key not in own} == {
            key: value for key, value in args.items() if key not in own
        }
        assert (config["algorithm"], config["total_timesteps"]) == (SCRIPTS[0], total)


def test_wandb_is_given_our_steps_and_keeps_its_own(tmp_path, monkeypatch):
    calls = []
    tracker = SimpleNamespace(
        id="x",
        define_metric=lambda name, **axes: calls.append(("define", name, axes)),
        log=lambda values, **more: calls.append(("log", values, more)),
        finish=lambda: calls.append(("finish",)),
    )

    def init(id, resume, **_):
        calls.append(("init", id, resume))
        return tracker

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=1000, track=True)
    begin, *axes = calls[:3]
    assert begin == ("init", None, "allow")
    assert axes == [("define", "global_step", {}), ("define", "*", {"step_metric": "global_step"})]
    *logged, end = calls[3:]
    assert end == ("finish",)
    # its step may not go back, ours may
    assert logged and all("global_step" in values and not more for _, values, more in logged)
    calls.clear()
    resume(SCRIPTS[0], tmp_path / "run", total_timesteps=1010)
    assert calls[0] == ("init", "x", "allow")


def test_wandb_that_refuses_is_one_sentence(tmp_path, monkeypatch):
    class Refusal(Exception):
        pass

    def refuse(**_):
        raise Refusal("not logged in.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse, Error=Refusal))
    message = input_error(train, SCRIPTS[0], tmp_path / "run", track=True)
    assert message.startswith("--track: not logged in. Run `wandb login`")


def test_a_mode_that_wandb_does_not_have_is_one_sentence(tmp_path):
    words = command_line("td3", tmp_path / "run", track=True)
    process = Fork("td3", words, variables={"WANDB_MODE": "nope"}, forget="wandb")  # which reads it once
    _, stderr = process.communicate(timeout=200)
    message = stderr.splitlines()[-1]
    assert process.returncode == 1 and message.startswith("--track: ") and "'offline'" in message, stderr


@pytest.mark.parametrize("value", [torch.zeros(3), "high", None])
def test_a_metric_that_is_no_number_is_told(value):
    message = input_error(Log(SimpleNamespace(), writes=True)._finite, 7, {"losses/mine": value})
    assert message.startswith("losses/mine is no number at step 7")
