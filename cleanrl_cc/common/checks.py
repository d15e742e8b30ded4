"""Whether an environment keeps to what it promises."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from cleanrl_cc.common import announcements
from cleanrl_cc.common.errors import BrokenPromise, InputError, origin
from cleanrl_cc.common.observations import MOST_NUMBERS, leaves

GYMNASIUM = Path(gym.__file__).parent


def check_spaces(env: gym.Env, name: str):
    """Raises InputError unless observations and actions have a space of Gymnasium, which is not empty, and
    actions can be told apart by a network."""
    for kind in ("observation_space", "action_space"):
        space = getattr(env, kind, None)
        if not isinstance(space, gym.Space):
            raise InputError(f"{kind} of {name} must be Box or another of gymnasium.spaces, not {space!r}.")
        if isinstance(space, Box) and 0 in space.shape:
            raise InputError(f"{kind} of {name} must hold at least one number; its shape is {space.shape}.")
    if isinstance(env.action_space, Discrete) and env.action_space.n > MOST_NUMBERS:
        raise InputError(
            f"{name} has {env.action_space.n:,} actions, and at most {MOST_NUMBERS:,} can be learned apart: "
            "--wrappers module:Class may make a Box of them."
        )


def check_torch(name: str):
    """Raises InputError where the environment has changed what every tensor is made of, the agent's, too."""
    torch = sys.modules.get("torch")  # workers do without
    if torch and (dtype := torch.get_default_dtype()) != torch.float32:
        raise InputError(
            f"{name}, or what was imported before it, has set torch's default type to {dtype}, and networks "
            "are made of torch.float32: give its own tensors a dtype instead."
        )


class Checked(gym.Wrapper):
    """Looks at what every `reset` and `step` returns: the number of values, their types, and whether the
    observation has the form that its space says. What has the form of an earlier step is not looked at again.

    Raises BrokenPromise for what cannot be meant; of values beyond the bounds of a Box it only tells, once.
    """

    def __init__(self, env: gym.Env, name: str):
        super().__init__(env)
        self.name = name
        self.good_forms = set()
        self.is_uint8 = self.observation_space.dtype == np.uint8
        self.unbounded = {"reset", "step"}  # of which no observation was compared with its bounds yet

    def reset(self, **kwargs):
        result = self.env.reset(**kwargs)
        self._check("reset", result, ("observation", "info"))
        return result

    def step(self, action):
        result: Any
        try:
            result = self.env.step(action)
        except ValueError as error:
            # Gymnasium's own wrappers, which unpack five values
            if "to unpack" not in str(error) or GYMNASIUM not in origin(error)[0].parents:
                raise
            result = error
        form = tuple(map(_type_and_shape, result)) if isinstance(result, tuple) else ()
        if form not in self.good_forms:
            self._check("step", result, ("observation", "reward", "terminated", "truncated", "info"))
            self._check_numbers(*result[1:4])
            # a dict, a number, and larger numbers than a picture holds are looked at every time
            if isinstance(result[0], np.ndarray) and (not self.is_uint8 or result[0].dtype == np.uint8):
                self.good_forms.add(form)
        return result

    def _check(self, method: str, result, names: tuple[str, ...]):
        if not isinstance(result, tuple) or len(result) != len(names):
            came = f"{len(result)} values" if isinstance(result, tuple) else _form(result)
            came = str(result) if isinstance(result, ValueError) else f"it returned {came}"
            raise BrokenPromise(f"must return {', '.join(names)} from {method}() ({came})")
        obs, info = result[0], result[-1]
        if problem := misfit(self.observation_space, obs):
            raise BrokenPromise(f"returned an observation that does not fit its space ({problem})")
        if not isinstance(info, dict):
            raise BrokenPromise(f"returned {_form(info)} as its info, which must be a dict")
        if method in self.unbounded and (problem := beyond_bounds(self.observation_space, obs)):
            announcements.say(
                f"Warning: an observation of {self.name} from {method}() is outside its space: {problem}. "
                "It is used as it is."
            )
        self.unbounded.discard(method)

    def _check_numbers(self, reward, terminated, truncated):
        if not _is_scalar(reward, "biuf"):
            raise BrokenPromise(f"returned {_form(reward)} as its reward, which must be a number")
        for name, end in (("terminated", terminated), ("truncated", truncated)):
            if not _is_scalar(end, "biu"):
                raise BrokenPromise(f"returned {_form(end)} as {name}, which must be True or False")


def misfit(space: gym.Space, obs) -> str | None:
    """In what form `obs` is not one of `space`: what was expected and what came; None if it is."""
    if isinstance(space, Dict):
        if not isinstance(obs, Mapping) or obs.keys() != space.keys():
            return f"expected the keys {', '.join(map(str, space))}, got {_form(obs)}"
        return next((problem for key in space if (problem := misfit(space[key], obs[key]))), None)
    if isinstance(space, Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space):
            return f"expected {len(space)} parts, got {_form(obs)}"
        pairs = zip(space, obs, strict=True)
        return next((problem for part, value in pairs if (problem := misfit(part, value))), None)
    if not isinstance(space, Box):
        return None if space.contains(obs) else f"expected {space}, got {obs!r:.60}"
    try:
        array = np.asarray(obs)
    except ValueError:  # a list of lists of unequal lengths
        return f"expected the shape {space.shape}, got a ragged list"
    whole = array.dtype.kind in "biu" and space.dtype.kind in "biu"
    if array.shape != space.shape:
        return f"expected the shape {space.shape}, got {array.shape if array.ndim else _form(obs)}"
    if not whole and not np.can_cast(array.dtype, space.dtype, "same_kind"):
        return f"expected {space.dtype}, got {array.dtype}"
    if space.dtype == np.uint8 and array.size and not 0 <= array.min() <= array.max() <= 255:
        return f"expected uint8, got numbers from {array.min()} to {array.max()}"
    return None


def beyond_bounds(space: gym.Space, obs) -> str | None:
    """Where a finite number of `obs` lies outside the bounds of its Box, in words."""
    for path, box in leaves(space):
        if not isinstance(box, Box):
            continue
        values = obs
        for key in path:
            values = values[key]
        values = np.asarray(values)
        outside = np.isfinite(values) & ((values < box.low) | (values > box.high))
        if outside.any():
            low = box.low[outside].flat[0]
            high = box.high[outside].flat[0]
            return f"its bounds are {low:g} and {high:g}, but it holds {values[outside].flat[0]:g}"
    return None


def _is_scalar(value, kinds: str) -> bool:
    """Whether `value` is one number of such a kind ("b" for bool, "i" for int, ...), of Python or NumPy."""
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in kinds


def _type_and_shape(value) -> tuple:
    return type(value), getattr(value, "dtype", None), getattr(value, "shape", None)


def _form(value) -> str:
    """A value by its type, and by its shape if it has one, or its keys."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(str, value)) or 'nothing'}"
    return f"a {type(value).__name__}" if value is not None else "None"
