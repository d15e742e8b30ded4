"""Steps per second of Gymnasium's CarRacing and of ours, in turns, with the same actions; prints a table and
the ratios.

    python benchmark/car_racing_speed.py
"""

import csv
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from gymnasium.envs.box2d.car_racing import CarRacing

from cleanrl_cc.common.arguments import check_args
from cleanrl_cc.common.car_racing import FastCarRacing
from cleanrl_cc.common.files import writing
from cleanrl_cc.common.ranges import Count


@dataclass
class Options:
    steps: Count = 100
    """physics steps of each environment per round"""
    rounds: Count = 8
    """rounds, each with another track"""
    csv: Path | None = None
    """write the table here too"""


def steps_per_second(env: CarRacing, actions: np.ndarray, drawn_every: int) -> float:
    start = time.perf_counter()
    for index, action in enumerate(actions):
        # stock has no such switch and ignores it
        env.render_observation = index % drawn_every == drawn_every - 1
        env.step(action)
    return len(actions) / (time.perf_counter() - start)


def main():
    options = tyro.cli(Options, description=__doc__)
    check_args(options)
    contenders = {
        "Gymnasium": (CarRacing(), 1),
        "ours, every frame": (FastCarRacing(), 1),
        "ours, one frame in four": (FastCarRacing(), 4),
    }
    speeds = {name: [] for name in contenders}
    for seed in range(options.rounds):
        steering = np.cumsum(np.random.default_rng(seed).normal(0, 0.1, options.steps)).clip(-0.3, 0.3)
        actions = np.stack([steering, np.full(options.steps, 0.1), np.zeros(options.steps)], axis=1)
        for name, (env, drawn_every) in contenders.items():
            env.reset(seed=seed)
            speeds[name].append(steps_per_second(env, actions, drawn_every))
    stock = statistics.median(speeds["Gymnasium"])
    rows = [
        {
            "contender": name,
            "steps_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(values) / stock, 2),
        }
        for name, values in speeds.items()
    ]
    for row in rows:
        print(f"{row['contender']:<24} {row['steps_per_second']:>8} steps/s  {row['ratio']:>6} times")
    if options.csv:
        with writing(options.csv), open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
