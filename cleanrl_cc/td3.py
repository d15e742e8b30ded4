"""Twin Delayed Deep Deterministic policy gradient (TD3), from vectors and from pixels.

    python cleanrl_cc/td3.py --env-id HalfCheetah-v5

Papers: TD3, Fujimoto et al. 2018, arXiv:1802.09477; on pixels DrQ-v2, Yarats et al. 2021, arXiv:2107.09645.

Three ideas beyond ddpg.py, against values that are overestimated: the target is the minimum of two
critics; noise on the target's action smooths the value around it; the actor and all targets move only
at every second update of the critics.

Differs from the paper:
- Networks, batch and learning rate are those of the authors' later code: two layers of 256, 256 transitions,
  3e-4 (Hopper: 1e-3). Pixels have no delay.
- On pixels: random shift, one encoder that learns from the critic alone and has no target, n-step returns,
  and falling exploration noise, as in DrQ-v2. LunarLander has n-step returns, too.
"""

import math
import signal
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box
from torch import Tensor, nn

from cleanrl_cc.common.arguments import RunArgs, check_args, parse_args
from cleanrl_cc.common.envs import make_vector_env
from cleanrl_cc.common.errors import require
from cleanrl_cc.common.layers import ByteConv2d, Fp32Linear, take_pixels
from cleanrl_cc.common.machine import place_buffer, start_torch, to_device
from cleanrl_cc.common.ranges import Count, Nonnegative, Positive, Size, Small, Steps, Unit, Width
from cleanrl_cc.common.runs import LOG_FREQUENCY, Run, crossed
from cleanrl_cc.common.updates import Adam, compile_policy, compile_update

# --- arguments ---


@dataclass
class Args(RunArgs):
    # Replay
    buffer_size: Count = 1_000_000
    """transitions that the replay buffer holds"""
    batch_size: Size = 256
    """transitions sampled per update"""
    learning_starts: Steps = 5_000
    """global steps of uniformly random actions, after which updates begin"""
    updates_per_step: Nonnegative = 1.0
    """updates per transition, however many environments there are"""
    n_step: Small = 1
    """rewards summed before bootstrapping"""

    # TD3
    gamma: Unit = 0.99
    """discount per agent step"""
    tau: Unit = 0.005
    """Polyak factor of the target networks"""
    learning_rate: Positive = 3e-4
    """Adam's learning rate"""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """schedule of the learning rate, which falls to 0 at the last step unless it is constant"""
    hidden_dim: Width = 256
    """width of the hidden layers"""
    policy_frequency: Count = 2
    """critic updates per update of the actor and the targets"""
    policy_noise: Nonnegative = 0.2
    """standard deviation of the noise on the target's actions"""
    noise_clip: Nonnegative = 0.5
    """bound of the noise on the target's actions"""
    reward_scale: Positive = 1.0
    """factor on the rewards that are learned from"""

    # Exploration
    exploration_noise: Nonnegative = 0.1
    """standard deviation of the exploration noise at the first step"""
    final_exploration_noise: Nonnegative | None = None
    """standard deviation of the exploration noise after exploration_steps; None: as at the first step"""
    exploration_steps: Count = 100_000
    """global steps over which the exploration noise changes, linearly"""

    # Pixels
    encoder_channels: Small = 32
    """channels of the first convolution; the other two have twice as many"""
    feature_dim: Width = 50
    """width of the features that actor and critic read from an image"""
    random_shift: bool = True
    """random shift of the images of each batch, as in DrQ"""
    shift_pad: Small = 4
    """largest random shift in pixels"""


# The defaults above are those of the authors' code, github.com/sfujim/TD3 (TD3.py, OurDDPG.py); CarRacing's
# other numbers come from our own runs.
MUJOCO = {"learning_starts": 25_000}  # the authors' code
# DrQ-v2, table 2
DRQ_V2 = {"n_step": 3, "tau": 0.01, "updates_per_step": 0.5, "policy_frequency": 1, "noise_clip": 0.3}
PRESETS = {
    **{f"{name}-v[45]": MUJOCO for name in ("HalfCheetah", "Walker2d", "Hopper", "Ant")},
    "Hopper-v[45]": MUJOCO | {"learning_rate": 1e-3},  # the paper's, faster in our own runs
    "Humanoid-v[45]": MUJOCO | {"total_timesteps": 5_000_000},
    # Learning rate from Stable-Baselines3 zoo, LunarLanderContinuous-v2; tau and n_step from our own runs
    "LunarLander-v3": {"total_timesteps": 150_000, "learning_rate": 1e-3, "tau": 0.01, "n_step": 3},
    "CarRacing-v3": DRQ_V2
    | {"total_timesteps": 80_000, "action_repeat": 4, "gamma": 0.97}
    | {"training_wrappers": ("RoadRules",)}
    | {"checkpoint_frequency": 10_000, "buffer_size": 80_000, "batch_size": 128, "learning_starts": 1_000}
    | {"encoder_channels": 16, "reward_scale": 0.05, "learning_rate_schedule": "linear", "eval_episodes": 20}
    | {"exploration_noise": 0.5, "final_exploration_noise": 0.1, "exploration_steps": 50_000},
    # Images, action repeat and learning rate from DrQ-v2, table 2; the noise falls between its schedules for
    # easy and medium tasks
    "dm_control/*": DRQ_V2
    | {"total_timesteps": 500_000, "obs": "pixels", "action_repeat": 2, "frame_stack": 3, "grayscale": False}
    | {"learning_rate": 1e-4, "buffer_size": 100_000, "batch_size": 256, "learning_starts": 2_000}
    | {"exploration_noise": 1.0, "final_exploration_noise": 0.1, "exploration_steps": 250_000},
}


# --- networks ---


class Encoder(nn.Module):
    """Images (B, C, H, W) uint8 to (B, out_dim): the convolutions of Mnih et al. 2015."""

    def __init__(self, obs_shape: tuple[int, ...], channels: int):
        super().__init__()
        require(obs_shape[1] >= 36, "image_size", obs_shape[1], "at least 36 for three convolutions")
        first = ByteConv2d(obs_shape[0], channels, 8, stride=4)
        second = nn.Conv2d(channels, 2 * channels, 4, stride=2)
        third = nn.Conv2d(2 * channels, 2 * channels, 3)
        convolutions = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), nn.Flatten())
        self.convolutions = convolutions.to(memory_format=torch.channels_last)  # 1.5 times faster on a CPU
        self.out_dim = self(torch.zeros(1, *obs_shape, dtype=torch.uint8)).shape[1]

    def forward(self, obs: Tensor) -> Tensor:
        return self.convolutions(obs)


def trunk(in_dim: int, feature_dim: int) -> nn.Module:
    """What an actor or critic reads an encoding through: (B, in_dim) to (B, feature_dim)."""
    return nn.Sequential(nn.Linear(in_dim, feature_dim), nn.LayerNorm(feature_dim), nn.Tanh())


class TwinLinear(nn.Module):
    """Two linear layers at little more than one's cost: (2, B, in_dim) to (2, B, out_dim).
    Or the first layer alone: (1, B, in_dim) to (1, B, out_dim)."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        bound = 1 / math.sqrt(in_dim)  # nn.Linear's
        self.weight = nn.Parameter(torch.empty(2, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, out_dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (self.weight, self.bias) if len(x) == 2 else (self.weight[:1], self.bias[:1])
        if weight.shape[2] == 1:
            # batched matrix times vector is slow on a CPU: 6 % of an update; fp32 under autocast, too
            return (x * weight.mT).sum(dim=2, keepdim=True) + bias
        return torch.baddbmm(bias, x, weight)


def mlp(in_dim: int, hidden_dim: int, out_dim: int, linear: type, last: type) -> nn.Sequential:
    relu = nn.ReLU(inplace=True)  # 2 % of an update
    hidden = [linear(in_dim, hidden_dim), relu, linear(hidden_dim, hidden_dim), relu]
    return nn.Sequential(*hidden, last(hidden_dim, out_dim))


class Actor(nn.Module):
    """A deterministic policy: (B, in_dim) to actions (B, A) in [-1, 1]."""

    def __init__(self, in_dim: int, action_dim: int, hidden_dim: int, feature_dim: int | None):
        super().__init__()
        self.trunk = trunk(in_dim, feature_dim) if feature_dim else nn.Identity()
        self.layers = mlp(feature_dim or in_dim, hidden_dim, action_dim, nn.Linear, Fp32Linear)

    def forward(self, encoding: Tensor) -> Tensor:
        return torch.tanh(self.layers(self.trunk(encoding)).float())


class TwinCritic(nn.Module):
    """Two Q-functions: encoding (B, in_dim), actions (B, A) to q1, q2, (B,) each, or by one critic to q1."""

    def __init__(self, in_dim: int, action_dim: int, hidden_dim: int, feature_dim: int | None):
        super().__init__()
        self.trunk = trunk(in_dim, feature_dim) if feature_dim else nn.Identity()
        self.layers = mlp((feature_dim or in_dim) + action_dim, hidden_dim, 1, TwinLinear, TwinLinear)

    def forward(self, encoding: Tensor, actions: Tensor, num_critics: int = 2) -> tuple[Tensor, ...]:
        x = torch.cat([self.trunk(encoding), actions], dim=1)
        return self.layers(x.expand(num_critics, *x.shape)).float().squeeze(2).unbind()


# --- agent ---


class Batch(NamedTuple):
    """B transitions; the return is `rewards`, of up to n steps, plus `gammas` times that from `next_obs`."""

    obs: Tensor  # (B, *obs_shape), float32 or uint8
    actions: Tensor  # (B, A)
    rewards: Tensor  # (B,)
    next_obs: Tensor  # (B, *obs_shape)
    terminations: Tensor  # (B,) 1.0 where the episode terminated inside the window, and nothing is beyond
    gammas: Tensor  # (B,) gamma ** number of rewards summed


class Agent(nn.Module):
    """The networks and their optimizers: how they act and how they learn."""

    def __init__(self, args: Args, obs_space: Box, action_space: Box, device: torch.device):
        super().__init__()
        self.args = args
        self.device = device
        self.pixels = obs_space.dtype == np.uint8
        action_dim = action_space.shape[0]
        if self.pixels:
            self.encoder = Encoder(obs_space.shape, args.encoder_channels)
            sizes = (self.encoder.out_dim, action_dim, args.hidden_dim, args.feature_dim)
        else:
            self.encoder = nn.Identity()
            sizes = (obs_space.shape[0], action_dim, args.hidden_dim, None)
        self.actor = Actor(*sizes)
        self.critic = TwinCritic(*sizes)
        self.actor_target = deepcopy(self.actor).requires_grad_(False)
        self.critic_target = deepcopy(self.critic).requires_grad_(False)
        # not persistent, since `train` computes it at every step
        self.register_buffer("exploration_noise", torch.tensor(args.exploration_noise), persistent=False)
        self.to(device)
        self.target_tensors: list[Tensor] = [
            *self.actor_target.parameters(),
            *self.critic_target.parameters(),
        ]
        self.online_tensors: list[Tensor] = [*self.actor.parameters(), *self.critic.parameters()]
        critic_parameters = [*self.encoder.parameters(), *self.critic.parameters()]
        self.q_optimizer = Adam(critic_parameters, args.learning_rate)
        self.actor_optimizer = Adam(self.actor.parameters(), args.learning_rate)
        self.optimizers = {"q": self.q_optimizer, "actor": self.actor_optimizer}
        heads_in_bf16 = args.precision == "bf16" and not self.pixels  # from pixels SAC drove worse with them
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=heads_in_bf16)
        self.num_updates = 0
        if args.compile:
            self.update_networks = compile_update(self.update_networks, args, device)
            self.policy = compile_policy(self.policy, args, device)

    @torch.no_grad()
    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions (N, A) in [-1, 1] for observations (N, *obs_shape): the policy's own, or with noise."""
        return self.policy(torch.as_tensor(obs, device=self.device), deterministic).cpu().numpy()

    def policy(self, obs: Tensor, deterministic: bool) -> Tensor:
        """What `act` computes on the device; with --compile on a GPU one graph."""
        with self.autocast():
            actions = self.actor(self.encode(obs))
        if not deterministic:
            noise = self.exploration_noise * torch.randn_like(actions)
            actions = (actions + noise).clamp(-1, 1)
        return actions

    def encode(self, obs: Tensor) -> Tensor:
        """Observations (N, *obs_shape) to (N, in_dim) float32; from pixels, bf16 is used here alone."""
        with torch.autocast(obs.device.type, torch.bfloat16, enabled=self.args.precision == "bf16"):
            return self.encoder(obs).float()

    @torch.no_grad()
    def value(self, obs: np.ndarray) -> np.ndarray:
        """min(Q1, Q2) of the policy's action, (N,), in units of the environment's reward."""
        with self.autocast():
            encoding = self.encode(torch.as_tensor(obs, device=self.device))
            q1, q2 = self.critic(encoding, self.actor(encoding))
        return (torch.min(q1, q2) / self.args.reward_scale).cpu().numpy()

    def random_shift(self, images: Tensor) -> Tensor:
        """Each image (B, C, H, W) moved by up to `shift_pad` pixels, edges repeated (DrQ, section 3.1)."""
        batch_size, _, height, width = images.shape
        pad = self.args.shift_pad
        shifts = torch.randint(-pad, pad + 1, (2, batch_size, 1), device=images.device)
        ys = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)  # (B, H)
        xs = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)  # (B, W)
        places = (ys[:, :, None] * width + xs[:, None, :]).flatten(1)  # (B, H * W)
        return take_pixels(images, places)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critic, and at every `policy_frequency`-th one of actor and targets."""
        if self.pixels and self.args.random_shift:
            batch = batch._replace(obs=self.random_shift(batch.obs))
            batch = batch._replace(next_obs=self.random_shift(batch.next_obs))
        self.num_updates += 1
        return self.update_networks(batch, actor_too=self.num_updates % self.args.policy_frequency == 0)

    def update_networks(self, batch: Batch, actor_too: bool) -> dict[str, Tensor]:
        """What --compile makes one graph, with the actor's step and another one without."""
        encoding, metrics = self.update_critic(batch)
        if actor_too:
            metrics |= self.update_actor(encoding)
            self.update_targets()
        return metrics

    def update_critic(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the encoding of `obs` (B, in_dim), detached for the actor to read, and metrics."""
        # y = R + γᵐ (1 - d) min Q̄(s', ã),  ã = clip(π̄(s') + clip(ε, -c, c), -1, 1),  ε ~ N(0, σ)
        # (Fujimoto et al. 2018, algorithm 1)
        with torch.no_grad(), self.autocast():
            next_encoding = self.encode(batch.next_obs)
            next_actions = self.actor_target(next_encoding)
            noise = self.args.policy_noise * torch.randn_like(next_actions)
            noise = noise.clamp(-self.args.noise_clip, self.args.noise_clip)
            next_actions = (next_actions + noise).clamp(-1, 1)
            next_q = torch.min(*self.critic_target(next_encoding, next_actions))
            rewards = self.args.reward_scale * batch.rewards
            target_q = rewards + batch.gammas * (1 - batch.terminations) * next_q
        with self.autocast():
            encoding = self.encode(batch.obs)
            q1, q2 = self.critic(encoding, batch.actions)
        qf_loss = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)
        self.q_optimizer.step(torch.autograd.grad(qf_loss, self.q_optimizer.parameters))
        return encoding.detach(), {"losses/qf_loss": qf_loss.detach(), "losses/q1": q1.detach().mean()}

    def update_actor(self, encoding: Tensor) -> dict[str, Tensor]:
        # J(π) = E[-Q1(s, π(s))]
        with self.autocast():
            (q1,) = self.critic(encoding, self.actor(encoding), num_critics=1)
        actor_loss = -q1.mean()
        # the critic gets no gradient
        self.actor_optimizer.step(torch.autograd.grad(actor_loss, self.actor_optimizer.parameters))
        return {"losses/actor_loss": actor_loss.detach()}

    @torch.no_grad()
    def update_targets(self):
        # θ̄ ← τ θ + (1 - τ) θ̄
        torch._foreach_lerp_(self.target_tensors, self.online_tensors, self.args.tau)


# --- replay buffer ---


class ReplayBuffer:
    """A ring of rows in the order in which they came: the observation that follows row t is row t + 1's.

    The vector environment returns an episode's final observation, then ignores an action to reset: that row
    is marked `final` and is never a start. Of stacked images only the newest frame is kept, 7.1 kB at 84x84
    gray. The row's age in its episode says how far a stack reaches back: frame j is row t - min(j, age).
    """

    def __init__(self, args: Args, obs_space: Box, action_space: Box, device: torch.device):
        self.args = args
        self.device = device
        self.n_step = args.n_step
        self.stack = args.frame_stack if obs_space.dtype == np.uint8 else 1
        self.num_rows = args.buffer_size // args.num_envs
        smallest = args.num_envs * (self.stack + self.n_step + 1)
        expected = f"at least {smallest} for one whole window"
        require(args.buffer_size >= smallest, "buffer_size", args.buffer_size, expected)
        self.obs_shape = obs_space.shape
        frame_shape = (obs_space.shape[0] // self.stack, *obs_space.shape[1:])
        frame_dtype = torch.uint8 if obs_space.dtype == np.uint8 else torch.float32
        row_bytes = math.prod(frame_shape) * frame_dtype.itemsize + 4 * action_space.shape[0] + 8
        storage = place_buffer(row_bytes, args.buffer_size, device)
        shape = (self.num_rows, args.num_envs)
        self.frames = torch.empty((*shape, *frame_shape), dtype=frame_dtype, device=storage)
        self.actions = torch.empty((*shape, *action_space.shape), device=storage)
        self.rewards = np.empty(shape, np.float32)
        self.terminations = np.empty(shape, bool)
        self.truncations = np.empty(shape, bool)
        self.final = np.ones(shape, bool)  # what comes before the first row, too: an episode begins there
        self.ages = np.empty(shape, np.uint8)  # capped at the length of a stack
        self.num_added = 0  # rows, ever

    @property
    def size(self) -> int:
        return min(self.num_added, self.num_rows)  # rows filled

    def add(self, obs, actions, rewards, terminations, truncations, final):
        """One row: obs (N, *obs_shape), actions (N, A), the others (N,); `final`: the action was ignored."""
        row = self.num_added % self.num_rows
        self.ages[row] = np.where(self.final[row - 1], 0, np.minimum(self.ages[row - 1], self.stack - 1) + 1)
        self.frames[row] = to_device(obs[:, -self.frames.shape[2] :], self.frames.device)  # a stack's newest
        self.actions[row] = to_device(actions, self.actions.device)
        self.rewards[row] = rewards
        self.terminations[row] = terminations
        self.truncations[row] = truncations
        self.final[row] = final
        self.num_added += 1

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """Uniform over the rows that can start a window: not final, a whole stack behind, n rows ahead."""
        oldest = self.num_added - self.size
        first = oldest + (self.stack - 1 if oldest else 0)
        end = self.num_added - self.n_step  # not included
        rows = rng.integers(first, end, batch_size)
        envs = rng.integers(0, self.args.num_envs, batch_size)
        while (redraw := self.final[rows % self.num_rows, envs]).any():
            rows[redraw] = rng.integers(first, end, redraw.sum())
            envs[redraw] = rng.integers(0, self.args.num_envs, redraw.sum())

        # R = Σ_{j<m} γʲ r_{t+j}, m = min(n, steps to the end of the episode)
        window = (rows[:, None] + np.arange(self.n_step)) % self.num_rows, envs[:, None]  # (B, n)
        terminations = self.terminations[window]
        ends = terminations | self.truncations[window]
        alive = np.cumsum(ends, axis=1) - ends == 0  # no end before step j
        discounts = self.args.gamma ** np.arange(self.n_step) * alive
        num_steps = alive.sum(axis=1)  # m
        to_tensor = partial(to_device, device=self.device, dtype=torch.float32)
        return Batch(
            self._stacks(rows, envs),
            self._gather(self.actions, rows, envs),
            to_tensor((discounts * self.rewards[window]).sum(axis=1)),
            self._stacks(rows + num_steps, envs),
            to_tensor((terminations & alive).any(axis=1)),
            to_tensor(self.args.gamma**num_steps),
        )

    def _stacks(self, rows, envs) -> Tensor:
        ages = self.ages[rows % self.num_rows, envs]
        back = np.minimum(np.arange(self.stack)[::-1], ages[:, None])  # (B, stack), oldest first
        return self._gather(self.frames, rows[:, None] - back, envs[:, None]).view(len(rows), *self.obs_shape)

    def _gather(self, column: Tensor, rows, envs) -> Tensor:
        flat = to_device((rows % self.num_rows * self.args.num_envs + envs).ravel(), column.device)
        return to_device(column.flatten(0, 1).index_select(0, flat), self.device)

    def arrays(self) -> dict:
        """The filled part, for a checkpoint; once `num_added` is set, also where one is read back to."""
        columns = ("frames", "actions", "rewards", "terminations", "truncations", "final", "ages")
        filled = {name: getattr(self, name)[: self.size] for name in columns}
        return filled | {"num_added": np.array(self.num_added)}


# --- training ---


def train(args: Args, run_class: type[Run] = Run) -> float:
    """Trains, and returns the mean return of the last evaluation; a subclass of `Run` may watch it."""
    check_args(args)
    envs = make_vector_env(args, continuous=True)
    pixels = envs.single_observation_space.dtype == np.uint8
    device = start_torch(args, pixels, (args.num_envs, args.batch_size))
    agent = Agent(args, envs.single_observation_space, envs.single_action_space, device)
    buffer = ReplayBuffer(args, envs.single_observation_space, envs.single_action_space, device)
    rng = np.random.default_rng(args.seed)  # random actions, and which transitions are replayed
    final_noise = args.final_exploration_noise
    if final_noise is None:
        final_noise = args.exploration_noise
    run = run_class(args, agent, envs, rng, buffer)
    obs, autoreset, global_step, metrics = run.begin()

    while global_step < args.total_timesteps:
        previous_step = global_step

        # 1. act
        noise = np.interp(global_step, [0, args.exploration_steps], [args.exploration_noise, final_noise])
        agent.exploration_noise.fill_(noise)
        if global_step < args.learning_starts:
            actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        else:
            actions = agent.act(obs)

        # 2. step
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        global_step += int(np.sum(~autoreset))

        # 3. store
        buffer.add(obs, actions, rewards, terminations, truncations, final=autoreset)
        obs = next_obs
        autoreset = terminations | truncations

        # 4. update
        falls = args.learning_rate_schedule == "linear"
        learning_rate = args.learning_rate * (1 - previous_step / args.total_timesteps if falls else 1.0)
        for optimizer in (agent.q_optimizer, agent.actor_optimizer):
            optimizer.learning_rate.fill_(learning_rate)
        updates_due = int((global_step - args.learning_starts) * args.updates_per_step)
        while agent.num_updates < updates_due and buffer.size > buffer.n_step:
            metrics |= agent.update(buffer.sample(args.batch_size, rng))

        # 5. log
        run.log_episodes(global_step, infos)
        if crossed(global_step, previous_step, LOG_FREQUENCY):
            rates = {"charts/learning_rate": learning_rate, "charts/exploration_noise": noise}
            run.log(global_step, metrics | rates)

        # 6. evaluate and checkpoint
        run.evaluate_and_save(global_step, previous_step, metrics)

    return run.finish(global_step, metrics)


if __name__ == "__main__":
    train(parse_args(Args, PRESETS))
