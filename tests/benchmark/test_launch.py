"""Many runs: stopped, begun again, waited for, moved aside and listed; here, by Slurm's script and on Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tyro
from helpers import (
    ROOT,
    TINY,
    Fork,
    contents,
    flags,
    having,
    load_benchmark,
    load_script,
    run_python,
    survivors,
)

from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.slow

LONG = 2000  # steps of a run that is stopped at its first checkpoint, at step 250
SETTINGS = {key: value for key, value in TINY.items() if key != "num_threads" and "sac_drq" in having(key)}
SETTINGS |= {"checkpoint_frequency": 250, "updates_per_step": 0.02}
SCRIPTS = sorted(
    path.name for path in ROOT.glob("benchmark/*.sh") if path.name not in ("common.sh", "gpu.sh")
)


def tiny_commands(steps: int, seeds: int) -> str:
    """Lines for launch.py: sac_drq on Pendulum, a run per seed."""
    lines = []
    for seed in range(1, seeds + 1):
        changes = {"total_timesteps": steps, "seed": seed, "run_name": f"sac_drq/Pendulum-v1/seed-{seed}"}
        lines.append(" ".join(["python", "cleanrl_cc/sac_drq.py", *flags(SETTINGS | changes)]))
    return "\n".join(lines)


def folders(runs_dir: Path, seeds: int) -> list[Path]:
    """Where the runs of `tiny_commands` go."""
    return [runs_dir / f"sac_drq/Pendulum-v1/seed-{seed}" for seed in range(1, seeds + 1)]


def start_launcher(commands: str, runs_dir: Path, *more: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, ROOT / "benchmark" / "launch.py", "--runs-dir", str(runs_dir), *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(words, env=environment, start_new_session=True, **pipes)
    process.stdin.write(commands)
    process.stdin.close()
    process.stdin = None
    return process


def fork_launcher(commands: str, runs_dir: Path, *more: str) -> Fork:
    """Saves the seconds of imports."""
    return Fork("launch", ["--runs-dir", runs_dir, *more], folder=ROOT / "benchmark", typed=commands)


def launch(commands: str, runs_dir: Path, *more: str) -> tuple[int, str]:
    """Exit code and output."""
    process = fork_launcher(commands, runs_dir, *more)
    output = "".join(process.communicate(timeout=600))
    return process.returncode, output


def list_runs(runs_dir: Path) -> list[str]:
    """State of every run that --list prints, and its last line."""
    code, output = launch("", runs_dir, "--list")
    assert code == 0, output
    _, *lines, summary = output.splitlines()
    return [line.split()[1] for line in lines] + [summary]


def wait_for(path: Path, process: subprocess.Popen | Fork):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_it_starts_at_once_and_takes_little_memory():
    code = f"import sys; sys.path.append({str(ROOT / 'benchmark')!r}); import launch; "
    done = run_python(code + "assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


# --- runs that stop and go on ---


def test_a_stopped_and_a_killed_benchmark_go_on_and_run_nothing_twice(tmp_path):
    commands, (first, second) = tiny_commands(LONG, seeds=2), folders(tmp_path, 2)
    for number, folder, code in ((signal.SIGINT, first, 130), (signal.SIGKILL, second, -9)):
        process = fork_launcher(commands, tmp_path, "--workers", "1")
        wait_for(folder / "last.pt", process)
        assert second.exists() == (folder == second)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == code
        is_told = (
            "Stopping: every run saves" in output and "2 stopped; the same command resumes them" in output
        )
        assert is_told == (number == signal.SIGINT), output

    code, output = launch(commands, tmp_path, "--workers", "2")  # waits for an orphan that still saves
    assert (code, "1 skipped, 1 finished" in output) == (0, True), output
    for folder in (first, second):
        assert load_checkpoint(folder)["evaluated"][0] == LONG
        assert len(json.loads((folder / "args.json").read_text())["commands"]) == 2
        assert [row["global_step"] for row in read_csv(folder / "evaluations.csv")] == [str(LONG)]

    code, output = launch(commands, tmp_path)
    assert (code, "2 skipped" in output) == (0, True), output
    assert len(json.loads((second / "args.json").read_text())["commands"]) == 2
    assert list_runs(tmp_path) == ["finished", "finished", "2 finished"]


def test_a_finished_run_can_grow_with_the_arguments_that_it_was_begun_with(tmp_path):
    (tmp_path / "of_mine.yaml").write_text("gamma: 0.9\n")
    config = f" --config {tmp_path}/of_mine.yaml"
    (folder,) = folders(tmp_path / "own", 1)
    own = {"runs_dir": tmp_path / "own", "run_name": folder.relative_to(tmp_path / "own")}
    begun = flags(SETTINGS | {"total_timesteps": 200, "seed": 1} | own) + config.split()
    module = load_script("sac_drq")
    module.train(module.parse_args(module.Args, module.PRESETS, [*begun, "--num-threads", "1"]))
    before = contents(folder)
    longer = f"{tiny_commands(300, seeds=1)} --runs_dir={tmp_path}/own"
    code, output = launch(longer + " --gamma 0.8", tmp_path / "general")
    assert (code, "--gamma is 0.9 in" in output) == (1, True), output
    assert contents(folder) == before
    assert launch(longer + config, tmp_path / "general")[0] == 0
    assert load_checkpoint(folder)["global_step"] == 300 and not (tmp_path / "general").exists()


def test_a_run_that_someone_started_by_hand_is_listed_and_waited_for(tmp_path):
    (folder,) = folders(tmp_path, 1)
    name = "sac_drq/Pendulum-v1/seed-1"
    changes = {"total_timesteps": 10**6, "run_name": name, "runs_dir": tmp_path}
    by_hand = Fork("sac_drq", flags(SETTINGS | changes))
    wait_for(folder / "args.json", by_hand)
    state, summary = list_runs(tmp_path)
    assert state == "running" and summary.startswith("1 running; memory: ")
    process = start_launcher(tiny_commands(LONG, seeds=1), tmp_path)
    assert process.stdout.readline() == f"{name} waits for process {by_hand.pid}, which still writes it.\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert (process.returncode, "1 stopped" in output, by_hand.poll()) == (130, True, None)
    os.kill(by_hand.pid, signal.SIGTERM)
    by_hand.communicate(timeout=600)
    assert by_hand.returncode == 143
    assert list_runs(tmp_path) == ["stopped", "1 stopped"]


def test_failures_are_reported_and_stop_no_other_run_not_even_one_that_begins_again(tmp_path):
    commands = tiny_commands(200, seeds=3).replace("--env-id Pendulum-v1", "--env-id Pendulum-v7", 1)
    damaged, precious, whole = folders(tmp_path, 3)
    precious.mkdir(parents=True)
    (precious / "best.pt").write_bytes(b"a policy")
    whole.mkdir()  # of a run that was killed before its first checkpoint
    (whole / "args.json").write_text("{}")
    code, output = launch(commands, tmp_path)
    assert code == 1
    assert "Unknown environment 'Pendulum-v7'" in output
    assert f"{precious} holds best.pt but no last.pt to go on from" in output
    assert "2 failed" in output and "1 finished" in output
    assert "begins again" in output and load_checkpoint(whole)["global_step"] == 200
    assert contents(whole.with_name("seed-3.stopped-1")) == {"args.json": b"{}"}
    damaged.mkdir()
    (damaged / "last.pt").write_bytes(b"no checkpoint")
    code, output = launch(commands, tmp_path)
    assert (code, "is damaged" in output, "1 skipped" in output) == (1, True, True), output
    assert contents(precious) == {"best.pt": b"a policy"}


# --- what is refused, and what a command may choose ---


@pytest.mark.parametrize("name", ["sac_drq", ".", "..", "sac_drq/Pendulum-v1/seed-1/inner"])
def test_no_other_run_is_touched(name, tmp_path):
    (folder,) = folders(tmp_path, 1)
    folder.mkdir(parents=True)
    for file in ("args.json", "last.pt", "best.pt"):
        (folder / file).write_text("of hours")
    before = contents(tmp_path)
    commands = "\n".join([tiny_commands(200, seeds=2), f"python cleanrl_cc/sac_drq.py --run-name {name}"])
    code, output = launch(commands, tmp_path)
    assert (code, len(output.splitlines()), contents(tmp_path)) == (1, 1, before), output
    assert output.startswith("--run-name sac_drq" if name[0] == "s" else f"--run-name {name} must be")


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--workers", "0"], "--workers must be at least 1, not 0."),
        (["--threads", "0"], "--threads must be at least 1, not 0."),
        (["--gpus", "-1"], "--gpus must be at least 0, not -1.0."),
        (["--list"], "There is no folder"),
        (["--list", "--runs-dir", str(ROOT / "docs")], "There is no run in"),
        ([], "There is no command on standard input"),
    ],
)
def test_bad_input_ends_in_one_sentence(words, reason, tmp_path):
    code, output = launch("", tmp_path / "missing", *words)
    assert (code, len(output.splitlines())) == (1, 1) and reason in output


def test_counts_are_typed_as_one_writes_them():
    options = tyro.cli(load_benchmark("launch").Options, args=["--workers", "1e1", "--threads", "1_000"])
    assert (options.workers, options.threads) == (10, 1000)


# --- signals ---

DEAF = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--runs-dir") + 1])
def save(number, frame):
    (folder / f"signal-{len(list(folder.glob('signal-*'))) + 1}").touch()
    if len(list(folder.glob("signal-*"))) == int(sys.argv[1]):
        sys.exit(143)
signal.signal(signal.SIGTERM, save)
(folder / "started").touch()
while True:
    time.sleep(0.05)
"""


@pytest.mark.parametrize("heeded, signals", [(1, 1), (2, 2), (9, 3)])
def test_ctrl_c_lets_runs_save_then_ends_them_then_kills_them(heeded, signals, tmp_path):
    (tmp_path / "deaf.py").write_text(DEAF)
    process = start_launcher(f"python {tmp_path}/deaf.py {heeded} --run-name a", tmp_path)
    wait_for(tmp_path / "started", process)
    for count in range(1, signals + 1):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)  # within a second of the first it means the same
        if count < 3:
            wait_for(tmp_path / f"signal-{count}", process)
            time.sleep(1.1)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, "1 stopped" in output, survivors(process)) == (130, True, [])
    assert len(list(tmp_path.glob("signal-*"))) == min(signals, 2)
    assert ("Ending every run at once." in output) == (signals > 1)


# --- the scripts that write lists ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmark_scripts_list_runs_with_names_of_their_own(script):
    environment = os.environ | {"LIST": "1", "SEEDS": "4 5", "STEPS": "123", "FLAGS": "--num-envs 2"}
    command = ["bash", ROOT / "benchmark" / script]
    listing = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    tasks = load_benchmark("tasks").read_tasks(listing, "runs")
    assert len(tasks) >= 2 and len(tasks) % 2 == 0
    assert all("--total-timesteps 123 --num-envs 2 --run-name" in task.command for task in tasks)


def test_a_benchmark_script_stops_as_a_whole(tmp_path):
    words = flags({key: value for key, value in SETTINGS.items() if key not in ("env_id", "total_timesteps")})
    environment = os.environ | {"STEPS": str(LONG), "SEEDS": "1", "WORKERS": "1", "FLAGS": " ".join(words)}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = ["bash", ROOT / "benchmark/sac_drq.sh"]
    pipes = {"stdout": subprocess.PIPE, "env": environment | {"RUNS_DIR": str(tmp_path)}}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    folder = tmp_path / "sac_drq/LunarLander-v3/seed-1"
    wait_for(folder / "last.pt", process)
    process.terminate()
    process.communicate(timeout=600)
    assert (process.returncode, survivors(process)) == (130, [])
    assert 0 < load_checkpoint(folder)["global_step"] < LONG


# --- clusters ---


def test_the_slurm_script_runs_one_line_of_its_own_list(tmp_path):
    # the line that is run has its own folder of runs
    lists = f"{tiny_commands(100, seeds=2)} --runs-dir {tmp_path}/own", tiny_commands(200, seeds=1)
    # another list, which may come while jobs of the first wait, and the first again
    for commands, name in ((lists[0], "slurm.sh"), (lists[1], "slurm-2.sh"), (lists[0], "slurm.sh")):
        code, output = launch(commands, tmp_path, "--engine", "slurm")
        assert (code, output.strip()) == (0, f"sbatch {tmp_path}/{name}")
    assert "--array=1-2" in (tmp_path / "slurm.sh").read_text()
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "2", "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", tmp_path / "slurm.sh"], env=environment, check=True, timeout=600)
    _, second = folders(tmp_path / "own", 2)
    assert load_checkpoint(second)["global_step"] == 100 and second.with_name("seed-2.log").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"slurm.sh", "slurm-2.sh", "own"}


STUB = """
import pathlib, signal, sys, time
words = sys.argv
name, folder = words[words.index("--run-name") + 1], words[words.index("--runs-dir") + 1]
file = pathlib.Path(folder, name.replace("/", "-"))
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), file.write_text("saved"), sys.exit(143)))
file.write_text("started")
if "short" not in name:
    time.sleep(3 if "bad" in name else 600)
sys.exit("bad" in name)
"""


def test_a_ray_cluster_of_two_nodes_runs_reports_and_stops(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is an optional engine: pip install -e '.[cluster]'")
    from ray.cluster_utils import Cluster

    (tmp_path / "stub.py").write_text(STUB)
    names = ("short", "bad", "long-1", "long-2", "long-3")
    commands = "\n".join(f"python {tmp_path}/stub.py --run-name {name}/My-v0/seed-1" for name in names)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default, which on a busy machine takes minutes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        process = start_launcher(commands, tmp_path, "--engine", "ray")
        deadline = time.monotonic() + 300
        while len(running := list(tmp_path.glob("long-*-My-v0-seed-1"))) < 2:  # one a node; the third waits
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    finally:
        cluster.shutdown()
    assert process.returncode == 130
    assert "short/My-v0/seed-1 finished" in output and "bad/My-v0/seed-1 failed with exit code 1" in output
    assert "1 finished, 1 failed, 3 stopped" in output
    assert sorted(tmp_path.glob("long-*-My-v0-seed-1")) == sorted(running)
    assert [path.read_text() for path in running] == ["saved", "saved"]
