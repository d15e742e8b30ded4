"""Parallel environments in as many processes as there are processor cores, several environments in each.

One process per environment costs more in messages than cheap environments take to step. The training process
plays a share itself, where it would only wait.
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
    """N environments that reset themselves in the step after an episode's end, in this
    process and `num_processes - 1` others.

    What comes back does not depend on the number of processes. Of infos there is only
    `episode`, of the environments that have it.

    Args:
        env_fns: make the environments.
        num_processes: 1 to N; this one has the first environments.
        start_method: "forkserver" where OpenGL is in use, which does
            not survive a fork; None: Python decides.
    """

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def __init__(
        self, env_fns: list[Callable[[], gym.Env]], num_processes: int, start_method: str | None = None
    ):
        self.pipes = []
        self.processes = []
        self.num_envs = len(env_fns)
        own, *others = np.array_split(np.arange(self.num_envs), num_processes)
        self.envs = [env_fns[index]() for index in own]
        obs_space, action_space = self.envs[0].observation_space, self.envs[0].action_space
        self.single_observation_space = obs_space
        self.single_action_space = action_space
        self.observation_space = batch_space(obs_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        context = multiprocessing.get_context(start_method)
        fields = [
            ("obs", obs_space.dtype, obs_space.shape),
            ("action", action_space.dtype, action_space.shape),
        ]
        fields += [("reward", float), ("terminated", bool), ("truncated", bool)]
        row = np.dtype(fields, align=True)
        memory = context.RawArray("b", self.num_envs * row.itemsize)
        self.rows = np.frombuffer(memory, row)  # (N,), of which each process writes its own
        for group in others:
            ours, theirs = context.Pipe()
            arguments = (theirs, ours, [env_fns[index] for index in group], memory, row, group[0])
            self.processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self.processes[-1].start()
            theirs.close()
            self.pipes.append(ours)
        weakref.finalize(self, _kill, self.processes)  # where nobody calls `close`; workers ignore SIGTERM

    def reset(self, *, seed=None, options=None):
        self._ask("reset")
        return self.rows["obs"].copy(), {}

    def step(self, actions):
        self.rows["action"] = actions
        infos = {}
        for index, episode in enumerate(self._ask("step")):
            if episode:
                infos = self._add_info(infos, {"episode": episode}, index)
        return *(self.rows[name].copy() for name in ("obs", "reward", "terminated", "truncated")), infos

    def call(self, name: str, *args) -> tuple:
        """The results of each environment's method `name`."""
        return self._ask("call", name, *args)

    def _ask(self, *message) -> tuple:
        """The answers of all environments, in their order: those of this process play while the others do."""
        for pipe in self.pipes:
            pipe.send(message)
        answers = [_answer(self.envs, self.rows, *message), *(pipe.recv() for pipe in self.pipes)]
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"An environment failed:\n{answer}")
        return tuple(chain(*answers))

    def close_extras(self, **kwargs):
        for pipe in self.pipes:
            with contextlib.suppress(OSError):  # a worker whose environment failed is gone
                pipe.send(None)
        for env in self.envs:
            env.close()
        for process in self.processes:
            process.join()


def _kill(processes: list):
    for process in processes:
        process.kill()


def _answer(envs: list, rows: np.ndarray, command: str, *arguments) -> list:
    """What each of `envs` says to a command: to a step, which it leaves in
    its row, the ended episode or None."""
    answers = []
    all_obs, actions, rewards, terminated, truncated = (rows[name] for name in rows.dtype.names)
    for i, env in enumerate(envs):
        if command == "step":
            all_obs[i], rewards[i], terminated[i], truncated[i], info = env.step(actions[i].copy())
            answers.append(info.get("episode"))
        elif command == "reset":
            all_obs[i], _ = env.reset()
        else:
            name, *args = arguments
            answers.append(env.get_wrapper_attr(name)(*args))
    return answers


def _work(pipe, other_end, env_fns: list, memory, row: np.dtype, first: int):
    # Ctrl-C reaches the whole process group: the parent decides when to stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    other_end.close()  # else this worker would not notice that the parent is gone
    rows = np.frombuffer(memory, row)[first:]
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        try:
            envs = [make() for make in env_fns]
            while message := pipe.recv():
                pipe.send(_answer(envs, rows, *message))
            for env in envs:
                env.close()
        except EOFError:
            raise
        except BaseException:
            pipe.send(traceback.format_exc())
            pipe.recv()  # so that the parent, which may be about to send, comes to read it
