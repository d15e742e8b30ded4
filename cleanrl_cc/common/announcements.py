"""What a run says of itself at its start, and what MuJoCo need not say. The former is kept until nothing
stands in the way: an error then stands alone. Imports nothing of ours."""

import logging
import os
import re
import sys

DEPRECATION = re.compile(r"compiler attribute .* is deprecated")

_kept: list[str] = []


def keep(line: str):
    """Has `tell` say it, once; of torchrun's processes one does."""
    if os.environ.get("RANK", "0") == "0" and line not in _kept:
        _kept.append(line)


def tell():
    """Says what was kept, once."""
    for line in _kept:
        print(line, file=sys.stderr)
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
        print(f"Warning: MuJoCo: {text}", file=sys.stderr)
