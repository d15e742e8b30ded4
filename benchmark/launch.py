"""Runs many commands of this project side by side: skips finished runs, resumes unfinished ones, reports failures.

    LIST=1 bash benchmark/td3.sh | python benchmark/launch.py --workers 4

Standard input holds a command per line, `python cleanrl_cc/<script>.py ... --run-name <name>/<environment>/seed-<seed>`. The run name is
the run's identity: `<runs-dir>/<run name>` is its folder, `<runs-dir>/<run name>.log` its output. Relative paths start at the
repository. Ctrl-C or SIGTERM stops all runs, which save; the same call goes on. The exit code is 1 if a run failed.
"""

import contextlib
import ctypes
import fcntl
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from cleanrl_cc.common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
STOPPING = threading.Event()
PRCTL = getattr(ctypes.CDLL(None), "prctl", lambda *_: None)  # found before a fork, where nothing may be loaded


@dataclass
class Options:
    runs_dir: str = "runs"
    """where the run folders go; with ray and slurm a folder that every machine sees, as the repository is"""
    workers: int | None = None
    """runs side by side on this machine; None: one per core"""
    threads: int = 1
    """torch threads of each run: one thread each is the fastest way to run seeds"""
    engine: Literal["local", "ray", "slurm"] = "local"
    """local: this machine; ray: the cluster of RAY_ADDRESS; slurm: write an array script for sbatch"""
    gpus: float = 0
    """of a ray or slurm machine, per run; with ray 0.25 lets four runs share one"""


# --- one run ---


def flag(command: str, name: str) -> str | None:
    """The value after a flag of a command; of several the last one, which is what the script takes."""
    return dict(itertools.pairwise(shlex.split(command))).get(name)


def next_command(command: str, folder: Path, options: Options) -> list[str] | None:
    """The command line that starts the run or goes on with it; None if it is finished: saved after its last evaluation."""
    script, *words = shlex.split(command)[1:]
    if (folder / "last.pt").exists():
        from cleanrl_cc.common.checkpoints import load_checkpoint  # brings torch, 200 MB in each of Ray's workers

        last, total = load_checkpoint(folder), flag(command, "--total-timesteps")
        if last["evaluated"][0] >= int(total or last["args"]["total_timesteps"]):
            return None
        grow = ["--total-timesteps", total] if total else []
        env_id = flag(command, "--env-id")
        typed = ["--env-id", env_id] if env_id else []  # it may name a module, which is imported only if it is typed
        return [sys.executable, script, "--resume", str(folder), *typed, *grow]
    shutil.rmtree(folder, ignore_errors=True)  # killed before its first checkpoint: there is nothing to go on with
    threads = [] if flag(command, "--num-threads") else ["--num-threads", str(options.threads)]
    return [sys.executable, script, *words, *threads, "--runs-dir", options.runs_dir]


def begin():
    """In the child: a session of its own, so that Ctrl-C reaches the launcher alone, which passes it on once; and SIGTERM, upon which a
    run saves, when the launcher dies, however it dies (Linux)."""
    os.setsid()
    PRCTL(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run(command: str, options: Options) -> tuple[str, str]:
    """Brings one run to its end. Returns its name and "finished", "skipped", "stopped" or what went wrong."""
    name = flag(command, "--run-name")
    folder = ROOT / options.runs_dir / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    log_path = folder.with_name(folder.name + ".log")
    with open(log_path, "a") as log:
        while not STOPPING.is_set():  # the lock is held by all who write here, the orphan of a killed launcher included
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.2)
        if STOPPING.is_set():
            return name, "stopped"
        try:
            words = next_command(command, folder, options)
        except InputError as error:
            return name, f"failed: {error}"
        if words is None:
            return name, "skipped"
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=begin)
        stopped = False
        try:
            while process.poll() is None and not stopped:
                stopped = STOPPING.wait(0.1)
        except KeyboardInterrupt:  # how Ray cancels
            stopped = True
        process.terminate()  # nothing happens if it has ended
        code = process.wait()
    if code and not stopped:
        return name, f"failed with exit code {code}; {log_path} ends with:\n" + "\n".join(log_path.read_text().splitlines()[-10:])
    return name, "stopped" if code else "finished"


# --- engines: each yields the result of every command as it comes ---


def run_locally(commands: list[str], options: Options):
    with ThreadPoolExecutor(options.workers or os.cpu_count()) as pool:
        for future in as_completed([pool.submit(run, command, options) for command in commands]):
            yield future.result()


def run_on_ray(commands: list[str], options: Options):
    try:
        import ray
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install -e ".[cluster]"') from error

    def work(folder: str, command: str, options: dict):  # Ray sends this function alone: the rest is imported where it runs
        sys.path.insert(0, folder)
        import launch

        return launch.run(command, launch.Options(**options))

    ray.init(logging_level="warning", log_to_driver=False)
    remote = ray.remote(num_cpus=options.threads, num_gpus=options.gpus, max_retries=0)(work)
    names = {remote.remote(str(ROOT / "benchmark"), command, asdict(options)): flag(command, "--run-name") for command in commands}
    waiting, cancelled = list(names), False
    while waiting:
        done, waiting = ray.wait(waiting, timeout=0.5)
        for reference in waiting if STOPPING.is_set() and not cancelled else ():
            cancelled = True
            ray.cancel(reference)
        for reference in done:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                yield names[reference], "stopped" if cancelled else f"failed: {error}"


def write_slurm_script(commands: list[str], options: Options):
    folder = (ROOT / options.runs_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.txt").write_text("\n".join(commands))
    (folder / "slurm.sh").write_text(f"""#!/usr/bin/env bash
#SBATCH --array=1-{len(commands)}
#SBATCH --cpus-per-task={options.threads}
#SBATCH --time=24:00:00
#SBATCH --gpus={options.gpus:g}
#SBATCH --signal=B:TERM@300
#SBATCH --output={folder}/slurm-%a.out
set -euo pipefail
command=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(f"{folder}/commands.txt")})
exec {shlex.quote(sys.executable)} {shlex.quote(f"{ROOT}/benchmark/launch.py")} --workers 1 --threads {options.threads} \\
  --runs-dir {shlex.quote(str(folder))} <<< "$command"
""")
    print(f"sbatch {folder / 'slurm.sh'}")


# --- the command line ---


def read_commands(text: str) -> list[str]:
    commands = [line.strip() for line in text.splitlines() if line.strip()]
    names = {flag(command, "--run-name") for command in commands}
    if None in names or len(names) < len(commands):
        raise InputError("Each line must be a command with a --run-name of its own.")
    return commands


def main():
    options = tyro.cli(Options, description=__doc__)
    commands = read_commands(sys.stdin.read())
    if options.engine == "slurm":
        return write_slurm_script(commands, options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: STOPPING.set())
    outcomes = []
    for name, outcome in {"local": run_locally, "ray": run_on_ray}[options.engine](commands, options):
        outcomes.append(outcome.split()[0].rstrip(":"))
        print(f"{len(outcomes)} of {len(commands)}: {name} {outcome}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes).items()) + "; the same call goes on" * STOPPING.is_set())
    raise SystemExit(130 if STOPPING.is_set() else int("failed" in outcomes))


if __name__ == "__main__":
    main()
