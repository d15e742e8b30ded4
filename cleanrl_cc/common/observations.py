"""What an agent sees: which observations are images, and how any observation becomes a stack of images or a
vector.

An image is uint8 with bounds from 0 to 255 and sides of at least 36, the least that the convolutions read:
gray (H, W), or with fewer than 36 channels, last (H, W, C) or first (C, H, W). One channel is gray, three are
RGB, four are RGBA where the fourth is 255 everywhere in the first picture. Any other number is a stack of
gray frames that the environment made itself; so is, of images, a fourth dimension in front, (S, H, W, C) or
(S, C, H, W). Such a stack is taken as it comes and not stacked again. Everything else is a state.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple, flatdim, flatten
from PIL import Image

from cleanrl_cc.common.errors import InputError

SMALLEST_SIDE = 36  # of an image
SMALLEST_CHOSEN = 4  # of one that the user calls so, by --obs pixels
MOST_NUMBERS = 10_000_000  # of a vector

# --- recognising ---


@dataclass(frozen=True)
class Picture:
    """An image inside an observation.

    Attributes:
        path: the keys of the dictionaries and tuples around it.
        space: its own.
        axes: what its dimensions are, in order: S for frames, H, W, and C for channels.
        opaque: whether its fourth channel is an alpha that says nothing.
    """

    path: tuple
    space: Box
    axes: str
    opaque: bool = False

    @property
    def channels(self) -> int:
        return self.space.shape[self.axes.index("C")] if "C" in self.axes else 1

    @property
    def num_frames(self) -> int:
        """Frames in one observation."""
        stack = self.space.shape[0] if "S" in self.axes else 1
        in_colour = self.channels == 3 or (self.channels == 4 and self.opaque)
        return stack if in_colour else stack * self.channels

    def find(self, obs) -> np.ndarray:
        """The picture in an observation."""
        for key in self.path:
            obs = obs[key]
        return np.asarray(obs)

    def frames(self, obs) -> list[np.ndarray]:
        """The frames in an observation, oldest first, each (H, W, 1) or (H, W, 3) uint8."""
        picture = self.find(obs).astype(np.uint8, copy=False)
        if "C" not in self.axes:
            return [picture[..., None]]
        picture = np.moveaxis(picture, self.axes.index("C"), -1)
        if self.opaque:
            picture = picture[..., :3]
        frames = picture if "S" in self.axes else picture[None]
        if frames.shape[-1] == 3:
            return list(frames)
        return [frame[..., [channel]] for frame in frames for channel in range(frame.shape[-1])]

    def __str__(self) -> str:
        name = ".".join(map(str, self.path))
        return f"{name} {self.space.shape} {self.space.dtype}".strip()


def leaves(space: gym.Space, path: tuple = ()) -> list[tuple[tuple, Any]]:
    """The spaces inside dictionaries and tuples, each with the keys that lead to it."""
    if isinstance(space, Dict):
        return [leaf for key, inner in space.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(space, Tuple):
        return [leaf for key, inner in enumerate(space) for leaf in leaves(inner, (*path, key))]
    return [(path, space)]


def image_axes(space: gym.Space, smallest: int = SMALLEST_SIDE) -> str | None:
    """What the dimensions of a space would be if it were an image; None where its shape is not one's."""
    shape = space.shape if isinstance(space, Box) else ()
    for axes in ("HW", "HWC", "CHW", "SHWC", "SCHW"):
        if len(axes) != len(shape):
            continue
        sizes = dict(zip(axes, shape, strict=True))
        sides = min(sizes["H"], sizes["W"])
        others = max(sizes.get("S", 1), sizes.get("C", 1))
        if sides >= smallest and others < SMALLEST_SIDE and sizes.get("C", 1) < sides:
            return axes
    return None


def is_bytes(space: gym.Space) -> bool:
    """True for a Box of uint8 from 0 to 255."""
    return space.dtype == np.uint8 and bool((space.low == 0).all() and (space.high == 255).all())


def is_flattenable(space: gym.Space) -> bool:
    """Whether every observation of `space` is as many numbers: not those of Sequence, of Graph, or of a space
    that Gymnasium does not know, such as MiniGrid's missions."""
    try:
        return flatdim(space) >= 0
    except (ValueError, NotImplementedError):
        return False


def find_picture(env_id: str, space: gym.Space, obs: str) -> Picture | None:
    """The image that the agent sees in observations of `space`; None where it sees a state, or what is drawn.

    Args:
        obs: the run's: "auto" takes an image that is the whole observation; "pixels" also one among other
            things, and small ones; "state" none.

    Raises:
        InputError: "auto" would flatten a picture, or "pixels" finds several images.
    """
    if obs == "state":
        return None
    smallest = SMALLEST_SIDE if obs == "auto" else SMALLEST_CHOSEN
    found = [
        Picture(path, leaf, axes) for path, leaf in leaves(space) if (axes := image_axes(leaf, smallest))
    ]
    images = [picture for picture in found if is_bytes(picture.space)]
    flattened = f"--obs state flattens it to {flatdim(space):,} numbers" if is_flattenable(space) else ""
    if obs == "pixels":
        if len(images) > 1:
            names = " and ".join(map(str, images))
            raise InputError(f"{env_id} observes several images, {names}: {flattened}.")
        return images[0] if images else None
    if len(images) == len(leaves(space)) == 1:
        return images[0]
    if images:
        alone = "--obs pixels sees the image alone, " if len(images) == 1 else ""
        raise InputError(f"{env_id} observes an image ({images[0]}) among other things: {alone}{flattened}.")
    if found:
        raise InputError(
            f"{env_id} observes what has the shape of a picture ({found[0]}), but an image is uint8 from 0 "
            f"to 255: {flattened}; or let the environment emit bytes."
        )
    return None


def is_opaque(picture: Picture, obs) -> bool:
    """Whether the fourth of four channels is an alpha: 255 everywhere, which the others are not."""
    channels = np.moveaxis(picture.find(obs), picture.axes.index("C"), -1)
    return bool((channels[..., 3] == 255).all() and (channels[..., :3] != 255).any())


# --- wrapping ---


class StateObservation(gym.Wrapper):
    """Any observation as one float32 vector (O,): dictionaries, tuples, scalars, images and float64 alike."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.space = env.observation_space
        self.is_box = isinstance(self.space, Box)
        self.size = int(flatdim(self.space))
        if self.size > MOST_NUMBERS:
            name = env.spec.id if env.spec else env
            raise InputError(
                f"{name} observes {self.size:,} numbers, and at most {MOST_NUMBERS:,} can be learned from: "
                "--wrappers module:Class may take some out."
            )
        self.observation_space = Box(-np.inf, np.inf, (self.size,), np.float32)

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        return self.vector(obs), info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self.vector(obs), reward, terminated, truncated, info

    def vector(self, obs) -> np.ndarray:
        """Raises ValueError for another number of values: one alone would fill a whole row."""
        if self.is_box:  # what `flatten` would do, in half its time
            return np.array(obs, np.float32).reshape(self.size)
        return flatten(self.space, obs).astype(np.float32).reshape(self.size)

    def describe(self) -> str:
        """What the agent sees, for a line at the start."""
        source = "" if self.is_box and self.space.shape == (self.size,) else f", from {_name(self.space)}"
        return f"a vector of {self.size:,} number{'s' * (self.size != 1)}{source}"


class PixelObservation(gym.Wrapper):
    """The newest `stack` frames, oldest first: uint8 (stack * C, size, size), C = 1 if gray, else 3.

    With `rendering = False` frames are black and cost nothing, for replaying an episode nobody watches.

    Args:
        draw: called once per agent step with the observation: a list of `num_frames` frames, each (H, W, 1)
            or (H, W, 3).
        close: closes what `draw` has opened.
        source: where frames come from, in words.
        num_frames: in one observation; a stack that the environment made is not stacked again.
    """

    def __init__(
        self,
        env: gym.Env,
        draw: Callable[[object], list[np.ndarray]],
        close: Callable[[], None],
        source: str,
        num_frames: int,
        stack: int,
        size: int,
        grayscale: bool,
    ):
        super().__init__(env)
        self.draw = draw
        self.close_source = close
        self.source = source
        self.num_frames = num_frames
        self.size = size
        self.grayscale = grayscale
        self.stack = stack if num_frames == 1 else 1
        self.rendering = True
        self.frames = deque(maxlen=self.stack)
        self.black = np.zeros((num_frames * (1 if grayscale else 3), size, size), np.uint8)
        self.observation_space = Box(0, 255, (self.stack * len(self.black), size, size), np.uint8)

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        self.frames.extend([self.newest(obs)] * self.stack)
        return np.concatenate(self.frames), info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.frames.append(self.newest(obs))
        return np.concatenate(self.frames), reward, terminated, truncated, info

    def close(self):
        self.close_source()
        super().close()

    def newest(self, obs) -> np.ndarray:
        """What is drawn now, uint8 (num_frames * C, size, size)."""
        if not self.rendering:
            return self.black
        frames = [self.convert(frame) for frame in self.draw(obs)]
        return frames[0] if len(frames) == 1 else np.concatenate(frames)

    def convert(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 1) or (H, W, 3) to (C, size, size)."""
        if frame.shape[:2] != (self.size, self.size):
            frame = np.asarray(
                Image.fromarray(frame.squeeze(2) if frame.shape[2] == 1 else frame).resize(
                    (self.size, self.size), Image.Resampling.BOX
                )
            )
            frame = frame.reshape(self.size, self.size, -1)
        if self.grayscale and frame.shape[2] == 3:
            # ITU-R 601-2 luma in integers: a gray pixel keeps its value exactly
            frame = (frame @ np.array([77, 150, 29], np.uint32) >> 8).astype(np.uint8)[..., None]
        if not self.grayscale and frame.shape[2] == 1:
            frame = frame.repeat(3, axis=2)
        return frame.transpose(2, 0, 1).copy()

    def describe(self) -> str:
        """What the agent sees, for a line at the start."""
        colours = "gray" if self.grayscale else "RGB"
        stacked = f"{self.stack} stacked"
        if self.num_frames > 1:
            stacked = f"{self.num_frames} in the environment's own stack"
        return f"images {self.size}x{self.size} {colours}, {stacked}, {self.source}"


def _name(space: gym.Space) -> str:
    """A space in few words."""
    return f"{space.shape} {space.dtype}" if isinstance(space, Box) else f"a {type(space).__name__}"
