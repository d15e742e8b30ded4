"""Each algorithm solves, within seconds, what it must: small problems whose best return is zero."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

pytestmark = pytest.mark.slow


class PointMass(gym.Env):
    """Five steps to bring a point to a target on [-1, 1]. Only the last one is
    rewarded: the others learn by bootstrapping."""

    observation_space, action_space = Box(-np.inf, np.inf, (3,), np.float32), Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.num_steps = 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        (self.position, self.target), self.count = self.np_random.uniform(-1, 1, 2), 0
        return self.observe(), {}

    def step(self, action):
        self.position = np.clip(self.position + 0.5 * action[0], -1, 1)
        self.count += 1
        ended = self.count == self.num_steps
        return self.observe(), -abs(self.position - self.target) if ended else 0.0, ended, False, {}

    def observe(self) -> np.ndarray:
        return np.array([self.position, self.target, self.count / self.num_steps], np.float32)


class BrightColumn(gym.Env):
    """One step: the place of a bright column in the image is the action to take."""

    observation_space, action_space = Box(0, 255, (36, 36), np.uint8), Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.column = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.column = int(self.np_random.integers(3, 31))
        return self.observe(), {}

    def step(self, action):
        return self.observe(), -abs(action[0] - (self.column - 16.5) / 13.5), True, False, {}

    def observe(self) -> np.ndarray:
        image = np.zeros((36, 36), np.uint8)
        image[:, self.column : self.column + 3] = 255
        return image


class Echo(gym.Env):
    """One step: the observation is the action to take, which are numbered from 1."""

    observation_space, action_space = Box(0, 1, (4,), np.float32), Discrete(4, start=1)

    def __init__(self, render_mode=None):
        self.number = 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(1, 5))
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observe(), -float(action != self.number), True, False, {}

    def observe(self) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[self.number - 1]


gym.register("Echo-v0", Echo)
gym.register("PointMass-v0", PointMass)
gym.register("BrightColumn-v0", BrightColumn)

OFF_POLICY = {"learning_rate": 1e-3, "hidden_dim": 64, "batch_size": 64, "tau": 0.02, "buffer_size": 10_000}
SAC = OFF_POLICY | {"initial_alpha": 0.1}
NOISE = OFF_POLICY | {"exploration_noise": 0.5, "exploration_steps": 1000}
DQN = {"bins": 15, "learning_rate": 1e-3, "hidden_dim": 64, "batch_size": 64, "target_update_frequency": 50}
DQN |= {"updates_per_step": 1.0, "epsilon_steps": 500, "epsilon_end": 0.1}
RAINBOW = DQN | {"beta_steps": 2000, "v_min": -1.0, "v_max": 0.0, "num_atoms": 21}
PPO = {"num_envs": 8, "num_steps": 32, "num_minibatches": 4, "learning_rate": 3e-3, "initial_log_std": -0.5}
POINT = {"total_timesteps": 800, "learning_starts": 200, "gamma": 0.9, "learning_rate": 3e-3}
PICTURE = {"total_timesteps": 600, "learning_starts": 150, "frame_stack": 1, "encoder_channels": 4}
PICTURE |= {"batch_size": 32, "learning_rate": 2e-3}
# distributions and noise take more updates, and larger ones
RAINBOW_PICTURE = RAINBOW | {"total_timesteps": 1200, "learning_starts": 600, "frame_stack": 1}
RAINBOW_PICTURE |= {"encoder_channels": 8}


def train(script: str, folder, **fields) -> float:
    module = importlib.import_module(f"cleanrl_cc.{script}")
    run = {
        "runs_dir": str(folder),
        "num_threads": 1,
        "device": "cpu",
        "precision": "fp32",
        "eval_frequency": 0,
        "eval_episodes": 50,
    }
    return module.train(module.Args(**run | fields))


@pytest.mark.parametrize(
    "script, fields",
    [
        ("sac_drq", SAC | POINT),
        ("td3", NOISE | POINT),
        ("ddpg", NOISE | POINT),
        ("ddpg", NOISE | POINT | {"batch_norm": True, "exploration_noise_type": "ou"}),
        ("dqn_atari_style", DQN | POINT | {"total_timesteps": 1700}),
        (
            "rainbow",
            RAINBOW | {"num_atoms": 51, "total_timesteps": 4500, "learning_starts": 1000, "gamma": 0.9},
        ),
        ("ppo_continuous", PPO | {"total_timesteps": 4096, "learning_rate_schedule": "linear"}),
        (
            "ppo_continuous",
            PPO
            | {"total_timesteps": 4096, "learning_rate_schedule": "cosine", "action_distribution": "beta"},
        ),
    ],
)
def test_a_point_is_brought_to_its_target(script, fields, tmp_path):
    assert train(script, tmp_path, env_id="PointMass-v0", **fields) > -0.1  # standing still: -0.67


@pytest.mark.parametrize(
    "script, fields",
    [
        ("sac_drq", SAC | PICTURE | {"shift_pad": 1}),
        ("td3", NOISE | PICTURE | {"shift_pad": 1}),
        ("ddpg", NOISE | PICTURE | {"random_shift": False}),
        ("dqn_atari_style", DQN | PICTURE),
        ("rainbow", RAINBOW_PICTURE),
        (
            "ppo_continuous",
            PPO | {"total_timesteps": 2048, "frame_stack": 1, "encoder_channels": 4, "feature_dim": 64},
        ),
    ],
)
def test_a_picture_tells_the_action(script, fields, tmp_path):
    # without looking: -0.5
    assert train(script, tmp_path, env_id="BrightColumn-v0", image_size=36, **fields) > -0.1


@pytest.mark.parametrize(
    "script, fields",
    [("dqn_atari_style", DQN), ("rainbow", RAINBOW), ("rainbow", RAINBOW | {"components": ("double",)})],
)
def test_a_discrete_action_is_chosen_by_what_is_seen(script, fields, tmp_path):
    # by chance: -0.75
    assert train(script, tmp_path, env_id="Echo-v0", total_timesteps=500, learning_starts=100, **fields) == 0
