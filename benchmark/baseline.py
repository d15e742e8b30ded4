"""Plays uniformly random actions: the return that is there without learning, 0 in normalised scores.

    python benchmark/baseline.py HalfCheetah-v5 CarRacing-v3

benchmark/results/baseline.csv has a row per environment, made as `sac_drq.py` makes it: action repeat, axes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from gymnasium.spaces import Box

from cleanrl_cc import sac_drq
from cleanrl_cc.common.arguments import check_args, preset_args
from cleanrl_cc.common.envs import find_spec, make_env, recipe
from cleanrl_cc.common.errors import InputError, require
from cleanrl_cc.common.evaluation import play_episodes, summarize
from cleanrl_cc.common.ranges import Size
from cleanrl_cc.common.tables import read_csv, start_csv, write_csv

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("env_id", "episodes", "return_mean", "return_std")


@dataclass
class Options:
    env_ids: tyro.conf.Positional[tuple[str, ...]]
    """environments with continuous actions"""
    episodes: Size = 100
    """episodes of each, with the seeds from 10,000 on"""
    csv: Path = ROOT / "benchmark" / "results" / "baseline.csv"
    """where the returns go; rows of other environments stay"""


class RandomAgent:
    """Acts uniformly in [-1, 1] whatever it sees."""

    def __init__(self, num_actions: int):
        self.num_actions = num_actions
        self.rng = np.random.default_rng(0)

    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        return self.rng.uniform(-1, 1, (len(obs), self.num_actions)).astype(np.float32)


def measure(env_id: str, episodes: int) -> dict:
    """The row of one environment."""
    args = preset_args(sac_drq.Args, sac_drq.PRESETS, env_id)
    env = make_env(**recipe(args) | {"obs": "auto"})
    if env.pixels:
        env.pixels.rendering = False  # nobody looks
    if not isinstance(env.action_space, Box):
        raise InputError(f"{env_id} has discrete actions, and this baseline is of continuous ones.")
    (num_actions,) = env.action_space.shape
    summary = summarize(play_episodes([env], RandomAgent(num_actions), range(10_000, 10_000 + episodes)))
    env.close()
    scores = {name: round(summary[name], 2) for name in ("return_mean", "return_std")}
    return {"env_id": env_id, "episodes": episodes} | scores


def main(options: Options):
    check_args(options)
    require(len(options.env_ids) > 0, "env_ids", options.env_ids, "at least one environment")
    for env_id in options.env_ids:
        find_spec(env_id)
    start_csv(options.csv, COLUMNS)
    rows = {row["env_id"]: row for row in read_csv(options.csv)}
    for env_id in options.env_ids:
        rows[env_id] = measure(env_id, options.episodes)
        print(f"{env_id}: {rows[env_id]['return_mean']:.1f}", flush=True)
        write_csv(options.csv, [rows[env_id] for env_id in sorted(rows)])


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
