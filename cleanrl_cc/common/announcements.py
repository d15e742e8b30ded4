"""What a run says of itself at its start. It is kept until nothing stands in the way: an error then stands
alone. Imports nothing of ours."""

import sys

_kept: list[str] = []


def keep(line: str):
    """Has `tell` say it."""
    _kept.append(line)


def tell():
    """Says what was kept, once."""
    for line in _kept:
        print(line, file=sys.stderr)
    forget()


def forget():
    _kept.clear()
