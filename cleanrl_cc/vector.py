"""Parallel environments in as many processes as there are processor cores, several environments in each.

One process per environment costs more in messages than cheap environments take to step.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
import weakref
from collections.abc import Callable
from itertools import chain

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class GroupedVectorEnv(gym.vector.VectorEnv):
    """N environments that reset themselves in the step after an episode's end, in `num_groups` processes.

    What comes back does not depend on the number of processes. Of infos only `episode` is sent, of the environments that have it.

    Args:
        env_fns: make the environments; the first one is also called here, to know the spaces.
        num_groups: processes.
        start_method: "forkserver" where OpenGL is in use, which does not survive a fork; None: Python decides.
    """

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, env_fns: list[Callable[[], gym.Env]], num_groups: int, start_method: str | None = None):
        self.pipes, self.processes, self.num_envs = [], [], len(env_fns)
        env = env_fns[0]()
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        env.close()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        context = multiprocessing.get_context(start_method)
        shared = context.RawArray("b", int(self.observation_space.dtype.itemsize * np.prod(self.observation_space.shape)))
        self.observations = self._view(shared)
        self.groups = np.array_split(np.arange(self.num_envs), num_groups)
        for group in self.groups:
            ours, theirs = context.Pipe()
            arguments = (theirs, ours, [env_fns[index] for index in group], shared, self.observation_space, group)
            self.processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self.processes[-1].start()
            theirs.close()
            self.pipes.append(ours)
        weakref.finalize(self, _kill, self.processes)  # where nobody calls `close`; workers ignore SIGTERM

    def _view(self, shared) -> np.ndarray:
        return np.frombuffer(shared, self.observation_space.dtype).reshape(self.observation_space.shape)

    def reset(self, *, seed=None, options=None):
        self._ask("reset", [()] * len(self.groups))
        return self.observations.copy(), {}

    def step(self, actions):
        results = self._ask("step", [(actions[group],) for group in self.groups])
        rewards, terminations, truncations, episodes = zip(*results, strict=True)
        infos = {}
        for index, episode in enumerate(episodes):
            infos = self._add_info(infos, episode, index)
        return self.observations.copy(), np.array(rewards), np.array(terminations), np.array(truncations), infos

    def call(self, name: str, *args) -> tuple:
        """The results of each environment's method `name`."""
        return self._ask("call", [(name, *args)] * len(self.groups))

    def _ask(self, command: str, arguments: list[tuple]) -> tuple:
        """One message to each process, and the answers of all environments in their order."""
        for pipe, values in zip(self.pipes, arguments, strict=True):
            pipe.send((command, *values))
        answers = [pipe.recv() for pipe in self.pipes]
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"An environment failed:\n{answer}")
        return tuple(chain(*answers))

    def close_extras(self, **kwargs):
        for pipe in self.pipes:
            pipe.close()  # what its worker waits for
        for process in self.processes:
            process.join()


def _kill(processes: list):
    for process in processes:
        process.kill()


def _work(pipe, other_end, env_fns: list, shared, space: gym.spaces.Box, group: np.ndarray):
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches the whole process group: the parent decides when to stop
        signal.signal(number, signal.SIG_IGN)
    other_end.close()  # else this worker would not notice that the parent is gone
    observations = np.frombuffer(shared, space.dtype).reshape(space.shape)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            envs = [make() for make in env_fns]
            while True:
                command, *arguments = pipe.recv()
                answers = []
                for place, (env, index) in enumerate(zip(envs, group, strict=True)):
                    if command == "step":
                        observations[index], *answer, info = env.step(arguments[0][place])
                        answers.append((*answer, {key: info[key] for key in ("episode",) if key in info}))
                    elif command == "reset":
                        observations[index], _ = env.reset()
                    else:
                        name, *args = arguments
                        answers.append(env.get_wrapper_attr(name)(*args))
                pipe.send(answers)
        except EOFError:
            for env in envs:
                env.close()
        except BaseException:
            pipe.send(traceback.format_exc())
