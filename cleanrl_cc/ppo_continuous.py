"""Proximal Policy Optimization (PPO) for continuous actions, from vectors and from pixels.

    python cleanrl_cc/ppo_continuous.py --env-id HalfCheetah-v5

Papers: PPO, Schulman et al. 2017, arXiv:1707.06347; generalised advantage estimation (GAE),
Schulman et al. 2016, arXiv:1506.02438; the choices that matter, Andrychowicz et al. 2021,
arXiv:2006.05990; Beta policy, Chou et al. 2017.

The ideas: play a fixed number of steps with the current policy, then learn from them for several
epochs; a surrogate objective that stops paying once the new policy is far from the one that played;
advantages that trade bias for variance by λ.

Differs from the paper:
- A time limit is no termination: the value of the true final observation stands for the rewards it cut off.
- Observations and rewards are normalised by the agent's own statistics; observations' change
  after an update only: ratios see one scale.
- Advantages are normalised per minibatch, gradients are clipped, weights start orthogonal; actor
  and critic share the encoder of pixels.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from cleanrl_cc.common.arguments import RunArgs, check_args, parse_args
from cleanrl_cc.common.distributed import average_gradients, connect, moments, standardize, take_rank
from cleanrl_cc.common.envs import make_vector_env
from cleanrl_cc.common.errors import require
from cleanrl_cc.common.machine import Fp32Linear, flatten, require_memory, start_torch
from cleanrl_cc.common.ranges import Count, Nonnegative, Positive, Real, Size, Small, Unit, Width
from cleanrl_cc.common.runs import LOG_FREQUENCY, Run, crossed

# --- arguments ---


@dataclass
class Args(RunArgs):
    # Rollout
    num_steps: Count = 2048
    """steps of each environment per rollout"""
    gamma: Unit = 0.99
    """discount per agent step"""
    gae_lambda: Unit = 0.95
    """λ of GAE: 0 trusts the value function, 1 the rewards"""
    normalize: bool = True
    """running normalisation of vectors (mean 0, variance 1) and rewards (by their return's deviation)"""

    # PPO
    num_epochs: Small = 10
    """passes over each rollout"""
    num_minibatches: Size = 32
    """minibatches per pass, a gradient step each"""
    clip_coef: Positive = 0.2
    """clipping range ε: the surrogate stops paying for probability ratios outside 1 ± ε"""
    clip_value: Positive | None = None
    """largest distance of a value prediction from the one made while playing; None: any"""
    ent_coef: Nonnegative = 0.0
    """weight of the entropy bonus"""
    vf_coef: Nonnegative = 0.5
    """weight of the value loss"""
    max_grad_norm: Positive = 0.5
    """largest norm of the gradient; a longer one is scaled down"""
    target_kl: Positive | None = None
    """KL divergence from the policy that played at which an update ends early; None: never"""
    learning_rate: Positive = 3e-4
    """Adam's learning rate"""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """schedule of the learning rate, which falls to 0 at the last step unless it is constant"""

    # Networks
    action_distribution: Literal["normal", "beta"] = "normal"
    """distribution of actions: normal, with one deviation for all states, or beta, with bounds"""
    initial_log_std: Real = 0.0
    """initial log standard deviation of the normal distribution"""
    hidden_dim: Width = 64
    """width of the hidden layers"""
    activation: Literal["tanh", "relu"] = "tanh"
    """activation function between the hidden layers"""
    encoder_channels: Small = 32
    """channels of the first convolution; the other two have twice as many"""
    feature_dim: Width = 512
    """width of the features that actor and critic read from an image"""


# The defaults above are Schulman et al. 2017, table 3, with the normalisations of Andrychowicz et al. 2021.
# to 0: Tianshou's and Sample Factory's; for Walker2d, LunarLander and pixels ours
LINEAR = {"learning_rate_schedule": "linear"}
EIGHT = {"num_envs": 8, "num_steps": 256, "eval_frequency": 50_000, "checkpoint_frequency": 50_000}
# Stable-Baselines3 zoo, ppo.yml (-v3, LunarLanderContinuous-v2): its 512 steps per rollout,
# here of 8. The numbers of steps are ours.
ZOO = EIGHT | {
    "total_timesteps": 2_000_000,
    "num_steps": 64,
    "num_epochs": 20,
    "clip_coef": 0.1,
    "max_grad_norm": 1.0,
}
TIANSHOU = EIGHT | {"vf_coef": 0.25, "initial_log_std": -0.5, **LINEAR}  # examples/mujoco/mujoco_ppo.py
PIXELS = EIGHT | {"num_minibatches": 8, "num_epochs": 4, "clip_coef": 0.15, "ent_coef": 0.005}  # our own runs
PIXELS |= {**LINEAR, "action_distribution": "beta", "encoder_channels": 16, "feature_dim": 256}
PRESETS = {
    "HalfCheetah-v[45]": ZOO
    | {"hidden_dim": 256, "activation": "relu", "initial_log_std": -2.0, "num_minibatches": 8, "gamma": 0.98}
    | {"gae_lambda": 0.92, "learning_rate": 2.0633e-5, "ent_coef": 0.000401762, "vf_coef": 0.58096}
    | {"max_grad_norm": 0.8},
    "Walker2d-v[45]": ZOO
    | {"num_minibatches": 16, "learning_rate": 5.05041e-5, "ent_coef": 0.000585045, "vf_coef": 0.871923}
    | {**LINEAR},
    "Ant-v[45]": TIANSHOU | {"total_timesteps": 3_000_000},
    "Hopper-v[45]": TIANSHOU | {"total_timesteps": 2_000_000},
    # Sample Factory, mujoco_params.py, without its KL loss: 4096 steps per rollout, here of 8 environments
    "Humanoid-v[45]": EIGHT
    | {"total_timesteps": 10_000_000, "num_steps": 512, "num_minibatches": 4, "num_epochs": 2, "vf_coef": 1.3}
    | {"max_grad_norm": 3.5, "learning_rate": 2.95e-3, **LINEAR, "eval_frequency": 250_000},
    "LunarLander-v3": {"num_envs": 16, "num_steps": 1024, "num_minibatches": 256, "num_epochs": 4}
    | {"gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01, "normalize": False, **LINEAR}
    | {"total_timesteps": 3_000_000, "eval_frequency": 50_000},
    "CarRacing-v3": PIXELS | {"action_repeat": 4, "patience": 25},  # our own runs
    # DrQ-v2, table 2
    "dm_control/*": PIXELS | {"obs": "pixels", "action_repeat": 2, "frame_stack": 3, "grayscale": False},
}


# --- networks ---


class RunningStatistics(nn.Module):
    """Mean and variance of all rows ever given, in a checkpoint like weights. In float64:
    float32 makes noise of a large constant."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def update(self, rows: Tensor):
        """`rows` (B, *shape), and those of other processes. Chan et al. 1983: the variance of two
        sets from their means and variances."""
        num_rows, mean, var = moments(rows.double())
        self.count += num_rows
        share, delta = num_rows / self.count.double(), mean - self.mean
        self.var.lerp_(var, share).add_(share * (1 - share) * delta.square())
        self.mean.add_(share * delta)


def orthogonal(layer: nn.Module, gain: float = math.sqrt(2)) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Images (B, C, H, W) uint8 to (B, feature_dim): the convolutions of Mnih et al. 2015."""

    def __init__(self, obs_shape: tuple[int, int, int], channels: int, feature_dim: int):
        super().__init__()
        require(obs_shape[1] >= 36, "image_size", obs_shape[1], "at least 36 for three convolutions")
        sizes = (
            (obs_shape[0], channels, 8, 4),
            (channels, 2 * channels, 4, 2),
            (2 * channels, 2 * channels, 3, 1),
        )
        convolutions = nn.Sequential(
            *[part for size in sizes for part in (orthogonal(nn.Conv2d(*size)), nn.ReLU())], nn.Flatten()
        )
        self.convolutions = convolutions.to(memory_format=torch.channels_last)  # 1.5 times faster on a CPU
        out_dim = convolutions(torch.zeros(1, *obs_shape)).shape[1]
        self.linear = nn.Sequential(orthogonal(nn.Linear(out_dim, feature_dim)), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:
        # W (x / 255 - ½) + b = (W / 255) x + (b - ½ Σ W): the first convolution
        # takes bytes, which are exact in bf16, too
        first, others = self.convolutions[0], self.convolutions[1:]
        dtype = torch.bfloat16 if torch.is_autocast_enabled(obs.device.type) else torch.float32
        images = obs.contiguous(memory_format=torch.channels_last).to(dtype)
        x = F.conv2d(
            images, first.weight / 255, first.bias - first.weight.sum(dim=(1, 2, 3)) / 2, first.stride
        )
        return self.linear(others(x))


def mlp(sizes: list[int], activation: type[nn.Module], last_gain: float) -> nn.Sequential:
    hidden = [
        (orthogonal(nn.Linear(*pair)), activation()) for pair in zip(sizes[:-2], sizes[1:-1], strict=True)
    ]
    return nn.Sequential(
        *[module for pair in hidden for module in pair], orthogonal(Fp32Linear(*sizes[-2:]), last_gain)
    )


class Normal(NamedTuple):
    """A diagonal Gaussian. Its samples may leave [-1, 1] and keep their
    probability: the environment clips them."""

    mean: Tensor  # (B, A)
    log_std: Tensor  # (A,)

    def sample(self) -> Tensor:
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def log_prob(self, actions: Tensor) -> Tensor:
        # log N(a; μ, σ) = -((a - μ) / σ)² / 2 - log σ - log √2π
        scaled = (actions - self.mean) * (-self.log_std).exp()
        return -0.5 * scaled.square().sum(dim=1) - (self.log_std + 0.5 * math.log(2 * math.pi)).sum()

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()


class Beta(NamedTuple):
    """A Beta distribution per dimension, stretched from [0, 1] to [-1, 1] (Chou et al. 2017)."""

    a: Tensor  # (B, A), above 1: one peak
    b: Tensor  # (B, A)

    @property
    def mean(self) -> Tensor:
        return 2 * self.a / (self.a + self.b) - 1

    def sample(self) -> Tensor:
        x, y = torch._standard_gamma(self.a), torch._standard_gamma(self.b)
        return 2 * x / (x + y) - 1

    def log_prob(self, actions: Tensor) -> Tensor:
        # log Beta(x; a, b) = (a - 1) log x + (b - 1) log(1 - x) - log B(a, b),
        # x = (1 + action) / 2, hence - log 2
        x = ((1 + actions) / 2).clamp(1e-6, 1 - 1e-6)
        return ((self.a - 1) * x.log() + (self.b - 1) * (-x).log1p() - self.log_beta() - math.log(2)).sum(
            dim=1
        )

    def entropy(self) -> Tensor:
        total = self.a + self.b
        means = (
            (self.a - 1) * self.a.digamma() + (self.b - 1) * self.b.digamma() - (total - 2) * total.digamma()
        )
        return (self.log_beta() - means + math.log(2)).sum(dim=1).mean()

    def log_beta(self) -> Tensor:
        return self.a.lgamma() + self.b.lgamma() - (self.a + self.b).lgamma()


# --- agent ---


class Agent(nn.Module):
    """PPO: its networks, its statistics, its optimizer, and how they act and learn."""

    def __init__(
        self, args: Args, obs_space: gym.spaces.Box, action_space: gym.spaces.Box, device: torch.device
    ):
        super().__init__()
        self.args, self.device, self.pixels = args, device, obs_space.dtype == np.uint8
        action_dim, beta = action_space.shape[0], args.action_distribution == "beta"
        self.encoder = (
            Encoder(obs_space.shape, args.encoder_channels, args.feature_dim)
            if self.pixels
            else nn.Identity()
        )
        sizes = [args.feature_dim] if self.pixels else [obs_space.shape[0], args.hidden_dim, args.hidden_dim]
        activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[args.activation]
        self.actor = mlp([*sizes, 2 * action_dim if beta else action_dim], activation, last_gain=0.01)
        self.critic = mlp([*sizes, 1], activation, last_gain=1.0)
        self.log_std = None if beta else nn.Parameter(torch.full((action_dim,), args.initial_log_std))
        self.obs_statistics = (
            RunningStatistics(*obs_space.shape) if args.normalize and not self.pixels else None
        )
        self.return_statistics = RunningStatistics()
        self.to(device)
        self.weights = flatten(self)
        self.optimizer = optim.Adam([self.weights], lr=args.learning_rate, eps=1e-5, fused=True)
        self.optimizers = {"ppo": self.optimizer}
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=args.precision == "bf16")
        self.num_updates = 0
        if args.compile:
            self.losses = torch.compile(self.losses)

    def forward(self, obs: Tensor) -> tuple[Normal | Beta, Tensor]:
        """The policy's distribution and the values (B,) of normalised observations (B, *obs_shape)."""
        with self.autocast():
            features = self.encoder(obs)
            parameters, values = self.actor(features).float(), self.critic(features).float().squeeze(1)
        if self.log_std is not None:
            return Normal(parameters, self.log_std), values
        return Beta(*(F.softplus(parameters) + 1).chunk(2, dim=1)), values

    def normalize(self, obs: np.ndarray) -> Tensor:
        """Observations on the device; vectors with the mean 0 and the
        variance 1 of those seen in training."""
        obs = torch.as_tensor(obs, device=self.device)
        if self.obs_statistics is None:
            return obs
        return (
            ((obs - self.obs_statistics.mean) * (self.obs_statistics.var + 1e-8).rsqrt())
            .clamp_(-10, 10)
            .float()
        )

    @torch.no_grad()
    def sample(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For a rollout: actions (N, A), their log-probabilities (N,) and the values (N,) of `obs`."""
        policy, values = self(self.normalize(obs))
        actions = policy.sample()
        return actions.cpu().numpy(), policy.log_prob(actions).cpu().numpy(), values.cpu().numpy()

    @torch.no_grad()
    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions (N, A) for observations (N, *obs_shape): sampled, or the mean."""
        policy, _ = self(self.normalize(obs))
        return (policy.mean if deterministic else policy.sample()).cpu().numpy()

    @torch.no_grad()
    def value(self, obs: np.ndarray) -> np.ndarray:
        """V(obs), (N,), in units of the environment's reward."""
        return (self(self.normalize(obs))[1] * self.return_statistics.var.sqrt()).cpu().numpy()

    def update(
        self, buffer: "RolloutBuffer", next_obs: np.ndarray, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Learns from a full buffer, after which came `next_obs`, and empties it."""
        args, to_tensor = self.args, partial(torch.as_tensor, device=self.device)
        # of T * N rows those whose action the policy chose
        rows, rewards = np.flatnonzero(~buffer.final), buffer.rewards
        if args.normalize:
            self.return_statistics.update(
                to_tensor(buffer.discounted_returns().ravel()[rows], dtype=torch.float32)
            )
            rewards = (rewards / math.sqrt(self.return_statistics.var.item() + 1e-8)).clip(-10, 10)
        next_values = self(self.normalize(next_obs))[1].detach().cpu().numpy()
        advantages = buffer.advantages(rewards, next_values)
        returns = advantages + buffer.values  # what the critic learns
        columns = (buffer.obs, buffer.actions, buffer.log_probs, buffer.values, advantages, returns)
        raw_obs, *others = (to_tensor(column.reshape(-1, *column.shape[2:])) for column in columns)
        batch = (self.normalize(raw_obs), *others)

        for _ in range(args.num_epochs):
            shuffled = to_tensor(rng.permutation(rows))
            minibatches = zip(
                *(column[shuffled].tensor_split(args.num_minibatches) for column in batch), strict=True
            )
            *losses, log_ratios = zip(*(self.update_minibatch(*m) for m in minibatches), strict=True)
            self.num_updates += args.num_minibatches
            # KL(old | new) ≈ E[(ρ - 1) - log ρ],
            # ρ = π(a|s) / π_old(a|s): Schulman's k3, never negative, of little variance
            log_ratio = torch.cat(log_ratios)
            _, approx_kl, _ = moments(log_ratio.expm1() - log_ratio)
            if args.target_kl is not None and approx_kl > args.target_kl:
                break

        buffer.num_added = 0
        if self.obs_statistics is not None:
            self.obs_statistics.update(raw_obs[rows])
        metrics = dict(
            zip(
                ("policy_loss", "value_loss", "entropy"),
                (torch.stack(values).mean() for values in losses),
                strict=True,
            )
        )
        metrics |= {
            "approx_kl": approx_kl,
            "clip_fraction": (log_ratio.expm1().abs() > args.clip_coef).float().mean(),
        }
        metrics["explained_variance"] = 1 - advantages.ravel()[rows].var() / (
            returns.ravel()[rows].var() + 1e-8
        )
        return {f"losses/{name}": value for name, value in metrics.items()}

    def losses(self, obs, actions, old_log_probs, old_values, advantages, returns) -> tuple[Tensor, ...]:
        """Of normalised observations (B, *obs_shape), actions (B, A), the others (B,); `old` of the policy
        that played. Returns the loss to descend; of its parts policy loss, value loss and entropy, and the
        log-ratios (B,) of new to old policy."""
        policy, values = self(obs)
        # L(π) = E[min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)]  (Schulman et al. 2017, equation 7)
        advantages, log_ratio = standardize(advantages), policy.log_prob(actions) - old_log_probs
        ratio, clip_coef = log_ratio.exp(), self.args.clip_coef
        policy_loss = -torch.min(
            ratio * advantages, ratio.clamp(1 - clip_coef, 1 + clip_coef) * advantages
        ).mean()
        # L(V) = E[(V - R)²], or with clipping E[max((V - R)², (clip(V, V_old ± c) - R)²)]
        errors, entropy = (values - returns).square(), policy.entropy()
        if self.args.clip_value is not None:
            clipped = old_values + (values - old_values).clamp(-self.args.clip_value, self.args.clip_value)
            errors = torch.max(errors, (clipped - returns).square())
        value_loss = errors.mean()
        loss = policy_loss + self.args.vf_coef * value_loss - self.args.ent_coef * entropy
        return loss, *(part.detach() for part in (policy_loss, value_loss, entropy, log_ratio))

    def update_minibatch(self, *minibatch: Tensor) -> list[Tensor]:
        """One gradient step on the losses of a minibatch; returns what `losses` does beside the loss."""
        loss, *parts = self.losses(*minibatch)
        gradient = self.weights.grad.zero_()
        loss.backward()
        average_gradients(gradient, len(minibatch[0]))
        # g ← g min(1, c / |g|)
        gradient.mul_((self.args.max_grad_norm / (gradient.norm() + 1e-6)).clamp_(max=1.0))
        self.optimizer.step()
        return parts


# --- rollout buffer ---


class RolloutBuffer:
    """T rows of N environments, in the order in which they came: the
    observation that follows row t is row t + 1's.

    The vector environment returns an episode's final observation, then ignores an action to
    reset: that row is marked `final`. Its value is what a truncated episode bootstraps
    from; nothing else of it is learned from.
    """

    def __init__(self, args: Args, obs_space: gym.spaces.Box, action_space: gym.spaces.Box):
        shape = args.num_steps, args.num_envs
        self.num_rows, self.gamma, self.gae_lambda = args.num_steps, args.gamma, args.gae_lambda
        # bytes
        transition = math.prod(obs_space.shape) * obs_space.dtype.itemsize + 4 * action_space.shape[0] + 15
        # an update shuffles a copy
        require_memory(2 * args.num_envs * transition, "num_steps", args.num_steps)
        self.obs = np.empty((*shape, *obs_space.shape), obs_space.dtype)
        self.actions = np.empty((*shape, *action_space.shape), np.float32)
        self.rewards, self.log_probs, self.values = (np.empty(shape, np.float32) for _ in range(3))
        self.terminations, self.truncations, self.final = (np.empty(shape, bool) for _ in range(3))
        self.discounted_return = np.zeros(args.num_envs)  # of each environment's episode before the first row
        self.num_added = 0  # rows since the last update

    def add(self, obs, actions, log_probs, values, rewards, terminations, truncations, final):
        """One row of N: obs (N, *obs_shape), actions (N, A), the others (N,);
        `final` where the action was ignored."""
        row = self.num_added
        self.obs[row] = obs
        self.actions[row] = actions
        self.log_probs[row] = log_probs
        self.values[row] = values
        self.rewards[row] = rewards
        self.terminations[row] = terminations
        self.truncations[row] = truncations
        self.final[row] = final
        self.num_added += 1

    def discounted_returns(self) -> np.ndarray:
        """(T, N): R_t = r_t + γ R_{t-1}, from 0 at the start of each
        episode, whichever rollout that was in."""
        returns, ends = np.empty(self.rewards.shape), self.terminations | self.truncations
        for t in range(self.num_rows):
            returns[t] = self.rewards[t] + self.gamma * self.discounted_return
            self.discounted_return = np.where(ends[t], 0.0, returns[t])
        return returns

    def advantages(self, rewards: np.ndarray, next_values: np.ndarray) -> np.ndarray:
        """GAE (T, N), where `next_values` (N,) are those of the observations after the last row
        (Schulman et al. 2016, equation 16)."""
        # A_t = δ_t + γ λ A_{t+1},  δ_t = r_t + γ V_{t+1} - V_t;
        # V_{t+1} counts unless row t terminated, A_{t+1} unless it ended
        next_values = np.concatenate([self.values[1:], next_values[None]])
        advantages = rewards + self.gamma * next_values * ~self.terminations - self.values
        discounts = self.gamma * self.gae_lambda * ~(self.terminations | self.truncations)
        for t in reversed(range(self.num_rows - 1)):
            advantages[t] += discounts[t] * advantages[t + 1]
        return advantages

    def arrays(self) -> dict:
        """The filled part, for a checkpoint; once `num_added` is set, also where one is read back to."""
        columns = ("obs", "actions", "log_probs", "values", "rewards", "terminations", "truncations", "final")
        filled = {name: getattr(self, name)[: self.num_added] for name in columns}
        return filled | {"num_added": np.array(self.num_added), "discounted_return": self.discounted_return}


# --- training ---


def train(args: Args, run_class: type[Run] = Run) -> float:
    """Trains, and returns the mean return of the last evaluation; a subclass of `Run` may watch it."""
    check_args(args)
    most = args.num_envs * (args.num_steps // 2) // 2
    require(
        args.num_minibatches <= most,
        "num_minibatches",
        args.num_minibatches,
        f"at most {most} (two steps each, resets aside)",
    )
    take_rank(args)
    envs = make_vector_env(args, continuous=True)
    rows = args.num_envs, args.num_envs * args.num_steps // args.num_minibatches  # of a step, of a minibatch
    device = start_torch(args, envs.single_observation_space.dtype == np.uint8, rows)
    agent = connect(Agent(args, envs.single_observation_space, envs.single_action_space, device))
    buffer = RolloutBuffer(args, envs.single_observation_space, envs.single_action_space)
    rng = np.random.default_rng(args.seed)  # the order of minibatches
    run = run_class(args, agent, envs, rng, buffer)
    obs, autoreset, global_step, metrics = run.begin()

    while global_step < args.total_timesteps:
        previous_step = global_step

        # 1. act
        actions, log_probs, values = agent.sample(obs)

        # 2. step
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        global_step += run.count_steps(int(np.sum(~autoreset)))

        # 3. store
        buffer.add(obs, actions, log_probs, values, rewards, terminations, truncations, final=autoreset)
        obs, autoreset = next_obs, terminations | truncations

        # 4. update
        if buffer.num_added == args.num_steps:
            progress = previous_step / args.total_timesteps
            schedules = {
                "constant": 1.0,
                "linear": 1 - progress,
                "cosine": (1 + math.cos(math.pi * progress)) / 2,
            }
            agent.optimizer.param_groups[0]["lr"] = (
                args.learning_rate * schedules[args.learning_rate_schedule]
            )
            metrics = agent.update(buffer, obs, rng)

        # 5. log
        run.log_episodes(global_step, infos)
        run.show_progress(global_step)
        if crossed(global_step, previous_step, LOG_FREQUENCY):
            learning_rate = agent.optimizer.param_groups[0]["lr"]
            run.log(
                global_step,
                metrics | {"charts/num_updates": agent.num_updates, "charts/learning_rate": learning_rate},
            )

        # 6. evaluate and checkpoint
        if crossed(global_step, previous_step, args.eval_frequency):
            run.evaluate(global_step)
        if crossed(global_step, previous_step, args.checkpoint_frequency) or run.stop_signal:
            run.save(global_step, metrics)
        run.exit_if_stopped()

    return run.finish(global_step, metrics)


if __name__ == "__main__":
    train(parse_args(Args, PRESETS))
