"""Rainbow: DQN and six improvements, for discrete and for continuous actions.

    python cleanrl_cc/rainbow.py --env-id CarRacing-v3

Paper: Hessel et al. 2018, arXiv:1710.02298. The ideas, each marked by its name in the code: [double] the
online network chooses the next action, the target network values it (1509.06461); [per] larger errors are
replayed more often (1511.05952); [dueling] value and advantages in two streams (1511.06581); [noisy] noise in
the weights explores (1706.10295); [n-step] n rewards before bootstrapping; [c51] the return's distribution,
not its mean (1707.06887). With [double] alone the loss is dqn_atari_style.py's on several dimensions.

Differs from the paper:
- Rewards are scaled, not clipped: see `PRESETS`. Gradients are clipped by their norm.
- The support of returns follows the scale of rewards. Both streams share their input noise.
- Continuous actions as in dqn_atari_style.py, with the mixture of the dimensions' distributions.
"""

import math
import signal
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

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
from cleanrl_cc.common.ranges import Bins, Count, Nonnegative, Positive, Real, Size, Small, Steps, Unit, Width
from cleanrl_cc.common.runs import LOG_FREQUENCY, Run, crossed
from cleanrl_cc.common.sum_tree import SumTree
from cleanrl_cc.common.updates import Adam, clip, compile_policy, compile_update

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
    """parts added to DQN; without n-step one reward is summed, with noisy ε is 0"""
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


# The defaults above: Hessel et al. 2018, table 1, for the components; the rest is dqn_atari_style.py's.
ZOO = {"total_timesteps": 100_000, "buffer_size": 50_000, "batch_size": 128, "learning_starts": 1_000}
ZOO |= {"updates_per_step": 1.0, "learning_rate": 6.3e-4, "epsilon_steps": 12_000, "epsilon_end": 0.1}
ZOO |= {"hidden_dim": 256}
PRESETS = {
    "CartPole-v1": ZOO
    | {"total_timesteps": 50_000, "batch_size": 64, "updates_per_step": 0.5, "learning_rate": 2.3e-3}
    | {"beta_steps": 50_000, "v_min": 0.0, "v_max": 100.0}
    | {"target_update_frequency": 128, "epsilon_steps": 8_000, "epsilon_end": 0.04},
    "LunarLander-v3": ZOO | {"action_set": "native", "beta_steps": 100_000, "v_min": -200.0, "v_max": 200.0},
    "Acrobot-v1": ZOO | {"beta_steps": 100_000, "v_min": -100.0, "v_max": 0.0},
    "CarRacing-v3": {"total_timesteps": 100_000, "action_set": "five", "action_repeat": 4, "gamma": 0.97}
    | {"training_wrappers": ("RoadRules,speed_limit=60",), "checkpoint_frequency": 10_000}
    | {"batch_size": 64, "learning_starts": 1_000, "updates_per_step": 0.5, "n_step": 3, "eval_episodes": 20}
    | {"beta_steps": 100_000, "v_min": -5.0, "v_max": 10.0}
    | {"reward_scale": 0.05, "target_update_frequency": 500, "epsilon_steps": 15_000, "encoder_channels": 16},
    "dm_control/*": {"total_timesteps": 500_000, "obs": "pixels", "action_repeat": 2, "frame_stack": 3}
    | {"grayscale": False, "batch_size": 256, "learning_starts": 2_000, "updates_per_step": 0.5, "n_step": 3}
    | {"reward_scale": 0.1, "target_update_frequency": 100, "epsilon_steps": 10_000, "epsilon_end": 0.1}
    | {"random_shift": True, "beta_steps": 500_000, "v_min": 0.0, "v_max": 20.0},
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


class NoisyLinear(nn.Linear):  # [noisy]
    """Weights with factorised noise, drawn at each call, none in `eval` mode (Fortunato et al. 2018)."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__(in_dim, out_dim)
        self.weight_sigma = nn.Parameter(torch.full_like(self.weight, 0.5 / math.sqrt(in_dim)))
        self.bias_sigma = nn.Parameter(torch.full_like(self.bias, 0.5 / math.sqrt(in_dim)))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        # y = (W + Σ ⊙ ε_out ε_inᵀ) x + b + σ ⊙ ε_out,  ε = sgn(z) √|z|,  z ~ N(0, 1)
        draws = (torch.randn_like(self.bias), torch.randn_like(self.weight[0]))
        noise_out, noise_in = (z.sign() * z.abs().sqrt() for z in draws)
        weight = torch.addcmul(self.weight, self.weight_sigma, noise_out[:, None] * noise_in)
        bias = torch.addcmul(self.bias, self.bias_sigma, noise_out)
        return F.linear(x, weight, bias)  # two products, W x and Σ x, are no faster


class QNetwork(nn.Module):
    """Returns of every bin of every dimension: (B, *obs_shape) to (B, D, bins, K), logits, or Q if K = 1."""

    def __init__(self, args: Args, obs_shape: tuple[int, ...], num_dims: int, num_bins: int):
        super().__init__()
        if len(obs_shape) == 3:
            self.encoder = Encoder(obs_shape, args.encoder_channels)
            in_dim = self.encoder.out_dim
        else:  # LayerNorm keeps the values from running away (networks.py of github.com/tseyde/decqn)
            first = nn.Linear(obs_shape[0], args.hidden_dim)
            self.encoder = nn.Sequential(first, nn.LayerNorm(args.hidden_dim), nn.Tanh())
            in_dim = args.hidden_dim
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
    """B transitions; the return is `rewards`, of up to n steps, plus `gammas` times that from `next_obs`."""

    obs: Tensor  # (B, *obs_shape), float32 or uint8
    actions: Tensor  # (B, D) int64, the bin of each action dimension
    rewards: Tensor  # (B,)
    next_obs: Tensor  # (B, *obs_shape)
    terminations: Tensor  # (B,) 1.0 where the episode terminated inside the window, and nothing is beyond
    gammas: Tensor  # (B,) gamma ** number of rewards summed
    weights: Tensor  # (B,) [per] importance weights
    places: Tensor  # (2, B) int64 [per] rows and environments


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
        self.double = "double" in args.components
        self.c51 = "c51" in args.components
        self.atoms = torch.linspace(args.v_min, args.v_max, args.num_atoms, device=device)  # [c51] (K,)
        sizes = (obs_space.shape, self.num_dims, len(self.bin_actions))
        self.q_network = QNetwork(args, *sizes)
        self.q_target = QNetwork(args, *sizes).requires_grad_(False)
        self.q_target.load_state_dict(self.q_network.state_dict())
        self.to(device)
        self.q_optimizer = Adam(self.q_network.parameters(), args.learning_rate, eps=1.5e-4)
        self.optimizers = {"q": self.q_optimizer}
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=args.precision == "bf16")
        self.num_updates = 0
        if args.compile:
            self.update_critic = compile_update(self.update_critic, args, device)
            self.policy = compile_policy(self.policy, args, device)

    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions, (N, A) in [-1, 1] or (N,) integers, for (N, *obs_shape); deterministic: no noise."""
        bins = self.q_values(obs, noisy=not deterministic).argmax(axis=2)  # (N, D): each for itself
        return self.bin_actions[bins].reshape(-1, *self.action_shape)

    def value(self, obs: np.ndarray) -> np.ndarray:
        """max_a Q(s, a), (N,), in units of the environment's reward."""
        return self.q_values(obs).max(axis=2).mean(axis=1) / self.args.reward_scale

    @torch.no_grad()
    def q_values(self, obs: np.ndarray, noisy: bool = False) -> np.ndarray:
        """Q_d(s, b), (N, D, bins)."""
        self.q_network.train(noisy)  # [noisy]
        q = self.policy(torch.as_tensor(obs, device=self.device))
        self.q_network.train()
        return q.cpu().numpy()

    def policy(self, obs: Tensor) -> Tensor:
        """What `q_values` computes on the device; with --compile on a GPU one graph."""
        with self.autocast():
            return self.expected(self.q_network(obs))

    def expected(self, outputs: Tensor) -> Tensor:
        """Q of the network's outputs (..., K): [c51] Σ_k z_k p_k."""
        return (outputs.softmax(dim=-1) * self.atoms).sum(dim=-1) if self.c51 else outputs.squeeze(-1)

    def project(self, probs: Tensor, rewards: Tensor, gammas: Tensor) -> Tensor:  # [c51]
        """The distribution of R + γ Z on the atoms of Z, (B, K) (Bellemare et al. 2017, equation 7)."""
        # m_i = Σ_k p_k max(0, 1 - |clamp(R + γ z_k) - z_i| / Δz): an atom hit exactly takes all of p_k
        moved = (rewards[:, None] + gammas[:, None] * self.atoms).clamp(self.args.v_min, self.args.v_max)
        distances = (moved[:, None, :] - self.atoms[:, None]).abs()  # (B, i, k)
        shares = (1 - distances / (self.atoms[1] - self.atoms[0])).clamp(min=0)
        return (shares * probs[:, None, :]).sum(dim=2)

    def random_shift(self, images: Tensor) -> Tensor:
        """Each image (B, C, H, W) moved by up to `shift_pad` pixels, edges repeated (DrQ, section 3.1)."""
        batch_size, _, height, width = images.shape
        pad = self.args.shift_pad
        shifts = torch.randint(-pad, pad + 1, (2, batch_size, 1), device=images.device)
        ys = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)  # (B, H)
        xs = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)  # (B, W)
        places = (ys[:, :, None] * width + xs[:, None, :]).flatten(1)  # (B, H * W)
        return take_pixels(images, places)

    def update(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of the online network; now and then one of the target. Returns TD errors (B,), metrics."""
        if self.args.random_shift and batch.obs.ndim == 4:
            batch = batch._replace(obs=self.random_shift(batch.obs))
            batch = batch._replace(next_obs=self.random_shift(batch.next_obs))
        td_errors, metrics = self.update_critic(batch)
        self.num_updates += 1
        if self.num_updates % self.args.target_update_frequency == 0:
            self.q_target.load_state_dict(self.q_network.state_dict())  # θ̄ ← θ
        return td_errors, metrics

    def update_critic(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What --compile makes one graph."""
        rewards = self.args.reward_scale * batch.rewards
        gammas = batch.gammas * (1 - batch.terminations)
        with torch.no_grad(), self.autocast():
            next_outputs = self.q_target(batch.next_obs)  # (B, D, bins, K)
            chooser = self.q_network(batch.next_obs) if self.double else next_outputs  # [double]
            next_bins = self.expected(chooser).argmax(dim=2)  # (B, D)
            next_outputs = next_outputs.take_along_dim(next_bins[:, :, None, None], dim=2).squeeze(2)
        with self.autocast():
            outputs = self.q_network(batch.obs)
            outputs = outputs.take_along_dim(batch.actions[:, :, None, None], dim=2).squeeze(2)  # (B, D, K)
        q = self.expected(outputs).mean(dim=1)  # Q(s, a) = 1/D Σ_d Q_d(s, a_d)
        metrics = {"losses/q": q.detach().mean()}
        if self.c51:  # δ = KL(m || p), m projected from R + γᵐ (1 - d) Z̄(s', a'), p, Z̄ means over d
            target_probs = self.project(next_outputs.softmax(dim=2).mean(dim=1), rewards, gammas)
            log_probs = outputs.log_softmax(dim=2).logsumexp(dim=1) - math.log(self.num_dims)
            td_errors = losses = F.kl_div(log_probs, target_probs, reduction="none").sum(dim=1)
            metrics["losses/edge_mass"] = (target_probs[:, 0] + target_probs[:, -1]).mean()
        else:  # δ = Q(s, a) - R - γᵐ (1 - d) Q̄(s', a')
            target_q = rewards + gammas * next_outputs.squeeze(2).mean(dim=1)
            loss = F.smooth_l1_loss if self.args.loss == "huber" else F.mse_loss
            losses = loss(q, target_q, reduction="none")
            td_errors = q - target_q
        qf_loss = (batch.weights * losses).mean()
        gradients = torch.autograd.grad(qf_loss, self.q_optimizer.parameters)
        self.q_optimizer.step(clip(gradients, max_norm=10))
        return td_errors.detach(), metrics | {"losses/qf_loss": qf_loss.detach()}


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
        self.n_step = args.n_step if "n-step" in args.components else 1  # [n-step]
        self.stack = args.frame_stack if obs_space.dtype == np.uint8 else 1
        self.num_rows = args.buffer_size // args.num_envs
        smallest = args.num_envs * (self.stack + self.n_step + 1)
        expected = f"at least {smallest} for one whole window"
        require(args.buffer_size >= smallest, "buffer_size", args.buffer_size, expected)
        self.obs_shape = obs_space.shape
        frame_shape = (obs_space.shape[0] // self.stack, *obs_space.shape[1:])
        frame_dtype = torch.uint8 if obs_space.dtype == np.uint8 else torch.float32
        num_dims = math.prod(action_space.shape or ())  # 1 of a Discrete space
        row_bytes = math.prod(frame_shape) * frame_dtype.itemsize + 2 * num_dims + 48
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
        self.priorities = SumTree(shape)  # [per]
        self.max_priority = np.ones(1)
        self.exponent = 0.5 if "per" in args.components else 0.0  # 0: all priorities are equal

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
        # [per] A row has the largest priority once n rows are ahead of it, and none without its whole stack.
        ready = (row - self.n_step) % self.num_rows
        cut = (row + self.stack - 1) % self.num_rows
        self.priorities[[ready, cut]] = [~self.final[ready] * self.max_priority, np.zeros(self.args.num_envs)]
        self.num_added += 1

    def sample(self, batch_size: int, rng: np.random.Generator, beta: float = 1.0) -> Batch:
        """By priority, of the rows that can start a window: not final, a whole stack behind, n rows ahead."""
        # [per] P(i) = p_i / Σ p, one draw from each of B equal shares of the sum;  w_i = (P_min / P_i) ** β
        shares = np.arange(batch_size) + rng.random(batch_size)
        rows, envs = self.priorities.find(shares * self.priorities.total / batch_size)
        priorities = self.priorities[rows, envs]
        weights = (priorities.min() / priorities) ** beta

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
            to_tensor(weights),
            torch.as_tensor(np.stack([rows, envs])),
        )

    def update_priorities(self, places: Tensor, td_errors: Tensor):  # [per]
        """p = (|δ| + ε) ** α for the rows of a batch."""
        rows, envs = places.numpy()
        self.priorities[rows, envs] = (td_errors.abs().cpu().numpy() + 1e-6) ** self.exponent
        self.max_priority = np.maximum(self.max_priority, self.priorities[rows, envs].max())

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
        filled |= {"tree": self.priorities.nodes, "max_priority": self.max_priority}
        return filled | {"num_added": np.array(self.num_added)}


# --- training ---


def train(args: Args, run_class: type[Run] = Run) -> float:
    """Trains, and returns the mean return of the last evaluation; a subclass of `Run` may watch it."""
    check_args(args)
    require(args.v_max > args.v_min, "v_max", args.v_max, f"greater than --v-min {args.v_min}")
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
        if "noisy" in args.components:  # [noisy] after random actions the weights' noise alone explores
            epsilon = float(global_step <= args.learning_starts)
        # Each dimension explores by itself, ε / D of the time (misc/utils.py of github.com/tseyde/decqn)
        share = epsilon / (epsilon + agent.num_dims * (1 - epsilon))
        explores = rng.random((args.num_envs, agent.num_dims)) < share
        bins = rng.integers(0, len(agent.bin_actions), (args.num_envs, agent.num_dims))
        if not explores.all():
            bins = np.where(explores, bins, agent.q_values(obs, noisy=True).argmax(axis=2))

        # 2. step
        actions = agent.bin_actions[bins].reshape(envs.action_space.shape)
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        global_step += int(np.sum(~autoreset))

        # 3. store
        buffer.add(obs, bins, rewards, terminations, truncations, final=autoreset)
        obs = next_obs
        autoreset = terminations | truncations

        # 4. update
        beta = np.interp(global_step, [0, args.beta_steps], [0.4, 1])  # [per]
        updates_due = int((global_step - args.learning_starts) * args.updates_per_step)
        while agent.num_updates < updates_due and buffer.size > buffer.n_step:
            batch = buffer.sample(args.batch_size, rng, beta)
            td_errors, metrics = agent.update(batch)
            buffer.update_priorities(batch.places, td_errors)  # [per]

        # 5. log
        run.log_episodes(global_step, infos)
        if crossed(global_step, previous_step, LOG_FREQUENCY):
            if metrics.get("losses/edge_mass", 0) > 0.2:  # [c51]
                support = f"--v-min {args.v_min:g} to --v-max {args.v_max:g}: if they would go on beyond it"
                run.warn(f"a fifth of returns are at an end of {support}, widen it or lower --reward-scale.")
            run.log(global_step, metrics | {"charts/epsilon": epsilon, "charts/beta": beta})

        # 6. evaluate and checkpoint
        run.evaluate_and_save(global_step, previous_step, metrics)

    return run.finish(global_step, metrics)


if __name__ == "__main__":
    train(parse_args(Args, PRESETS))
