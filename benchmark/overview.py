"""What folders of runs say of themselves: state, step, speed, time left, evaluations, memory and size.

Reads args.json, progress.csv, evaluations.csv and the file system, never a checkpoint: nothing that a folder
holds is executed. `python benchmark/launch.py --list` prints it.
"""

import contextlib
import json
import math
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from cleanrl_cc.common.memory import free_memory

TAIL_BYTES = 2**15  # of progress.csv: some hundred lines of a file that may have many thousands
PACE_LINES = 20  # of progress.csv, over which a run's pace is measured
LOOK_SECONDS = 2  # from one look at the runs to the next
PRINT_SECONDS = 300  # from one table to the next where there is no terminal
SHORT_OF_MEMORY = (
    "Warning: the runs take {} of memory and only {} are free, so the system may soon kill one: "
    "Ctrl-C saves them all, and fewer --workers go on."
)
HEAD = ["run", "state", "step", "steps/s", "left", "evaluation", "best", "memory", "disk", "changed"]


@dataclass
class Status:
    """Of one run. NaN is what its files do not tell."""

    state: str
    """running (on this machine), finished, stopped, no checkpoint; unreadable: args.json is none of a run"""
    step: int = 0
    total: int = 0
    """steps that were asked for"""
    sps: float = math.nan
    """steps per second of training, in the last log line"""
    left: float = math.nan
    """seconds to the end, at the pace of late, which includes evaluations"""
    evaluation: float = math.nan
    """mean return of the last evaluation"""
    best: float = math.nan
    """mean return of the best evaluation"""
    memory: float = math.nan
    """resident bytes of its processes"""
    disk: int = 0
    """bytes in its folder"""
    changed: float = math.nan
    """seconds since a file in its folder changed"""


# --- one folder ---


def log_file(folder: Path) -> Path:
    """Where the launcher puts the output of a run."""
    return folder.with_name(folder.name + ".log")


@dataclass
class Description:
    """What args.json tells."""

    total: int
    """steps that were asked for"""
    command: str
    """the last one typed"""
    path: str
    """the folder of runs, or what was resumed, as that command named it"""
    written_at: float


def read_description(folder: Path) -> Description | None:
    """None where args.json cannot be read."""
    try:
        description = json.loads((folder / "args.json").read_text())
        args = description["args"]
        return Description(
            total=int(args["total_timesteps"]),
            command=str(description["commands"][-1]),
            path=str(args.get("resume") or args["runs_dir"]),
            written_at=(folder / "args.json").stat().st_mtime,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return None


def read_columns(path: Path, columns: list[str], tail_bytes: int | None = None) -> list[list[float]]:
    """Some columns of a CSV file of numbers, or of its last bytes: a list per line, NaN for an empty cell.

    Lines that are torn or hold no numbers are left out; a file that is missing or has other columns has none.
    """
    try:
        with open(path, "rb") as file:
            header = file.readline().decode(errors="replace").strip().split(",")
            positions = [header.index(column) for column in columns]
            if tail_bytes and path.stat().st_size - file.tell() > tail_bytes:
                file.seek(-tail_bytes, os.SEEK_END)
                file.readline()  # its beginning is cut off
            lines = file.read().decode(errors="replace").splitlines(keepends=True)
    except (OSError, ValueError):
        return []
    rows = []
    for line in lines:
        cells = line.strip().split(",")
        if line.endswith("\n") and len(cells) == len(header):
            with contextlib.suppress(ValueError):
                rows.append([float(cells[position] or "nan") for position in positions])
    return rows


def read_status(folder: Path, processes: list[psutil.Process]) -> Status:
    """What a run folder says, and whether one of `processes` (see `all_processes`) writes it."""
    status = Status("unreadable")
    with contextlib.suppress(OSError, ValueError):  # a file may vanish meanwhile
        stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
        status.disk = sum(stat.st_size for stat in stats)
        status.changed = max(0, time.time() - max(stat.st_mtime for stat in stats))
    description = read_description(folder)
    if description is None:
        return status
    status.total = description.total

    progress = read_columns(folder / "progress.csv", ["global_step", "seconds", "charts/sps"], TAIL_BYTES)
    evaluations = read_columns(folder / "evaluations.csv", ["global_step", "return_mean"])
    steps = [row[0] for row in progress[-1:] + evaluations[-1:] if math.isfinite(row[0])]
    status.step = int(max(steps, default=0))
    if progress:
        status.sps = progress[-1][2]
    if evaluations:
        status.evaluation = evaluations[-1][1]
        status.best = max(mean for _, mean in evaluations)

    if writing := writers(folder, processes):
        status.state = "running"
        status.memory = resident_bytes(writing)
    elif not (folder / "last.pt").exists():
        status.state = "no checkpoint"
    else:
        status.state = "finished" if is_finished(folder, evaluations, status.total) else "stopped"
    if status.state != "finished":
        status.left = seconds_left(progress, status.total - status.step)
    return status


def is_finished(folder: Path, evaluations: list[list[float]], total: int) -> bool:
    """Whether the last checkpoint was written after the evaluation that ends a run."""
    with contextlib.suppress(OSError):
        evaluated_at, saved_at = ((folder / name).stat().st_mtime for name in ("evaluations.csv", "last.pt"))
        return bool(evaluations) and evaluations[-1][0] >= total and saved_at >= evaluated_at
    return False


def seconds_left(progress: list[list[float]], steps: int) -> float:
    points = [[0, 0, 0], *progress][-PACE_LINES:]
    (first_step, first_second, _), (last_step, last_second, _) = points[0], points[-1]
    if last_step > first_step:
        return steps * (last_second - first_second) / (last_step - first_step)
    return math.nan


# --- processes ---


def all_processes() -> list[psutil.Process]:
    """Those of this machine, with what `writers` asks of them in `info`."""
    return list(psutil.process_iter(["cmdline", "create_time", "cwd", "open_files"]))


def writers(folder: Path, processes: list[psutil.Process], of_log: bool = True) -> list[psutil.Process]:
    """Who of `processes` writes a run: has its log or a file of its folder open for it, or is its command."""
    place = Path(os.path.realpath(folder))
    log = Path(os.path.realpath(log_file(folder)))
    description = read_description(folder)
    found = []
    for process in processes:
        opened = [file.path for file in process.info["open_files"] or () if getattr(file, "mode", "w") != "r"]
        has_file = any(Path(path).parent == place or (of_log and Path(path) == log) for path in opened)
        if has_file or (description and is_its_command(place, description, process.info)):
            found.append(process)
    return found


def is_its_command(place: Path, description: Description, process: dict) -> bool:
    """Whether a process is the command of the run in `place`: typed alike, for this folder, begun before."""
    script = re.search(r"\S+\.py\b.*", description.command)  # without `python` or `torchrun ...`
    typed = " ".join(process["cmdline"] or ())
    if not script or not typed.endswith(script[0]) or not process["cwd"]:
        return False
    named = Path(os.path.realpath(os.path.join(process["cwd"], description.path)))
    is_here = place.is_relative_to(named) or named.is_relative_to(place)
    return is_here and process["create_time"] <= description.written_at


def resident_bytes(processes: list[psutil.Process]) -> int:
    """Of processes and all their children; pages that they share count for each."""
    family = set(processes)
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            family |= set(process.children(recursive=True))
    for process in family:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


# --- the table ---


def read_runs(runs_dir: Path) -> list[tuple[str, Status]]:
    """The runs anywhere below a folder, by name."""
    processes = all_processes()
    folders = sorted(path.parent for path in runs_dir.rglob("args.json"))
    return [(str(folder.relative_to(runs_dir)), read_status(folder, processes)) for folder in folders]


def table(runs: list[tuple[str, Status]]) -> list[str]:
    """A line of headings and one a run, in columns."""
    rows = [HEAD, *([name, *cells(status)] for name, status in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        words = [word.ljust(width) for word, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [number.rjust(width) for number, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(words + numbers))
    return lines


def memory(runs: list[tuple[str, Status]]) -> str:
    """What the runs take and what the machine, or its container, still has; nothing where nothing runs."""
    taken = taken_memory(runs)
    return f"; memory: {size(taken)} taken, {size(free_memory())} free" if taken else ""


def taken_memory(runs: list[tuple[str, Status]]) -> float:
    return sum(status.memory for _, status in runs if math.isfinite(status.memory))


def cells(status: Status) -> list[str]:
    return [
        status.state,
        f"{status.step:,} of {status.total:,}",
        decimal(status.sps, digits=0),
        duration(status.left),
        decimal(status.evaluation),
        decimal(status.best),
        size(status.memory),
        size(status.disk),
        duration(status.changed) + (" ago" if math.isfinite(status.changed) else ""),
    ]


def decimal(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "-"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Of bytes."""
    if not math.isfinite(count):
        return "-"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# --- while runs run ---


class Board:
    """Lines that stay, and a table of what runs: on a terminal below them and renewed, else now and then."""

    def __init__(self):
        self.terminal = sys.stdout.isatty()
        self.table = []
        self.height = 0  # lines of the table that are on the terminal
        self.looked_at = -math.inf
        self.printed_at = time.monotonic()
        self.warned = False

    def show(self, lines: list[str], running: list[tuple[str, Path, int]], summary: str, state: str):
        """Prints new lines, and renews the table.

        Args:
            running: name, folder and process id of each run that is in `state`.
            summary: what the table's last line begins with.
        """
        now = time.monotonic()
        if not lines and now - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = now
        lines = lines + self.look(running, summary, state)
        if not self.terminal and running and now - self.printed_at > PRINT_SECONDS:
            self.printed_at = now
            lines = lines + self.table
        self.draw(lines)

    def look(self, running: list[tuple[str, Path, int]], summary: str, state: str) -> list[str]:
        """Renews the table. Returns a warning when memory begins to run short."""
        runs = []
        for name, folder, process_id in running:
            status = read_status(folder, [])
            status.state = state
            with contextlib.suppress(psutil.Error):  # it has ended
                status.memory = resident_bytes([psutil.Process(process_id)])
            runs.append((name, status))
        self.table = [summary]
        if runs:
            self.table = [*table(runs), f"{summary}, {len(runs)} {state}{memory(runs)}"]

        taken, free = taken_memory(runs), free_memory()
        share = free / (free + taken)
        newly_short = share < 0.1 and not self.warned
        self.warned = share < 0.1 or (self.warned and share < 0.2)
        return [SHORT_OF_MEMORY.format(size(taken), size(free))] if newly_short else []

    def draw(self, lines: list[str]):
        """Prints lines where the table was, and on a terminal the table again, as much of it as fits."""
        columns, rows = shutil.get_terminal_size()
        shown = [line[: columns - 1] for line in self.table[1 - rows :]] if self.terminal else []
        erase = f"\x1b[{self.height}A\x1b[J" if self.height else ""
        self.height = len(shown)
        print(erase + "".join(f"{line}\n" for line in lines + shown), end="", flush=True)

    def clear(self):
        self.table = []
        self.draw([])
