"""Small environments with known answers, registered for every test."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box

torch.set_num_threads(1)  # pytest -n already keeps every core busy


class Counting(gym.Env):
    """Observations tell the episode (a 16-bit tag) and the step, as two floats or in the first pixels of a 4x4 image.

    Tags, lengths (1 to 9), the kind of end and rewards are random, and repeat with the seed.
    """

    def __init__(self, images: bool, render_mode=None):
        self.images = images
        self.observation_space = Box(0, 255, (4, 4), np.uint8) if images else Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tag, self.length, self.count = int(self.np_random.integers(2**16)), int(self.np_random.integers(1, 10)), 0
        return self.observe(), {}

    def step(self, action):
        self.count += 1
        terminated, truncated = ((True, False), (False, True), (True, True))[self.np_random.integers(3)]
        ended = self.count == self.length
        return self.observe(), float(self.np_random.normal()), ended and terminated, ended and truncated, {}

    def observe(self) -> np.ndarray:
        if not self.images:
            return np.array([self.tag, self.count], np.float32)
        image = np.zeros((4, 4), np.uint8)
        image[0, :3] = self.tag >> 8, self.tag & 255, self.count
        return image


gym.register("CountingState-v0", Counting, kwargs={"images": False})
gym.register("CountingImages-v0", Counting, kwargs={"images": True})


class Stub(gym.Env):
    """Emits `observations` in turn, in one array that it reuses, rewards 1, never ends, and keeps the last action it got."""

    def __init__(self, observation_space=None, action_space=None, observations=(0.0,), render_mode=None):
        self.observation_space = Box(-1, 1, (1,)) if observation_space is None else observation_space
        self.action_space = Box(-1, 1, (1,)) if action_space is None else action_space
        self.observations, self.reused = observations, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = -1
        return self.observe(), {}

    def step(self, action):
        self.action = action
        return self.observe(), 1.0, False, False, {}

    def observe(self):
        self.count += 1
        obs = self.observations[self.count % len(self.observations)]
        if not isinstance(self.observation_space, Box):
            return obs
        if self.reused is None:
            self.reused = np.empty(self.observation_space.shape, self.observation_space.dtype)
        self.reused[...] = obs
        return self.reused


class PointMass(gym.Env):
    """Five steps to bring a point to a target on [-1, 1]. Only the last step is rewarded, so the others learn by bootstrapping."""

    observation_space, action_space = Box(-np.inf, np.inf, (3,), np.float32), Box(-1, 1, (1,), np.float32)
    num_steps = 5

    def __init__(self, render_mode=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.target = self.np_random.uniform(-1, 1, 2)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.position = np.clip(self.position + 0.5 * action[0], -1, 1)
        self.count += 1
        ended = self.count == self.num_steps
        return self.observe(), -abs(self.position - self.target) if ended else 0.0, ended, False, {}

    def observe(self) -> np.ndarray:
        return np.array([self.position, self.target, self.count / self.num_steps], np.float32)


gym.register("PointMass-v0", PointMass)


class BrightColumn(gym.Env):
    """One step: the place of a bright column in the image is the action to take."""

    observation_space, action_space = Box(0, 255, (36, 36), np.uint8), Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.column = int(self.np_random.integers(4, 30))
        return self.observe(), {}

    def step(self, action):
        return self.observe(), -((action[0] - (self.column - 16.5) / 15) ** 2), True, False, {}

    def observe(self) -> np.ndarray:
        image = np.zeros((36, 36), np.uint8)
        image[:, self.column : self.column + 3] = 255
        return image


gym.register("BrightColumn-v0", BrightColumn)
