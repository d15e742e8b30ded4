"""Updates from the same weights, batches and noise equal those of independent implementations."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.distributions import AffineTransform, Beta, Normal, TanhTransform, TransformedDistribution

from cleanrl_cc import ppo_continuous, sac_drq

OBS_DIM, ACTION_DIM, BATCH_SIZE, GAMMA, TAU, LEARNING_RATE = 7, 3, 64, 0.97, 0.02, 1e-3


@pytest.fixture(autouse=True)
def full_precision():
    """Training lets processors with bf16 multiply in it, and tests share a process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


class Spaces(gym.Env):
    """Nobody steps it: Stable-Baselines3 wants an environment to know the spaces."""

    observation_space, action_space = Box(-np.inf, np.inf, (OBS_DIM,)), Box(-1, 1, (ACTION_DIM,))


def make_batch(generator: torch.Generator, discounts: torch.Tensor) -> sac_drq.Batch:
    """Half of the transitions terminate; `discounts` (B,) are gamma to the number of rewards summed."""
    draw = torch.randn(2 * OBS_DIM + ACTION_DIM + 1, BATCH_SIZE, generator=generator).T
    obs, next_obs, actions, rewards = draw.split([OBS_DIM, OBS_DIM, ACTION_DIM, 1], dim=1)
    return sac_drq.Batch(obs, actions.tanh(), rewards[:, 0], next_obs, (torch.arange(BATCH_SIZE) % 2).float(), discounts)


def to_sb3(batch) -> ReplayBufferSamples:
    columns = (batch.rewards, batch.terminations, batch.gammas)
    rewards, terminations, discounts = (column[:, None] for column in columns)
    return ReplayBufferSamples(batch.obs, batch.actions, batch.next_obs, terminations, rewards, discounts)


def linear_layers(name: str, *layers: torch.nn.Linear) -> dict:
    """Weights under the names of our `mlp`: linear layers take every other place."""
    parameters = [(2 * i, key, value) for i, layer in enumerate(layers) for key, value in layer.state_dict().items()]
    return {f"{name}.layers.{place}.{key}": value.clone() for place, key, value in parameters}


def twin_layers(name: str, critic) -> dict:
    """Stable-Baselines3's two critics under the names and in the shapes of our `TwinCritic`."""
    q1, q2 = (linear_layers(name, *(layer for layer in q if isinstance(layer, torch.nn.Linear))) for q in critic.q_networks)
    # Ours multiply from the other side, (2, in, out), and their biases have a row for the batch, (2, 1, out).
    return {key: torch.stack([q[key].T if q[key].ndim == 2 else q[key][None] for q in (q1, q2)]) for key in q1}


def sac_weights(model: sb3.SAC) -> dict:
    hidden = [layer for layer in model.actor.latent_pi if isinstance(layer, torch.nn.Linear)]
    head = torch.nn.Linear(1, 1)  # one layer for what Stable-Baselines3 computes in two
    head.weight, head.bias = (
        torch.nn.Parameter(torch.cat([getattr(layer, key) for layer in (model.actor.mu, model.actor.log_std)]))
        for key in ("weight", "bias")
    )
    critics = twin_layers("critic", model.critic) | twin_layers("critic_target", model.critic_target)
    return linear_layers("actor", *hidden, head) | critics | {"log_alpha": model.log_ent_coef.detach().clone().squeeze()}


def assert_equal_moves(agent, expected: dict, before: dict):
    """Weights are equal to half a percent of what an update can move them, and every tensor has moved by much more."""
    weights = agent.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        step = LEARNING_RATE * (TAU if "target" in name else 1)
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=5e-3 * step, msg=lambda text, name=name: f"{name}: {text}")
        assert (weights[name] - before[name]).abs().max() > 0.1 * step, f"{name} has not moved"


@pytest.mark.parametrize("n_step", [1, 3])
def test_sac_updates_equal_stable_baselines3(n_step, monkeypatch):
    rates = {"gamma": GAMMA, "tau": TAU, "learning_rate": LEARNING_RATE}
    net = {"net_arch": [256, 256]}
    model = sb3.SAC("MlpPolicy", Spaces(), policy_kwargs=net, batch_size=BATCH_SIZE, buffer_size=1, seed=1, device="cpu", **rates)
    model.set_logger(configure(None, []))
    args = sac_drq.Args(precision="fp32", hidden_dim=256, initial_alpha=1.0, n_step=n_step, **rates)
    agent = sac_drq.Agent(args, Spaces.observation_space, Spaces.action_space, torch.device("cpu"))
    agent.load_state_dict(sac_weights(model))
    model.actor.action_dist.epsilon = 0.0  # in log(1 - tanh² u + ε), which we compute without
    # Adam moves a weight by the learning rate even where its gradient is a rounding error; a larger epsilon ends that. Their critic loss
    # has a factor of 1/2 that Adam ignores, if epsilon has it too.
    model.actor.optimizer.param_groups[0]["eps"] = agent.actor_optimizer.param_groups[0]["eps"] = 1e-5
    model.critic.optimizer.param_groups[0]["eps"], agent.q_optimizer.param_groups[0]["eps"] = 1e-5, 2e-5

    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        steps = torch.arange(BATCH_SIZE) % n_step + 1  # windows may be cut short by an episode's end
        batch = make_batch(generator, GAMMA**steps)
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        # Ours draws the noise of the next actions first, theirs that of the current ones.
        next_noise, noise = torch.randn(2, BATCH_SIZE, ACTION_DIM, generator=generator)
        draws, sb3_draws = itertools.chain([next_noise, noise]), itertools.chain([noise, next_noise])
        monkeypatch.setattr(torch, "randn_like", lambda like, draws=draws: next(draws))
        monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, dtype, device, draws=sb3_draws: next(draws))
        monkeypatch.setattr(model.replay_buffer, "sample", lambda batch_size, env, batch=batch: to_sb3(batch))
        model.train(gradient_steps=1, batch_size=BATCH_SIZE)
        metrics = {name: value.item() for name, value in agent.update(batch).items()}

        assert_equal_moves(agent, sac_weights(model), before)
        expected = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
        assert metrics["losses/qf_loss"] == pytest.approx(2 * expected["critic_loss"], rel=1e-5)  # they halve it: the same to Adam
        assert metrics["losses/actor_loss"] == pytest.approx(expected["actor_loss"], rel=1e-5)
        assert metrics["losses/alpha"] == pytest.approx(expected["ent_coef"])
        # Theirs is log α (...), ours α (...): gradients are equal where α = 1, and up to a factor that Adam ignores elsewhere.
        log_alpha = before["log_alpha"].item()
        if log_alpha:
            assert metrics["losses/alpha_loss"] / np.exp(log_alpha) == pytest.approx(expected["ent_coef_loss"] / log_alpha, rel=1e-4)
    assert next(draws, None) is next(sb3_draws, None) is None


@pytest.mark.parametrize("scale", [0.1, 1.0, 2.0])
def test_sac_log_probs_equal_torch_distributions(scale):
    generator = torch.Generator().manual_seed(3)
    mean, log_std = torch.randn(2, 1000, ACTION_DIM, dtype=torch.float64, generator=generator) * scale
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


# --- PPO ---


def ppo_weights(model: sb3.PPO) -> dict:
    """Weights under our names."""
    policy = model.policy
    networks = {
        "actor": (*policy.mlp_extractor.policy_net, policy.action_net),
        "critic": (*policy.mlp_extractor.value_net, policy.value_net),
    }
    layers = {
        f"{name}.{i}.{key}": value.clone()
        for name, net in networks.items()
        for i, m in enumerate(net)
        for key, value in m.state_dict().items()
    }
    return layers | {"log_std": policy.log_std.detach().clone()}


@pytest.mark.parametrize("clip_value", [None, 0.05])
def test_a_ppo_update_equals_stable_baselines3(clip_value, monkeypatch):
    num_steps, num_envs = 24, 4
    rates = {"gamma": GAMMA, "gae_lambda": 0.9, "learning_rate": LEARNING_RATE, "ent_coef": 0.01, "vf_coef": 0.3, "max_grad_norm": 0.4}
    net = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "log_std_init": -0.5}
    args = {"policy_kwargs": net, "n_steps": num_steps, "batch_size": 32, "n_epochs": 2, "clip_range": 0.05, "clip_range_vf": clip_value}
    venv = sb3.common.vec_env.DummyVecEnv([Spaces] * num_envs)
    model = sb3.PPO("MlpPolicy", venv, **args, **rates, seed=1, device="cpu")
    model.set_logger(configure(None, []))
    args = {
        "num_steps": num_steps,
        "num_envs": num_envs,
        "num_minibatches": 3,
        "num_epochs": 2,
        "clip_coef": 0.05,
        "clip_value": clip_value,
    }
    args = ppo_continuous.Args(**args, **rates, precision="fp32", initial_log_std=-0.5, normalize=False)
    agent = ppo_continuous.Agent(args, Spaces.observation_space, Spaces.action_space, torch.device("cpu"))
    agent.load_state_dict(ppo_weights(model), strict=False)  # ours has statistics, too
    model.policy.optimizer.param_groups[0]["eps"] = agent.optimizer.param_groups[0]["eps"] = 1e-3  # rounding errors are no gradients

    rng = np.random.default_rng(2)
    buffer = ppo_continuous.RolloutBuffer(args, Spaces.observation_space, Spaces.action_space)
    starts, model.rollout_buffer.full = np.zeros(num_envs), False
    for _ in range(num_steps):
        obs = rng.normal(size=(num_envs, OBS_DIM)).astype(np.float32)
        actions, log_probs, values = agent.sample(obs)
        log_probs += rng.normal(0, 0.05, num_envs).astype(np.float32)  # some ratios are clipped from the first minibatch on
        rewards, ends = rng.normal(size=num_envs), rng.random(num_envs) < 0.2
        never = np.zeros(num_envs, bool)
        buffer.add(obs, actions, log_probs, values, rewards, ends, never, final=never)
        model.rollout_buffer.add(obs, actions, rewards, starts, torch.as_tensor(values), torch.as_tensor(log_probs))
        starts = ends.astype(np.float32)
    next_obs = rng.normal(size=(num_envs, OBS_DIM)).astype(np.float32)
    with torch.no_grad():
        model.rollout_buffer.compute_returns_and_advantage(model.policy.predict_values(torch.as_tensor(next_obs)), starts)

    # Theirs counts the steps of the first environment first, ours the environments of the first step.
    order = np.random.default_rng(3)
    theirs = np.arange(num_steps * num_envs).reshape(num_envs, num_steps).T.ravel()
    monkeypatch.setattr(np.random, "permutation", lambda size: theirs[order.permutation(size)])
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    model.train()
    metrics = agent.update(buffer, next_obs, np.random.default_rng(3))
    weights = agent.state_dict()
    for name, value in ppo_weights(model).items():
        torch.testing.assert_close(
            weights[name], value, rtol=1e-5, atol=5e-3 * LEARNING_RATE, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert (weights[name] - before[name]).abs().max() > 0.1 * LEARNING_RATE, f"{name} has not moved"
    expected = model.logger.name_to_value
    assert float(metrics["losses/approx_kl"]) == pytest.approx(expected["train/approx_kl"], rel=1e-3)
    assert float(metrics["losses/explained_variance"]) == pytest.approx(expected["train/explained_variance"], abs=0.05)  # ours is unbiased
    assert agent.num_updates == 6


@pytest.mark.parametrize("distribution", ["normal", "beta"])
def test_ppo_log_probs_and_entropies_equal_torch_distributions(distribution):
    generator = torch.Generator().manual_seed(5)
    a, b = torch.rand(2, 500, ACTION_DIM, generator=generator, dtype=torch.float64) * 4 + 1
    if distribution == "normal":
        ours, reference = ppo_continuous.Normal(a, b[0].log()), Normal(a, b[0])
        entropy = reference.entropy().sum(dim=1).mean()
    else:
        ours, reference = ppo_continuous.Beta(a, b), TransformedDistribution(Beta(a, b), AffineTransform(-1, 2))
        entropy = (Beta(a, b).entropy() + np.log(2)).sum(dim=1).mean()
    torch.manual_seed(6)
    actions = ours.sample()
    torch.testing.assert_close(ours.log_prob(actions), reference.log_prob(actions).sum(dim=1))
    torch.testing.assert_close(ours.entropy(), entropy)
    torch.testing.assert_close(ours.mean, a if distribution == "normal" else 2 * Beta(a, b).mean - 1)
    draws = torch.stack([ours.sample() for _ in range(2000)])
    torch.testing.assert_close(draws.mean(dim=(0, 1)), ours.mean.mean(dim=0), atol=0.02, rtol=0)
    if distribution == "beta":
        assert draws.abs().max() <= 1


def test_running_statistics_are_those_of_all_rows():
    rows = torch.randn(300, 4, generator=torch.Generator().manual_seed(7)) * torch.tensor([1.0, 10, 0.1, 0]) + 5
    statistics = ppo_continuous.RunningStatistics(4)
    for part in rows.split([1, 2, 97, 200]):
        statistics.update(part)
    assert statistics.count == 300
    torch.testing.assert_close(statistics.mean, rows.mean(dim=0))
    torch.testing.assert_close(statistics.var, rows.var(dim=0, correction=0))
