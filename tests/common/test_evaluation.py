"""Episodes played side by side are those played one by one, and a film takes no memory."""

import tracemalloc
from types import SimpleNamespace

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import odd_envs
import pytest
from env_helpers import numbers
from helpers import SCRIPTS, disk_with_room_for, input_error, train
from torch import nn

from cleanrl_cc.common import evaluation
from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.evaluation import Film, play_episode, play_episodes, side_by_side
from cleanrl_cc.common.runs import Run
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.evaluate import Policy

pytestmark = pytest.mark.slow


class Exact:
    """Row by row functions of the observations, the same to the last bit in any batch; counts its calls."""

    def __init__(self, action_dim: int):
        self.action_dim, self.batches = action_dim, []

    def act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        assert deterministic
        self.batches.append(len(obs))
        return np.clip(np.repeat(obs[:, :1] - obs[:, 1:2], self.action_dim, axis=1), -1, 1).astype(np.float32)

    def value(self, obs: np.ndarray) -> np.ndarray:
        return obs[:, 0] * 2.0


# Pendulum's episodes depend on the actions and are equally long; the counting
# environment's are from 1 to 9 steps long.
@pytest.mark.parametrize("env_id, action_dim", [("Pendulum-v1", 1), ("conftest:CountingState-v0", 2)])
@pytest.mark.parametrize("num_envs, num_episodes", [(1, 3), (3, 3), (4, 10), (5, 2)])
def test_side_by_side_equals_one_by_one(env_id, action_dim, num_envs, num_episodes):
    envs, alone = [make_env(env_id) for _ in range(num_envs)], make_env(env_id)
    seeds = range(7, 7 + num_episodes)
    agent, expected, expected_traces = Exact(action_dim), [], []
    for seed in seeds:
        trace = []
        expected.append(play_episode(alone, agent, seed, trace))
        expected_traces.append(trace)
    one_by_one, agent.batches = agent.batches, []
    traces = {}
    assert play_episodes(envs, agent, seeds, traces=traces) == expected
    assert [list(map(tuple, traces[seed].tolist())) for seed in seeds] == expected_traces
    assert sum(agent.batches) == sum(one_by_one) and max(agent.batches) == min(num_envs, num_episodes)
    if num_envs > 1:
        assert len(agent.batches) < len(one_by_one), "forward passes are what is saved"


@pytest.mark.parametrize("script", SCRIPTS)
def test_networks_score_the_same_side_by_side(script, tmp_path):
    env_id = "helpers:ShortPendulum-v0"
    train(script, tmp_path / "run", env_id=env_id, total_timesteps=150)
    envs = [make_env(env_id) for _ in range(4)]
    agent = Policy(load_checkpoint(tmp_path / "run"), "cpu").agent
    together = play_episodes(envs, agent, range(6))
    for seed, episode in enumerate(together):
        assert episode == pytest.approx(play_episode(envs[0], agent, seed), rel=1e-4)


class Dropping(nn.Module):
    """An agent of a copied script: a layer of it forgets while it learns; another never learns."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.target = nn.Dropout(0.5).eval()
        self.modes = set()

    def act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        self.modes.add((self.training, self.dropout.training, self.target.training))
        return np.zeros((len(obs), 1), np.float32)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_layers_that_differ_while_they_learn_do_not_in_an_evaluation(is_stopped):
    agent = Dropping()
    asked = iter([False, is_stopped])
    play_episodes([make_env("Pendulum-v1")], agent, [1], is_stopped=lambda: next(asked, False))
    assert agent.modes == {(False, False, False)}
    assert (agent.training, agent.dropout.training, agent.target.training) == (True, True, False)


def test_a_run_keeps_its_evaluation_environments_and_closes_them(tmp_path, monkeypatch):
    made, close = [], Run.close
    monkeypatch.setattr(Run, "close", lambda run: made.append(list(run.eval_envs)) or close(run))
    monkeypatch.setattr(
        "cleanrl_cc.common.episodes.Episodes.close", lambda env: setattr(env, "was_closed", True)
    )
    changes = {"total_timesteps": 100, "eval_frequency": 60, "eval_episodes": 12, "capture_video": True}
    train(SCRIPTS[0], tmp_path / "run", env_id="odd_envs:Walk-v0", **changes)
    assert len(read_csv(tmp_path / "run" / "evaluations.csv")) == 2
    (envs,) = made
    assert len(envs) == 10 and all(env.was_closed for env in envs)
    assert [env.render_mode for env in envs] == ["rgb_array"] + 9 * [None], "only the first is filmed"


def test_how_many_play_at_once():
    assert side_by_side(SimpleNamespace(render_mode="human"), 10) == 1
    state, hopper = make_env("Hopper-v5"), make_env("Hopper-v5", obs="pixels", image_size=36)
    assert side_by_side(state, 3) == 3 and side_by_side(state, 30) == 10
    assert side_by_side(state, 10, all_filmed=True) == side_by_side(hopper, 10) == 4
    hopper.close()


@pytest.mark.parametrize(
    "env_id",
    ["Hopper-v5", "dm_control/cartpole-balance-v0", "cleanrl_cc/CorridorStatic-Ball-v0", "CarRacing-v3"],
)
def test_pixels_side_by_side_are_those_of_one_alone(env_id):
    def observe(env, seed: int) -> list:
        frames = [env.reset(seed=seed)[0]]
        while len(frames) < 4:
            frames.append(env.step(env.action_space.low * 0.5)[0])
            yield frames

    envs = [make_env(env_id, obs="pixels") for _ in range(side_by_side(make_env(env_id, obs="pixels"), 3))]
    together = [
        list(frames) for frames in zip(*[observe(env, seed) for seed, env in enumerate(envs)], strict=True)
    ][-1]
    for seed, env in enumerate(envs):
        (*_, alone) = observe(env, seed)
        assert len(envs) > 1 and np.array_equal(together[seed], alone)
    for env in envs:
        env.close()


# --- films ---


class Movie(gym.Env):
    """200 frames of 400 x 600, which are 144 MB."""

    observation_space, action_space = gym.spaces.Box(0, 1, (1,)), gym.spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": None}
    render_mode = "rgb_array"
    length = 200

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        ended = self.count == self.length
        return np.zeros(1, np.float32), 0.0, False, ended, {EPISODE: {"r": 0.0, "l": self.count}}

    def render(self) -> np.ndarray:
        return np.full((400, 600, 3), self.count % 256, np.uint8)


AGENT = SimpleNamespace(act=lambda obs, deterministic: np.zeros((len(obs), 1), np.float32))


def test_a_film_of_a_long_episode_takes_no_memory(tmp_path):
    env, path = Movie(), tmp_path / "videos" / "film.mp4"
    tracemalloc.start()
    play_episodes([env], AGENT, [1], {1: Film(path, env, action_repeat=2)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 33e6
    with imageio.get_reader(path) as film:
        assert film.count_frames() == 200
        # two environment steps a frame, at 30 where the environment does not say
        assert film.get_meta_data()["fps"] == 15
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    film = Film(tmp_path / "film.mp4", Movie(), action_repeat=1)
    for _ in range(3):
        film.add(np.zeros((65, 67, 3), np.uint8))
    film.finish()
    assert imageio.mimread(film.path)[0].shape == (64, 66, 3)


def test_a_film_that_is_broken_off_leaves_nothing(tmp_path, monkeypatch):
    env = Movie()
    monkeypatch.setattr(
        Movie, "render", lambda self: None if self.count == 20 else np.zeros((4, 4), np.uint8)
    )
    assert "render()" in input_error(
        play_episodes, [env], AGENT, [1], {1: Film(tmp_path / "film.mp4", env, 1)}
    )
    assert list(tmp_path.iterdir()) == []


def test_a_film_on_a_full_disk_ends_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Movie,
        "render",
        lambda self: np.random.default_rng(self.count).integers(256, size=(400, 600, 3), dtype=np.uint8),
    )
    env = Movie()
    with disk_with_room_for(20_000):
        assert "disk" in input_error(
            play_episodes, [env], AGENT, [1], {1: Film(tmp_path / "film.mp4", env, 1)}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, fps", [*((name, 30) for name in ("FpsNone", "FpsText", "FpsNegative", "GrayFilm")), ("Walk", 20)]
)
def test_it_is_filmed(name, fps, tmp_path):
    train("sac_drq", tmp_path / "run", env_id=f"odd_envs:{name}-v0", total_timesteps=10, capture_video=True)
    (path,) = (tmp_path / "run" / "videos").iterdir()
    with imageio.get_reader(path) as film:
        assert film.get_meta_data()["fps"] == fps and film.count_frames() == 30


def test_an_encoder_that_is_not_found_is_told(tmp_path, monkeypatch):
    def get_writer(*_, **__):
        raise RuntimeError("No ffmpeg exe could be found. Install ffmpeg on your system.")

    monkeypatch.setattr("cleanrl_cc.common.evaluation.imageio.get_writer", get_writer)
    film = Film(tmp_path / "film.mp4", make_env("Pendulum-v1", render_mode="rgb_array"), 1)
    assert "could not be written (No ffmpeg exe" in input_error(film.add, np.zeros((40, 40, 3), np.uint8))


def test_pictures_of_several_sizes_are_no_film(tmp_path):
    changes = {"env_id": "odd_envs:GrowingFilm-v0", "total_timesteps": 10, "capture_video": True}
    message = input_error(train, "sac_drq", tmp_path / "run", **changes)
    assert "(40, 40, 3)" in message and "picture (40, 42, 3)" in message
    assert not list((tmp_path / "run" / "videos").iterdir())


@pytest.mark.parametrize("stated, steps", [(None, 40), (60, 60), (10**9, 80)])
def test_an_evaluation_without_end_is_cut_and_says_so(stated, steps, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "CUT_STEPS", (40, 80))
    env_id = f"Endless{next(numbers)}-v0"
    gym.register(env_id, odd_envs.Endless, max_episode_steps=stated)
    train("sac_drq", tmp_path / "run", env_id=env_id, total_timesteps=110, eval_episodes=3)
    (row,) = read_csv(tmp_path / "run" / "evaluations.csv")
    assert float(row["length_mean"]) == steps
    if stated == 60:
        assert "episodes_cut" not in row
    else:
        assert row["episodes_cut"] == "3"
        assert (
            f"3 of 3 evaluation episodes had not ended and were cut after {steps} steps"
            in capsys.readouterr().err
        )


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
