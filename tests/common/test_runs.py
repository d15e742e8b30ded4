"""What a run records, what it prints, what it counts, and how its arguments come together."""

import ast
import fcntl
import json
import math
import os
import pty
import re
import struct
import sys
import termios
import time
from dataclasses import asdict
from itertools import pairwise
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import psutil
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from helpers import (
    ROOT,
    SCRIPTS,
    BrokenReward,
    assert_same_training,
    checkpoint,
    command_line,
    contents,
    disk_with_room_for,
    having,
    input_error,
    load_script,
    parse,
    replay,
    resume,
    start,
    survivors,
    train,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanrl_cc.common import arguments, logs, machine, runs, tables
from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.episodes import Episodes
from cleanrl_cc.common.evaluation import Film
from cleanrl_cc.common.logs import Log
from cleanrl_cc.common.runs import Run, crossed
from cleanrl_cc.common.tables import read_csv

# --- the folder ---


@pytest.fixture(scope="module", params=SCRIPTS)
def finished(request, tmp_path_factory):
    """The folder and the result of a run with a line of progress, two evaluations and two films."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    mean_return = train(
        request.param, folder, total_timesteps=1050, action_repeat=2, eval_frequency=1000, capture_video=True
    )
    return folder, mean_return


def test_a_run_folder_holds_everything(finished):
    folder, _ = finished
    names = {re.sub(r"(tfevents|replay-).*?(\.npz)?$", r"\1\2", name) for name in contents(folder)}
    expected = {
        "args.json",
        "run.lock",
        "events.out.tfevents",
        "progress.csv",
        "evaluations.csv",
        "last.pt",
        "best.pt",
        "replay-.npz",
    }
    assert names == expected | {"videos/step-00001000.mp4", "videos/step-00001050.mp4"}


def test_args_json_repeats_the_run(finished):
    folder, _ = finished
    description = json.loads((folder / "args.json").read_text())
    assert description["args"] == json.loads(json.dumps(checkpoint(folder)["args"]))  # where tuples are lists
    assert {"commands", "machine", "versions"} <= description.keys()


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_checkpoint_is_only_data(finished, name):
    state = torch.load(finished[0] / name, weights_only=True)
    assert {"algorithm", "args", "recipe", "agent", "global_step"} <= state.keys()


def test_evaluations_csv_ends_with_what_train_returns_and_best_pt_holds_the_best(finished):
    folder, mean_return = finished
    rows = read_csv(folder / "evaluations.csv")
    assert [int(row["global_step"]) for row in rows] == [1000, 1050]
    assert float(rows[-1]["return_mean"]) == mean_return
    best = max(rows, key=lambda row: float(row["return_mean"]))
    assert load_checkpoint(folder / "best.pt")["global_step"] == int(best["global_step"])


def test_progress_csv_has_a_line_per_thousand_steps_and_one_for_the_rest_with_finite_losses(finished):
    rows = read_csv(finished[0] / "progress.csv")
    assert [(int(row["global_step"]), int(row["frames"])) for row in rows] == [(1000, 2000), (1050, 2100)]
    assert float(rows[0]["charts/episodic_length"]) == 100  # 200 environment steps
    losses = [float(value) for row in rows for name, value in row.items() if name.startswith("losses/")]
    assert losses and all(map(math.isfinite, losses))


def test_tensorboard_has_returns_losses_and_evaluations(finished):
    events = EventAccumulator(str(finished[0])).Reload()
    assert {"charts/episodic_length", "charts/sps", "eval/return_mean", "eval/return_std"} <= set(
        events.Tags()["scalars"]
    )
    assert any(tag.startswith("losses/") for tag in events.Tags()["scalars"])
    # The step after an episode's end only resets. It counts for nothing, so episodes end at whole hundreds.
    assert [event.step for event in events.Scalars("charts/episodic_return")] == list(range(100, 1050, 100))


def test_a_film_shows_the_episode_at_its_own_speed(finished):
    with imageio.get_reader(finished[0] / "videos" / "step-00001050.mp4") as film:
        assert film.get_meta_data()["fps"] == 15  # Pendulum's 30, and two environment steps per frame
        frames = [frame for frame in film]
    assert len(frames) == 100
    assert frames[0].shape == (500, 500, 3)
    assert np.abs(frames[0].astype(int) - frames[30]).max() > 100, "nothing moves"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_name_that_exists_is_refused_and_nothing_is_overwritten(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=60)
    before = contents(tmp_path)
    message = input_error(train, script, tmp_path / "run", total_timesteps=60)
    assert "--run-name" in message and "--resume" in message
    assert contents(tmp_path) == before


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    for _ in range(2):
        words = command_line(SCRIPTS[0], tmp_path / "run", total_timesteps=20)
        index = words.index("--run-name")
        load_script(SCRIPTS[0]).train(parse(SCRIPTS[0], words[:index] + words[index + 2 :]))
    name = f"Pendulum-v1__{SCRIPTS[0]}__1__20260101-000000"
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}-2"}
    assert all((path / "last.pt").exists() for path in tmp_path.iterdir())


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


def test_a_line_is_added_without_reading_the_lines_before(tmp_path):
    path = tmp_path / "progress.csv"
    tables.write_csv(path, [{"global_step": step, "losses/a, b": 1.5} for step in range(50_000)])
    before = psutil.Process().io_counters().read_chars
    tables.append_csv(path, {"losses/a, b": 2.5, "global_step": 50_000})
    tables.append_csv(path, {"global_step": 50_001})
    assert psutil.Process().io_counters().read_chars - before < 100_000 < path.stat().st_size
    rows = read_csv(path)
    assert len(rows) == 50_002
    assert rows[-2:] == [
        {"global_step": "50000", "losses/a, b": "2.5"},
        {"global_step": "50001", "losses/a, b": ""},
    ]


def test_a_new_key_is_a_new_column_of_every_line(tmp_path):
    path = tmp_path / "progress.csv"
    for row in ({"global_step": 1}, {"global_step": 2, "new": 3.0}):
        tables.append_csv(path, row)
    assert path.read_text() == "global_step,new\n1,\n2,3.0\n"
    tables.write_csv(path, [])  # a resume before the first line
    tables.append_csv(path, {"global_step": 1})
    assert path.read_text() == "global_step\n1\n"


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


# --- when it goes wrong ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_last_good_checkpoint(
    script, tmp_path, monkeypatch
):
    monkeypatch.setattr(BrokenReward, "steps", 0)
    monkeypatch.setattr(Episodes, "_require_finite", lambda *_: None)  # else the reward is told
    message = input_error(
        train,
        script,
        tmp_path / "run",
        env_id="BrokenReward-v0",
        total_timesteps=2000,
        checkpoint_frequency=100,
    )
    assert "finite" in message or "nan" in message
    assert str(tmp_path / "run") in message
    state = checkpoint(tmp_path / "run")
    assert state["global_step"] <= 150
    assert all(tensor.isfinite().all() for tensor in state["agent"].values())
    assert np.isfinite(replay(tmp_path / "run")["rewards"]).all()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("room", [0, 5_000, 20_000], ids=["for nothing", "but for replay", "but for weights"])
def test_a_full_disk_leaves_the_checkpoint_before_whole(script, room, tmp_path):
    train(script, tmp_path / "run", total_timesteps=200)
    before = contents(tmp_path / "run")
    with disk_with_room_for(room):
        message = input_error(resume, script, tmp_path / "run", total_timesteps=400)
    after = contents(tmp_path / "run")
    assert "disk" in message
    assert not [name for name in after if name.endswith(".tmp")]
    # best.pt: a better one
    assert {name for name in before if not after[name].startswith(before[name])} <= {"args.json", "best.pt"}
    resume(script, tmp_path / "run", total_timesteps=300)
    train(script, tmp_path / "direct", total_timesteps=300)
    assert_same_training(tmp_path / "run", tmp_path / "direct")


def test_a_full_disk_ends_a_log_line_in_a_sentence(tmp_path):
    tables.append_csv(tmp_path / "progress.csv", {"global_step": 1})
    with disk_with_room_for(4):
        assert "disk" in input_error(tables.append_csv, tmp_path / "progress.csv", {"global_step": 2})


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


@pytest.mark.parametrize("room", [0, 10_000])
def test_a_full_disk_ends_a_film_in_a_sentence_alone(room, tmp_path, capfd):
    film = Film(tmp_path / "film.mp4", make_env("Pendulum-v1"), action_repeat=1)

    def write():
        for frame in np.random.default_rng(1).integers(0, 256, (30, 100, 100, 3), np.uint8):
            film.add(frame)
        film.finish()

    with disk_with_room_for(room):
        assert "disk" in input_error(write)
    film.discard()
    assert not (tmp_path / "film.mp4").exists() and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "changes", [{}, {"checkpoint_frequency": 1}, {"eval_frequency": 1}], ids=["a step", "a save", "a line"]
)
def test_a_folder_that_is_gone_is_told_at_once(changes, tmp_path, monkeypatch):
    steps, log_episodes = [], Run.log_episodes

    def lose_folder(run, global_step, infos):
        log_episodes(run, global_step, infos)
        steps.append(global_step)
        if global_step == 60:
            (tmp_path / "run").rename(tmp_path / "elsewhere")

    seconds = iter(range(0, 10**6, 2))
    if not changes:  # each look at the clock takes two seconds
        monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    monkeypatch.setattr(Run, "log_episodes", lose_folder)
    assert "is gone" in input_error(train, SCRIPTS[0], tmp_path / "run", **changes)
    assert steps[-1] == 60


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_met_a_number_that_is_none_goes_on(script, tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenReward, "steps", 0)
    changes = {"env_id": "BrokenReward-v0", "checkpoint_frequency": 20, "total_timesteps": 500}
    input_error(train, script, tmp_path / "run", **changes)
    assert checkpoint(tmp_path / "run")["global_step"] == 140  # the reward of step 150 is not a number
    monkeypatch.setattr(BrokenReward, "steps", -(10**6))
    resume(script, tmp_path / "run")
    assert checkpoint(tmp_path / "run")["global_step"] == 500


# --- what it prints and sends ---


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


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_ends_before_its_first_update_says_so(script, tmp_path, capsys):
    train(script, tmp_path / "run", total_timesteps=20)
    assert "Nothing was learned" in capsys.readouterr().err


@pytest.mark.parametrize("picture", [None, np.zeros((64, 64, 3), np.uint8)])
def test_what_cannot_be_filmed_is_told_before_training_and_a_missing_rate_is_30(
    picture, tmp_path, monkeypatch
):
    monkeypatch.setattr(PendulumEnv, "metadata", {"render_modes": ["rgb_array"]})
    monkeypatch.setattr(PendulumEnv, "render", lambda self: picture)
    changes = {"capture_video": True, "total_timesteps": 60}
    if picture is None:
        assert "--capture-video" in input_error(train, SCRIPTS[0], tmp_path / "run", **changes)
        assert not (tmp_path / "run").exists()
    else:
        train(SCRIPTS[0], tmp_path / "run", **changes)
        assert len(list((tmp_path / "run" / "videos").iterdir())) == 1


def test_a_policy_that_is_not_finite_is_not_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenReward, "steps", 0)
    monkeypatch.setattr(Episodes, "_require_finite", lambda *_: None)
    # no line of progress
    changes = {
        "env_id": "BrokenReward-v0",
        "total_timesteps": 400,
        "eval_frequency": 300,
        "updates_per_step": 1.0,
    }
    assert "not finite" in input_error(train, SCRIPTS[0], tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "best.pt").exists() and not (tmp_path / "run" / "evaluations.csv").exists()


# --- what it counts ---


@pytest.mark.parametrize("script", having("updates_per_step"))
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("updates_per_step", [0.25, 1.5])
def test_updates_per_transition_do_not_depend_on_num_envs(
    script, num_envs, updates_per_step, tmp_path, monkeypatch
):
    buffer, draws = load_script(script).ReplayBuffer, []
    sample = buffer.sample
    monkeypatch.setattr(buffer, "sample", lambda *args, **kwargs: draws.append(1) or sample(*args, **kwargs))
    ratio = {"updates_per_step": updates_per_step, "learning_starts": 60}
    train(script, tmp_path / "run", total_timesteps=120, num_envs=num_envs, patience=10, **ratio)
    state = checkpoint(tmp_path / "run")
    assert state["num_updates"] == len(draws) == int((state["global_step"] - 60) * updates_per_step)
    assert float(read_csv(tmp_path / "run" / "evaluations.csv")[-1]["length_mean"]) == 200, (
        "patience is for training only"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_ends_are_stored_as_the_environment_told_them(script, tmp_path):
    # PPO: no update empties it
    train(script, tmp_path / "run", env_id="conftest:CountingState-v0", total_timesteps=40, num_steps=200)
    rows = replay(tmp_path / "run")
    env = make_env("conftest:CountingState-v0", seed=(1, 0))
    env.reset()
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in rows["final"]]
    assert np.array_equal(np.stack([rows["terminations"], rows["truncations"]], axis=-1)[:, 0], ends)
    assert rows["terminations"].any() and (rows["truncations"] & ~rows["terminations"]).any()


def test_episodes_of_several_environments_are_logged(tmp_path):
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=1002, num_envs=3, patience=100)
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    assert (row["charts/episodes"], float(row["charts/episodic_length"])) == ("9", 100)
    assert math.isfinite(float(row["charts/episodic_return"]))


@pytest.mark.parametrize("stride", [1, 3, 8, 70])
def test_a_period_is_met_at_the_first_step_after_it_whatever_the_stride(stride):
    met = [step for before, step in pairwise(range(0, 1000, stride)) if crossed(step, before, 50)]
    assert met == sorted({math.ceil(multiple / stride) * stride for multiple in range(50, met[-1] + 1, 50)})
    assert not any(crossed(step, before, 0) for before, step in pairwise(range(0, 1000, stride)))


@pytest.mark.parametrize("script", having("buffer_size"))
def test_a_step_that_only_resets_is_not_counted(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=150, num_envs=2, patience=20)
    state = checkpoint(tmp_path / "run")
    final = replay(tmp_path / "run")["final"]
    assert final.sum() == 2 * 3  # episodes of 20 steps; the last reset is still due
    assert final.size - final.sum() == state["global_step"]


# --- arguments ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_preset_changes_defaults_and_a_flag_beats_it(script):
    presets = load_script(script).PRESETS
    assert "CarRacing-v3" in presets
    for env_id in ("CarRacing-v3", "LunarLander-v3"):
        args = asdict(parse(script, ["--env-id", env_id, "--seed", "7"]))
        plain = asdict(load_script(script).Args())
        assert args == plain | presets.get(env_id, {}) | {"env_id": env_id, "seed": 7}
    total = parse(script, ["--env-id=CarRacing-v3"]).total_timesteps
    assert (
        parse(script, ["--env-id=CarRacing-v3", "--total-timesteps", str(total + 1)]).total_timesteps
        == total + 1
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_pattern_matches_a_family_of_environments(script):
    family = {key: changes for key, changes in load_script(script).PRESETS.items() if key == "dm_control/*"}
    for changes in family.values():
        args = asdict(parse(script, ["--env-id", "dm_control/walker-walk-v0"]))
        assert changes.items() <= args.items()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_defaults_of_the_environment(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as caught:
        parse(script, ["--env-id", "CarRacing-v3", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    for name, value in load_script(script).PRESETS["CarRacing-v3"].items():
        flag, shown = name.replace("_", "-"), " ".join(value) if isinstance(value, tuple) else str(value)
        assert re.search(rf"--{flag} ((?!--).)*default: {re.escape(shown)}\)", text), name


# --- the shape of a script ---

SOURCES = {path.stem: path.read_text() for path in sorted((ROOT / "cleanrl_cc").glob("*.py"))}
SOURCES = {
    name: text
    for name, text in SOURCES.items()
    if "# --- arguments ---" in text and "PRESETS" in text and "class Args" in text
}


def test_every_script_is_tested():
    assert set(SCRIPTS) == set(SOURCES)


@pytest.mark.parametrize("name", [*SOURCES, "common/arguments"])
def test_every_argument_is_explained(name):
    source = (ROOT / "cleanrl_cc" / f"{name}.py").read_text()
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name in ("Args", "RunArgs")
    )
    if name == "common/arguments":
        del body[0]  # its docstring
    for field, text in zip(body[::2], body[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(text, ast.Expr) and isinstance(text.value.value, str), (
            f"{field.target.id} has no docstring"
        )


@pytest.mark.parametrize("name", SOURCES)
def test_scripts_share_run_fields(name):
    inherited, own = arguments.RunArgs.__annotations__, load_script(name).Args.__annotations__
    assert issubclass(load_script(name).Args, arguments.RunArgs) and not inherited.keys() & own.keys()


OFF_POLICY = ("sac_drq", "td3", "ddpg", "dqn_atari_style", "rainbow")
SHARED = {
    name: OFF_POLICY
    for name in ("Encoder", "ReplayBuffer.size", "ReplayBuffer._stacks", "ReplayBuffer._gather")
}
SHARED |= {name: OFF_POLICY[:3] for name in ("Batch", "ReplayBuffer", "trunk", "Agent.random_shift")}
SHARED |= {"ReplayBuffer.arrays": OFF_POLICY[:4]}


def definition(script: str, name: str) -> str:
    """The text of a class, a function, or a `Class.method`."""
    body = ast.parse(SOURCES[script]).body
    for part in name.split("."):
        node = next(node for node in body if getattr(node, "name", None) == part)
        body = node.body
    return ast.get_source_segment(SOURCES[script], node)


@pytest.mark.parametrize("name", SHARED)
def test_what_scripts_share_is_the_same_text(name):
    # What test_buffers.py proves of sac_drq.py's buffer and random shift then holds for td3.py and ddpg.py.
    first, *others = (definition(script, name) for script in SHARED[name])
    assert all(other == first for other in others)


def test_all_scripts_act_count_evaluate_and_checkpoint_alike():
    ends = {re.search(r"\n        # 6\. .*", text, re.DOTALL).group() for text in SOURCES.values()}
    begins = {
        re.search(r"\n    run = run_class.*# 1\. act", text, re.DOTALL).group() for text in SOURCES.values()
    }
    assert len(ends) == len(begins) == 1
    act = "def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:"
    for line in (act, "int(np.sum(~autoreset))", "autoreset = terminations | truncations"):
        assert all(line in text for text in SOURCES.values())


# --- memory ---


@pytest.mark.parametrize("folder", ["", "slurm/job_7", "slurm"], ids=["container", "job", "above the job"])
@pytest.mark.parametrize("version", ["v2", "v1"])
def test_free_memory_is_what_the_cgroup_leaves(version, folder, tmp_path):
    line, root, names = {
        "v2": ("0::/slurm/job_7", "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")),
        "v1": (
            "4:memory:/slurm/job_7",
            "sys/fs/cgroup/memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    }[version]
    limit, usage, cache = names
    texts = {f"{root}/{folder}/{limit}": "5000\n", f"{root}/{folder}/{usage}": "3000\n"}
    texts |= {
        f"{root}/{folder}/memory.stat": f"anon 1\n{cache} 500\n",
        "proc/self/cgroup": f"1:cpu:/\n{line}\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.free_memory(tmp_path) == 5000 - 3000 + 500
    (tmp_path / root / folder / limit).write_text("max\n" if version == "v2" else f"{2**63 - 4096}\n")
    assert machine.free_memory(tmp_path) > 2500
