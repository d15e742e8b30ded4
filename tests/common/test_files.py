"""A folder belongs to one process, and what cannot be written ends in one sentence."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from helpers import Fork, command_line, contents, disk_with_room_for, input_error, resume, stop, train

from cleanrl_cc.common.files import LOCK, FolderLock, atomic_file, move_aside, writing

pytestmark = pytest.mark.slow

# --- locks ---


def test_a_folder_is_held_by_one_process_and_the_second_says_by_which(tmp_path):
    folder = tmp_path / "run"
    process = Fork("td3", command_line("td3", folder, total_timesteps=10**6, checkpoint_frequency=50))
    while not (folder / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    holder = f"in use by process {process.pid} on {socket.gethostname()}"
    assert holder in input_error(resume, "td3", folder)
    code, _ = stop(process, signal.SIGTERM, folder / "last.pt")
    assert code == 128 + signal.SIGTERM
    assert (folder / LOCK).read_text() == ""
    train("td3", tmp_path / "other")  # a run that has ended, and one of another folder, disturb nobody


def test_a_folder_without_a_checkpoint_that_is_in_use_is_not_taken(tmp_path):
    folder = tmp_path / "run"
    process = Fork("td3", command_line("td3", folder, total_timesteps=10**6))
    while not (folder / LOCK).exists() or not (folder / "args.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert f"process {process.pid}" in input_error(train, "td3", folder)
    assert f"process {process.pid}" in input_error(move_aside, folder)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    train("td3", folder)  # what a killed process held is free
    assert (tmp_path / "run.stopped-1" / "args.json").exists()


def test_a_file_system_without_locks_is_named_as_the_reason(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    message = input_error(FolderLock, tmp_path)
    assert "cannot be locked (No locks available)" in message and "--runs-dir" in message


def test_a_run_that_cannot_be_resumed_does_not_stay_in_use(tmp_path):
    train("td3", tmp_path / "run", total_timesteps=60)
    replay = tmp_path / "run" / "replay-60.npz"
    data = replay.read_bytes()
    replay.write_bytes(data[:-100])
    before = contents(tmp_path / "run")
    input_error(resume, "td3", tmp_path / "run")
    assert contents(tmp_path / "run") == before
    replay.write_bytes(data)
    resume("td3", tmp_path / "run", total_timesteps=80)


def test_a_lock_leaves_with_its_process(tmp_path):
    lock = FolderLock(tmp_path)
    if (child := os.fork()) == 0:
        try:
            FolderLock(tmp_path)
        except SystemExit:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    lock.release()
    lock.release()  # once more does nothing


# --- writing ---


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device"), ["No space left", "disk space", "checkpoints are whole"]),
        (RuntimeError("PytorchStreamWriter failed writing file"), ["disk space"]),
        (PermissionError(13, "Permission denied"), ["make it writable"]),
    ],
)
def test_what_cannot_be_written_is_one_sentence(error, words, tmp_path):
    def write():
        with writing(tmp_path / "file"):
            raise error

    message = input_error(write)
    assert str(tmp_path / "file") in message and all(word in message for word in words)


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    def write():
        with atomic_file(tmp_path / "run" / "last.pt") as file:
            file.write(b"much")
            shutil.rmtree(tmp_path / "run")

    (tmp_path / "run").mkdir()
    assert "is gone" in input_error(write)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path: Path = tmp_path / "file"
    path.write_bytes(b"before")

    def write():
        with atomic_file(path) as file:
            file.write(bytes(1000))

    with disk_with_room_for(100):
        assert "disk" in input_error(write)
    assert contents(tmp_path) == {"file": b"before"}
    write()
    assert contents(tmp_path) == {"file": bytes(1000)}


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(tmp_path, monkeypatch):
    done = []
    replace = os.replace

    def sync(number: int):
        place = Path(os.readlink(f"/proc/self/fd/{number}"))
        done.append((place.name, None if place.is_dir() else place.read_bytes()))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    with atomic_file(tmp_path / "file") as file:
        file.write(b"whole")
    assert done == [("file.tmp", b"whole"), "renamed", (tmp_path.name, None)]
