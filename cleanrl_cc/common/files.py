"""Files that are whole or not there and notice a flipped bit, and folders that one process holds.

Imports no torch: the launcher of the benchmarks looks at folders, too.
"""

import contextlib
import errno
import fnmatch
import itertools
import json
import os
import re
import shutil
import socket
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

from cleanrl_cc.common.errors import InputError

LOCK = "run.lock"
WITHOUT_CHECKPOINT = [  # what a run writes before it has one
    LOCK,
    "args.json",
    "progress.csv",
    "events.out.tfevents.*",
    "*.tmp",
    "videos",
    "videos/*.mp4",
    "wandb",
    "wandb/*",
]
WITH_EVALUATION = ["evaluations.csv", "best.pt", "policy-*.pt"]  # what an evaluation adds
BLOCK_BYTES = 2**24
# the end of a zip archive without a comment, whose last field is the length of the comment
END_OF_ARCHIVE = re.compile(rb"PK\x05\x06.{16}\0\0", re.DOTALL)
CHECKSUM = re.compile(rb"[0-9a-f]{8}")


# --- writing ---

REMEDIES: dict[int | None, str] = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable")
REMEDIES |= dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), "name another file")


@contextlib.contextmanager
def writing(path: Path):
    """Turns what the disk refuses into one sentence. Raises InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in RuntimeError
        if not path.parent.is_dir():
            raise gone(path.parent) from error
        remedy = REMEDIES.get(getattr(error, "errno", None), "free some disk space")
        raise InputError(
            f"{path} could not be written ({error}): {remedy}. Earlier checkpoints are whole."
        ) from error


def gone(folder: Path) -> InputError:
    return InputError(f"{folder} is gone: it was moved or deleted while the run wrote to it.")


@contextlib.contextmanager
def atomic_file(path: Path):
    """A binary file, to write and to read, that appears under its name only when it is whole and on the disk.

    Raises:
        InputError: the disk is full or cannot be written. What was under the name before is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with writing(path):
            with open(temporary, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            to_disk(path.parent)  # the rename, too, must survive a power cut
    finally:
        with contextlib.suppress(OSError):  # not there, or it was why nothing could be written
            temporary.unlink()


def write_text(path: Path, text: str):
    """Writes a text file, whole or not at all. Raises InputError as `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode())


def set_aside(path: Path) -> Path:
    """Copies a file that is damaged to `<name>.damaged-<number>`, and returns that. Raises InputError."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    copy = next(name for name in names if not name.exists())
    with writing(copy):
        shutil.copyfile(path, copy)
    return copy


def to_disk(path: Path):
    """Waits until a file or a folder is on the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        number = os.open(path, os.O_RDONLY)
        os.fsync(number)
        os.close(number)


# --- seals ---


def seal(archive: IO[bytes], token: str):
    """Ends an archive that was just written with a comment: `token`, and a checksum of every byte before."""
    archive.seek(-2, os.SEEK_END)
    archive.write(struct.pack("<H", len(token) + 9) + f"{token} ".encode())
    archive.write(f"{_checksum(archive, archive.tell()):08x}".encode())


def read_seal(path: Path) -> str:
    """The token of a sealed archive, "" of one without a seal, as earlier versions wrote it.

    Raises:
        ValueError, zipfile.BadZipFile: not a bit may be believed. Without a seal, only what is in the members
            of the archive is checked, and not what is between them.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 22, 0))
        end = file.read()
        if END_OF_ARCHIVE.fullmatch(end):
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} is damaged")
            return ""
        checksum = end[-8:]
        if not CHECKSUM.fullmatch(checksum) or int(checksum, 16) != _checksum(file, size - 8):
            raise ValueError("its checksum is another")
        with zipfile.ZipFile(file) as archive:
            return archive.comment[:-9].decode()


def _checksum(file: IO[bytes], size: int) -> int:
    """CRC-32 of the first `size` bytes; the file is then read up to there."""
    file.seek(0)
    checksum = 0
    while block := file.read(min(size, BLOCK_BYTES)):
        checksum = zlib.crc32(block, checksum)
        size -= len(block)
    return checksum


# --- folders ---


class FolderLock:
    """A run folder that this process holds, until it releases it or ends, however it ends.

    Such a lock belongs to the process alone: the workers of an environment do not inherit it. It stays a file
    of the folder, empty when nobody holds it.

    Raises:
        InputError: another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path):
        import fcntl  # Windows has none, and plays policies all the same

        with writing(folder / LOCK):
            self.file = open(folder / LOCK, "a+")  # noqa: SIM115 (open as long as the run is)
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # some network file systems have no locks
                self.file.close()
                raise InputError(
                    f"{folder} cannot be locked ({error.strerror}): name a --runs-dir on another file system."
                ) from error
            self.file.seek(0)
            holder = self.file.read() or "another process"
            self.file.close()
            raise InputError(
                f"{folder} is in use by {holder}: wait until it ends, or choose another --run-name."
            ) from error
        with writing(folder / LOCK):
            self._write(f"process {os.getpid()} on {socket.gethostname()}")

    def _write(self, text: str):
        self.file.truncate(0)
        self.file.write(text)
        self.file.flush()

    def release(self):
        if not self.file.closed:
            self._write("")
            self.file.close()


def move_aside(folder: Path) -> Path:
    """Renames what a run left that was killed before its first checkpoint.

    Returns:
        The new name.

    Raises:
        InputError: it holds anything else, a policy for example, or is no folder, or is in use. It stays as
            it is.
    """
    is_run = (folder / "args.json").is_file()
    inside = folder.rglob("*") if is_run else folder.glob("*")  # of what is no run one look is enough
    found = [path.relative_to(folder).as_posix() for path in sorted(inside)]
    ours = WITHOUT_CHECKPOINT + (WITH_EVALUATION if _before_checkpoint(folder) else [])
    others = [name for name in found if not any(fnmatch.fnmatch(name, known) for known in ours)]
    if folder.is_symlink() or not folder.is_dir():
        reason = "is not a folder"
    elif others:
        reason = f"holds {others[0]} but no last.pt to go on from"
    elif found not in ([], [LOCK]) and "args.json" not in found:
        reason = f"holds {found[0]} but no args.json of a run"
    else:
        if LOCK in found:
            FolderLock(folder).release()
        free = (folder.with_name(f"{folder.name}.stopped-{number}") for number in itertools.count(1))
        return folder.rename(next(path for path in free if not os.path.lexists(path)))
    raise InputError(f"{folder} {reason}: move it away, or choose another --run-name.")


def _before_checkpoint(folder: Path) -> bool:
    """Whether the evaluations of a run end before its first checkpoint was due: with `--eval-frequency` below
    `--checkpoint-frequency` a run that is killed early leaves a policy, and nothing to go on from."""
    try:
        frequency = json.loads((folder / "args.json").read_text())["args"]["checkpoint_frequency"]
        last_line = (folder / "evaluations.csv").read_text().splitlines()[-1]
        return int(last_line.split(",")[0]) < frequency
    except (OSError, ValueError, LookupError, TypeError):
        return False
