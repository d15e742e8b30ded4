"""What rainbow.py does and others do not: with all components, without each of them, and without any."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from helpers import checkpoint, parse, replay, train

from cleanrl_cc import rainbow
from cleanrl_cc.common.tables import read_csv

SETS = {
    "all": rainbow.COMPONENTS,
    "double alone": ("double",),
    **{
        f"no {component}": tuple(c for c in rainbow.COMPONENTS if c != component)
        for component in rainbow.COMPONENTS
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("components", SETS.values(), ids=SETS)
def test_the_networks_have_what_the_components_need(components, tmp_path):
    train("rainbow", tmp_path / "run", total_timesteps=100, components=components)
    weights = checkpoint(tmp_path / "run")["agent"]
    assert ("q_network.hidden.weight_sigma" in weights) == ("noisy" in components)
    assert ("q_network.value.weight" in weights) == ("dueling" in components)
    assert weights["q_network.out.bias"].numel() == 3 * (51 if "c51" in components else 1)


def test_priorities_follow_the_errors(tmp_path):
    train("rainbow", tmp_path / "run", total_timesteps=400)
    rows = replay(tmp_path / "run")
    priorities = rows["tree"][len(rows["tree"]) // 2 :]
    assert len(np.unique(priorities)) > 10 and rows["max_priority"] == priorities.max() > 0


@pytest.mark.parametrize("components, expected", [(("noisy",), 0), (("double",), 0.2)])
def test_noise_replaces_random_actions(components, expected, tmp_path, monkeypatch):
    q_values, noisy_calls = rainbow.Agent.q_values, []

    def record(agent, obs, noisy=False):
        noisy_calls.append(noisy)
        return q_values(agent, obs, noisy)

    monkeypatch.setattr(rainbow.Agent, "q_values", record)
    fields = {"learning_starts": 900, "epsilon_steps": 50, "epsilon_end": 0.2, "updates_per_step": 0.0}
    train("rainbow", tmp_path / "run", total_timesteps=1000, components=components, **fields)
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    assert float(row["charts/epsilon"]) == expected
    assert all(noisy_calls[:-200]) and not any(noisy_calls[-200:]), (
        "noise in training, none in the episode that evaluates"
    )


def agent_for(action_space, **fields) -> rainbow.Agent:
    torch.manual_seed(0)
    return rainbow.Agent(
        rainbow.Args(hidden_dim=16, precision="fp32", **fields),
        Box(-1, 1, (3,)),
        action_space,
        torch.device("cpu"),
    )


def test_noise_is_drawn_at_each_step_but_not_where_the_policy_is_deterministic():
    agent, obs = agent_for(Box(-1, 1, (2,)), bins=9), np.ones((1, 3), np.float32)
    noisy = np.stack([agent.act(obs, deterministic=False) for _ in range(100)])
    assert len(np.unique(noisy[:, 0], axis=0)) > 5
    mean = agent.q_values(obs)
    assert all(np.array_equal(agent.q_values(obs), mean) for _ in range(5))
    assert agent.q_network.training, "an update after an evaluation must have its noise"
    with torch.no_grad():
        for layer in (agent.q_network.hidden, agent.q_network.out, agent.q_network.value):
            layer.weight_sigma.zero_(), layer.bias_sigma.zero_()
    assert np.array_equal(agent.q_values(obs, noisy=True), mean)


@pytest.mark.parametrize("action_space", [Box(-1, 1, (2,)), Discrete(4)])
@pytest.mark.parametrize("components", SETS.values(), ids=SETS)
def test_values_are_in_units_of_the_environment(components, action_space):
    agent = agent_for(action_space, components=components, reward_scale=0.1)
    obs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    assert agent.value(obs) == pytest.approx(10 * agent.q_values(obs).max(axis=2).mean(axis=1))
    assert action_space.contains(agent.act(obs, deterministic=True)[0])


@pytest.mark.parametrize(
    "env_id, lowest, highest",
    [
        ("CartPole-v1", 0, 1),
        ("Acrobot-v1", -1, 0),
        ("dm_control/walker-walk-v0", 0, 1),
        ("dm_control/humanoid-walk-v0", 0, 1),
    ],
)
def test_the_support_holds_the_discounted_return(env_id, lowest, highest):
    args = parse("rainbow", ["--env-id", env_id])
    most = args.reward_scale * args.action_repeat / (1 - args.gamma)
    assert args.v_min <= most * lowest and most * highest <= args.v_max + 1e-6


def test_importance_weights_grow(tmp_path, monkeypatch):
    betas, sample = [], rainbow.ReplayBuffer.sample
    monkeypatch.setattr(rainbow.ReplayBuffer, "sample", lambda *args: betas.append(args[-1]) or sample(*args))
    train("rainbow", tmp_path / "run", total_timesteps=300, beta_steps=200)
    assert betas[0] == pytest.approx(0.4 + 0.6 * 60 / 200) and betas[-1] == 1


@pytest.mark.slow
def test_a_support_that_does_not_hold_the_returns_is_told_once(tmp_path, capfd):
    train(
        "rainbow",
        tmp_path / "run",
        total_timesteps=1000,
        learning_starts=700,
        updates_per_step=1.0,
        target_update_frequency=10,
        learning_rate=3e-3,
    )
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if "--v-max" in line]
    # as CartPole's largest return is, or the 0 of no reward: only the user knows whether any are beyond
    assert "at an end of --v-min -10 to --v-max 10: if " in warning and "--reward-scale" in warning
    assert float(read_csv(tmp_path / "run" / "progress.csv")[-1]["losses/edge_mass"]) > 0.2


@pytest.mark.parametrize("components", [rainbow.COMPONENTS, ("double",)])
def test_a_support_that_holds_them_is_not(components, tmp_path, capfd):
    fields = {
        "total_timesteps": 200,
        "updates_per_step": 1.0,
        "v_min": -1000.0,
        "v_max": 1000.0,
        "components": components,
    }
    train("rainbow", tmp_path / "run", **fields)
    assert "--v-max" not in capfd.readouterr().err


def test_edge_mass_is_that_of_the_targets():
    agent = agent_for(Discrete(2), components=("c51",), v_min=-1.0, v_max=1.0)
    rewards = torch.tensor([5.0, -5.0, 0.0, 0.5])  # without a future: two are cut off
    batch = rainbow.Batch(
        torch.zeros(4, 3),
        torch.zeros(4, 1).long(),
        rewards,
        torch.zeros(4, 3),
        *torch.ones(3, 4),
        torch.zeros(2, 4).long(),
    )
    assert agent.update(batch)[1]["losses/edge_mass"].item() == pytest.approx(0.5)
