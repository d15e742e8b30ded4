"""ppo_continuous.py trains for real, from vectors and from pixels, through `train` and through the command line."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch._inductor.config
from gymnasium.spaces import Box
from helpers import PIXELS, checkpoint, command_line, start, train

from cleanrl_cc import ppo_continuous
from cleanrl_cc.checkpoints import load_replay
from cleanrl_cc.runs import read_csv

PROBLEMS = {"vector": {"total_timesteps": 1100}, "beta": {"total_timesteps": 300, "action_distribution": "beta"}, "pixels": PIXELS}


def untrained(folder, **changes) -> dict:
    """The weights before the first update."""
    train("ppo_continuous", folder, **changes | {"total_timesteps": 10})
    return checkpoint(folder)["agent"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_it_learns_from_what_it_did(problem, tmp_path):
    changes = PROBLEMS[problem]
    mean_return = train("ppo_continuous", tmp_path / "run", **changes)
    state = checkpoint(tmp_path / "run")
    assert state["counters"]["num_updates"] == 2 * 4 * (changes["total_timesteps"] // 32)
    before = untrained(tmp_path / "untrained", **changes)
    assert [name for name in before if torch.equal(before[name], state["agent"][name])] == []
    assert math.isfinite(mean_return) and mean_return == float(read_csv(tmp_path / "run" / "evaluations.csv")[-1]["return_mean"])
    rows = load_replay(tmp_path / "run" / state["replay"])
    assert 0 < len(rows["obs"]) == rows["num_added"] < 32
    assert rows["obs"].std() > 0 and np.abs(rows["actions"]).min() > 0


def test_its_losses_are_logged(tmp_path):
    train("ppo_continuous", tmp_path / "run", total_timesteps=1000)
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance"):
        assert math.isfinite(float(row[f"losses/{name}"])), name
    assert float(row["charts/num_updates"]) == 2 * 4 * (1000 // 32)


@pytest.mark.parametrize("problem", ["vector", "pixels"])
def test_the_command_line_does_the_same(problem, tmp_path):
    changes = PROBLEMS[problem] | {"total_timesteps": 80}
    process = start("ppo_continuous", command_line("ppo_continuous", tmp_path / "command", **changes))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    train("ppo_continuous", tmp_path / "call", **changes)
    a, b = (checkpoint(tmp_path / name)["agent"] for name in ("command", "call"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_args_made_in_python_are_enough(tmp_path):
    args = ppo_continuous.Args(env_id="Pendulum-v1", total_timesteps=120, num_steps=64, runs_dir=str(tmp_path), eval_episodes=1)
    args.num_minibatches = 2
    assert math.isfinite(ppo_continuous.train(args))


@pytest.mark.parametrize("schedule, last", [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_the_learning_rate_follows_its_schedule(schedule, last, tmp_path):
    rate = {"learning_rate": 0.5e-3, "learning_rate_schedule": schedule}
    train("ppo_continuous", tmp_path / "run", total_timesteps=62, **rate)  # the only update comes after the 31st step
    (optimizer,) = checkpoint(tmp_path / "run")["optimizers"].values()
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(last * 0.5e-3)


def test_an_update_ends_when_the_policy_has_moved_too_far(tmp_path):
    for name, target in (("far", 1e9), ("near", 1e-9)):
        train("ppo_continuous", tmp_path / name, total_timesteps=64, target_kl=target)
    far, near = (checkpoint(tmp_path / name)["counters"]["num_updates"] for name in ("far", "near"))
    assert (far, near) == (2 * 2 * 4, 2 * 1 * 4)


def test_statistics_are_shared_by_environments_and_evaluation_reads_them(tmp_path):
    train("ppo_continuous", tmp_path / "run", total_timesteps=300, num_envs=2, patience=20)
    state = checkpoint(tmp_path / "run")["agent"]
    rows = checkpoint(tmp_path / "run")["global_step"] - 300 % 64
    assert state["obs_statistics.mean"].shape == (3,)
    assert rows - 64 < state["obs_statistics.count"] <= rows  # of whole rollouts, without ignored actions
    assert state["return_statistics.var"] > 1
    args = ppo_continuous.Args(hidden_dim=16)
    agent = ppo_continuous.Agent(args, Box(-9, 9, (3,)), Box(-1, 1, (1,)), torch.device("cpu"))
    agent.load_state_dict(state)
    obs = np.array([[0.5, 0.5, 3.0]], np.float32)
    normalised = (obs - state["obs_statistics.mean"].numpy()) / np.sqrt(state["obs_statistics.var"].numpy())
    policy, values = agent(torch.as_tensor(normalised))
    assert agent.act(obs, deterministic=True) == pytest.approx(policy.mean.detach().numpy(), abs=1e-5)
    assert agent.value(obs) == pytest.approx(values.detach().numpy() * np.sqrt(float(state["return_statistics.var"])), rel=1e-4)


def test_ignored_actions_teach_nothing():
    args = ppo_continuous.Args(num_envs=1, num_steps=8, num_minibatches=1, num_epochs=3, precision="fp32")
    spaces = Box(-9, 9, (3,)), Box(-1, 1, (1,))
    weights = []
    for ignored in (0.0, 5.0):
        torch.manual_seed(1)
        agent, rng = ppo_continuous.Agent(args, *spaces, torch.device("cpu")), np.random.default_rng(1)
        buffer = ppo_continuous.RolloutBuffer(args, *spaces)
        for row in range(8):
            obs, final = rng.normal(size=(1, 3)).astype(np.float32), np.array([row == 4])
            actions, log_probs, values = agent.sample(obs)
            actions, log_probs = actions + ignored * final, log_probs + ignored * final
            buffer.add(obs, actions, log_probs, values, rng.normal(size=1) * ~final, np.array([row == 3]), np.zeros(1, bool), final=final)
        agent.update(buffer, obs, rng)
        weights.append(agent.state_dict())
    assert weights[0]["obs_statistics.count"] == 7
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_bf16_trains_close_to_fp32(tmp_path):
    changes = PIXELS | {"total_timesteps": 64}
    for precision in ("fp32", "bf16"):
        train("ppo_continuous", tmp_path / precision, **changes, precision=precision)
    fp32, bf16 = (checkpoint(tmp_path / precision)["agent"] for precision in ("fp32", "bf16"))
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in bf16.values())
    assert any(not torch.equal(fp32[name], bf16[name]) for name in fp32)
    for name in (name for name in fp32 if "statistics" not in name):  # Adam moves a weight by about the learning rate per update
        torch.testing.assert_close(bf16[name], fp32[name], atol=2 * 16 * 3e-4, rtol=0)


def test_compiled_updates_equal_eager_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    for compiled in (False, True):
        train("ppo_continuous", tmp_path / str(compiled), total_timesteps=40, compile=compiled)
    eager, compiled = (checkpoint(tmp_path / name) for name in ("False", "True"))
    assert compiled["counters"]["num_updates"] == 8
    assert compiled["agent"].keys() == eager["agent"].keys()
    for name, tensor in eager["agent"].items():
        torch.testing.assert_close(compiled["agent"][name], tensor, atol=1e-5, rtol=1e-4)


class FailingPendulum(gym.Wrapper):
    """Fails in its fifth step."""

    def __init__(self, render_mode=None):
        super().__init__(gym.make("Pendulum-v1"))
        self.count = 0

    def step(self, action):
        self.count += 1
        if self.count == 5:
            raise ValueError("out of order")
        return super().step(action)


gym.register("FailingPendulum-v0", FailingPendulum)


def test_an_error_in_a_worker_surfaces(tmp_path):
    with pytest.raises(RuntimeError, match="out of order"):
        train("ppo_continuous", tmp_path / "run", env_id="FailingPendulum-v0", num_envs=2)
