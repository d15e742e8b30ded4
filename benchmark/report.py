"""Turns benchmark/results into docs/benchmarks.md, its curves in docs/assets/curves, and README's
table. Nothing there is typed by hand.

    python benchmark/report.py

The same files give the same bytes (curves: with the same matplotlib). Cells that a benchmark
script lists and no result fills are marked.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure

from cleanrl_cc.common import errors
from cleanrl_cc.common.arguments import preset_args
from cleanrl_cc.common.checkpoints import args_of_today
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import writing
from cleanrl_cc.common.tables import read_csv

NOT_IN_COMMAND = {
    "env_id",
    "seed",
    "device",
    "matmul",
    "precision",
    "runs_dir",
    "run_name",
    "resume",
    "capture_video",
    "track",
}
ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "ppo_continuous": "PPO",
    "sac_drq": "SAC",
    "td3": "TD3",
    "ddpg": "DDPG",
    "dqn_atari_style": "DQN",
    "rainbow": "Rainbow",
}
# in the README
TABLE = re.compile(r"\| environment \| PPO.*?\n\n", re.DOTALL)
# of a script, which has one color, and its variants
MARKS = [("o", "-"), ("s", ":"), ("^", "-."), ("v", ":"), ("D", "-.")]
INTRODUCTION = """# Benchmarks

Written by `python benchmark/report.py` from the files in `benchmark/results`. Every run there keeps its
arguments, its commands, its machine and its evaluations. The commands at the end give a run's arguments with
the presets of today, whatever they were when it ran.

How to read the tables:

- A return is the mean over seeds of a deterministic evaluation on the environment as Gymnasium registers it.
  In brackets is the 95 % bootstrap interval of that mean over seeds; one seed has none.
- *Final* is the last evaluation of each run, *best* the highest of each run. Both are evaluations during
  training, and the best of many is flattered by its choice.
- *Unseen* scores the same two policies over episodes that the training never played (`evaluate.py`, seeds
  from 10,000). In brackets is the number of episodes per seed; with one seed their standard deviation, too.
- *Steps* are agent steps; one is `--action-repeat` environment frames. *Hours* are hours of training on the
  machine named below, which may have done other things meanwhile.
- A dash is a number that nobody has measured. `not yet run` marks a cell that a script in `benchmark/` lists
  and no result fills; environments without any result are listed at the end.

In the curves a line is the mean over seeds, its band the 95 % bootstrap interval. With one seed the paler
band is the standard deviation of the episodes of each evaluation. A seed that was trained for longer than
another goes on as a thin line. The steps are on a logarithmic axis where one run is more than four times as
long as another. Dashed lines are published scores; they differ in versions, steps and statistics: see the
table below each curve.

## All environments

Returns of the last policies over unseen episodes, as *final, unseen* below, and the agent steps they were
trained for.
"""


@dataclass
class Options:
    results: Path = ROOT / "benchmark" / "results"
    """folders <name>/<environment>/seed-<n> as collect.py makes them"""
    out: Path = ROOT / "docs"
    """where benchmarks.md and assets/curves go"""
    readme: Path | None = ROOT / "README.md"
    """its table of all environments is rewritten; None: left alone"""


# --- reading ---


def read_run(folder: Path) -> dict:
    """Raises InputError for what collect.py would not have written."""
    try:
        return _read_run(folder)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder} is no collected run ({errors.describe(error)}): take it away.") from error


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
        raise ValueError(f"{description['algorithm']} is no script")
    return description | {"evaluations": columns, "unseen": {file["global_step"]: file for file in files}}


def heading(name: str, env_id: str, obs: str) -> str:
    """Which table a run is in: what is compared must see the same."""
    pixels = obs == "pixels" or (obs == "auto" and "CarRacing" in env_id)
    prefix = "Ablation: " if name.startswith("ablation-") else ""
    return f"{prefix}{env_id} from {'pixels' if pixels else 'state'}"


def read_results(folder: Path) -> dict[str, dict[str, list[dict]]]:
    """Runs by heading, the ablations last, and name, ordered by seed."""
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


def planned_cells() -> dict[str, list[str]]:
    """The names that the benchmark scripts list, by heading."""
    cells = defaultdict(list)
    for script in sorted(ROOT.glob("benchmark/*.sh")):
        if script.stem in ("common", "gpu", "smoke"):
            continue
        lines = subprocess.run(
            ["bash", script],
            env=os.environ | {"LIST": "1", "SEEDS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        for line in lines.stdout.splitlines():
            given = dict(re.findall(r"--(env-id|obs|run-name) (\S+)", line))
            by_preset = "pixels" if given["env-id"].startswith("dm_control/") else "auto"
            name = given["run-name"].split("/")[0]
            cells[heading(name, given["env-id"], given.get("obs", by_preset))].append(name)
    return cells


# --- statistics ---


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


def rounded(steps: int) -> str:
    """84k, 1.5M."""
    return f"{steps / 1e6:.3g}M" if steps >= 1e6 else f"{steps / 1e3:.0f}k"


def length(runs: list[dict], write=lambda steps: f"{steps:,}") -> str:
    """Steps of the runs, and of how many if that is not all."""
    steps, total = last_steps(runs), max(run["args"]["total_timesteps"] for run in runs)
    if min(steps) >= total:
        return write(min(steps))
    return f"{' to '.join(dict.fromkeys(map(write, (min(steps), max(steps)))))} of {write(total)}"


def unseen(runs: list[dict], steps: list[int]) -> tuple[str, str]:
    """The return over unseen episodes, of each run's policy at the given step; and what was averaged."""
    files = [run["unseen"][step] for run, step in zip(runs, steps, strict=True) if step in run["unseen"]]
    if not files:
        return "-", ""
    episodes = " or ".join(map(str, sorted({len(file["episodes"]) for file in files})))
    spread = f"+- {files[0]['return_std']:,.0f}, " if len(files) == 1 else ""
    return number([file["return_mean"] for file in files]), f"{spread}{episodes} episodes"


def row(name: str, runs: list[dict]) -> str:
    if not runs:
        return f"| {title(name)} | not yet run | - | - | - | - | - | - |"
    evaluations = [run["evaluations"] for run in runs]
    best = [int(e["global_step"][e["return_mean"].argmax()]) for e in evaluations]
    scores = [unseen(runs, steps) for steps in (last_steps(runs), best)]
    cells = [
        title(name),
        str(len(runs)),
        length(runs),
        number([e["return_mean"][-1] for e in evaluations]),
        number([e["return_mean"].max() for e in evaluations]),
        *(f"{score} ({episodes})" if episodes else score for score, episodes in scores),
        f"{np.mean([e['seconds'][-1] for e in evaluations]) / 3600:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def overview(results: dict[str, dict[str, list[dict]]], planned: dict[str, list[str]]) -> str:
    """The table of all environments: of each script, by its preset, the last policy and its steps."""
    lines = [f"| environment | {' | '.join(TITLES.values())} |", "|---" * (1 + len(TITLES)) + "|"]
    for table, cells in results.items():
        scores = {
            name: f"{unseen(runs, last_steps(runs))[0]} ({length(runs, rounded)})"
            for name, runs in cells.items()
            if name in TITLES
        }
        words = (scores.get(name, "not yet run" * (name in planned[table])) for name in TITLES)
        lines += [f"| {table} | {' | '.join(words)} |"] if scores else []
    return "\n".join(lines)


def title(name: str) -> str:
    """PPO, SAC (constant rate), no-c51."""
    script, _, variant = name.partition("-")
    if script == "ablation":
        return variant
    return TITLES.get(script, script) + (f" ({variant.replace('-', ' ')})" if variant else "")


def family(name: str) -> str:
    """The script of a variant. Each part of an ablation is its own."""
    return name if name.startswith("ablation-") else name.partition("-")[0]


# --- drawing ---


def draw(heading: str, cells: dict[str, list[dict]], anchors: list[dict], path: Path):
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis, families = figure.subplots(), [*TITLES, *sorted(set(map(family, cells)) - set(TITLES))]
    colors, drawn = {name: f"C{index}" for index, name in enumerate(families)}, Counter()
    for name, runs in sorted(cells.items()):
        color, (marker, line) = colors[family(name)], MARKS[drawn[family(name)] % len(MARKS)]
        drawn[family(name)] += 1
        evaluations = [run["evaluations"] for run in runs]
        shared = min(len(e["global_step"]) for e in evaluations)  # evaluations that every seed has
        steps = evaluations[0]["global_step"][:shared]
        returns = np.stack([e["return_mean"][:shared] for e in evaluations])
        spread = evaluations[0]["return_std"][:shared]
        low, high = interval(returns) if len(runs) > 1 else (returns[0] - spread, returns[0] + spread)
        seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
        axis.plot(
            steps,
            returns.mean(axis=0),
            color=color,
            marker=marker,
            ls=line,
            markersize=2.5,
            label=f"{title(name)}, {seeds}",
        )
        axis.fill_between(steps, low, high, color=color, alpha=0.25 if len(runs) > 1 else 0.1, linewidth=0)
        for e in (e for e in evaluations if len(e["global_step"]) > shared):
            axis.plot(
                e["global_step"][shared - 1 :],
                e["return_mean"][shared - 1 :],
                color=color,
                ls=line,
                linewidth=0.7,
            )
    for anchor in anchors:  # of the algorithms drawn, and of those that are none of ours
        if anchor["algorithm"] not in (*cells, ""):
            continue
        color = colors.get(anchor["algorithm"], "gray")
        axis.axhline(
            float(anchor["score"]),
            color=color,
            linestyle="--",
            linewidth=0.8,
            label=f"{anchor['label']}: {anchor['score']}",
        )
    ends = [run["evaluations"]["global_step"][-1] for runs in cells.values() for run in runs]
    axis.set(
        title=heading,
        xlabel="agent steps",
        ylabel="return",
        xscale="log" if max(ends) > 4 * min(ends) else "linear",
    )
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same ids, and text as text
    with matplotlib.rc_context({"svg.hashsalt": "cleanrl_cc", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


# --- writing ---


def write_report(options: Options):
    results, planned = read_results(options.results), planned_cells()
    readme = read_readme(options.readme) if options.readme else ""
    with writing(options.out):
        (options.out / "assets" / "curves").mkdir(parents=True, exist_ok=True)
    anchors = defaultdict(list)
    for anchor in read_csv(ROOT / "benchmark" / "anchors.csv"):
        anchors[anchor["environment"]].append(anchor)
    everything = overview(results, planned)
    page = [INTRODUCTION, everything, ""]
    for table, cells in results.items():
        names = dict.fromkeys([*cells, *planned[table]])
        file = re.sub(r"[^\w-]+", "-", table) + ".svg"
        draw(table, cells, anchors[table], options.out / "assets" / "curves" / file)
        page.append(f"## {table}\n\n![Learning curves, {table}](assets/curves/{file})\n")
        page.append(
            "| algorithm | seeds | steps | final | best | final, unseen | best, unseen | hours |\n"
            + "|---" * 8
            + "|"
        )
        page += [
            row(name, cells.get(name, []))
            for name in sorted(names, key=lambda name: [*TITLES, name].index(name))
        ]
        if anchors[table]:
            page.append("\n| published | return | steps | source |\n|---|---|---|---|")
            page += [
                f"| {anchor['label']} | {anchor['score']} | {anchor['steps']} | {anchor['source']} |"
                for anchor in anchors[table]
            ]
        page.append("")
    empty = [
        f"| {table} | {', '.join(map(title, names))} |"
        for table, names in sorted(planned.items())
        if table not in results
    ]
    page.append("\n".join(["## Not yet run\n", "| environment | algorithms |\n|---|---|", *empty, ""]))
    page.append("## Commands and machines\n")
    for table, cells in results.items():
        for name, runs in cells.items():
            machines = sorted({describe(run) for run in runs})
            page += [f"{title(name)} on {table}, seed {runs[0]['args']['seed']}; {'; '.join(machines)}:\n"]
            page += [f"```bash\n{command(runs[0])}\n```\n"]
    with writing(options.out / "benchmarks.md"):
        (options.out / "benchmarks.md").write_text("\n".join(page).rstrip("\n") + "\n")
    if options.readme is not None:
        with writing(options.readme):
            options.readme.write_text(TABLE.sub(lambda _: everything + "\n\n", readme))


def read_readme(path: Path) -> str:
    """Raises InputError where there is no table to renew."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--readme {path} cannot be read ({errors.describe(error)}).") from error
    if not TABLE.search(text):
        raise InputError(f"--readme {path} has no table that begins with `| environment | PPO`.")
    return text


def command(run: dict) -> str:
    """What gives these arguments with the presets of today, which may not be those of the run; of a
    peer's run what was typed."""
    if "peer_curve.py" in run["commands"][-1]:
        return run["commands"][-1]
    script, args = importlib.import_module(f"cleanrl_cc.{run['algorithm']}"), run["args"]
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


def describe(run: dict) -> str:
    machine, versions = run["machine"], run["versions"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    where += f", {machine['threads']} torch thread{'s' * (machine['threads'] > 1)}"
    return f"{where}, {run['args']['precision']}, torch {versions['torch']}" + (
        f". {run['note']}" if "note" in run else ""
    )


if __name__ == "__main__":
    write_report(tyro.cli(Options, description=__doc__))
