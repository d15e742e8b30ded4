"""Where episodes begin and end, how they are stored and restored, and how faults are reported."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from math import isfinite
from typing import Any

import gymnasium as gym
import numpy as np
from numpy import vdot

from cleanrl_cc.common import announcements
from cleanrl_cc.common.errors import BrokenPromise, InputError, describe, is_foreign
from cleanrl_cc.common.observations import PixelObservation

EPISODE = "cleanrl_cc/episode"  # key of what is known of an ended episode; a user's own "episode" stays
LARGEST = float(np.finfo(np.float32).max)


class Measured(ABC):
    """Of an environment of ours whose episodes have measures beyond return and length."""

    @abstractmethod
    def episode_metrics(self) -> dict[str, float]:
        """Measures of the episode so far, by name."""


class Episodes(gym.Wrapper):
    """An episode is a seed and its actions: that pair restores any deterministic
    environment in mid-episode by replaying it.

    `reset()` draws the seed of the n-th episode from (entropy, n), so the generator's state is the number n.
    At the end of an episode `info[EPISODE]` holds its undiscounted return `r`, its length `l` in agent steps,
    and the metrics of a `Measured` environment. A step after the end is a reset, as in the NEXT_STEP mode of
    vector environments: their flag that a reset is due is out of a snapshot's reach.

    Whatever goes wrong inside, and every observation or reward that is not finite, ends in an InputError that
    names the environment, the step and the fault.

    Args:
        entropy: of the seeds; its last number is the environment's place in the vector.
        name: what the user calls the environment.
        training: the training wrappers, of which those with `state_dict()` and `load_state_dict(state)` learn
            from one episode for the next.
    """

    env: Any  # its rewards are numbers: `Checked` sees to that

    def __init__(
        self,
        env: gym.Env,
        entropy: tuple[int, ...],
        name: str | None = None,
        training: Sequence[gym.Wrapper] = (),
    ):
        super().__init__(env)
        self.entropy = entropy
        self.name = name or str(env.spec and env.spec.id)
        # a replay draws only what is still to be seen
        self.pixels = env if isinstance(env, PixelObservation) else None
        self.learners = [wrapper for wrapper in training if hasattr(type(wrapper), "load_state_dict")]
        self.learned = []  # their states, as of the beginning of the episode
        self.is_uint8 = env.observation_space.dtype == np.uint8
        self.episode = -1
        self.actions = []
        self.ended = True

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self.episode += 1
        self.seed = (
            int(np.random.SeedSequence((*self.entropy, self.episode)).generate_state(1)[0])
            if seed is None
            else seed
        )
        self.learned = [plain_copy(wrapper) for wrapper in self.learners]
        return self._begin()

    def _begin(self):
        self.actions = []
        self.episodic_return = 0.0
        self.ended = False
        try:
            self.obs, info = self.env.reset(seed=self.seed)
        except BaseException as error:
            if not is_foreign(error):
                raise
            raise self._failure(error) from error
        self._require_finite(0.0)
        return self.obs, info

    def step(self, action):
        if self.ended:
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        self.actions.append(np.array(action))  # a copy: vector environments reuse their buffers
        try:
            self.obs, reward, terminated, truncated, info = self.env.step(action)
            reward = float(reward)  # a float16 is compared with float16's numbers: infinity with infinity
            # the product of the observation with itself costs a third of np.isfinite
            if not (self.is_uint8 or isfinite(vdot(self.obs, self.obs))) or not abs(reward) <= LARGEST:
                self._require_finite(reward)
            self.episodic_return += reward
            self.ended = bool(terminated or truncated)
            if self.ended:
                info = info | {EPISODE: self.record()}
        except BaseException as error:
            if not is_foreign(error):
                raise
            raise self._failure(error) from error
        return self.obs, reward, terminated, truncated, info

    def record(self) -> dict[str, float]:
        """Return, length and measures of the episode so far."""
        measures = self.unwrapped.episode_metrics() if isinstance(self.unwrapped, Measured) else {}
        return {"r": self.episodic_return, "l": len(self.actions)} | measures

    def _require_finite(self, reward: float):
        """Raises InputError unless reward and observation are numbers that float32 can hold."""
        if not abs(reward) <= LARGEST:
            raise self._fault(f"gave the reward {reward}")
        bad = np.flatnonzero(~np.isfinite(self.obs))
        if bad.size:
            raise self._fault(f"observed {self.obs.flat[bad[0]]} in place {bad[0]} of {self.obs.size}")

    def _failure(self, error: BaseException) -> InputError:
        is_broken = isinstance(error, BrokenPromise)
        return self._fault(str(error) if is_broken else f"failed with {describe(error)}")

    def _fault(self, what: str) -> InputError:
        who = f"Environment {self.entropy[-1]} of {self.name}"
        if self.episode < 0:
            return InputError(f"{who} {what}, before its first episode.")
        moment = f"in step {len(self.actions)} of" if self.actions else "at the beginning of"
        if self.actions and not np.isfinite(self.actions[-1]).all():  # whatever it does then
            return InputError(
                f"The actions are no longer finite, {moment} episode {self.episode + 1}: "
                "the networks have diverged. A lower learning rate or smaller rewards may help."
            )
        return InputError(f"{who} {what}, {moment} its episode {self.episode + 1}.")

    def render(self):
        try:
            return self.env.render()
        except BaseException as error:
            if not is_foreign(error):
                raise
            raise self._fault(f"failed to draw with {describe(error)}") from error

    def close(self):
        try:
            self.env.close()
        except BaseException as error:  # of a run that has saved everything
            if not is_foreign(error):
                raise
            announcements.say(f"Warning: {self._fault(f'failed to close with {describe(error)}')}")

    def describe(self) -> str:
        """What the agent sees, for a line at the start."""
        return self.env.describe()

    # Snapshots

    def snapshot(self) -> dict:
        """Where this environment is, in plain data."""
        return {
            "episode": self.episode,
            "seed": self.seed,
            "actions": [action.tolist() for action in self.actions],
            "ended": self.ended,
            "episodic_return": self.episodic_return,
            "obs": self._encoded_obs(),
            "learned": self.learned,
        }

    def restore(self, snapshots: list[dict]) -> tuple[np.ndarray, bool, str | None]:
        """Replays the snapshot of this environment.

        Where the replay is another episode than the one that was played, it counts as ended, and the next
        step begins a fresh one.

        Returns:
            The observation of the snapshot; whether the next step is a reset; and how the replay differs, or
            None.
        """
        snapshot = snapshots[self.entropy[-1]]
        self.episode, self.seed = snapshot["episode"], snapshot["seed"]
        self.learned = snapshot.get("learned", [])
        self._load_learned()
        try:
            difference = self._replay(snapshot)
        except (Exception, InputError) as error:
            difference = f"the replay failed ({str(error).rstrip('.')})"
        if "obs" in snapshot:  # older checkpoints have none
            space = self.observation_space
            bytes_ = bytearray(base64.b64decode(snapshot["obs"]))
            self.obs = np.frombuffer(bytes_, space.dtype).reshape(space.shape)
        if difference:
            self._load_learned()
            self.ended = True
        return self.obs, self.ended, difference

    def _load_learned(self):
        for wrapper, state in zip(self.learners, self.learned, strict=False):
            wrapper.load_state_dict(deepcopy(state))

    def _replay(self, snapshot: dict) -> str | None:
        """Plays the episode again, up to the snapshot; returns in what it differs."""
        actions = np.array(snapshot["actions"], self.action_space.dtype)
        # only the frames that are still in the stack need a picture
        unseen = len(actions) - (self.pixels.stack if self.pixels else 0)
        try:
            self._render(unseen < 0)
            self._begin()
            for index, action in enumerate(actions):  # of the types that `step` was given
                if self.ended:
                    return f"the episode ended after {index} of {len(actions)} steps"
                self._render(index >= unseen)
                self.step(action)
        finally:
            self._render(True)
        if self.ended != snapshot["ended"]:
            return f"the episode {'ended' if self.ended else 'did not end'} after {len(actions)} steps"
        if self.episodic_return != snapshot.get("episodic_return", self.episodic_return):
            return f"the return is {self.episodic_return:g} instead of {snapshot['episodic_return']:g}"
        if "obs" in snapshot and self._encoded_obs() != snapshot["obs"]:
            return "the observation is another one"
        return None

    def _encoded_obs(self) -> str:
        return base64.b64encode(self.obs.tobytes()).decode()

    def _render(self, rendering: bool):
        if self.pixels:
            self.pixels.rendering = rendering


def plain_copy(wrapper: gym.Wrapper) -> dict:
    """A copy of what a training wrapper has learned. Raises InputError where no checkpoint could hold it."""
    try:
        state = deepcopy(wrapper.state_dict())
    except Exception as error:
        raise InputError(
            f"state_dict() of {type(wrapper).__name__} failed with {describe(error)}."
        ) from error
    if not is_plain(state):
        raise InputError(
            f"state_dict() of {type(wrapper).__name__} must hold Python's numbers, strings, lists and "
            "dictionaries, and none of NumPy's."
        )
    return state


def is_plain(value) -> bool:
    """Whether `value` is what a checkpoint holds: data of Python's own types."""
    if type(value) is dict:
        return is_plain(list(value)) and is_plain(list(value.values()))
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
