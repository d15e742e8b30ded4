"""Turns benchmark/results into docs/benchmarks.md, its figures in docs/assets/curves, and README's table
and chart. Nothing there is typed by hand.

    python benchmark/report.py

The same files give the same bytes (figures: with the same matplotlib). README has what is finished, the page
all there is. `cells.py` says what a cell is, `scores.py` computes the statistics, `figures.py` draws.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import scores
import tyro
from cells import (
    ROOT,
    TITLES,
    Cells,
    command,
    environment,
    evaluated_at,
    finished,
    is_peer,
    last_steps,
    number,
    planned_cells,
    read_results,
    rounded,
    title,
)
from figures import draw_curves, draw_front, draw_many_envs, draw_profiles

from cleanrl_cc.common import errors
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import write_text, writing
from cleanrl_cc.common.tables import read_csv, read_numbers

TABLE = re.compile(r"\| environment \| PPO.*?\n\n", re.DOTALL)  # in the README
MANY_ENVS = ("num_envs", "environments_alone", "ppo")  # the numbers of its table
ROBOTS = [f"{name}-v5 from state" for name in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d")]
EQUAL_STEPS = [300_000, 1_000_000]  # at which the robots' scores are compared
# up to which fp32 and bf16 are compared
BF16_STEPS = dict.fromkeys(ROBOTS, 200_000) | {"CarRacing-v3 from pixels": 100_000}
FRONT = "HalfCheetah-v5 from state"  # README's chart
FRONT_LINES = 4
INTRODUCTION = """# Benchmarks

Written by `python benchmark/report.py` from the files in `benchmark/results`. Every run there keeps its
arguments, its commands, its machine and its evaluations. The commands at the end give the arguments of the
first seed with the presets of today, whatever they were when it ran.

How to read the tables:

- A return is the mean over seeds of a deterministic evaluation on the environment as Gymnasium registers it.
  In brackets is the 95 % bootstrap interval of that mean over seeds; one seed has none. With two
  or three seeds it is just their range, which holds the true mean in about half or three quarters of cases.
- *Final* is the last evaluation of each run, *best* the highest of each run. Both are evaluations during
  training, and the best of many is flattered by being chosen.
- *Unseen* scores the same two policies over episodes that the training never played (`evaluate.py`, seeds
  from 10,000). In parentheses the number of episodes per seed, and of how many seeds if not of all; with one
  seed also the standard deviation of its episodes.
- Where an environment measures more than the return, a second table has it: of the last policy of each seed,
  over unseen episodes, with the standard error, the median and the worst of its returns.
- *Steps* are agent steps; one is `--action-repeat` environment frames. *Hours* are hours of training on the
  machine named below, which may have done other things meanwhile.
- A cell is one algorithm, or a variant of it in parentheses, on one environment; the commands at the end say
  how a variant differs. A dash is a number that was not measured. `not yet run` marks a cell that a script
  in `benchmark/` lists and no result fills; environments without any result are listed at the end.

In the figures one colour is one script. Ours is solid, and a variant of it paler; the curves of peers that
were trained beside ours are dashed, published scores dotted. These differ in versions, steps and statistics:
see the table below each figure. A line is the mean over seeds, its band the 95 % bootstrap interval. With one
seed the paler band is the standard deviation of the episodes of each evaluation; variants have none. A seed
that was trained for longer than another goes on as a thin line. Steps are linear, as in published curves,
unless one run is more than four times as long as another; on dm_control they are environment frames.

## All environments

Returns of the last policies over unseen episodes, as *final, unseen* below, and the agent steps they were
trained for.
"""
BASELINE = """## 1. Baseline

The score without learning: the return of uniformly random actions (`benchmark/baseline.py`), mean and
standard deviation over episodes. Next to it DQN, the simplest of the six, where it is finished.

| environment | random actions | episodes | DQN |
|---|---|---|---|"""
BENCHMARK = """## 2. Benchmark

The six scripts by their presets, and the variants that the presets were chosen against. First the robots at
equal steps: evaluations during training, of the runs that got that far; in parentheses their number.

Normalised scores are 0 for random actions and 1 for the best published score. The interquartile mean is that
of the middle half of all runs. Intervals of 95 % are from a bootstrap stratified by task, to which a task of
one run adds nothing ([Agarwal et al. 2021](https://arxiv.org/abs/2108.13264)).
"""
STATISTICS = """
| algorithm | interquartile mean of normalised scores | runs |
|---|---|---|"""
IMPROVEMENT = """
| on the tasks that both have | probability of improvement | runs of the first | runs of the second |
|---|---|---|---|"""
BF16 = """### bf16 beside fp32

In fp32 and in bf16 (`--precision bf16`): the mean of all evaluations up to so many steps, which
says how fast a run learns, and the evaluation there. In parentheses the number of seeds.

| environment | algorithm | steps | fp32, mean | bf16, mean | fp32, at the end | bf16, at the end |
|---|---|---|---|---|---|---|"""
ABLATION = (
    "## 3. Ablation\n\nRainbow without each of its components in turn, DQN, and DQN with Rainbow's n-step. "
    "`no-exploration` has\nneither noise nor random actions.\n"
)
ROBUSTNESS = """## 4. Robustness

Policies trained in the corridor in the first column, evaluated in both kinds of corridor over unseen episodes
(`benchmark/robustness.sh`): the return, its 95 % interval over seeds, and the share of episodes that reached
the end of the corridor. 1,500 is the whole corridor.
"""


@dataclass
class Options:
    results: Path = ROOT / "benchmark" / "results"
    """folders <name>/<environment>/seed-<n> as collect.py makes them"""
    out: Path = ROOT / "docs"
    """where benchmarks.md and assets/curves go"""
    readme: Path | None = ROOT / "README.md"
    """its table of finished cells is rewritten; None: left alone"""


# --- tables ---


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
    seeds = f", {len(files)} of {len(runs)} seeds" if len(files) < len(runs) else ""
    return number([file["return_mean"] for file in files]), f"{spread}{episodes} episodes{seeds}"


def row(name: str, runs: list[dict]) -> str:
    if not runs:
        return f"| {title(name)} | not yet run | - | - | - | - | - | - |"
    evaluations = [run["evaluations"] for run in runs]
    best = [int(e["global_step"][e["return_mean"].argmax()]) for e in evaluations]
    judged = [unseen(runs, steps) for steps in (last_steps(runs), best)]
    cells = [
        title(name),
        str(len(runs)),
        length(runs),
        number([e["return_mean"][-1] for e in evaluations]),
        number([e["return_mean"].max() for e in evaluations]),
        *(f"{score} ({episodes})" if episodes else score for score, episodes in judged),
        f"{np.mean([e['seconds'][-1] for e in evaluations]) / 3600:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def measures(cells: dict[str, list[dict]]) -> list[str]:
    """What an environment measures beside the return, of each script's last policies over unseen episodes, a
    line per seed; nothing where it measures no more."""
    judged = [
        (name, run["args"]["seed"], run["unseen"][step])
        for name in TITLES
        for run in cells.get(name, [])
        if (step := last_steps([run])[0]) in run["unseen"]
    ]
    keys = dict.fromkeys(key for _, _, file in judged for key in file if key.endswith("_mean"))
    keys = [key for key in keys if key not in ("return_mean", "length_mean")]
    if not keys:
        return []
    names = [key.removesuffix("_mean").replace("_", " ") for key in keys]
    head = ["algorithm", "seed", "episodes", "return", "standard error", "median", "worst", *names]
    lines = [f"\n| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, seed, file in judged:
        num_episodes = len(file["episodes"])
        returns = [file["return_mean"], file["return_std"] / np.sqrt(num_episodes)]
        returns += [file["return_median"], file["return_min"]]
        words = [title(name), str(seed), str(num_episodes), *(f"{value:,.1f}" for value in returns)]
        words += [f"{file[key]:.3g}" if key in file else "-" for key in keys]
        lines.append(f"| {' | '.join(words)} |")
    return lines


def finished_cell(runs: list[dict], planned: int | None) -> str:
    """The return and the steps of a finished cell; nothing of another."""
    steps, returns = finished(runs, planned) if runs else (0, [])
    return f"{number(returns)} ({rounded(steps)})" if returns else ""


def overview(results: Cells, planned: dict[str, dict[str, int]], only_finished: bool) -> str:
    """The table of all environments: of each script, by its preset, the last policy and its steps."""
    lines = [f"| environment | {' | '.join(TITLES.values())} |", "|---" * (1 + len(TITLES)) + "|"]
    for table, cells in results.items():
        words = {}
        for name in TITLES:
            runs = cells.get(name, [])
            if only_finished:
                words[name] = finished_cell(runs, planned[table].get(name))
            elif runs:
                words[name] = f"{unseen(runs, last_steps(runs))[0]} ({length(runs, rounded)})"
            else:
                words[name] = "not yet run" * (name in planned[table])
        if any(set(words.values()) - {"", "not yet run"}):
            lines.append(f"| {table} | {' | '.join(words.values())} |")
    return "\n".join(lines)


def baseline(rows: list[dict], results: Cells, planned: dict[str, dict[str, int]]) -> list[str]:
    """The first phase."""
    lines = []
    for row in rows:
        for table in results:
            if environment(table) != row["env_id"] or table.startswith("Ablation"):
                continue
            dqn = finished_cell(
                results[table].get("dqn_atari_style", []), planned[table].get("dqn_atari_style")
            )
            mean, deviation = (f"{float(row[name]):,.0f}" for name in ("return_mean", "return_std"))
            lines.append(f"| {table} | {mean} +- {deviation} | {row['episodes']} | {dqn} |")
    return [BASELINE, *lines, ""] if lines else []


def task(table: str, cells: dict, planned: dict[str, int], anchors: list[dict], out: Path) -> list[str]:
    """A section: the figures and the tables of one environment."""
    file = re.sub(r"[^\w-]+", "-", table)
    own = {
        name: runs for name, runs in cells.items() if name in TITLES or is_peer(name) or "ablation" in name
    }
    lines = [f"### {table}\n"]
    if own:
        # those after fewer steps are no goals
        goals = [anchor for anchor in anchors if anchor["steps"] != rounded(EQUAL_STEPS[0])]
        draw_curves(table, own, goals, out / f"{file}.svg")
        lines.append(f"![Learning curves, {table}](assets/curves/{file}.svg)\n")
    if others := set(cells) - set(own):
        scripts = {name.partition("-")[0] for name in others}
        compared = {name: runs for name, runs in cells.items() if name in others | scripts}
        draw_curves(f"Variants: {table}", compared, [], out / f"{file}-variants.svg")
        lines.append(f"![Learning curves of variants, {table}](assets/curves/{file}-variants.svg)\n")
    lines.append("| algorithm | seeds | steps | final | best | final, unseen | best, unseen | hours |")
    lines.append("|---" * 8 + "|")
    names = sorted(dict.fromkeys([*cells, *planned]), key=lambda name: [*TITLES, name].index(name))
    lines += [row(name, cells.get(name, [])) for name in names]
    lines += measures(cells)
    if anchors:
        lines.append("\n| published | return | steps | source |\n|---|---|---|---|")
        lines += [f"| {a['label']} | {a['score']} | {a['steps']} | {a['source']} |" for a in anchors]
    return [*lines, ""]


# --- statistics ---


def equal_steps(
    results: Cells, steps: int, bounds: dict[str, tuple[float, float]], anchors: dict[str, list], out: Path
) -> list[str]:
    """A section: the robots at equal steps beside what is published, and what that says of the scripts over
    tasks."""
    returns = {
        name: {
            table: evaluated_at(results[table].get(name, []), steps) for table in ROBOTS if table in results
        }
        for name in TITLES
    }
    returns = {name: {t: r for t, r in tables.items() if len(r)} for name, tables in returns.items()}
    returns = {name: tables for name, tables in returns.items() if tables}
    if not returns:
        return []
    lines = [f"### Robots at {steps:,} steps\n", f"| environment | {' | '.join(map(title, returns))} |"]
    lines.append("|---" * (1 + len(returns)) + "|")
    for table in [table for table in ROBOTS if any(table in tables for tables in returns.values())]:
        cells = [tables.get(table, []) for tables in returns.values()]
        words = [f"{number(list(cell))} ({len(cell)})" if len(cell) else "" for cell in cells]
        lines.append(f"| {table} | {' | '.join(words)} |")
    groups = {
        name: {t: scores.normalize(r, *bounds[t]) for t, r in tables.items() if t in bounds}
        for name, tables in returns.items()
    }
    groups = {name: tables for name, tables in groups.items() if tables}
    return [*lines, *published_after(results, steps, anchors), *statistics(groups, steps, out)]


def published_after(results: Cells, steps: int, anchors: dict[str, list]) -> list[str]:
    """What is published of the robots after so many steps; nothing where nothing is."""
    lines = [
        f"| {environment(table)} | {anchor['label']} | {anchor['score']} | {anchor['source']} |"
        for table in ROBOTS
        if table in results
        for anchor in anchors[table]
        if anchor["steps"] == rounded(steps)
    ]
    head = "\n| environment | published after as many steps | return | source |\n|---|---|---|---|"
    return [head, *lines] if lines else []


def bf16_beside_fp32(results: Cells) -> list[str]:
    """A section: how a script, or a variant of it, learns in either precision."""
    lines = []
    pairs = [(table, name) for table in BF16_STEPS for name in results.get(table, {})]
    for table, name in pairs:
        steps, cells = BF16_STEPS[table], results[table]
        means, ends = [], []
        for runs in (cells[name], cells.get(f"{name}-bf16", [])):
            whole = [run["evaluations"] for run in runs if len(evaluated_at([run], steps))]
            until = [e["return_mean"][e["global_step"] <= steps].mean() for e in whole]
            means.append(f"{number(until)} ({len(until)})" if until else "")
            ends.append(number(list(evaluated_at(runs, steps))) if until else "")
        if all(means):
            lines.append(f"| {table} | {title(name)} | {steps:,} | {' | '.join(means + ends)} |")
    return [BF16, *lines, ""] if lines else []


def statistics(groups: dict[str, scores.Scores], steps: int, out: Path) -> list[str]:
    """Tables and figure of normalised scores, by script."""
    if not groups:
        return [""]
    lines = [STATISTICS]
    for name, runs in groups.items():
        mean = with_interval(scores.interquartile_mean, runs)
        lines.append(f"| {title(name)} | {mean} | {scores.count(runs)} |")
    pairs = []
    for (name, runs), (other, others) in combinations(groups.items(), 2):
        shared = [{t: sample[t] for t in runs if t in others} for sample in (runs, others)]
        if shared[0]:
            probability = with_interval(scores.probability_of_improvement, *shared)
            counts = " | ".join(map(scores.count, shared))
            pairs.append(f"| {title(name)} above {title(other)} | {probability} | {counts} |")
    lines += [IMPROVEMENT, *pairs] if pairs else []
    file = f"profiles-{rounded(steps)}.svg"
    draw_profiles(groups, f"Robots at {steps:,} steps", out / file)
    counts = "; ".join(f"{title(name)}: {scores.count(runs)}" for name, runs in groups.items())
    caption = f"The share of runs whose normalised score is above τ, the mean over tasks. {counts}."
    return [*lines, f"\n![Performance profiles, {steps:,} steps](assets/curves/{file})\n\n{caption}\n"]


def with_interval(statistic: Callable, *samples: scores.Scores) -> str:
    """A statistic of normalised scores, with its interval where a task has two runs or more."""
    text = f"{statistic(*samples):.2f}"
    if all(len(values) < 2 for sample in samples for values in sample.values()):
        return text
    low, high = scores.interval(statistic, *samples)
    return f"{text} [{low:.2f}, {high:.2f}]"


def robustness(rows: list[dict]) -> list[str]:
    """The fourth phase: of each walker a matrix of where policies were trained and where they were judged."""
    lines = []
    for walker in sorted({row["env_id"].split("-")[1] for row in rows}):
        lines.append(f"| {walker}: trained in | algorithm | seeds | return in Static | return in Moving |")
        lines.append("|---" * 5 + "|")
        cells = defaultdict(lambda: defaultdict(list))
        for row in rows:
            trained, walls = (re.search("Static|Moving", row[key])[0] for key in ("trained_env_id", "env_id"))
            if row["env_id"].split("-")[1] == walker:
                cells[trained, row["algorithm"]][walls].append(row)
        for (trained, name), judged in sorted(cells.items(), key=lambda cell: [*TITLES].index(cell[0][1])):
            words = [score_and_goals(judged[walls]) for walls in ("Static", "Moving")]
            seeds = max(map(len, judged.values()))
            lines.append(f"| {trained} | {title(name)} | {seeds} | {' | '.join(words)} |")
        lines.append("")
    return [ROBUSTNESS, *lines] if lines else []


def score_and_goals(rows: list[dict]) -> str:
    goals = 100 * np.mean([float(row["goals"]) for row in rows]) if rows else 0
    return f"{number([float(row['return_mean']) for row in rows])}, {goals:.0f} %" if rows else ""


# --- writing ---


def write_report(options: Options):
    results, planned = read_results(options.results), planned_cells()
    readme = read_readme(options.readme) if options.readme else ""
    random_rows = read_numbers(options.results / "baseline.csv", ("episodes", "return_mean", "return_std"))
    robustness_rows = read_numbers(options.results / "robustness.csv", ("return_mean", "goals"))
    many_envs = read_numbers(options.results / "many_envs.csv", MANY_ENVS)
    replaces = options.out == Options.out or options.readme == Options.readme
    if replaces and options.results.resolve() != Options.results:
        raise InputError(
            f"A report of {options.results} would replace that of this repository: name a folder of its own, "
            f"as --out {options.results / 'docs'} --readme None."
        )
    out = options.out / "assets" / "curves"
    with writing(options.out):
        out.mkdir(parents=True, exist_ok=True)
        for figure in out.glob("*.svg"):  # of what is no longer there
            figure.unlink()
    anchors = defaultdict(list)
    for anchor in read_csv(ROOT / "benchmark" / "anchors.csv"):
        anchors[anchor["environment"]].append(anchor)
    random = {row["env_id"]: float(row["return_mean"]) for row in random_rows}
    bounds = {
        table: (random[environment(table)], max(float(anchor["score"]) for anchor in anchors[table]))
        for table in ROBOTS
        if environment(table) in random
    }
    sections = defaultdict(list)
    for table, cells in results.items():
        sections[table.startswith("Ablation")] += task(table, cells, planned[table], anchors[table], out)
    page = [INTRODUCTION, overview(results, planned, only_finished=False), ""]
    page += baseline(random_rows, results, planned)
    page.append(BENCHMARK)
    for steps in EQUAL_STEPS:
        page += equal_steps(results, steps, bounds, anchors, out)
    page += bf16_beside_fp32(results)
    page += sections[False]
    page += [ABLATION, *sections[True]] if sections[True] else []
    page += robustness(robustness_rows)
    if many_envs:  # docs/speed.md shows it
        draw_many_envs(many_envs, out / "many-envs.svg")
    page += remainder(results, planned)
    write_text(options.out / "benchmarks.md", "\n".join(page).rstrip("\n") + "\n")
    if options.readme is not None:
        table = overview(results, planned, only_finished=True)
        write_text(options.readme, TABLE.sub(lambda _: table + "\n\n", readme))
        draw_chart(results, planned, anchors[FRONT], out / "front.svg")


def remainder(results: Cells, planned: dict[str, dict[str, int]]) -> list[str]:
    """What is not yet run, and what gives the runs that are."""
    empty = [
        f"| {table} | {', '.join(map(title, names))} |"
        for table, names in sorted(planned.items())
        if table not in results
    ]
    page = ["\n".join(["## Not yet run\n", "| environment | algorithms |\n|---|---|", *empty, ""])]
    page.append("## Commands and machines\n")
    for table, cells in results.items():
        for name, runs in cells.items():
            machines = defaultdict(list)
            for run in runs:
                machines[describe(run)].append(str(run["args"]["seed"]))
            where = [f"seed {', '.join(seeds)}: {machine}" for machine, seeds in machines.items()]
            page += [f"{title(name)} on {table}; {'; '.join(where)}.\n"]
            page += [f"```bash\n{command(runs[0])}\n```\n"]
    return page


def read_readme(path: Path) -> str:
    """Raises InputError where there is no table to renew."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--readme {path} cannot be read ({errors.describe(error)}).") from error
    if not TABLE.search(text):
        raise InputError(f"--readme {path} has no table that begins with `| environment | PPO`.")
    return text


def draw_chart(results: Cells, planned: dict, anchors: list[dict], path: Path):
    """README's: finished cells of one environment, and the best published score while there is room."""
    cells = results.get(FRONT, {})
    done = {
        name: cells[name] for name in TITLES if finished_cell(cells.get(name, []), planned[FRONT].get(name))
    }
    shown = dict([*done.items()][:FRONT_LINES])
    published = [anchor for anchor in anchors if anchor["algorithm"] in shown]
    best = max(published, key=lambda anchor: float(anchor["score"]), default=None)
    draw_front(FRONT, shown, best if len(shown) < FRONT_LINES else None, path)


def describe(run: dict) -> str:
    machine, versions = run["machine"], run["versions"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    where += f", {machine['threads']} torch thread{'s' * (machine['threads'] > 1)}"
    return f"{where}, {run['args']['precision']}, torch {versions['torch']}" + (
        f". {run['note']}" if "note" in run else ""
    )


if __name__ == "__main__":
    write_report(tyro.cli(Options, description=__doc__))
