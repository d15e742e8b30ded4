"""What the tests of whole runs share: tiny runs of every script, here or in a process of
their own, and comparisons bit for bit."""

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv

from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.tables import read_csv

# a new script is tested by adding its name
SCRIPTS = ["sac_drq", "td3", "ddpg", "ppo_continuous", "dqn_atari_style", "rainbow"]
ROOT = Path(__file__).parents[1]
needs_results = pytest.mark.skipif(
    not (ROOT / "benchmark" / "results").exists(),
    reason="the source distribution has neither results nor zoo",
)

# A run of seconds. Each script takes the fields that it has. Pendulum-v1 truncates each
# episode after 200 steps, never earlier.
TINY = {
    "env_id": "Pendulum-v1",
    "total_timesteps": 300,
    "num_envs": 1,
    "device": "cpu",
    "num_threads": 1,
    "precision": "fp32",
    "matmul": "mkl",  # two runs that a test compares must not find different libraries faster
    "eval_frequency": 0,
    "eval_episodes": 1,
    "checkpoint_frequency": 0,
    "buffer_size": 5000,
    "batch_size": 16,
    "learning_starts": 50,
    "updates_per_step": 0.1,
    "hidden_dim": 16,
    "encoder_channels": 4,
    "feature_dim": 8,
    "target_update_frequency": 3,
    "epsilon_steps": 100,
    "beta_steps": 200,
    "num_steps": 32,
    "num_minibatches": 4,
    "num_epochs": 2,
}
PIXELS = {"env_id": "CarRacing-v3", "buffer_size": 500, "total_timesteps": 100, "updates_per_step": 0.5}

# In a log line, what no two runs have in common.
OF_THE_MACHINE = dict.fromkeys(["seconds", "charts/sps", "charts/memory_gb", "charts/free_memory_gb"], "")

torch.set_num_threads(1)


# --- running ---


def load_script(script: str):
    return importlib.import_module(f"cleanrl_cc.{script}")


def load_benchmark(name: str):
    """A program of the folder `benchmark`, as a module; there they import each other."""
    if str(ROOT / "benchmark") not in sys.path:
        sys.path.append(str(ROOT / "benchmark"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmark" / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def having(field: str) -> list[str]:
    """The scripts whose `Args` have `field`."""
    return [script for script in SCRIPTS if field in {f.name for f in fields(load_script(script).Args)}]


def flags(changes: dict) -> list[str]:
    """{"num_envs": 3, "track": True} as ["--num-envs", "3", "--track"]."""
    words = []
    for name, value in changes.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def command_line(script: str, folder: Path, **changes) -> list[str]:
    """Arguments of a tiny run into `folder`."""
    chosen = {
        name: value for name, value in (TINY | changes).items() if name not in TINY or script in having(name)
    }
    return flags({"runs_dir": folder.parent, "run_name": folder.name} | chosen)


def parse(script: str, words: list[str]):
    module = load_script(script)
    return module.parse_args(module.Args, module.PRESETS, words)


def train(script: str, folder: Path, **changes) -> float:
    """A tiny run in this process."""
    return load_script(script).train(parse(script, command_line(script, folder, **changes)))


def resume(script: str, path: Path, **changes) -> float:
    """Goes on with a run in this process."""
    return load_script(script).train(parse(script, flags({"resume": path} | changes)))


def start(
    script: str, words: list[str], python_path: str = f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **options
) -> subprocess.Popen:
    """The real command, in a session of its own; its stderr is kept as text."""
    environment = os.environ | {"PYTHONPATH": str(python_path)}
    command = [sys.executable, ROOT / "cleanrl_cc" / f"{script}.py", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes | options)


class Fork:
    """The command in a child of this process, in a session of its own: what `start` gives, without the
    seconds that Python and its libraries take to start.

    For what a run does once it has begun. What comes with a process that is new (imports, modules that are
    found where the command is typed, Ctrl-C meanwhile) is for `start`.
    """

    def __init__(
        self,
        script: str,
        words: list[str],
        folder: Path = ROOT / "cleanrl_cc",
        typed: str = "",
        **options,
    ):
        """`typed` is its standard input; `options` are those of `run`."""
        self.files = [tempfile.TemporaryFile("w+") for _ in range(3)]  # noqa: SIM115
        self.files[0].write(typed)
        self.files[0].seek(0)
        arguments = folder / f"{script}.py", words
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self.run, args=arguments, kwargs=options)
        self.process.start()
        self.pid = self.process.pid

    def run(
        self,
        program: Path,
        words: list[str],
        cwd: Path | str = ".",
        variables: dict[str, str] | None = None,
        forget: str | None = None,
    ):
        """Sets environment variables, and imports the package `forget`, which reads some, again."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # pytest's handler is none of the command's
        os.setsid()
        for number, file in enumerate(self.files):
            os.dup2(file.fileno(), number)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.environ |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | (variables or {})
        os.chdir(cwd)
        for name in [name for name in sys.modules if name.partition(".")[0] == forget]:
            del sys.modules[name]
        sys.argv = [str(program), *map(str, words)]
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still runs after {timeout} s"
        for file in self.files[1:]:
            file.seek(0)
        _, stdout, stderr = self.files
        return stdout.read(), stderr.read()


def begin(script: str, words: list[str]) -> subprocess.Popen | Fork:
    """The command of the first script as it is typed, those of the others in a child of this process."""
    return start(script, words) if script == SCRIPTS[0] else Fork(script, words)


def run_python(code: str, **variables) -> subprocess.CompletedProcess:
    """In a process of its own, with these variables and no other that chooses a
    rendering back end: one is chosen once."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "CLEANRL_CC_GL")
    }
    environment |= variables | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def stop(
    process: subprocess.Popen | Fork, number: signal.Signals, file: Path, whole_group: bool = False
) -> tuple[int, str]:
    """Sends a signal once `file` exists; returns exit code and stderr."""
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, stderr = process.communicate(timeout=200)
    return process.returncode, stderr


def survivors(process: subprocess.Popen | Fork, seconds: float = 10) -> list[str]:
    """What still runs of the session of an ended process after at most so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        alive = []
        for other in psutil.process_iter(["cmdline", "status"]):
            try:
                if os.getsid(other.pid) == process.pid and other.info["status"] != psutil.STATUS_ZOMBIE:
                    alive.append(" ".join(other.info["cmdline"] or []))
            except ProcessLookupError:
                continue
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.1)


def input_error(function, *args, **kwargs) -> str:
    """Calls `function`, which must end in one sentence for the user; returns the sentence."""
    with pytest.raises(SystemExit) as caught:
        function(*args, **kwargs)
    message = caught.value.code
    assert isinstance(message, str), f"exit code {message} instead of a sentence"
    assert "\n" not in message.strip() and message[-1] in ".?", message
    return message


@contextlib.contextmanager
def disk_with_room_for(size: int):
    """Files larger than so many bytes cannot be written, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- comparing ---


def assert_same(a, b, where: str):
    """Equal types, keys and, bit for bit, values."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor | np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), where
    else:
        assert a == b or (a != a and b != b), f"{where}: {a!r} and {b!r}"


def replay(folder: Path) -> dict[str, np.ndarray]:
    """What the buffer of a run folder's last checkpoint held."""
    with np.load(folder / checkpoint(folder)["replay"]) as arrays:
        return dict(arrays)


def assert_same_training(a: Path, b: Path):
    """Weights, optimizers, random generators, environments, counts, metrics and
    replay are equal in two run folders."""
    for key in ("agent", "optimizers", "random", "envs", "num_updates", "metrics", "global_step"):
        assert_same(checkpoint(a)[key], checkpoint(b)[key], key)
    assert_same(replay(a), replay(b), "replay arrays")


def assert_same_runs(a: Path, b: Path):
    """Everything is equal in two run folders but what depends on the clock, is random or names the folder."""
    assert_same_training(a, b)
    states = []
    for folder in (a, b):
        state = checkpoint(folder)
        state["args"] = {
            key: value
            for key, value in state["args"].items()
            if key not in ("runs_dir", "run_name", "resume")
        }
        own = ("seconds", "tracker_id", "replay", "replay_token")
        states.append({key: value for key, value in state.items() if key not in own})
    assert_same(*states, "last.pt")
    assert_same(load_checkpoint(a / "best.pt")["agent"], load_checkpoint(b / "best.pt")["agent"], "best.pt")
    for name in ("progress.csv", "evaluations.csv"):
        rows = [[row | OF_THE_MACHINE for row in read_csv(folder / name)] for folder in (a, b)]
        assert_same(*rows, name)


def checkpoint(folder: Path) -> dict:
    return load_checkpoint(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- environments, `helpers:Name-v0` on a command line ---


class BrokenReward(PendulumEnv):
    """The reward is not a number from the 150th step of the process on."""

    steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        BrokenReward.steps += 1
        return obs, float("nan") if BrokenReward.steps > 150 else reward, terminated, truncated, info


class OddActions(PendulumEnv):
    """Any action space that is asked for."""

    def __init__(self, action_space: gym.Space, render_mode: str | None = None):
        super().__init__(render_mode)
        self.action_space = action_space


class Undrawable(PendulumEnv):
    """Knows nothing of rendering."""

    def __init__(self):
        super().__init__()


DICT = gym.spaces.Dict({"steering": gym.spaces.Box(-1, 1), "gear": gym.spaces.Discrete(5)})
gym.register("BrokenReward-v0", BrokenReward, max_episode_steps=200)
gym.register("DictActions-v0", OddActions, kwargs={"action_space": DICT})
gym.register(
    "TupleActions-v0",
    OddActions,
    kwargs={"action_space": gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(3)])},
)
gym.register("Undrawable-v0", Undrawable, max_episode_steps=200)
gym.register("OwnPendulum-v0", PendulumEnv, max_episode_steps=200)
gym.register("ShortPendulum-v0", PendulumEnv, max_episode_steps=40)
