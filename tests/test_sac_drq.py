"""SAC: its log-probabilities, and the average of its policies."""

import numpy as np
import pytest
import torch
import torch._inductor.config
from agents import make_agent, make_buffer
from gymnasium.spaces import Box
from helpers import checkpoint, load_script, train
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from cleanrl_cc import sac_drq


def test_evaluations_of_sac_play_the_average_of_its_policies(tmp_path, monkeypatch):
    train("sac_drq", tmp_path / "run", total_timesteps=1100, policy_average=0.5)
    saved = checkpoint(tmp_path / "run")
    script = load_script("sac_drq")
    agent = script.Agent(
        script.Args(**saved["args"]), Box(-1, 1, (3,)), Box(-1, 1, (1,)), torch.device("cpu")
    )
    agent.load_state_dict(saved["agent"])
    obs = np.ones((1, 3), np.float32)
    mean, _ = agent.actor(torch.as_tensor(obs))
    average, _ = agent.average(torch.as_tensor(obs))
    assert agent.act(obs, deterministic=True) == torch.tanh(average).detach().numpy()
    assert 0 < abs(mean - average).item() < 0.5
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    assert agent.act(obs) == torch.tanh(mean).detach().numpy(), "the policy itself explores"


@pytest.mark.parametrize("problem", ["state", "pixels"])
def test_the_average_follows_the_whole_policy(problem):
    agent = make_agent("sac_drq", problem, torch.device("cpu"), policy_average=0.25)
    policy = torch.nn.Sequential(agent.encoder, agent.actor)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    agent.update(make_buffer("sac_drq", problem, torch.device("cpu")).sample(16, np.random.default_rng(1)))
    average = agent.average.state_dict()
    for name, value in policy.state_dict().items():
        assert not torch.equal(value, before[name]), name
        torch.testing.assert_close(average[name], 0.75 * before[name] + 0.25 * value)


@pytest.mark.parametrize("scale", [0.1, 1.0, 2.0])
def test_sac_log_probs_equal_torch_distributions(scale):
    generator = torch.Generator().manual_seed(3)
    mean, log_std = torch.randn(2, 1000, 3, dtype=torch.float64, generator=generator) * scale
    torch.manual_seed(4)
    actions, log_probs = sac_drq.Agent.sample_actions(mean, log_std)
    exact = (actions.abs() < 1 - 1e-9).all(dim=1)  # the reference has to invert tanh
    assert exact.float().mean() > 0.5
    normal = Normal(mean[exact], log_std[exact].exp())
    expected = TransformedDistribution(normal, TanhTransform()).log_prob(actions[exact]).sum(dim=1)
    torch.testing.assert_close(log_probs[exact], expected, rtol=1e-5, atol=1e-5)


def test_sac_log_probs_of_saturated_actions_are_finite():
    mean = torch.tensor([[30.0, -30.0], [100.0, 0.0]], requires_grad=True)
    actions, log_probs = sac_drq.Agent.sample_actions(mean, torch.full((2, 2), -5.0))
    log_probs.sum().backward()
    assert actions.abs().max() == 1
    assert log_probs.isfinite().all() and mean.grad.isfinite().all()
