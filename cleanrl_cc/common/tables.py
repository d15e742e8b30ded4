"""CSV files that grow by lines and by columns, and whose damage is noticed."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from cleanrl_cc.common.errors import InputError, describe
from cleanrl_cc.common.files import set_aside, write_text, writing


def append_csv(path: Path, row: dict):
    """Adds a line; a key that the header lacks becomes a new column, empty in the lines before.

    Of the file only its first line is read, unless there is a new column. Raises InputError on a full disk.
    """
    columns = read_header(path)
    if columns and set(row) <= set(columns):
        text = io.StringIO()
        csv.DictWriter(text, columns, lineterminator="\n").writerow(row)
        with writing(path), open(path, "a", newline="") as file:
            file.write(text.getvalue())
    else:
        write_csv(path, [*read_csv(path), row])


def start_csv(path: Path, columns: Sequence[str]):
    """Sees to it that lines with these columns can be appended, before hours of work. Raises InputError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        open(path, "a").close()
        header = read_header(path)
    if header and header != list(columns):
        raise InputError(f"{path} holds other columns than {', '.join(columns)}: name another file.")


def read_header(path: Path) -> list[str]:
    """The columns of a CSV file; none where there is no file or nothing in it."""
    if not path.exists():
        return []
    with open(path, newline="", errors="replace") as file:
        return next(csv.reader(file), [])


def read_csv(path: Path) -> list[dict]:
    """The lines of a CSV file; none where there is no file. Raises InputError where it is no text."""
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({describe(error)}).") from error


def read_numbers(path: Path, columns: Sequence[str]) -> list[dict]:
    """`read_csv`. Raises InputError unless every line has a number in each of `columns`, too."""
    rows = read_csv(path)
    for line, row in enumerate(rows, 2):
        for name in columns:
            try:
                float(row[name])
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path} has lines that cannot be read: line {line} has no number in a column {name}. "
                    "Mend the file, or move it away."
                ) from error
    return rows


def write_csv(path: Path, rows: list[dict]):
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def cut_csv(path: Path, last_step: int, expected: int | None = None) -> tuple[int, str | None]:
    """Keeps the lines up to a global step: a resumed run writes the others again.

    Of a file that is torn, filled with NULs or not ours, what can be read is kept, and a copy is set aside as
    `<name>.damaged-<number>`.

    Args:
        expected: how many lines there must be up to that step; None: nobody knows.

    Returns:
        The number of lines kept, and a sentence if there is damage.

    Raises:
        InputError: it cannot be read or written.
    """
    try:
        text = path.read_text(errors="replace").replace("\0", "?") if path.exists() else ""
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): make it readable, or move it."
        ) from error
    if path.exists():  # what can be read only would stop the run at its next line
        with writing(path):
            open(path, "a").close()
    *lines, unfinished = text.split("\n")
    header = lines[:1]
    columns = next(csv.reader(header), [])
    readable = [line for line in lines[1:] if _is_row(line, columns)]
    rows = list(csv.DictReader([*header, *readable]))
    kept = [row for row in rows if float(row["global_step"]) <= last_step]
    # of that very step, and yet later: an evaluation that a resumed run made up for, before it was killed
    while expected is not None and len(kept) > expected and float(kept[-1]["global_step"]) == last_step:
        kept.pop()
    reason = None
    if unfinished or [*header, *readable] != lines:
        reason = "holds lines that cannot be read"
    elif expected not in (None, len(kept)):
        reason = f"has {len(kept)} lines up to step {last_step:,} where the checkpoint counts {expected}"
    if reason and path.exists():
        reason += f": the rest is kept, and the file as it was is now {set_aside(path)}"
    if reason or len(kept) < len(rows):
        write_csv(path, kept)
    return len(kept), reason and f"{path} {reason}."


def _is_row(line: str, columns: list[str]) -> bool:
    cells = line.split(",")
    try:
        numbers = [float(cell or "nan") for cell in cells]
    except ValueError:
        return False
    if len(cells) != len(columns) or "global_step" not in columns:
        return False
    return 0 <= numbers[columns.index("global_step")] < math.inf
