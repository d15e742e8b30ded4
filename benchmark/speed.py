"""Measures ours and the peers side by side, on this machine, in one run, and prints a table.

    pip install -e ".[peers]"
    python benchmark/speed.py                      # every task, one thread
    python benchmark/speed.py --tasks state --threads 1 2 --rounds 3

A figure is environment steps per second of a whole training loop that makes one update per step: environment, policy, buffer and
update. Each measurement is a process of its own; the contenders take turns, round after round, so that a machine that slows down
slows all of them; the table has the median round. Nothing else should run meanwhile. Peers that are not installed are left out.
"""

import csv
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

import tyro

from cleanrl_cc.machine import describe_machine, find_device

TASKS = {
    "state": {"title": "SAC, HalfCheetah-v5, batch 256, 256x256", "contenders": ("cleanrl_cc", "sb3", "sbx"), "steps": 2000},
    # SB3's CnnPolicy sees one 96x96 RGB frame, ours four gray 84x84 frames through the same convolutions; "preset" halves their channels.
    "pixels": {
        "title": "SAC, CarRacing-v3, batch 256, one frame a step",
        "contenders": ("cleanrl_cc", "cleanrl_cc-preset", "sb3"),
        "steps": 40,
    },
}
WARMUP = 300  # random steps before the updates begin


@dataclass
class Options:
    tasks: tuple[Literal["state", "pixels"], ...] = ("state", "pixels")
    """what to measure"""
    threads: tuple[int, ...] = (1,)
    """torch threads, one table each"""
    rounds: int = 3
    """measurements of each contender"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of ours; the peers compute in fp32"""
    device: str = "cpu"
    """cpu or cuda"""
    csv: str | None = None
    """append the measurements to this file"""
    child: str | None = None
    """used by the program itself: measure this contender and print steps per second"""


def measure_ours(task: str, contender: str, threads: int, options: Options) -> float:
    from cleanrl_cc import runs, sac_drq

    steps = TASKS[task]["steps"]
    env_id = {"state": "HalfCheetah-v5", "pixels": "CarRacing-v3"}[task]
    args = runs.preset_args(sac_drq.Args, sac_drq.PRESETS, env_id)
    args.batch_size, args.updates_per_step, args.n_step, args.action_repeat, args.patience = 256, 1.0, 1, 1, 0
    args.buffer_size, args.learning_starts, args.total_timesteps = 20_000, WARMUP, WARMUP + steps
    args.num_threads, args.precision, args.device = threads, options.precision, options.device
    if contender == "cleanrl_cc":
        args.encoder_channels = 32
    args.eval_frequency, args.checkpoint_frequency, args.eval_episodes = 0, 0, 1
    times = {}
    original = runs.Run.show_progress

    def show_progress(run, global_step):  # called once per step: the clock of the loop
        times[global_step] = time.perf_counter()
        original(run, global_step)

    runs.Run.show_progress = show_progress
    runs.Run.evaluate = lambda *_: 0.0
    with tempfile.TemporaryDirectory() as folder:
        args.runs_dir = folder
        sac_drq.train(args)
    first = WARMUP + steps // 10  # the first updates choose their kernels
    return (WARMUP + steps - first) / (times[WARMUP + steps] - times[first])


def measure_peer(task: str, contender: str, threads: int, options: Options) -> float:
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(threads)
    if contender == "sbx":
        from sbx import SAC
    else:
        from stable_baselines3 import SAC
    steps = TASKS[task]["steps"]
    policy, env_id = {"state": ("MlpPolicy", "HalfCheetah-v5"), "pixels": ("CnnPolicy", "CarRacing-v3")}[task]
    times = {}

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            times[self.num_timesteps] = time.perf_counter()
            return True

    device = {} if contender == "sbx" else {"device": options.device}
    model = SAC(policy, env_id, batch_size=256, buffer_size=20_000, learning_starts=WARMUP, train_freq=1, gradient_steps=1, **device)
    model.learn(WARMUP + steps, callback=Clock())
    first = WARMUP + steps // 10
    return (WARMUP + steps - first) / (times[WARMUP + steps] - times[first])


def available(contender: str) -> bool:
    module = {"sb3": "stable_baselines3", "sbx": "sbx"}.get(contender)
    return module is None or importlib.util.find_spec(module) is not None


def run_child(task: str, contender: str, threads: int, options: Options) -> float:
    flags = ["--child", contender, "--tasks", task, "--threads", str(threads), "--precision", options.precision, "--device", options.device]
    # JAX has no flag for its threads; the affinity of the process binds all alike.
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "JAX_PLATFORMS": options.device}
    result = subprocess.run(
        [sys.executable, __file__, *flags],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    if result.returncode:
        raise SystemExit(f"{contender} failed on {task}:\n{result.stderr[-2000:]}")
    return float(result.stdout.strip().splitlines()[-1])


def main():
    options = tyro.cli(Options, description=__doc__)
    if options.child:
        measure = measure_ours if options.child.startswith("cleanrl_cc") else measure_peer
        print(measure(options.tasks[0], options.child, options.threads[0], options))
        return
    machine = describe_machine(find_device(options.device))
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}; ours in {options.precision}")
    rows = []
    for task in options.tasks:
        contenders = [contender for contender in TASKS[task]["contenders"] if available(contender)]
        for threads in options.threads:
            speeds = {contender: [] for contender in contenders}
            for _ in range(options.rounds):
                for contender in contenders:
                    speeds[contender].append(run_child(task, contender, threads, options))
            print(f"\n{TASKS[task]['title']}, {threads} thread{'s' * (threads > 1)}\n")
            print("| | steps/s (median) | min - max | times sb3 |\n|---|---|---|---|")
            for contender, values in speeds.items():
                median = statistics.median(values)
                ratio = f"{median / statistics.median(speeds['sb3']):.2f}" if "sb3" in speeds else ""
                print(f"| {contender} | {median:.1f} | {min(values):.1f} - {max(values):.1f} | {ratio} |", flush=True)
                measured = {"contender": contender, "median": round(median, 2), "rounds": json.dumps([round(v, 2) for v in values])}
                rows.append(machine | {"task": task, "threads": threads, "precision": options.precision} | measured)
    if options.csv:
        path = Path(options.csv)
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
