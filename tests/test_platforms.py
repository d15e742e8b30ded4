"""What macOS, some containers and other versions of Python lack: fork, EGL, /proc, glibc, dm_control."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers import assert_same_training, flags, input_error, load_benchmark, parse, resume, train

from cleanrl_cc.common.envs import find_spec
from cleanrl_cc.common.machine import describe_machine, find_device, keep_pages
from cleanrl_cc.common.memory import free_memory
from cleanrl_cc.common.rendering import choose_gl_backend
from cleanrl_cc.common.vector import usable_cores

pytestmark = pytest.mark.slow


def no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def pretend_macos(monkeypatch):
    """Called, it takes away what macOS does not have."""
    get_context, read_text = multiprocessing.get_context, Path.read_text

    def read_text_but_of_linux(path: Path, *args, **kwargs) -> str:
        if path.parts[:2] in (("/", "proc"), ("/", "sys")):
            raise FileNotFoundError(path)
        return read_text(path, *args, **kwargs)

    def pretend():
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(
            multiprocessing, "get_context", lambda method=None: get_context(method or "spawn")
        )
        monkeypatch.setattr(Path, "read_text", read_text_but_of_linux)
        monkeypatch.setattr(ctypes, "CDLL", no_library)
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.delattr(os, "sched_setaffinity")
        monkeypatch.delenv("CLEANRL_CC_GL", raising=False)
        monkeypatch.delenv("MUJOCO_GL", raising=False)

    return pretend


@pytest.mark.parametrize("script", ["sac_drq", "ppo_continuous"])
def test_a_run_without_fork_and_linux_learns_the_same(script, tmp_path, pretend_macos):
    train(script, tmp_path / "linux", num_envs=2, total_timesteps=400)
    pretend_macos()
    train(script, tmp_path / "macos", num_envs=2, total_timesteps=200)
    resume(script, tmp_path / "macos", total_timesteps=400)
    assert_same_training(tmp_path / "linux", tmp_path / "macos")


def test_macos_draws_with_its_desktop_unless_told(monkeypatch, pretend_macos):
    pretend_macos()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nothing is probed"))
    assert choose_gl_backend() == "glfw"
    monkeypatch.setenv("MUJOCO_GL", "cgl")
    assert choose_gl_backend() == "cgl"


def test_the_machine_is_described_without_linux(pretend_macos):
    pretend_macos()
    description = describe_machine(find_device("cpu"))
    assert description["cores"] == usable_cores() == os.cpu_count()
    assert abs(free_memory() - psutil.virtual_memory().available) < 1e9


@pytest.mark.parametrize("library", [no_library, lambda name: object()], ids=["none", "without mallopt"])
def test_pages_are_kept_by_glibc_alone(library, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", library)
    keep_pages()


def test_speeds_are_compared_where_processes_can_be_bound(pretend_macos):
    speed = load_benchmark("speed")
    pretend_macos()
    assert "Linux" in input_error(speed.run_child, "sac", "sb3", 1, speed.Options())


@pytest.mark.parametrize("device", ["mps", "mps:0"])
def test_a_gpu_of_apple_is_refused_in_one_sentence(device, tmp_path):
    args = parse("td3", flags({"env_id": "Pendulum-v1", "device": device, "runs_dir": tmp_path}))
    assert "--device cpu" in input_error(find_device, args.device)


def test_without_dm_control_its_tasks_are_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "shimmy", None)  # what Python 3.13 has
    assert "dm_control" in input_error(find_spec, "dm_control/walker-walk-v0")
