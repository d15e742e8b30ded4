"""Searches the hyperparameters of a script with Optuna: runs trials side by side, stops those that lag.

    python benchmark/sweep.py sac_drq --trials 40 --workers 2 -- --env-id LunarLander-v3 --eval-frequency 5000

What follows `--` goes to the script in every trial. What is tried is declared in
benchmark/spaces/<script>.yaml, or in --space.

A study is a folder, runs/sweeps/<script>-<environment> or --name: `study.db` (SQLite), a run folder and a log
per trial, and at the end `trials.csv`, `best.yaml` (for --config) and plots. Ctrl-C or SIGTERM stops the
trials, which save; the same command resumes them, also after `kill -9`. Several processes may work on one
study at once, on one machine.

A trial is stopped when the best of its evaluations is below the median of the other trials at the same point,
from the second evaluation on. Its score is the mean return of its last evaluation.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Literal

import numpy as np
import tyro
import yaml
from launch import begin

from cleanrl_cc.common.arguments import RunArgs, check_args, module_words, parse_args
from cleanrl_cc.common.checkpoints import remove_replays
from cleanrl_cc.common.config import config_text, to_words
from cleanrl_cc.common.envs import find_spec
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import writing
from cleanrl_cc.common.folders import check_name
from cleanrl_cc.common.machine import find_device
from cleanrl_cc.common.ranges import Size
from cleanrl_cc.common.tables import read_csv, write_csv

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
        distribution_to_json,
    )
    from optuna.trial import Trial, TrialState
except ImportError as error:
    raise InputError('A sweep needs Optuna: pip install -e ".[sweep]".') from error

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = "benchmark/spaces/sac_drq.yaml shows how"
STARTUP_TRIALS = 5  # they are drawn at random and run to their end: a median needs some
STOPPING = threading.Event()


@dataclass
class Options:
    script: tyro.conf.Positional[
        Literal["sac_drq", "td3", "ddpg", "ppo_continuous", "dqn_atari_style", "rainbow"]
    ]
    """script whose hyperparameters are searched"""
    trials: Size = 30
    """trials of the study, those of earlier calls included"""
    workers: Size = 1
    """trials side by side; each has one torch thread"""
    name: str | None = None
    """name of the study; None: script and environment"""
    space: Path | None = None
    """what is tried; None: benchmark/spaces/<script>.yaml"""
    sweeps_dir: Path = Path("runs/sweeps")
    """where the folders of studies go"""


# --- what is tried ---


def read_space(path: Path) -> dict[str, BaseDistribution]:
    """The distribution of every argument in a file. Raises InputError for what is none."""
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, yaml.BaseLoader)  # numbers stay texts: 1e-3 is none in YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--space {path} cannot be read ({type(error).__name__}): {EXAMPLE}.") from error
    if not isinstance(values, dict):
        raise InputError(f"--space {path} declares nothing: {EXAMPLE}.")
    return {name: distribution(value, f"--space {path}: {name}") for name, value in values.items()}


def distribution(value, where: str) -> BaseDistribution:
    """Of a list, a range {low, high, log}, or one value. Raises InputError, which begins with `where`."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        if not value or not all(isinstance(choice, str) for choice in value):
            raise InputError(f"{where} must list single values: {EXAMPLE}.")
        return CategoricalDistribution([number(choice) for choice in value])
    if not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        raise InputError(f"{where} must be a range like {{low: 1e-4, high: 1e-3, log: true}}.")
    texts = [value["low"], value["high"], value.get("log", "false")]
    low, high = (number(text) if isinstance(text, str) else text for text in texts[:2])
    log = texts[2] == "true"
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high)):
        raise InputError(f"{where} must go from a finite number to another.")
    if texts[2] not in ("true", "false") or not low < high or (log and low <= 0):
        raise InputError(f"{where} must go from a number to a larger one, with log: true from above 0.")
    whole = isinstance(low, int) and isinstance(high, int)
    return (IntDistribution if whole else FloatDistribution)(low, high, log=log)


def number(text: str) -> int | float | str:
    """The number that a text is, if it is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def ends(distribution: BaseDistribution) -> tuple:
    """Its first and its last value."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0], distribution.choices[-1]
    return distribution.low, distribution.high


# --- the study ---


class Sweep:
    """A study and what its workers need.

    Raises:
        InputError: flags or a space that do not fit the script, or others than the study was begun with.
    """

    def __init__(self, options: Options, flags: list[str]):
        check_args(options)
        check_name("name", options.name)
        self.options = options
        self.flags = flags
        self.file = options.space or ROOT / "benchmark" / "spaces" / f"{options.script}.yaml"
        self.space = read_space(self.file)
        self.args = self.check()
        name = f"{options.script}-{self.args.env_id.replace('/', '-').replace(':', '-')}"
        self.folder = options.sweeps_dir / (options.name or name)
        self.study = self.open()

    def check(self) -> RunArgs:
        """The arguments that all trials share, with those at either end of the space."""
        module = import_module(f"cleanrl_cc.{self.options.script}")
        for end in (0, 1):
            drawn = {name: ends(distribution)[end] for name, distribution in self.space.items()}
            words = to_words(drawn, module.Args, str(self.file))
            args = parse_args(module.Args, module.PRESETS, [*self.flags, *words])
            check_args(args)
        find_spec(args.env_id)
        find_device(args.device)
        for name in ("resume", "run_name", "runs_dir", "num_threads"):
            if getattr(args, name) != getattr(RunArgs, name):
                raise InputError(f"--{name.replace('_', '-')} is the sweep's own: leave it out.")
        typed = {word.partition("=")[0].replace("_", "-") for word in self.flags}
        for name in self.space:
            flag = name.replace("_", "-")
            if not typed.isdisjoint({f"--{flag}", f"--no-{flag}"}):
                raise InputError(
                    f"--{flag} is searched by {self.file}: leave it out, or name another --space."
                )
        return args

    def open(self) -> optuna.Study:
        """Makes the study, or goes on with it."""
        with writing(self.options.sweeps_dir):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "study.lock").touch()
        url = f"sqlite:///{self.folder / 'study.db'}"
        patient = {"connect_args": {"timeout": 100}}  # seconds: other workers write, too
        with self.alone():
            study = optuna.create_study(
                storage=optuna.storages.RDBStorage(url, engine_kwargs=patient),
                study_name="study",
                load_if_exists=True,
                direction="maximize",
                sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, constant_liar=True),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1),
            )
            space = {name: distribution_to_json(declared) for name, declared in self.space.items()}
            begun = {"script": self.options.script, "flags": self.flags, "space": space}
            if study.user_attrs and study.user_attrs != begun:
                raise InputError(
                    f"{self.folder} was begun with other flags or another space: choose another --name."
                )
            for key, value in begun.items():
                study.set_user_attr(key, value)
        return study

    @contextlib.contextmanager
    def alone(self):
        """One worker of all processes at a time."""
        with open(self.folder / "study.lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def claim(self) -> tuple[Trial, IO] | None:
        """A trial that nobody works on, unfinished or new, with its log; None if there is none.

        Who works on a trial holds the lock of its log; so does its run, which may outlive a killed sweep.
        """
        with self.alone():
            for frozen in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                log = open(self.trial_folder(frozen.number).with_suffix(".log"), "a")  # noqa: SIM115
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return Trial(self.study, frozen._trial_id), log
                log.close()
            if len(self.study.get_trials(deepcopy=False)) >= self.options.trials:
                return None
            trial = self.study.ask(self.space)
            log = open(self.trial_folder(trial.number).with_suffix(".log"), "a")  # noqa: SIM115
            fcntl.flock(log, fcntl.LOCK_EX)
            return trial, log

    def trial_folder(self, number: int) -> Path:
        return self.folder / f"trial-{number:04d}"

    def work(self):
        """Runs trials, one after the other, until there are enough and all have ended."""
        while not STOPPING.is_set():
            if claimed := self.claim():
                trial, log = claimed
                with log:
                    outcome = self.run(trial, log)
                print(f"trial {trial.number} of {self.options.trials}: {outcome}", flush=True)
            elif self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                STOPPING.wait(1)  # another worker's, which may leave it unfinished
            else:
                return

    def run(self, trial: Trial, log: IO) -> str:
        """Brings a trial to its end, unless the sweep is stopped. Returns what became of it."""
        folder = self.trial_folder(trial.number)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process = subprocess.Popen(self.command(trial, folder), env=environment, preexec_fn=begin, **pipes)
        lags = False
        while process.poll() is None and not lags and not STOPPING.wait(0.5):
            lags = report(trial, folder) and trial.should_prune()
        process.terminate()  # nothing happens if it has ended
        code = process.wait()
        if code and STOPPING.is_set():
            return "stopped"
        if code and not lags:
            self.study.tell(trial, state=TrialState.FAIL)
            last_words = Path(log.name).read_text().splitlines()[-1:]
            return f"failed with exit code {code}: {''.join(last_words)}"
        report(trial, folder)
        remove_replays(folder)  # they are large, and the trial has ended
        score = float(read_csv(folder / "evaluations.csv")[-1]["return_mean"])
        if code:
            self.study.tell(trial, state=TrialState.PRUNED)
            return f"stopped as one of the worse, {score:.1f}"
        self.study.tell(trial, score)
        return f"finished, {score:.1f}"

    def command(self, trial: Trial, folder: Path) -> list[str]:
        """The command line that begins a trial or goes on with it."""
        if (folder / "last.pt").exists():
            words = ["--resume", str(folder), *module_words(self.args)]
        else:
            shutil.rmtree(
                folder, ignore_errors=True
            )  # killed before its first checkpoint: nothing to go on with
            drawn = to_words(trial.params, type(self.args), str(self.file))
            own = ["--num-threads", "1", "--runs-dir", str(self.folder), "--run-name", folder.name]
            words = [*self.flags, *drawn, *own]
        return [sys.executable, str(ROOT / "cleanrl_cc" / f"{self.options.script}.py"), *words]

    # What came out

    def summarize(self):
        """Writes trials.csv, best.yaml and the plots. Raises InputError where no trial has finished."""
        rows = [
            {"trial": trial.number, "state": trial.state.name.lower(), "return_mean": trial.value}
            | trial.params
            for trial in self.study.trials
        ]
        write_csv(self.folder / "trials.csv", rows)
        finished = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not finished:
            raise InputError(f"No trial has finished: the logs in {self.folder} tell why.")
        best = self.study.best_trial
        args = json.loads((self.trial_folder(best.number) / "args.json").read_text())["args"]
        file = self.folder / "best.yaml"
        file.write_text(config_text(args))
        print(f"best: trial {best.number}, {best.value:.1f}; its arguments are in {file}")
        self.plot(importance=len(finished) > 1)

    def plot(self, importance: bool):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.ticker import NullFormatter
        from optuna.visualization import matplotlib as plots

        figures = {
            "history": plots.plot_optimization_history,
            "evaluations": plots.plot_intermediate_values,
            "slice": plots.plot_slice,
        }
        if importance:
            figures["importance"] = plots.plot_param_importances
        for name, plot in figures.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna calls its plots experimental
                axes = np.atleast_1d(plot(self.study))
            for axis in axes:
                axis.xaxis.set_minor_formatter(NullFormatter())  # labels of logarithms overlap
            figure = axes[0].figure
            figure.set_size_inches(max(8, 3 * len(axes)), 5)
            figure.savefig(self.folder / f"{name}.png", dpi=120, bbox_inches="tight")
            print(self.folder / f"{name}.png")


def report(trial: Trial, folder: Path) -> bool:
    """Tells Optuna the evaluations that it does not know yet, numbered from 0. True if there were any."""
    known = trial.user_attrs.get("evaluations", 0)
    returns = [
        float(row["return_mean"]) for row in read_csv(folder / "evaluations.csv") if row["return_mean"]
    ]
    for index in range(known, len(returns)):
        trial.report(returns[index], index)
    trial.set_user_attr("evaluations", max(known, len(returns)))
    return len(returns) > known


# --- the command line ---


def main(argv: list[str] | None = None):
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep = Sweep(tyro.cli(Options, description=__doc__, args=argv[:end]), flags=argv[end + 1 :])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: STOPPING.set())
    with ThreadPoolExecutor(sweep.options.workers) as pool:
        workers = [pool.submit(sweep.work) for _ in range(sweep.options.workers)]
    for worker in workers:
        worker.result()  # raises what it raised
    if STOPPING.is_set():
        print("Stopped; the same command resumes them.")
        raise SystemExit(130)
    sweep.summarize()


if __name__ == "__main__":
    main()
