"""What a run's folder holds, and what becomes of it when something goes wrong."""

import json
import math
import re
import shutil
from itertools import pairwise
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from helpers import (
    SCRIPTS,
    BrokenReward,
    assert_same,
    assert_same_training,
    checkpoint,
    contents,
    disk_with_room_for,
    input_error,
    replay,
    resume,
    train,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanrl_cc.common import logs
from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.episodes import Episodes
from cleanrl_cc.common.runs import Run, crossed
from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.slow

# --- the folder ---


@pytest.fixture(scope="module", params=SCRIPTS)
def finished(request, tmp_path_factory):
    """The folder and the result of a run with a line of progress, two evaluations and two films."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    changes = {"env_id": "ShortPendulum-v0", "action_repeat": 2, "updates_per_step": 0.03}
    recording = {"eval_frequency": 1000, "capture_video": True}
    mean_return = train(request.param, folder, total_timesteps=1050, **changes, **recording)
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


def test_the_first_of_the_best_policies_is_kept_also_across_a_resume(tmp_path, monkeypatch):
    returns = iter([5.0, 9.0, 7.0, 8.0, 9.0, 10.0])
    play = "cleanrl_cc.common.runs.play_episodes"
    monkeypatch.setattr(play, lambda *_, **__: [{"seed": 0, "r": next(returns), "l": 1}])
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=60, eval_frequency=20)
    for total_timesteps, best in ((100, 40), (120, 120)):
        resume(SCRIPTS[0], tmp_path / "run", total_timesteps=total_timesteps)
        assert load_checkpoint(tmp_path / "run" / "best.pt")["global_step"] == best


def test_policies_are_kept_on_demand_and_a_resumed_run_may_begin_to(tmp_path):
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=60, eval_frequency=40)
    assert not list((tmp_path / "run").glob("policy-*"))
    resume(SCRIPTS[0], tmp_path / "run", total_timesteps=100, eval_frequency=40, keep_policies=True)
    kept = sorted((tmp_path / "run").glob("policy-*"))
    assert [path.name for path in kept] == ["policy-100.pt", "policy-80.pt"]
    rows = {row["global_step"]: row for row in read_csv(tmp_path / "run" / "evaluations.csv")}
    for path in kept:
        state = load_checkpoint(path)
        assert path.name == f"policy-{state['global_step']}.pt"
        assert state["evaluation"]["return_mean"] == float(rows[str(state["global_step"])]["return_mean"])
    assert_same(load_checkpoint(kept[0])["agent"], checkpoint(tmp_path / "run")["agent"], "agent")


def test_progress_csv_has_a_line_per_thousand_steps_and_one_for_the_rest_with_finite_losses(finished):
    rows = read_csv(finished[0] / "progress.csv")
    assert [(int(row["global_step"]), int(row["frames"])) for row in rows] == [(1000, 2000), (1050, 2100)]
    assert float(rows[0]["charts/episodic_length"]) == 20  # 40 environment steps
    losses = [float(value) for row in rows for name, value in row.items() if name.startswith("losses/")]
    assert losses and all(map(math.isfinite, losses))


def test_tensorboard_has_returns_losses_and_evaluations(finished):
    events = EventAccumulator(str(finished[0])).Reload()
    assert {"charts/episodic_length", "charts/sps", "eval/return_mean", "eval/return_std"} <= set(
        events.Tags()["scalars"]
    )
    assert any(tag.startswith("losses/") for tag in events.Tags()["scalars"])
    # The step after an episode's end only resets. It counts for nothing, so episodes end at whole twenties.
    assert [event.step for event in events.Scalars("charts/episodic_return")] == list(range(20, 1050, 20))


def test_a_film_shows_the_episode_at_its_own_speed(finished):
    with imageio.get_reader(finished[0] / "videos" / "step-00001050.mp4") as film:
        assert film.get_meta_data()["fps"] == 15  # Pendulum's 30, and two environment steps per frame
        frames = [frame for frame in film]
    assert len(frames) == 20
    assert frames[0].shape == (500, 500, 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 100, "nothing moves"


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


@pytest.fixture(scope="module", params=["sac_drq", "ppo_continuous"])
def lengths(request, tmp_path_factory):
    """A script with a replay buffer or with rollouts, and the folders of runs of 200 and of 230 steps."""
    folder = tmp_path_factory.mktemp("lengths")
    for steps in (200, 230):
        train(request.param, folder / f"{steps}", total_timesteps=steps)
    return request.param, folder / "200", folder / "230"


@pytest.mark.parametrize("room", [0, 5_000, 20_000], ids=["for nothing", "but for replay", "but for weights"])
def test_a_full_disk_leaves_the_checkpoint_before_whole(lengths, room, tmp_path):
    script, begun, direct = lengths
    shutil.copytree(begun, tmp_path / "run")
    before = contents(begun)
    with disk_with_room_for(room):
        message = input_error(resume, script, tmp_path / "run", total_timesteps=400)
    after = contents(tmp_path / "run")
    assert "disk" in message
    assert not [name for name in after if name.endswith(".tmp")]
    # best.pt: a better one
    assert {name for name in before if not after[name].startswith(before[name])} <= {"args.json", "best.pt"}
    resume(script, tmp_path / "run", total_timesteps=230)
    assert_same_training(tmp_path / "run", direct)


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
    message = input_error(train, SCRIPTS[0], tmp_path / "run", env_id="ShortPendulum-v0", **changes)
    assert "is gone" in message
    assert steps[-1] == 60


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_met_a_number_that_is_none_goes_on(script, tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenReward, "steps", 0)
    changes = {"env_id": "BrokenReward-v0", "checkpoint_frequency": 20, "total_timesteps": 200}
    input_error(train, script, tmp_path / "run", **changes)
    assert checkpoint(tmp_path / "run")["global_step"] == 140  # the reward of step 150 is not a number
    monkeypatch.setattr(BrokenReward, "steps", -(10**6))
    resume(script, tmp_path / "run")
    assert checkpoint(tmp_path / "run")["global_step"] == 200


# --- what it prints and sends ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_ends_before_its_first_update_says_so(script, tmp_path, capsys):
    train(script, tmp_path / "run", total_timesteps=20, eval_episodes=1)
    out, err = capsys.readouterr()
    assert "Nothing was learned" in err
    assert out.endswith(", episodes: 1\n")


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


@pytest.mark.parametrize("name, what", [("FloatFilm", "float64"), ("TinyFilm", "uint8 of shape (1, 40, 3)")])
def test_what_is_no_picture_is_told_before_training(name, what, tmp_path):
    changes = {"env_id": f"odd_envs:{name}-v0", "capture_video": True, "total_timesteps": 60}
    assert f"returns {what}" in input_error(train, SCRIPTS[0], tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_policy_that_is_not_finite_is_not_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenReward, "steps", 0)
    monkeypatch.setattr(Episodes, "_require_finite", lambda *_: None)
    # no line of progress
    changes = {
        "env_id": "BrokenReward-v0",
        "total_timesteps": 400,
        "eval_frequency": 200,
        "updates_per_step": 1.0,
    }
    assert "not finite" in input_error(train, SCRIPTS[0], tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "best.pt").exists() and not (tmp_path / "run" / "evaluations.csv").exists()


@pytest.mark.parametrize("stride", [1, 3, 8, 70])
def test_a_period_is_met_at_the_first_step_after_it_whatever_the_stride(stride):
    met = [step for before, step in pairwise(range(0, 1000, stride)) if crossed(step, before, 50)]
    assert met == sorted({math.ceil(multiple / stride) * stride for multiple in range(50, met[-1] + 1, 50)})
    assert not any(crossed(step, before, 0) for before, step in pairwise(range(0, 1000, stride)))
