"""Experiments in files: `--config experiment.yaml` holds a script's arguments, read as if they were typed.

    env_id: Hopper-v5
    learning_rate: 1e-3
    normalize: false

Every value is text until the command line's parser reads it: `1e-3` is a number, which it is not in YAML.
"""

import difflib
from pathlib import Path
from typing import get_args, get_type_hints

import yaml

from cleanrl_cc.common.errors import InputError

# What says where a run goes, who may see it and what it runs on, and not what is learned.
NOT_IN_A_FILE = {"config", "resume", "runs_dir", "run_name", "device", "num_threads"}
NOT_IN_A_FILE |= {"track", "wandb_project", "wandb_entity"}
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_config(path: str, cls: type) -> list[str]:
    """The words of a command line that say what the file says.

    Args:
        cls: the dataclass of the arguments.

    Raises:
        InputError: no such file, not YAML, or a key that is not an argument.
    """
    example = "write one argument per line, like `learning_rate: 1e-3`"
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.load(text, yaml.BaseLoader)  # builds texts, lists and dictionaries alone
        document = yaml.compose(text, yaml.BaseLoader)
    except OSError as error:
        raise InputError(f"--config {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--config {path} is not text: {example}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"--config {path} is not YAML{where}: {example}.") from error
    if not isinstance(values, dict):
        raise InputError(f"--config {path} holds no arguments: {example}.")
    keys = [key.value.replace("-", "_") for key, _ in document.value]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise InputError(f"--config {path} says {twice} twice: keep one of the lines.")
    return to_words(values, cls, path)


def to_words(values: dict, cls: type, path: str) -> list[str]:
    """Arguments, each a value or a list of values, as words of a command line; `path` is for messages."""
    kinds = get_type_hints(cls)
    words = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        require_argument(key, cls, path)
        flag = "--" + name.replace("_", "-")
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, list | dict) for item in items):
            raise InputError(f"{path}: {key} must be a value or a list of values.")
        first = str(items[0]).lower() if items else ""
        if kinds[name] is bool:
            if first not in BOOLEANS or len(items) > 1:
                raise InputError(f"{path}: {key} must be true or false, not {value}.")
            words.append(flag if BOOLEANS[first] else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [flag, *map(str, items)]
        elif type(None) in get_args(kinds[name]) and first in ("", "~", "null"):
            words.append(f"{flag}=None")
        else:
            words.append(f"{flag}={value}")  # in one word: a negative number is no flag
    return words


def require_argument(key, cls: type, where: str):
    """Raises InputError unless `key`, as a file or a preset has it, is a field of `cls`."""
    name = str(key).replace("-", "_")
    kinds = get_type_hints(cls)
    if name not in kinds or name == "config":
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise InputError(f"{where}: {key} is not an argument of this script{hint}")


def config_text(args: dict) -> str:
    """What `read_config` takes, from a run's arguments; without its folder, its device and its tracker."""
    kept = {name: value for name, value in args.items() if name not in NOT_IN_A_FILE}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
    return yaml.safe_dump(plain, sort_keys=False)
