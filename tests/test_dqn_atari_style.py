"""dqn_atari_style.py trains for real, on continuous and discrete actions, through `train` and through the command line."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch._inductor.config
from gymnasium.spaces import Box, Discrete
from helpers import PIXELS, checkpoint, command_line, flags, parse, start, train

from cleanrl_cc import dqn_atari_style
from cleanrl_cc.checkpoints import load_replay
from cleanrl_cc.runs import read_csv

PROBLEMS = {
    "bins": {"total_timesteps": 400},
    "discrete": {"env_id": "CartPole-v1", "total_timesteps": 400},
    "pixels": PIXELS,
    "five actions": PIXELS | {"action_set": "five"},
}


def untrained(folder, **changes) -> dict:
    """The weights before the first update."""
    train("dqn_atari_style", folder, **changes | {"total_timesteps": 10})
    return checkpoint(folder)["agent"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_it_learns_from_what_it_did(problem, tmp_path):
    changes = PROBLEMS[problem]
    mean_return = train("dqn_atari_style", tmp_path / "run", **changes)
    state = checkpoint(tmp_path / "run")
    assert state["counters"]["num_updates"] > 20
    before = untrained(tmp_path / "untrained", **changes)
    assert [name for name in before if torch.equal(before[name], state["agent"][name])] == []
    assert math.isfinite(mean_return) and mean_return == float(read_csv(tmp_path / "run" / "evaluations.csv")[-1]["return_mean"])
    rows = load_replay(tmp_path / "run" / state["replay"])
    assert len(rows["frames"]) >= min(state["global_step"], parse("dqn_atari_style", flags(changes)).buffer_size)
    assert rows["frames"].std() > 0
    num_dims, num_bins = {"bins": (1, 3), "discrete": (1, 2), "pixels": (2, 3), "five actions": (1, 5)}[problem]
    assert rows["actions"].shape[2] == num_dims
    assert np.unique(rows["actions"]).tolist() == list(range(num_bins))


def test_the_command_line_does_the_same(tmp_path):
    changes = PIXELS | {"total_timesteps": 80}
    process = start("dqn_atari_style", command_line("dqn_atari_style", tmp_path / "command", **changes))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    train("dqn_atari_style", tmp_path / "call", **changes)
    a, b = (checkpoint(tmp_path / name)["agent"] for name in ("command", "call"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_args_made_in_python_are_enough(tmp_path):
    args = dqn_atari_style.Args(env_id="Pendulum-v1", total_timesteps=120, learning_starts=50, runs_dir=str(tmp_path), eval_episodes=1)
    assert math.isfinite(dqn_atari_style.train(args))


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
    actions = load_replay(tmp_path / "run" / checkpoint(tmp_path / "run")["replay"])["actions"][:, :, 0]
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


def test_bf16_trains_close_to_fp32(tmp_path):
    changes = PIXELS | {"total_timesteps": 60, "updates_per_step": 0.2}
    for precision in ("fp32", "bf16"):
        train("dqn_atari_style", tmp_path / precision, **changes, precision=precision)
    fp32, bf16 = (checkpoint(tmp_path / precision)["agent"] for precision in ("fp32", "bf16"))
    assert all(tensor.dtype == torch.float32 for tensor in bf16.values())
    assert any(not torch.equal(fp32[name], bf16[name]) for name in fp32)
    for name in fp32:  # Adam moves a weight by at most the learning rate per update, whatever the gradient's size
        torch.testing.assert_close(bf16[name], fp32[name], atol=2 * 2 * 1e-4, rtol=0)


def test_compiled_updates_equal_eager_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    for compiled in (False, True):
        train("dqn_atari_style", tmp_path / str(compiled), total_timesteps=80, compile=compiled)
    eager, compiled = (checkpoint(tmp_path / name) for name in ("False", "True"))
    assert compiled["counters"]["num_updates"] == 3
    assert compiled["agent"].keys() == eager["agent"].keys()
    for name, tensor in eager["agent"].items():
        torch.testing.assert_close(compiled["agent"][name], tensor, atol=1e-5, rtol=1e-4)
