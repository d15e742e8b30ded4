"""Deep Q-Network (DQN) on stacked images or on states, for discrete and for continuous actions.

    python cleanrl_cc/dqn_atari_style.py --env-id CarRacing-v3

Papers: DQN, Mnih et al. 2015, doi:10.1038/nature14236; decoupled Q-learning, Seyde et al. 2022,
arXiv:2210.12566.

The ideas: a network that values every action at once; replay, against correlated transitions; a target
network that stands still between copies. Continuous actions take `bins` values per dimension, each dimension
has a head of its own, and Q(s, a) is the mean over the heads: 21 dimensions of 3 bins need 63 outputs, not
3^21.

Differs from the paper:
- Rewards are scaled, not clipped: see `PRESETS`. Gradients are clipped by their norm.
- Adam instead of RMSProp; returns may be n-step.
- With several action dimensions, as in decoupled Q-learning, the online network chooses the next bins and the
  target network values them, and each dimension explores for itself; there is one network instead of two.
  One dimension is plain DQN.
"""

import math
import signal
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor, nn

from cleanrl_cc.common.arguments import RunArgs, check_args, parse_args
from cleanrl_cc.common.envs import make_vector_env
from cleanrl_cc.common.errors import require
from cleanrl_cc.common.layers import ByteConv2d, take_pixels
from cleanrl_cc.common.machine import place_buffer, start_torch, to_device
from cleanrl_cc.common.ranges import Bins, Count, Nonnegative, Positive, Size, Small, Steps, Unit, Width
from cleanrl_cc.common.runs import LOG_FREQUENCY, Run, crossed
from cleanrl_cc.common.updates import Adam, clip, compile_policy, compile_update

# --- arguments ---


@dataclass
class Args(RunArgs):
    # Replay
    buffer_size: Count = 100_000
    """transitions that the replay buffer holds"""
    batch_size: Size = 32
    """transitions sampled per update"""
    learning_starts: Steps = 5_000
    """global steps of uniformly random actions, after which updates begin"""
    updates_per_step: Nonnegative = 0.25
    """updates per transition, however many environments there are"""
    n_step: Small = 1
    """rewards summed before bootstrapping"""

    # DQN
    bins: Bins = 3
    """values per dimension of a continuous action, evenly spaced in [-1, 1]"""
    gamma: Unit = 0.99
    """discount per agent step"""
    learning_rate: Positive = 1e-4
    """Adam's learning rate"""
    target_update_frequency: Count = 250
    """updates between copies of the online network to the target network"""
    epsilon_end: Unit = 0.05
    """final ε, the share of random actions"""
    epsilon_steps: Count = 50_000
    """global steps after learning_starts over which ε, the share of random actions, falls from 1"""
    loss: Literal["huber", "mse"] = "huber"
    """loss of the temporal difference: Huber or mean squared"""
    hidden_dim: Width = 512
    """width of the hidden layers"""
    reward_scale: Positive = 1.0
    """factor on the rewards that are learned from"""

    # Pixels
    encoder_channels: Small = 32
    """channels of the first convolution; the other two have twice as many"""
    random_shift: bool = False
    """random shift of the images of each batch, as in DrQ"""
    shift_pad: Small = 4
    """largest random shift in pixels"""


# The defaults above: Stable-Baselines3 zoo, dqn.yml, Atari, but earlier updates, and random actions that fall
# sooner, to a larger share.
# ZOO: the same file, LunarLander-v2, with one update per step as there, but 1,000 random actions first.
ZOO = {"total_timesteps": 100_000, "buffer_size": 50_000, "batch_size": 128, "learning_starts": 1_000}
ZOO |= {"updates_per_step": 1.0, "learning_rate": 6.3e-4, "epsilon_steps": 12_000, "epsilon_end": 0.1}
ZOO |= {"hidden_dim": 256}
PRESETS = {
    "CartPole-v1": ZOO
    | {"total_timesteps": 50_000, "batch_size": 64, "updates_per_step": 0.5, "learning_rate": 2.3e-3}
    | {"target_update_frequency": 128, "epsilon_steps": 8_000, "epsilon_end": 0.04},
    "LunarLander-v3": ZOO | {"action_set": "native"},
    "Acrobot-v1": ZOO,
    # Images, rewards, γ and rules of the road as in sac_drq.py; the rest: guesses
    # Five actions learn faster than two axes of three bins
    "CarRacing-v3": {"total_timesteps": 100_000, "action_set": "five", "action_repeat": 4, "gamma": 0.97}
    | {"training_wrappers": ("RoadRules,speed_limit=60",), "checkpoint_frequency": 10_000}
    | {"batch_size": 64, "learning_starts": 1_000, "updates_per_step": 0.5, "n_step": 3, "eval_episodes": 20}
    | {"reward_scale": 0.05, "target_update_frequency": 500, "epsilon_steps": 15_000, "encoder_channels": 16},
    # Batch, n-step, target updates, epsilon_end, shift: github.com/tseyde/decqn, config_default.py;
    # images, action repeat: DrQ-v2, table 2
    "dm_control/*": {"total_timesteps": 500_000, "obs": "pixels", "action_repeat": 2, "frame_stack": 3}
    | {"grayscale": False, "batch_size": 256, "learning_starts": 2_000, "updates_per_step": 0.5, "n_step": 3}
    | {"reward_scale": 0.1, "target_update_frequency": 100, "epsilon_steps": 10_000, "epsilon_end": 0.1}
    | {"random_shift": True},
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


class QNetwork(nn.Module):
    """Q_d(s, b) of every bin b of every action dimension d: (B, *obs_shape) to (B, D, bins)."""

    def __init__(self, args: Args, obs_shape: tuple[int, ...], num_dims: int, num_bins: int):
        super().__init__()
        if len(obs_shape) == 3:
            self.encoder = Encoder(obs_shape, args.encoder_channels)
            in_dim = self.encoder.out_dim
        else:  # LayerNorm keeps the values from running away (networks.py of github.com/tseyde/decqn)
            first = nn.Linear(obs_shape[0], args.hidden_dim)
            self.encoder = nn.Sequential(first, nn.LayerNorm(args.hidden_dim), nn.Tanh())
            in_dim = args.hidden_dim
        self.hidden = nn.Linear(in_dim, args.hidden_dim)
        self.out = nn.Linear(args.hidden_dim, num_dims * num_bins)
        self.out_shape = num_dims, num_bins

    def forward(self, obs: Tensor) -> Tensor:
        x = F.relu(self.hidden(self.encoder(obs))).float()
        with torch.autocast(x.device.type, enabled=False):  # in bf16 one best action in ten would tie
            return self.out(x).unflatten(1, self.out_shape)


# --- agent ---


class Batch(NamedTuple):
    """B transitions; the return is `rewards`, of up to n steps, plus `gammas` times that from `next_obs`."""

    obs: Tensor  # (B, *obs_shape), float32 or uint8
    actions: Tensor  # (B, D) int64, the bin of each action dimension
    rewards: Tensor  # (B,)
    next_obs: Tensor  # (B, *obs_shape)
    terminations: Tensor  # (B,) 1.0 where the episode terminated inside the window, and nothing is beyond
    gammas: Tensor  # (B,) gamma ** number of rewards summed


class Agent(nn.Module):
    """The networks and their optimizer. A Discrete space is one dimension whose bins are its actions."""

    def __init__(self, args: Args, obs_space: Box, action_space: Space, device: torch.device):
        super().__init__()
        self.args = args
        self.device = device
        self.action_shape = action_space.shape or ()  # (A,), or () of a Discrete space
        self.num_dims = math.prod(self.action_shape)  # A, or 1
        if isinstance(action_space, Discrete):  # what each bin is to the environment
            self.bin_actions = action_space.start + np.arange(action_space.n)
        else:
            self.bin_actions = np.linspace(-1, 1, args.bins, dtype=np.float32)
        sizes = (obs_space.shape, self.num_dims, len(self.bin_actions))
        self.q_network = QNetwork(args, *sizes)
        self.q_target = QNetwork(args, *sizes).requires_grad_(False)
        self.q_target.load_state_dict(self.q_network.state_dict())
        self.to(device)
        self.q_optimizer = Adam(self.q_network.parameters(), args.learning_rate)
        self.optimizers = {"q": self.q_optimizer}
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=args.precision == "bf16")
        self.num_updates = 0
        if args.compile:
            self.update_critic = compile_update(self.update_critic, args, device)
            self.policy = compile_policy(self.policy, args, device)

    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Greedy actions, (N, A) in [-1, 1] or (N,) integers, for (N, *obs_shape); `train` explores."""
        bins = self.q_values(obs).argmax(axis=2)  # (N, D): each for itself
        return self.bin_actions[bins].reshape(-1, *self.action_shape)

    def value(self, obs: np.ndarray) -> np.ndarray:
        """max_a Q(s, a), (N,), in units of the environment's reward."""
        return self.q_values(obs).max(axis=2).mean(axis=1) / self.args.reward_scale

    @torch.no_grad()
    def q_values(self, obs: np.ndarray) -> np.ndarray:
        """Q_d(s, b), (N, D, bins)."""
        q = self.policy(torch.as_tensor(obs, device=self.device))
        return q.cpu().numpy()

    def policy(self, obs: Tensor) -> Tensor:
        """What `q_values` computes on the device; with --compile on a GPU one graph."""
        with self.autocast():
            return self.q_network(obs)

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
        """One step of the online network; now and then one of the target."""
        if self.args.random_shift and batch.obs.ndim == 4:
            batch = batch._replace(obs=self.random_shift(batch.obs))
            batch = batch._replace(next_obs=self.random_shift(batch.next_obs))
        metrics = self.update_critic(batch)
        self.num_updates += 1
        if self.num_updates % self.args.target_update_frequency == 0:
            self.q_target.load_state_dict(self.q_network.state_dict())  # θ̄ ← θ
        return metrics

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """What --compile makes one graph."""
        # y = R + γᵐ (1 - d) 1/D Σ_d Q̄_d(s', b_d),  b_d = argmax_b Q_d(s', b)  (Seyde et al. 2022)
        # One dimension: y = R + γᵐ (1 - d) max_b Q̄(s', b)  (Mnih et al. 2015, algorithm 1)
        rewards = self.args.reward_scale * batch.rewards
        gammas = batch.gammas * (1 - batch.terminations)
        with torch.no_grad(), self.autocast():
            next_q = self.q_target(batch.next_obs)  # (B, D, bins)
            chooser = self.q_network(batch.next_obs) if self.num_dims > 1 else next_q
            next_bins = chooser.argmax(dim=2)  # (B, D)
            next_q = next_q.take_along_dim(next_bins[:, :, None], dim=2).squeeze(2)
            target_q = rewards + gammas * next_q.mean(dim=1)
        with self.autocast():
            q = self.q_network(batch.obs)
            q = q.take_along_dim(batch.actions[:, :, None], dim=2).squeeze(2)  # (B, D)
        q = q.mean(dim=1)  # Q(s, a) = 1/D Σ_d Q_d(s, a_d)
        loss = F.smooth_l1_loss if self.args.loss == "huber" else F.mse_loss
        qf_loss = loss(q, target_q)
        gradients = torch.autograd.grad(qf_loss, self.q_optimizer.parameters)
        self.q_optimizer.step(clip(gradients, max_norm=10))
        return {"losses/qf_loss": qf_loss.detach(), "losses/q": q.detach().mean()}


# --- replay buffer ---


class ReplayBuffer:
    """A ring of rows in the order in which they came: the observation that follows row t is row t + 1's.

    The vector environment returns an episode's final observation, then ignores an action to reset: that row
    is marked `final` and is never a start. Of stacked images only the newest frame is kept, 7.1 kB at 84x84
    gray. The row's age in its episode says how far a stack reaches back: frame j is row t - min(j, age).
    """

    def __init__(self, args: Args, obs_space: Box, action_space: Space, device: torch.device):
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
        num_dims = math.prod(action_space.shape or ())  # 1 of a Discrete space
        row_bytes = math.prod(frame_shape) * frame_dtype.itemsize + 2 * num_dims + 8
        storage = place_buffer(row_bytes, args.buffer_size, device)
        shape = (self.num_rows, args.num_envs)
        self.frames = torch.empty((*shape, *frame_shape), dtype=frame_dtype, device=storage)
        bin_dtype = torch.int16 if getattr(action_space, "n", args.bins) <= 2**15 else torch.int32
        self.actions = torch.empty((*shape, num_dims), dtype=bin_dtype, device=storage)
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
        """One row: obs (N, *obs_shape), actions (N, D), the others (N,); `final`: the action was ignored."""
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
            self._gather(self.actions, rows, envs).long(),
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
    envs = make_vector_env(args)
    pixels = envs.single_observation_space.dtype == np.uint8
    device = start_torch(args, pixels, (args.num_envs, args.batch_size))
    agent = Agent(args, envs.single_observation_space, envs.single_action_space, device)
    buffer = ReplayBuffer(args, envs.single_observation_space, envs.single_action_space, device)
    rng = np.random.default_rng(args.seed)  # exploration, and which transitions are replayed
    run = run_class(args, agent, envs, rng, buffer)
    obs, autoreset, global_step, metrics = run.begin()

    while global_step < args.total_timesteps:
        previous_step = global_step

        # 1. act
        ends = [args.learning_starts, args.learning_starts + args.epsilon_steps]
        epsilon = np.interp(global_step, ends, [1, args.epsilon_end])
        # Each dimension explores by itself, ε / D of the time (misc/utils.py of github.com/tseyde/decqn)
        share = epsilon / (epsilon + agent.num_dims * (1 - epsilon))
        explores = rng.random((args.num_envs, agent.num_dims)) < share
        bins = rng.integers(0, len(agent.bin_actions), (args.num_envs, agent.num_dims))
        if not explores.all():
            bins = np.where(explores, bins, agent.q_values(obs).argmax(axis=2))

        # 2. step
        actions = agent.bin_actions[bins].reshape(envs.action_space.shape)
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        global_step += int(np.sum(~autoreset))

        # 3. store
        buffer.add(obs, bins, rewards, terminations, truncations, final=autoreset)
        obs = next_obs
        autoreset = terminations | truncations

        # 4. update
        updates_due = int((global_step - args.learning_starts) * args.updates_per_step)
        while agent.num_updates < updates_due and buffer.size > buffer.n_step:
            metrics |= agent.update(buffer.sample(args.batch_size, rng))

        # 5. log
        run.log_episodes(global_step, infos)
        if crossed(global_step, previous_step, LOG_FREQUENCY):
            run.log(global_step, metrics | {"charts/epsilon": epsilon})

        # 6. evaluate and checkpoint
        run.evaluate_and_save(global_step, previous_step, metrics)

    return run.finish(global_step, metrics)


if __name__ == "__main__":
    train(parse_args(Args, PRESETS))
