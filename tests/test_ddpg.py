"""What ddpg.py does and others do not: noise with a memory."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from agents import make_agent, make_buffer, make_obs
from gymnasium.spaces import Box
from helpers import checkpoint, replay, train

from cleanrl_cc import ddpg


@pytest.mark.parametrize("num_envs", [1, 2])
def test_correlated_noise_remembers_its_episode_and_no_other(num_envs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    noise = {
        "exploration_noise_type": "ou",
        "exploration_noise": 0.01,
        "final_exploration_noise": 0.01,
        "learning_starts": 0,
    }
    train(
        "ddpg",
        tmp_path / "run",
        total_timesteps=30,
        num_envs=num_envs,
        training_wrappers=("Patience,frames=6",),
        updates_per_step=0.0,
        **noise,
    )
    state = checkpoint(tmp_path / "run")
    rows = replay(tmp_path / "run")
    agent = ddpg.Agent(ddpg.Args(**state["args"]), Box(-9, 9, (3,)), Box(-1, 1, (1,)), torch.device("cpu"))
    agent.load_state_dict(state["agent"])
    expected = np.zeros(num_envs)
    for frames, actions, final in zip(rows["frames"], rows["actions"], rows["final"], strict=True):
        expected = 0.85 * expected + 0.01  # x ← x - 0.15 x + σ ε, with ε = 1
        assert actions[:, 0] - agent.act(frames, deterministic=True)[:, 0] == pytest.approx(
            expected, abs=1e-6
        )
        expected[final] = 0
    assert rows["final"].sum() >= 2 * num_envs
    assert agent.ou_noise[:, 0].numpy() == pytest.approx(expected), "a resumed run goes on with it"


def test_each_environment_and_dimension_has_correlated_noise_of_its_own():
    agent = make_agent("ddpg", "state", torch.device("cpu"), exploration_noise_type="ou", num_envs=4)
    agent.actor.requires_grad_(False).layers[-1].weight.zero_()  # far from the bounds
    obs = np.ones((4, 5), np.float32)
    for _ in range(3):
        noise = agent.act(obs) - agent.act(obs, deterministic=True)
    assert len(np.unique(noise)) == 8


def statistics(module) -> dict:
    return {name: value.clone() for name, value in module.named_buffers() if "running" in name}


def test_batch_normalisation_learns_by_its_batch_and_acts_by_what_it_remembers():
    cpu = torch.device("cpu")
    agent = make_agent("ddpg", "state", cpu, batch_norm=True)
    buffer = make_buffer("ddpg", "state", cpu)
    for seed in range(3):
        batch = buffer.sample(16, np.random.default_rng(seed))
        critic, actor = deepcopy(agent.critic), deepcopy(agent.actor)
        before = statistics(agent.critic.trunk)
        critic_target, actor_target = deepcopy(agent.critic_target), deepcopy(agent.actor_target)
        next_q = critic_target.eval()(batch.next_obs, actor_target.eval()(batch.next_obs))
        target_q = batch.rewards + batch.gammas * (1 - batch.terminations) * next_q
        qf_loss = (critic.train()(batch.obs, batch.actions) - target_q).square().mean()
        metrics = agent.update_critic(batch)[1]
        assert metrics["losses/qf_loss"].item() == pytest.approx(qf_loss.item(), rel=1e-5)
        for name, moment in (("1.running_mean", batch.obs.mean(0)), ("1.running_var", batch.obs.var(0))):
            expected = 0.9 * before[name] + 0.1 * moment
            torch.testing.assert_close(statistics(agent.critic.trunk)[name], expected)
        actor_loss = -agent.critic(batch.obs, actor.train()(batch.obs)).mean()
        metrics = agent.update_actor(batch.obs)
        assert metrics["losses/actor_loss"].item() == pytest.approx(actor_loss.item(), rel=1e-5)
        agent.update_targets()
        for online, target in ((agent.actor, agent.actor_target), (agent.critic, agent.critic_target)):
            remembered = statistics(target)
            assert all(torch.equal(value, remembered[name]) for name, value in statistics(online).items())
        remembered = statistics(agent)
        obs = make_obs("state", 8, np.random.default_rng(seed))
        alone = np.concatenate([agent.act(row[None], deterministic=True) for row in obs])
        assert agent.act(obs, deterministic=True) == pytest.approx(alone, abs=1e-5)
        assert all(torch.equal(value, remembered[name]) for name, value in statistics(agent).items())
