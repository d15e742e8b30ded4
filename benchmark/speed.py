"""Measures ours and the peers side by side, on this machine, in one run, and prints a table.

    pip install -e ".[peers]"
    python benchmark/speed.py                      # every task, one thread
    python benchmark/speed.py --tasks td3 ddpg --threads 1 2 --rounds 3

A figure is environment steps per second of a whole training loop: environment, policy, buffer and update;
off-policy ones make one update per step. Each measurement is a process of its own; the contenders take turns,
round after round, so that a machine that slows down slows all of them; the table has the median round.
Nothing else should run meanwhile. Peers that are not installed are left out, and CleanRL, which is no
package, is measured from a clone:

    git clone https://github.com/vwxyzjn/cleanrl
    python benchmark/speed.py --tasks dqn-pixels rainbow-pixels --cleanrl cleanrl
"""

import ast
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import torch
import tyro

from cleanrl_cc.common.arguments import check_args
from cleanrl_cc.common.errors import InputError, require
from cleanrl_cc.common.machine import describe_machine, find_device
from cleanrl_cc.common.ranges import Small
from cleanrl_cc.common.tables import append_csv, start_csv

# of the CSV, after those that describe the machine
COLUMNS = ("task", "precision", "matmul", "contender", "median", "rounds")
JAX_ON_GPUS = {"jax_cuda12_plugin", "jax_cuda13_plugin"}
WARMUP = 300  # random steps before the updates of the off-policy algorithms begin
MLP = {"script_env": "HalfCheetah-v5", "policy": "MlpPolicy", "steps": 2000}
OURS = ("cleanrl_cc", "cleanrl_cc-bf16", "cleanrl_cc-compile", "cleanrl_cc-bf16-compile")
MLP |= {"contenders": (*OURS, "sb3", "sbx")}
# Their CnnPolicy sees one 96x96 RGB frame, ours four gray 84x84 frames through the same convolutions.
CNN = {"script_env": "CarRacing-v3", "policy": "CnnPolicy", "steps": 40}
CNN |= {"contenders": ("cleanrl_cc", "cleanrl_cc-bf16", "sb3")}
PIXELS = (*OURS, "cleanrl_cc-preset-bf16", "sb3")
REPLAY = {"buffer_size": 20_000, "learning_starts": WARMUP}
EVERY_STEP = REPLAY | {
    "batch_size": 256,
    "updates_per_step": 1.0,
    "n_step": 1,
    "action_repeat": 1,
    "training_wrappers": (),
}
PEER_EVERY_STEP = REPLAY | {"batch_size": 256, "train_freq": 1, "gradient_steps": 1}
# A second and a third rollout of 8 x 256 steps with their updates: the first may be slower.
ROLLOUT = {"num_envs": 8, "num_steps": 256, "num_epochs": 10, "action_repeat": 1, "training_wrappers": ()}
PEER_ROLLOUT = {"n_steps": 256, "n_epochs": 10}
TWO_ROLLOUTS = {"first": 2048 + 200, "steps": 3 * 2048 + 200 - WARMUP}
PPO_MLP = MLP | {"script": "ppo_continuous", "peer": "PPO"}
PPO_MLP |= {
    "ours": ROLLOUT | {"num_minibatches": 32, "hidden_dim": 64, "activation": "tanh", "normalize": False}
}
PPO_MLP |= {"theirs": PEER_ROLLOUT | {"batch_size": 64}} | TWO_ROLLOUTS
PPO_PIXELS = CNN | {"script": "ppo_continuous", "peer": "PPO", "contenders": PIXELS} | TWO_ROLLOUTS
PPO_PIXELS |= {
    "ours": ROLLOUT | {"num_minibatches": 8, "num_epochs": 4, "encoder_channels": 32, "feature_dim": 512}
}
PPO_PIXELS |= {"theirs": PEER_ROLLOUT | {"batch_size": 256, "n_epochs": 4}}
DQN = REPLAY | {
    "batch_size": 32,
    "updates_per_step": 1.0,
    "n_step": 1,
    "action_set": "five",
    "action_repeat": 1,
    "training_wrappers": (),
    "encoder_channels": 32,
}
PEER_DQN = REPLAY | {"batch_size": 32, "train_freq": 1, "gradient_steps": 1}
DQN_PIXELS = CNN | {"contenders": (*OURS, "sb3", "cleanrl"), "peer": "DQN", "ours": DQN, "theirs": PEER_DQN}
DQN_PIXELS |= {"env_kwargs": {"continuous": False}, "steps": 200}
TASKS = {
    "sac": MLP
    | {
        "title": "SAC, HalfCheetah-v5, batch 256, 256x256",
        "script": "sac_drq",
        "ours": EVERY_STEP,
        "peer": "SAC",
    },
    "td3": MLP
    | {
        "title": "TD3, HalfCheetah-v5, batch 256, 256x256",
        "script": "td3",
        "ours": EVERY_STEP,
        "peer": "TD3",
    },
    "ddpg": MLP
    | {
        "title": "DDPG, HalfCheetah-v5, batch 256, 256x256",
        "script": "ddpg",
        "ours": EVERY_STEP,
        "peer": "DDPG",
    },
    "ppo": PPO_MLP | {"title": "PPO, HalfCheetah-v5, 8 environments, batch 64, 10 epochs, 64x64"},
    "ppo-normalize": PPO_MLP  # observations and rewards: ours by --normalize, the peers by their VecNormalize
    | {"title": "PPO, HalfCheetah-v5, 8 environments, batch 64, 10 epochs, 64x64, normalised"}
    | {"ours": PPO_MLP["ours"] | {"normalize": True}, "normalize": True},
    # "bf16" has --precision bf16 (else fp32), "compile" --compile, "preset" half
    # the channels in its convolutions.
    "sac-pixels": CNN
    | {"title": "SAC, CarRacing-v3, batch 256, one frame a step", "script": "sac_drq", "peer": "SAC"}
    | {"ours": EVERY_STEP | {"encoder_channels": 32}, "contenders": PIXELS},
    "ppo-pixels": PPO_PIXELS
    | {"title": "PPO, CarRacing-v3, 8 environments, batch 256, 4 epochs, one frame a step"},
    "ppo-pixels-repeat": PPO_PIXELS
    | {"title": "PPO, CarRacing-v3, 8 environments, batch 256, 4 epochs, four frames a step"}
    | {"ours": PPO_PIXELS["ours"] | {"action_repeat": 4}, "frame_skip": 4},
    "dqn-pixels": DQN_PIXELS
    | {"title": "DQN, CarRacing-v3, five actions, batch 32, one frame a step"}
    | {"script": "dqn_atari_style", "cleanrl": "dqn_atari"},
    "rainbow-pixels": DQN_PIXELS
    | {"title": "Rainbow (sb3: DQN), CarRacing-v3, five actions, batch 32, one frame a step"}
    | {"script": "rainbow", "cleanrl": "rainbow_atari", "ours": DQN | {"n_step": 3, "num_atoms": 51}},
}


@dataclass
class Options:
    tasks: tuple[Literal[tuple(TASKS)], ...] = tuple(TASKS)
    """what to measure"""
    threads: tuple[Small, ...] = (1,)
    """torch threads, one table each"""
    rounds: Small = 3
    """measurements of each contender"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where networks are; CUDA_VISIBLE_DEVICES chooses among GPUs"""
    csv: str | None = None
    """append the measurements to this file"""
    cleanrl: str | None = None
    """clone of CleanRL's repository, whose DQN and Rainbow are to be measured, too"""
    child: str | None = None
    """used by the program itself: measure this contender and print steps per second"""


def measure_ours(task: dict, contender: str, threads: int, options: Options) -> dict:
    """`steps_per_second`, and what computed its fp32 products."""
    from cleanrl_cc.common.arguments import preset_args
    from cleanrl_cc.common.runs import Run

    script = importlib.import_module(f"cleanrl_cc.{task['script']}")
    args = preset_args(script.Args, script.PRESETS, task["script_env"])
    variant = contender.split("-")
    run = {
        "num_threads": threads,
        "precision": "bf16" if "bf16" in variant else "fp32",
        "device": options.device,
    }
    run["compile"] = "compile" in variant
    run |= {
        "total_timesteps": WARMUP + task["steps"],
        "eval_frequency": 0,
        "checkpoint_frequency": 0,
        "eval_episodes": 1,
    }
    for name, value in (task["ours"] | run).items():
        if not (name in ("encoder_channels", "feature_dim") and "preset" in variant):
            setattr(args, name, value)
    clock = []

    class TimedRun(Run):
        """Notes when each step ended, and evaluates nothing."""

        def show_progress(self, global_step: int):
            clock.append((global_step, time.perf_counter()))
            super().show_progress(global_step)

        def evaluate(self, global_step: int) -> float:
            return 0.0

    with tempfile.TemporaryDirectory() as folder:
        args.runs_dir = folder
        script.train(args, TimedRun)
    return {"steps_per_second": steps_per_second(clock, task), "matmul": matmul(args.matmul, options.device)}


def measure_peer(task: dict, contender: str, threads: int, options: Options) -> dict:
    from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(threads)
    library = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[contender])
    clock = []

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            clock.append((self.num_timesteps, time.perf_counter()))
            return True

    device = {} if contender == "sbx" else {"device": options.device}
    skip = (
        {"wrapper_class": MaxAndSkipEnv, "wrapper_kwargs": {"skip": task["frame_skip"]}}
        if "frame_skip" in task
        else {}
    )
    num_envs = task["ours"].get("num_envs", 1)
    env = make_vec_env(task["script_env"], n_envs=num_envs, env_kwargs=task.get("env_kwargs"), **skip)
    env = VecNormalize(env, gamma=0.99) if task.get("normalize") else env
    model = getattr(library, task["peer"])(
        task["policy"], env, **task.get("theirs", PEER_EVERY_STEP) | device
    )
    model.learn(WARMUP + task["steps"], callback=Clock())
    return {
        "steps_per_second": steps_per_second(clock, task),
        "matmul": "jax" if contender == "sbx" else matmul("mkl", options.device),
    }


def measure_cleanrl(task: dict, contender: str, threads: int, options: Options) -> dict:
    """Their script as it is, but for its environment: CarRacing in four gray frames, with a clock."""
    torch.set_num_threads(threads)
    clock = []

    class Clock(gym.Wrapper):
        def step(self, action):
            clock.append((len(clock) + 1, time.perf_counter()))
            return super().step(action)

    def make_env(env_id, *_):
        def thunk():
            env = gym.wrappers.GrayscaleObservation(gym.make(env_id, **task["env_kwargs"]))
            return Clock(gym.wrappers.FrameStackObservation(gym.wrappers.ResizeObservation(env, (84, 84)), 4))

        return thunk

    clone = Path(options.cleanrl).resolve()
    path = clone / "cleanrl" / f"{task['cleanrl']}.py"
    script = ast.parse(path.read_text())
    script.body = [node for node in script.body if getattr(node, "name", None) != "make_env"]
    flags = {"env-id": task["script_env"], "total-timesteps": WARMUP + task["steps"], "train-frequency": 1}
    flags |= {"learning-starts": WARMUP, "buffer-size": REPLAY["buffer_size"], "batch-size": 32}
    flags = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    sys.argv = [str(path), *flags, "--cuda" if options.device == "cuda" else "--no-cuda"]
    sys.path.insert(0, str(clone))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it writes its runs there
        exec(
            compile(script, str(path), "exec"),
            {"__name__": "__main__", "__file__": str(path), "make_env": make_env},
        )
    return {
        "steps_per_second": steps_per_second(clock, task),
        "matmul": matmul("mkl", options.device),
    }


def matmul(library: str, device: str) -> str:
    """The library of fp32 products: on a GPU cuBLAS, in TF32 or not."""
    if device == "cpu":
        return library
    has_tf32 = torch.cuda.get_device_capability() >= (8, 0)
    return "cublas TF32" if has_tf32 and torch.get_float32_matmul_precision() != "highest" else "cublas"


def steps_per_second(clock: list[tuple[int, float]], task: dict) -> float:
    """From (step, seconds) pairs; the first updates, which choose their kernels, do not count, nor
    what a peer plays past the last step."""
    first, last = task.get("first", WARMUP + task["steps"] // 10), WARMUP + task["steps"]
    measured = [(step, seconds) for step, seconds in clock if first <= step <= last]
    return (measured[-1][0] - measured[0][0]) / (measured[-1][1] - measured[0][1])


def available(contender: str, options: Options) -> bool:
    """Whether it is installed or cloned; and no bf16 on a GPU that has none, where it would be fp32 again."""
    if "bf16" in contender and options.device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if contender == "cleanrl":
        return options.cleanrl is not None
    modules = {"sb3": {"stable_baselines3"}, "sbx": {"sbx"}}.get(contender, set())
    installed = {name for name in (*modules, *JAX_ON_GPUS) if importlib.util.find_spec(name)}
    if contender == "sbx" and options.device == "cuda" and installed.isdisjoint(JAX_ON_GPUS):
        return False
    return modules <= installed


def run_child(task: str, contender: str, threads: int, options: Options) -> dict:
    flags = ["--child", contender, "--tasks", task, "--threads", str(threads), "--device", options.device]
    flags += ["--cleanrl", options.cleanrl] if options.cleanrl else []
    # JAX has no flag for its threads; the affinity of the process binds all alike.
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(
            "speed.py pins each contender to cores of its own, which this system cannot do: run it on Linux."
        )
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "JAX_PLATFORMS": options.device,
    }
    result = subprocess.run(
        [sys.executable, __file__, *flags],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    if result.returncode:
        last_words = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"{contender} failed on {task}: {last_words}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def main():
    options = tyro.cli(Options, description=__doc__)
    check_args(options)
    require(len(options.threads) > 0, "threads", options.threads, "at least one number")
    if options.child:
        measure = {"sb3": measure_peer, "sbx": measure_peer, "cleanrl": measure_cleanrl}.get(
            options.child, measure_ours
        )
        print(json.dumps(measure(TASKS[options.tasks[0]], options.child, options.threads[0], options)))
        return
    if options.cleanrl and not (Path(options.cleanrl) / "cleanrl" / "dqn_atari.py").is_file():
        raise InputError(
            f"--cleanrl {options.cleanrl} has no cleanrl/dqn_atari.py: it takes the folder of a clone of "
            "https://github.com/vwxyzjn/cleanrl."
        )
    machine = describe_machine(find_device(options.device))
    if options.csv:  # what cannot be written is told now, not after hours
        start_csv(Path(options.csv), [*machine, *COLUMNS])
    print(
        f"{machine['processor']} ({machine['kind']}), {machine['cores']} cores, {machine['gpu'] or 'no GPU'}"
    )
    for task in options.tasks:
        contenders = [contender for contender in TASKS[task]["contenders"] if available(contender, options)]
        for threads in options.threads:
            speeds = {contender: [] for contender in contenders}
            results = {}
            for _ in range(options.rounds):
                for contender in contenders:
                    results[contender] = run_child(task, contender, threads, options)
                    speeds[contender].append(results[contender]["steps_per_second"])
            print(f"\n{TASKS[task]['title']}, {threads} thread{'s' * (threads > 1)}\n")
            print("| | steps/s (median) | min - max | times sb3 |\n|---|---|---|---|")
            for contender, values in speeds.items():
                median = statistics.median(values)
                ratio = f"{median / statistics.median(speeds['sb3']):.2f}" if "sb3" in speeds else ""
                print(
                    f"| {contender} | {median:.1f} | {min(values):.1f} - {max(values):.1f} | {ratio} |",
                    flush=True,
                )
                measured = {
                    "contender": contender,
                    "median": round(median, 2),
                    "rounds": json.dumps([round(v, 2) for v in values]),
                }
                computed = {
                    "precision": "bf16" if "bf16" in contender else "fp32",
                    "matmul": results[contender]["matmul"],
                }
                if options.csv:
                    row = machine | {"task": task, "threads": threads} | computed | measured
                    append_csv(Path(options.csv), row)


if __name__ == "__main__":
    main()
