"""Runs many commands side by side: skips finished runs, resumes unfinished ones, reports failures.

    LIST=1 bash benchmark/td3.sh | python benchmark/launch.py --workers 4
    python benchmark/launch.py --list

Standard input holds a command per line, `python cleanrl_cc/<script>.py ... --run-name <name>/<task>/seed-1`.
`<runs-dir>/<run name>` is the run's folder and identity, `<runs-dir>/<run name>.log` its output. Relative
paths start at the repository. Ctrl-C or SIGTERM stops all runs, which save; the same command resumes them,
and a line that then asks an unfinished run for other arguments fails. A run that was killed before its first
checkpoint begins again; what it left is not deleted, but renamed to `<run name>.stopped-1`. The exit code is
1 if a run failed.
"""

import ctypes
import fcntl
import itertools
import math
import os
import queue
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from overview import Board, all_processes, log_file, memory, read_runs, table, writers
from tasks import ROOT, Task, flag, read_task, read_tasks, words_without

from cleanrl_cc.common.errors import InputError, require
from cleanrl_cc.common.files import move_aside, writing
from cleanrl_cc.common.ranges import Whole

PRCTL = getattr(ctypes.CDLL(None), "prctl", lambda *_: None)  # loaded here: after a fork nothing may be
STOPPED = {130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL}  # exit codes after a signal

stops = []  # when Ctrl-C or SIGTERM came: at the first, runs save and end; at the second, they end at once
news = queue.SimpleQueue()  # sentences for the user, from the threads of the runs
STOP_SENTENCES = [
    "Stopping: every run saves and ends. Ctrl-C again ends them at once, without saving.",
    "Ending every run at once.",
]


@dataclass
class Options:
    list: bool = False
    """print the runs below --runs-dir with state, step, scores, memory and size, and start nothing"""
    runs_dir: str = "runs"
    """where the run folders go; with ray and slurm a folder that every machine sees, as the repository is"""
    workers: Whole | None = None
    """runs side by side on this machine; None: one per core"""
    threads: Whole = 1
    """torch threads of each run: one thread each is the fastest way to run seeds"""
    engine: Literal["local", "ray", "slurm"] = "local"
    """local: this machine; ray: the cluster of RAY_ADDRESS; slurm: write an array script for sbatch"""
    gpus: float = 0
    """GPUs of a ray or slurm machine for each run; with ray 0.25 lets four runs share one"""


# --- one run ---


def next_command(task: Task, options: Options) -> list[str] | None:
    """What starts the run or goes on with it; None if it is finished: saved after its last evaluation."""
    if (task.folder / "last.pt").exists():
        from cleanrl_cc.common.checkpoints import load_checkpoint  # brings torch: 200 MB for each run on Ray

        last = load_checkpoint(task.folder)
        if last.get("evaluated", [-1])[0] >= (task.total or last["args"]["total_timesteps"]):
            return None
        typed = words_without(task.flags, "run-name", "runs-dir")  # which the script compares with the run's
        return [sys.executable, *task.script, "--resume", str(task.folder), *typed]
    if os.path.lexists(task.folder):
        aside = move_aside(task.folder)
        news.put(f"{task.name} begins again, for it has no checkpoint; what was there is now {aside}.")
    threads = [] if flag(task.flags, "num-threads") else ["--num-threads", str(options.threads)]
    place = [] if flag(task.flags, "runs-dir") else ["--runs-dir", options.runs_dir]
    return [sys.executable, *task.script, *task.flags, *threads, *place]


def occupant(task: Task, log) -> str | None:
    """Who else writes the run. None: nobody, and no other launcher will until all have closed `log`."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        others = writers(task.folder, all_processes(), of_log=False)
    except BlockingIOError:
        others = [process for process in writers(task.folder, all_processes()) if process.pid != os.getpid()]
        if not others:
            return "another launcher"
    return f"process {min(process.pid for process in others)}" if others else None


def begin():
    """In the child: a session of its own, so that Ctrl-C reaches the launcher alone, which passes it on; and
    SIGTERM, upon which a run saves, when the launcher dies, however it dies (Linux)."""
    os.setsid()
    PRCTL(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def start(task: Task, options: Options) -> str | None:
    """Starts `task.process` as soon as nobody else writes the run. Else returns "skipped" or "stopped"."""
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    with open(log_file(task.folder), "a") as log:
        told = None
        while other := occupant(task, log):
            if other != told:
                news.put(f"{task.name} waits for {other}, which still writes it.")
                told = other
            for _ in range(10):
                if stops:
                    return "stopped"
                time.sleep(0.1)
        if stops:
            return "stopped"
        words = next_command(task, options)
        if words is None:
            return "skipped"
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        task.process = subprocess.Popen(words, cwd=ROOT, env=environment, preexec_fn=begin, **pipes)
    return None


def run(task: Task, options: Options) -> str:
    """Brings one run to its end. Returns "finished", "skipped", "stopped" or what went wrong."""
    try:
        outcome = start(task, options)
    except InputError as error:
        return f"failed: {error}"
    except Exception as error:  # whatever a folder holds, the other runs go on
        return f"failed: {type(error).__name__}: {error}"
    if outcome:
        return outcome
    process, passed_on = task.process, 0
    while process.poll() is None:
        if passed_on < len(stops):
            passed_on += 1
            if passed_on < 3:
                process.terminate()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:  # how Ray cancels
            stops.append(time.monotonic())
    task.process, code = None, process.returncode
    if code == 0:
        return "finished"
    if passed_on and code in STOPPED:
        return "stopped"
    log = log_file(task.folder)
    lines = log.read_text(errors="replace").splitlines()[-10:]
    kill = ", as if the system had killed it for want of memory" if code == -signal.SIGKILL else ""
    return "\n".join([f"failed with exit code {code}{kill}; {log} ends with:", *lines])


def run_command(command: str, options: Options) -> str:
    return run(read_task(command, options.runs_dir), options)


# --- engines: each yields, twice a second, the tasks that have ended meanwhile, with their outcome ---


def run_locally(tasks: list[Task], options: Options):
    with ThreadPoolExecutor(options.workers or os.cpu_count()) as pool:
        futures = {pool.submit(run, task, options): task for task in tasks}
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            yield [(futures[future], future.result()) for future in done]


def run_on_ray(tasks: list[Task], options: Options):
    try:
        import ray
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install -e ".[cluster]"') from error

    def work(folder: str, command: str, options: dict):  # Ray sends this alone and imports the rest
        sys.path.insert(0, folder)
        import launch

        return launch.run_command(command, launch.Options(**options))

    ray.init(logging_level="warning", log_to_driver=False)
    remote = ray.remote(num_cpus=options.threads, num_gpus=options.gpus, max_retries=0)(work)
    folder, settings = str(ROOT / "benchmark"), asdict(options)
    references = {remote.remote(folder, task.command, settings): task for task in tasks}
    waiting, cancelled = list(references), False
    while waiting:
        done, waiting = ray.wait(waiting, timeout=0.5)
        for reference in waiting if stops and not cancelled else ():
            cancelled = True
            ray.cancel(reference)
        ended = []
        for reference in done:
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                outcome = "stopped" if cancelled else f"failed: {error}"
            ended.append((references[reference], outcome))
        yield ended


def write_slurm_script(tasks: list[Task], options: Options):
    """Every list has a script of its own, which holds the commands: jobs of an earlier one may still wait."""
    folder = (ROOT / options.runs_dir).resolve()
    commands = "\n".join(f"  {shlex.quote(task.command)}" for task in tasks)
    text = f"""#!/usr/bin/env bash
#SBATCH --array=1-{len(tasks)}
#SBATCH --cpus-per-task={options.threads}
#SBATCH --time=24:00:00
#SBATCH --gpus={options.gpus:g}
#SBATCH --signal=B:TERM@300
#SBATCH --output={folder}/slurm-%A_%a.out
set -euo pipefail
commands=(
{commands}
)
exec {shlex.quote(sys.executable)} {shlex.quote(f"{ROOT}/benchmark/launch.py")} --workers 1 \\
  --threads {options.threads} --runs-dir {shlex.quote(str(folder))} <<< "${{commands[SLURM_ARRAY_TASK_ID - 1]}}"
"""
    names = itertools.chain(["slurm.sh"], (f"slurm-{number}.sh" for number in itertools.count(2)))
    files = (folder / name for name in names)
    file = next(file for file in files if not file.exists() or file.read_text() == text)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    print(f"sbatch {file}")


# --- the command line ---


def request_stop(*_):
    if not stops or time.monotonic() - stops[-1] > 1:  # `timeout` and others send one signal twice
        stops.append(time.monotonic())


def watch(tasks: list[Task], engine) -> list[str]:
    """Shows what happens while an engine works. Returns the first word of each outcome."""
    board, outcomes, told = Board(), [], 0
    for ended in engine:
        lines = []
        for task, outcome in ended:
            outcomes.append(outcome.split()[0].rstrip(":"))
            lines.append(f"{len(outcomes)} of {len(tasks)}: {task.name} {outcome}")
        while not news.empty():
            lines.append(news.get())
        lines += STOP_SENTENCES[told : len(stops)]
        told = len(stops)
        running = [(task.name, task.folder, process.pid) for task in tasks if (process := task.process)]
        state = "stopping" if stops else "running"
        board.show(lines, running, f"{len(outcomes)} of {len(tasks)} done", state)
    board.clear()
    return outcomes


def print_list(runs_dir: Path):
    if not runs_dir.is_dir():
        raise InputError(f"There is no folder {runs_dir}: --runs-dir names another.")
    runs = read_runs(runs_dir)
    if not runs:
        raise InputError(f"There is no run in {runs_dir}: --runs-dir names another folder.")
    print("\n".join(table(runs)), flush=True)
    states = Counter(status.state for _, status in runs)
    print(", ".join(f"{count} {state}" for state, count in states.items()) + memory(runs))


def main():
    options = tyro.cli(Options, description=__doc__)
    require(options.workers is None or options.workers >= 1, "workers", options.workers, "at least 1")
    require(options.threads >= 1, "threads", options.threads, "at least 1")
    require(0 <= options.gpus < math.inf, "gpus", options.gpus, "at least 0")
    require(options.runs_dir.strip() != "", "runs_dir", options.runs_dir, "a folder")
    if options.list:
        return print_list(ROOT / options.runs_dir)
    if sys.stdin.isatty():
        raise InputError("Commands come by a pipe: LIST=1 bash benchmark/td3.sh | python benchmark/launch.py")
    tasks = read_tasks(sys.stdin.buffer.read().decode(errors="surrogateescape"), options.runs_dir)
    if options.engine == "slurm":
        return write_slurm_script(tasks, options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    outcomes = watch(tasks, {"local": run_locally, "ray": run_on_ray}[options.engine](tasks, options))
    counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes).items())
    print(counts + "; the same command resumes them" * bool(stops))
    raise SystemExit(130 if stops else int("failed" in outcomes))


if __name__ == "__main__":
    main()
