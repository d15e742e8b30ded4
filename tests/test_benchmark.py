"""Benchmarks: many runs stopped and started again, failures, reports rebuilt, policies exported."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, flags, having, load_benchmark, load_script, needs_results, survivors, train

from cleanrl_cc.common.arguments import preset_args
from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.evaluate import Options, evaluate

LONG = 6000  # steps of a run that is stopped at its first checkpoint, at step 1000
RESULTS = ROOT / "benchmark" / "results"
SETTINGS = {key: value for key, value in TINY.items() if key != "num_threads" and "sac_drq" in having(key)}
SETTINGS |= {"checkpoint_frequency": 1000, "updates_per_step": 0.02}


def tiny_commands(steps: int, seeds: int, **changes) -> str:
    """Lines for launch.py: sac_drq on Pendulum, a run per seed."""
    words = SETTINGS | {"total_timesteps": steps} | changes
    runs = [
        flags(words | {"seed": seed, "run_name": f"sac_drq/Pendulum-v1/seed-{seed}"})
        for seed in range(1, seeds + 1)
    ]
    return "\n".join(" ".join(["python", "cleanrl_cc/sac_drq.py", *run]) for run in runs)


def start_launcher(commands: str, runs_dir: Path, *more: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, ROOT / "benchmark" / "launch.py", "--runs-dir", str(runs_dir), *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, env=environment, start_new_session=True, **pipes)
    process.stdin.write(commands)
    process.stdin.close()
    process.stdin = None
    return process


def launch(commands: str, runs_dir: Path, *more: str) -> tuple[int, str]:
    process = start_launcher(commands, runs_dir, *more)
    stdout, stderr = process.communicate(timeout=600)
    return process.returncode, stdout + stderr


def wait_for(path: Path, process: subprocess.Popen):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def folders(runs_dir: Path, seeds: int) -> list[Path]:
    return [runs_dir / f"sac_drq/Pendulum-v1/seed-{seed}" for seed in range(1, seeds + 1)]


# --- launch.py ---


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_benchmark_goes_on_and_runs_nothing_twice(number, code, tmp_path):
    commands, (first, second) = tiny_commands(LONG, seeds=2), folders(tmp_path, 2)
    process = start_launcher(commands, tmp_path, "--workers", "1")
    wait_for(first / "last.pt", process)
    process.send_signal(number)
    process.communicate(timeout=600)
    assert (process.returncode, second.exists()) == (code, False)

    code, output = launch(commands, tmp_path, "--workers", "2")  # waits for an orphan that still saves
    assert (code, "2 finished" in output) == (0, True), output
    for folder, starts in ((first, 2), (second, 1)):
        assert load_checkpoint(folder)["evaluated"][0] == LONG
        assert len(json.loads((folder / "args.json").read_text())["commands"]) == starts
        assert [row["global_step"] for row in read_csv(folder / "evaluations.csv")] == [str(LONG)]

    code, output = launch(commands, tmp_path)
    assert (code, "2 skipped" in output) == (0, True), output
    assert len(json.loads((second / "args.json").read_text())["commands"]) == 1


def test_a_finished_run_can_grow(tmp_path):
    (folder,) = folders(tmp_path, 1)
    assert launch(tiny_commands(200, seeds=1), tmp_path)[0] == 0
    assert launch(tiny_commands(300, seeds=1), tmp_path)[0] == 0
    assert load_checkpoint(folder)["global_step"] == 300


def test_what_was_killed_before_its_first_checkpoint_starts_again(tmp_path):
    (folder,) = folders(tmp_path, 1)
    folder.mkdir(parents=True)
    (folder / "args.json").write_text("{}")
    code, output = launch(tiny_commands(200, seeds=1), tmp_path)
    assert (code, load_checkpoint(folder)["global_step"]) == (0, 200), output


def test_failures_are_reported_and_stop_no_other_run(tmp_path):
    commands = tiny_commands(200, seeds=2).replace("--env-id Pendulum-v1", "--env-id Pendulum-v7", 1)
    code, output = launch(commands, tmp_path)
    assert code == 1
    assert "Unknown environment 'Pendulum-v7'" in output and "1 failed" in output and "1 finished" in output
    damaged, whole = folders(tmp_path, 2)
    damaged.mkdir()
    (damaged / "last.pt").write_bytes(b"no checkpoint")
    code, output = launch(commands, tmp_path)
    assert (code, "is damaged" in output, "1 skipped" in output) == (1, True, True), output


@pytest.mark.parametrize(
    "commands", ["python cleanrl_cc/sac_drq.py", tiny_commands(9, 1) + "\n" + tiny_commands(9, 1)]
)
def test_runs_need_names_of_their_own(commands):
    with pytest.raises(InputError, match="--run-name of its own"):
        load_benchmark("launch").read_commands(commands)


@pytest.mark.parametrize(
    "script", sorted(path.name for path in ROOT.glob("benchmark/*.sh") if path.name != "common.sh")
)
def test_benchmark_scripts_list_runs_with_names_of_their_own(script):
    environment = os.environ | {"LIST": "1", "SEEDS": "4 5", "STEPS": "123", "FLAGS": "--num-envs 2"}
    listing = subprocess.run(
        ["bash", ROOT / "benchmark" / script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    commands = load_benchmark("launch").read_commands(listing)
    assert len(commands) >= 2 and len(commands) % 2 == 0
    assert all("--total-timesteps 123 --num-envs 2 --run-name" in command for command in commands)


def test_a_benchmark_script_stops_as_a_whole(tmp_path):
    words = " ".join(
        flags({key: value for key, value in SETTINGS.items() if key not in ("env_id", "total_timesteps")})
    )
    environment = os.environ | {
        "STEPS": str(LONG),
        "SEEDS": "1",
        "WORKERS": "1",
        "RUNS_DIR": str(tmp_path),
        "FLAGS": words,
    }
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        ["bash", ROOT / "benchmark/sac_drq.sh"],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    wait_for(tmp_path / "sac_drq/LunarLander-v3/seed-1/last.pt", process)
    process.terminate()
    process.communicate(timeout=600)
    assert (process.returncode, survivors(process)) == (130, [])
    assert 0 < load_checkpoint(tmp_path / "sac_drq/LunarLander-v3/seed-1")["global_step"] < LONG


def test_the_slurm_script_runs_one_line_of_the_list(tmp_path):
    code, output = launch(tiny_commands(100, seeds=2), tmp_path, "--engine", "slurm")
    assert (code, output.strip()) == (0, f"sbatch {tmp_path}/slurm.sh")
    assert "--array=1-2" in (tmp_path / "slurm.sh").read_text()
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "2", "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", tmp_path / "slurm.sh"], env=environment, check=True, timeout=600)
    first, second = folders(tmp_path, 2)
    assert (first.exists(), load_checkpoint(second)["global_step"]) == (False, 100)


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
        # one on each node; the third waits
        while len(running := list(tmp_path.glob("long-*-My-v0-seed-1"))) < 2:
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


def test_speed_is_measured_over_the_same_steps_for_all():
    speed = load_benchmark("speed")
    task = {"first": 1000, "steps": 3000 - speed.WARMUP}
    clock = [(step, step / 50) for step in range(0, 3001, 100)]
    # a rollout that no update follows
    beyond = [(step, 60 + (step - 3000) / 500) for step in range(3100, 4001, 100)]
    assert (
        speed.steps_per_second(clock, task)
        == speed.steps_per_second(clock + beyond, task)
        == pytest.approx(50)
    )


@needs_results
def test_a_peer_is_trained_and_evaluated_in_a_file_that_grows(tmp_path):
    peer_curve, file = load_benchmark("peer_curve"), tmp_path / "peers.csv"
    for seed in (1, 2):
        # random actions all along
        peer_curve.main(peer_curve.Options(csv=str(file), seed=seed, total_timesteps=10_000))
    rows = read_csv(file)
    assert [(row["seed"], row["global_step"]) for row in rows] == [("1", "10000"), ("2", "10000")]
    assert list(rows[0]) == list(read_csv(RESULTS / "td3-peers.csv")[0])


def test_speed_is_measured_with_networks_of_the_peers_width():
    for name, task in load_benchmark("speed").TASKS.items():
        if task["policy"] == "MlpPolicy":
            script = load_script(task["script"])
            preset = preset_args(script.Args, script.PRESETS, task["script_env"])
            peer_width = 64 if task["peer"] == "PPO" else 256  # Stable-Baselines3's and SBX's own
            assert task["ours"].get("hidden_dim", preset.hidden_dim) == peer_width, name


# --- report.py, collect.py, zoo.py ---


@needs_results
def test_the_report_rebuilt_is_the_one_committed(tmp_path):
    report = load_benchmark("report")
    readme = Path(shutil.copy(ROOT / "README.md", tmp_path))
    report.write_report(report.Options(out=tmp_path, readme=readme))
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes(), "run benchmark/report.py"
    assert (tmp_path / "benchmarks.md").read_bytes() == (ROOT / "docs" / "benchmarks.md").read_bytes(), (
        "run benchmark/report.py"
    )
    curves, committed = tmp_path / "assets" / "curves", ROOT / "docs" / "assets" / "curves"
    assert sorted(path.name for path in curves.iterdir()) == sorted(path.name for path in committed.iterdir())
    for curve in curves.iterdir():
        old = (committed / curve.name).read_bytes()
        if (
            re.search(rb"Matplotlib v[\d.]+", old)[0]
            == re.search(rb"Matplotlib v[\d.]+", curve.read_bytes())[0]
        ):
            assert curve.read_bytes() == old, f"run benchmark/report.py: {curve.name} differs"


def test_of_a_flag_given_twice_the_last_counts():
    assert (
        load_benchmark("launch").flag(
            "python a.py --total-timesteps 20000 --seed 1 --total-timesteps 500", "--total-timesteps"
        )
        == "500"
    )
    assert load_benchmark("launch").flag("python a.py --seed", "--seed") is None


def write_result(folder: Path, seed: int, returns: list[float], total_timesteps: int):
    """Of a run that was evaluated every 1,000 steps, each of which took 0.36 seconds."""
    folder.mkdir(parents=True)
    args = {"env_id": "My-v0", "obs": "auto", "seed": seed, "total_timesteps": total_timesteps}
    args |= {"precision": "fp32", "random_shift": False, "runs_dir": "/r"}
    machine = {"processor": "P", "cores": 2, "threads": 1, "gpu": None}
    description = {
        "algorithm": "sac_drq",
        "args": args,
        "commands": ["as typed"],
        "machine": machine,
        "versions": {"torch": "2"},
    }
    (folder / "args.json").write_text(json.dumps(description))
    rows = [f"{1000 * (i + 1)},{360 * (i + 1)},{value},1" for i, value in enumerate(returns)]
    (folder / "evaluations.csv").write_text(
        "\n".join(["global_step,seconds,return_mean,return_std", *rows]) + "\n"
    )


def written_report(folder: Path) -> str:
    """The page of the results in `folder / "results"`."""
    report = load_benchmark("report")
    report.write_report(report.Options(results=folder / "results", out=folder / "docs", readme=None))
    return (folder / "docs" / "benchmarks.md").read_text()


def test_the_report_means_over_seeds(tmp_path):
    for seed, returns in {1: [0, 100, 50], 2: [10, 200, 150], 3: [20, 300, 250]}.items():
        folder = tmp_path / "results" / "ablation-x" / "My-v0" / f"seed-{seed}"
        write_result(folder, seed, returns, total_timesteps=3000)
        (folder / "episodes-3000.json").write_text(
            json.dumps({"global_step": 3000, "return_mean": 7, "episodes": [0] * 20})
        )
    page = written_report(tmp_path)
    assert (
        "python cleanrl_cc/sac_drq.py --env-id My-v0 --seed 1 --total-timesteps 3000 --no-random-shift\n"
        in page
    )
    table = page.split("## Ablation: My-v0 from state")[1].split("## ")[0]
    assert (
        "| x | 3 | 3,000 | 150 [50, 250] | 200 [100, 300] | 7.0 [7.0, 7.0] (20 episodes) | - | 0.3 |" in table
    )
    missing = "DDPG, PPO, SAC, TD3, PPO (constant rate), PPO (linear)"
    assert f"| LunarLander-v3 from state | {missing} |" in page.split("## Not yet run")[1]


def test_of_seeds_that_were_stopped_the_report_says_how_far_each_extreme_came(tmp_path):
    for seed, returns in {1: [10, 20], 2: [20, 30, 40, 50], 3: [30, 40, 60]}.items():
        write_result(
            tmp_path / "results" / "sac_drq" / "My-v0" / f"seed-{seed}", seed, returns, total_timesteps=9000
        )
    page = written_report(tmp_path)
    assert "| SAC | 3 | 2,000 to 4,000 of 9,000 | 43 [20, 60] | 43 [20, 60] | - | - | 0.3 |" in page
    assert "| My-v0 from state |  | - (2k to 4k of 9k) |" in page


def test_an_interval_covers_what_it_should():
    interval, rng = load_benchmark("report").interval, np.random.default_rng(1)
    covered = [low < 0 < high for low, high in (interval(rng.normal(size=20)) for _ in range(50))]
    assert 0.86 < np.mean(covered) < 1


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "python /home/me/cleanrl_cc/cleanrl_cc/td3.py --runs-dir /data/runs/x",
            "python cleanrl_cc/td3.py --runs-dir runs/x",
        ),
        (
            '{"resume": "/data/elsewhere/seed-1", "env_id": "dm_control/a"}',
            '{"resume": "seed-1", "env_id": "dm_control/a"}',
        ),
        (
            "python cleanrl_cc/td3.py --run-name td3/a/seed-1",
            "python cleanrl_cc/td3.py --run-name td3/a/seed-1",
        ),
    ],
)
def test_paths_of_this_machine_are_left_out(text, expected):
    assert load_benchmark("collect").without_machine_paths(text) == expected


def test_no_committed_result_names_a_machine_path():
    for path in RESULTS.rglob("*.json"):
        assert load_benchmark("collect").without_machine_paths(path.read_text()) == path.read_text(), path


def test_a_run_is_collected_and_its_exported_policy_scores_the_same(tmp_path):
    folder = tmp_path / "runs" / "ablation-a" / "LunarLander-v3" / "seed-7"
    changes = {"env_id": "LunarLander-v3", "seed": 7, "eval_frequency": 150, "runs_dir": tmp_path / "runs"}
    train("sac_drq", folder, **changes, run_name="ablation-a/LunarLander-v3/seed-7")
    collect, zoo = load_benchmark("collect"), load_benchmark("zoo")
    target = collect.collect(folder, collect.Options((folder,), episodes=2, results=tmp_path / "results"))
    assert target == tmp_path / "results" / "ablation-a" / "LunarLander-v3" / "seed-7"
    assert str(tmp_path) not in "".join(path.read_text() for path in target.iterdir())
    best = load_checkpoint(folder / "best.pt")
    scores = {path.name: json.loads(path.read_text()) for path in target.glob("episodes-*.json")}
    assert set(scores) == {f"episodes-{best['global_step']}.json", "episodes-300.json"}
    variant = collect.collect(
        folder, collect.Options((folder,), name="sac_drq-b", results=tmp_path / "results")
    )
    assert variant == tmp_path / "results" / "sac_drq-b" / "LunarLander-v3" / "seed-7"

    options = zoo.Options(episodes=2, zoo=tmp_path / "zoo", table=tmp_path / "zoo.md")
    zoo.export(best, options)
    zoo.write_table(options)
    exported = load_checkpoint(tmp_path / "zoo" / "sac_drq-LunarLander-v3.pt")
    assert set(exported) == {"algorithm", "args", "recipe", "global_step", "agent"}
    assert str(tmp_path) not in repr(exported)
    score = evaluate(
        Options(checkpoint=str(tmp_path / "zoo" / "sac_drq-LunarLander-v3.pt"), episodes=2, device="cpu")
    )
    assert score["episodes"] == scores[f"episodes-{best['global_step']}.json"]["episodes"]
    assert f"| {score['return_mean']:,.1f} |" in (tmp_path / "zoo.md").read_text()


@pytest.mark.parametrize("script", ["td3", "dqn_atari_style", "rainbow"])
def test_an_exported_policy_has_no_target_network_of_its_own_and_half_precision_where_it_is_large(
    script, monkeypatch, tmp_path
):
    zoo, folder = load_benchmark("zoo"), tmp_path / "run"
    env_id = "LunarLander-v3" if script == "td3" else "CartPole-v1"
    train(script, folder, env_id=env_id, eval_frequency=150, runs_dir=tmp_path)
    checkpoint = load_checkpoint(folder / "best.pt")
    options = zoo.Options(episodes=1, zoo=tmp_path / "zoo", table=tmp_path / "zoo.md")
    for most in (8e6, 0):
        monkeypatch.setattr(zoo, "MAX_BYTES", most)
        zoo.export(checkpoint, options)
        (file,) = options.zoo.glob("*.pt")
        weights = load_checkpoint(file)["agent"]
        assert set(weights) == set(checkpoint["agent"])
        twins = {name for name in weights if "_target." in name}
        online = {weight.data_ptr() for name, weight in weights.items() if name not in twins}
        assert twins and {weights[name].data_ptr() for name in twins} <= online
        assert {weight.dtype for weight in weights.values()} == {torch.float32 if most else torch.float16}


def test_scores_stay_with_the_run_that_they_are_of(tmp_path):
    collect, run = load_benchmark("collect"), tmp_path / "run"
    options = collect.Options((run,), results=tmp_path / "results")
    run.mkdir()
    (run / "args.json").write_text(
        json.dumps({"algorithm": "td3", "args": {"env_id": "My-v0", "seed": 1, "run_name": None}})
    )
    for evaluations, kept in [("1000,7\n", False), ("1000,7\n2000,8\n", True), ("1000,6\n2000,8\n", False)]:
        (run / "evaluations.csv").write_text("global_step,return_mean\n" + evaluations)
        target = collect.collect(run, options)
        assert (target / "episodes-1000.json").exists() == kept, (
            "a run that went on keeps its scores, another's are none of its"
        )
        (target / "episodes-1000.json").write_text("{}")


def test_policies_from_pixels_and_from_the_state_do_not_share_a_file():
    zoo, recipe = load_benchmark("zoo"), {"env_id": "dm_control/walker-walk-v0"}
    cells = [
        zoo.cell({"algorithm": "td3", "recipe": recipe | {"obs": obs}}) for obs in ("auto", "state", "pixels")
    ]
    assert cells == ["td3-dm_control-walker-walk-v0"] * 2 + ["td3-dm_control-walker-walk-v0-pixels"]


@needs_results
def test_the_zoo_is_small_and_its_table_is_generated(tmp_path):
    sizes = [path.stat().st_size for path in (ROOT / "zoo").glob("*.pt")]
    assert max(sizes) < 8e6 and sum(sizes) < 60e6
    assert sorted(path.stem for path in (ROOT / "zoo").glob("*.pt")) == sorted(
        path.stem for path in (ROOT / "zoo").glob("*.json")
    )
    zoo = load_benchmark("zoo")
    zoo.write_table(zoo.Options(table=tmp_path / "zoo.md"))
    assert (tmp_path / "zoo.md").read_bytes() == (ROOT / "docs" / "zoo.md").read_bytes(), (
        "run benchmark/zoo.py"
    )
