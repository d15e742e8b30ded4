"""What ppo_continuous.py does and others do not: rollouts, statistics, schedules."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from helpers import checkpoint, replay, train

from cleanrl_cc import ppo_continuous


def test_what_comes_after_the_last_update_is_in_the_checkpoint(tmp_path):
    train("ppo_continuous", tmp_path / "run", total_timesteps=300)
    state = checkpoint(tmp_path / "run")
    assert state["num_updates"] == 2 * 4 * (300 // 32)
    rows = replay(tmp_path / "run")
    assert 0 < len(rows["obs"]) == rows["num_added"] < 32
    assert rows["obs"].std() > 0 and np.abs(rows["actions"]).min() > 0


@pytest.mark.parametrize("schedule, last", [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_the_learning_rate_follows_its_schedule(schedule, last, tmp_path):
    rate = {"learning_rate": 0.5e-3, "learning_rate_schedule": schedule}
    # the only update comes after the 31st step
    train("ppo_continuous", tmp_path / "run", total_timesteps=62, **rate)
    (optimizer,) = checkpoint(tmp_path / "run")["optimizers"].values()
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(last * 0.5e-3)


def test_an_update_ends_when_the_policy_has_moved_too_far(tmp_path):
    for name, target in (("far", 1e9), ("near", 1e-9)):
        train("ppo_continuous", tmp_path / name, total_timesteps=64, target_kl=target)
    far, near = (checkpoint(tmp_path / name)["num_updates"] for name in ("far", "near"))
    assert (far, near) == (2 * 2 * 4, 2 * 1 * 4)


def test_statistics_are_shared_by_environments_and_evaluation_reads_them(tmp_path):
    train(
        "ppo_continuous",
        tmp_path / "run",
        total_timesteps=300,
        num_envs=2,
        training_wrappers=("Patience,frames=20",),
    )
    state = checkpoint(tmp_path / "run")["agent"]
    rows = checkpoint(tmp_path / "run")["global_step"] - 300 % 64
    assert state["obs_statistics.mean"].shape == (3,)
    assert rows - 64 < state["obs_statistics.count"] <= rows  # of whole rollouts, without ignored actions
    assert state["return_statistics.var"] > 1
    args = ppo_continuous.Args(hidden_dim=16)
    agent = ppo_continuous.Agent(args, Box(-9, 9, (3,)), Box(-1, 1, (1,)), torch.device("cpu"))
    agent.load_state_dict(state)
    obs = np.array([[0.5, 0.5, 3.0]], np.float32)
    normalised = (
        (obs - state["obs_statistics.mean"].numpy()) / np.sqrt(state["obs_statistics.var"].numpy())
    ).astype(np.float32)
    policy, values = agent(torch.as_tensor(normalised))
    assert agent.act(obs, deterministic=True) == pytest.approx(policy.mean.detach().numpy(), abs=1e-5)
    assert agent.value(obs) == pytest.approx(
        values.detach().numpy() * np.sqrt(float(state["return_statistics.var"])), rel=1e-4
    )


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
            buffer.add(
                obs,
                actions,
                log_probs,
                values,
                rng.normal(size=1) * ~final,
                np.array([row == 3]),
                np.zeros(1, bool),
                final=final,
            )
        agent.update(buffer, obs, rng)
        weights.append(agent.state_dict())
    assert weights[0]["obs_statistics.count"] == 7
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_actions_are_stored_as_they_were_sampled_with_their_own_probabilities(tmp_path):
    train("ppo_continuous", tmp_path / "run", total_timesteps=63, initial_log_std=1.0)
    state = checkpoint(tmp_path / "run")
    rows = {name: torch.as_tensor(values) for name, values in replay(tmp_path / "run").items()}
    agent = ppo_continuous.Agent(
        ppo_continuous.Args(**state["args"]), Box(-9, 9, (3,)), Box(-1, 1, (1,)), torch.device("cpu")
    )
    agent.load_state_dict(state["agent"])  # the policy that played all 31 rows after the only update
    with torch.no_grad():
        policy, values = agent(agent.normalize(rows["obs"][:, 0]))
    assert (rows["actions"].abs() > 1).any(), "the environment clips, not the algorithm"
    torch.testing.assert_close(policy.log_prob(rows["actions"][:, 0]), rows["log_probs"][:, 0])
    torch.testing.assert_close(values, rows["values"][:, 0])


def test_episodes_without_any_reward_end_no_run():
    args = ppo_continuous.Args(num_envs=1, num_steps=8, num_minibatches=1, precision="fp32")
    spaces, rng = (Box(-9, 9, (3,)), Box(-1, 1, (1,))), np.random.default_rng(1)
    agent = ppo_continuous.Agent(args, *spaces, torch.device("cpu"))
    buffer = ppo_continuous.RolloutBuffer(args, *spaces)
    for row in range(8):  # of one step each, and the steps that reset
        obs, resets = rng.normal(size=(1, 3)).astype(np.float32), np.array([row % 2 == 1])
        buffer.add(obs, *agent.sample(obs), np.zeros(1), ~resets, np.zeros(1, bool), final=resets)
    assert all(np.isfinite(float(value)) for value in agent.update(buffer, obs, rng).values())


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return(monkeypatch):
    args = ppo_continuous.Args(
        num_envs=1, num_steps=8, num_minibatches=1, num_epochs=1, gamma=0.5, precision="fp32"
    )
    spaces, rng = (Box(-9, 9, (3,)), Box(-1, 1, (1,))), np.random.default_rng(1)
    agent = ppo_continuous.Agent(args, *spaces, torch.device("cpu"))
    buffer = ppo_continuous.RolloutBuffer(args, *spaces)
    rewards, returns, total, seen, advantages = rng.normal(0, 5, 8), [], 0.0, [], buffer.advantages
    rewards[4] = 0  # of the step that resets
    for row, reward in enumerate(rewards):
        obs = rng.normal(size=(1, 3)).astype(np.float32)
        buffer.add(
            obs,
            *agent.sample(obs),
            rewards[[row]],
            np.array([row == 3]),
            np.zeros(1, bool),
            final=np.array([row == 4]),
        )
        total = reward + args.gamma * total
        returns += [total] if row != 4 else []
        total *= row != 3
    monkeypatch.setattr(
        buffer,
        "advantages",
        lambda rewards, values: seen.append(rewards.copy()) or advantages(rewards, values),
    )
    agent.update(buffer, obs, rng)
    assert agent.return_statistics.var.item() == pytest.approx(np.var(returns), rel=1e-5)
    assert seen[0][:, 0] == pytest.approx(rewards / np.std(returns), rel=1e-4)


def test_what_is_normalised_stays_within_ten_deviations(monkeypatch):
    args = ppo_continuous.Args(num_envs=1, num_steps=400, num_minibatches=1, num_epochs=1, precision="fp32")
    spaces = Box(-np.inf, np.inf, (2,)), Box(-1, 1, (1,))
    agent = ppo_continuous.Agent(args, *spaces, torch.device("cpu"))  # its statistics: mean 0, variance 1
    obs = np.array([[9.0, -9.0], [1e6, -1e6]], np.float32)
    assert agent.normalize(obs).numpy() == pytest.approx(np.array([[9, -9], [10, -10]]))
    buffer = ppo_continuous.RolloutBuffer(args, *spaces)
    seen, advantages = [], buffer.advantages
    ends = np.ones(1, bool)
    for row in range(400):  # of episodes of one step, all without reward but two
        reward = {100: 1e6, 200: -1e6}.get(row, 0.0)
        never = np.zeros(1, bool)
        buffer.add(obs[:1], *agent.sample(obs[:1]), np.array([reward]), ends, never, final=never)
    monkeypatch.setattr(
        buffer, "advantages", lambda rewards, values: seen.append(rewards) or advantages(rewards, values)
    )
    agent.update(buffer, obs[:1], np.random.default_rng(1))
    assert np.unique(seen[0]).tolist() == [-10, 0, 10]
