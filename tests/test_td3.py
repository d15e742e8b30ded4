"""TD3: what the delay holds back, and how far the target's actions may move."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from cleanrl_cc import td3


def make_agent(**fields) -> td3.Agent:
    torch.manual_seed(1)
    args = td3.Args(hidden_dim=16, precision="fp32", **fields)
    return td3.Agent(args, Box(-np.inf, np.inf, (3,)), Box(-1, 1, (2,)), torch.device("cpu"))


def make_batch(terminations: float = 0.0) -> td3.Batch:
    obs, next_obs = torch.randn(2, 8, 3)
    ones = torch.ones(8)
    return td3.Batch(obs, torch.zeros(8, 2), ones, next_obs, terminations * ones, 0.9 * ones)


@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_actor_and_targets_move_with_every_few_updates_of_the_critic(frequency):
    agent = make_agent(policy_frequency=frequency)
    for number in range(1, 7):
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        metrics = agent.update(make_batch())
        after = agent.state_dict()
        moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
        is_due = number % frequency == 0
        assert "critic" in moved and ("losses/actor_loss" in metrics) == is_due
        assert {"actor", "actor_target", "critic_target"} & moved == (
            {"actor", "actor_target", "critic_target"} if is_due else set()
        )


@pytest.mark.parametrize("noise, clip, farthest", [(0.2, 0.5, 0.5), (10.0, 0.3, 0.3), (0.0, 0.5, 0.0)])
def test_the_target_s_actions_move_within_their_bounds(noise, clip, farthest, monkeypatch):
    agent = make_agent(policy_noise=noise, noise_clip=clip)
    agent.actor_target.layers[-1].bias[0] = 2.0  # the first dimension is near its bound
    seen, forward = [], agent.critic_target.forward

    def record(encoding, actions):
        seen.append(actions)
        return forward(encoding, actions)

    monkeypatch.setattr(agent.critic_target, "forward", record)
    batch = make_batch()
    own = agent.actor_target(batch.next_obs).detach()
    for _ in range(20):
        agent.update_critic(batch)
    actions = torch.stack(seen)
    moves = (actions - own).abs()
    assert actions.abs().max() <= 1 and moves.max() <= farthest + 1e-6
    assert (moves.max() > 0.5 * farthest) == (farthest > 0)
    assert (actions[:, :, 0] == 1).any() == (farthest > 0)
    spread = (actions - own)[:, :, 1].std(dim=1)
    assert (spread.max() > 1e-3) == (farthest > 0), "each transition of a batch has noise of its own"
