"""Each algorithm solves, within seconds, what it must: small problems whose best return is zero."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box


class PointMass(gym.Env):
    """Five steps to bring a point to a target on [-1, 1]. Only the last one is rewarded: the others learn by bootstrapping."""

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


gym.register("PointMass-v0", PointMass)
gym.register("BrightColumn-v0", BrightColumn)

SAC = {"initial_alpha": 0.1, "learning_rate": 1e-3, "hidden_dim": 64, "batch_size": 64, "tau": 0.02, "buffer_size": 10_000}


def train(script: str, folder, **fields) -> float:
    module = importlib.import_module(f"cleanrl_cc.{script}")
    run = {"runs_dir": str(folder), "num_threads": 1, "device": "cpu", "precision": "fp32", "eval_frequency": 0, "eval_episodes": 50}
    return module.train(module.Args(**run | fields))


PPO = {"num_envs": 1, "num_steps": 256, "num_minibatches": 4, "learning_rate": 3e-3, "initial_log_std": -0.5}


@pytest.mark.parametrize(
    "script, fields",
    [
        ("sac_drq", SAC | {"total_timesteps": 1500, "learning_starts": 400, "gamma": 0.9}),
        ("ppo_continuous", PPO | {"total_timesteps": 8000, "learning_rate_schedule": "linear"}),
        ("ppo_continuous", PPO | {"total_timesteps": 8000, "learning_rate_schedule": "cosine", "action_distribution": "beta"}),
    ],
)
def test_a_point_is_brought_to_its_target(script, fields, tmp_path):
    assert train(script, tmp_path, env_id="PointMass-v0", **fields) > -0.1  # standing still: -0.67


@pytest.mark.parametrize(
    "script, fields",
    [
        ("sac_drq", SAC | {"total_timesteps": 900, "learning_starts": 200, "frame_stack": 1, "shift_pad": 1, "encoder_channels": 8}),
        ("ppo_continuous", PPO | {"total_timesteps": 3000, "frame_stack": 1, "encoder_channels": 8, "feature_dim": 64}),
    ],
)
def test_a_picture_tells_the_action(script, fields, tmp_path):
    assert train(script, tmp_path, env_id="BrightColumn-v0", image_size=36, **fields) > -0.1  # without looking: -0.5
