"""Parallel environments in as many processes as there are processor cores, several environments in each.

One process per environment costs more in messages than cheap environments take to step. The training process
plays a share itself, where it would only wait.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space

from cleanrl_cc.common import announcements
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.errors import InputError, describe

ANSWER_SECONDS = 600  # that a worker may take for a step or a reset
CLOSE_SECONDS = 10


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of(make: Callable[[], gym.Env]) -> int:
    """Bytes that one more environment takes: a third, since the first ones bring libraries along."""
    process = psutil.Process()
    envs = []
    taken = []
    for _ in range(3):
        envs.append(make())
        envs[-1].reset(seed=0)
        taken.append(process.memory_info().rss)
    for env in envs:
        env.close()
    return max(taken[2] - taken[1], 0)


class GroupedVectorEnv(gym.vector.VectorEnv):
    """N environments that reset themselves in the step after an episode's end, in this
    process and `num_processes - 1` others.

    What comes back does not depend on the number of processes, unless environments draw from Python's or
    NumPy's global generators, which every process seeds from the seed and its first environment. Of infos
    there is only EPISODE, of the environments that have it.

    Args:
        env_fns: make the environments.
        num_processes: 1 to N; this one has the first environments.
        start_method: of the first environment, the other processes': "forkserver" where OpenGL is in use,
            which does not survive a fork; None: Python decides.
        seed: of the run.

    Raises:
        InputError: from any method, where an environment fails, or a process cannot be started, ends or stops
            answering.
    """

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
    single_observation_space: Box
    single_action_space: Any  # Box or Discrete

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        num_processes: int,
        start_method: Callable[[gym.Env], str | None] = lambda env: None,
        seed: int = 0,
    ):
        self.pipes = []
        self.processes = []
        self.num_envs = len(env_fns)
        self.num_steps = 0
        own, *self.groups = np.array_split(np.arange(self.num_envs), num_processes)
        seed_generators(seed, 0)
        self.envs = [env_fns[index]() for index in own]
        obs_space, action_space = self.envs[0].observation_space, self.envs[0].action_space
        require_alike(self.envs, obs_space, action_space)
        self.single_observation_space = obs_space
        self.single_action_space = action_space
        self.observation_space = batch_space(obs_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        context = multiprocessing.get_context(start_method(self.envs[0]))
        fields = [
            ("obs", obs_space.dtype, obs_space.shape),
            ("action", action_space.dtype, action_space.shape),
        ]
        fields += [("reward", float), ("terminated", bool), ("truncated", bool)]
        row = np.dtype(fields, align=True)
        memory = context.RawArray("b", self.num_envs * row.itemsize)
        self.rows = np.frombuffer(memory, row)  # (N,), of which each process writes its own
        # where nobody calls `close`, also in a child of multiprocessing; workers ignore SIGTERM
        Finalize(self, _kill, args=(self.processes,), exitpriority=0)
        for group in self.groups:
            makes = [env_fns[index] for index in group]
            try:
                ours, theirs = context.Pipe()
                spaces = obs_space, action_space
                arguments = (theirs, ours, makes, spaces, memory, row, int(group[0]), seed)
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
            except OSError as error:
                self.close()
                raise InputError(
                    f"{self.num_envs} environments need {num_processes} processes here, of which only "
                    f"{1 + len(self.processes)} could be started: {describe(error)}."
                ) from error
            self.processes.append(process)
            theirs.close()
            self.pipes.append(ours)

    def reset(self, *, seed=None, options=None):
        announcements.tell()
        self._ask("reset")
        return self.rows["obs"].copy(), {}

    def step(self, actions):
        self.rows["action"] = actions
        self.num_steps += 1
        infos = {}
        for index, episode in enumerate(self._ask("step")):
            if episode:
                infos = self._add_info(infos, {EPISODE: episode}, index)
        return *(self.rows[name].copy() for name in ("obs", "reward", "terminated", "truncated")), infos

    def call(self, name: str, *args) -> tuple:
        """The results of each environment's method `name`."""
        return self._ask("call", name, *args)

    def _ask(self, *message) -> tuple:
        """The answers of all environments, in their order: those of this process play while the others do."""
        for index, pipe in enumerate(self.pipes):
            try:
                pipe.send(message)
            except OSError as error:
                raise self._loss(index) from error
        answers = [_answer(self.envs, self.rows, *message)]
        answers += [self._receive(index, is_timed=message[0] != "call") for index in range(len(self.pipes))]
        return tuple(chain(*answers))

    def _receive(self, index: int, is_timed: bool) -> list:
        """The answer of a worker. Only what takes long by nature, such as a replay, has no time limit."""
        pipe = self.pipes[index]
        try:
            if is_timed and not pipe.poll(ANSWER_SECONDS):
                raise self._loss(index, f"has not answered for {ANSWER_SECONDS} seconds")
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            raise self._loss(index) from error
        if isinstance(answer, str):
            raise InputError(answer)
        return answer

    def _loss(self, index: int, what: str | None = None) -> InputError:
        """Says that a worker is lost; `what` has happened to one that still lives."""
        process = self.processes[index]
        group = self.groups[index]
        if what is None:
            process.join(1)
            code = process.exitcode or 0
            what = f"ended with exit code {code}"
            if code < 0:
                what = f"was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                what += ", as by a system that runs out of memory"
        name = f"environment {group[0]}" if len(group) == 1 else f"environments {group[0]} to {group[-1]}"
        of = f" of {spec.id}" if (spec := self.envs[0].spec) else ""
        return InputError(
            f"The process of {name}{of} {what}, in step {self.num_steps} since this run began or was resumed."
        )

    def close_extras(self, **kwargs):
        for pipe in self.pipes:
            with contextlib.suppress(OSError):  # a worker whose environment failed is gone
                pipe.send(None)
        for env in self.envs:
            env.close()
        for process in self.processes:
            process.join(CLOSE_SECONDS)
        _kill(self.processes)  # who has not answered


def _kill(processes: list):
    for process in processes:
        process.kill()


def require_alike(envs: Sequence[gym.Env], obs_space: gym.Space, action_space: gym.Space):
    """Raises InputError where one of `envs` has other spaces than these, those of the first one."""
    for env in envs:
        for kind, ours, first in (
            ("observations", env.observation_space, obs_space),
            ("actions", env.action_space, action_space),
        ):
            if ours != first:
                name = env.spec.id if env.spec else "the environment"
                raise InputError(
                    f"{name} must have the same {kind} each time that it is made: first it had {first}, "
                    f"then {ours}."
                )


def seed_generators(seed: int, index: int):
    """Seeds the global generators of this process, whose first environment is `index`."""
    numpy_seed, python_seed = np.random.SeedSequence((seed, index)).generate_state(2).tolist()
    np.random.seed(numpy_seed)
    random.seed(python_seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(python_seed)


def _answer(envs: list, rows: np.ndarray, command: str, *arguments) -> list:
    """What each of `envs` says to a command: to a step, which it leaves in
    its row, the ended episode or None."""
    answers = []
    all_obs, actions, rewards, terminated, truncated = (rows[name] for name in rows.dtype.names or ())
    for i, env in enumerate(envs):
        if command == "step":
            all_obs[i], rewards[i], terminated[i], truncated[i], info = env.step(actions[i].copy())
            answers.append(info.get(EPISODE) if terminated[i] or truncated[i] else None)
        elif command == "reset":
            all_obs[i], _ = env.reset()
        else:
            name, *args = arguments
            answers.append(getattr(env, name)(*args))
    return answers


def _work(pipe, other_end, env_fns: list, spaces: tuple, memory, row: np.dtype, first: int, seed: int):
    # Ctrl-C reaches the whole process group: the parent decides when to stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    other_end.close()  # else this worker would not notice that the parent is gone
    seed_generators(seed, first)
    rows = np.frombuffer(memory, row)[first:]
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        try:
            envs = [make() for make in env_fns]
            require_alike(envs, *spaces)
            while message := pipe.recv():
                pipe.send(_answer(envs, rows, *message))
            for env in envs:
                env.close()
        except EOFError:
            raise
        except BaseException as error:
            fault = str(error) if isinstance(error, InputError) else describe(error)
            pipe.send(fault)
            pipe.recv()  # so that the parent, which may be about to send, comes to read it
