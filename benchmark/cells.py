"""What benchmark/results holds and what the scripts in benchmark/ ask for, as cells: the runs of one name on
one task. A cell is finished when runs were scored, over unseen episodes, at the steps that were asked for."""

import json
import os
import shlex
import subprocess
from collections import defaultdict
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import numpy as np
from tasks import flag

from cleanrl_cc.common.arguments import preset_args
from cleanrl_cc.common.checkpoints import args_of_today
from cleanrl_cc.common.errors import InputError, describe
from cleanrl_cc.common.tables import read_csv

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "ppo_continuous": "PPO",
    "sac_drq": "SAC",
    "td3": "TD3",
    "ddpg": "DDPG",
    "dqn_atari_style": "DQN",
    "rainbow": "Rainbow",
}
NOT_IN_COMMAND = {
    "env_id",
    "seed",
    "device",
    "precision",
    "matmul",
    "runs_dir",
    "run_name",
    "resume",
    "keep_policies",
    "capture_video",
    "track",
}
ARGS = ("env_id", "obs", "seed", "total_timesteps", "action_repeat", "precision")  # that a report names
MILESTONES = {1_000_000: [300_000]}  # of cells of so many steps, which count as finished there, too
LATE = 1.02  # the factor by which a run may pass the steps before it is scored

Cells = dict[str, dict[str, list[dict]]]  # runs by heading and name


# --- reading ---


def read_run(folder: Path) -> dict:
    """A run's description, its evaluations by column, and its scores over unseen episodes by global step.
    Raises InputError for what collect.py would not have written."""
    try:
        return _read_run(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{folder} is not a collected run ({describe(error)}): remove it.") from error


def _read_run(folder: Path) -> dict:
    int(folder.name.split("-")[1])
    description = json.loads((folder / "args.json").read_text())
    evaluations = read_csv(folder / "evaluations.csv")
    files = [json.loads(path.read_text()) for path in folder.glob("episodes-*.json")]
    columns = {
        name: np.array([float(row[name]) for row in evaluations])
        for name in ("global_step", "return_mean", "return_std", "seconds")
    }
    if description["algorithm"] not in TITLES:
        raise ValueError(f"{description['algorithm']} is not a script")
    needed = [(description, ("machine", "versions")), (description["args"], ARGS)]
    needed += [(file, ("episodes", "return_mean", "return_std")) for file in files]
    for known, names in needed:
        if missing := set(names) - known.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return description | {"evaluations": columns, "unseen": {file["global_step"]: file for file in files}}


def heading(name: str, env_id: str, obs: str) -> str:
    """Which table a run is in: what is compared must see the same."""
    pixels = obs == "pixels" or (obs == "auto" and "CarRacing" in env_id)
    prefix = "Ablation: " if name.startswith("ablation-") else ""
    return f"{prefix}{env_id} from {'pixels' if pixels else 'state'}"


def environment(table: str) -> str:
    """The id in a heading."""
    return table.removeprefix("Ablation: ").partition(" from ")[0]


def read_results(folder: Path) -> Cells:
    """The runs, the ablations last, ordered by seed."""
    found = [(path.parent, read_run(path.parent)) for path in folder.glob("*/*/seed-*/args.json")]
    found.sort(key=lambda pair: (pair[0].parts[:-1], int(pair[0].name.split("-")[1])))
    tables = defaultdict(lambda: defaultdict(list))
    for place, run in found:
        name = place.parts[-3]
        if len(run["evaluations"]["global_step"]):
            tables[heading(name, run["args"]["env_id"], run["args"]["obs"])][name].append(run)
    if not tables:
        raise InputError(f"There is no run with an evaluation in --results {folder}: collect.py brings some.")
    return {
        table: tables[table]
        for table in sorted(tables, key=lambda table: (table.startswith("Ablation"), table))
    }


def planned_cells() -> dict[str, dict[str, int]]:
    """The steps that the benchmark scripts ask for, by heading and name."""
    cells = defaultdict(dict)
    for script in sorted(ROOT.glob("benchmark/*.sh")):
        if script.stem in ("common", "gpu", "smoke"):
            continue
        listing = subprocess.run(
            ["bash", script],
            env=os.environ
            | {"LIST": "1", "SEEDS": "1", "STEPS": "", "FLAGS": ""},  # whatever the user has set
            capture_output=True,
            text=True,
            check=True,
        )
        for line in listing.stdout.splitlines():
            _, file, *words = shlex.split(line)
            module = import_module(f"cleanrl_cc.{Path(file).stem}")
            env_id = flag(words, "env-id")
            preset = preset_args(module.Args, module.PRESETS, env_id)
            name = flag(words, "run-name").split("/")[0]
            table = heading(name, env_id, flag(words, "obs") or preset.obs)
            cells[table][name] = int(flag(words, "total-timesteps") or preset.total_timesteps)
    return cells


# --- names ---


def title(name: str) -> str:
    """PPO, SAC (constant rate), no-c51."""
    script, _, variant = name.partition("-")
    if script == "ablation":
        return variant
    return TITLES.get(script, script) + (f" ({variant.replace('-', ' ')})" if variant else "")


def is_peer(name: str) -> bool:
    """Whether `peer_curve.py` trained a cell."""
    return name.endswith(("-sb3", "-sbx"))


def rounded(steps: int) -> str:
    """84k, 1.5M."""
    return f"{steps / 1e6:.3g}M" if steps >= 1e6 else f"{steps / 1e3:.0f}k"


def command(run: dict) -> str:
    """What gives these arguments with the presets of today, which may not be those of the run; of a
    peer's run what was typed."""
    typed = run.get("commands", [""])[-1]
    if "peer_curve.py" in typed:
        return typed
    script, args = import_module(f"cleanrl_cc.{run['algorithm']}"), run["args"]
    today = asdict(preset_args(script.Args, script.PRESETS, args["env_id"]))
    words = ["--env-id", args["env_id"], "--seed", str(args["seed"])]
    for name, value in (asdict(script.Args()) | args_of_today(args)).items():
        value, flag = tuple(value) if isinstance(value, list) else value, name.replace("_", "-")
        if name in NOT_IN_COMMAND or name not in today or value == today[name]:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(["python", f"cleanrl_cc/{run['algorithm']}.py", *words])


# --- numbers ---


def interval(values: np.ndarray) -> np.ndarray:
    """95 % bootstrap interval (2, ...) of the mean over seeds; values (S, ...)."""
    picks = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    return np.percentile(values[picks].mean(axis=1), [2.5, 97.5], axis=0)


def number(values: list[float]) -> str:
    """Mean over seeds, with its interval where there are two or more."""
    digits = 0 if abs(np.mean(values)) >= 10 else 1
    text = f"{np.mean(values):,.{digits}f}"
    if len(values) < 2:
        return text
    low, high = interval(np.array(values))
    return f"{text} [{low:,.{digits}f}, {high:,.{digits}f}]"


def last_steps(runs: list[dict]) -> list[int]:
    """The global step of each run's last policy that anyone scored."""
    return [int(max(run["evaluations"]["global_step"].max(), *run["unseen"], 0)) for run in runs]


def finished(runs: list[dict], planned: int | None) -> tuple[int, list[float]]:
    """The steps at which a cell is finished, the planned ones or else a milestone, and the return of each run
    there over unseen episodes; 0 and no returns for a cell that is not."""
    planned = planned or max(run["args"]["total_timesteps"] for run in runs)
    for steps in (planned, *MILESTONES.get(planned, ())):
        returns = []
        for run in runs:
            near = [step for step in run["unseen"] if steps <= step <= LATE * steps]
            returns += [run["unseen"][min(near)]["return_mean"]] if near else []
        if returns:
            return steps, returns
    return 0, []


def evaluated_at(runs: list[dict], steps: int) -> np.ndarray:
    """The return of each run's evaluation during training at `steps`, of the runs that came so far."""
    returns = []
    for run in runs:
        done, means = run["evaluations"]["global_step"], run["evaluations"]["return_mean"]
        near = (done >= steps) & (done <= LATE * steps)
        returns += [means[near][0]] if near.any() else []
    return np.array(returns)
