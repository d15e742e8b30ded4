"""What dqn_atari_style.py does and others do not: bins, and random actions that become fewer."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from helpers import PIXELS, checkpoint, load_script, parse, replay, train

from cleanrl_cc import dqn_atari_style, rainbow
from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.usefixtures("short_laps")

BINS = {
    "bins": ({"total_timesteps": 100}, (1, 3)),
    "discrete": ({"env_id": "CartPole-v1", "total_timesteps": 100}, (1, 2)),
    "two axes": (PIXELS | {"action_set": "auto"}, (2, 3)),
    "five actions": (PIXELS | {"action_set": "five"}, (1, 5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("changes, shape", BINS.values(), ids=BINS)
def test_the_bins_of_each_dimension_are_stored(changes, shape, tmp_path):
    train("dqn_atari_style", tmp_path / "run", **changes)
    actions = replay(tmp_path / "run")["actions"]
    assert (actions.shape[2], np.unique(actions).tolist()) == (shape[0], list(range(shape[1])))


def test_exploration_falls_from_all_actions_to_its_end(tmp_path, monkeypatch):
    greedy_steps = []
    q_values = dqn_atari_style.Agent.q_values
    monkeypatch.setattr(
        dqn_atari_style.Agent,
        "q_values",
        lambda agent, obs: greedy_steps.append(len(obs)) or q_values(agent, obs),
    )
    fields = {"learning_starts": 1000, "updates_per_step": 0.0, "epsilon_end": 0.2}
    train("dqn_atari_style", tmp_path / "run", total_timesteps=3000, epsilon_steps=1000, **fields)
    rows = read_csv(tmp_path / "run" / "progress.csv")
    assert [float(row["charts/epsilon"]) for row in rows] == pytest.approx([1, 0.2, 0.2], abs=1e-3)
    expected = 1000 * 0.4 + 1000 * 0.8 + 200  # while it falls, after that, and one evaluation
    assert len(greedy_steps) == pytest.approx(expected, abs=4 * math.sqrt(3000 * 0.25))


def test_each_environment_explores_for_itself(tmp_path):
    fields = {
        "num_envs": 4,
        "epsilon_steps": 1,
        "epsilon_end": 0.5,
        "learning_starts": 0,
        "updates_per_step": 0.0,
        "bins": 101,
    }
    train("dqn_atari_style", tmp_path / "run", total_timesteps=200, **fields)
    actions = replay(tmp_path / "run")["actions"][:, :, 0]
    assert len({tuple(column) for column in actions.T}) == 4


class ManyDimensions(gym.Env):
    """Four action dimensions, nothing to learn."""

    observation_space, action_space = Box(-1, 1, (3,)), Box(-1, 1, (4,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}


gym.register("ManyDimensions-v0", ManyDimensions, max_episode_steps=200)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, fields", [("dqn_atari_style", {}), ("rainbow", {"components": ("double",)})]
)
def test_each_dimension_explores_for_itself(script, fields, tmp_path):
    epsilon, num_dims, steps = 0.5, 4, 4000
    fields |= {
        "env_id": "ManyDimensions-v0",
        "epsilon_steps": 1,
        "epsilon_end": epsilon,
        "learning_starts": 0,
        "updates_per_step": 0.0,
    }
    train(script, tmp_path / "run", total_timesteps=steps, bins=101, **fields)
    # (T, D); the observation stands still, so greedy bins do
    actions = replay(tmp_path / "run")["actions"][10:, 0]
    greedy = np.array([np.bincount(column).argmax() for column in actions.T])
    explores = actions != greedy
    chance = epsilon / (epsilon + num_dims * (1 - epsilon)) * 100 / 101  # by chance the greedy bin
    assert explores.mean(axis=0) == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / steps))
    assert np.corrcoef(explores.T)[0, 1:] == pytest.approx(0, abs=0.1)


def agent_for(action_space: gym.Space, **fields) -> dqn_atari_style.Agent:
    args = dqn_atari_style.Args(hidden_dim=16, precision="fp32", **fields)
    return dqn_atari_style.Agent(args, Box(-1, 1, (3,)), action_space, torch.device("cpu"))


@pytest.mark.parametrize("bins, values", [(2, [-1, 1]), (3, [-1, 0, 1]), (5, [-1, -0.5, 0, 0.5, 1])])
def test_each_dimension_takes_its_best_bin(bins, values):
    agent = agent_for(Box(-1, 1, (6,)), bins=bins)
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    q, actions = agent.q_values(obs), agent.act(obs, deterministic=True)
    assert q.shape == (50, 6, bins) and actions.shape == (50, 6) and actions.dtype == np.float32
    assert np.array_equal(actions, np.array(values, np.float32)[q.argmax(axis=2)])
    assert agent.value(obs) == pytest.approx(q.max(axis=2).mean(axis=1))


def test_discrete_actions_count_from_where_the_space_starts():
    agent = agent_for(Discrete(5, start=-2))
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    actions = agent.act(obs, deterministic=True)
    assert actions.shape == (50,) and np.array_equal(actions, agent.q_values(obs)[:, 0].argmax(axis=1) - 2)
    assert all(Discrete(5, start=-2).contains(action) for action in actions)


def test_21_dimensions_of_3_bins_take_63_outputs():
    assert agent_for(Box(-1, 1, (21,))).q_network.out.out_features == 63


def test_the_value_is_in_units_of_the_environment(tmp_path):
    obs = np.ones((1, 3), np.float32)
    agent, scaled = agent_for(Discrete(2)), agent_for(Discrete(2), reward_scale=0.1)
    scaled.load_state_dict(agent.state_dict())
    assert scaled.value(obs) == pytest.approx(10 * agent.value(obs))


@pytest.mark.parametrize("module", [dqn_atari_style, rainbow])
def test_random_shift_moves_each_image_within_its_border(module):
    args = module.Args(
        random_shift=True, shift_pad=2, image_size=40, precision="fp32", encoder_channels=4, hidden_dim=16
    )
    agent = module.Agent(args, Box(0, 255, (4, 40, 40), np.uint8), Discrete(2), torch.device("cpu"))
    images = torch.arange(40, dtype=torch.uint8).expand(64, 4, 40, 40)  # each pixel holds its column
    shifted = agent.random_shift(images)
    moved = shifted[:, 0, 0, 20].int() - 20
    assert shifted.dtype == torch.uint8 and sorted(moved.unique().tolist()) == [-2, -1, 0, 1, 2]
    expected = (torch.arange(40) + moved[:, None]).clamp(0, 39)
    assert torch.equal(shifted.long(), expected[:, None, None, :].expand(64, 4, 40, 40))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["dqn_atari_style", "rainbow"])
def test_images_are_shifted_where_the_preset_says_so(script, tmp_path, monkeypatch):
    assert parse(script, ["--env-id", "dm_control/walker-walk-v0"]).random_shift
    assert not parse(script, ["--env-id", "CarRacing-v3"]).random_shift
    agent, calls = load_script(script).Agent, []
    shift = agent.random_shift
    monkeypatch.setattr(
        agent, "random_shift", lambda self, images: calls.append(images.shape) or shift(self, images)
    )
    train(script, tmp_path / "run", **PIXELS | {"random_shift": True})
    num_updates = checkpoint(tmp_path / "run")["num_updates"]
    assert len(calls) == 2 * num_updates > 0
