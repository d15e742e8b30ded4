"""Environments made for a test, and steps played in them."""

import json
from itertools import count

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from cleanrl_cc.common.envs import make_env, make_vector_env, restore_envs, snapshot_envs
from cleanrl_cc.sac_drq import Args

WALKER = "dm_control/walker-walk-v0"


class Stub(gym.Env):
    """Emits `observations` and `rewards` in turn, terminates after `length` steps, and
    keeps the last action that reached it."""

    def __init__(
        self,
        observation_space=None,
        action_space=None,
        observations=(0.0,),
        rewards=(1.0,),
        length=100,
        render_mode=None,
    ):
        self.observation_space = Box(-1, 1, (1,)) if observation_space is None else observation_space
        self.action_space = Box(-1, 1, (1,)) if action_space is None else action_space
        self.observations, self.rewards, self.length = observations, rewards, length
        self.reused = (
            np.zeros(self.observation_space.shape, self.observation_space.dtype)
            if isinstance(self.observation_space, Box)
            else None
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.action = action
        self.count += 1
        reward = self.rewards[(self.count - 1) % len(self.rewards)]
        return self.observe(), reward, self.count == self.length, False, {}

    def observe(self):
        obs = self.observations[self.count % len(self.observations)]
        if self.reused is None:
            return obs
        self.reused[...] = obs  # the same array at every step, as some simulators do
        return self.reused


class Plain(gym.Env):
    """The least that Gymnasium asks for: no render modes, no arguments."""

    observation_space, action_space = Box(-1, 1, (1,)), Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


stub_numbers = count()


def make_stub(recipe: dict | None = None, training_wrappers: tuple[str, ...] = (), **kwargs):
    env_id = f"Stub{next(stub_numbers)}-v0"
    gym.register(env_id, Stub, kwargs=kwargs)
    return make_env(env_id, **(recipe or {}), training_wrappers=training_wrappers)


def play(env, seed: int | None, num_steps: int, action_seed: int = 0) -> tuple[list, list]:
    """Observations and rewards of a few steps with always the same actions."""
    rng, observations, rewards = np.random.default_rng(action_seed), [env.reset(seed=seed)[0]], []
    for _ in range(num_steps):
        obs, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        observations.append(obs)
        rewards.append(reward)
    return observations, rewards


def assert_identical(arrays, others):
    for a, b in zip(arrays, others, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


numbers = count()


def made(kind: type, **recipe):
    """An environment of a class, wrapped."""
    env_id = f"Odd{next(numbers)}-v0"
    gym.register(env_id, kind)
    return make_env(env_id, **recipe)


def vector(name: str, **fields):
    return make_vector_env(Args(env_id=f"odd_envs:{name}-v0", **fields))


def check_snapshot(env_id: str, fields: dict, num_steps: int, moment: str, num_envs: int):
    """Takes a snapshot at the moment, goes on, and goes on again from the snapshot in other environments."""
    args = Args(env_id=env_id, num_envs=num_envs, seed=3, **fields)
    envs = make_vector_env(args)
    envs.action_space.seed(4)
    envs.reset()
    action = envs.action_space.sample()
    for step in count(1):
        action[...] = envs.action_space.sample()  # in an array that is used again, as a caller may
        obs, _, terminations, truncations, _ = envs.step(action)
        ended = terminations | truncations
        if ended.any() if moment == "right after an end" else step > 5 and not ended.any():
            break
    stored = json.dumps(snapshot_envs(envs))  # plain data
    actions = [envs.action_space.sample() for _ in range(num_steps)]
    expected = [envs.step(action)[:4] for action in actions]
    envs.close()

    resumed = make_vector_env(args)
    resumed_obs, autoreset, cut = restore_envs(resumed, json.loads(stored))
    assert_identical([obs, ended], [resumed_obs, autoreset])
    assert not cut.any()
    for action, results in zip(actions, expected, strict=True):
        assert_identical(results, resumed.step(action)[:4])
    resumed.close()
