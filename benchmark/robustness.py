"""Evaluates policies of the corridors both where walls stand and where they move.

    python benchmark/robustness.py runs --episodes 100

In benchmark/results/robustness.csv a row is one policy, the last one of its run, in one corridor: where it
was trained and played, its return, and the share of episodes that reached the goal, the end of the corridor.
Rows of other policies stay.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cleanrl_cc.common.arguments import check_args
from cleanrl_cc.common.errors import InputError, describe, require
from cleanrl_cc.common.obstacles import LENGTH
from cleanrl_cc.common.ranges import Size
from cleanrl_cc.common.tables import read_numbers, start_csv, write_csv
from cleanrl_cc.evaluate import Options as EvaluateOptions
from cleanrl_cc.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("algorithm", "seed", "trained_env_id", "env_id", "global_step", "total_timesteps", "episodes")
COLUMNS += ("return_mean", "return_std", "goals", "collisions_mean")
CORRIDOR = re.compile(r"cleanrl_cc/Corridor(Static|Moving)-\w+-v0")


@dataclass
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """run folders, or folders with run folders anywhere below; those of other environments are passed over"""
    episodes: Size = 100
    """episodes of each policy in each corridor"""
    csv: Path = ROOT / "benchmark" / "results" / "robustness.csv"
    """where the scores go"""


def find_runs(folders: tuple[Path, ...]) -> list[tuple[Path, dict]]:
    """Policies of runs in a corridor, and what describes them. Raises InputError for two of one row."""
    runs = []
    places = {}
    for checkpoint in sorted({path for folder in folders for path in folder.rglob("last.pt")}):
        try:
            description = json.loads((checkpoint.parent / "args.json").read_text())
            args = description["args"]
            place = description["algorithm"], args["env_id"], args["seed"]
            if not CORRIDOR.fullmatch(args["env_id"]):
                continue
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{checkpoint.parent} has no args.json of a run ({describe(error)}).") from error
        if place in places:
            raise InputError(
                f"{places[place]} and {checkpoint.parent} are both of {place[0]} in {place[1]} with the seed "
                f"{place[2]}, which is one row: name one of them."
            )
        places[place] = checkpoint.parent
        runs.append((checkpoint, description))
    return runs


def judge(checkpoint: Path, description: dict, env_id: str, episodes: int) -> dict:
    """The row of one policy in one corridor."""
    options = EvaluateOptions(str(checkpoint), episodes=episodes, env_id=env_id, device="cpu")
    result = evaluate(options)
    reached = [episode["distance"] >= LENGTH for episode in result["episodes"]]
    known = result | {
        "seed": description["args"]["seed"],
        "total_timesteps": description["args"]["total_timesteps"],
        "episodes": episodes,
        "return_mean": round(result["return_mean"], 2),
        "return_std": round(result["return_std"], 2),
        "goals": round(float(np.mean(reached)), 4),
        "collisions_mean": round(result["collisions_mean"], 2),
    }
    return {name: known[name] for name in COLUMNS}


def key(row: dict) -> tuple:
    return row["algorithm"], row["trained_env_id"], row["env_id"], int(row["seed"])


def main(options: Options):
    check_args(options)
    require(len(options.runs) > 0, "runs", options.runs, "at least one folder")
    runs = find_runs(options.runs)
    if not runs:
        raise InputError(f"There is no run in a corridor in {' '.join(map(str, options.runs))}.")
    start_csv(options.csv, COLUMNS)
    rows = {key(row): row for row in read_numbers(options.csv, ("seed", "return_mean", "goals"))}
    for checkpoint, description in runs:
        for walls in ("Static", "Moving"):
            env_id = re.sub("Static|Moving", walls, description["args"]["env_id"])
            row = judge(checkpoint, description, env_id, options.episodes)
            rows[key(row)] = row
            print(f"{checkpoint.parent} in {env_id}: {row['return_mean']:.1f}", flush=True)
            write_csv(options.csv, [rows[key] for key in sorted(rows)])


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
