"""What dqn_atari_style.py does and others do not: bins, and random actions that become fewer."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from helpers import PIXELS, replay, train

from cleanrl_cc import dqn_atari_style
from cleanrl_cc.runs import read_csv

BINS = {
    "bins": ({"total_timesteps": 100}, (1, 3)),
    "discrete": ({"env_id": "CartPole-v1", "total_timesteps": 100}, (1, 2)),
    "two axes": (PIXELS | {"action_set": "auto"}, (2, 3)),
    "five actions": (PIXELS | {"action_set": "five"}, (1, 5)),
}


@pytest.mark.parametrize("changes, shape", BINS.values(), ids=BINS)
def test_the_bins_of_each_dimension_are_stored(changes, shape, tmp_path):
    train("dqn_atari_style", tmp_path / "run", **changes)
    actions = replay(tmp_path / "run")["actions"]
    assert (actions.shape[2], np.unique(actions).tolist()) == (shape[0], list(range(shape[1])))


def test_exploration_falls_from_all_actions_to_its_end(tmp_path, monkeypatch):
    greedy_steps = []
    q_values = dqn_atari_style.Agent.q_values
    monkeypatch.setattr(dqn_atari_style.Agent, "q_values", lambda agent, obs: greedy_steps.append(len(obs)) or q_values(agent, obs))
    fields = {"learning_starts": 1000, "updates_per_step": 0.0, "epsilon_end": 0.2}
    train("dqn_atari_style", tmp_path / "run", total_timesteps=3000, epsilon_steps=1000, **fields)
    rows = read_csv(tmp_path / "run" / "progress.csv")
    assert [float(row["charts/epsilon"]) for row in rows] == pytest.approx([1, 0.2, 0.2], abs=1e-3)
    expected = 1000 * 0.4 + 1000 * 0.8 + 200  # while it falls, after that, and one evaluation
    assert len(greedy_steps) == pytest.approx(expected, abs=4 * math.sqrt(3000 * 0.25))


def test_each_environment_explores_for_itself(tmp_path):
    fields = {"num_envs": 4, "epsilon_steps": 1, "epsilon_end": 0.5, "learning_starts": 0, "updates_per_step": 0.0, "bins": 101}
    train("dqn_atari_style", tmp_path / "run", total_timesteps=200, **fields)
    actions = replay(tmp_path / "run")["actions"][:, :, 0]
    assert len({tuple(column) for column in actions.T}) == 4


def agent_for(action_space: gym.Space, **fields) -> dqn_atari_style.Agent:
    args = dqn_atari_style.Args(hidden_dim=16, precision="fp32", **fields)
    return dqn_atari_style.Agent(args, Box(-1, 1, (3,)), action_space, torch.device("cpu"))


@pytest.mark.parametrize("bins, values", [(2, [-1, 1]), (3, [-1, 0, 1]), (5, [-1, -0.5, 0, 0.5, 1])])
def test_each_dimension_takes_its_best_bin(bins, values):
    agent, obs = agent_for(Box(-1, 1, (6,)), bins=bins), np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    q, actions = agent.q_values(obs), agent.act(obs, deterministic=True)
    assert q.shape == (50, 6, bins) and actions.shape == (50, 6) and actions.dtype == np.float32
    assert np.array_equal(actions, np.array(values, np.float32)[q.argmax(axis=2)])
    assert agent.value(obs) == pytest.approx(q.max(axis=2).mean(axis=1))


def test_discrete_actions_count_from_where_the_space_starts():
    agent, obs = agent_for(Discrete(5, start=-2)), np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
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
