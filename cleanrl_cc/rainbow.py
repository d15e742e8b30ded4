"""Rainbow: DQN and six improvements, for discrete and for continuous actions.

    python cleanrl_cc/rainbow.py --env-id CarRacing-v3

Paper: Hessel et al. 2018, arXiv:1710.02298. The ideas, each marked by its name in the code: [double] the
online network chooses the next action, the target network values it (1509.06461); [per] larger errors are
replayed more often (1511.05952); [dueling] value and advantages in two streams (1511.06581); [noisy] noise in
the weights explores (1706.10295); [n-step] n rewards before bootstrapping; [c51] the return's distribution,
not its mean (1707.06887). With none (on several dimensions: [double]) this is dqn_atari_style.py.

Differs from the paper:
- Rewards are scaled, not clipped, and the support of returns follows: see
  `PRESETS`. Gradients are clipped by their norm.
- Continuous actions as in dqn_atari_style.py, with the mixture of the dimensions'
  distributions. Both streams share their input noise.
"""

import math
import sys
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from cleanrl_cc.common.arguments import RunArgs, check_args, parse_args
from cleanrl_cc.common.envs import make_vector_env
from cleanrl_cc.common.errors import require
from cleanrl_cc.common.machine import place_buffer, start_torch
from cleanrl_cc.common.ranges import Bins, Count, Nonnegative, Positive, Real, Size, Small, Steps, Unit, Width
from cleanrl_cc.common.runs import LOG_FREQUENCY, Run, crossed

# --- arguments ---

Component = Literal["double", "per", "dueling", "noisy", "n-step", "c51"]
COMPONENTS = get_args(Component)


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
    n_step: Small = 3
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

    # Rainbow
    components: tuple[Component, ...] = COMPONENTS
    """parts added to DQN; without n-step one reward is summed, with noisy ε is 0; --components alone: none"""
    beta_steps: Count = 1_000_000
    """global steps over which the exponent β of PER's importance weights grows from 0.4 to 1"""
    num_atoms: Bins = 51
    """atoms of C51's distribution of returns"""
    v_min: Real = -10.0
    """smallest return of C51's support, in scaled rewards"""
    v_max: Real = 10.0
    """largest return of C51's support, in scaled rewards"""

    # Pixels
    encoder_channels: Small = 32
    """channels of the first convolution; the other two have twice as many"""
    random_shift: bool = False
    """random shift of the images of each batch, as in DrQ"""
    shift_pad: Small = 4
    """largest random shift in pixels"""


# The defaults above: Hessel et al. 2018, table 1, for the components; the others, and their
# sources, are those of dqn_atari_style.py.
ZOO = {"total_timesteps": 100_000, "buffer_size": 50_000, "batch_size": 128, "learning_starts": 1_000}
ZOO |= {"updates_per_step": 1.0, "learning_rate": 6.3e-4, "epsilon_steps": 12_000, "epsilon_end": 0.1}
ZOO |= {"hidden_dim": 256, "beta_steps": 100_000}
PRESETS = {
    "CartPole-v1": ZOO
    | {"total_timesteps": 50_000, "batch_size": 64, "updates_per_step": 0.5, "learning_rate": 2.3e-3}
    | {"target_update_frequency": 128, "epsilon_steps": 8_000, "epsilon_end": 0.04, "beta_steps": 50_000}
    | {"v_min": 0.0, "v_max": 100.0},
    "LunarLander-v3": ZOO | {"action_set": "native", "v_min": -200.0, "v_max": 200.0},
    "Acrobot-v1": ZOO | {"v_min": -100.0, "v_max": 0.0},
    # Five actions: 852 after 30,000 steps, two axes of three bins 774
    "CarRacing-v3": {"total_timesteps": 200_000, "action_set": "five", "action_repeat": 4, "patience": 50}
    | {"checkpoint_frequency": 10_000, "buffer_size": 150_000, "batch_size": 64, "learning_starts": 1_000}
    | {"updates_per_step": 0.5, "reward_scale": 0.05, "v_min": -5.0, "target_update_frequency": 500}
    | {"epsilon_steps": 15_000, "encoder_channels": 16, "beta_steps": 200_000, "v_max": 25.0},
    "dm_control/*": {"total_timesteps": 500_000, "obs": "pixels", "action_repeat": 2, "frame_stack": 3}
    | {"grayscale": False, "batch_size": 256, "learning_starts": 2_000, "updates_per_step": 0.5}
    | {"reward_scale": 0.1, "v_min": 0.0, "v_max": 20.0, "target_update_frequency": 100}
    | {"epsilon_steps": 10_000, "epsilon_end": 0.1, "beta_steps": 500_000, "random_shift": True},
}


# --- networks ---


class Encoder(nn.Module):
    """Images (B, C, H, W) uint8 to (B, out_dim): the convolutions of Mnih et al. 2015."""

    def __init__(self, obs_shape: tuple[int, int, int], channels: int):
        super().__init__()
        require(obs_shape[1] >= 36, "image_size", obs_shape[1], "at least 36 for three convolutions")
        first = nn.Conv2d(obs_shape[0], channels, 8, stride=4)
        second = nn.Conv2d(channels, 2 * channels, 4, stride=2)
        third = nn.Conv2d(2 * channels, 2 * channels, 3)
        convolutions = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), nn.Flatten())
        self.convolutions = convolutions.to(memory_format=torch.channels_last)  # 1.5 times faster on a CPU
        self.out_dim = self(torch.zeros(1, *obs_shape, dtype=torch.uint8)).shape[1]

    def forward(self, obs: Tensor) -> Tensor:
        # W (x / 255 - ½) + b = (W / 255) x + (b - ½ Σ W): the first convolution
        # takes bytes, which are exact in bf16, too
        first, others = self.convolutions[0], self.convolutions[1:]
        dtype = torch.bfloat16 if torch.is_autocast_enabled(obs.device.type) else torch.float32
        images = obs.contiguous(memory_format=torch.channels_last).to(dtype)
        x = F.conv2d(
            images, first.weight / 255, first.bias - first.weight.sum(dim=(1, 2, 3)) / 2, first.stride
        )
        return others(x)


class NoisyLinear(nn.Linear):  # [noisy]
    """Factorised Gaussian noise in the weights, drawn anew in each call, none in `eval` mode
    (Fortunato et al. 2018, section 3)."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__(in_dim, out_dim)
        self.weight_sigma = nn.Parameter(torch.full_like(self.weight, 0.5 / math.sqrt(in_dim)))
        self.bias_sigma = nn.Parameter(torch.full_like(self.bias, 0.5 / math.sqrt(in_dim)))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        # y = (W + Σ ⊙ ε_out ε_inᵀ) x + b + σ ⊙ ε_out,  ε = sgn(z) √|z|,
        # z ~ N(0, 1). Two products, W x and Σ x, are no faster.
        noise_out, noise_in = (
            z.sign() * z.abs().sqrt() for z in map(torch.randn_like, (self.bias, self.weight[0]))
        )
        weight = torch.addcmul(self.weight, self.weight_sigma, noise_out[:, None] * noise_in)
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, noise_out))


class QNetwork(nn.Module):
    """Returns of every bin of every action dimension: (B, *obs_shape) to (B, D, bins, K), logits
    of K atoms, or Q itself with K = 1."""

    def __init__(self, args: Args, obs_shape: tuple[int, ...], num_dims: int, num_bins: int):
        super().__init__()
        if len(obs_shape) == 3:
            self.encoder = Encoder(obs_shape, args.encoder_channels)
        else:  # LayerNorm keeps the values from running away (networks.py of github.com/tseyde/decqn)
            self.encoder = nn.Sequential(
                nn.Linear(obs_shape[0], args.hidden_dim), nn.LayerNorm(args.hidden_dim), nn.Tanh()
            )
        in_dim = self.encoder.out_dim if len(obs_shape) == 3 else args.hidden_dim
        linear = NoisyLinear if "noisy" in args.components else nn.Linear  # [noisy]
        num_atoms = args.num_atoms if "c51" in args.components else 1  # [c51]
        dueling = "dueling" in args.components  # [dueling]
        self.hidden = linear(in_dim, 2 * args.hidden_dim if dueling else args.hidden_dim)
        self.out = linear(args.hidden_dim, num_dims * num_bins * num_atoms)
        self.value = linear(args.hidden_dim, num_atoms) if dueling else None  # [dueling]
        self.out_shape = num_dims, num_bins, num_atoms

    def forward(self, obs: Tensor) -> Tensor:
        x = F.relu(self.hidden(self.encoder(obs))).float()
        with torch.autocast(x.device.type, enabled=False):  # in bf16 one best action in ten would tie
            if self.value is None:
                return self.out(x).unflatten(1, self.out_shape)
            # [dueling] Q_d(s, b) = V(s) + A_d(s, b) - 1/bins Σ_b' A_d(s, b')  (Wang et al. 2016, equation 9)
            value_x, advantage_x = x.chunk(2, dim=1)
            advantages = self.out(advantage_x).unflatten(1, self.out_shape)
            return self.value(value_x)[:, None, None] + advantages - advantages.mean(dim=2, keepdim=True)


# --- agent ---


class Batch(NamedTuple):
    """B transitions; `rewards` sums up to n of them, and the return beyond is
    worth `gammas` times that of `next_obs`."""

    obs: Tensor  # (B, *obs_shape), float32 or uint8
    actions: Tensor  # (B, D) int64, the bin of each action dimension
    rewards: Tensor  # (B,)
    next_obs: Tensor  # (B, *obs_shape)
    terminations: Tensor  # (B,) 1.0 where the episode terminated inside the window, and nothing is beyond
    gammas: Tensor  # (B,) gamma ** number of rewards summed
    weights: Tensor  # (B,) [per] importance weights
    nodes: Tensor  # (B,) int64 [per] where their priorities are


class Agent(nn.Module):
    """Rainbow: its networks, its optimizer, and how they act and learn. A Discrete space is one
    dimension whose bins are its actions."""

    def __init__(self, args: Args, obs_space: gym.spaces.Box, action_space: gym.Space, device: torch.device):
        super().__init__()
        self.args, self.device = args, device
        # (A,) and A, or () and 1
        self.action_shape, self.num_dims = action_space.shape, math.prod(action_space.shape)
        discrete = isinstance(action_space, gym.spaces.Discrete)  # what each bin is to the environment:
        self.bin_actions = (
            action_space.start + np.arange(action_space.n)
            if discrete
            else np.linspace(-1, 1, args.bins, dtype=np.float32)
        )
        self.double, self.c51 = "double" in args.components, "c51" in args.components
        # [c51] the updates after which the support is looked at, until it is complained of once
        self.edge_checks = (100, 500, 1000)
        # [c51] (K,)
        self.register_buffer(
            "atoms", torch.linspace(args.v_min, args.v_max, args.num_atoms), persistent=False
        )
        sizes = obs_space.shape, self.num_dims, len(self.bin_actions)
        self.q_network, self.q_target = QNetwork(args, *sizes), QNetwork(args, *sizes).requires_grad_(False)
        self.q_target.load_state_dict(self.q_network.state_dict())
        self.to(device)
        self.q_optimizer = optim.Adam(
            self.q_network.parameters(), lr=args.learning_rate, eps=1.5e-4, fused=True
        )
        self.optimizers = {"q": self.q_optimizer}
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=args.precision == "bf16")
        self.shifts = args.random_shift and len(obs_space.shape) == 3
        self.num_updates = 0
        if args.compile:
            self.update_critic = torch.compile(self.update_critic)

    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Greedy actions for observations (N, *obs_shape): (N, A) in [-1, 1], or (N,)
        integers; deterministic without noise."""
        # (N, D): as Q is a mean over dimensions, each chooses for itself
        bins = self.q_values(obs, noisy=not deterministic).argmax(axis=2)
        return self.bin_actions[bins].reshape(-1, *self.action_shape)

    def value(self, obs: np.ndarray) -> np.ndarray:
        """max_a Q(s, a), (N,), in units of the environment's reward."""
        return self.q_values(obs).max(axis=2).mean(axis=1) / self.args.reward_scale

    @torch.no_grad()
    def q_values(self, obs: np.ndarray, noisy: bool = False) -> np.ndarray:
        """Q_d(s, b), (N, D, bins)."""
        self.q_network.train(noisy)  # [noisy]
        with self.autocast():
            outputs = self.q_network(torch.as_tensor(obs, device=self.device))
        self.q_network.train()
        return self.expected(outputs).cpu().numpy()

    def expected(self, outputs: Tensor) -> Tensor:
        """Q of the network's outputs (..., K): [c51] Σ_k z_k p_k."""
        return (outputs.softmax(dim=-1) * self.atoms).sum(dim=-1) if self.c51 else outputs.squeeze(-1)

    def project(self, probs: Tensor, rewards: Tensor, gammas: Tensor) -> Tensor:  # [c51]
        """The distribution of R + γ Z on the atoms of Z, (B, K) (Bellemare et al. 2017, equation 7)."""
        # m_i = Σ_k p_k max(0, 1 - |clamp(R + γ z_k) - z_i| / Δz): an
        # atom that is hit exactly takes all of p_k
        # (B, K)
        moved = (rewards[:, None] + gammas[:, None] * self.atoms).clamp(self.args.v_min, self.args.v_max)
        # (B, i, k)
        distances = (moved[:, None, :] - self.atoms[:, None]).abs() / (self.atoms[1] - self.atoms[0])
        return ((1 - distances).clamp(min=0) * probs[:, None, :]).sum(dim=2)

    def random_shift(self, images: Tensor) -> Tensor:
        """Each image (B, C, H, W) moved by up to `shift_pad` pixels, its
        border repeated (DrQ, section 3.1)."""
        (batch_size, channels, height, width), pad = images.shape, self.args.shift_pad
        shifts = torch.randint(-pad, pad + 1, (2, batch_size, 1), device=images.device)
        ys = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)  # (B, H)
        xs = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)  # (B, W)
        # (B, C, H * W)
        flat = (ys[:, :, None] * width + xs[:, None, :]).view(batch_size, 1, -1).expand(-1, channels, -1)
        return images.flatten(2).gather(2, flat).view_as(images)

    def update(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of the online network; now and then one of the target. Returns the
        temporal differences (B,) and metrics."""
        if self.shifts:
            batch = batch._replace(
                obs=self.random_shift(batch.obs), next_obs=self.random_shift(batch.next_obs)
            )
        td_errors, metrics = self.update_critic(batch)
        self.num_updates += 1
        if self.num_updates % self.args.target_update_frequency == 0:
            self.q_target.load_state_dict(self.q_network.state_dict())  # θ̄ ← θ
        # [c51] a look waits for the device
        if self.c51 and self.num_updates in self.edge_checks and metrics["losses/edge_mass"] > 0.2:
            self.edge_checks, support = (), f"--v-min {self.args.v_min:g} to --v-max {self.args.v_max:g}"
            print(
                f"Warning: {metrics['losses/edge_mass']:.0%} of the returns' probability is on the first "
                f"and last atoms of {support}: widen it, or lower --reward-scale {self.args.reward_scale:g}.",
                file=sys.stderr,
            )
        return td_errors, metrics

    def update_critic(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad(), self.autocast():
            next_outputs = self.q_target(batch.next_obs)  # (B, D, bins, K)
            chooser = self.q_network(batch.next_obs) if self.double else next_outputs  # [double]
            next_bins = self.expected(chooser).argmax(dim=2)  # (B, D)
            # (B, D, K)
            next_outputs = next_outputs.take_along_dim(next_bins[:, :, None, None], dim=2).squeeze(2)
        with self.autocast():
            outputs = (
                self.q_network(batch.obs).take_along_dim(batch.actions[:, :, None, None], dim=2).squeeze(2)
            )
        rewards, gammas = self.args.reward_scale * batch.rewards, batch.gammas * (1 - batch.terminations)
        if self.c51:
            # [c51] δ = KL(m || p), m the projection of R + γᵐ (1 - d) Z̄(s', a'), p and Z̄ mixtures 1/D Σ_d
            target_probs = self.project(next_outputs.softmax(dim=2).mean(dim=1), rewards, gammas)
            log_probs = outputs.log_softmax(dim=2).logsumexp(dim=1) - math.log(self.num_dims)
            td_errors = losses = F.kl_div(log_probs, target_probs, reduction="none").sum(dim=1)
            q = (log_probs.exp() * self.atoms).sum(dim=1)
            metrics = {"losses/edge_mass": target_probs[:, [0, -1]].sum(dim=1).mean()}
        else:  # δ = Q(s, a) - R - γᵐ (1 - d) Q̄(s', a'),  Q(s, a) = 1/D Σ_d Q_d(s, a_d)
            q = outputs.squeeze(2).mean(dim=1)
            target_q = rewards + gammas * next_outputs.squeeze(2).mean(dim=1)
            td_errors, loss = q - target_q, F.smooth_l1_loss if self.args.loss == "huber" else F.mse_loss
            losses = loss(q, target_q, reduction="none")
            metrics = {}
        qf_loss = (batch.weights * losses).mean()
        self.q_optimizer.zero_grad()
        qf_loss.backward()
        nn.utils.clip_grad_norm_(self.q_network.parameters(), max_norm=10)
        self.q_optimizer.step()
        return td_errors.detach(), metrics | {
            "losses/qf_loss": qf_loss.detach(),
            "losses/q": q.detach().mean(),
        }


# --- replay buffer ---


class ReplayBuffer:
    """A ring of rows in the order in which they came: the observation that follows row t is row t + 1's.

    The vector environment returns an episode's final observation, then ignores an action to reset:
    that row is marked `final` and is never a start. Of stacked images only the newest frame is kept,
    and the row's age in its episode says how far a stack reaches back: frame j of it is row t - min(j,
    age). At 84x84 gray, 7.1 kB a transition.
    """

    def __init__(self, args: Args, obs_space: gym.spaces.Box, action_space: gym.Space, device: torch.device):
        self.num_envs, self.gamma, self.device = args.num_envs, args.gamma, device
        self.n_step = args.n_step if "n-step" in args.components else 1  # [n-step]
        self.stack = args.frame_stack if obs_space.dtype == np.uint8 else 1
        self.num_rows = args.buffer_size // args.num_envs
        shortest = args.num_envs * (self.stack + self.n_step + 1)
        require(
            args.buffer_size >= shortest,
            "buffer_size",
            args.buffer_size,
            f"at least {shortest} for one whole window",
        )
        self.obs_shape = obs_space.shape
        frame_shape = (obs_space.shape[0] // self.stack, *obs_space.shape[1:])
        frame_dtype = torch.uint8 if obs_space.dtype == np.uint8 else torch.float32
        row_bytes = math.prod(frame_shape) * frame_dtype.itemsize + 2 * math.prod(action_space.shape) + 40
        storage, shape = place_buffer(row_bytes, args.buffer_size, device), (self.num_rows, self.num_envs)
        self.frames = torch.empty((*shape, *frame_shape), dtype=frame_dtype, device=storage)
        # D = 1 if Discrete
        bin_dtype = torch.int16 if getattr(action_space, "n", args.bins) <= 2**15 else torch.int32
        self.actions = torch.empty((*shape, math.prod(action_space.shape)), dtype=bin_dtype, device=storage)
        self.rewards = np.empty(shape, np.float32)
        self.terminations, self.truncations, self.final = (np.empty(shape, bool) for _ in range(3))
        self.ages = np.empty(shape, np.uint8)  # capped at the length of a stack
        self.num_added = 0  # rows, ever
        # [per] Priorities are the leaves of a binary tree, node i the sum of nodes 2i and 2i + 1.
        # Without [per] all of them are equal.
        self.num_leaves = 2 ** math.ceil(math.log2(self.num_rows * self.num_envs))
        self.max_priority = np.ones(1)
        self.tree, self.exponent = np.zeros(2 * self.num_leaves), 0.5 if "per" in args.components else 0.0
        # a view
        self.priorities = self.tree[self.num_leaves :][: self.num_rows * self.num_envs].reshape(shape)

    @property
    def size(self) -> int:
        """Rows filled."""
        return min(self.num_added, self.num_rows)

    def add(self, obs, actions, rewards, terminations, truncations, final):
        """One row of N: obs (N, *obs_shape), actions (N, D), the others (N,);
        `final` where the action was ignored."""
        row, previous = self.num_added % self.num_rows, (self.num_added - 1) % self.num_rows
        begins = self.final[previous] if self.num_added else np.ones(self.num_envs, bool)
        self.ages[row] = np.where(begins, 0, np.minimum(self.ages[previous], self.stack - 1) + 1)
        self.frames[row] = torch.as_tensor(obs[:, -self.frames.shape[2] :])  # the newest of a stack
        self.actions[row] = torch.as_tensor(actions)
        self.rewards[row], self.terminations[row], self.truncations[row] = rewards, terminations, truncations
        self.final[row] = final
        # [per] A row gets the largest priority once n rows are ahead of it, and
        # loses it with the first frame of its stack.
        ready, head = (row - self.n_step) % self.num_rows, (row + np.arange(self.stack)) % self.num_rows
        self.priorities[ready] = (
            np.where(self.final[ready], 0, self.max_priority) if self.num_added >= self.n_step else 0
        )
        self.priorities[head] = 0
        self._sum_up(
            self.num_leaves
            + (np.append(ready, head)[:, None] * self.num_envs + np.arange(self.num_envs)).ravel()
        )
        self.num_added += 1

    def sample(self, batch_size: int, rng: np.random.Generator, beta: float = 1.0) -> Batch:
        """Of the rows that can start a window (not final, whole stack behind, n
        rows ahead of it written): by priority."""
        # [per] P(i) = p_i / Σ p, one draw from each of B equal shares of the sum;  w_i = (P_min / P_i) ** β
        sums = (np.arange(batch_size) + rng.random(batch_size)) * self.tree[1] / batch_size
        nodes = np.ones(batch_size, int)
        while nodes[0] < self.num_leaves:
            # from the root to where the running sum of priorities passes `sums`
            left = self.tree[2 * nodes]
            # rounding must not lead to a priority of 0
            goes_right = (sums >= left) & (self.tree[2 * nodes + 1] > 0)
            nodes, sums = 2 * nodes + goes_right, sums - left * goes_right
        rows, envs = np.divmod(nodes - self.num_leaves, self.num_envs)
        weights = (self.tree[nodes].min() / self.tree[nodes]) ** beta

        # R = Σ_{j<m} γʲ r_{t+j}, m = min(n, steps to the end of the episode)
        window = (rows[:, None] + np.arange(self.n_step)) % self.num_rows, envs[:, None]  # (B, n)
        terminations, rewards = self.terminations[window], self.rewards[window]
        ends = terminations | self.truncations[window]
        alive = np.cumsum(ends, axis=1) - ends == 0  # no end before step j
        discounts, steps = self.gamma ** np.arange(self.n_step), alive.sum(axis=1)
        to_tensor = partial(torch.as_tensor, dtype=torch.float32, device=self.device)
        return Batch(
            self._stacks(rows, envs),
            self._gather(self.actions, rows, envs).long(),
            to_tensor((discounts * rewards * alive).sum(axis=1)),
            self._stacks(rows + steps, envs),
            to_tensor((terminations & alive).any(axis=1)),
            to_tensor(self.gamma**steps),
            to_tensor(weights),
            torch.as_tensor(nodes),
        )

    def update_priorities(self, nodes: Tensor, td_errors: Tensor):  # [per]
        """p = (|δ| + ε) ** α for the rows of a batch."""
        self.tree[nodes] = (td_errors.abs().cpu().numpy() + 1e-6) ** self.exponent
        self.max_priority = np.maximum(self.max_priority, self.tree[nodes].max())
        self._sum_up(nodes.numpy())

    def _sum_up(self, nodes: np.ndarray):  # [per] of every node above these leaves, level by level
        while nodes[0] > 1:
            nodes = nodes // 2
            self.tree[nodes] = self.tree[2 * nodes] + self.tree[2 * nodes + 1]

    def _stacks(self, rows, envs) -> Tensor:
        # (B, stack), oldest first
        back = np.minimum(np.arange(self.stack)[::-1], self.ages[rows % self.num_rows, envs][:, None])
        return self._gather(self.frames, rows[:, None] - back, envs[:, None]).view(len(rows), *self.obs_shape)

    def _gather(self, column: Tensor, rows, envs) -> Tensor:
        flat = (rows % self.num_rows * self.num_envs + envs).ravel()
        return (
            column.flatten(0, 1).index_select(0, torch.as_tensor(flat, device=column.device)).to(self.device)
        )

    def arrays(self) -> dict:
        """The filled part, for a checkpoint; once `num_added` is set, also where one is read back to."""
        columns = ("frames", "actions", "rewards", "terminations", "truncations", "final", "ages")
        filled = {name: getattr(self, name)[: self.size] for name in columns}
        return filled | {
            "num_added": np.array(self.num_added),
            "tree": self.tree,
            "max_priority": self.max_priority,
        }


# --- training ---


def train(args: Args) -> float:
    """Trains, and returns the mean return of the last evaluation."""
    check_args(args)
    require(args.v_max > args.v_min, "v_max", args.v_max, f"greater than --v-min {args.v_min}")
    envs = make_vector_env(args)
    device = start_torch(
        args, envs.single_observation_space.dtype == np.uint8, (args.num_envs, args.batch_size)
    )
    agent = Agent(args, envs.single_observation_space, envs.single_action_space, device)
    buffer = ReplayBuffer(args, envs.single_observation_space, envs.single_action_space, device)
    rng = np.random.default_rng(args.seed)  # exploration, and which transitions are replayed
    run = Run(args)
    if run.checkpoint:
        global_step, metrics, obs, autoreset = run.restore(agent, envs, rng, buffer)
    else:
        global_step, metrics, (obs, _), autoreset = 0, {}, envs.reset(), np.zeros(args.num_envs, bool)

    while global_step < args.total_timesteps:
        previous_step = global_step

        # 1. act
        # [noisy]
        epsilon_end, epsilon_steps = (
            (0, 1) if "noisy" in args.components else (args.epsilon_end, args.epsilon_steps)
        )
        epsilon = np.interp(
            global_step, [args.learning_starts, args.learning_starts + epsilon_steps], [1, epsilon_end]
        )
        # Each dimension explores for itself, about ε / D of the time
        # (misc/utils.py of github.com/tseyde/decqn)
        explores = rng.random((args.num_envs, agent.num_dims)) < epsilon / (
            epsilon + agent.num_dims * (1 - epsilon)
        )
        bins = rng.integers(0, len(agent.bin_actions), (args.num_envs, agent.num_dims))
        if not explores.all():
            bins = np.where(explores, bins, agent.q_values(obs, noisy=True).argmax(axis=2))

        # 2. step
        next_obs, rewards, terminations, truncations, infos = envs.step(
            agent.bin_actions[bins].reshape(envs.action_space.shape)
        )
        global_step += int(np.sum(~autoreset))

        # 3. store
        buffer.add(obs, bins, rewards, terminations, truncations, final=autoreset)
        obs, autoreset = next_obs, terminations | truncations

        # 4. update
        beta = np.interp(global_step, [0, args.beta_steps], [0.4, 1])  # [per]
        updates_due = int((global_step - args.learning_starts) * args.updates_per_step)
        while agent.num_updates < updates_due and buffer.size > buffer.n_step:
            batch = buffer.sample(args.batch_size, rng, beta)
            td_errors, metrics = agent.update(batch)
            buffer.update_priorities(batch.nodes, td_errors)  # [per]

        # 5. log
        run.log_episodes(global_step, infos)
        run.show_progress(global_step)
        if crossed(global_step, previous_step, LOG_FREQUENCY):
            run.log(
                global_step,
                metrics
                | {"charts/num_updates": agent.num_updates, "charts/epsilon": epsilon, "charts/beta": beta},
            )

        # 6. evaluate and checkpoint
        if crossed(global_step, previous_step, args.eval_frequency):
            run.evaluate(agent, global_step)
        if crossed(global_step, previous_step, args.checkpoint_frequency) or run.stop_signal:
            run.save(global_step, metrics, agent, envs, rng, buffer)
        run.exit_if_stopped()

    mean_return = run.evaluate(agent, global_step)
    run.save(global_step, metrics, agent, envs, rng, buffer)
    envs.close()
    run.close()
    run.print_result(mean_return)
    return mean_return


if __name__ == "__main__":
    train(parse_args(Args, PRESETS))
