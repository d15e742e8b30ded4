"""`evaluate.py` gives back the score of a checkpoint, films it, and compares its values with what came."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from helpers import PIXELS, SCRIPTS, Fork, assert_same, checkpoint, input_error, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cleanrl_cc.common.checkpoints import load_checkpoint, rng_state, save_checkpoint
from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.evaluation import EVALUATION_SEED, analyze_value, play_episode
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.evaluate import Options, evaluate, load_policy, main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_pendulum")]


@pytest.fixture(scope="module")
def run(short_pendulum, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    train(SCRIPTS[0], folder, total_timesteps=300, eval_frequency=100, eval_episodes=3)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_score_of_the_best_policy_is_given_back_exactly(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=300, eval_frequency=100, eval_episodes=2)
    best = max(read_csv(tmp_path / "run" / "evaluations.csv"), key=lambda row: float(row["return_mean"]))
    result = evaluate(Options(str(tmp_path / "run"), episodes=2, seed=EVALUATION_SEED, device="cpu"))
    for name in ("global_step", "return_mean", "return_std", "return_min", "length_mean"):
        assert result[name] == float(best[name]), name


@pytest.mark.usefixtures("short_laps")
def test_what_car_racing_measures_is_in_every_record_of_an_evaluation(tmp_path, capsys):
    train("sac_drq", tmp_path / "run", **PIXELS | {"total_timesteps": 60, "action_repeat": 20})
    names = ["tiles_missed", "lap_finished", "grass_share", "spins"]
    (row,) = read_csv(tmp_path / "run" / "evaluations.csv")
    scalars = EventAccumulator(str(tmp_path / "run")).Reload()
    for name in names:
        (event,) = scalars.Scalars(f"eval/{name}_mean")
        assert event.value == pytest.approx(float(row[f"{name}_mean"]))
    main([str(tmp_path / "run"), "--episodes", "1", "--seed", str(EVALUATION_SEED), "--device", "cpu"])
    printed = capsys.readouterr().out
    for name in names:
        assert re.search(rf"  {name} (\S+)", printed)[1] == f"{float(row[f'{name}_mean']):g}"
        assert re.search(rf"{name}_mean  (\S+)", printed)[1] == f"{float(row[f'{name}_mean']):.4g}"


def test_every_episode_is_filmed(run):
    evaluate(Options(str(run / "last.pt"), episodes=2, save_video=True, device="cpu"))
    films = sorted((run / "videos").glob("*.mp4"))
    assert [film.name for film in films] == [
        "evaluation-last-seed-10000.mp4",
        "evaluation-last-seed-10001.mp4",
    ]
    frames = imageio.mimread(films[0], memtest=False)
    assert len(frames) == 50 and frames[0].std() > 0 and not np.array_equal(frames[0], frames[-1])


def test_json_is_one_object_and_values_are_drawn(run, capsys):
    main([str(run), "--episodes", "2", "--json", "--analyze-value", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert len(printed.strip().splitlines()) == 1
    result = json.loads(printed)
    assert [episode["seed"] for episode in result["episodes"]] == [10_000, 10_001]
    assert result["return_mean"] == pytest.approx(np.mean([episode["r"] for episode in result["episodes"]]))
    assert -1 <= result["value_correlation"] <= 1
    assert imageio.imread(run / "value.png").std() > 0


def test_a_folder_without_an_evaluation_means_its_last_policy(tmp_path):
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=60)
    (tmp_path / "run" / "best.pt").unlink()
    result = evaluate(Options(str(tmp_path / "run"), episodes=1, save_video=True, device="cpu"))
    assert result["checkpoint"] == str(tmp_path / "run" / "last.pt")
    assert [film.name for film in (tmp_path / "run" / "videos").iterdir()] == [
        "evaluation-last-seed-10000.mp4"
    ]


def test_films_and_pictures_go_where_they_are_told(run, tmp_path):
    out = tmp_path / "elsewhere"
    before = sorted(run.rglob("*"))
    evaluate(Options(str(run), episodes=1, save_video=True, analyze_value=True, out=out, device="cpu"))
    assert sorted(path.name for path in out.rglob("*.*")) == ["evaluation-best-seed-10000.mp4", "value.png"]
    assert sorted(run.rglob("*")) == before


def test_what_is_missing_for_a_picture_is_told_before_anything_is_played(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("cleanrl_cc.evaluate.play_episodes", None)
    assert "[plot]" in input_error(evaluate, Options(str(run), analyze_value=True, device="cpu"))


def test_a_trace_ends_with_the_value_of_a_time_limit_and_realised_returns_go_on_with_it(tmp_path):
    agent = SimpleNamespace(
        act=lambda obs, deterministic: np.zeros((1, 1), np.float32), value=lambda obs: np.full(1, 7.0)
    )
    trace = []
    play_episode(make_env("Pendulum-v1"), agent, seed=1, trace=trace)
    assert len(trace) == 51 and trace[-1] == (7.0, 0.0)
    # Gamma is 0.5: with rewards of 1 and then a value of 2 every realised return is 2, with
    # rewards of 2 and a value of 4 it is 4.
    too_high = np.array([[3.0, 1.0]] * 10 + [[2.0, 0.0]])
    right = np.array([[4.0, 2.0]] * 10 + [[4.0, 0.0]])
    analysis = analyze_value([too_high, right], 0.5, tmp_path / "value.png")
    assert (analysis["value_bias"], analysis["value_correlation"]) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("length", [1, 5])
def test_values_that_are_constant_have_a_bias_alone(length, tmp_path, recwarn):
    trace = np.array([[3.0, 0.0]] * length + [[0.0, 0.0]])
    assert analyze_value([trace], 0.5, tmp_path / "value.png") == {"value_bias": 3.0}
    assert not recwarn.list


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"episodes": 0}, ["--episodes", "at least 1"]),
        ({"seed": -5}, ["--seed", "at least 0"]),
        ({"render": True, "save_video": True}, ["--render", "--save-video"]),
        ({"render": True}, ["--render", "screen", "--save-video"]),
        ({"seed": 2**32}, ["--seed", "4294967296"]),
        ({"device": "cuda:7"}, ["--device cuda:7"]),
        ({"out": Path("films")}, ["--out", "--save-video", "--analyze-value"]),
        ({"out": Path(__file__), "save_video": True}, ["--out", "not a folder"]),
        ({"out": Path("/proc/films"), "save_video": True}, ["--out /proc/films cannot be made", "another"]),
    ],
)
def test_a_wrong_option(changes, words, run, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    message = input_error(evaluate, Options(str(run), **{"device": "cpu"} | changes))
    assert all(word in message for word in words)


def test_a_checkpoint_that_is_not_there(tmp_path):
    assert "no checkpoint" in input_error(evaluate, Options(str(tmp_path)))


# --- load_policy ---


@pytest.mark.parametrize("script", ["ppo_continuous", "dqn_atari_style"])
def test_a_loaded_policy_plays_as_the_evaluation_does(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=100, eval_frequency=50)
    policy = load_policy(tmp_path / "run", device="cpu")
    env = policy.make_env()
    obs, _ = env.reset(seed=10_000)
    total, ended = 0.0, False
    while not ended:
        action = policy(obs)
        assert env.action_space.contains(action)
        obs, reward, terminated, truncated, _ = env.step(action)
        total, ended = total + reward, terminated or truncated
    (episode,) = evaluate(Options(str(tmp_path / "run"), episodes=1, device="cpu"))["episodes"]
    assert total == pytest.approx(episode["r"])


def test_a_policy_takes_one_observation_or_a_batch(run):
    policy = load_policy(run, device="cpu")
    obs = np.random.default_rng(0).normal(size=(4, 3))  # float64, as an own program may have it
    actions, values = policy(obs), policy.value(obs)
    assert (actions.shape, values.shape) == ((4, 1), (4,))
    np.testing.assert_allclose(policy(obs[2]), actions[2], atol=1e-6)
    assert policy.value(list(obs[2])) == pytest.approx(values[2], abs=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_film_that_a_signal_stops_leaves_nothing(number, run, tmp_path):
    words = [run, "--device", "cpu", "--episodes", "10", "--save-video", "--out", tmp_path]
    process = Fork("evaluate", words)
    while process.poll() is None and len(list(tmp_path.glob("videos/*.tmp.mp4"))) < 10:
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert not list(tmp_path.glob("videos/*.tmp.mp4"))


@pytest.mark.parametrize("obs", [np.zeros(2), np.zeros((1, 1, 3)), 0.0])
def test_an_observation_of_another_shape_is_told(obs, run):
    with pytest.raises(ValueError, match=r"\(3,\), or \(B, 3\) for a batch"):
        load_policy(run, device="cpu")(obs)


def test_frames_that_were_scaled_are_told(tmp_path):
    train(
        "sac_drq",
        tmp_path / "run",
        env_id="CarRacing-v3",
        total_timesteps=20,
        image_size=36,
        training_wrappers=("Patience,frames=5",),
        buffer_size=500,
    )
    policy = load_policy(tmp_path / "run", device="cpu")
    obs, _ = policy.make_env().reset(seed=1)
    assert policy(obs).shape == (2,)
    with pytest.raises(ValueError, match="uint8"):
        policy(obs / 255)


def test_loading_leaves_generators_and_settings_alone(run):
    torch.manual_seed(5)
    torch.set_float32_matmul_precision("high")
    before = rng_state()
    load_policy(run, device="cpu")
    assert_same(rng_state(), before, "generators")
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")


# --- --env-id ---


def test_a_policy_is_judged_in_another_environment_with_the_same_spaces(run, capsys):
    gym.register("HeavyPendulum-v0", PendulumEnv, kwargs={"g": 30}, max_episode_steps=30)
    main([str(run), "--env-id", "HeavyPendulum-v0", "--episodes", "2", "--json", "--device", "cpu"])
    elsewhere = json.loads(capsys.readouterr().out)
    assert (elsewhere["env_id"], elsewhere["trained_env_id"]) == ("HeavyPendulum-v0", "Pendulum-v1")
    agent = load_policy(run, device="cpu").agent
    expected = play_episode(make_env("HeavyPendulum-v0"), agent, seed=10_000)
    assert elsewhere["episodes"][0]["l"] == expected["l"] == 30
    assert elsewhere["episodes"][0]["r"] == pytest.approx(expected["r"])
    main([str(run), "--env-id", "HeavyPendulum-v0", "--episodes", "1", "--device", "cpu"])
    assert re.search(r"trained_env_id +Pendulum-v1\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "env_id, others, word",
    [
        ("MountainCarContinuous-v0", {}, "float32 (2,)"),  # other observations
        ("LunarLander-v3", {}, "float32 (8,)"),
        ("CartPole-v1", {}, "2 discrete actions"),
        ("Pendulum-v7", {}, "did you mean Pendulum-v1"),
        ("Pendulum-v1", {"push_to_hub": "user/name"}, "--env-id"),
        ("Pendulum-v1", {"export_torch": Path("policy.pt2")}, "--env-id"),
    ],
)
def test_an_environment_that_a_policy_cannot_be_judged_in(env_id, others, word, run):
    options = Options(str(run), env_id=env_id, device="cpu", episodes=1, **others)
    assert word in input_error(evaluate, options)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"algorithm": 5}, "is damaged: its algorithm is no text"),
        ({"recipe": {"env_id": "Pendulum-v1", "action_repeat": "2"}}, "does not fit this version of sac_drq"),
        ({"recipe": {"env_id": "CarRacing-v3", "image_size": -4}}, "does not fit this version of sac_drq"),
    ],
)
def test_what_was_changed_in_a_checkpoint_is_told(change, words, run, tmp_path):
    save_checkpoint(tmp_path / "changed.pt", checkpoint(run) | change)
    assert words in input_error(evaluate, Options(str(tmp_path / "changed.pt"), device="cpu"))


# --- --trust ---


@pytest.fixture
def strange(run, tmp_path, monkeypatch):
    """A checkpoint that names a module of the working directory, which leaves a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    Path("strange_module.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import PendulumEnv\n"
        "gymnasium.register('Strange-v0', PendulumEnv, max_episode_steps=9)\n"
        "open('executed', 'w').close()\n"
    )
    checkpoint = load_checkpoint(run)
    recipe = checkpoint["recipe"] | {"env_id": "strange_module:Strange-v0"}
    torch.save(checkpoint | {"recipe": recipe}, "strange.pt")
    yield "strange.pt"
    sys.modules.pop("strange_module", None)


@pytest.mark.parametrize(
    "load", [load_policy, lambda path: evaluate(Options(path)), lambda path: main([path, "--json"])]
)
def test_a_module_that_a_checkpoint_names_is_not_imported(load, strange):
    message = input_error(load, strange)
    assert all(word in message for word in ("strange_module", "--trust")), message
    assert not Path("executed").exists()


def test_with_trust_it_is(strange):
    assert evaluate(Options(strange, episodes=1, device="cpu", trust=True))["length_mean"] == 9
    assert Path("executed").exists()
    assert (
        load_policy(strange, device="cpu").recipe["env_id"] == "strange_module:Strange-v0"
    )  # it is imported already
