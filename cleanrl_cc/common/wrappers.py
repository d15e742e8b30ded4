"""Wrappers of one environment: what it takes, what it shows, and where its episodes begin and end."""

import warnings
from collections import deque

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, flatdim, flatten
from PIL import Image

# --- actions ---


class UnitActions(gym.ActionWrapper):
    """Actions in [-1, 1] and of shape (A,), whatever the bounds and the shape of the environment's own."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        box = env.action_space
        low = box.low.astype(np.float64).ravel()
        high = box.high.astype(np.float64).ravel()
        unbounded = ~np.isfinite(low) | ~np.isfinite(high)
        if unbounded.any():
            names = np.flatnonzero(unbounded).tolist()
            warnings.warn(
                f"Action dimensions {names} have no finite bounds: using [-1, 1], "
                "or 2 units from the finite one.",
                stacklevel=2,
            )
            finite_low, finite_high = np.isfinite(low), np.isfinite(high)
            low, high = (  # an interval of length 2 at the bound that there is
                np.where(finite_low, low, np.where(finite_high, high - 2, -1.0)),
                np.where(finite_high, high, np.where(finite_low, low + 2, 1.0)),
            )
        self.center = (high + low) / 2
        self.half_range = (high - low) / 2
        self.action_space = Box(-1.0, 1.0, low.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        box = self.env.action_space
        scaled = self.center + self.half_range * np.clip(action, -1.0, 1.0)
        if np.issubdtype(box.dtype, np.integer):
            scaled = np.rint(scaled)
        return scaled.reshape(box.shape).astype(box.dtype)


class TwoAxes(gym.ActionWrapper):
    """CarRacing by two axes, steering and gas/brake: an agent that knows
    nothing does not stand on the brake."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        steering, pedal = action
        return np.array([steering, max(pedal, 0.0), max(-pedal, 0.0)], np.float32)


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


# --- observations ---


class StateObservation(gym.ObservationWrapper):
    """Any observation as one float32 vector (O,): dictionaries, scalars and float64 included."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = Box(-np.inf, np.inf, (flatdim(env.observation_space),), np.float32)

    def observation(self, obs) -> np.ndarray:
        return flatten(self.env.observation_space, obs).astype(np.float32)


class PixelObservation(gym.Wrapper):
    """The newest `stack` frames, oldest first: uint8 (stack * C, size, size), C = 1 if gray, else 3.

    With `rendering = False` frames are black and cost nothing, for replaying an episode nobody watches.
    """

    def __init__(self, env: gym.Env, draw, close, stack: int, size: int, grayscale: bool):
        super().__init__(env)
        self.draw = draw
        self.close_source = close
        self.size = size
        self.grayscale = grayscale
        self.rendering = True
        self.frames = deque(maxlen=stack)
        self.black = np.zeros((1 if grayscale else 3, size, size), np.uint8)
        self.observation_space = Box(0, 255, (stack * len(self.black), size, size), np.uint8)

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        self.frames.extend([self.frame(obs)] * self.frames.maxlen)
        return np.concatenate(self.frames), info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.frames.append(self.frame(obs))
        return np.concatenate(self.frames), reward, terminated, truncated, info

    def close(self):
        self.close_source()
        super().close()

    def frame(self, obs) -> np.ndarray:
        """The current frame, uint8 (C, size, size)."""
        if not self.rendering:
            return self.black
        frame = self.draw(obs)
        if frame.ndim == 2:
            frame = frame[..., None]
        if frame.shape[:2] != (self.size, self.size):
            frame = np.asarray(
                Image.fromarray(frame.squeeze()).resize((self.size, self.size), Image.Resampling.BOX)
            )
            frame = frame.reshape(self.size, self.size, -1)
        if self.grayscale and frame.shape[2] == 3:
            # ITU-R 601-2 luma in integers: a gray pixel keeps its value exactly
            frame = (frame @ np.array([77, 150, 29], np.uint32) >> 8).astype(np.uint8)[..., None]
        if not self.grayscale and frame.shape[2] == 1:
            frame = frame.repeat(3, axis=2)
        return frame.transpose(2, 0, 1).copy()


# --- episodes ---


class Patience(gym.Wrapper):
    """Truncates an episode after `patience` agent steps in a row without a positive reward."""

    def __init__(self, env: gym.Env, patience: int):
        super().__init__(env)
        self.patience = patience

    def reset(self, **kwargs):
        self.barren_steps = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.barren_steps = 0 if reward > 0 else self.barren_steps + 1
        return (
            obs,
            reward,
            terminated,
            truncated or (not terminated and self.barren_steps >= self.patience),
            info,
        )


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
        reward -= (
            self.missed * (num_missed - self.num_missed) * 1000 / len(road)
        )  # a tile brings 1000 / len(road)
        self.num_missed = num_missed
        if not touched:
            reward -= self.off_road
        reward -= self.speeding * max(0.0, car.hull.linearVelocity.length - self.speed_limit)

        lost = self.frames_lost >= self.lost
        if self.furthest >= len(road) - 6 and not lost:  # the lap is driven
            return obs, reward, False, True, info
        return obs, reward, terminated or lost or self.frames_stuck >= self.stuck, truncated, info


class Episodes(gym.Wrapper):
    """An episode is a seed and its actions: that pair restores any deterministic
    environment in mid-episode by replaying it.

    `reset()` draws the seed of the n-th episode from (entropy, n), so the generator's state is the number n.
    At the end of an episode `info["episode"]` holds its undiscounted return `r`, its length `l` in agent
    steps, and whatever `episode_metrics()` of the environment returns. A step after the end is a reset, as in
    the NEXT_STEP mode of vector environments: their flag that a reset is due is out of a snapshot's reach.
    """

    def __init__(self, env: gym.Env, entropy: tuple[int, ...]):
        super().__init__(env)
        self.entropy = entropy
        self.episode = -1
        self.ended = True

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self.episode += 1
        self.seed = (
            int(np.random.SeedSequence((*self.entropy, self.episode)).generate_state(1)[0])
            if seed is None
            else seed
        )
        return self._begin()

    def _begin(self):
        self.actions = []
        self.episodic_return = 0.0
        self.ended = False
        return self.env.reset(seed=self.seed)

    def step(self, action):
        if self.ended:
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        self.actions.append(np.array(action))  # a copy: vector environments reuse their buffers
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.episodic_return += float(reward)
        self.ended = bool(terminated or truncated)
        if self.ended:
            info["episode"] = {"r": self.episodic_return, "l": len(self.actions)}
            info["episode"] |= getattr(self.unwrapped, "episode_metrics", dict)()
        return obs, reward, terminated, truncated, info

    def snapshot(self) -> dict:
        """Where this environment is, in ints, lists and a bool."""
        return {
            "episode": self.episode,
            "seed": self.seed,
            "actions": [action.tolist() for action in self.actions],
            "ended": self.ended,
        }

    def restore(self, snapshots: list[dict]) -> np.ndarray:
        """Replays the snapshot of this environment (its place in the vector is the last number of
        its entropy); returns the observation."""
        snapshot = snapshots[self.entropy[-1]]
        self.episode, self.seed = snapshot["episode"], snapshot["seed"]
        stack = self.get_wrapper_attr("frames").maxlen if self.has_wrapper_attr("frames") else 0
        # only the frames that are still in the stack need a picture
        unseen = len(snapshot["actions"]) - stack
        self._render(unseen < 0)
        obs, _ = self._begin()
        for index, action in enumerate(snapshot["actions"]):
            self._render(index >= unseen)
            obs, *_ = self.step(np.asarray(action, self.action_space.dtype))
        self._render(True)
        assert self.ended == snapshot["ended"], (
            "the environment is not deterministic: its episode ended elsewhere in the replay"
        )
        return obs

    def _render(self, rendering: bool):
        if self.has_wrapper_attr("rendering"):
            self.set_wrapper_attr("rendering", rendering)
