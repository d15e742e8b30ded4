"""Proximal Policy Optimization (PPO) for continuous actions, from vectors and from pixels.

    python cleanrl_cc/ppo_continuous.py --env-id HalfCheetah-v5

Papers: PPO, Schulman et al. 2017, arXiv:1707.06347; GAE, Schulman et al. 2016, arXiv:1506.02438; the choices
that matter, Andrychowicz et al. 2021, arXiv:2006.05990; Beta policy, Chou et al. 2017.

The ideas: play a fixed number of steps with the current policy, then learn from them for several epochs; a
surrogate objective that stops paying once the new policy is far from the one that played; generalised
advantage estimation (GAE), which trades bias for variance by λ.

Differs from the paper:
- A time limit is not a termination: the true final observation's value stands for the rewards it cut off.
- The agent normalises observations and rewards by statistics; those of observations change after updates.
- Advantages are normalised per minibatch, gradients are clipped, weights start orthogonal; actor and critic
  share the encoder of pixels.
"""

import math
import signal
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box
from torch import Tensor, nn

from cleanrl_cc.common.arguments import RunArgs, check_args, parse_args
from cleanrl_cc.common.distributed import connect, mean_over_processes, size, sum_over_processes, take_rank
from cleanrl_cc.common.envs import make_vector_env
from cleanrl_cc.common.errors import require
from cleanrl_cc.common.layers import ByteConv2d, Fp32Linear
from cleanrl_cc.common.machine import require_memory, start_torch, to_device
from cleanrl_cc.common.ranges import Count, LogStd, Nonnegative, Positive, Size, Small, Unit, Width
from cleanrl_cc.common.runs import LOG_FREQUENCY, Run, crossed
from cleanrl_cc.common.updates import Adam, clip, compile_policy, compile_update, to_device_at_once

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
    """running normalisation of vectors (mean 0, variance 1) and rewards (by the std of their returns)"""

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
    """distribution of actions: normal, with the same std in all states, or beta, which is bounded"""
    initial_log_std: LogStd = 0.0
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
# A rate that falls to 0 is Tianshou's and Sample Factory's; for Walker2d, LunarLander and pixels ours.
LINEAR = {"learning_rate_schedule": "linear"}
EIGHT = {"num_envs": 8, "num_steps": 256, "eval_frequency": 50_000, "checkpoint_frequency": 50_000}
# Stable-Baselines3 zoo, ppo.yml (-v3, LunarLanderContinuous-v2): its 512 steps per rollout, here of 8
# environments. The total_timesteps and PIXELS are ours, dm_control's images DrQ-v2's (table 2).
ZOO = EIGHT | {"total_timesteps": 2_000_000, "num_steps": 64, "num_epochs": 20, "clip_coef": 0.1}
TIANSHOU = EIGHT | {"vf_coef": 0.25, "initial_log_std": -0.5, **LINEAR}  # examples/mujoco/mujoco_ppo.py
PIXELS = EIGHT | {"num_minibatches": 8, "num_epochs": 4, "clip_coef": 0.15, "ent_coef": 0.005, **LINEAR}
PIXELS |= {"action_repeat": 4, "action_distribution": "beta", "encoder_channels": 16, "feature_dim": 256}
PRESETS = {
    "HalfCheetah-v[45]": {**ZOO, "hidden_dim": 256, "activation": "relu", "initial_log_std": -2.0}
    | {"num_minibatches": 8, "gae_lambda": 0.92, "learning_rate": 2.0633e-5, "ent_coef": 0.000401762}
    | {"gamma": 0.98, "vf_coef": 0.58096, "max_grad_norm": 0.8},
    "Walker2d-v[45]": {**ZOO, "num_minibatches": 16, "learning_rate": 5.05041e-5, "ent_coef": 0.000585045}
    | {"vf_coef": 0.871923, "max_grad_norm": 1.0, **LINEAR},
    "Ant-v[45]": TIANSHOU | {"total_timesteps": 3_000_000},
    "Hopper-v[45]": TIANSHOU | {"total_timesteps": 2_000_000},
    # Sample Factory, mujoco_params.py, without its KL loss: 4096 steps per rollout, here of 8 environments
    "Humanoid-v[45]": EIGHT
    | {"total_timesteps": 10_000_000, "num_steps": 512, "num_minibatches": 4, "num_epochs": 2, "vf_coef": 1.3}
    | {"max_grad_norm": 3.5, "learning_rate": 2.95e-3, **LINEAR, "eval_frequency": 250_000},
    "LunarLander-v3": {"num_envs": 16, "num_steps": 1024, "num_minibatches": 256, "num_epochs": 4}
    | {"gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01, "normalize": False, **LINEAR}
    | {"total_timesteps": 3_000_000, "eval_frequency": 50_000},
    # Noise that changes every 0.04 s does not get a ball around a wall; every 0.16 s it does
    "cleanrl_cc/Corridor*-Ball-v0": EIGHT | {"action_repeat": 4, "total_timesteps": 300_000},
    "CarRacing-v3": PIXELS
    | {"action_set": "gentle", "training_wrappers": ("RoadRules,speed_limit=70",), "eval_episodes": 20},
    "dm_control/*": PIXELS | {"obs": "pixels", "action_repeat": 2, "frame_stack": 3, "grayscale": False},
}


# --- networks ---


def moments(rows: Tensor) -> tuple[int | Tensor, Tensor, Tensor]:
    """Number, variance and mean (*shape) of the rows (B, *shape) of all processes, whose B may differ."""
    if size() == 1:
        return len(rows), *torch.var_mean(rows, dim=0, correction=0)
    rows64 = rows.double()  # a sum of squares needs the digits
    sums = torch.stack([torch.ones_like(rows64).sum(0), rows64.sum(0), rows64.square().sum(0)])
    num_rows, total, squares = sum_over_processes(sums)
    mean = total / num_rows
    var = (squares / num_rows - mean.square()).clamp(min=0)
    return num_rows.max().long(), var.to(rows.dtype), mean.to(rows.dtype)


class RunningStatistics(nn.Module):
    """Mean and variance of all rows ever given, in float64: float32 makes noise of a large constant."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def update(self, rows: Tensor):
        """Adds `rows` (B, *shape), and those of other processes: two sets in one (Chan et al. 1983)."""
        num_rows, var, mean = moments(rows.double())
        self.count += num_rows
        share = num_rows / self.count.double()
        delta = mean - self.mean
        self.var.lerp_(var, share).add_(share * (1 - share) * delta.square())
        self.mean.add_(share * delta)


def orthogonal(layer, gain: float = math.sqrt(2)):
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Images (B, C, H, W) uint8 to (B, feature_dim): the convolutions of Mnih et al. 2015."""

    def __init__(self, obs_shape: tuple[int, ...], channels: int, feature_dim: int):
        super().__init__()
        require(obs_shape[1] >= 36, "image_size", obs_shape[1], "at least 36 for three convolutions")
        first = orthogonal(ByteConv2d(obs_shape[0], channels, 8, stride=4))
        second = orthogonal(nn.Conv2d(channels, 2 * channels, 4, stride=2))
        third = orthogonal(nn.Conv2d(2 * channels, 2 * channels, 3))
        convolutions = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), nn.Flatten())
        self.convolutions = convolutions.to(memory_format=torch.channels_last)  # 1.5 times faster on a CPU
        out_dim = convolutions(torch.zeros(1, *obs_shape)).shape[1]
        self.linear = nn.Sequential(orthogonal(nn.Linear(out_dim, feature_dim)), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:
        return self.linear(self.convolutions(obs))


def mlp(sizes: list[int], activation: type[nn.Module], last_gain: float) -> nn.Sequential:
    hidden = []
    for in_dim, out_dim in pairwise(sizes[:-1]):
        hidden += [orthogonal(nn.Linear(in_dim, out_dim)), activation()]
    return nn.Sequential(*hidden, orthogonal(Fp32Linear(sizes[-2], sizes[-1]), last_gain))


class Normal(NamedTuple):
    """A diagonal Gaussian. Samples outside [-1, 1] keep their probability: the environment clips them."""

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


class Beta(torch.distributions.Beta):
    """A Beta distribution per dimension, stretched from [0, 1] to [-1, 1] (Chou et al. 2017)."""

    @property
    def mean(self) -> Tensor:
        return 2 * self.concentration1 / (self.concentration1 + self.concentration0) - 1

    def sample(self) -> Tensor:
        x = torch._standard_gamma(self.concentration1)
        y = torch._standard_gamma(self.concentration0)
        return 2 * x / (x + y) - 1

    def log_prob(self, actions: Tensor) -> Tensor:
        # log Beta(x; a, b) = (a - 1) log x + (b - 1) log(1 - x) - log B(a, b),  x = (1 + action) / 2: - log 2
        x = ((1 + actions) / 2).clamp(1e-6, 1 - 1e-6)
        return (super().log_prob(x) - math.log(2)).sum(dim=1)

    def entropy(self) -> Tensor:
        return (super().entropy() + math.log(2)).sum(dim=1).mean()


# --- agent ---


class Agent(nn.Module):
    """The networks, their statistics and their optimizer: how they act and how they learn."""

    def __init__(self, args: Args, obs_space: Box, action_space: Box, device: torch.device):
        super().__init__()
        self.args = args
        self.device = device
        pixels = obs_space.dtype == np.uint8
        action_dim = action_space.shape[0]
        beta = args.action_distribution == "beta"
        if pixels:
            self.encoder = Encoder(obs_space.shape, args.encoder_channels, args.feature_dim)
            sizes = [args.feature_dim]
        else:
            self.encoder = nn.Identity()
            sizes = [obs_space.shape[0], args.hidden_dim, args.hidden_dim]
        activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[args.activation]
        self.actor = mlp([*sizes, 2 * action_dim if beta else action_dim], activation, last_gain=0.01)
        self.critic = mlp([*sizes, 1], activation, last_gain=1.0)
        self.log_std = None if beta else nn.Parameter(torch.full((action_dim,), args.initial_log_std))
        self.obs_statistics = RunningStatistics(*obs_space.shape) if args.normalize and not pixels else None
        self.return_statistics = RunningStatistics()
        self.to(device)
        self.optimizer = Adam(self.parameters(), args.learning_rate, eps=1e-5)
        self.optimizers = {"ppo": self.optimizer}
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=args.precision == "bf16")
        self.num_updates = 0
        if args.compile:
            self.update_minibatch = compile_update(self.update_minibatch, args, device, rows_vary=True)
            self.policy = compile_policy(self.policy, args, device)

    def forward(self, obs: Tensor) -> tuple[Normal | Beta, Tensor]:
        """The policy's distribution and the values (B,) of normalised observations (B, *obs_shape)."""
        with self.autocast():
            features = self.encoder(obs)
            parameters = self.actor(features).float()
            values = self.critic(features).float().squeeze(1)
        if self.log_std is not None:
            return Normal(parameters, self.log_std), values
        a, b = (F.softplus(parameters) + 1).chunk(2, dim=1)  # above 1: one peak
        return Beta(a, b, validate_args=False), values

    def normalize(self, obs: np.ndarray | Tensor) -> Tensor:
        """Observations on the device; vectors scaled to mean 0 and variance 1 of those seen in training."""
        raw = torch.as_tensor(obs, device=self.device)
        if self.obs_statistics is None:
            return raw
        scaled = (raw - self.obs_statistics.mean) * (self.obs_statistics.var + 1e-8).rsqrt()
        return scaled.clamp(-10, 10).float()

    @torch.no_grad()
    def sample(self, obs: np.ndarray) -> tuple[np.ndarray, ...]:
        """For a rollout: actions (N, A), their log-probabilities (N,) and the values (N,) of `obs`."""
        return tuple(part.cpu().numpy() for part in self.policy(torch.as_tensor(obs, device=self.device)))

    def policy(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `sample` computes on the device; with --compile on a GPU one graph."""
        distribution, values = self(self.normalize(obs))
        actions = distribution.sample()
        return actions, distribution.log_prob(actions), values

    @torch.no_grad()
    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions (N, A) for observations (N, *obs_shape): sampled, or the mean."""
        distribution, _ = self(self.normalize(obs))
        return (distribution.mean if deterministic else distribution.sample()).cpu().numpy()

    @torch.no_grad()
    def value(self, obs: np.ndarray) -> np.ndarray:
        """V(obs), (N,), in units of the environment's reward."""
        _, values = self(self.normalize(obs))
        return (values * self.return_statistics.var.sqrt()).cpu().numpy()

    def update(self, buffer: "RolloutBuffer", next_obs: np.ndarray, rng: np.random.Generator) -> dict:
        """Learns from a full buffer, after which came `next_obs`, and empties it."""
        args = self.args
        to_tensor = partial(to_device, device=self.device)
        rows = np.flatnonzero(~buffer.final)  # of all T * N those whose action the policy chose
        rewards = buffer.rewards
        if args.normalize:
            discounted_returns = buffer.discounted_returns().ravel()[rows]
            self.return_statistics.update(to_tensor(discounted_returns, dtype=torch.float32))
            rewards = (rewards / math.sqrt(self.return_statistics.var.item() + 1e-8)).clip(-10, 10)
        _, next_values = self(self.normalize(next_obs))
        advantages = buffer.advantages(rewards, next_values.detach().cpu().numpy())
        returns = advantages + buffer.values  # what the critic learns
        columns = (buffer.obs, buffer.actions, buffer.log_probs, buffer.values, advantages, returns)
        flat = [column.reshape(-1, *column.shape[2:]) for column in columns]
        raw_obs, *others = to_device_at_once(flat, self.device)
        batch = (self.normalize(raw_obs), *others)

        for _ in range(args.num_epochs):
            shuffled = to_tensor(rng.permutation(rows))
            splits = [column[shuffled].tensor_split(args.num_minibatches) for column in batch]
            results = [self.update_minibatch(*minibatch) for minibatch in zip(*splits, strict=True)]
            *losses, log_ratios = zip(*results, strict=True)
            self.num_updates += args.num_minibatches
            # KL(old | new) ≈ E[(ρ - 1) - log ρ],  ρ = π(a|s) / π_old(a|s): Schulman's k3, at least 0
            log_ratio = torch.cat(log_ratios)
            _, _, approx_kl = moments(log_ratio.expm1() - log_ratio)
            if args.target_kl is not None and approx_kl > args.target_kl:
                break

        buffer.num_added = 0
        if self.obs_statistics is not None:
            self.obs_statistics.update(raw_obs[to_tensor(rows)])
        policy_loss, value_loss, entropy = (torch.stack(values).mean() for values in losses)
        unexplained = advantages.ravel()[rows].var() / (returns.ravel()[rows].var() + 1e-8)
        return {
            "losses/policy_loss": policy_loss,
            "losses/value_loss": value_loss,
            "losses/entropy": entropy,
            "losses/approx_kl": approx_kl,
            "losses/clip_fraction": (log_ratio.expm1().abs() > args.clip_coef).float().mean(),
            "losses/explained_variance": 1 - unexplained,
        }

    def update_minibatch(self, obs, actions, old_log_probs, old_values, advantages, returns) -> tuple:
        """One gradient step, which --compile makes one graph. Takes normalised observations (B, *obs_shape),
        actions (B, A), the others (B,); returns policy loss, value loss, entropy and log-ratios (B,)."""
        distribution, values = self(obs)
        num_rows, var, mean = moments(advantages)  # of the minibatches of all processes
        std = (var * (num_rows / (num_rows - 1))).sqrt()
        advantages = (advantages - mean) / (std + 1e-8)
        # L(π) = E[min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)]  (Schulman et al. 2017, equation 7)
        log_ratio = distribution.log_prob(actions) - old_log_probs
        ratio = log_ratio.exp()
        clipped_ratio = ratio.clamp(1 - self.args.clip_coef, 1 + self.args.clip_coef)
        policy_loss = -torch.min(ratio * advantages, clipped_ratio * advantages).mean()
        # L(V) = E[(V - R)²], or with clipping E[max((V - R)², (clip(V, V_old ± c) - R)²)]
        errors = (values - returns).square()
        if self.args.clip_value is not None:
            clipped = old_values + (values - old_values).clamp(-self.args.clip_value, self.args.clip_value)
            errors = torch.max(errors, (clipped - returns).square())
        value_loss = errors.mean()
        entropy = distribution.entropy()
        loss = policy_loss + self.args.vf_coef * value_loss - self.args.ent_coef * entropy
        gradients = torch.autograd.grad(loss, self.optimizer.parameters, materialize_grads=True)
        gradients = mean_over_processes(gradients, len(obs))
        self.optimizer.step(clip(gradients, self.args.max_grad_norm))
        return tuple(part.detach() for part in (policy_loss, value_loss, entropy, log_ratio))


# --- rollout buffer ---


class RolloutBuffer:
    """T rows of N environments, in the order in which they came: the observation after row t is row t + 1's.

    The vector environment returns an episode's final observation, then ignores an action to reset: that row
    is marked `final`. Its value is what a truncated episode bootstraps from; nothing else of it counts.
    """

    def __init__(self, args: Args, obs_space: Box, action_space: Box):
        shape = (args.num_steps, args.num_envs)
        self.args = args
        row_bytes = math.prod(obs_space.shape) * obs_space.dtype.itemsize + 4 * action_space.shape[0] + 15
        require_memory(2 * args.num_envs * row_bytes, "num_steps", args.num_steps)  # 2: an update copies
        self.obs = np.empty((*shape, *obs_space.shape), obs_space.dtype)
        self.actions = np.empty((*shape, *action_space.shape), np.float32)
        self.log_probs = np.empty(shape, np.float32)
        self.values = np.empty(shape, np.float32)
        self.rewards = np.empty(shape, np.float32)
        self.terminations = np.empty(shape, bool)
        self.truncations = np.empty(shape, bool)
        self.final = np.empty(shape, bool)
        self.discounted_return = np.zeros(args.num_envs)  # of each environment's episode before the first row
        self.num_added = 0  # rows since the last update

    def add(self, obs, actions, log_probs, values, rewards, terminations, truncations, final):
        """One row: obs (N, *obs_shape), actions (N, A), the others (N,); `final`: the action was ignored."""
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
        """(T, N): R_t = r_t + γ R_{t-1}, from 0 at each episode's start, whichever rollout that was in."""
        returns = np.empty(self.rewards.shape)
        ends = self.terminations | self.truncations
        for t in range(self.args.num_steps):
            returns[t] = self.rewards[t] + self.args.gamma * self.discounted_return
            self.discounted_return = np.where(ends[t], 0.0, returns[t])
        return returns

    def advantages(self, rewards: np.ndarray, next_values: np.ndarray) -> np.ndarray:
        """GAE (T, N); `next_values` (N,) are those after the last row (Schulman et al. 2016, equation 16)."""
        # A_t = δ_t + γ λ A_{t+1},  δ_t = r_t + γ V_{t+1} - V_t
        # V_{t+1} counts unless row t terminated, A_{t+1} unless it ended.
        next_values = np.concatenate([self.values[1:], next_values[None]])
        advantages = rewards + self.args.gamma * next_values * ~self.terminations - self.values
        discounts = self.args.gamma * self.args.gae_lambda * ~(self.terminations | self.truncations)
        for t in reversed(range(self.args.num_steps - 1)):
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
    most = args.num_envs * (args.num_steps // 2) // 2  # a minibatch needs two rows; every second may be final
    require(most > 0, "num_steps", args.num_steps, f"at least {4 if args.num_envs == 1 else 2}")
    require(args.num_minibatches <= most, "num_minibatches", args.num_minibatches, f"at most {most}")
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
        obs = next_obs
        autoreset = terminations | truncations

        # 4. update
        if buffer.num_added == args.num_steps:
            progress = previous_step / args.total_timesteps
            cosine = (1 + math.cos(math.pi * progress)) / 2
            schedules = {"constant": 1.0, "linear": 1 - progress, "cosine": cosine}
            agent.optimizer.learning_rate.fill_(args.learning_rate * schedules[args.learning_rate_schedule])
            metrics = agent.update(buffer, obs, rng)

        # 5. log
        run.log_episodes(global_step, infos)
        if crossed(global_step, previous_step, LOG_FREQUENCY):
            run.log(global_step, metrics | {"charts/learning_rate": agent.optimizer.learning_rate})

        # 6. evaluate and checkpoint
        run.evaluate_and_save(global_step, previous_step, metrics)

    return run.finish(global_step, metrics)


if __name__ == "__main__":
    train(parse_args(Args, PRESETS))
