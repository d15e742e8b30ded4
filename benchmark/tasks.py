"""The launcher's list, a command per line: what it may ask for, and which folders a run may take."""

import itertools
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cleanrl_cc.common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
MARKS_OF_A_RUN = {"args.json", "last.pt", "best.pt"}


@dataclass(eq=False)
class Task:
    """One line of the list."""

    command: str
    script: list[str]
    """what follows `python`: a file, or -m and a module"""
    flags: list[str]
    name: str
    folder: Path
    total: int | None
    """--total-timesteps, if the command has it"""
    process: subprocess.Popen | None = None
    """while it runs on this machine"""


def flag(words: list[str], name: str) -> str | None:
    """The value of a flag, --run-name X, --run-name=X or --run_name X; of several the last, like a script."""
    value = None
    for word, following in itertools.pairwise([*words, None]):
        key, equals, attached = word.partition("=")
        if key.startswith("--") and key[2:].replace("_", "-") == name:
            value = attached if equals else following
    return value


def words_without(words: list[str], *names: str) -> list[str]:
    """What was typed, but for the flags of these names and their values."""
    dropped = False
    kept = []
    for word in words:
        if word.startswith("--"):
            dropped = word.partition("=")[0][2:].replace("_", "-") in names
        kept += [] if dropped else [word]
    return kept


def read_task(command: str, runs_dir: str) -> Task:
    """Raises InputError for a line that is not a command of the kind that this program knows."""
    try:
        python, *words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"`{command}` is not a command: {error}.") from error
    if not all(word.isprintable() for word in words):
        raise InputError(f"{command!r} holds characters that cannot be printed.")
    length = 2 if words[:1] == ["-m"] else 1
    script, flags = words[:length], words[length:]
    is_python = python in ("python", "python3", sys.executable)
    if not is_python or len(script) < length or script[-1].startswith("-"):
        raise InputError(f"Each line must be `python SCRIPT ... --run-name NAME`, and not `{command}`.")
    name = flag(flags, "run-name")
    if name is None:
        raise InputError(f"Each line must be a command with a --run-name of its own, and not `{command}`.")
    if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"--run-name {name} must be a path below --runs-dir, such as td3/Hopper-v5/seed-1.")
    if flag(flags, "resume") is not None:
        raise InputError(f"The launcher resumes what is unfinished: leave --resume out of `{command}`.")
    total = flag(flags, "total-timesteps")
    try:
        total = total and int(float(total))
    except (ValueError, OverflowError) as error:
        raise InputError(f"--total-timesteps {total} is not a number of steps.") from error
    folder = ROOT / (flag(flags, "runs-dir") or runs_dir) / name
    return Task(command, script, flags, name, folder, total)


def read_tasks(text: str, runs_dir: str) -> list[Task]:
    """Every line of the list. Raises InputError where a run would meet the files of another."""
    tasks = [read_task(line.strip(), runs_dir) for line in text.splitlines() if line.strip()]
    if not tasks:
        raise InputError("There is no command on standard input: LIST=1 bash benchmark/td3.sh prints some.")
    names = {}
    for task in tasks:
        place = Path(os.path.realpath(task.folder))
        if place in names:
            raise InputError(f"Each line must be a command with a --run-name of its own: two go to {place}.")
        names[place] = task.name
    for place, name in names.items():
        for parent in place.parents:
            if parent in names or any((parent / mark).exists() for mark in MARKS_OF_A_RUN):
                raise InputError(f"--run-name {name} lies inside another run, {parent}: choose another name.")
        if inner := {path.parent for path in place.rglob("*") if path.name in MARKS_OF_A_RUN} - {place}:
            raise InputError(f"--run-name {name} holds other runs, {min(inner)} is one: choose another name.")
    return tasks
