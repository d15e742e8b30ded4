"""What is said on the terminal, and what MuJoCo need not say. What a run says of itself at its start is kept
until nothing stands in the way: an error then stands alone."""

import errno
import logging
import os
import re
import sys
from typing import TextIO

from tqdm import tqdm

from cleanrl_cc.common.errors import InputError

DEPRECATION = re.compile(r"compiler attribute .* is deprecated")

GONE = (errno.EPIPE, errno.EIO)  # no pipe, no terminal any more

_kept: list[str] = []


def say(line: str):
    """Prints to stderr without tearing a progress bar. That nobody reads it any more, as when Ctrl-C has
    ended a `tee` or the terminal was closed, ends no run."""
    if not sys.stderr:  # closed from the start
        return
    try:
        tqdm.write(line, file=sys.stderr)
    except OSError as error:
        if error.errno in GONE:
            _write_nowhere(sys.stderr)


def show(result: str):
    """Prints to stdout. A reader that closed the pipe, as `head` does, has read enough. Raises InputError
    where it cannot be written."""
    try:
        print(result, flush=True)
    except OSError as error:
        _write_nowhere(sys.stdout)
        if error.errno not in GONE:
            raise InputError(f"The result could not be printed ({error.strerror}).") from error


def _write_nowhere(stream: TextIO):
    """From now on. Python would else write what is left once more as it exits, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def keep(line: str):
    """Queues a line for `tell`, which says it once; under torchrun only rank 0 does."""
    if os.environ.get("RANK", "0") == "0" and line not in _kept:
        _kept.append(line)


def tell():
    """Says what was kept, once."""
    for line in _kept:
        say(line)
    forget()


def forget():
    _kept.clear()


def hush_mujoco():
    """From now on MuJoCo does not say, for each environment again, what will one day be removed from the
    format of Gymnasium's and dm_control's own models. Its other warnings go to stderr, and to no
    MUJOCO_LOG.TXT in the working directory."""
    import absl.logging  # to which dm_control passes them on
    import mujoco

    absl.logging.get_absl_logger().addFilter(_is_no_deprecation)
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_tell_warning)


def _is_no_deprecation(record: logging.LogRecord) -> bool:
    return not DEPRECATION.match(record.getMessage())


def _tell_warning(text: str):
    if not DEPRECATION.match(text):
        say(f"Warning: MuJoCo: {text}")
