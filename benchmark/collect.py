"""Copies what the report needs of run folders into benchmark/results/<name>/<environment>/seed-<n>.

    python benchmark/collect.py runs/td3 runs/sac_drq/CarRacing-v3/seed-1
    python benchmark/collect.py runs/td3 --episodes 100

That is args.json, evaluations.csv, 500 lines of progress.csv and, with --episodes, the scores of best.pt and
last.pt over episodes that the training never played. <name> is --name, the first part of a run name like
ablation-no-per/LunarLander-v3/seed-1, or the script's. Paths of this machine are left out.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cleanrl_cc.common.arguments import check_args
from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.errors import InputError, describe, require
from cleanrl_cc.common.files import write_text, writing
from cleanrl_cc.common.folders import check_name
from cleanrl_cc.common.ranges import Steps
from cleanrl_cc.common.tables import read_csv, read_numbers, write_csv
from cleanrl_cc.evaluate import Options as EvaluateOptions
from cleanrl_cc.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[1]
EVALUATION = ("global_step", "seconds", "return_mean", "return_std")  # numbers that the report reads
MOST_LINES = 500  # of progress.csv
STOPPED = re.compile(r"\.stopped-\d+$")  # how `move_aside` ends the name of a folder


@dataclass
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """run folders, or folders with run folders anywhere below"""
    episodes: Steps = 0
    """score best.pt and last.pt over so many episodes; 0: do not"""
    name: str | None = None
    """name of a variant, like td3-no-delay; None: that in the run name, else the script's"""
    results: Path = ROOT / "benchmark" / "results"
    """where the copies go"""
    trust: bool = False
    """import the modules that checkpoints name for environments and wrappers: they may run any code"""


def without_machine_paths(text: str) -> str:
    """Absolute paths cut to what follows the repository or the folder of runs, or to their last part."""

    def cut(match: re.Match) -> str:
        parts = Path(match[0]).parts
        starts = [index for index, part in enumerate(parts) if part in ("cleanrl_cc", "runs")]
        return "/".join(parts[starts[-1] if starts else -1 :])

    return re.sub(r"""(?<=["'\s=])/[^\s"']+""", cut, text)


def destination(description: dict, name: str | None = None) -> Path:
    args, parts = description["args"], (description["args"]["run_name"] or "").split("/")
    name = name or (parts[0] if len(parts) == 3 else description["algorithm"])
    check_name("name", name)
    return Path(name, re.sub("[/:]", "-", args["env_id"]), f"seed-{int(args['seed'])}")


def thinned(rows: list[dict]) -> list[dict]:
    """At most MOST_LINES of the rows, evenly spaced, the first and the last among them."""
    kept = np.linspace(0, len(rows) - 1, min(len(rows), MOST_LINES))
    return [rows[round(index)] for index in kept]


def find_runs(folders: tuple[Path, ...]) -> list[Path]:
    """Folders of runs with an evaluation, but for what a run left that has begun again since."""
    found = set()
    for folder in folders:
        runs = {path.parent for path in folder.rglob("evaluations.csv")}
        runs = {run for run in runs if run == folder or not STOPPED.search(run.name)}
        if not runs:
            raise InputError(f"There is no run with an evaluation in {folder}.")
        found |= runs
    return sorted(found)


def read_description(run: Path, options: Options) -> tuple[str, Path]:
    """The text of its args.json, and where the run goes."""
    try:
        text = (run / "args.json").read_text()
        return text, options.results / destination(json.loads(text), options.name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{run} has no args.json of a run ({describe(error)}).") from error


def require_places(runs: list[Path], options: Options):
    """Raises InputError where one run would take the place of another."""
    places = {}
    for run in runs:
        _, target = read_description(run, options)
        if target in places:
            raise InputError(
                f"{places[target]} and {run} both go to {target}: "
                "collect one of them, or each in a call of its own with a --name."
            )
        places[target] = run


def collect(run: Path, options: Options) -> Path:
    """Copies one run; returns where to."""
    text, target = read_description(run, options)
    # what cannot be read is told before anything that was collected earlier is replaced
    if not read_numbers(run / "evaluations.csv", EVALUATION):
        raise InputError(f"{run / 'evaluations.csv'} has no evaluation: nothing was collected.")
    progress = thinned(read_csv(run / "progress.csv"))  # a short run has none
    has_policy = (run / "last.pt").exists()  # a peer's run has none
    names = ("best.pt", "last.pt") if options.episodes and has_policy else ()
    steps = {name: load_checkpoint(run / name)["global_step"] for name in names}
    with writing(options.results):
        target.mkdir(parents=True, exist_ok=True)
    with writing(target):
        _copy(run, target, text, progress)
    for name, step in steps.items():
        file = target / f"episodes-{step}.json"
        if count_episodes(file) >= options.episodes:
            continue
        result = evaluate(
            EvaluateOptions(str(run / name), episodes=options.episodes, device="cpu", trust=options.trust)
        )
        write_text(file, without_machine_paths(json.dumps(result, indent=1)) + "\n")
    return target


def _copy(run: Path, target: Path, description: str, progress: list[dict]):
    new, collected = run / "evaluations.csv", target / "evaluations.csv"
    old = collected.read_bytes() if collected.exists() else b""
    if not new.read_bytes().startswith(old):  # another run was collected before, whose scores these are
        for file in target.glob("episodes-*.json"):
            file.unlink()
    write_text(target / "args.json", without_machine_paths(description))
    write_text(collected, new.read_text())
    (target / "progress.csv").unlink(missing_ok=True)
    if progress:
        write_csv(target / "progress.csv", progress)


def count_episodes(file: Path) -> int:
    """How many episodes a file of scores holds; none where there is no such file, or it is damaged."""
    try:
        return len(json.loads(file.read_text())["episodes"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def main():
    options = tyro.cli(Options, description=__doc__)
    check_args(options)
    check_name("name", options.name)
    require(options.name is None or "/" not in options.name, "name", options.name, "a name without slashes")
    require(len(options.runs) > 0, "runs", options.runs, "at least one folder")
    runs = find_runs(options.runs)
    require_places(runs, options)
    for run in runs:
        print(f"{run} -> {collect(run, options)}", flush=True)


if __name__ == "__main__":
    main()
