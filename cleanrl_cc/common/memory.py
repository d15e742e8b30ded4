"""How much memory there is, and how much a run takes. Nothing here imports torch: programs ask that
only start runs."""

import contextlib
from pathlib import Path

import psutil


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still use: what is free, or what its cgroup, or
    one above it, leaves if that is less."""
    free = psutil.virtual_memory().available
    paths = {}
    with contextlib.suppress(OSError):
        paths = dict(line.split(":", 2)[1:] for line in (root / "proc/self/cgroup").read_text().splitlines())
    for controller, folder, limit_file, usage_file, cache in (
        ("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),  # version 2
        (
            "memory",
            "sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        place = root / folder / paths.get(controller, "").lstrip("/")
        for cgroup in (place, *place.parents):  # in a container its own may be `folder` itself
            with contextlib.suppress(OSError, ValueError):
                limit, usage = (int((cgroup / name).read_text()) for name in (limit_file, usage_file))
                stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
                free = min(free, limit - usage + int(stat.get(cache, 0)))
    return free


def taken_memory() -> int:
    """Resident bytes of this process and its children; pages that they share count for each."""
    process = psutil.Process()
    total = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            total += each.memory_info().rss
    return total
