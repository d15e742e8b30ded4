"""How the environment steps per second grow with the number of parallel environments, on this machine.

    python benchmark/many_envs.py --csv benchmark/results/many_envs.csv     # some seven minutes on two cores
    python benchmark/report.py                                              # draws it for docs/speed.md

Measured twice for each number: the environments alone, with random actions, and whole trainings of PPO, whose
rollouts have equally many steps and minibatches whatever the number, so that all learn equally much from a
step. The environments are spread over a process per core, and PPO learns with as many threads. Nothing else
should run meanwhile.
"""

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cleanrl_cc import ppo_continuous
from cleanrl_cc.common.arguments import check_args, preset_args
from cleanrl_cc.common.envs import make_vector_env
from cleanrl_cc.common.machine import describe_machine, find_device
from cleanrl_cc.common.ranges import Count, Positive, Size
from cleanrl_cc.common.runs import Run
from cleanrl_cc.common.tables import start_csv, write_csv
from cleanrl_cc.common.vector import usable_cores

COLUMNS = ("env_id", "num_envs", "environments_alone", "ppo")  # of the CSV, after those of the machine
ENV_IDS = ("HalfCheetah-v5", "CarRacing-v3")
MINIBATCH = 64  # steps
QUIET = {"eval_frequency": 0, "checkpoint_frequency": 0, "device": "cpu", "precision": "fp32"}


@dataclass
class Options:
    num_envs: tuple[Size, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """numbers of parallel environments, powers of two"""
    seconds: Positive = 3.0
    """length of a measurement of the environments alone"""
    rollout: Count = 2048
    """steps of all environments between two updates of PPO; two such rollouts are timed, after a first one"""
    csv: Path | None = None
    """write the table here, over what is there"""


def make_args(env_id: str, num_envs: int, rollout: int) -> ppo_continuous.Args:
    """PPO's preset, with rollouts of `rollout` steps."""
    args = preset_args(ppo_continuous.Args, ppo_continuous.PRESETS, env_id)
    changes = {"num_envs": num_envs, "num_threads": usable_cores(), "total_timesteps": 4 * rollout}
    changes |= {"num_steps": rollout // num_envs, "num_minibatches": max(1, rollout // MINIBATCH)}
    for name, value in (QUIET | changes).items():
        setattr(args, name, value)
    return args


def environments_alone(args: ppo_continuous.Args, seconds: float) -> float:
    """Steps per second with random actions; a reset is no step."""
    envs = make_vector_env(args, continuous=True)
    envs.action_space.seed(args.seed)
    actions = [envs.action_space.sample() for _ in range(100)]  # drawing them takes time, too
    envs.reset()
    autoreset = np.zeros(args.num_envs, bool)
    num_steps = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        _, _, terminations, truncations, _ = envs.step(actions[envs.num_steps % len(actions)])
        num_steps += int(np.sum(~autoreset))
        autoreset = terminations | truncations
    speed = num_steps / (time.perf_counter() - begun)
    envs.close()
    return speed


class Enough(Exception):
    """Three rollouts have been played and learned from."""


def ppo(args: ppo_continuous.Args) -> float:
    """Steps per second of a training, from the end of its first update to that of its third."""
    ends = []

    class TimedRun(Run):
        def show_progress(self, global_step: int):
            if self.agent.num_updates > len(ends) * args.num_epochs * args.num_minibatches:
                ends.append((global_step, time.perf_counter()))
            if len(ends) == 3:
                self.envs.close()
                self.close()
                raise Enough

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        args.runs_dir = folder
        ppo_continuous.train(args, TimedRun)
    (first_step, first_time), _, (last_step, last_time) = ends
    return (last_step - first_step) / (last_time - first_time)


def main():
    options = tyro.cli(Options, description=__doc__)
    check_args(options)
    machine = describe_machine(find_device("cpu")) | {"threads": usable_cores()}
    if options.csv:  # what cannot be written is told now
        start_csv(options.csv, [*machine, *COLUMNS])
    print(f"{machine['processor']} ({machine['kind']}), {machine['cores']} cores, environment steps/s\n")
    print(f"{'':<16} {'environments':>12} {'alone':>8} {'PPO':>8}")
    rows = []
    for env_id in ENV_IDS:
        for num_envs in options.num_envs:
            args = make_args(env_id, num_envs, options.rollout)
            speeds = environments_alone(args, options.seconds), ppo(args)
            print(f"{env_id:<16} {num_envs:>12} {speeds[0]:>8.0f} {speeds[1]:>8.0f}", flush=True)
            measured = env_id, num_envs, *(round(speed, 1) for speed in speeds)
            rows.append(machine | dict(zip(COLUMNS, measured, strict=True)))
    if options.csv:
        write_csv(options.csv, rows)


if __name__ == "__main__":
    main()
