"""An environment with known answers, registered for every test; one thread a process, for pytest -n."""

import importlib.util
import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that tests start

import gymnasium as gym
import numpy as np
import odd_envs
import pytest
import torch
from gymnasium.spaces import Box

torch.set_num_threads(1)  # pytest -n already keeps every core busy


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """What is not marked as slow is quick. Without dm_control what needs it is skipped."""
    for item in items:
        if "slow" not in item.keywords:
            item.add_marker(pytest.mark.quick)
    if importlib.util.find_spec("dm_control") is None:
        for item in items:
            if any(
                word in item.nodeid for word in ("dm_control", "orridor", "test_obstacles", "test_rendering")
            ):
                item.add_marker(
                    pytest.mark.skip(
                        reason="dm_control is not installed: labmaze has no wheel for Python 3.13"
                    )
                )


@pytest.fixture(autouse=True)
def fresh_counts(monkeypatch):
    """The environments of `odd_envs.py` count steps and resets from the beginning of each test."""
    for kind in vars(odd_envs).values():
        for name in ("steps", "resets"):
            if isinstance(kind, type) and name in vars(kind):
                monkeypatch.setattr(kind, name, 0)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda: 2)


@pytest.fixture(scope="module")
def short_laps():
    """CarRacing's episodes are cut after 100 frames, in this process and its children: an evaluation takes a
    tenth of the time, and training has ends, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gym.spec("cleanrl_cc/FastCarRacing-v3"), "max_episode_steps", 100)
        yield


@pytest.fixture(scope="module")
def short_pendulum():
    """Pendulum's episodes are cut after 50 steps instead of 200, in this process and its children: a film
    takes a quarter of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gym.spec("Pendulum-v1"), "max_episode_steps", 50)
        yield


class Counting(gym.Env):
    """Observations tell the episode (a 16-bit tag) and the step, as two floats
    or in the first pixels of a 4x4 image.

    Tags, lengths (1 to 9), the kind of end and rewards are random, and repeat with the seed.
    """

    def __init__(self, images: bool, render_mode=None):
        self.images = images
        self.observation_space = (
            Box(0, 255, (4, 4), np.uint8) if images else Box(-np.inf, np.inf, (2,), np.float32)
        )
        self.action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tag = int(self.np_random.integers(2**16))
        self.length = int(self.np_random.integers(1, 10))
        self.count = 0
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
