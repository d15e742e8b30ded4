"""Draws learning curves: the mean of each evaluation, and the range of its episodes, over agent steps.

python benchmark/plot.py benchmark/results/sac_drq/CarRacing-v3/* --out docs/assets/sac_drq_CarRacing-v3.png
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass
class Options:
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """run folders, or copies of their args.json, evaluations.csv and progress.csv"""
    out: Path
    """the picture"""
    title: str | None = None
    """None: algorithm and environment of the first run"""
    reference: tuple[float, ...] = ()
    """returns to draw dashed lines at"""


def column(folder: Path, file: str, name: str) -> list[float]:
    with open(folder / file, newline="") as lines:
        return [float(row[name]) if row[name] else float("nan") for row in csv.DictReader(lines)]


def main():
    options = tyro.cli(Options, description=__doc__)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for folder in options.folders:
        steps = column(folder, "evaluations.csv", "global_step")
        (line,) = axis.plot(steps, column(folder, "evaluations.csv", "return_mean"), marker="o", markersize=3, label=folder.name)
        low, high = (column(folder, "evaluations.csv", name) for name in ("return_min", "return_max"))
        axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        training = column(folder, "progress.csv", "charts/episodic_return")
        axis.plot(column(folder, "progress.csv", "global_step"), training, color=line.get_color(), alpha=0.4, linewidth=0.8)
    for value in options.reference:
        axis.axhline(value, color="gray", linestyle="--", linewidth=0.8)
    description = json.loads((options.folders[0] / "args.json").read_text())
    title = options.title or f"{description['algorithm']} on {description['args']['env_id']}"
    axis.set(title=title, xlabel="agent steps", ylabel="return")
    axis.legend(title="dots: evaluation mean, band: its\nepisodes, thin line: training", fontsize="small", title_fontsize="small")
    axis.grid(alpha=0.3)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
