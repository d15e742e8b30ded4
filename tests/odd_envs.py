"""Environments as users write them, `odd_envs:Name-v0` on a command line: each is odd in one thing."""

import os
import sys
import time
from types import MappingProxyType

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple


class Walk(gym.Env):
    """One step to the left or to the right; 30 of them."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    action_space = Box(-1, 1, (1,), np.float32)
    observation_space = Box(-9, 9, (2,), np.float32)
    length = 30

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.place = self.begin()
        return self.observe(), self.tell()

    def step(self, action):
        self.time += 1
        self.place = float(np.clip(self.place + 0.2 * self.direction(action), -2, 2))
        return self.observe(), self.reward(), False, self.time >= self.length, self.tell()

    def begin(self) -> float:
        return float(self.np_random.uniform(-1, 1))

    def direction(self, action) -> float:
        return float(action[0])

    def observe(self):
        return np.array([self.place, self.time / 30], np.float32)

    def reward(self):
        return -abs(self.place)

    def tell(self):
        return {}

    def render(self):
        return np.full((40, 40, 3), self.time % 256, np.uint8)


class Brightening(Walk):
    """Emits a picture that is one brighter at each step, in numbers that hold more than a picture may."""

    observation_space = Box(0, 255, (40, 40), np.uint8)
    length = 1000

    def observe(self):
        return np.full((40, 40), self.time, np.int64)


class Growing(Walk):
    """Observes more numbers each time that it is made."""

    made = 0

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode)
        Growing.made += 1
        self.size = Growing.made
        self.observation_space = Box(-9, 9, (self.size,), np.float32)

    def observe(self):
        return np.full(self.size, self.place, np.float32)


class Wanders(Walk):
    """Goes to another working directory at each reset."""

    def begin(self):
        os.chdir("/")
        return super().begin()


# --- actions ---


class Lookup(Walk):
    """Its action is the key of a dictionary, as in grid worlds."""

    action_space = Discrete(3)

    def direction(self, action):
        return {0: -1.0, 1: 0.0, 2: 1.0}[action]


class Shifted(Lookup):
    """Its first action is -1."""

    action_space = Discrete(3, start=-1)

    def direction(self, action):
        return super().direction(action + 1)


class ManyActions(Walk):
    """More actions than an int16 has values."""

    action_space = Discrete(40_000)

    def direction(self, action):
        assert 0 <= action < 40_000
        return action / 20_000 - 1


class NoEndOfActions(Walk):
    """An action for each number that four bytes hold."""

    action_space = Discrete(2**32)


# --- names that we have, too ---


class OurNames(Walk):
    """Uses names of our wrappers for things of its own."""

    frames = rendering = False
    episode_metrics = draw = stack = pixels = mujoco_renderer = physics = record = "mine"

    def step(self, action):
        assert self.frames is False and self.rendering is False and self.pixels == self.physics == "mine"
        return super().step(action)


class InfoNumber(Walk):
    """info["episode"] is a number, in every step."""

    def tell(self):
        return {"episode": self.time}


class InfoDict(Walk):
    """info["episode"] is a dictionary of its own, in every step."""

    def tell(self):
        return {"episode": {"number": 3}, "_episode": True}


# --- randomness ---


class GlobalRandom(Walk):
    """Ignores its seed: NumPy's global generator."""

    def begin(self):
        return float(np.random.uniform(-1, 1))


class Unrepeatable(Walk):
    """Ignores its seed: the system's generator."""

    def begin(self):
        return float(int.from_bytes(os.urandom(2), "big") / 2**16)


class Unrewarded(Unrepeatable):
    """Only its observations tell."""

    def reward(self):
        return 0.0


class HiddenRandom(Unrepeatable):
    """Only its rewards tell."""

    def observe(self):
        return np.zeros(2, np.float32)


class EndsEarlier(Walk):
    """Its second episode, which is the replay of the first, has three steps."""

    resets = 0

    def reset(self, **kwargs):
        type(self).resets += 1
        self.length = 3 if type(self).resets == 2 else 30
        return super().reset(**kwargs)


class FailsAgain(EndsEarlier):
    """Fails in its second episode."""

    resets = 0

    def step(self, action):
        assert self.length == 30, "not again"
        return super().step(action)


# --- observations ---


def emits(space: gym.Space) -> type[Walk]:
    """An environment with random observations from `space`; a fourth channel "RGBA" is opaque."""

    class Emits(Walk):
        observation_space = space

        def observe(self):
            self.observation_space.seed(self.time)
            return self.observation_space.sample()

    return Emits


def image(*shape: int, high: int = 255, dtype=np.uint8) -> Box:
    return Box(0, high, shape, dtype)


class ChannelFirst(Walk):
    """A bar in a picture (3, 64, 64)."""

    observation_space = image(3, 64, 64)

    def observe(self):
        picture = np.zeros((3, 64, 64), np.uint8)
        picture[:, :, int(15 * (self.place + 2)) :][:, :, :4] = 255
        return picture


class Opaque(Walk):
    """RGBA."""

    observation_space = image(40, 40, 4)

    def observe(self):
        picture = np.full((40, 40, 4), 100 + self.time, np.uint8)
        picture[..., 3] = 255
        return picture


class OwnStack(Walk):
    """Its last four frames, each as bright as the time."""

    observation_space = image(4, 40, 40)

    def observe(self):
        times = np.maximum(self.time - np.arange(4)[::-1], 0)
        return np.broadcast_to(times[:, None, None], (4, 40, 40)).astype(np.uint8)


class Board(Walk):
    """A board of 0, 1 and 2."""

    observation_space = image(6, 7, high=2)

    def observe(self):
        board = np.zeros((6, 7), np.uint8)
        board[0, int(np.clip(3 + 2 * self.place, 0, 6))] = 2
        return board


# --- broken promises ---


class NoSpace(gym.Env):
    """Forgot to say what it observes."""

    action_space = Walk.action_space


class NoActions(Walk):
    action_space = 3


class NoNumbers(Walk):
    observation_space = Box(-5, 5, (0,), np.float32)


class NoNumberToGive(Walk):
    action_space = Box(-1, 1, (2, 0), np.float32)


class LongVector(Walk):
    """A place among a thousand million."""

    observation_space = Discrete(10**9)

    def observe(self):
        return 7


class OneForThree(Walk):
    observation_space = Box(-5, 5, (3,), np.float32)

    def observe(self):
        return np.array([self.place], np.float32)


class FloatsForBytes(Walk):
    observation_space = image(40, 40)

    def observe(self):
        return np.full((40, 40), 0.5)


class MissingKey(Walk):
    observation_space = Dict({"place": Box(-2, 2), "time": Box(0, 30)})

    def observe(self):
        return {"place": np.zeros(1, np.float32)}


class TooShort(Walk):
    observation_space = Tuple([Box(-2, 2), Discrete(4)])

    def observe(self):
        return (np.zeros(1, np.float32),)


class NoSuchNumber(Walk):
    observation_space = Discrete(4)

    def observe(self):
        return 4


class InfoNone(Walk):
    def tell(self):
        return None


class InfoProxy(Walk):
    def tell(self):
        return MappingProxyType({"battery": 1.0})


class ObservesNone(Walk):
    """Forgot to return it."""

    def observe(self):
        return None


class RewardArray(Walk):
    def reward(self):
        return np.array([1.0])


class RewardText(Walk):
    def reward(self):
        return "1.0"


class FourValues(Walk):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class ResetAlone(Walk):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NoSeed(Walk):
    def reset(self):
        return super().reset()


class BeyondBounds(Walk):
    observation_space = Box(-9, 9, (2,), np.float32)

    def observe(self):
        return np.array([10, self.time], np.float32)


# --- faults ---


class NaNObservation(Walk):
    """From the 101st step of the process on."""

    steps = 0

    def step(self, action):
        type(self).steps += 1
        return super().step(action)

    def observe(self):
        return super().observe() * (np.nan if type(self).steps > 100 else 1)


class InfiniteReward(NaNObservation):
    steps = 0

    def observe(self):
        return Walk.observe(self)

    def reward(self):
        return np.inf if type(self).steps > 100 else 0.0


class Half(InfiniteReward):
    """Infinite in a type without larger numbers."""

    steps = 0

    def reward(self):
        return np.float16(super().reward())


class TooLarge(InfiniteReward):
    """A number that float32 does not have."""

    steps = 0

    def reward(self):
        return 1e300 if type(self).steps > 100 else 0.0


class Shorter(InfiniteReward):
    """One number in the place of two."""

    steps = 0

    def observe(self):
        return Walk.observe(self)[: 1 if type(self).steps > 100 else 2]

    def reward(self):
        return 0.0


class Raises(InfiniteReward):
    steps = 0

    def reward(self):
        assert type(self).steps <= 100, "the\nbattery is empty"
        return 0.0


class Quits(InfiniteReward):
    """As if its window were closed."""

    steps = 0

    def reward(self):
        if type(self).steps > 100:
            sys.exit()
        return 0.0


class Exits(InfiniteReward):
    """Its process ends without a word."""

    steps = 0

    def reward(self):
        if type(self).steps > 20:
            os._exit(3)
        return 0.0


class Hangs(InfiniteReward):
    steps = 0

    def reward(self):
        time.sleep(3600 if type(self).steps > 20 else 0)
        return 0.0


class Unclosed(Walk):
    def close(self):
        raise RuntimeError("closed already")


class DoublePrecision(Walk):
    def __init__(self, render_mode=None):
        torch.set_default_dtype(torch.float64)


class NothingElse(Walk):
    """Asked for what it does not have, it fails."""

    def __getattr__(self, name):
        return {}[name]


class Unmade(Walk):
    def __init__(self, render_mode=None):
        raise LookupError("no licence")


class Unbegun(Walk):
    def __init__(self, render_mode=None):
        sys.exit(0)


# --- pictures and ends ---


class FpsNone(Walk):
    metadata = {"render_modes": ["rgb_array"], "render_fps": None}


class GrayFilm(Walk):
    """Draws in gray, and says nothing of its films."""

    metadata = {"render_modes": ["rgb_array"]}

    def render(self):
        return np.full((40, 40), self.time, np.uint8)


class FloatFilm(Walk):
    def render(self):
        return np.zeros((40, 40, 3))


class TinyFilm(Walk):
    def render(self):
        return np.zeros((1, 40, 3), np.uint8)


class FpsText(GrayFilm):
    metadata = {"render_modes": ["rgb_array"], "render_fps": "fast"}


class FpsNegative(GrayFilm):
    metadata = {"render_modes": ["rgb_array"], "render_fps": -5}


class GrowingFilm(Walk):
    """A picture for each step so far."""

    def render(self):
        return np.zeros((40, 40 + 2 * self.time, 3), np.uint8)


class Endless(Walk):
    length = 10**9


class Curriculum(gym.Wrapper):
    """The better the episodes were, the larger the reward: learned from each for the next."""

    def __init__(self, env):
        super().__init__(env)
        self.level, self.total = 1.0, 0.0

    def reset(self, **kwargs):
        self.level += 0.1 * self.total
        self.total = 0.0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.total += reward
        return obs, reward * self.level, terminated, truncated, info

    def state_dict(self) -> dict:
        return {"level": self.level, "total": self.total}

    def load_state_dict(self, state: dict):
        self.level, self.total = state["level"], state["total"]


class NumPyCurriculum(Curriculum):
    def state_dict(self):
        return {"level": np.float64(self.level)}


class BrokenCurriculum(Curriculum):
    def state_dict(self):
        raise KeyError("level")


class NoWrapper:
    def __init__(self, env):
        self.env = env


def forgets_to_return(env):
    NoWrapper(env)


class Inverted(gym.ObservationWrapper):
    def observation(self, obs):
        return 255 - obs


class Cropped(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = Box(-9, 9, (1,), np.float32)

    def observation(self, obs):
        return obs[:1]


class Standardised(gym.wrappers.NormalizeObservation):
    """By numbers that do not change."""

    def __init__(self, env):
        super().__init__(env)
        self.obs_rms.var[:] = 4.0
        self.update_running_mean = False


class Striped(gym.ObservationWrapper):
    """A picture of what was a state."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = Box(0, 255, (84, 84), np.uint8)

    def observation(self, obs):
        return np.full((84, 84), 100 + 10 * obs[0], np.uint8)


class Multiplied(gym.RewardWrapper):
    def __init__(self, env, factor: float):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


for name, kind in list(globals().items()):
    if isinstance(kind, type) and issubclass(kind, Walk):
        gym.register(f"{name}-v0", kind)
gym.register("NoSpace-v0", NoSpace)
gym.register("LimitedFourValues-v0", FourValues, max_episode_steps=20)
