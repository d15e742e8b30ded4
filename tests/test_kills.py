"""A process that is killed with -9, wherever it is, loses no more than the steps since its last checkpoint.

With KILLS=50 there is one at each file operation of a save, and fifty at random moments, for each script.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import SCRIPTS, assert_same_training, resume, train

from cleanrl_cc.common.runs import Run

pytestmark = pytest.mark.slow

NUM_RANDOM = int(os.environ.get("KILLS", 3))
# What Python tells its audit hooks of files; `fsync` it does not tell.
OPERATIONS = {"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.listdir", "os.scandir"}


@pytest.fixture(scope="module", params=SCRIPTS if "KILLS" in os.environ else ["td3"])
def begun(request, tmp_path_factory):
    """A script, the folder of a run of 60 steps, and that of the same run after 100, never killed."""
    folder = tmp_path_factory.mktemp("begun")
    train(request.param, folder / "run", total_timesteps=60)
    shutil.copytree(folder / "run", folder / "whole")
    resume(request.param, folder / "whole", total_timesteps=100)
    return request.param, folder / "run", folder / "whole"


def start_child(script: str, folder: Path, last_operation: int | None = None) -> int:
    """Goes on to step 80 in a child of this process, and saves every ten steps. Returns its id.

    The child kills itself before the file operation of a save that has the number `last_operation`.
    """
    if child := os.fork():
        return child
    counted = -1
    is_saving = False

    def count(event: str, arguments=()):
        nonlocal counted
        if is_saving and event in OPERATIONS:
            counted += 1
            if counted == last_operation:
                os.kill(os.getpid(), signal.SIGKILL)

    def save(run, *arguments):
        nonlocal is_saving
        is_saving = True
        original_save(run, *arguments)
        is_saving = False

    def fsync(number: int):
        count("open")
        original_fsync(number)

    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        original_save, Run._save = Run._save, save
        original_fsync, os.fsync = os.fsync, fsync
        sys.addaudithook(count)
        resume(script, folder, total_timesteps=80, checkpoint_frequency=10)
    finally:
        os._exit(0)


def assert_it_goes_on(script: str, folder: Path, whole: Path):
    resume(script, folder, total_timesteps=100)
    assert_same_training(folder, whole)
    assert len(list(folder.glob("replay-*"))) == 1 and not list(folder.rglob("*.tmp"))


def test_a_kill_at_any_file_operation_of_a_save(begun, tmp_path):
    script, run, whole = begun
    operation = 0
    step = 1 if "KILLS" in os.environ else 5
    while True:
        folder = tmp_path / f"run-{operation}"
        shutil.copytree(run, folder)
        _, status = os.waitpid(start_child(script, folder, operation), 0)
        assert_it_goes_on(script, folder, whole)
        shutil.rmtree(folder)
        if not os.WIFSIGNALED(status):
            break
        operation += step
    assert operation >= 20
    print(f"\n{script}: killed at {operation // step} of {operation} file operations of saves, 0 differences")


def test_a_kill_at_any_moment(begun, tmp_path):
    script, run, whole = begun
    moments = []
    for number in range(NUM_RANDOM + 1):
        folder = tmp_path / f"run-{number}"
        shutil.copytree(run, folder)
        begun_at = time.monotonic()
        child = start_child(script, folder)
        if number:
            time.sleep(moments[number - 1])
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not number:
            seconds = time.monotonic() - begun_at
            moments = np.random.default_rng(1).uniform(0, seconds, NUM_RANDOM)
        assert_it_goes_on(script, folder, whole)
        shutil.rmtree(folder)
    print(f"\n{script}: killed at {NUM_RANDOM} random moments, 0 differences")
