"""The one error that a user sees, and how those of others are told. Imports nothing of ours."""

import textwrap
import traceback
from pathlib import Path


class InputError(SystemExit):
    """Something the user can mend: uncaught, it prints its one sentence and exits with code 1."""


class Stopped(SystemExit):
    """A signal ends this process, with the exit code 128 + its number."""


class BrokenPromise(Exception):
    """What an environment must not return: the end of a sentence that begins with the environment."""


def require(condition: bool, name: str, value, expected: str | None):
    """Raises InputError, naming the flag, unless `condition`."""
    if not condition:
        raise InputError(f"--{name.replace('_', '-')} must be {expected}, not {value!r}.")


def is_foreign(error: BaseException) -> bool:
    """Whether someone else's code raised it: an Exception, a SystemExit, which would end a run without a
    word, or what another language's code panics with. Not what is ours or Python's own."""
    return not isinstance(error, InputError | Stopped | KeyboardInterrupt | GeneratorExit)


def describe(error: BaseException) -> str:
    """An error of someone else's code in one line: its type, what it says first, and where it came from."""
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    file, line = origin(error)
    return f"{said} ({file.name}, line {line})" if file and not isinstance(error, SyntaxError) else said


def gist(error: BaseException) -> str:
    """What an error says first, in one line; where that announces a list, as torch's of weights that do not
    fit, with the beginning of the list."""
    first, *others = str(error).strip().splitlines() or [""]
    if first.endswith(":") and others:
        first = f"{first} {textwrap.shorten(others[0], 160, placeholder=' and others')}"
    return first.rstrip(".")


def origin(error: BaseException) -> tuple[Path | None, int]:
    """The file and the line in which an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return (Path(frames[-1].filename), frames[-1].lineno or 0) if frames else (None, 0)
