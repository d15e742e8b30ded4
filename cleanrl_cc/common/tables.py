"""CSV files that grow by lines and by columns."""

import csv
import io
from pathlib import Path

from cleanrl_cc.common.checkpoints import atomic_file
from cleanrl_cc.common.errors import InputError


def append_csv(path: Path, row: dict):
    """Adds a line; a key that the header lacks becomes a new column, empty in the lines before.

    Of the file only its first line is read, unless there is a new column. Raises InputError on a full disk.
    """
    columns = read_header(path)
    if columns and set(row) <= set(columns):
        text = io.StringIO()
        csv.DictWriter(text, columns, lineterminator="\n").writerow(row)
        try:
            with open(path, "a", newline="") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise InputError(
                f"{path} could not be written ({error}): free some disk space. Earlier checkpoints are whole."
            ) from error
    else:
        write_csv(path, [*read_csv(path), row])


def read_header(path: Path) -> list[str]:
    """The columns of a CSV file; none where there is no file or nothing in it."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return next(csv.reader(file), [])


def read_csv(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict]):
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())
