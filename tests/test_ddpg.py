"""What ddpg.py does and others do not: noise with a memory."""

import numpy as np
import pytest
import torch
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
