"""Plays deterministic episodes, several at once, sums them up, films them and judges their values.

The agent answers all environments that still play with one forward pass: on a small network that costs hardly
more than one answer. Nothing here knows an algorithm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from torch import nn

from cleanrl_cc.common import announcements
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import writing
from cleanrl_cc.common.rendering import as_frame, uses_mujoco

# agent steps after which an evaluation episode is cut: at what its environment states as its time limit, but
# neither earlier than the first number, which is for those that state none, nor later than the second
CUT_STEPS = 10_000, 100_000
# evaluations during training; evaluate.py starts at 10,000, so that `best.pt` is scored on other episodes
EVALUATION_SEED = 20_000
MOST_AT_ONCE = 10  # environments in one process
MOST_CONTEXTS = 4  # those of them that hold an OpenGL context


def play_episodes(
    envs: Sequence[gym.Env],
    agent,
    seeds: Sequence[int],
    films: dict | None = None,
    traces: dict | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> list[dict]:
    """One deterministic episode per seed; as an episode ends, its environment takes the next seed.

    The first len(envs) seeds go to the environments in their order. An episode is the one that would be
    played alone, but for the rounding of a network that answers several observations at once.

    Args:
        envs: equal environments, at least one; each plays one episode at a time.
        agent: has `act(obs (B, ...), deterministic=True) -> (B, ...)` that remembers nothing from call to
            call, and `value(obs) -> (B,)` if `traces` is given.
        seeds: all different.
        films: by seed, the `Film` that is given what `env.render()` returns at every agent step.
        traces: by seed, receives an array (T + 1, 2): value and reward of each agent step, and at the end the
            value of the final observation (0 if terminated) with 0.
        is_stopped: asked before every agent step.

    Returns:
        In the order of `seeds`: `seed`, undiscounted return `r`, length `l`, the environment's own measures,
        and `cut`, 1.0, where the episode had not ended after `cut_steps(env)`. Nothing once it is stopped.

    Raises:
        InputError: a film cannot be written.
    """
    announcements.tell()
    films = films or {}
    results = {}
    waiting = iter(seeds)
    modules = agent.modules() if isinstance(agent, nn.Module) else ()
    learning = [module for module in modules if module.training]
    try:
        for module in learning:  # a copied script may have dropout, or normalise by batches
            module.training = False
        playing: list[Any] = [_Episode(env, seed) for env, seed in zip(envs, waiting, strict=False)]
        while playing:
            if is_stopped():
                return []
            for episode in playing:
                if episode.seed in films:
                    films[episode.seed].add(episode.env.render())
            obs = np.stack([episode.obs for episode in playing])
            values = np.zeros(len(playing)) if traces is None else agent.value(obs)
            actions = agent.act(obs, deterministic=True)
            for index, (episode, action, value) in enumerate(
                zip(list(playing), actions, values, strict=True)
            ):
                if not episode.step(action, value):
                    continue
                results[episode.seed] = {"seed": episode.seed} | episode.measures
                if traces is not None:
                    last_value = 0.0 if episode.terminated else float(agent.value(episode.obs[None])[0])
                    traces[episode.seed] = np.array(
                        [*zip(episode.values, episode.rewards, strict=True), (last_value, 0.0)]
                    )
                if episode.seed in films:
                    films[episode.seed].finish()
                seed = next(waiting, None)
                playing[index] = None if seed is None else _Episode(episode.env, seed)
            playing = [episode for episode in playing if episode is not None]
    finally:
        for module in learning:
            module.training = True
        for film in films.values():
            film.discard()  # what is finished has nothing to discard
    if cut := sum("cut" in episode for episode in results.values()):
        steps = f"{cut_steps(envs[0]):,} steps"
        announcements.say(
            f"{cut} of {len(results)} evaluation episodes had not ended and were cut after {steps}."
        )
    return [results[seed] for seed in seeds]


def play_episode(env: gym.Env, agent, seed: int, trace: list | None = None) -> dict:
    """One episode alone, as `play_episodes`; `trace` receives the rows of its trace as pairs."""
    traces = None if trace is None else {}
    (episode,) = play_episodes([env], agent, [seed], traces=traces)
    if trace is not None:
        trace.extend(map(tuple, traces[seed].tolist()))
    return episode


@dataclass
class _Episode:
    """An episode under way."""

    env: gym.Env
    seed: int
    values: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.cut_steps = cut_steps(self.env)
        self.obs, _ = self.env.reset(seed=self.seed)

    def step(self, action, value: float) -> bool:
        """True if it has ended; then there are `measures`, and whether it `terminated`."""
        self.obs, reward, self.terminated, truncated, info = self.env.step(action)
        self.values.append(float(value))
        self.rewards.append(float(reward))
        if self.terminated or truncated:
            self.measures = info[EPISODE]
            return True
        if len(self.rewards) == self.cut_steps:
            self.measures = self.env.record() | {"cut": 1.0}
            return True
        return False


def cut_steps(env: gym.Env) -> int:
    """Agent steps after which an evaluation episode of `env` is cut, since some would never end."""
    stated = env.spec.max_episode_steps if env.spec else None
    shortest, longest = CUT_STEPS
    return min(max(shortest, stated or 0), longest)


def side_by_side(env: gym.Env, num_episodes: int, all_filmed: bool = False) -> int:
    """How many environments like `env` are to play `num_episodes` at once in one process."""
    if env.render_mode == "human":
        return 1
    draws = uses_mujoco(env) and (all_filmed or env.observation_space.dtype == np.uint8)
    return min(MOST_CONTEXTS if draws else MOST_AT_ONCE, num_episodes)


def add_environments(envs: list, make: Callable[..., gym.Env], num_episodes: int, filmed: bool):
    """Adds to `envs` those that are still missing to play so many episodes side by side.

    Args:
        make: makes one, also with a `render_mode`.
        filmed: whether the first one is to draw pictures.

    Raises:
        InputError: it draws none.
    """
    if not envs:
        envs.append(make(render_mode="rgb_array" if filmed else None))
        if filmed:
            envs[0].reset(seed=EVALUATION_SEED)
            if not isinstance(picture := envs[0].render(), np.ndarray):
                raise InputError(f"{envs[0].name} draws no pictures: leave out --capture-video.")
            as_frame(picture, envs[0])
    while len(envs) < side_by_side(envs[0], num_episodes):
        envs.append(make())


def summarize(episodes: list[dict]) -> dict:
    """Statistics of `play_episodes`' results: of the return, the mean of every other measure, and
    `episodes_cut`, how many episodes were cut, if any."""
    returns = np.array([episode["r"] for episode in episodes])
    others = {
        f"{key}_mean": float(np.mean([e[key] for e in episodes]))
        for key in episodes[0]
        if key not in ("seed", "r", "l", "cut")
    }
    if cut := sum("cut" in episode for episode in episodes):
        others["episodes_cut"] = cut
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_median": float(np.median(returns)),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(np.mean([episode["l"] for episode in episodes])),
        **others,
    }


def require_matplotlib():
    """Raises InputError where `analyze_value` could not draw."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError('--analyze-value draws with matplotlib: pip install -e ".[plot]".') from error


def analyze_value(traces: list[np.ndarray], gamma: float, path: Path) -> dict:
    """Compares predicted values with what the episodes then brought, and draws both.

    Args:
        traces: per episode (T + 1, 2): value and reward of each step; the last row has the value of the final
            observation, 0 if the episode terminated there, so that a time limit is bootstrapped as in
            training.

        path: of the picture; its folder is made.

    Returns:
        `value_bias`, the mean of predicted minus realised, and `value_correlation`, unless one is constant.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    predicted = []
    realised = []
    for trace in traces:
        values, rewards = trace.T
        returns = np.empty_like(values)
        returns[-1] = values[-1]
        for t in reversed(range(len(values) - 1)):  # G_t = r_t + γ G_{t+1}
            returns[t] = rewards[t] + gamma * returns[t + 1]
        predicted.append(values[:-1])
        realised.append(returns[:-1])
    everything = np.concatenate(predicted), np.concatenate(realised)
    analysis = {"value_bias": float(np.mean(everything[0] - everything[1]))}
    if all(values.std() > 0 for values in everything):  # what is constant correlates with nothing
        analysis["value_correlation"] = float(np.corrcoef(everything)[0, 1])

    shown = min(3, len(traces))
    figure = Figure(figsize=(4 * (shown + 1), 3.2), layout="constrained")
    axes = figure.subplots(1, shown + 1)
    for index, axis in enumerate(axes[:shown]):
        axis.plot(predicted[index], label="predicted value")
        axis.plot(realised[index], label="realised discounted return")
        axis.set(title=f"episode {index + 1}", xlabel="agent step")
    axes[0].legend(fontsize="small")
    axes[-1].scatter(everything[1], everything[0], s=2, alpha=0.3)
    axes[-1].axline((0, 0), slope=1, color="gray", linewidth=1)
    title = ", ".join(f"{name.removeprefix('value_')} {value:.2g}" for name, value in analysis.items())
    axes[-1].set(title=title, xlabel="realised", ylabel="predicted")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    announcements.say(str(path))
    return analysis


class Film:
    """An H.264 mp4, playable in browsers, that is encoded while its episode plays: no frame stays in memory.

    It appears at `path` when it is finished. The encoder comes with imageio-ffmpeg.
    Odd sizes lose their last row or column.

    Args:
        path: a .mp4; its folder is made.
        env: says how many frames a second has; 30 where it does not say.
        action_repeat: environment steps from one frame to the next.
    """

    def __init__(self, path: Path, env: gym.Env, action_repeat: int):
        self.path = path
        # the encoder wants the ending
        self.temporary = path.with_name(path.stem + ".tmp.mp4")
        rate: Any = (env.metadata or {}).get("render_fps")
        is_known = isinstance(rate, Real) and 0 < rate < math.inf
        self.fps = (rate if is_known else 30) / action_repeat
        self.env = env
        self.writer = None

    def add(self, frame: np.ndarray):
        """One frame, as the environment renders it. Raises InputError where it cannot be written."""
        frame = as_frame(frame, self.env)
        if frame.shape[2] == 1:
            frame = frame.repeat(3, axis=2)
        height, width = (size // 2 * 2 for size in frame.shape[:2])
        if self.writer is not None and frame.shape != self.shape:
            raise InputError(
                f"{self.path} could not be written: a picture {frame.shape} follows one {self.shape}. "
                "Draw a single size, or film nothing."
            )
        try:
            if self.writer is None:
                self.shape = frame.shape
                self.path.parent.mkdir(parents=True, exist_ok=True)
                settings = {
                    "fps": self.fps,
                    "codec": "libx264",
                    "macro_block_size": 2,
                    "ffmpeg_log_level": "quiet",
                }
                self.writer = imageio.get_writer(self.temporary, **settings)
            self.writer.append_data(frame[:height, :width])
        # of the former imageio gives several lines, the command and all that it printed; the latter where it
        # finds no encoder, or Ctrl-C ends the one that it tries
        except (OSError, RuntimeError) as error:
            raise self._failure(error) from error

    def finish(self):
        """Ends the film and gives it its name. Raises InputError where it cannot be written."""
        try:
            self.writer.close()
            self.writer = None
            imageio.get_reader(self.temporary).close()  # of a disk that is full the encoder says nothing
            self.temporary.replace(self.path)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError | RuntimeError) -> InputError:
        reason = (str(error).strip().splitlines() or ["the encoder ended"])[0]
        return InputError(
            f"{self.path} could not be written ({reason}): free some disk space, or film nothing."
        )

    def discard(self):
        """Takes away a film that was begun and not finished."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
            self.temporary.unlink(missing_ok=True)
