"""Updates from the same weights, batches and noise equal those of independent implementations."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium.spaces import Box, Discrete
from helpers import checkpoint, replay, train
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.distributions import AffineTransform, Beta, Normal, TransformedDistribution

from cleanrl_cc import ddpg, dqn_atari_style, ppo_continuous, rainbow, sac_drq, td3
from cleanrl_cc.common import machine
from cleanrl_cc.common.episodes import Episodes

OBS_DIM, ACTION_DIM, BATCH_SIZE, GAMMA, TAU, LEARNING_RATE = 7, 3, 64, 0.97, 0.02, 1e-3


@pytest.fixture(autouse=True)
def full_precision():
    """Training lets processors with bf16 multiply in it, and tests share a process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def use(library: str):
    """Has it compute fp32 matrix products, where it is as exact as fp32."""
    if library == "onednn" and not machine.onednn_is_exact():
        pytest.skip("oneDNN computes fp32 products in bf16 on this processor")
    torch.set_float32_matmul_precision(machine.MATMUL[library])


class Spaces(gym.Env):
    """Nobody steps it: Stable-Baselines3 wants an environment to know the spaces."""

    observation_space, action_space = Box(-np.inf, np.inf, (OBS_DIM,)), Box(-1, 1, (ACTION_DIM,))


def make_batch(generator: torch.Generator, discounts: torch.Tensor) -> sac_drq.Batch:
    """Half of the transitions terminate; `discounts` (B,) are gamma to the number of rewards summed."""
    draw = torch.randn(2 * OBS_DIM + ACTION_DIM + 1, BATCH_SIZE, generator=generator).T
    obs, next_obs, actions, rewards = draw.split([OBS_DIM, OBS_DIM, ACTION_DIM, 1], dim=1)
    return sac_drq.Batch(
        obs, actions.tanh(), rewards[:, 0], next_obs, (torch.arange(BATCH_SIZE) % 2).float(), discounts
    )


def to_sb3(batch) -> ReplayBufferSamples:
    columns = (batch.rewards, batch.terminations, batch.gammas)
    rewards, terminations, discounts = (column[:, None] for column in columns)
    return ReplayBufferSamples(batch.obs, batch.actions, batch.next_obs, terminations, rewards, discounts)


def linear_layers(name: str, layers: list[torch.nn.Module], places=(0, 2, 4)) -> dict:
    """Weights under the names of our `mlp`, whose linear layers are at `places`."""
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    parameters = [
        (place, key, value)
        for place, layer in zip(places, linear, strict=True)
        for key, value in layer.state_dict().items()
    ]
    return {f"{name}.layers.{place}.{key}": value.clone() for place, key, value in parameters}


def twin_layers(name: str, critic) -> dict:
    """Stable-Baselines3's two critics under the names and in the shapes of our `TwinCritic`."""
    q1, q2 = (linear_layers(name, q) for q in critic.q_networks)
    # Ours multiply from the other side, (2, in, out), and their biases have a row for the batch, (2, 1, out).
    return {
        key: torch.stack([q[key].T if q[key].ndim == 2 else q[key][None] for q in (q1, q2)]) for key in q1
    }


def sac_weights(model: sb3.SAC) -> dict:
    head = torch.nn.Linear(1, 1)  # one layer for what Stable-Baselines3 computes in two
    head.weight, head.bias = (
        torch.nn.Parameter(
            torch.cat([getattr(layer, key) for layer in (model.actor.mu, model.actor.log_std)])
        )
        for key in ("weight", "bias")
    )
    critics = twin_layers("critic", model.critic) | twin_layers("critic_target", model.critic_target)
    return (
        linear_layers("actor", [*model.actor.latent_pi, head])
        | critics
        | {"log_alpha": model.log_ent_coef.detach().clone().squeeze()}
    )


def td3_weights(model: sb3.TD3) -> dict:
    actors = linear_layers("actor", model.actor.mu) | linear_layers("actor_target", model.actor_target.mu)
    return actors | twin_layers("critic", model.critic) | twin_layers("critic_target", model.critic_target)


def ddpg_weights(model: sb3.DDPG) -> dict:
    networks = {"actor": model.actor.mu, "actor_target": model.actor_target.mu}
    networks |= {"critic": model.critic.q_networks[0], "critic_target": model.critic_target.q_networks[0]}
    weights = {}
    for name, network in networks.items():
        # batch normalisation, if any, is at 0, 2 and 5
        weights |= linear_layers(name, network, places=(1, 4, 7))
    return weights | {"ou_noise": torch.zeros(1, ACTION_DIM)}


def assert_equal_moves(agent, expected: dict, before: dict, still: tuple[str, ...] = ()):
    """Weights are equal to half a percent of what an update can move them; every tensor has moved by
    much more, or not if it is `still`."""
    weights = agent.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        step = LEARNING_RATE * (TAU if "target" in name else 1)
        torch.testing.assert_close(
            weights[name], value, rtol=1e-6, atol=5e-3 * step, msg=lambda text, name=name: f"{name}: {text}"
        )
        moved = (weights[name] - before[name]).abs().max()
        assert moved == 0 if name.split(".")[0] in still else moved > 0.1 * step, (
            f"{name} has moved by {moved}"
        )


@pytest.mark.parametrize("n_step, library", [(1, "mkl"), (3, "mkl"), (1, "onednn")])
def test_sac_updates_equal_stable_baselines3(n_step, library, monkeypatch):
    use(library)
    rates = {"gamma": GAMMA, "tau": TAU, "learning_rate": LEARNING_RATE}
    net = {"net_arch": [256, 256]}
    model = sb3.SAC(
        "MlpPolicy",
        Spaces(),
        policy_kwargs=net,
        batch_size=BATCH_SIZE,
        buffer_size=1,
        seed=1,
        device="cpu",
        **rates,
    )
    model.set_logger(configure(None, []))
    args = sac_drq.Args(precision="fp32", hidden_dim=256, initial_alpha=1.0, n_step=n_step, **rates)
    agent = sac_drq.Agent(args, Spaces.observation_space, Spaces.action_space, torch.device("cpu"))
    agent.load_state_dict(sac_weights(model))
    model.actor.action_dist.epsilon = 0.0  # in log(1 - tanh² u + ε), which we compute without
    # Adam moves a weight by the learning rate even where its gradient is a rounding error; a larger epsilon
    # ends that. Their critic loss has a factor of 1/2 that Adam ignores, if epsilon has it too.
    model.actor.optimizer.param_groups[0]["eps"] = agent.actor_optimizer.eps = 1e-5
    model.critic.optimizer.param_groups[0]["eps"], agent.q_optimizer.eps = 1e-5, 2e-5

    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        steps = torch.arange(BATCH_SIZE) % n_step + 1  # windows may be cut short by an episode's end
        batch = make_batch(generator, GAMMA**steps)
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        # Ours draws the noise of the next actions first, theirs that of the current ones.
        next_noise, noise = torch.randn(2, BATCH_SIZE, ACTION_DIM, generator=generator)
        draws, sb3_draws = itertools.chain([next_noise, noise]), itertools.chain([noise, next_noise])
        monkeypatch.setattr(torch, "randn_like", lambda like, draws=draws: next(draws))
        monkeypatch.setattr(
            "torch.distributions.normal._standard_normal",
            lambda shape, dtype, device, draws=sb3_draws: next(draws),
        )
        monkeypatch.setattr(model.replay_buffer, "sample", lambda batch_size, env, batch=batch: to_sb3(batch))
        model.train(gradient_steps=1, batch_size=BATCH_SIZE)
        metrics = {name: value.item() for name, value in agent.update(batch).items()}

        assert_equal_moves(agent, sac_weights(model), before)
        expected = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
        # they halve it: the same to Adam
        assert metrics["losses/qf_loss"] == pytest.approx(2 * expected["critic_loss"], rel=1e-5)
        assert metrics["losses/actor_loss"] == pytest.approx(expected["actor_loss"], rel=1e-5)
        assert metrics["losses/alpha"] == pytest.approx(expected["ent_coef"])
        # Theirs is log α (...), ours α (...): gradients are equal where α = 1, and up
        # to a factor that Adam ignores elsewhere.
        log_alpha = before["log_alpha"].item()
        if log_alpha:
            assert metrics["losses/alpha_loss"] / np.exp(log_alpha) == pytest.approx(
                expected["ent_coef_loss"] / log_alpha, rel=1e-4
            )
    assert next(draws, None) is next(sb3_draws, None) is None


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    "script, peer, to_weights",
    [(td3, sb3.TD3, td3_weights), (ddpg, sb3.DDPG, ddpg_weights)],
    ids=["td3", "ddpg"],
)
def test_deterministic_updates_equal_stable_baselines3(script, peer, to_weights, n_step, monkeypatch):
    rates, net = {"gamma": GAMMA, "tau": TAU, "learning_rate": LEARNING_RATE}, {"net_arch": [256, 256]}
    model = peer(
        "MlpPolicy",
        Spaces(),
        policy_kwargs=net,
        batch_size=BATCH_SIZE,
        buffer_size=1,
        seed=1,
        device="cpu",
        **rates,
    )
    model.set_logger(configure(None, []))
    args = script.Args(precision="fp32", hidden_dim=256, n_step=n_step, **rates)
    agent = script.Agent(args, Spaces.observation_space, Spaces.action_space, torch.device("cpu"))
    agent.load_state_dict(to_weights(model))
    # Adam moves a weight by the learning rate even where its gradient is a rounding error
    model.actor.optimizer.param_groups[0]["eps"] = agent.actor_optimizer.eps = 1e-5
    model.critic.optimizer.param_groups[0]["eps"] = agent.q_optimizer.eps = 1e-5

    generator = torch.Generator().manual_seed(2)
    for update in range(1, 5):
        batch = make_batch(generator, GAMMA ** (torch.arange(BATCH_SIZE) % n_step + 1))
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        noise = 2 * torch.randn(BATCH_SIZE, ACTION_DIM, generator=generator)  # some of it is clipped
        monkeypatch.setattr(torch, "randn_like", lambda like, noise=noise: noise.expand_as(like))
        monkeypatch.setattr(
            torch.Tensor, "normal_", lambda like, mean, std, noise=noise: like.copy_(std * noise)
        )
        monkeypatch.setattr(model.replay_buffer, "sample", lambda batch_size, env, batch=batch: to_sb3(batch))
        model.train(gradient_steps=1, batch_size=BATCH_SIZE)
        metrics = {name: value.item() for name, value in agent.update(batch).items()}

        delayed = script is td3 and update % 2
        still = ("actor", "actor_target", "critic_target") if delayed else ()
        assert_equal_moves(agent, to_weights(model), before, (*still, "ou_noise"))
        assert metrics["losses/qf_loss"] == pytest.approx(
            model.logger.name_to_value["train/critic_loss"], rel=1e-5
        )
        assert ("losses/actor_loss" in metrics) != bool(delayed)
        if not delayed:
            assert metrics["losses/actor_loss"] == pytest.approx(
                model.logger.name_to_value["train/actor_loss"], rel=1e-5
            )


class ReplayedNoise(ActionNoise):
    """Stable-Baselines3 would add noise to the random actions of the beginning, too: there it is
    0, and then what an iterator gives."""

    def __init__(self, learning_starts: int, noises):
        super().__init__()
        self.noises = itertools.chain(itertools.repeat(0.0, learning_starts), noises)

    def __call__(self):
        return next(self.noises)


gym.register("ShortHopper-v0", "gymnasium.envs.mujoco.hopper_v5:HopperEnv", max_episode_steps=15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, peer, to_weights",
    [(sac_drq, sb3.SAC, sac_weights), (td3, sb3.TD3, td3_weights), (ddpg, sb3.DDPG, ddpg_weights)],
    ids=["sac_drq", "td3", "ddpg"],
)
def test_a_training_equals_stable_baselines3(script, peer, to_weights, monkeypatch, tmp_path):
    """What is acted, stored, replayed and learned, over episodes that fall and episodes that a time limit
    cuts. Theirs starts with our weights and gets our draws and our episodes' seeds; all else it computes."""
    num_steps, learning_starts, is_sac = 300, 100, script is sac_drq
    rates = {
        "gamma": GAMMA,
        "tau": TAU,
        "learning_rate": LEARNING_RATE,
        "learning_starts": learning_starts,
        "batch_size": BATCH_SIZE,
    }
    env = Episodes(gym.make("ShortHopper-v0"), entropy=(1, 0))
    torch.manual_seed(1)
    model = peer(
        "MlpPolicy", env, policy_kwargs={"net_arch": [32, 32]}, buffer_size=num_steps, device="cpu", **rates
    )
    draws, batches, randn_like, gather = [], [], torch.randn_like, script.ReplayBuffer._gather

    class Agent(script.Agent):
        def __init__(self, *args):
            super().__init__(*args)
            self.load_state_dict(to_weights(model))
            if is_sac:  # theirs is log α (...), ours α (...)
                self.log_alpha.register_hook(lambda gradient: gradient / self.log_alpha.detach().exp())
            for optimizer in self.optimizers.values():  # as in the tests of updates
                optimizer.eps = 2e-5 if is_sac and optimizer is self.q_optimizer else 1e-5

    def record_draw(like):
        draws.append(randn_like(like))
        return draws[-1].clone()

    def record_rows(self, column, rows, envs):
        if column is self.actions:  # once per batch
            batches.append(rows)
        return gather(self, column, rows, envs)

    with monkeypatch.context() as patch:
        patch.setattr(script, "Agent", Agent)
        patch.setattr(script.ReplayBuffer, "_gather", record_rows)
        patch.setattr(torch, "randn_like", record_draw)
        sizes = {"total_timesteps": num_steps, "hidden_dim": 32, "updates_per_step": 1.0}
        train(script.__name__.split(".")[1], tmp_path / "run", env_id="ShortHopper-v0", **sizes, **rates)
    ours, state = replay(tmp_path / "run"), checkpoint(tmp_path / "run")
    real = ~ours["final"][:, 0]  # not those rows in which the environment resets, though ours acts there, too
    columns = {name: column[real, 0] for name, column in ours.items() if column.ndim > 1}

    by_policy = np.cumsum(real)[:-1] >= learning_starts  # of row 1 and those after it
    acts, updates = ([draw for draw in draws if len(draw) == size] for size in (1, BATCH_SIZE))
    acts = [act for act, is_real in zip(acts, real[1:][by_policy], strict=True) if is_real]
    if is_sac:  # ours draws for the next actions first, theirs for the current ones
        updates = [draw for pair in zip(updates[1::2], updates[::2], strict=True) for draw in pair]
    else:
        sigma = script.Args.exploration_noise
        model.action_noise = ReplayedNoise(learning_starts, (sigma * act.numpy()[0] for act in acts))
    random_actions = iter(columns["actions"])
    acts = iter(acts)
    updates = iter(updates)
    batches = iter(batches)
    samples, transitions = model.replay_buffer._get_samples, np.cumsum(real) - 1  # row to transition
    monkeypatch.setattr(model.action_space, "sample", lambda: next(random_actions))
    monkeypatch.setattr(
        model.replay_buffer, "sample", lambda batch_size, env: samples(transitions[next(batches)], env)
    )
    # DDPG's noise on the target's actions is clipped to 0.
    monkeypatch.setattr(
        torch.Tensor, "normal_", lambda like, mean, std: like.copy_(std * next(updates, torch.zeros(())))
    )
    monkeypatch.setattr(
        "torch.distributions.normal._standard_normal",
        lambda shape, *_, **__: next(acts if shape[0] == 1 else updates),
    )
    for optimizer in [
        model.actor.optimizer,
        model.critic.optimizer,
        *([model.ent_coef_optimizer] if is_sac else []),
    ]:
        optimizer.param_groups[0]["eps"] = 1e-5
    model.learn(num_steps)

    assert model._n_updates == state["num_updates"] == num_steps - learning_starts
    assert next(batches, None) is next(updates, None) is None
    theirs = {
        name: getattr(model.replay_buffer, name)[:, 0]
        for name in ("observations", "actions", "rewards", "dones", "timeouts")
    }
    assert columns["terminations"].sum() >= 5 and columns["truncations"].sum() >= 5
    np.testing.assert_array_equal(columns["terminations"], theirs["dones"] - theirs["timeouts"])
    np.testing.assert_array_equal(columns["truncations"] & ~columns["terminations"], theirs["timeouts"])
    for name, peer_name in {"frames": "observations", "actions": "actions", "rewards": "rewards"}.items():
        np.testing.assert_allclose(columns[name], theirs[peer_name], rtol=0, atol=5e-3, err_msg=name)
    for name, value in to_weights(model).items():
        torch.testing.assert_close(
            state["agent"][name], value, rtol=0, atol=5e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


# --- DQN ---


class DiscreteSpaces(gym.Env):
    observation_space, action_space = Box(-np.inf, np.inf, (OBS_DIM,)), Discrete(5)


def make_dqn_batch(generator: torch.Generator, num_bins: int, num_dims: int = 1) -> dqn_atari_style.Batch:
    """Half of the transitions terminate; windows of 1 to 3 steps; errors on both sides of Huber's corner."""
    obs, next_obs = torch.randn(2, BATCH_SIZE, OBS_DIM, generator=generator)
    bins = torch.randint(0, num_bins, (BATCH_SIZE, num_dims), generator=generator)
    rewards, indices = 2 * torch.randn(BATCH_SIZE, generator=generator), torch.arange(BATCH_SIZE)
    return dqn_atari_style.Batch(
        obs, bins, rewards, next_obs, (indices % 2).float(), GAMMA ** (indices % 3 + 1)
    )


class StateEncoder(sb3.common.torch_layers.BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, features_dim=32)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(OBS_DIM, 32), torch.nn.LayerNorm(32), torch.nn.Tanh()
        )

    def forward(self, obs):
        return self.layers(obs)


def dqn_weights(policy) -> dict:
    networks = {"q_network": policy.q_net, "q_target": policy.q_net_target}
    linear = torch.nn.Linear, torch.nn.LayerNorm
    layers = {
        name: [m for m in [*net.features_extractor.layers, *net.q_net] if isinstance(m, linear)]
        for name, net in networks.items()
    }
    places = ("encoder.0", "encoder.1", "hidden", "out")
    pairs = [
        (f"{name}.{place}", layer)
        for name, four in layers.items()
        for place, layer in zip(places, four, strict=True)
    ]
    return {
        f"{place}.{key}": value.clone() for place, layer in pairs for key, value in layer.state_dict().items()
    }


def test_dqn_updates_equal_stable_baselines3(monkeypatch):
    rates = {"gamma": GAMMA, "learning_rate": LEARNING_RATE}
    # Their target is copied every 3 steps of the environment, ours every 3
    # updates: they make one update per step here.
    networks = {"net_arch": [32], "features_extractor_class": StateEncoder}
    theirs = {
        "policy_kwargs": networks,
        "batch_size": BATCH_SIZE,
        "buffer_size": 1,
        "target_update_interval": 3,
    }
    model = sb3.DQN("MlpPolicy", DiscreteSpaces(), seed=1, device="cpu", **theirs, **rates)
    model.set_logger(configure(None, []))
    args = dqn_atari_style.Args(precision="fp32", hidden_dim=32, target_update_frequency=3, **rates)
    agent = dqn_atari_style.Agent(
        args, DiscreteSpaces.observation_space, DiscreteSpaces.action_space, torch.device("cpu")
    )
    agent.load_state_dict(dqn_weights(model.policy))
    # as for SAC
    model.policy.optimizer.param_groups[0]["eps"] = agent.q_optimizer.eps = 1e-5

    generator = torch.Generator().manual_seed(2)
    for update in range(1, 8):
        batch = make_dqn_batch(generator, num_bins=5)
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        monkeypatch.setattr(model.replay_buffer, "sample", lambda batch_size, env, batch=batch: to_sb3(batch))
        model.train(gradient_steps=1, batch_size=BATCH_SIZE)
        model._on_step()
        metrics = agent.update(batch)
        assert metrics["losses/qf_loss"].item() == pytest.approx(
            model.logger.name_to_value["train/loss"], rel=1e-5
        )
        weights = agent.state_dict()
        for name, value in dqn_weights(model.policy).items():
            torch.testing.assert_close(
                weights[name],
                value,
                rtol=1e-6,
                atol=5e-3 * LEARNING_RATE,
                msg=lambda text, name=name: f"{name}: {text}",
            )
            moves = "target" not in name or update % 3 == 0
            assert ((weights[name] - before[name]).abs().max() > 0.1 * LEARNING_RATE) == moves, name


def test_dqn_gradients_are_clipped_as_in_stable_baselines3():
    agent = dqn_atari_style.Agent(
        dqn_atari_style.Args(hidden_dim=32, loss="mse"),
        Box(-1, 1, (OBS_DIM,)),
        Discrete(5),
        torch.device("cpu"),
    )
    rainbow = rainbow_agent((), Discrete(5), loss="mse")
    batch = make_dqn_batch(torch.Generator().manual_seed(3), num_bins=5)
    batch = batch._replace(rewards=1e4 * batch.rewards)
    agent.update(batch), rainbow.update(weighted(batch))
    for optimizer in (agent.q_optimizer, rainbow.q_optimizer):  # their first mean is 1 - β₁ of a gradient
        norm = torch.cat([mean.flatten() for mean in optimizer.means]).norm() / 0.1
        assert norm == pytest.approx(sb3.DQN("MlpPolicy", DiscreteSpaces()).max_grad_norm, rel=1e-4)


def double_q_pairs(agent, batch) -> tuple:
    return (agent.q_network, batch.obs), (agent.q_network, batch.next_obs), (agent.q_target, batch.next_obs)


@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_decoupled_targets_and_losses_equal_loops(loss):
    args = dqn_atari_style.Args(precision="fp32", hidden_dim=32, loss=loss, bins=4, reward_scale=0.5)
    agent = dqn_atari_style.Agent(args, Box(-1, 1, (OBS_DIM,)), Box(-1, 1, (3,)), torch.device("cpu"))
    batch = make_dqn_batch(torch.Generator().manual_seed(3), num_bins=4, num_dims=3)
    with torch.no_grad():
        for parameter in agent.q_target.parameters():  # another network: the choice must matter
            parameter.add_(0.3 * torch.randn_like(parameter))
        q, online, target_q = (f(obs).tolist() for f, obs in double_q_pairs(agent, batch))
    losses, differs = [], 0
    for i in range(BATCH_SIZE):
        value = sum(q[i][d][batch.actions[i, d]] for d in range(3)) / 3
        chosen = [online[i][d].index(max(online[i][d])) for d in range(3)]
        best = sum(target_q[i][d][chosen[d]] for d in range(3)) / 3
        differs += any(target_q[i][d][chosen[d]] < max(target_q[i][d]) for d in range(3))
        target = 0.5 * batch.rewards[i].item() + (
            0 if batch.terminations[i] else batch.gammas[i].item() * best
        )
        error = abs(value - target)
        losses.append(error**2 if loss == "mse" else error**2 / 2 if error < 1 else error - 0.5)
    assert agent.update(batch)["losses/qf_loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert differs > BATCH_SIZE / 4


def test_one_dimension_is_plain_dqn_whose_target_chooses():
    agent = dqn_atari_style.Agent(
        dqn_atari_style.Args(hidden_dim=32), Box(-1, 1, (OBS_DIM,)), Discrete(4), torch.device("cpu")
    )
    batch = make_dqn_batch(torch.Generator().manual_seed(3), num_bins=4)
    with torch.no_grad():
        for parameter in agent.q_target.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        q, target_q = agent.q_network(batch.obs)[:, 0].numpy(), agent.q_target(batch.next_obs)[:, 0].numpy()
    gammas = (batch.gammas * (1 - batch.terminations)).numpy()
    errors = np.abs(
        q[np.arange(BATCH_SIZE), batch.actions[:, 0]] - batch.rewards.numpy() - gammas * target_q.max(axis=1)
    )
    expected = np.where(errors < 1, errors**2 / 2, errors - 0.5).mean()
    assert agent.update(batch)["losses/qf_loss"].item() == pytest.approx(expected, rel=1e-5)


# --- Rainbow ---


def rainbow_agent(components: tuple, action_space=None, **fields) -> rainbow.Agent:
    torch.manual_seed(0)
    args = rainbow.Args(precision="fp32", hidden_dim=32, components=components, **fields)
    return rainbow.Agent(args, Box(-1, 1, (OBS_DIM,)), action_space or Box(-1, 1, (3,)), torch.device("cpu"))


def weighted(batch: dqn_atari_style.Batch, weights: torch.Tensor | None = None) -> rainbow.Batch:
    places = torch.zeros(2, BATCH_SIZE, dtype=int)
    return rainbow.Batch(*batch, torch.ones(BATCH_SIZE) if weights is None else weights, places)


@pytest.mark.parametrize("action_space", [Box(-1, 1, (3,)), Discrete(3)])
@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_rainbow_without_components_is_dqn_bit_for_bit(loss, action_space):
    fields = {"precision": "fp32", "hidden_dim": 32, "loss": loss, "target_update_frequency": 3}
    torch.manual_seed(0)
    dqn = dqn_atari_style.Agent(
        dqn_atari_style.Args(**fields), Box(-1, 1, (OBS_DIM,)), action_space, torch.device("cpu")
    )
    # decoupled Q-learning chooses as double Q-learning does
    components = ("double",) if dqn.num_dims > 1 else ()
    ours = rainbow_agent(
        components, action_space, loss=loss, target_update_frequency=3, learning_rate=dqn.args.learning_rate
    )
    assert ours.q_optimizer.eps == 1.5e-4  # Hessel et al. 2018, table 1
    ours.q_optimizer.eps = dqn.q_optimizer.eps
    generator = torch.Generator().manual_seed(1)
    for _ in range(7):
        batch = make_dqn_batch(generator, num_bins=3, num_dims=dqn.num_dims)
        metrics, (_, our_metrics) = dqn.update(batch), ours.update(weighted(batch))
        assert our_metrics == metrics
    weights = ours.state_dict()
    assert weights.keys() == dqn.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in dqn.state_dict().items())


@pytest.mark.parametrize("v_min, v_max, num_atoms", [(-10, 10, 51), (0, 20, 51), (-1, 2, 2), (-5, 15, 7)])
def test_c51_projection_equals_a_loop(v_min, v_max, num_atoms):
    agent = rainbow_agent(("c51",), v_min=float(v_min), v_max=float(v_max), num_atoms=num_atoms)
    rng, spacing = np.random.default_rng(5), (v_max - v_min) / (num_atoms - 1)
    probs, rewards = rng.dirichlet(np.ones(num_atoms), 40), rng.normal(0, v_max - v_min, 40)
    gammas = np.where(rng.random(40) < 0.3, 0, 0.9)
    rewards[:10], gammas[:10] = v_min + spacing * rng.integers(0, num_atoms, 10), 0  # exactly on an atom
    rewards[10:20], gammas[10:20] = 0, 1  # every atom on itself, where l == u
    expected = np.zeros((40, num_atoms))
    for i in range(40):
        for k in range(num_atoms):
            place = (np.clip(rewards[i] + gammas[i] * (v_min + k * spacing), v_min, v_max) - v_min) / spacing
            place = min(round(place, 9), num_atoms - 1)
            lower, upper = math.floor(place), math.ceil(place)
            if lower == upper:
                expected[i, lower] += probs[i, k]
            else:
                expected[i, lower] += probs[i, k] * (upper - place)
                expected[i, upper] += probs[i, k] * (place - lower)
    projected = agent.project(
        *(torch.tensor(array, dtype=torch.float32) for array in (probs, rewards, gammas))
    )
    np.testing.assert_allclose(projected, expected, atol=2e-5)
    np.testing.assert_allclose(projected.sum(dim=1), 1, atol=2e-5)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("num_dims", [1, 3])
def test_c51_losses_equal_numpy(num_dims, double):
    components = ("c51", "double") if double else ("c51",)
    agent = rainbow_agent(components, Box(-1, 1, (num_dims,)), v_min=-4.0, v_max=4.0, num_atoms=11)
    with torch.no_grad():
        for parameter in agent.q_target.parameters():  # another network: the choice must matter
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = make_dqn_batch(torch.Generator().manual_seed(6), num_bins=3, num_dims=num_dims)
    weights = torch.linspace(0.1, 1, BATCH_SIZE)
    with torch.no_grad():
        networks = (
            agent.q_network(batch.obs),
            agent.q_network(batch.next_obs),
            agent.q_target(batch.next_obs),
        )
        # (B, D, bins, K)
        probs, online_next, target_next = (np.exp(x.double().log_softmax(3).numpy()) for x in networks)
    atoms, errors = np.linspace(-4, 4, 11), []
    for i in range(BATCH_SIZE):
        best = ((online_next if double else target_next)[i] @ atoms).argmax(axis=1)
        target = np.mean([target_next[i, d, best[d]] for d in range(num_dims)], axis=0)
        gamma = batch.gammas[i].item() * (1 - batch.terminations[i].item())
        projected = agent.project(
            torch.tensor(target[None]).float(), batch.rewards[i : i + 1], torch.tensor([gamma])
        ).numpy()[0]
        chosen = np.mean([probs[i, d, batch.actions[i, d]] for d in range(num_dims)], axis=0)
        errors.append(sum(m * np.log(m / p) for m, p in zip(projected, chosen, strict=True) if m > 0))
    td_errors, metrics = agent.update(weighted(batch, weights))
    np.testing.assert_allclose(td_errors, errors, rtol=1e-3, atol=1e-5)
    assert metrics["losses/qf_loss"].item() == pytest.approx(np.mean(weights.numpy() * errors), rel=1e-4)


def test_c51_learns_from_a_return_that_seemed_impossible():
    agent = rainbow_agent(("c51",), Discrete(2), v_min=0.0, v_max=1.0, num_atoms=2)
    bias = agent.q_network.out.bias
    with torch.no_grad():
        agent.q_network.out.weight.zero_()
        bias.copy_(torch.tensor([0.0, -80.0] * 2))  # a return of 1 has a probability of 2e-35
    batch = make_dqn_batch(torch.Generator().manual_seed(6), num_bins=2)
    _, metrics = agent.update(
        weighted(batch._replace(rewards=torch.ones(BATCH_SIZE), terminations=torch.ones(BATCH_SIZE)))
    )
    assert metrics["losses/qf_loss"].item() == pytest.approx(80)
    names = [name for name, _ in agent.q_network.named_parameters()]
    gradient = agent.q_optimizer.means[names.index("out.bias")] / 0.1  # the first mean is 1 - β₁ of it
    assert gradient[1::2].sum().item() == pytest.approx(-1)


def test_double_q_learning_lets_the_online_network_choose():
    agent = rainbow_agent(("double",), Discrete(4))
    with torch.no_grad():
        for parameter in agent.q_target.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        batch = make_dqn_batch(torch.Generator().manual_seed(7), num_bins=4)
        q, online, target = (network(obs)[:, 0, :, 0] for network, obs in double_q_pairs(agent, batch))
    expected = [
        q[i, batch.actions[i, 0]]
        - batch.rewards[i]
        - batch.gammas[i] * (1 - batch.terminations[i]) * target[i, online[i].argmax()]
        for i in range(BATCH_SIZE)
    ]
    assert (online.argmax(1) != target.argmax(1)).any()
    torch.testing.assert_close(agent.update(weighted(batch))[0], torch.stack(expected))


@pytest.mark.parametrize("components", [("dueling",), ("dueling", "c51")])
def test_dueling_equals_a_loop(components):
    agent = rainbow_agent(components)
    network, obs = agent.q_network, torch.randn(5, OBS_DIM)
    num_atoms = 51 if "c51" in components else 1
    with torch.no_grad():
        outputs = network(obs).numpy()
        x = torch.relu(network.hidden(network.encoder(obs)))
        values = network.value(x[:, :32]).numpy()
        advantages = network.out(x[:, 32:]).numpy().reshape(5, 3, 3, num_atoms)
    assert outputs.shape == (5, 3, 3, num_atoms)
    for i, d, b, k in np.ndindex(outputs.shape):
        expected = (
            values[i, k]
            + advantages[i, d, b, k]
            - np.mean([advantages[i, d, other, k] for other in range(3)])
        )
        assert outputs[i, d, b, k] == pytest.approx(expected, abs=1e-5)


def effective_weights(layer: rainbow.NoisyLinear) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of the weights (out, in) and of the biases (out,) in one call, in standard deviations."""
    with torch.no_grad():
        outputs = layer(torch.cat([torch.zeros(1, layer.in_features), torch.eye(layer.in_features)]))
        bias, weight = outputs[0], (outputs[1:] - outputs[0]).T
        return (weight - layer.weight) / layer.weight_sigma, (bias - layer.bias) / layer.bias_sigma


def test_noise_is_factorised_and_has_its_moments():
    torch.manual_seed(8)
    layer = rainbow.NoisyLinear(40, 30)
    assert (
        layer.weight_sigma.unique().item()
        == layer.bias_sigma.unique().item()
        == pytest.approx(0.5 / math.sqrt(40))
    )
    assert layer.weight.abs().max() <= 1 / math.sqrt(40) and layer.bias.abs().max() <= 1 / math.sqrt(40)
    samples = []
    for _ in range(300):
        weight_noise, bias_noise = effective_weights(layer)
        left, singular, right = torch.linalg.svd(weight_noise.double())
        assert singular[1] < 1e-4 * singular[0]  # an outer product
        aligned = torch.nn.functional.cosine_similarity(left[:, 0], bias_noise.double(), dim=0).abs()
        # with the noise of the outputs, which is that of the biases
        assert aligned == pytest.approx(1, abs=1e-4)
        samples.append(bias_noise)
    noise = torch.stack(samples).flatten().double()
    # ε = sgn(z) √|z|: E ε = 0, E ε² = E|z| = √(2/π), E ε⁴ = E z² = 1
    assert noise.mean().abs() < 0.04 and (noise**2).mean() == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)
    assert (noise**4).mean() == pytest.approx(1, abs=0.08)


def test_one_call_shares_its_noise_among_the_batch_and_two_calls_do_not():
    torch.manual_seed(9)
    layer, x = rainbow.NoisyLinear(4, 3), torch.ones(2, 4)
    first, second = layer(x), layer(x)
    assert torch.equal(first[0], first[1]) and not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_noisy_layers_equal_numpy_with_the_same_draws():
    layer, x = rainbow.NoisyLinear(6, 5), torch.randn(4, 6, generator=torch.Generator().manual_seed(11))
    torch.manual_seed(12)
    outputs = layer(x).detach().numpy()
    torch.manual_seed(12)
    noise_out, noise_in = (
        np.sign(z) * np.sqrt(np.abs(z)) for z in (torch.randn(5).numpy(), torch.randn(6).numpy())
    )
    weight, sigma, bias, bias_sigma = (
        p.detach().numpy() for p in (layer.weight, layer.weight_sigma, layer.bias, layer.bias_sigma)
    )
    expected = x.numpy() @ (weight + sigma * np.outer(noise_out, noise_in)).T + bias + bias_sigma * noise_out
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_noise_of_online_and_target_networks_differs():
    agent, obs = rainbow_agent(("noisy",)), torch.ones(1, OBS_DIM)
    torch.manual_seed(10)
    assert not torch.equal(agent.q_network(obs), agent.q_target(obs))  # equal weights


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


@pytest.mark.parametrize("library", machine.MATMUL)
def test_a_ppo_update_equals_stable_baselines3(library, monkeypatch):
    use(library)
    num_steps, num_envs = 24, 4
    rates = {
        "gamma": GAMMA,
        "gae_lambda": 0.9,
        "learning_rate": LEARNING_RATE,
        "ent_coef": 0.01,
        "vf_coef": 0.3,
        "max_grad_norm": 0.4,
    }
    net = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "log_std_init": -0.5}
    args = {"policy_kwargs": net, "n_steps": num_steps, "batch_size": 32, "n_epochs": 2, "clip_range": 0.05}
    venv = sb3.common.vec_env.DummyVecEnv([Spaces] * num_envs)
    model = sb3.PPO("MlpPolicy", venv, **args, **rates, seed=1, device="cpu")
    model.set_logger(configure(None, []))
    args = {
        "num_steps": num_steps,
        "num_envs": num_envs,
        "num_minibatches": 3,
        "num_epochs": 2,
        "clip_coef": 0.05,
    }
    args = ppo_continuous.Args(**args, **rates, precision="fp32", initial_log_std=-0.5, normalize=False)
    agent = ppo_continuous.Agent(args, Spaces.observation_space, Spaces.action_space, torch.device("cpu"))
    agent.load_state_dict(ppo_weights(model), strict=False)  # ours has statistics, too
    # rounding errors are no gradients
    model.policy.optimizer.param_groups[0]["eps"] = agent.optimizer.eps = 1e-3

    rng = np.random.default_rng(2)
    buffer = ppo_continuous.RolloutBuffer(args, Spaces.observation_space, Spaces.action_space)
    starts, model.rollout_buffer.full = np.zeros(num_envs), False
    for _ in range(num_steps):
        obs = rng.normal(size=(num_envs, OBS_DIM)).astype(np.float32)
        actions, log_probs, values = agent.sample(obs)
        # some ratios are clipped from the first minibatch on
        log_probs += rng.normal(0, 0.05, num_envs).astype(np.float32)
        rewards, ends = rng.normal(size=num_envs), rng.random(num_envs) < 0.2
        never = np.zeros(num_envs, bool)
        buffer.add(obs, actions, log_probs, values, rewards, ends, never, final=never)
        model.rollout_buffer.add(
            obs, actions, rewards, starts, torch.as_tensor(values), torch.as_tensor(log_probs)
        )
        starts = ends.astype(np.float32)
    next_obs = rng.normal(size=(num_envs, OBS_DIM)).astype(np.float32)
    with torch.no_grad():
        model.rollout_buffer.compute_returns_and_advantage(
            model.policy.predict_values(torch.as_tensor(next_obs)), starts
        )

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
            weights[name],
            value,
            rtol=1e-5,
            atol=5e-3 * LEARNING_RATE,
            msg=lambda text, name=name: f"{name}: {text}",
        )
        assert (weights[name] - before[name]).abs().max() > 0.1 * LEARNING_RATE, f"{name} has not moved"
    expected = model.logger.name_to_value
    assert float(metrics["losses/approx_kl"]) == pytest.approx(expected["train/approx_kl"], rel=1e-3)
    # ours is unbiased
    assert float(metrics["losses/explained_variance"]) == pytest.approx(
        expected["train/explained_variance"], abs=0.05
    )
    assert agent.num_updates == 6


@pytest.mark.parametrize("distribution", ["normal", "beta"])
def test_ppo_log_probs_and_entropies_equal_torch_distributions(distribution):
    generator = torch.Generator().manual_seed(5)
    a, b = torch.rand(2, 500, ACTION_DIM, generator=generator, dtype=torch.float64) * 4 + 1
    if distribution == "normal":
        ours, reference = ppo_continuous.Normal(a, b[0].log()), Normal(a, b[0])
        entropy = reference.entropy().sum(dim=1).mean()
    else:
        ours = ppo_continuous.Beta(a, b)
        reference = TransformedDistribution(Beta(a, b), AffineTransform(-1, 2))
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
    rows = (
        torch.randn(300, 4, generator=torch.Generator().manual_seed(7)) * torch.tensor([1.0, 10, 0.1, 0]) + 5
    )
    statistics = ppo_continuous.RunningStatistics(4)
    for part in rows.split([1, 2, 97, 200]):
        statistics.update(part)
    assert statistics.count == 300
    torch.testing.assert_close(statistics.mean, rows.double().mean(dim=0))
    torch.testing.assert_close(statistics.var, rows.double().var(dim=0, correction=0))


def test_a_constant_far_from_zero_is_normalised_to_zero():
    statistics = ppo_continuous.RunningStatistics(1)
    for _ in range(100):
        statistics.update(torch.full((2048, 1), 20_000.3))
    assert abs(np.float32(20_000.3) - statistics.mean.item()) * (statistics.var.item() + 1e-8) ** -0.5 < 0.01


def test_a_clipped_value_loss_is_the_larger_of_both():
    args = ppo_continuous.Args(clip_value=0.2, precision="fp32", normalize=False)
    agent = ppo_continuous.Agent(args, Spaces.observation_space, Spaces.action_space, torch.device("cpu"))
    rng = np.random.default_rng(8)
    obs, actions = (
        torch.as_tensor(rng.normal(size=(64, size)), dtype=torch.float32) for size in (OBS_DIM, ACTION_DIM)
    )
    values = agent(obs)[1].detach().numpy()
    old_values, returns = values + rng.normal(size=64), values + rng.normal(size=64)
    columns = [
        torch.as_tensor(column, dtype=torch.float32)
        for column in (np.zeros(64), old_values, rng.normal(size=64), returns)
    ]
    _, value_loss, _, _ = agent.update_minibatch(obs, actions, *columns)
    clipped = np.clip(values, old_values - 0.2, old_values + 0.2)
    expected = np.maximum((values - returns) ** 2, (clipped - returns) ** 2).mean()
    assert (
        value_loss.item()
        == pytest.approx(expected, rel=1e-4)
        != pytest.approx(((clipped - returns) ** 2).mean(), rel=0.1)
    )
