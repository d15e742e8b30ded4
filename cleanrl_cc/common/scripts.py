"""Which script a run belongs to, and the words that started it: typed, or called from Python or a notebook.

A script is a file: one of ours, or a copy of one, which may stand anywhere.
"""

import importlib
import inspect
import os
import shlex
import sys
from pathlib import Path
from types import ModuleType

from cleanrl_cc.common.distributed import launcher
from cleanrl_cc.common.errors import InputError, describe, is_foreign

HERE = Path(__file__).resolve().parents[1]  # our scripts stand beside this folder, or a copy's beside its own
PREFIX = __package__.rpartition("common")[0]  # of their modules: "cleanrl_cc.", and of a copy's ""


# --- what a run is of ---


def script_file(cls: type) -> Path | None:
    """The file in which `cls`, a script's `Args`, is written. A class of a notebook has that of the script
    which it extends, or None."""
    for base in cls.__mro__:
        if base.__module__.startswith(f"{__package__}."):
            return None
        if file := getattr(sys.modules[base.__module__], "__file__", None):
            return Path(file)
    return None


def script_name(cls: type) -> str:
    """What run folders and checkpoints call the script of `cls`."""
    file = script_file(cls)
    return file.stem if file else "notebook"


def source_of(cls: type) -> str:
    """The text of a class, empty for one of a notebook."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ""


# --- what started it ---


def typed_words() -> list[str]:
    """The words of this process, program first. A notebook has none: its kernel's are not the user's."""
    is_notebook = not hasattr(sys.modules["__main__"], "__file__") and sys.argv[0] != "-c"
    return [] if is_notebook else sys.argv


def start_command() -> str:
    """What started this run."""
    words = typed_words()
    if not words:
        return "train(args), in a notebook"
    return f"{launcher()} {shlex.join([*_program(words[0]), *words[1:]])}"


def resume_command(cls: type, words: list[str]) -> str:
    """What starts the script of `cls` with `words`, to be pasted."""
    file = script_file(cls)
    if file is None:
        return f"train(parse_args(Args, PRESETS, {words!r}))"
    program = (typed_words() or [""])[0]
    if Path(program).resolve() != file.resolve():  # another program, or a notebook, has called `train`
        is_below = file.resolve().is_relative_to(Path.cwd())
        program = os.path.relpath(file) if is_below else str(file)
    return f"{launcher()} {shlex.join([*_program(program), *words])}"


def _program(path: str) -> list[str]:
    """A program as it was started: its path, or, as that of an installed package, `-m` and its module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    is_module = spec is not None and spec.origin is not None and Path(spec.origin) == Path(path)
    return ["-m", spec.name] if is_module else [path]


# --- what evaluates it ---


def find_script(algorithm: str) -> ModuleType:
    """The script that a checkpoint names, among those that stand beside this folder.

    Raises:
        InputError: there is none, or what has this name is no script: it is not imported then.
    """
    file = HERE / f"{Path(algorithm).name}.py"
    if not file.is_file() or "\nclass Args(" not in file.read_text():
        raise InputError(
            f"{algorithm}.py, which trained it, is not in {HERE}: "
            "add --script with its path (in Python script=...)."
        )
    return load_script(file)


def load_script(file: Path) -> ModuleType:
    """A script as a module, imported as if it were started: with what lies beside it.

    Raises:
        InputError: no such file, one that cannot be imported, or one that is not a script of this kind.
    """
    if not file.is_file():
        raise InputError(f"There is no script {file}: --script takes the path of the one that trained.")
    folder = file.resolve().parent
    name = f"{PREFIX}{file.stem}" if folder == HERE else file.stem
    if folder != HERE:
        sys.path[:] = dict.fromkeys([str(folder), *sys.path])
    try:
        module = importlib.import_module(name)
    except BaseException as error:  # whatever a user's script raises
        if not is_foreign(error):
            raise
        raise InputError(f"{file} cannot be imported: {describe(error)}.") from error
    if Path(module.__file__ or "").resolve() != file.resolve():
        raise InputError(f"{file} has the name of a module that is in use ({module.__file__}): rename it.")
    if missing := {"Args", "Agent"} - vars(module).keys():
        raise InputError(f"{file} is not a script of this kind: it lacks {' and '.join(sorted(missing))}.")
    return module
