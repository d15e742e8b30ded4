"""The figures of the report. One color is one script everywhere: ours is drawn solid, variants of it in paler
shades, peers' curves dashed, published scores dotted."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scores
from cells import TITLES, environment, interval, is_peer, title

from cleanrl_cc.common.errors import InputError

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullLocator
except ImportError as error:
    raise InputError('Figures are drawn with matplotlib: pip install -e ".[plot]".') from error

COLORS = {name: f"C{index}" for index, name in enumerate(TITLES)}
ABLATION_COLORS = {"ablation-dqn": COLORS["dqn_atari_style"], "ablation-rainbow": COLORS["rainbow"]}
OTHERS = ["C6", "C7", "C8", "C9", "k", "olive", "navy", "deeppink"]  # of an ablation's parts
MARKS = ["o", "s", "^", "v", "D", "P"]  # of a script and its variants
LONG = 4  # runs that differ by more than this factor are drawn on a logarithmic axis
THRESHOLDS = np.linspace(0, 1.5, 151)


def draw_curves(heading: str, cells: Mapping[str, list[dict]], anchors: list[dict], path: Path):
    """The returns of all evaluations during training.

    Args:
        heading: of the table, which names environment and observation.
        cells: the runs by name.
        anchors: rows of anchors.csv, published scores; of scripts that are not drawn they are left out.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    # what is published on dm_control is published in frames
    frames = environment(heading).startswith("dm_control/")
    for name, color, mark in styles(cells):
        repeat = cells[name][0]["args"]["action_repeat"] if frames else 1
        draw_cell(axis, name, cells[name], repeat, color, mark)
    for anchor in anchors:
        if anchor["algorithm"] in (*cells, ""):
            color = COLORS.get(anchor["algorithm"], "gray")
            after = f" after {anchor['steps']}" if anchor["steps"][0].isdigit() else ""
            label = f"{anchor['label']}: {float(anchor['score']):,.0f}{after}"
            axis.axhline(float(anchor["score"]), color=color, ls=":", lw=1, label=label)
    ends = [run["evaluations"]["global_step"][-1] for runs in cells.values() for run in runs]
    axis.set(
        title=heading,
        xlabel="environment frames" if frames else "agent steps",
        ylabel="return",
        xscale="log" if max(ends) > LONG * min(ends) else "linear",
    )
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save(figure, path)


def styles(cells: Mapping[str, list[dict]]) -> list[tuple[str, object, str]]:
    """Name, color and marker of each line, a script before its variants."""
    drawn = Counter()
    others = iter(OTHERS)
    lines = []
    for name in sorted(cells):
        script = name.partition("-")[0]
        if script == "ablation":
            color = ABLATION_COLORS.get(name) or next(others)
            lines.append((name, color, MARKS[0]))
            continue
        color = to_rgb(COLORS[script])
        if name != script and not is_peer(name):  # paler
            color = tuple(0.45 + 0.55 * part for part in color)
        lines.append((name, color, MARKS[drawn[script] % len(MARKS)]))
        drawn[script] += 1
    return lines


def draw_cell(axis: Axes, name: str, runs: list[dict], repeat: int, color, mark: str):
    """The mean over seeds, with its interval or, of one seed, the deviation of the episodes. Seeds that were
    evaluated at other steps are interpolated."""
    evaluations = [run["evaluations"] for run in runs]
    steps = min((e["global_step"] for e in evaluations), key=lambda steps: steps[-1])  # that every seed has
    returns = np.stack([np.interp(steps, e["global_step"], e["return_mean"]) for e in evaluations])
    spread = evaluations[0]["return_std"]
    low, high = interval(returns) if len(runs) > 1 else (returns[0] - spread, returns[0] + spread)
    label = f"{title(name)}, {len(runs)} seed{'s' * (len(runs) > 1)}"
    every = max(1, len(steps) // 12)
    look = {"color": color, "marker": mark, "markevery": every, "markersize": 5}
    axis.plot(steps * repeat, returns.mean(axis=0), ls="--" if is_peer(name) else "-", label=label, **look)
    if mark == MARKS[0]:  # bands of variants would hide each other
        alpha = 0.25 if len(runs) > 1 else 0.1
        axis.fill_between(steps * repeat, low, high, color=color, alpha=alpha, linewidth=0)
    for e in evaluations:
        rest = e["global_step"] >= steps[-1]
        if np.sum(rest) > 1:
            axis.plot(e["global_step"][rest] * repeat, e["return_mean"][rest], color=color, linewidth=0.7)


def draw_profiles(groups: Mapping[str, scores.Scores], heading: str, path: Path):
    """The share of runs above each normalised score, with its interval, a line per script."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    for name, runs in groups.items():
        shares = scores.performance_profile(runs, THRESHOLDS)
        low, high = scores.interval(lambda sample: scores.performance_profile(sample, THRESHOLDS), runs)
        axis.step(THRESHOLDS, shares, color=COLORS[name], label=f"{title(name)}, {scores.count(runs)}")
        axis.fill_between(THRESHOLDS, low, high, color=COLORS[name], alpha=0.2, linewidth=0, step="pre")
    axis.set(title=heading, xlabel="normalised score τ", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save(figure, path)


def draw_front(heading: str, cells: Mapping[str, list[dict]], anchor: dict | None, path: Path):
    """README's chart: at most four lines, read without a legend's help."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, runs in cells.items():
        draw_cell(axis, name, runs, 1, COLORS[name], MARKS[0])
    if anchor:
        label = f"{anchor['label']}: {float(anchor['score']):,.0f} after {anchor['steps']}"
        axis.axhline(float(anchor["score"]), color=COLORS[anchor["algorithm"]], ls=":", label=label)
    axis.set(title=heading, xlabel="agent steps", ylabel="return")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize="small")
    save(figure, path)


def draw_many_envs(rows: list[dict], path: Path):
    """Steps per second by the number of environments: of these alone, and of whole trainings.

    Args:
        rows: of many_envs.csv, all of one machine, which the heading names.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    for color, env_id in enumerate(dict.fromkeys(row["env_id"] for row in rows)):
        own = [row for row in rows if row["env_id"] == env_id]
        numbers = [int(row["num_envs"]) for row in own]
        for column, what, line in (("environments_alone", "alone", ":"), ("ppo", "PPO", "-")):
            speeds = [float(row[column]) for row in own]
            axis.plot(numbers, speeds, ls=line, marker=".", color=f"C{color}", label=f"{env_id}, {what}")
    machine = rows[0]
    axis.set(
        title=f"{machine['processor']} ({machine['kind']}), {machine['cores']} cores",
        xlabel="parallel environments",
        ylabel="environment steps per second",
        xscale="log",
        yscale="log",
    )
    axis.set_xticks(numbers, labels=[str(number) for number in numbers], minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save(figure, path)


def save(figure: Figure, path: Path):
    """As an SVG that is the same for the same data: the same ids, no date, and text as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "cleanrl_cc", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
