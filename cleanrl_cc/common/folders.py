"""The folder of a run, and what it says of itself in `args.json`."""

import json
import os
import platform
import re
import time
from dataclasses import asdict
from pathlib import Path

import torch

from cleanrl_cc.common import announcements
from cleanrl_cc.common.errors import InputError, require
from cleanrl_cc.common.files import move_aside, set_aside, write_text
from cleanrl_cc.common.machine import describe_machine, describe_versions
from cleanrl_cc.common.scripts import start_command


def new_folder(args, algorithm: str) -> Path:
    """Makes the folder of a run that begins.

    Where `args.run_name` names one in which a run was killed before its first checkpoint, what is there gets
    another name. Raises InputError where the folder holds anything else, or cannot be made.
    """
    check_name("run_name", args.run_name)
    require(args.runs_dir.strip() != "", "runs_dir", args.runs_dir, "a folder")
    now = time.strftime("%Y%m%d-%H%M%S")
    name = args.run_name or f"{re.sub(r'[/:]', '-', args.env_id)}__{algorithm}__{args.seed}__{now}"
    for suffix in ["", *(f"-{number}" for number in range(2, 100))]:  # runs may start in the same second
        folder = Path(args.runs_dir) / (name + suffix)
        for parent in folder.absolute().parents:
            if os.path.isfile(parent / "last.pt"):  # unlike `Path.is_file` it takes names that are too long
                raise InputError(f"{folder} lies inside another run, {parent}: choose another folder.")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if args.run_name:
                return _begin_anew(folder)
        except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{folder} cannot be created ({reason}): choose another --runs-dir.") from error
    raise InputError(f"{folder} and many like it exist: choose another --runs-dir.")


def check_name(flag: str, name: str | None):
    """Raises InputError unless `name`, if there is one, is that of a folder which lies below another."""
    if name is not None:
        parts = Path(name).parts
        inside = bool(parts) and ".." not in parts and not Path(name).is_absolute()
        readable = name.strip() != "" and name.isprintable()
        require(inside and readable, flag, name, "a name, or a path below the folder of runs")


def _begin_anew(folder: Path) -> Path:
    if (folder / "last.pt").exists():
        raise InputError(
            f"{folder} exists: choose another --run-name, or --resume {folder} to go on with it."
        )
    if not folder.is_dir() or any(folder.iterdir()):
        aside = move_aside(folder)
        announcements.say(f"{folder} had no checkpoint to go on from: what was there is now {aside}.")
        folder.mkdir()
    return folder


def write_description(folder: Path, args, algorithm: str):
    """Writes `args.json`: what runs here, by which commands, on what; a resumed run adds its command."""
    path = folder / "args.json"
    earlier = []
    try:
        earlier = list(json.loads(path.read_text()).get("commands", []))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): make it readable, or move it away."
        ) from error
    except (ValueError, TypeError, AttributeError):
        announcements.say(f"{path} is damaged: the file as it was is now {set_aside(path)}.")
    description = {
        "algorithm": algorithm,
        "args": asdict(args),
        "commands": [*earlier, start_command()],
        "machine": describe_machine(torch.device(args.device)),
        "versions": {"python": platform.python_version()} | describe_versions(),
    }
    write_text(path, json.dumps(description, indent=2) + "\n")
