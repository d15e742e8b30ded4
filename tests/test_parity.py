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
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from cleanrl_cc import ddpg, sac_drq, td3

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


def linear_layers(name: str, layers: list[torch.nn.Module], places=(0, 2, 4)) -> dict:
    """Weights under the names of our `mlp`, whose linear layers are at `places`."""
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    parameters = [(place, key, value) for place, layer in zip(places, linear, strict=True) for key, value in layer.state_dict().items()]
    return {f"{name}.layers.{place}.{key}": value.clone() for place, key, value in parameters}


def twin_layers(name: str, critic) -> dict:
    """Stable-Baselines3's two critics under the names and in the shapes of our `TwinCritic`."""
    q1, q2 = (linear_layers(name, q) for q in critic.q_networks)
    # Ours multiply from the other side, (2, in, out), and their biases have a row for the batch, (2, 1, out).
    return {key: torch.stack([q[key].T if q[key].ndim == 2 else q[key][None] for q in (q1, q2)]) for key in q1}


def sac_weights(model: sb3.SAC) -> dict:
    head = torch.nn.Linear(1, 1)  # one layer for what Stable-Baselines3 computes in two
    head.weight, head.bias = (
        torch.nn.Parameter(torch.cat([getattr(layer, key) for layer in (model.actor.mu, model.actor.log_std)]))
        for key in ("weight", "bias")
    )
    critics = twin_layers("critic", model.critic) | twin_layers("critic_target", model.critic_target)
    return linear_layers("actor", [*model.actor.latent_pi, head]) | critics | {"log_alpha": model.log_ent_coef.detach().clone().squeeze()}


def td3_weights(model: sb3.TD3) -> dict:
    actors = linear_layers("actor", model.actor.mu) | linear_layers("actor_target", model.actor_target.mu)
    return actors | twin_layers("critic", model.critic) | twin_layers("critic_target", model.critic_target)


def ddpg_weights(model: sb3.DDPG) -> dict:
    networks = {"actor": model.actor.mu, "actor_target": model.actor_target.mu}
    networks |= {"critic": model.critic.q_networks[0], "critic_target": model.critic_target.q_networks[0]}
    weights = {}
    for name, network in networks.items():
        weights |= linear_layers(name, network, places=(1, 4, 7))  # batch normalisation, if any, is at 0, 2 and 5
    return weights | {"ou_noise": torch.zeros(1, ACTION_DIM)}


def assert_equal_moves(agent, expected: dict, before: dict, still: tuple[str, ...] = ()):
    """Weights are equal to half a percent of what an update can move them; every tensor has moved by much more, or not if it is `still`."""
    weights = agent.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        step = LEARNING_RATE * (TAU if "target" in name else 1)
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=5e-3 * step, msg=lambda text, name=name: f"{name}: {text}")
        moved = (weights[name] - before[name]).abs().max()
        assert moved == 0 if name.split(".")[0] in still else moved > 0.1 * step, f"{name} has moved by {moved}"


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


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("script, peer, to_weights", [(td3, sb3.TD3, td3_weights), (ddpg, sb3.DDPG, ddpg_weights)], ids=["td3", "ddpg"])
def test_deterministic_updates_equal_stable_baselines3(script, peer, to_weights, n_step, monkeypatch):
    rates, net = {"gamma": GAMMA, "tau": TAU, "learning_rate": LEARNING_RATE}, {"net_arch": [256, 256]}
    model = peer("MlpPolicy", Spaces(), policy_kwargs=net, batch_size=BATCH_SIZE, buffer_size=1, seed=1, device="cpu", **rates)
    model.set_logger(configure(None, []))
    args = script.Args(precision="fp32", hidden_dim=256, n_step=n_step, **rates)
    agent = script.Agent(args, Spaces.observation_space, Spaces.action_space, torch.device("cpu"))
    agent.load_state_dict(to_weights(model))
    for optimizer in (model.actor.optimizer, model.critic.optimizer, *agent.optimizers.values()):
        optimizer.param_groups[0]["eps"] = 1e-5  # Adam moves a weight by the learning rate even where its gradient is a rounding error

    generator = torch.Generator().manual_seed(2)
    for update in range(1, 5):
        batch = make_batch(generator, GAMMA ** (torch.arange(BATCH_SIZE) % n_step + 1))
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        noise = 2 * torch.randn(BATCH_SIZE, ACTION_DIM, generator=generator)  # some of it is clipped
        monkeypatch.setattr(torch, "randn_like", lambda like, noise=noise: noise)
        monkeypatch.setattr(torch.Tensor, "normal_", lambda like, mean, std, noise=noise: like.copy_(std * noise))
        monkeypatch.setattr(model.replay_buffer, "sample", lambda batch_size, env, batch=batch: to_sb3(batch))
        model.train(gradient_steps=1, batch_size=BATCH_SIZE)
        metrics = {name: value.item() for name, value in agent.update(batch).items()}

        delayed = script is td3 and update % 2
        still = ("actor", "actor_target", "critic_target") if delayed else ()
        assert_equal_moves(agent, to_weights(model), before, (*still, "ou_noise"))
        assert metrics["losses/qf_loss"] == pytest.approx(model.logger.name_to_value["train/critic_loss"], rel=1e-5)
        assert ("losses/actor_loss" in metrics) != bool(delayed)
        if not delayed:
            assert metrics["losses/actor_loss"] == pytest.approx(model.logger.name_to_value["train/actor_loss"], rel=1e-5)


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
