"""Wrappers of one environment: what it takes, how long it is played, and what it rewards in training."""

import ast
import importlib
import os
import sys

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from cleanrl_cc.common import announcements
from cleanrl_cc.common.errors import InputError, describe, is_foreign

# --- actions ---

ENDLESS = 1e10  # MuJoCo's number for no bound; others take the largest of their type


class UnitActions(gym.ActionWrapper):
    """Actions in [-1, 1] and of shape (A,), whatever the bounds and the shape of the environment's own."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        box = env.action_space
        low = box.low.astype(np.float64).ravel()
        high = box.high.astype(np.float64).ravel()
        # whole numbers have no infinity: their box says it apart
        finite_low = (np.abs(low) < ENDLESS) & box.bounded_below.ravel()
        finite_high = (np.abs(high) < ENDLESS) & box.bounded_above.ravel()
        if not (finite_low & finite_high).all():
            names = np.flatnonzero(~(finite_low & finite_high)).tolist()
            announcements.keep(
                f"Warning: action dimensions {names} have no finite bounds: [-1, 1] stands for them, or 2 "
                "units from the finite one."
            )
            low, high = (  # an interval of length 2 at the bound that there is
                np.where(finite_low, low, np.where(finite_high, high - 2, -1.0)),
                np.where(finite_high, high, np.where(finite_low, low + 2, 1.0)),
            )
        self.low = low
        self.high = high
        self.center = (high + low) / 2
        self.half_range = (high - low) / 2
        self.action_space = Box(-1.0, 1.0, low.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        box = self.env.action_space
        # of the result, since a sum may be rounded past its bound
        scaled = np.clip(self.center + self.half_range * action, self.low, self.high)
        if box.dtype.kind != "f":
            scaled = np.rint(scaled)
        return scaled.reshape(box.shape).astype(box.dtype)


class TwoAxes(gym.ActionWrapper):
    """CarRacing by two axes, steering and gas/brake: an agent that knows nothing does not stand on the brake.
    By `--action-set gentle` it neither floors the gas nor locks the wheels, and steers no further than the
    front wheels turn."""

    STRENGTHS = {"auto": (1.0, 1.0, 1.0), "gentle": (0.4, 0.3, 0.8)}  # of steering, gas and brake

    def __init__(self, env: gym.Env, action_set: str):
        super().__init__(env)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.steering, self.gas, self.brake = self.STRENGTHS[action_set]

    def action(self, action: np.ndarray) -> np.ndarray:
        steering, pedal = action
        pedals = self.gas * max(pedal, 0.0), self.brake * max(-pedal, 0.0)
        return np.array([self.steering * steering, *pedals], np.float32)


class ActionRepeat(gym.Wrapper):
    """Repeats an action, sums its rewards, and stops at the end of the episode."""

    def __init__(self, env: gym.Env, repeat: int):
        super().__init__(env)
        self.repeat = repeat

    def step(self, action):
        total_reward = 0.0
        for _ in range(self.repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total_reward += float(reward)
            if terminated or truncated:
                break
        return obs, total_reward, terminated, truncated, info


# --- training alone ---


class Patience(gym.Wrapper):
    """Truncates an episode after `frames` environment steps in a row without a positive reward; by
    `--training-wrappers Patience,frames=200`."""

    def __init__(self, env: gym.Env, frames: int):
        super().__init__(env)
        if not isinstance(frames, int) or frames < 1:
            raise TypeError(f"frames is a count of at least 1, not {frames!r}")
        self.frames = frames

    def reset(self, **kwargs):
        self.barren_frames = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.barren_frames = 0 if float(reward) > 0 else self.barren_frames + 1
        hopeless = not terminated and self.barren_frames >= self.frames
        return obs, reward, terminated, truncated or hopeless, info


class RoadRules(gym.Wrapper):
    """What a driver is taught and CarRacing's score does not say; by `--training-wrappers RoadRules`.

    In every frame it costs `off_road` to have no wheel on the road, and `speeding` for each unit of speed
    above `speed_limit`. A tile that is driven past costs what `missed` tiles bring, until it is visited after
    all. An episode terminates after `lost` frames in a row off the road, or `stuck` frames in which the car
    came no further; where the lap is driven it is truncated, since the road goes on.
    """

    def __init__(
        self,
        env: gym.Env,
        off_road: float = 0.1,
        missed: float = 2.0,
        speed_limit: float = 55.0,
        speeding: float = 0.05,
        lost: int = 100,
        stuck: int = 200,
    ):
        super().__init__(env)
        if not hasattr(env.unwrapped, "road"):
            raise TypeError("these are the rules of CarRacing's road")
        self.off_road = off_road
        self.missed = missed
        self.speed_limit = speed_limit
        self.speeding = speeding
        self.lost = lost
        self.stuck = stuck

    def reset(self, **kwargs):
        self.furthest = 0  # tile that a wheel has touched
        self.num_missed = 0  # tiles up to it that none has touched
        self.frames_lost = 0
        self.frames_stuck = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        car, road = self.unwrapped.car, self.unwrapped.road
        touched = {tile.idx for wheel in car.wheels for tile in wheel.tiles}
        # More than half of the track ahead is the start line, seen backwards
        ahead = [tile for tile in touched if self.furthest < tile < self.furthest + len(road) / 2]
        self.furthest = max([self.furthest, *ahead])
        self.frames_lost = 0 if touched else self.frames_lost + 1
        self.frames_stuck = 0 if ahead else self.frames_stuck + 1

        num_missed = sum(not tile.road_visited for tile in road[: self.furthest + 1])
        # a tile brings 1000 / len(road)
        reward = float(reward) - self.missed * (num_missed - self.num_missed) * 1000 / len(road)
        self.num_missed = num_missed
        if not touched:
            reward -= self.off_road
        reward -= self.speeding * max(0.0, car.hull.linearVelocity.length - self.speed_limit)

        lost = self.frames_lost >= self.lost
        if self.furthest >= len(road) - 6 and not lost:  # the lap is driven
            return obs, reward, False, True, info
        return obs, reward, terminated or lost or self.frames_stuck >= self.stuck, truncated, info


# --- by name ---


def apply_wrapper(env: gym.Env, text: str, flag: str) -> gym.Env:
    """`env` in the wrapper that `text` names: one of ours or module:Class, and after commas arguments, as in
    RoadRules,speed_limit=60.

    Args:
        flag: where `text` comes from: "--wrappers", which evaluations have too, or "--training-wrappers".

    Raises:
        InputError: there is none, it takes no such argument, or evaluations would not play what was trained.
    """
    name, *pairs = text.split(",")
    module, _, class_name = (name if ":" in name else f"{__name__}:{name}").rpartition(":")
    try:
        arguments = {
            key: ast.literal_eval(value) for key, _, value in (pair.partition("=") for pair in pairs)
        }
        wrapped = getattr(import_from_here(module), class_name)(env, **arguments)
    except BaseException as error:  # whatever a user's module raises
        if not is_foreign(error):
            raise
        raise InputError(
            f"{flag} {text} cannot be used ({describe(error)}): "
            "write RoadRules, Patience,frames=200, module:Class or module:Class,argument=1.5."
        ) from error
    if not isinstance(wrapped, gym.Env):
        raise InputError(
            f"{flag} {text} made a {type(wrapped).__name__}: a wrapper is a class below "
            "gymnasium.Wrapper, or a function that returns an environment."
        )
    if isinstance(wrapped, NormalizeObservation) and wrapped.update_running_mean:
        raise InputError(
            f"{flag} {text} has statistics of its own in each environment, and evaluations begin with none: "
            "ppo_continuous.py normalises observations itself, and for the others "
            "--wrappers gymnasium.wrappers:RescaleObservation,min_obs=-1,max_obs=1 scales by their bounds."
        )
    if flag == "--wrappers":
        if hasattr(type(wrapped), "load_state_dict") or isinstance(wrapped, NormalizeReward):
            raise InputError(
                f"{flag} {text} carries what it learns from one episode to the next, and evaluations have "
                "learned nothing: use --training-wrappers instead."
            )
        return wrapped
    for space in ("observation_space", "action_space"):
        if getattr(wrapped, space) != getattr(env, space):
            raise InputError(
                f"{flag} {text} changes the {space.replace('_', ' ')}, and evaluations play without it: use "
                "--wrappers instead."
            )
    return wrapped


def import_from_here(module: str):
    """The module, also from the working directory: `python folder/script.py` searches the script's alone."""
    sys.path[:] = dict.fromkeys([*sys.path, os.getcwd()])
    return importlib.import_module(module)
